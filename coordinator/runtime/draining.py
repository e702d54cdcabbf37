"""What keeps a draining host from being drained: tasks of open workflows that need it still."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from coordinator.saga.spec import IRREVERSIBLE
from coordinator.saga.states import (
    AT_REST,
    BEING_COMPENSATED,
    COMPENSABLE,
    Effect,
    TaskState,
)
from coordinator.saga.turn import patched_host
from coordinator.saga.workflow import Workflow


def blocking(workflow: Workflow, host: str, draining: Collection[str]) -> Iterator[int]:
    """Yields the tasks of an open workflow that need a host.

    They are at work there, will run there, or are made up for there should the workflow fail.

    A task that may as well go to a host that stays is not among them.
    """
    if workflow.settled or not names(workflow, host):
        return
    for index, _ in workflow.tasks():
        if _is_there(workflow, index, host) or _goes_there(workflow, index, host, draining):
            yield index


def names(workflow: Workflow, host: str) -> bool:
    """Returns whether any task of a workflow names a host, or had an attempt there or fenced."""
    return any(
        host in named_hosts(workflow, index)
        or any(host in (a.host, a.fence_host) for a in task.attempts)
        for index, task in workflow.tasks()
    )


def named_hosts(workflow: Workflow, index: int) -> frozenset[str]:
    """Returns the hosts that a task may go to, as far as it names any."""
    if chosen := patched_host(workflow.task(index)):
        return frozenset((chosen,))
    spec = workflow.plan.task(index)
    return frozenset((spec.host, *spec.candidates)) - {""}


def _is_there(workflow: Workflow, index: int, host: str) -> bool:
    """Returns whether a task is at work on a host, settled there, or may be made up for there."""
    task = workflow.task(index)
    attempts = (a for a in task.attempts if a.open and host in (a.host, a.fence_host))
    if task.state not in AT_REST and any(attempts):
        return True
    action = task.action
    if action is None or (action.fence_host or action.host) != host:
        return False  # what makes up for it goes to who has fenced it
    return _may_be_made_up_for(workflow, index)


def _goes_there(workflow: Workflow, index: int, host: str, draining: Collection[str]) -> bool:
    """Returns whether a task is still to run, and can run nowhere but on hosts that drain."""
    task = workflow.task(index)
    is_open = task.state is TaskState.FAILED and task.needs_decision
    if task.state not in (TaskState.PENDING, TaskState.READY, TaskState.RETRY_WAIT) and not is_open:
        return False
    named = named_hosts(workflow, index)
    return host in named and named <= set(draining)


def _may_be_made_up_for(workflow: Workflow, index: int) -> bool:
    """Returns whether a task is being made up for, or has an effect that may have to be."""
    task, spec = workflow.task(index), workflow.plan.task(index)
    if task.state in BEING_COMPENSATED:
        return True
    keeps = spec.effect is Effect.READ_ONLY or spec.effect in IRREVERSIBLE
    if task.state not in COMPENSABLE or keeps or workflow.plan.is_end_action(index):
        return False
    return workflow.verdict is None
