"""A workflow under way as one tree, whoever does its tasks: live on a terminal, lines in a pipe.

How far groups and wholes are is the coordinator's own sum, by weight: the tree is read again and
again, also because vendors add to it. Imports rich.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from countermand.cli.demo.board import STEP
from countermand.cli.demo.screen import BAR_MAX, BAR_MIN, REFRESH_HZ, Screen
from countermand.client import Run
from countermand.drawing import phrases
from countermand.drawing.tasks import depths_of, task_id
from countermand.drawing.values import amount
from countermand.drawing.words import attempt_look, task_look, workflow_look
from countermand.rpc import names
from countermand.rpc.errors import CountermandError
from countermand.v1.attempt_pb2 import Attempt, Progress
from countermand.v1.event_pb2 import AttemptEnded, AttemptStarted, HistoryEvent, TaskStateChanged
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import WatchWorkflowResponse, Workflow

LOOK_EVERY_S: Final = 0.2  # as often as an eye asks for it
NAME_MIN: Final = 16  # room for what will be added: a tree that jumps is hard to read
WORDS: Final = 34  # beside the bar: percent, and how much of what
MADE_UP: Final = frozenset({Task.STATE_COMPENSATING, Task.STATE_COMPENSATED})
NOT_BEGUN: Final = frozenset({Task.STATE_PENDING, Task.STATE_READY, Task.STATE_STARTING})

# A digest in the middle of a sentence: its first digits tell it from another.
_DIGEST = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{24,}\b")


@dataclass(slots=True)
class Tree:
    """What is known of a workflow; fed with what was read, and with the updates of a watch."""

    workflow: Workflow = field(default_factory=Workflow)
    tasks: Sequence[Task] = ()
    _told: dict[str, float] = field(default_factory=dict)
    _owners: dict[str, str] = field(default_factory=dict)  # of tasks; what is added is news first
    _added: set[str] = field(default_factory=set)  # tasks
    _compensations: set[str] = field(default_factory=set)  # attempts
    _over: set[str] = field(default_factory=set)  # attempts

    def look(self, workflow: Workflow, tasks: Sequence[Task]) -> Iterator[str]:
        """Takes in what was read; yields a sentence where the whole is a quarter further."""
        self.workflow, self.tasks = workflow, tasks
        self._owners |= {task.name: task.owner_id for task in tasks if task.owner_id}
        share = share_of(workflow.progress)
        if self._is_news(workflow.name, share):
            yield f"{workflow.name.removeprefix('workflows/')} as a whole: {share:.0%}"

    def apply(self, update: WatchWorkflowResponse) -> Iterator[str]:
        """Takes in one update; yields a sentence for each thing worth a line in a pipe."""
        match update.WhichOneof("update"):
            case "progress":
                progress, attempt = update.progress.progress, update.progress.attempt
                parsed, share = names.parse_attempt(attempt), share_of(progress)
                if parsed and attempt not in self._over and self._is_news(attempt, share):
                    yield f"{parsed.task_id}: {share:.0%}{_of(progress)}"
            case "event":
                yield from self._event(update.event)
            case _:
                return

    def _is_news(self, about: str, share: float) -> bool:
        """Returns whether something is a quarter further than last told, and not at its end."""
        if share - self._told.get(about, 0.0) < STEP or share >= 1:
            return False
        self._told[about] = share
        return True

    def _event(self, event: HistoryEvent) -> Iterator[str]:
        about = self._called(event.task)
        match event.WhichOneof("event"):
            case "workflow_state_changed":
                look = workflow_look(event.workflow_state_changed.after)
                yield f"{event.workflow.removeprefix('workflows/')}: {look}"
            case "task_added":
                self._added.add(event.task)
                self._owners[event.task] = event.task_added.owner_id
                below = task_id(event.task_added.parent)
                yield f"{task_id(event.task)}: {event.task_added.owner_id} adds it under {below}"
            case "attempt_started":
                yield from self._started(event.task, event.attempt_started)
            case "attempt_accepted":
                yield f"{about}: takes it on"
            case "task_state_changed":
                yield from self._moved(event.task, about, event.task_state_changed)
            case "attempt_ended" if event.attempt_ended.state != Attempt.STATE_UNKNOWN:
                self._over.add(f"{event.task}/attempts/{event.attempt_ended.attempt}")
                yield f"{about}: {self._ended(event.task, event.attempt_ended)}"
            case _:
                return

    def _started(self, task: str, started: AttemptStarted) -> Iterator[str]:
        by = started.owner_id
        about = f"{task_id(task)} {f'by {by}' if by else f'on {started.host_id}'}"
        if started.kind == Attempt.KIND_COMPENSATION:
            self._compensations.add(f"{task}/attempts/{started.attempt}")
            yield f"{about}: {'asked to make up for it' if by else self._task(task).opposite}"
        elif task not in self._added:
            yield f"{about}: {'asked for it' if by else 'started'}"

    def _moved(self, task: str, about: str, moved: TaskStateChanged) -> Iterator[str]:
        if moved.after == Task.STATE_UNKNOWN:
            yield f"{about}: {task_look(moved.after)}: {phrases.why(moved.failure.message)}"
        elif moved.after == Task.STATE_RUNNING and moved.before == Task.STATE_UNKNOWN:
            yield f"{about}: a sign of life, it goes on"
        elif moved.after == Task.STATE_RUNNING and task in self._owners.keys() - self._added:
            yield f"{about}: takes it on"

    def _ended(self, task: str, ended: AttemptEnded) -> str:
        is_compensation = f"{task}/attempts/{ended.attempt}" in self._compensations
        if is_compensation and ended.state == Attempt.STATE_SUCCEEDED:
            return f"{task_look(Task.STATE_COMPENSATED).glyph} done"
        glyph = attempt_look(ended.state).glyph
        if ended.state == Attempt.STATE_FAILED:
            return f"{glyph} {shortened(phrases.why(ended.failure.message))}"
        verb = self._task(task).verb
        done = amount(ended.progress.done, ended.progress.unit) if ended.progress.done else ""
        return f"{glyph} {', '.join(filter(None, (phrases.did(verb) or 'done', done)))}"

    def _called(self, name: str) -> str:
        """Returns a task with who does it: "seed on host-a", "clone by acme"."""
        if owner := self._owners.get(name):
            return f"{task_id(name)} by {owner}"
        host = self._task(name).host_id
        return f"{task_id(name)} on {host}" if host else task_id(name)

    def _task(self, name: str) -> Task:
        """Returns what is known of a task; an empty one of what was not read yet."""
        return next((task for task in self.tasks if task.name == name), Task())


async def follow(
    screen: Screen, run: Run, tree: Tree | None = None
) -> AsyncIterator[WatchWorkflowResponse]:
    """Shows a workflow until it is settled, and hands each update on."""
    tree = tree or Tree()
    for _ in tree.look(await run.get(), await run.tasks()):
        pass
    live: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if screen.console.is_terminal:
        live = Live(
            get_renderable=lambda: picture(tree, screen.console),
            console=screen.console,
            refresh_per_second=REFRESH_HZ,
        )
    with live:
        looking = asyncio.create_task(_look_again(screen, run, tree))
        try:
            async for update in run.watch():
                for words in tree.apply(update):
                    _say(screen, words)
                yield update
        finally:
            looking.cancel()
        for words in tree.look(await run.get(), await run.tasks()):
            _say(screen, words)


async def _look_again(screen: Screen, run: Run, tree: Tree) -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        with contextlib.suppress(CountermandError):  # the watch tells of it
            for words in tree.look(await run.get(), await run.tasks()):
                _say(screen, words)


def _say(screen: Screen, words: str) -> None:
    """Says a sentence in a pipe; on a terminal the picture shows it."""
    if not screen.console.is_terminal:
        screen.say(words)


# -- the picture ----------------------------------------------------------------------------------


def picture(tree: Tree, console: Console) -> RenderableType:
    """Returns the tree as it is now, as wide as the terminal allows."""
    depths = depths_of(tree.tasks)
    indents = [2 * depths[task.name] + len(task_id(task.name)) for task in tree.tasks]
    name = max(NAME_MIN, *indents) if indents else NAME_MIN
    who = max(map(len, map(_who, tree.tasks)), default=0)
    width = min(max(console.width - name - who - WORDS, BAR_MIN), BAR_MAX)
    rows = [_row(task, depths[task.name], name, who, width) for task in tree.tasks]
    look = workflow_look(tree.workflow.state)
    whole = Text.assemble("  ", (f"{look!s:<{name + who + 4}}", f"bold {look.colour}"), "  ")
    whole.append_text(_bar(share_of(tree.workflow.progress), width, look.colour))
    whole.append(" of all, by weight")
    whole.no_wrap, whole.overflow = True, "ellipsis"
    return Group(*rows, whole)


def _row(task: Task, depth: int, name: int, who: int, width: int) -> Text:
    look, indent = task_look(task.state), "  " * depth
    text = Text.assemble("  ", indent, (look.glyph, look.colour))
    text.append(f" {task_id(task.name):<{name - 2 * depth}}  ")
    text.append(f"{_who(task):<{who}}  ", "dim")
    text.no_wrap, text.overflow = True, "ellipsis"
    if task.state in NOT_BEGUN:
        return text
    if task.state in MADE_UP:
        return text.append(f"{task.opposite}: {look.word}")
    if task.HasField("failure"):
        return text.append(shortened(phrases.why(task.failure.message)))
    share = 1.0 if task.state == Task.STATE_SUCCEEDED else share_of(task.progress)
    text.append_text(_bar(share, width, look.colour))
    return text.append(_of(task.progress))


def _bar(share: float, width: int, colour: str) -> Text:
    filled = int(share * width)
    text = Text("━" * filled, colour)
    return text.append("─" * (width - filled), "dim").append(f" {share:>4.0%}", "default")


def _who(task: Task) -> str:
    return task.host_id or task.owner_id


def _of(progress: Progress) -> str:
    """Returns how much of what was done: ", 12 of 48 extents"; nothing where percent says it."""
    most = progress.total or progress.done
    if not most or progress.unit == "percent":
        return ""
    whole = amount(most, progress.unit)
    if progress.done == most:
        return f", {whole}"
    in_bytes = progress.unit in {"", "bytes"}
    return f", {phrases.size(progress.done) if in_bytes else progress.done} of {whole}"


def share_of(progress: Progress) -> float:
    """Returns how far something is, from 0 to 1."""
    return progress.done / progress.total if progress.total else 0.0


def shortened(words: str) -> str:
    """Returns a sentence with its digests cut to their first digits."""
    return _DIGEST.sub(r"\1…", words)
