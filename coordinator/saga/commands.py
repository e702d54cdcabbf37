"""What the core asks the shell to do, once the decision is committed. Imperative; plain values.

A command names an intent that the committed state holds: delivering it twice does no harm, and
`outstanding` finds every one of them again from the state alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from coordinator.saga.states import AttemptKind, AttemptState, TaskState, WorkflowState
from coordinator.saga.workflow import Workflow


@dataclass(frozen=True, slots=True, kw_only=True)
class SendAction:
    """Send the attempt of an action to its host, and see to it until its outcome is known."""

    task: int
    number: int
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SendCancel:
    """Ask the host to stop an attempt, until its outcome is known."""

    task: int
    number: int
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SendCompensation:
    """Send the attempt of a compensation to its host, until its outcome is known."""

    task: int
    number: int
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTimer:
    """Say `RetryDue` when the time has come."""

    task: int
    number: int
    time: datetime


Command = SendAction | SendCancel | SendCompensation | SetTimer


def outstanding(workflow: Workflow) -> Iterator[Command]:
    """Yields every command that the state still asks for: all that a recovery needs."""
    if workflow.settled or workflow.state is WorkflowState.QUARANTINED:
        return
    for index, task in workflow.tasks():
        if task.retry_time is not None:
            number = len(task.attempts) + 1
            yield SetTimer(task=index, number=number, time=task.retry_time)
            continue
        if not task.attempts or not task.last.open or task.state in _AT_REST:
            continue
        attempt = task.last
        sent = {"task": index, "number": attempt.number}
        if attempt.kind is AttemptKind.COMPENSATION:
            yield SendCompensation(**sent, host=attempt.host)
        elif attempt.state is AttemptState.CANCELLING:
            yield SendCancel(**sent, host=attempt.host)
        else:
            yield SendAction(**sent, host=attempt.host)


_AT_REST = frozenset({TaskState.FAILED, TaskState.CANCELLED})
