"""From a workflow and its history to the timeline that is drawn.

The history alone says when what happened; the workflow adds the tree, the phrases and the words of
its end. Pure: the same history gives the same timeline, and so the same drawing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from countermand.drawing.made_up import decided_words, how_made_up
from countermand.drawing.model import (
    Bar,
    LaneRow,
    Marker,
    Phase,
    Row,
    Segment,
    SegmentKind,
    Timeline,
    Wait,
)
from countermand.drawing.tasks import GROUPS, SETTLED
from countermand.drawing.told import BY_POLICY, held_words
from countermand.drawing.verdict import verdict
from countermand.rpc import names
from countermand.v1.attempt_pb2 import Attempt, Progress
from countermand.v1.event_pb2 import (
    AttemptEnded,
    AttemptStarted,
    HistoryEvent,
    Intervention,
    TaskStateChanged,
    WorkflowStateChanged,
)
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState

WAITING: Final = {
    Task.STATE_READY: "waited for its turn",
    Task.STATE_STARTING: "waited for the agent",
    Task.STATE_RETRY_WAIT: "waited before the next attempt",
}
# What an attempt is from then on.
TURNS: Final[Mapping[int, SegmentKind]] = {
    Task.STATE_RUNNING: "run",
    Task.STATE_CANCELLING: "stopping",
    Task.STATE_UNKNOWN: "unknown",
}


@dataclass(slots=True)
class _Try:
    """One attempt, as far as the history has been read."""

    started: AttemptStarted
    intent_s: float
    run_s: float | None = None
    # From when on it was what: also back at work, after a sign of life.
    turns: list[tuple[float, SegmentKind]] = field(default_factory=list)
    ended: AttemptEnded | None = None
    end_s: float | None = None


@dataclass(slots=True)
class _Story:
    """One task, as far as the history has been read."""

    waits: list[Wait] = field(default_factory=list)
    waiting: tuple[float, str] | None = None
    tries: dict[int, _Try] = field(default_factory=dict)
    blocked: tuple[float, float | None] | None = None


class _Reader:
    """Reads a history once, from front to back."""

    def __init__(self, owners: Mapping[str, str]) -> None:
        self.owners = owners  # of external tasks, by the task
        self.start: datetime | None = None
        self.now_s = 0.0
        self.stories: dict[str, _Story] = {}
        self.changes: list[tuple[float, int]] = []
        self.markers: list[Marker] = []

    def read(self, event: HistoryEvent) -> None:
        """Takes in one event."""
        time = event.time.ToDatetime()
        self.start = self.start or time
        self.now_s = max(self.now_s, (time - self.start).total_seconds())
        task_id = (names.parse_task(event.task) or ("", ""))[1]
        story = self.stories.setdefault(task_id, _Story())
        match getattr(event, event.WhichOneof("event") or "", None):
            case WorkflowStateChanged() as change:
                self.changes.append((self.now_s, change.after))
            case TaskStateChanged() as change:
                self._task_changed(task_id, story, change)
            case AttemptStarted() as started:
                story.tries[started.attempt] = _Try(started, self.now_s)
                if started.kind == Attempt.KIND_COMPENSATION:
                    self._stop_waiting(story)
            case AttemptEnded() as ended:
                self._attempt_ended(task_id, story, ended)
            case Intervention() as asked:
                self._intervened(task_id, asked)
            case _:
                self._others(event, task_id, story)

    def _others(self, event: HistoryEvent, task_id: str, story: _Story) -> None:
        if event.HasField("owner_changed") and event.owner_changed.owner_epoch > 1:
            text = "coordinator restarted"
            self._mark(Marker(kind="restart", at_s=self.now_s, text=text))
        elif event.HasField("retry_scheduled"):
            self._wait(story, WAITING[Task.STATE_RETRY_WAIT])
            last = story.tries.get(max(story.tries, default=0))
            if last and last.started.kind == Attempt.KIND_ACTION:
                self._goes_on(task_id)

    def _waited(self, task_id: str, change: TaskStateChanged) -> str:
        if change.waits_for:
            return f"waited for {change.waits_for}"
        if change.after == Task.STATE_STARTING and task_id in self.owners:
            return f"waited for {self.owners[task_id]} to accept it"
        return WAITING[change.after]

    def _task_changed(self, task_id: str, story: _Story, change: TaskStateChanged) -> None:
        if change.after in WAITING:
            self._wait(story, self._waited(task_id, change))
        else:
            self._stop_waiting(story)
        if change.after == Task.STATE_COMPENSATION_BLOCKED:
            story.blocked = story.blocked or (self.now_s, None)
        elif story.blocked and story.blocked[1] is None:
            story.blocked = (story.blocked[0], self.now_s)
        last = story.tries.get(change.attempt or max(story.tries, default=0))
        if last and last.end_s is None and change.after in TURNS:
            last.turns.append((self.now_s, TURNS[change.after]))
            if change.after == Task.STATE_RUNNING and last.run_s is None:
                last.run_s = self.now_s

    def _attempt_ended(self, task_id: str, story: _Story, ended: AttemptEnded) -> None:
        attempt = story.tries.get(ended.attempt)
        if attempt is None:
            return
        attempt.ended = ended
        if ended.state == Attempt.STATE_UNKNOWN:
            attempt.turns.append((self.now_s, "unknown"))
            return
        attempt.end_s = self.now_s
        if ended.state == Attempt.STATE_FAILED:
            made_up = attempt.started.kind == Attempt.KIND_COMPENSATION
            about = f"↶ {task_id}" if made_up else task_id
            text = f"{about}: {ended.failure.reason}"
            self._mark(Marker(kind="failure", at_s=self.now_s, text=text, task_id=task_id))

    def _intervened(self, task_id: str, asked: Intervention) -> None:
        """Marks what somebody asked for; what they decided about tasks meanwhile goes with it."""
        last = self.markers[-1] if self.markers else None
        if asked.principal == BY_POLICY:
            words = held_words(asked.verb)
            about = f"{task_id}: {words}" if task_id else words
            self._mark(Marker(kind="intervention", at_s=self.now_s, text=about))
        elif task_id and last and last.kind == "intervention" and last.at_s == self.now_s:
            decided = f"{decided_words(asked.verb)} {task_id}"
            self.markers[-1] = replace(last, text=f"{last.text}, {decided}")
        else:
            text = _asked(asked) + (f", {task_id}" if task_id else "")
            self._mark(Marker(kind="intervention", at_s=self.now_s, text=text))

    def _goes_on(self, task_id: str) -> None:
        """Marks the last failure of a task as one after which it is tried again."""
        for index, marker in reversed(tuple(enumerate(self.markers))):
            if marker.kind == "failure" and marker.task_id == task_id:
                retried = replace(marker, kind="retry", at_s=self.now_s, count=1)
                if marker.count > 1:  # the others were no retries
                    self.markers[index] = replace(marker, count=marker.count - 1)
                else:
                    del self.markers[index]
                self._mark(retried)
                return

    def _mark(self, marker: Marker) -> None:
        """Keeps a moment; a failure that is the same once more is counted."""
        for index, other in enumerate(self.markers):
            same = (other.kind, other.text) == (marker.kind, marker.text)
            if same and marker.kind in ("failure", "retry"):
                self.markers[index] = replace(other, count=other.count + marker.count)
                return
        self.markers.append(marker)

    def _wait(self, story: _Story, words: str) -> None:
        """Begins a wait, or gives the one that goes on its better words."""
        start_s, earlier = story.waiting or (self.now_s, words)
        story.waiting = (start_s, words if earlier in WAITING.values() else earlier)

    def _stop_waiting(self, story: _Story) -> None:
        if story.waiting and self.now_s > story.waiting[0]:
            start_s, words = story.waiting
            story.waits.append(Wait(start_s=start_s, end_s=self.now_s, words=words))
        story.waiting = None


def timeline(
    workflow: Workflow, events: Iterable[HistoryEvent], now: datetime | None = None
) -> Timeline:
    """Returns the timeline of a workflow in FULL view with its whole history so far.

    `now` is where the open bars of an unsettled workflow end; without it, at its last event.
    """
    reader = _Reader({_task_id(task): task.owner_id for task in workflow.tasks if task.owner_id})
    for event in sorted(events, key=lambda event: event.sequence):
        reader.read(event)
    settled = workflow.state in SETTLED
    if now is not None and reader.start is not None and not settled:
        reader.now_s = max(reader.now_s, (now - reader.start).total_seconds())
    for story in reader.stories.values():
        reader._stop_waiting(story)  # noqa: SLF001 - open waits last until now
    tasks = _shown(workflow.tasks)
    rows = tuple(_row(task, depth, reader) for task, depth in tasks)
    lane = sorted(
        (row for task, _ in tasks if (row := _lane_row(task, reader))),
        key=lambda row: min(bar.start_s for bar in row.bars),
    )
    return Timeline(
        workflow_id=names.parse_workflow(workflow.name) or workflow.name,
        kind=workflow.kind,
        end_s=reader.now_s,
        settled=settled,
        verdict=verdict(workflow, rows, tuple(lane), workflow.tasks),
        phases=tuple(_phases(reader)),
        rows=rows,
        lane=tuple(lane),
        markers=tuple(reader.markers),
    )


def _shown(tasks: Sequence[Task]) -> list[tuple[Task, int]]:
    """Returns the tasks with their depth in the tree, without the root: the phases stand for it."""
    depths: dict[str, int] = {}
    for task in tasks:
        depths[task.name] = depths.get(task.parent, -1) + 1
    roots = [task for task in tasks if not task.parent]
    lift = 1 if len(roots) == 1 and roots[0].kind in GROUPS and len(tasks) > 1 else 0
    return [
        (task, max(depths[task.name] - lift, 0)) for task in tasks if not (lift and task in roots)
    ]


def _row(task: Task, depth: int, reader: _Reader) -> Row:
    task_id = _task_id(task)
    story = reader.stories.get(task_id, _Story())
    bars = tuple(_bars(task, story, Attempt.KIND_ACTION, reader.now_s))
    turn_s = min(
        (t.intent_s for t in story.tries.values() if t.started.kind == Attempt.KIND_COMPENSATION),
        default=reader.now_s,
    )
    return Row(
        task_id=task_id,
        depth=depth,
        state=task.state,
        host_id=bars[-1].host_id if bars else task.owner_id or task.host_id,
        verb=task.verb.removeprefix(f"{task.owner_id}/") if task.owner_id else task.verb,
        is_external=bool(task.owner_id),
        opposite=task.opposite,
        waits=tuple(wait for wait in story.waits if wait.start_s < turn_s),
        bars=bars,
        is_group=task.kind in GROUPS,
        round=task.round,
    )


def _lane_row(task: Task, reader: _Reader) -> LaneRow | None:
    story = reader.stories.get(_task_id(task), _Story())
    bars = tuple(_bars(task, story, Attempt.KIND_COMPENSATION, reader.now_s))
    if not bars:
        return None
    origin = story.tries.get(bars[0].compensates)
    return LaneRow(
        task_id=_task_id(task),
        state=task.state,
        host_id=bars[-1].host_id,
        phrase=how_made_up(task) or "compensate",
        effect_s=origin.end_s if origin and origin.end_s is not None else bars[0].start_s,
        waits=tuple(wait for wait in story.waits if wait.start_s >= bars[0].start_s),
        bars=bars,
        blocked=_blocked(story, reader.now_s),
        is_external=bool(task.owner_id),
    )


def _blocked(story: _Story, now_s: float) -> tuple[float, float] | None:
    if story.blocked is None:
        return None
    start_s, end_s = story.blocked
    return (start_s, now_s if end_s is None else end_s)


def _bars(task: Task, story: _Story, kind: Attempt.Kind.ValueType, now_s: float) -> Iterable[Bar]:
    """Yields the attempts of one kind that the agent was seen to work on, or that have ended."""
    progress = {
        parsed.number: attempt.progress
        for attempt in task.attempts
        if (parsed := names.parse_attempt(attempt.name))
    }
    for number, attempt in sorted(story.tries.items()):
        if attempt.started.kind != kind:
            continue
        unknown = any(kind == "unknown" for _, kind in attempt.turns)
        waiting = attempt.run_s is None and attempt.end_s is None and not unknown
        if attempt.started.owner_id and attempt.run_s is None:
            waiting = True  # what no owner has accepted has never begun
        if kind == Attempt.KIND_ACTION and waiting:
            continue  # all that there is of it so far is a wait
        bar = _bar(number, attempt, now_s)
        if not bar.done and number in progress:
            bar = replace(bar, done=progress[number].done, unit=_unit(progress[number]))
        written = task.output.copy_image.written_bytes
        if written and bar.state == Attempt.STATE_SUCCEEDED and kind == Attempt.KIND_ACTION:
            bar = replace(bar, done=written)  # progress counts holes too
        yield bar


def _bar(number: int, attempt: _Try, now_s: float) -> Bar:
    start_s = attempt.run_s if attempt.run_s is not None else attempt.intent_s
    end_s = attempt.end_s if attempt.end_s is not None else now_s
    ended = attempt.ended or AttemptEnded(state=Attempt.STATE_RUNNING)
    return Bar(
        number=number,
        host_id=attempt.started.owner_id or attempt.started.host_id,
        is_external=bool(attempt.started.owner_id),
        start_s=start_s,
        end_s=end_s,
        state=ended.state,
        segments=tuple(_segments(attempt, start_s, end_s)),
        done=ended.progress.done,
        unit=_unit(ended.progress),
        reason=ended.failure.reason,
        message=ended.failure.message,
        compensates=attempt.started.compensates,
    )


def _segments(attempt: _Try, start_s: float, end_s: float) -> Iterable[Segment]:
    cuts: list[tuple[float, SegmentKind]] = [(start_s, "run")]
    for at_s, kind in attempt.turns:
        if kind != cuts[-1][1]:
            cuts.append((max(at_s, start_s), kind))
    for (left, kind), (right, _) in zip(cuts, [*cuts[1:], (end_s, "run")], strict=True):
        if right > left or len(cuts) == 1:
            yield Segment(kind=kind, start_s=left, end_s=right)


def _phases(reader: _Reader) -> Iterable[Phase]:
    """Yields the states the workflow went through; settled ones are the end, not a phase."""
    changes = reader.changes
    if not changes or changes[0][0] > 0:
        changes = [(0.0, int(WorkflowState.WORKFLOW_STATE_RUNNING)), *changes]
    ends = [*(start for start, _ in changes[1:]), reader.now_s]
    for (start_s, state), end_s in zip(changes, ends, strict=True):
        if state not in SETTLED and end_s > start_s:
            yield Phase(state=state, start_s=start_s, end_s=end_s)


def _asked(asked: Intervention) -> str:
    who = f" by {asked.principal}" if asked.principal else ""
    return f"{decided_words(asked.verb)}{who}" + (f': "{asked.reason}"' if asked.reason else "")


def _unit(progress: Progress) -> str:
    return progress.unit or "bytes"


def _task_id(task: Task) -> str:
    return (names.parse_task(task.name) or ("", task.name))[1]
