"""What a watcher knows of a workflow under way: its actions, and what makes up for them.

Fed with the updates of a watch, drawn by `screen.py`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from countermand.drawing import phrases
from countermand.drawing.words import Look, attempt_look, task_look, workflow_look
from countermand.rpc import names
from countermand.v1.attempt_pb2 import Attempt, Progress
from countermand.v1.event_pb2 import AttemptEnded, AttemptStarted, HistoryEvent
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import WatchWorkflowResponse
from countermand.v1.workflow_state_pb2 import WorkflowState

STEP: Final = 0.25  # of an attempt: how often a pipe hears of progress
LEAVES: Final = frozenset({Task.KIND_VERB, Task.KIND_EXTERNAL})


@dataclass(slots=True)
class Line:
    """One attempt at work, or at rest: of an action, or of a compensation."""

    task_id: str
    host_id: str
    verb: str
    phrase: str = ""
    look: Look = field(default_factory=lambda: task_look(Task.STATE_PENDING))
    progress: Progress = field(default_factory=Progress)
    words: str = ""
    told: float = 0.0

    @property
    def share(self) -> float:
        """Returns how far it is, from 0 to 1."""
        return self.progress.done / self.progress.total if self.progress.total else 0.0

    @property
    def pace(self) -> str:
        """Returns rate and time left: "40 MiB/s, 1.2 s left"."""
        if not self.progress.rate:
            return ""
        left_s = (self.progress.total - self.progress.done) / self.progress.rate
        return f"{phrases.size(self.progress.rate)}/s, {phrases.duration(left_s)} left"


class Board:
    """All lines of one workflow."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        """Starts with nothing begun."""
        self.state = int(WorkflowState.WORKFLOW_STATE_RUNNING)
        self.cause = ""
        self.actions = {
            _task_id(task.name): Line(_task_id(task.name), task.host_id, task.verb, task.opposite)
            for task in tasks
            if task.kind in LEAVES
        }
        self.lane: dict[str, Line] = {}
        self._lines: dict[str, Line] = {}  # by the attempt's name

    @property
    def look(self) -> Look:
        """Returns how the workflow is."""
        return workflow_look(self.state)

    def apply(self, update: WatchWorkflowResponse) -> Iterator[str]:
        """Takes in one update; yields a sentence for each thing worth a line in a pipe."""
        match update.WhichOneof("update"):
            case "progress":
                yield from self._progress(update.progress.attempt, update.progress.progress)
            case "event":
                yield from self._event(update.event)
            case _:
                return

    def _progress(self, attempt: str, progress: Progress) -> Iterator[str]:
        line = self._lines.get(attempt)
        if line is None:
            return
        line.progress.CopyFrom(progress)
        if line.share - line.told >= STEP:
            line.told = line.share
            pace = f" at {phrases.size(progress.rate)}/s" if progress.rate else ""
            yield f"{line.task_id} on {line.host_id}: {line.share:.0%}{pace}"

    def _event(self, event: HistoryEvent) -> Iterator[str]:
        task_id = _task_id(event.task)
        match event.WhichOneof("event"):
            case "workflow_state_changed":
                self.state = event.workflow_state_changed.after
                self.cause = event.workflow_state_changed.cause.message or self.cause
                yield f"workflow: {self.look.word}"
            case "task_state_changed" if task_id in self.actions:
                self._moved(self.actions[task_id], event.task_state_changed.after)
            case "attempt_started":
                yield from self._started(event.task, task_id, event.attempt_started)
            case "attempt_ended":
                yield from self._ended(event.task, event.attempt_ended)
            case "owner_changed" if event.owner_changed.owner_epoch > 1:
                yield f"a coordinator took over, epoch {event.owner_changed.owner_epoch}"
            case _:
                return

    def _moved(self, line: Line, state: int) -> None:
        """Follows the action's own states; those of its compensation show in the lane."""
        if state in {Task.STATE_STARTING, Task.STATE_RUNNING, Task.STATE_CANCELLING}:
            line.look = task_look(state)
        elif state == Task.STATE_CANCELLED and not line.words:
            line.look = task_look(state)
            line.words = "never started"

    def _started(self, task: str, task_id: str, started: AttemptStarted) -> Iterator[str]:
        action = self.actions.get(task_id)
        if action is None:
            return
        line = action
        if started.kind == Attempt.KIND_COMPENSATION:
            line = Line(task_id, started.host_id, action.verb, action.phrase)
            line.look = task_look(Task.STATE_COMPENSATING)
            self.lane[task_id] = line
            yield f"{task_id} on {started.host_id}: {line.phrase}"
        else:
            line.host_id, line.words, line.told = started.host_id, "", 0.0
            line.progress = Progress()
            yield f"{task_id} on {started.host_id}: started"
        self._lines[f"{task}/attempts/{started.attempt}"] = line

    def _ended(self, task: str, ended: AttemptEnded) -> Iterator[str]:
        attempt = f"{task}/attempts/{ended.attempt}"
        line = self._lines.get(attempt)
        if line is None:
            return
        if ended.state != Attempt.STATE_UNKNOWN:
            del self._lines[attempt]  # a report of its progress may still be on its way
        is_compensation = line is self.lane.get(line.task_id)
        done = is_compensation and ended.state == Attempt.STATE_SUCCEEDED
        line.look = task_look(Task.STATE_COMPENSATED) if done else attempt_look(ended.state)
        if ended.progress.done:
            line.progress.done = ended.progress.done  # its total stays known
        line.progress.rate = 0
        line.words = "done" if done else _outcome(line, ended)
        yield f"{line.task_id} on {line.host_id}: {line.look.glyph} {line.words}"


def _outcome(line: Line, ended: AttemptEnded) -> str:
    amount = phrases.size(line.progress.done) if line.progress.done else ""
    match ended.state:
        case Attempt.STATE_SUCCEEDED:
            return phrases.did(line.verb) or "done"
        case Attempt.STATE_FAILED:
            why = phrases.why(ended.failure.message) or ended.failure.reason
            return f"{why}, after {amount}" if amount else why
        case Attempt.STATE_CANCELLED:
            return f"stopped at {amount}" if amount else "stopped"
        case _:
            return attempt_look(ended.state).word


def _task_id(name: str) -> str:
    return (names.parse_task(name) or ("", name))[1]
