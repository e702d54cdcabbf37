"""A timeline of a workflow too large to be read whole: of some tasks, by their attempts alone.

An attempt's own times say when it waited, worked and ended; what befell the workflow meanwhile is
told as far as events are given. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from countermand.drawing import phrases
from countermand.drawing.model import Timeline
from countermand.drawing.tasks import with_tasks
from countermand.drawing.timeline import timeline
from countermand.drawing.verdict import open_failures
from countermand.drawing.words import workflow_look
from countermand.rpc import names
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.event_pb2 import (
    AttemptEnded,
    AttemptStarted,
    HistoryEvent,
    TaskStateChanged,
    WorkflowStarted,
)
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState

ENDED = frozenset({Attempt.STATE_SUCCEEDED, Attempt.STATE_FAILED, Attempt.STATE_CANCELLED})


def excerpt(
    workflow: Workflow, tasks: Sequence[Task], events: Iterable[HistoryEvent], now: datetime
) -> Timeline:
    """Returns the timeline of some tasks in FULL view, with the workflow's own events of those."""
    told = [_accepted(workflow)]
    told += [_copy(event) for event in events if not event.task and event.sequence > 1]
    told += [event for task in tasks for event in _told(task)]
    told.sort(key=lambda event: event.time.ToNanoseconds())
    for sequence, event in enumerate(told, start=1):
        event.sequence = sequence
    drawn = timeline(with_tasks(workflow, tasks), told, now)
    # Of those that are not drawn nobody knows who made up for them.
    shown_made_up = sum(task.state == Task.STATE_COMPENSATED for task in tasks)
    is_by_hand = (
        drawn.verdict.is_by_hand or shown_made_up < _counts(workflow)[Task.STATE_COMPENSATED]
    )
    drawn = replace(drawn, verdict=replace(drawn.verdict, is_by_hand=is_by_hand))
    said = _sentence(workflow, drawn)
    return replace(drawn, verdict=replace(drawn.verdict, sentence=said, brief=said))


def _counts(workflow: Workflow) -> Counter[int]:
    """Returns how many tasks are in each state."""
    return Counter({count.state: count.count for count in workflow.task_counts})


def _sentence(workflow: Workflow, drawn: Timeline) -> str:
    """Returns how it stands, counting all tasks rather than those that are drawn."""
    counts = _counts(workflow)
    number = sum(counts.values())
    done = counts[Task.STATE_SUCCEEDED] + counts[Task.STATE_SKIPPED]
    if not workflow.HasField("cause"):
        if workflow.state == WorkflowState.WORKFLOW_STATE_SUCCEEDED:
            skipped = counts[Task.STATE_SKIPPED]
            rest = f"; {skipped} skipped" if skipped else ""
            took = f"{done - skipped} of {phrases.count(number, 'task')} took effect"
            return f"{took}{rest}."
        word = workflow_look(workflow.state).word
        said = f"{done} of {phrases.count(number, 'task')} done; it is {word}."
        return open_failures(workflow, drawn.verdict.failed) + said
    what = drawn.verdict.sentence.split(". ", 1)[0]
    made = counts[Task.STATE_COMPENSATED]
    left = phrases.count(len(workflow.leftovers), "effect")
    said = f"{phrases.count(made, 'task')} made up for" if made else "Nothing is made up for"
    match workflow.state:
        case WorkflowState.WORKFLOW_STATE_COMPENSATED:
            return f"{what}. {said}; {drawn.verdict.nothing_left}."
        case WorkflowState.WORKFLOW_STATE_FAILED:
            return f"{what}. {said}; {left} left behind."
        case _:
            return f"{what}. {said} so far; it is {workflow_look(workflow.state).word}."


def _copy(event: HistoryEvent) -> HistoryEvent:
    """Returns an event that may be given another sequence."""
    copied = HistoryEvent()
    copied.CopyFrom(event)
    return copied


def _accepted(workflow: Workflow) -> HistoryEvent:
    started = WorkflowStarted(kind=workflow.kind)
    return HistoryEvent(workflow=workflow.name, time=workflow.create_time, workflow_started=started)


def _told(task: Task) -> Iterator[HistoryEvent]:
    """Yields what the history must have said about a task, by its attempts."""
    for attempt in task.attempts:
        parsed = names.parse_attempt(attempt.name)
        if parsed is None:
            continue
        origin = names.parse_attempt(attempt.compensates)
        started = AttemptStarted(
            attempt=parsed.number,
            kind=attempt.kind,
            compensates=origin.number if origin else 0,
            host_id=attempt.host_id,
            owner_id=attempt.owner_id,
        )
        yield _event(task, attempt.create_time, attempt_started=started)
        if attempt.HasField("start_time"):
            running = TaskStateChanged(after=Task.STATE_RUNNING, attempt=parsed.number)
            yield _event(task, attempt.start_time, task_state_changed=running)
        if attempt.state in ENDED:
            ended = AttemptEnded(
                attempt=parsed.number,
                state=attempt.state,
                failure=attempt.failure if attempt.HasField("failure") else None,
                progress=attempt.progress,
            )
            yield _event(task, attempt.end_time, attempt_ended=ended)


def _event(
    task: Task,
    time: Timestamp,
    *,
    attempt_started: AttemptStarted | None = None,
    attempt_ended: AttemptEnded | None = None,
    task_state_changed: TaskStateChanged | None = None,
) -> HistoryEvent:
    return HistoryEvent(
        task=task.name,
        time=time,
        attempt_started=attempt_started,
        attempt_ended=attempt_ended,
        task_state_changed=task_state_changed,
    )
