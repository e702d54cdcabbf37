"""Groups as people see them: a state worked out from the members, and which of them failed."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.saga import workflow as saga
from coordinator.saga.spec import GroupKind, OnFailure
from coordinator.saga.states import GroupState, TaskState
from coordinator.saga.workflow import Failure, Group, Workflow
from coordinator.wire.failure import failure_to_proto
from coordinator.wire.history import TASK_STATES
from countermand.v1.task_pb2 import Task

FAILED_NAMED_MAX = 8  # in the failure of a group; a fan-out may fail by the thousand

_KINDS = {
    GroupKind.SEQUENCE: Task.KIND_SEQUENCE,
    GroupKind.PARALLEL: Task.KIND_PARALLEL,
}

# A group looks like the first of these that any of its members is in.
LOUDEST = (
    TaskState.COMPENSATION_BLOCKED,
    TaskState.COMPENSATING,
    TaskState.CANCELLING,
    TaskState.UNKNOWN,
    TaskState.RUNNING,
    TaskState.STARTING,
    TaskState.RETRY_WAIT,
    TaskState.READY,
    TaskState.COMPENSATED,
    TaskState.FAILED,
    TaskState.CANCELLED,
    TaskState.ABANDONED,
)
_AT_WORK = frozenset(LOUDEST[:8])

# What became of a group counts more than where its members are.
_STORED = {
    GroupState.COMPENSATING: TaskState.COMPENSATING,
    GroupState.COMPENSATED: TaskState.COMPENSATED,
    GroupState.FAILED: TaskState.FAILED,
    GroupState.RECOVERING: TaskState.RUNNING,
    GroupState.RECOVERED: TaskState.SUCCEEDED,
    GroupState.SKIPPED: TaskState.SKIPPED,
}


def fill_group(
    view: Task, workflow: Workflow, index: int, states: Sequence[TaskState] | None
) -> None:
    """Adds what a group has: its kind, state, round, and which of its members failed."""
    node, group = workflow.plan.nodes[index], workflow.nodes[index]
    assert isinstance(group, Group), node.name
    assert node.group is not None, node.name
    view.kind = Task.KIND_WORKFLOW if node.rules.nested else _KINDS[node.group]
    view.state = TASK_STATES[(states or states_of(workflow))[index]]
    view.round = group.round
    view.weight = 1
    view.open = node.rules.open is not None
    if failure := failure_to_proto(_failure(workflow, index, group)):
        view.failure.CopyFrom(failure)


def states_of(workflow: Workflow) -> Sequence[TaskState]:
    """Returns the state that each node shows, by its index; each node is looked at once."""
    records = workflow.nodes
    states = [each.state if isinstance(each, saga.Task) else TaskState.PENDING for each in records]
    groups = [index for index, each in enumerate(records) if isinstance(each, Group)]
    for index in reversed(groups):  # members have higher numbers than their group
        states[index] = _group_state(workflow, index, states)
    return states


def _group_state(workflow: Workflow, index: int, states: Sequence[TaskState]) -> TaskState:
    """Returns the state that a group shows, given those of its members."""
    group, node = workflow.nodes[index], workflow.plan.nodes[index]
    assert isinstance(group, Group), node.name
    if group.state in _STORED:
        return _STORED[group.state]
    if not node.forward:  # a fan-out over nothing
        waits = not group.passed_empty and not workflow.settled
        return TaskState.PENDING if waits else TaskState.SUCCEEDED
    members = [
        states[member] if states[member] is not TaskState.FAILED else _failed_as(workflow, member)
        for member in node.forward
    ]
    shown = set(members)
    if node.recovery >= 0:  # counts only once it has begun: the others are at rest then
        shown |= {states[node.recovery]} & _AT_WORK
    if node.rules.min_success and not shown & _AT_WORK:
        passed = sum(state in (TaskState.SUCCEEDED, TaskState.SKIPPED) for state in members)
        if passed >= node.need:
            return TaskState.SUCCEEDED
    for state in LOUDEST:
        if state in shown:
            return state
    if TaskState.PENDING in shown:
        return TaskState.RUNNING if len(shown) > 1 else TaskState.PENDING
    return TaskState.SKIPPED if shown == {TaskState.SKIPPED} else TaskState.SUCCEEDED


def _failed_as(workflow: Workflow, index: int) -> TaskState:
    """Returns the state in which a failed member counts: a failure that is allowed does not."""
    spec, record = workflow.plan.nodes[index].task, workflow.nodes[index]
    if spec is None or not isinstance(record, saga.Task):
        return TaskState.FAILED
    ignored = spec.policy.on_failure is OnFailure.IGNORE
    return TaskState.SUCCEEDED if ignored and not record.needs_decision else TaskState.FAILED


def _failure(workflow: Workflow, index: int, group: Group) -> Failure | None:
    """Returns why a group failed: how many of its members, and which, each with its failure."""
    node = workflow.plan.nodes[index]
    failed = [found for member in node.forward if (found := _failed(workflow, member))]
    if not failed:
        return group.failure
    said = [f"{name}: {why.reason}: {why.message}" for name, why in failed[:FAILED_NAMED_MAX]]
    more = len(failed) - len(said)
    tail = f" And {more} more." if more else ""
    first = group.failure or failed[0][1]
    return Failure(
        reason=first.reason,
        message=f"{len(failed)} of {len(node.forward)} failed: {' '.join(said)}{tail}",
        metadata=(("failed", str(len(failed))), ("members", str(len(node.forward)))),
        retriable=first.retriable,
        attempt=first.attempt,
        host=first.host,
    )


def _failed(workflow: Workflow, index: int) -> tuple[str, Failure] | None:
    """Returns the first failure in a member, if there is one."""
    record = workflow.nodes[index]
    if isinstance(record, saga.Task):  # mostly, and there may be thousands
        why = _why(record)
    else:
        leaves = workflow.plan.leaves_of(index)
        why = next(filter(None, (_why(workflow.task(leaf.index)) for leaf in leaves)), None)
    return None if why is None else (workflow.plan.nodes[index].name, why)


def _why(task: saga.Task) -> Failure | None:
    return task.failure if task.state is TaskState.FAILED else None
