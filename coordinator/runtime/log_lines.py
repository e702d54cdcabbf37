"""Writes what is committed into the log: a line for each change of a workflow's or a task's state.

At level info: every move of a workflow, how each task ended, and whatever did not go as planned. A
workflow that goes well has one line when it starts, one for each task, and one when it settles. At
debug: every move there is. What needs somebody is a warning. `trace_id` is the workflow's own, as
at the collector; names are those of the API, and agents' lines have the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from json.encoder import encode_basestring as quoted
from types import MappingProxyType

from coordinator.saga.history import (
    Entry,
    GroupMoved,
    LeftBehind,
    LocksTaken,
    TaskMoved,
    WorkflowMoved,
    WorkflowStarted,
)
from coordinator.saga.states import GroupState, TaskState, WorkflowState
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
        TaskState.COMPENSATION_BLOCKED: WARNING,
        TaskState.ABANDONED: WARNING,
    }
)
GROUP_LEVELS: Mapping[GroupState, int] = MappingProxyType(dict.fromkeys(GroupState, INFO))


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
        level, event, more = _told(workflow, entry, least)
        if event and level >= least:
            about = about or _about(workflow)
            yield level, f"{head(_moment(entry.time), level, event)}{about}{more}}}"


def _told(workflow: Workflow, entry: Entry, least: int) -> tuple[int, str, str]:
    """Returns a fact's level, its name, and what is to be said of it; no name: nothing."""
    fact = entry.fact
    match fact:
        case TaskMoved(after=state):
            level = TASK_LEVELS[state]
            if level < least:  # most of what there is
                return level, "", ""
            return level, f"task.{state.lower()}", _of_task(workflow, entry, fact)
        case WorkflowMoved(before=before, after=state, cause=cause):
            more = _moved(before, state) + _why(cause or workflow.cause)
            return WORKFLOW_LEVELS[state], f"workflow.{state.lower()}", more
        case WorkflowStarted(kind=kind):
            return INFO, "workflow.running", f', "kind": {quoted(kind)}, "after": "RUNNING"'
        case GroupMoved(before=group_before, after=group):
            more = _task(workflow, entry.task) + _moved(group_before, group) + _why(fact.failure)
            return GROUP_LEVELS[group], f"group.{group.lower()}", more
        case LeftBehind(reason=reason):
            more = f'{_task(workflow, entry.task)}, "reason": {quoted(reason)}'
            return WARNING, "task.left_behind", more
        case LocksTaken():
            return DEBUG, "workflow.locked", ""
        case _:
            return DEBUG, "", ""


def _of_task(workflow: Workflow, entry: Entry, moved: TaskMoved) -> str:
    said = _task(workflow, entry.task)
    if moved.attempt:
        name = attempt_name(workflow.id, workflow.plan.nodes[entry.task].name, moved.attempt)
        host = workflow.task(entry.task).attempts[moved.attempt - 1].host
        said += f', "attempt": "{name}", "host": {quoted(host)}'
    return said + _moved(moved.before, moved.after) + _why(moved.failure)


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
