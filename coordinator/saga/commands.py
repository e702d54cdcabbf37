"""What the core asks the shell to do, once the decision is committed. Imperative; plain values.

A command names an intent that the committed state holds: delivering it twice does no harm, and
`outstanding` finds every one of them again from the state alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from coordinator.saga.parts import is_held, settled
from coordinator.saga.plan import Plan
from coordinator.saga.spec import IRREVERSIBLE
from coordinator.saga.states import (
    UNSETTLED,
    AttemptKind,
    AttemptState,
    TaskState,
    WorkflowState,
)
from coordinator.saga.workflow import Attempt, Task, Workflow


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
class SendFence:
    """Have a host settle the attempt of another, on storage that both reach, until that is done."""

    task: int
    number: int
    host: str  # that fences: not the one that the attempt was sent to


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw:
    """See to an attempt no more: somebody has decided about it."""

    task: int
    number: int
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Take an action back that has not left yet, and say `AttemptRecalled`; else do nothing."""

    task: int
    number: int
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooseHost:
    """Find a host for the attempt to come, however long it takes, and say `HostChosen`."""

    task: int
    number: int
    candidates: tuple[str, ...] = ()  # only these; empty: any that can
    avoid: tuple[str, ...] = ()  # hosts on which it has failed: only if there is no other


class Timer(StrEnum):
    """What a time is asked for."""

    DUE = "DUE"  # a wait before or after an attempt is over
    START = "START"  # the attempt should be in the agent's journal by now
    RUN = "RUN"  # the attempt should have ended by now, and its host does not say so
    WORKFLOW = "WORKFLOW"  # the workflow should have its verdict by now


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTimer:
    """Say `TimerFired` when the time has come; a later one of the same timer and task counts."""

    timer: Timer
    task: int = -1
    number: int = 0
    time: datetime


Command = (
    SendAction
    | SendCancel
    | SendCompensation
    | SendFence
    | Withdraw
    | Recall
    | ChooseHost
    | SetTimer
)


def outstanding(workflow: Workflow) -> Iterator[Command]:
    """Yields every command that the state still asks for: all that a recovery needs."""
    if workflow.settled or workflow.state is WorkflowState.QUARANTINED:
        return
    if (timeout := workflow_timer(workflow)) is not None:
        yield timeout
    for index, task in workflow.tasks():
        yield from _outstanding_of(workflow, index, task)


def workflow_timer(workflow: Workflow) -> SetTimer | None:
    """Returns the timer of the whole workflow, if it has one that still counts."""
    timeout = workflow.plan.terms.timeout
    if timeout is None or workflow.cause is not None or workflow.verdict is not None:
        return None
    return SetTimer(timer=Timer.WORKFLOW, time=workflow.create_time + timeout)


def _outstanding_of(workflow: Workflow, index: int, task: Task) -> Iterator[Command]:
    number = len(task.attempts)
    if task.start_deadline is not None:
        begun = start_number(task)
        yield SetTimer(timer=Timer.START, task=index, number=begun, time=task.start_deadline)
    if task.state is TaskState.RETRY_WAIT and not settled(workflow, index):
        pass  # what was done within its last attempt is made up for first: that sets it anew
    elif task.due_time is not None:
        yield SetTimer(timer=Timer.DUE, task=index, number=number + 1, time=task.due_time)
    elif task.state is TaskState.READY:
        if not workflow.holding:
            yield choose_host(workflow.plan, index, task)
    elif task.attempts and task.last.open and task.state in UNSETTLED:
        yield send(index, task.last)
        # What an owner has not accepted; what has left for a host is known by its line only.
        unaccepted = workflow.plan.task(index).external and task.state is TaskState.STARTING
        if unaccepted and is_held(workflow, index):
            yield Recall(task=index, number=number, host=task.last.host)
        if (bound := run_timer(workflow.plan, index, task)) is not None:
            yield bound


def run_timer(plan: Plan, index: int, task: Task) -> SetTimer | None:
    """Returns the timer of an attempt whose host does not answer, if its run is bounded.

    While the host answers its agent sees to that; an owner has nobody who does. What has no
    opposite is awaited: were it asked to stop, "never received" would leave nothing that settles it
    but a fence.
    """
    spec, last = plan.task(index), task.last
    timeout = spec.policy.run_timeout
    if timeout is None or spec.effect in IRREVERSIBLE:
        return None
    unseen = task.state is TaskState.UNKNOWN
    if not unseen and not (spec.external and task.state is TaskState.RUNNING):
        return None
    begun = last.start_time or last.create_time
    return SetTimer(timer=Timer.RUN, task=index, number=last.number, time=begun + timeout)


def start_number(task: Task) -> int:
    """Returns how many attempts a task had made when it became ready."""
    return len(task.attempts) - (task.state is not TaskState.READY)


def send(index: int, attempt: Attempt) -> Command:
    """Returns the command that an open attempt asks for."""
    if attempt.fence_host:
        return SendFence(task=index, number=attempt.number, host=attempt.fence_host)
    if attempt.kind is AttemptKind.COMPENSATION:
        return SendCompensation(task=index, number=attempt.number, host=attempt.host)
    if attempt.state is AttemptState.CANCELLING:
        return SendCancel(task=index, number=attempt.number, host=attempt.host)
    return SendAction(task=index, number=attempt.number, host=attempt.host)


def choose_host(plan: Plan, index: int, task: Task) -> ChooseHost:
    """Returns the command that finds a host for a task's next attempt."""
    spec = plan.task(index)
    candidates = (spec.host, *spec.candidates) if spec.host else spec.candidates
    kind, failed = AttemptKind.ACTION, AttemptState.FAILED
    avoid = dict.fromkeys(a.host for a in task.attempts if a.kind is kind and a.state is failed)
    return ChooseHost(
        task=index, number=len(task.attempts) + 1, candidates=candidates, avoid=tuple(avoid)
    )
