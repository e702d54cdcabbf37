"""What each event of a history says, in the words of the glossary. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from countermand.drawing import phrases
from countermand.drawing.made_up import decided_words
from countermand.drawing.tasks import task_id
from countermand.drawing.values import one_line, progress_words, said, value_words
from countermand.drawing.words import Look, attempt_look, task_look, workflow_look
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.event_pb2 import (
    AttemptEnded,
    AttemptStarted,
    GroupStateChanged,
    HistoryEvent,
    Intervention,
    TaskAdded,
)
from countermand.v1.failure_pb2 import Failure
from countermand.v1.workflow_state_pb2 import WorkflowState

Show: TypeAlias = Callable[[Look], str]  # how a state is drawn in a text

GROUP_STATES: Final = frozenset(GroupStateChanged.State.values())


def told(event: HistoryEvent, show: Show = str) -> str:
    """Returns what happened, in words."""
    match event.WhichOneof("event"):
        case "workflow_started":
            by = event.workflow_started.principal
            return f"accepted: {event.workflow_started.kind}" + (f", for {by}" if by else "")
        case "workflow_state_changed":
            changed = event.workflow_state_changed
            # The cause stays the same from then on; saying it once is enough.
            ended = changed.after == WorkflowState.WORKFLOW_STATE_COMPENSATED
            because = "" if ended else _because(changed.cause)
            return f"workflow {show(workflow_look(changed.after))}{because}"
        case "task_state_changed":
            moved = event.task_state_changed
            waits = f", waits for {moved.waits_for}" if moved.waits_for else ""
            return f"{show(task_look(moved.after))}{waits}{_because(moved.failure)}"
        case "attempt_started":
            return _started(event.attempt_started)
        case "attempt_ended":
            return _ended(event.attempt_ended, show)
        case "retry_scheduled":
            retry = event.retry_scheduled
            delay = phrases.duration(retry.delay.ToTimedelta().total_seconds())
            return f"attempt {retry.attempt} follows in {delay}{_because(retry.failure)}"
        case "group_state_changed":
            return _group(event.group_state_changed)
        case "intervention":
            return _asked(event.intervention)
        case _:
            return _others(event)


def _others(event: HistoryEvent) -> str:
    match event.WhichOneof("event"):
        case "task_added":
            return _added(event.task_added)
        case "attempt_accepted":
            return f"attempt {event.attempt_accepted.attempt} accepted by its owner"
        case "locks_taken":
            return "holds all its images"
        case "owner_changed":
            return f"a coordinator took over, epoch {event.owner_changed.owner_epoch}"
        case "fence_changed":
            fence = event.fence_changed
            if fence.host_id:
                return f"attempt {fence.attempt} is to be settled by {fence.host_id}"
            return f"attempt {fence.attempt} could not be fenced{_because(fence.failure)}"
        case "late_report":
            late = event.late_report
            return f"too late, changed nothing: attempt {late.attempt} {attempt_look(late.state)}"
        case "leftover_recorded":
            left = event.leftover_recorded.leftover
            return f"left behind{phrases.on(left.host_id)}: {left.description}"
        case _:
            return "something this version has no words for"


def _group(moved: GroupStateChanged) -> str:
    state = GroupStateChanged.State.Name(moved.after) if moved.after in GROUP_STATES else "other"
    word = state.removeprefix("STATE_").lower()
    again = f", round {moved.round}" if moved.round > 1 else ""
    return f"group {word}{again}{_because(moved.failure)}"


# What nobody asked for but the spec, by its verb.
BY_POLICY = "policy"
_HELD = {
    "on-failure": "held by its policy, as it failed",
    "pause-on-success": "held by its policy, as it succeeded",
    "pause-before": "held by its policy, before it begins",
}


def held_words(verb: str) -> str:
    """Returns why a policy holds a workflow."""
    return _HELD.get(verb, "held by its policy")


def _asked(asked: Intervention) -> str:
    """Returns who asked for what and why, and the values that were given."""
    if asked.principal == BY_POLICY:
        return held_words(asked.verb)
    because = f": {asked.reason}" if asked.reason else ""
    changes = [f"{c.field} = {value_words(c.value)}" for c in asked.changes]
    given = f" ({', '.join(changes)})" if changes else ""
    return f"{asked.principal or 'somebody'} asked to {decided_words(asked.verb)}{because}{given}"


def _started(started: AttemptStarted) -> str:
    if started.kind == Attempt.KIND_COMPENSATION:
        what = f"attempt {started.attempt} makes up for attempt {started.compensates}"
    else:
        what = f"attempt {started.attempt} goes out"
    if started.owner_id:
        return f"{what}, asked of {started.owner_id}"
    return what + phrases.on(started.host_id)


def _added(added: TaskAdded) -> str:
    under = f" under {task_id(added.parent)}" if added.parent else ""
    by = f" by {added.principal}" if added.principal else ""
    return f"added{under}{by}: {added.owner_id}: {added.kind}"


def _ended(ended: AttemptEnded, show: Show) -> str:
    done = progress_words(ended.progress)
    text = f"attempt {ended.attempt} {show(attempt_look(ended.state))}"
    return text + (f", {done}" if done else "") + _because(ended.failure)


def _because(failure: Failure) -> str:
    return f": {one_line(said(failure))} ({failure.reason})" if failure.reason else ""
