"""Effects that were knowingly left on hosts, found from the tasks alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from coordinator.saga.states import Effect, TaskState, WorkflowState
from coordinator.saga.workflow import Task, Workflow

STOPPED = "STOPPED"  # kept by policy
NOT_REMOVED = "NOT_REMOVED"  # what should have been removed, is still there
# Those that stay as they are whatever becomes of the others; what succeeded is kept if it failed.
_MAY_LEAVE = frozenset({TaskState.ABANDONED, TaskState.FAILED, TaskState.SKIPPED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """One effect that stays."""

    task: int
    attempt: int  # 0: of nobody's attempt, what should have been removed is still there
    host: str
    reason: str
    time: datetime


def leftovers(workflow: Workflow) -> Iterator[Leftover]:
    """Yields every effect that stays although its workflow did not want it to."""
    kept = workflow.verdict is WorkflowState.FAILED
    states = _MAY_LEAVE | {TaskState.SUCCEEDED} if kept else _MAY_LEAVE
    for index, task in workflow.tasks():
        if task.state in states and (reason := _reason(workflow, index, task)):
            yield _leftover(workflow, index, task, reason)


def _reason(workflow: Workflow, index: int, task: Task) -> str:
    """Returns why a task leaves something behind, or nothing."""
    if task.state is TaskState.ABANDONED:
        return (task.decided.reason if task.decided else "") or TaskState.ABANDONED
    effect = workflow.plan.task(index).effect
    if task.state is TaskState.SUCCEEDED:
        kept = effect is not Effect.READ_ONLY and not workflow.plan.is_end_action(index)
        return STOPPED if kept else ""
    closed = task.state is TaskState.FAILED and not task.needs_decision
    skipped = task.state is TaskState.SKIPPED and task.decided is not None
    # Of a workflow that failed, what should have been removed is wanted again.
    if effect is Effect.FORWARD_ONLY and (closed or skipped) and workflow.cause is None:
        return NOT_REMOVED
    return ""


def _leftover(workflow: Workflow, index: int, task: Task, reason: str) -> Leftover:
    action = task.action
    spec = workflow.plan.task(index)
    return Leftover(
        task=index,
        attempt=0 if reason == NOT_REMOVED or action is None else action.number,
        host=action.host if action else spec.host,
        reason=reason,
        time=(action.end_time if action else None) or workflow.update_time,
    )
