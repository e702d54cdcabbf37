"""Shows the demo: live bars on a terminal, plain lines in a pipe. Imports rich."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from countermand.cli.demo.board import Board, Line
from countermand.cli.demo.proof import DIGITS, Entry, Listing
from countermand.drawing import phrases, terminal
from countermand.drawing.model import Timeline
from countermand.drawing.words import STYLES, attempt_look
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.workflow_pb2 import WatchWorkflowResponse

BAR_MIN: Final = 8
BAR_MAX: Final = 32
WORDS: Final = 44  # beside the bar: host, percent, rate and time left
REFRESH_HZ: Final = 10


class Screen:
    """The console of one demo."""

    def __init__(self, console: Console) -> None:
        """Keeps the console."""
        self.console = console

    def title(self, words: str) -> None:
        """Begins a part of the story."""
        self.console.print()
        self.console.print(Text(words, "bold"))

    def say(self, words: str, style: str = "") -> None:
        """Prints a sentence."""
        self.console.print(Text(f"  {words}", style), soft_wrap=True)

    def fact(self, label: str, words: str) -> None:
        """Prints something by its name."""
        self.console.print(Text.assemble((f"  {label:<12}", "dim"), words), soft_wrap=True)

    def check(self, holds: bool, words: str) -> None:
        """Prints whether something holds."""
        glyph, style = ("✓", STYLES["good"]) if holds else ("✗", STYLES["bad"])
        self.console.print(Text.assemble((f"  {glyph} ", f"bold {style}"), words), soft_wrap=True)

    def command(self, words: str) -> None:
        """Prints a command to try, on one line that can be copied."""
        self.console.print(Text(f"    {words}"), soft_wrap=True)

    @contextlib.contextmanager
    def busy(self, words: str) -> Iterator[None]:
        """Shows that something takes a moment."""
        if not self.console.is_terminal:
            yield
            return
        with self.console.status(words):
            yield

    async def follow(
        self, board: Board, updates: AsyncIterator[WatchWorkflowResponse]
    ) -> AsyncIterator[WatchWorkflowResponse]:
        """Shows updates as they come, and hands each on."""
        if not self.console.is_terminal:
            async for update in updates:
                for words in board.apply(update):
                    self.say(words)
                yield update
            return
        picture = _Picture(board, self.console)
        with Live(picture, console=self.console, refresh_per_second=REFRESH_HZ):
            async for update in updates:
                for _ in board.apply(update):
                    pass  # the picture shows it
                yield update

    def timeline(self, timeline: Timeline) -> None:
        """Draws a timeline."""
        self.console.print()
        terminal.draw(timeline, self.console)

    def listings(self, before: Listing, after: Listing, *, where: str = "in the pools") -> None:
        """Prints what was there before and after, side by side."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        table.add_column(f"    {where}", no_wrap=True, overflow="ellipsis")
        table.add_column("on disk", no_wrap=True, justify="right", min_width=8)
        for head in ("before", "after"):
            table.add_column(head, no_wrap=True, min_width=DIGITS)
        olds, news = ({entry.path: entry for entry in each.files} for each in (before, after))
        for path in sorted(olds.keys() | news.keys()):
            table.add_row(*_compared(path, olds.get(path), news.get(path)))
        self.console.print(table)


class _Picture:
    """The live part: drawn anew at each refresh."""

    def __init__(self, board: Board, console: Console) -> None:
        self._board = board
        self._name = max(map(len, board.actions), default=0)
        self._bar_width = min(max(console.width - self._name - WORDS, BAR_MIN), BAR_MAX)

    def __rich__(self) -> RenderableType:
        board = self._board
        rows = [self._action(line) for line in board.actions.values()]
        if board.lane:
            rows.append(Text("  ── compensation ──", STYLES["made_up"]))
            rows += [self._compensation(line) for line in board.lane.values()]
        rows.append(Text.assemble("  ", (str(board.look), f"bold {board.look.colour}")))
        return Group(*rows)

    def _action(self, line: Line) -> Text:
        text = self._head(line)
        full = line.look.glyph == "✓"
        if full or line.progress.total:
            share = 1.0 if full else line.share
            filled = int(share * self._bar_width)
            text.append("━" * filled, line.look.colour)
            text.append("─" * (self._bar_width - filled), "dim")
            text.append(f" {share:>4.0%}  ")
        return text.append(line.words or line.pace)

    def _compensation(self, line: Line) -> Text:
        return self._head(line).append(": ".join(filter(None, (line.phrase, line.words))))

    def _head(self, line: Line) -> Text:
        """Returns the beginning of a line; it ends where the terminal does."""
        name = f" {line.task_id:<{self._name}}  "
        head = Text.assemble("  ", (line.look.glyph, line.look.colour), name, (line.host_id, "dim"))
        head.no_wrap, head.overflow = True, "ellipsis"
        return head.append("  ")


def _compared(path: str, old: Entry | None, new: Entry | None) -> tuple[str | Text, ...]:
    entry = new or old
    assert entry is not None, path
    look = attempt_look(Attempt.STATE_SUCCEEDED if old == new else Attempt.STATE_FAILED)
    name = Text.assemble("  ", (look.glyph, look.colour), f" {path}")
    size = phrases.size(entry.allocated_bytes)
    return (name, size, old.short if old else "-", new.short if new else "-")
