"""History as lines: one event, one line, the words of the glossary."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import click

from countermand.cli.drawing import phrases
from countermand.cli.output import (
    as_json,
    clock,
    one_line,
    paint,
    progress_words,
    said,
    value_words,
)
from countermand.cli.settings import Settings
from countermand.cli.tables import task_id
from countermand.cli.words import attempt_look, task_look, workflow_look
from countermand.rpc import names
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
from countermand.v1.workflow_pb2 import AttemptProgress
from countermand.v1.workflow_state_pb2 import WorkflowState

GROUP_STATES: Final = frozenset(GroupStateChanged.State.values())
PROGRESS_EVERY: Final = timedelta(seconds=5)  # a log is read later: a sign of life is enough


def show_event(settings: Settings, event: HistoryEvent) -> None:
    """Prints one event in the form that was asked for."""
    match settings.output:
        case "json":
            click.echo(json.dumps(as_json(event), ensure_ascii=False))
        case "name":
            pass  # an event has none; whoever follows says the workflow's at its end
        case _:
            click.echo(line(event))


def line(event: HistoryEvent) -> str:
    """Returns an event as a line: when, about what, what."""
    about = task_id(event.task) if event.task else event.workflow.removeprefix("workflows/")
    return f"{clock(event.time)}  {event.sequence:>4}  {about:<16}  {words(event)}"


def words(event: HistoryEvent) -> str:
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
            return f"workflow {paint(workflow_look(changed.after))}{because}"
        case "task_state_changed":
            moved = event.task_state_changed
            waits = f", waits for {moved.waits_for}" if moved.waits_for else ""
            return f"{paint(task_look(moved.after))}{waits}{_because(moved.failure)}"
        case "attempt_started":
            return _started(event.attempt_started)
        case "attempt_ended":
            return _ended(event.attempt_ended)
        case "retry_scheduled":
            retry = event.retry_scheduled
            delay = phrases.duration(retry.delay.ToTimedelta().total_seconds())
            return f"attempt {retry.attempt} follows in {delay}{_because(retry.failure)}"
        case "group_state_changed":
            return _group(event.group_state_changed)
        case "intervention":
            return _asked(event.intervention)
        case _:
            return _other_words(event)


def _other_words(event: HistoryEvent) -> str:
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


class Pace:
    """Says now and then how far each attempt is, until it has ended."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        """Starts with no attempt known."""
        self._now = now
        self._due: dict[str, datetime] = {}  # by the attempt's name

    def apply(self, event: HistoryEvent) -> None:
        """Takes in which attempts are under way."""
        match event.WhichOneof("event"):
            case "attempt_started":
                attempt = f"{event.task}/attempts/{event.attempt_started.attempt}"
                self._due[attempt] = self._now() + PROGRESS_EVERY
            case "attempt_ended" if event.attempt_ended.state != Attempt.STATE_UNKNOWN:
                self._due.pop(f"{event.task}/attempts/{event.attempt_ended.attempt}", None)
            case _:
                pass

    def line(self, update: AttemptProgress) -> str:
        """Returns a line about an attempt; none before it is due, or for one that has ended."""
        due, attempt = self._due.get(update.attempt), names.parse_attempt(update.attempt)
        now = self._now()
        done = progress_words(update.progress)
        if due is None or attempt is None or now < due or not done:
            return ""
        self._due[update.attempt] = now + PROGRESS_EVERY
        when = f"{now:%H:%M:%S}.{now.microsecond // 1000:03d}Z"
        return f"{when}        {attempt.task_id:<16}  attempt {attempt.number} is at {done}"


def _group(moved: GroupStateChanged) -> str:
    state = GroupStateChanged.State.Name(moved.after) if moved.after in GROUP_STATES else "other"
    word = state.removeprefix("STATE_").lower()
    again = f", round {moved.round}" if moved.round > 1 else ""
    return f"group {word}{again}{_because(moved.failure)}"


def _asked(asked: Intervention) -> str:
    """Returns who asked for what and why, and the values that were given."""
    because = f": {asked.reason}" if asked.reason else ""
    changes = [f"{c.field} = {value_words(c.value)}" for c in asked.changes]
    given = f" ({', '.join(changes)})" if changes else ""
    return f"{asked.principal or 'somebody'} asked to {asked.verb}{because}{given}"


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


def _ended(ended: AttemptEnded) -> str:
    done = progress_words(ended.progress)
    text = f"attempt {ended.attempt} {paint(attempt_look(ended.state))}"
    return text + (f", {done}" if done else "") + _because(ended.failure)


def _because(failure: Failure) -> str:
    return f": {one_line(said(failure))} ({failure.reason})" if failure.reason else ""
