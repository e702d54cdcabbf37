"""Writes what is committed into the log: a line for each change of a workflow's or a task's state.

At level info: every move of a workflow, how each task ended, and whatever did not go as planned. A
workflow that goes well has one line when it starts, one for each task, and one when it settles; so
has whatever somebody asked for. At debug: every move there is. What needs somebody is a warning; so
is a task whose outcome nobody knows, since its host may need somebody. `trace_id` is the
workflow's own, as at the collector; names are those of the API, and agents' lines have the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from json.encoder import encode_basestring as quoted
from types import MappingProxyType
from typing import Any

from coordinator.saga.history import (
    Fact,
    GroupMoved,
    Intervened,
    LeftBehind,
    LocksTaken,
    TaskMoved,
    WorkflowMoved,
    WorkflowStarted,
)
from coordinator.saga.states import TaskState, WorkflowState
from coordinator.saga.turn import Decision
from coordinator.saga.workflow import Failure, Workflow
from coordinator.traces.ids import trace_id_of
from countermand.rpc.logs import Lines, head
from countermand.rpc.names import attempt_name, task_name, workflow_name

log = logging.getLogger("coordinator")

DEBUG, INFO, WARNING = logging.DEBUG, logging.INFO, logging.WARNING
WORKFLOW_LEVELS: Mapping[WorkflowState, int] = MappingProxyType(
    {
        **dict.fromkeys(WorkflowState, INFO),
        WorkflowState.PAUSED: WARNING,
        WorkflowState.BLOCKED: WARNING,
        WorkflowState.QUARANTINED: logging.ERROR,
        WorkflowState.FAILED: WARNING,
    }
)
TASK_LEVELS: Mapping[TaskState, int] = MappingProxyType(
    {
        **dict.fromkeys(TaskState, INFO),
        **dict.fromkeys((TaskState.PENDING, TaskState.READY, TaskState.STARTING), DEBUG),
        **dict.fromkeys((TaskState.RUNNING, TaskState.CANCELLING), DEBUG),
        TaskState.UNKNOWN: WARNING,
        TaskState.COMPENSATION_BLOCKED: WARNING,
        TaskState.ABANDONED: WARNING,
    }
)


class LogLines:
    """Writes the lines of each transaction at once."""

    def opened(self, workflow: Workflow) -> None:
        """Writes nothing: an earlier life has written it."""

    def committed(self, decisions: Sequence[Decision], took_s: float) -> None:  # noqa: ARG002 - counted elsewhere
        """Writes what one transaction has made durable."""
        least = log.getEffectiveLevel()
        lines = Lines(line for decision in decisions for line in _lines(decision, least))
        if lines:
            log.log(lines.level, lines)

    def failed(self) -> None:
        """Writes nothing: the loop says why."""


def _lines(decision: Decision, least: int) -> Iterator[tuple[int, str]]:
    workflow, about = decision.workflow, ""
    for entry in decision.history:
        fact = entry.fact
        told = _TOLD.get(type(fact))
        if told is None:
            continue
        level_of, tell = told
        level = level_of(fact)
        if level < least:  # most of what there is
            continue
        about = about or _about(workflow)
        event, more = tell(workflow, entry.task, fact)
        yield level, f"{head(_moment(entry.time), level, event)}{about}{more}}}"


def _of_workflow(workflow: Workflow, _: int, moved: WorkflowMoved) -> tuple[str, str]:
    more = _moved(moved.before, moved.after) + _why(moved.cause or workflow.cause)
    return f"workflow.{moved.after.lower()}", more


def _of_start(workflow: Workflow, _: int, started: WorkflowStarted) -> tuple[str, str]:
    more = f', "kind": {quoted(started.kind)}, "after": "RUNNING"'
    return "workflow.running", more if workflow.locked else f'{more}, "waits_for": "its images"'


def _of_ask(workflow: Workflow, index: int, asked: Intervened) -> tuple[str, str]:
    about, more = ("task", _task(workflow, index)) if index >= 0 else ("workflow", "")
    more += f', "verb": {quoted(asked.verb)}, "principal": {quoted(asked.principal)}'
    return f"{about}.intervention", f'{more}, "why": {quoted(asked.reason)}'


def _of_task(workflow: Workflow, index: int, moved: TaskMoved) -> tuple[str, str]:
    more = _task(workflow, index)
    if moved.attempt:
        name = attempt_name(workflow.id, workflow.plan.nodes[index].name, moved.attempt)
        host = workflow.task(index).attempts[moved.attempt - 1].host
        more += f', "attempt": "{name}", "host": {quoted(host)}'
    more += _moved(moved.before, moved.after) + _why(moved.failure)
    return f"task.{moved.after.lower()}", more


def _of_group(workflow: Workflow, index: int, moved: GroupMoved) -> tuple[str, str]:
    more = _task(workflow, index) + _moved(moved.before, moved.after) + _why(moved.failure)
    return f"group.{moved.after.lower()}", more


def _of_leftover(workflow: Workflow, index: int, left: LeftBehind) -> tuple[str, str]:
    return "task.left_behind", f'{_task(workflow, index)}, "reason": {quoted(left.reason)}'


def _of_locks(_: Workflow, __: int, ___: LocksTaken) -> tuple[str, str]:
    return "workflow.locked", ""


# What is told of each fact, and how urgent that is; of those that are not here, nothing.
_TOLD: Mapping[type[Fact], tuple[Callable[[Any], int], Callable[..., tuple[str, str]]]] = {
    TaskMoved: (lambda fact: TASK_LEVELS[fact.after], _of_task),
    WorkflowMoved: (lambda fact: WORKFLOW_LEVELS[fact.after], _of_workflow),
    WorkflowStarted: (lambda _: INFO, _of_start),
    GroupMoved: (lambda _: INFO, _of_group),
    LeftBehind: (lambda _: WARNING, _of_leftover),
    LocksTaken: (lambda _: INFO, _of_locks),
    Intervened: (lambda _: INFO, _of_ask),
}


def _task(workflow: Workflow, index: int) -> str:
    return f', "task": "{task_name(workflow.id, workflow.plan.nodes[index].name)}"'


def _about(workflow: Workflow) -> str:
    trace_id = _trace_id(workflow.id, workflow.create_time)
    return f', "workflow": "{workflow_name(workflow.id)}", "trace_id": "{trace_id}"'


def _moved(before: str, after: str) -> str:
    return f', "before": "{before}", "after": "{after}"'


def _why(failure: Failure | None) -> str:
    if failure is None:
        return ""
    return f', "reason": {quoted(failure.reason)}, "error": {quoted(failure.message)}'


@lru_cache(maxsize=4096)
def _trace_id(workflow_id: str, create_time: datetime) -> str:
    return trace_id_of(workflow_id, create_time).hex()


@lru_cache(maxsize=16)
def _moment(time: datetime) -> str:
    """Returns a time as every line has it; those of one decision share theirs."""
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
