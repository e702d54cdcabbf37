"""Draws a timeline in a terminal: as wide as it is, readable without colour, and when piped.

Every distinction is a glyph or a word; colour repeats it. Importing this imports rich: import it
where something is drawn, not at the top of a command.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from rich.console import Console
from rich.text import Text

from countermand.drawing import captions, phrases
from countermand.drawing.model import PAUSES, Bar, Fact, LaneRow, Row, Segment, Timeline, Wait
from countermand.drawing.scale import Scale, scale, ticks
from countermand.drawing.words import STYLES, Tone, attempt_look, task_look, workflow_look
from countermand.v1.attempt_pb2 import Attempt

ACTION, STOPPING, UNKNOWN, WAIT, COMPENSATION = "━", "╌", "?", "░", "╍"
FAILURE_LINE, RESTART_LINE = "╎", "┊"
PAUSED_LINE = "╌"
GLYPH_ROOM = 2  # columns, with a glyph between two ends
PLOT_MIN: Final = 24  # columns; below it the words beside the bars give way
WORDS_MAX: Final = 28
NAME_MAX: Final = 26
WIDTH_MAX: Final = 132  # beyond it the eye loses the row


@dataclass(slots=True)
class _Strip:
    """One row of the plot: a glyph and a style per column."""

    width: int
    cells: dict[int, tuple[str, str]] = field(default_factory=dict)

    def put(self, column: int, text: str, style: str) -> None:
        """Writes over what is there."""
        for offset, glyph in enumerate(text):
            if 0 <= column + offset < self.width:
                self.cells[column + offset] = (glyph, style)

    def text(self) -> Text:
        """Returns the row with its gaps filled."""
        line = Text()
        for column in range(self.width):
            line.append(*self.cells.get(column, (" ", "")))
        return line


@dataclass(frozen=True, slots=True)
class _Page:
    """The measures of one drawing."""

    timeline: Timeline
    scale: Scale
    name: int
    host: int
    plot: int
    words: int

    @property
    def left(self) -> int:
        """Returns the column of the terminal at which the plot begins."""
        return self.name + self.host + 3

    def column(self, time_s: float) -> int:
        """Returns the column of a time."""
        return min(round(self.scale(time_s) * (self.plot - 1)), self.plot - 1)

    def line(self, name: Text, host: str, strip: _Strip, words: Text | None = None) -> Text:
        """Returns one whole line."""
        name.truncate(self.name, overflow="ellipsis", pad=True)
        line = Text.assemble(name, " ", (f"{phrases.clip(host, self.host):<{self.host}}", "dim"))
        line.append("  ").append_text(strip.text())
        if self.words and words:
            words.truncate(self.words, overflow="ellipsis")
            line.append("  ").append_text(words)
        line.rstrip()
        return line


def draw(timeline: Timeline, console: Console) -> None:
    """Prints a timeline, its end first."""
    page = _measure(timeline, min(console.width, WIDTH_MAX) - 2)
    lines = [_ticks(page), _phases(page), *(_row(page, row) for row in timeline.rows)]
    if timeline.lane:
        lines += [_divider(page), *(_lane_row(page, row) for row in timeline.lane)]
    lines += [Text(), *_markers(page), _legend(page)]
    width = max(console.width - 2, 1)
    for text in (*banner(timeline), Text(), *lines):
        for line in text.wrap(console, width):  # by itself, so that nothing is padded
            line.rstrip()
            console.print(Text(" ") + line if line else line, highlight=False, soft_wrap=True)


def banner(timeline: Timeline) -> list[Text]:
    """Returns how it ended: the state, what it is about, and the sentence."""
    look = captions.verdict_look(timeline)
    title = Text.assemble(
        (f" {look.glyph} {look.word.upper()} ", f"bold reverse {look.colour}"),
        ("  ", ""),
        (captions.heading(timeline), "bold"),
    )
    lines = [title, Text(timeline.verdict.sentence)]
    left = timeline.verdict.left
    lines += [Text(_left(fact), "red") for fact in left]
    return lines


def _left(fact: Fact) -> str:
    """Returns what is left, and of which task if the words do not say so."""
    of = "" if fact.task_id in fact.words.split() else f" ({fact.task_id})"
    return f"left{fact.where}: {fact.words}{of}"


def _measure(timeline: Timeline, width: int) -> _Page:
    names = [row.depth * 2 + len(row.task_id) + 2 for row in timeline.rows] or [8]
    name = min(max(*names, 14), NAME_MAX, max(width // 3, 10))
    places = (*timeline.hosts, *(row.where for row in timeline.rows))
    host = min(max((len(place) for place in places), default=0), max(width // 7, 6))
    said = [len(str(captions.of_row(row))) for row in timeline.rows]
    said += [len(str(captions.of_lane_row(row))) for row in timeline.lane]
    words = min(max(said, default=0), WORDS_MAX)
    plot = width - name - host - words - 5
    if plot < PLOT_MIN:
        plot, words = max(plot + words + 2, 8), 0
    return _Page(timeline, scale(timeline), name, host, plot, words)


def _ticks(page: _Page) -> Text:
    strip = _Strip(page.plot)
    free = 0
    for time_s, words in ticks(page.scale, 11 / page.plot):
        column = page.column(time_s)
        start = min(max(column - (len(words) // 2 if column else 0), 0), page.plot - len(words))
        if start >= free:
            strip.put(start, words, "dim")
            free = start + len(words) + 1
    return page.line(Text(), "", strip)


def _phases(page: _Page) -> Text:
    """Returns the ribbon of the workflow's states."""
    strip = _Strip(page.plot)
    for phase in page.timeline.phases:
        look = workflow_look(phase.state)
        left, right = page.column(phase.start_s), page.column(phase.end_s)
        line = PAUSED_LINE if phase.state in PAUSES else "─"
        strip.put(left, "├" + line * (right - left - 1) + "┤", look.colour)
        if right - left > len(look.word) + 3:
            strip.put(left + 2, f" {look.word} ", look.colour)
        elif phase.state in PAUSES and right - left > GLYPH_ROOM:
            strip.put(left + (right - left) // 2, look.glyph, look.colour)
    look = captions.verdict_look(page.timeline)
    return page.line(Text("workflow", "bold"), "", strip, Text(str(look), look.colour))


def _row(page: _Page, row: Row) -> Text:
    strip = _background(page)
    for wait in row.waits:
        _wait(page, strip, wait)
    for bar in row.bars:
        _bar(page, strip, bar, ACTION, attempt_look(bar.state).tone)
    look = task_look(row.state)
    indent = "  " * row.depth
    if row.is_group:
        again = Text(str(captions.of_row(row)), "dim")
        return page.line(Text(f"{indent}{row.task_id}", "dim"), "", strip, again)
    caption = captions.of_row(row)
    name = Text.assemble(indent, (look.glyph, look.colour), " ", row.task_id)
    return page.line(name, row.where, strip, Text(str(caption), STYLES[caption.tone]))


def _lane_row(page: _Page, row: LaneRow) -> Text:
    strip = _background(page)
    for wait in row.waits:
        _wait(page, strip, wait)
    for bar in row.bars:
        tone: Tone = "made_up" if bar.state != Attempt.STATE_FAILED else "bad"
        _bar(page, strip, bar, COMPENSATION, tone)
    caption = captions.of_lane_row(row)
    name = Text.assemble((caption.glyph, STYLES[caption.tone]), " ", row.task_id)
    said = Text(f"{row.phrase}, {phrases.duration(row.bars[-1].end_s - row.bars[0].start_s)}")
    if caption.tone == "bad":
        said = Text(str(caption), STYLES["bad"])
    return page.line(name, row.host_id, strip, said)


def _background(page: _Page) -> _Strip:
    """Returns an empty row, crossed by the moments that explain the picture."""
    strip = _Strip(page.plot)
    turn_s = page.timeline.lane_start_s
    if turn_s is not None:
        strip.put(page.column(turn_s), FAILURE_LINE, "dim")
    for marker in page.timeline.markers:
        if marker.kind == "restart":
            strip.put(page.column(marker.at_s), RESTART_LINE, STYLES["warn"])
    return strip


def _wait(page: _Page, strip: _Strip, wait: Wait) -> None:
    left, right = page.column(wait.start_s), page.column(wait.end_s)
    strip.put(left, WAIT * (right - left), "dim")


def _bar(page: _Page, strip: _Strip, bar: Bar, glyph: str, tone: Tone) -> None:
    """Draws an attempt: at least the glyph of its outcome, at its end."""
    style = STYLES[tone]
    for segment in bar.segments:
        left, right = page.column(segment.start_s), page.column(segment.end_s)
        strip.put(left, _texture(segment, glyph) * (right - left + 1), style)
    outcome = "↺" if glyph == COMPENSATION and tone != "bad" else attempt_look(bar.state).glyph
    if bar.state != Attempt.STATE_RUNNING:
        strip.put(page.column(bar.end_s), outcome, f"bold {style}")


def _texture(segment: Segment, glyph: str) -> str:
    return {"run": glyph, "stopping": STOPPING, "unknown": UNKNOWN}[segment.kind]


def _divider(page: _Page) -> Text:
    """Returns the line above the compensation lane, and says if its time is drawn wider."""
    remark = f"; {page.scale.remark}" if page.scale.remark else ""
    width = page.left + page.plot
    words = f"── compensation, in reverse order{remark} "
    if len(words) > width:  # how time is drawn must be said; the order is seen
        words = f"── compensation{remark} "
    return Text(f"{phrases.clip(words, width):─<{width}}", STYLES["made_up"])


def _markers(page: _Page) -> list[Text]:
    """Returns one line per moment, its words beside the column it points at."""
    lines = []
    for marker in page.timeline.markers:
        tone: Tone = "bad" if marker.kind == "failure" else "warn"
        glyph = "✗" if marker.kind == "failure" else "▴"
        words = captions.of_marker(marker)
        place = page.left + page.column(marker.at_s)
        before, after = place - 1, page.left + page.plot - place - 2
        if len(words) <= before or (len(words) > after and before > after):
            line = f"{phrases.clip(words, before):>{before}} {glyph}"
        else:
            line = f"{' ' * place}{glyph} {phrases.clip(words, max(after, page.words))}"
        lines.append(Text(line, STYLES[tone]))
    return lines


def _legend(page: _Page) -> Text:
    parts = [f"{WAIT} waits", f"{ACTION} acts"]
    segments = {segment.kind for bar in page.timeline.bars for segment in bar.segments}
    parts += [f"{STOPPING} is stopped"] if "stopping" in segments else []
    parts += [f"{UNKNOWN} outcome asked for"] if "unknown" in segments else []
    parts += [f"{COMPENSATION} makes up for"] if page.timeline.lane else []
    return Text("   ".join(parts), "dim")
