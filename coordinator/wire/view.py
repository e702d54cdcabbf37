"""Workflows and tasks as people and programs see them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping

from coordinator.saga import workflow as saga
from coordinator.saga.spec import GroupKind
from coordinator.saga.states import (
    BEING_COMPENSATED,
    IN_FLIGHT,
    AttemptState,
    Effect,
    TaskState,
    WorkflowState,
)
from coordinator.wire.catalogue import VERBS, effect_number
from coordinator.wire.failure import failure_to_proto
from coordinator.wire.history import (
    ATTEMPT_KINDS,
    ATTEMPT_STATES,
    TASK_STATES,
    WORKFLOW_STATES,
    timestamp,
)
from coordinator.wire.values import fill, output_of_values, proto_value
from countermand.rpc.names import attempt_name, task_name, workflow_name
from countermand.v1.attempt_pb2 import Attempt, Progress
from countermand.v1.task_pb2 import InboundValue, Task
from countermand.v1.verb_pb2 import Action
from countermand.v1.workflow_pb2 import Need, TaskCount, Workflow

TASKS_MAX = 1000  # of a FULL view; beyond it ListTasks pages

_KINDS = {
    GroupKind.SEQUENCE: Task.KIND_SEQUENCE,
    GroupKind.PARALLEL: Task.KIND_PARALLEL,
}

# The progress of attempts, by name, as last heard of.
ProgressKnown = Mapping[str, Progress]


def etag_of(workflow: saga.Workflow) -> str:
    """Returns what changes with every change of a workflow."""
    return str(workflow.version)


def trace_id_of(workflow: saga.Workflow) -> str:
    """Returns the trace that a workflow is projected into: the engine's, or one of its own."""
    if workflow.about.traceparent:
        return workflow.about.traceparent.split("-")[1]
    return _digest(f"{workflow.id}@{workflow.create_time.isoformat()}", 16)


def traceparent_of(workflow: saga.Workflow, attempt: str) -> str:
    """Returns the trace context of an attempt's span; the same one after any restart."""
    sampled = workflow.about.traceparent[-2:] or "01"
    return f"00-{trace_id_of(workflow)}-{_digest(attempt, 8)}-{sampled}"


def _digest(text: str, size_bytes: int) -> str:
    return hashlib.blake2b(text.encode(), digest_size=size_bytes).hexdigest()


def workflow_to_proto(workflow: saga.Workflow, progress: ProgressKnown) -> Workflow:
    """Returns the BASIC view of a workflow."""
    counts = Counter(task.state for _, task in workflow.tasks())
    return Workflow(
        name=workflow_name(workflow.id),
        kind=workflow.about.kind,
        state=WORKFLOW_STATES[workflow.state],
        cause=failure_to_proto(workflow.cause),
        needs=_needs(workflow),
        labels=dict(workflow.about.labels),
        create_time=timestamp(workflow.create_time),
        update_time=timestamp(workflow.update_time),
        end_time=timestamp(workflow.end_time),
        etag=etag_of(workflow),
        last_sequence=workflow.sequence,
        principal=workflow.about.principal,
        traceparent=workflow.about.traceparent,
        trace_id=trace_id_of(workflow),
        progress=_rolled_up(workflow, 0, progress),
        task_counts=[
            TaskCount(state=TASK_STATES[state], count=counts[state])
            for state in TaskState
            if counts[state]
        ],
        forked_from=workflow.about.forked_from,
        owner_epoch=workflow.owner_epoch,
    )


def _needs(workflow: saga.Workflow) -> list[Need]:
    if workflow.state is WorkflowState.QUARANTINED:
        message = "Its record could not be processed: see the coordinator's log, and report it."
        return [Need(reason=workflow.state, message=message)]
    if workflow.state is not WorkflowState.BLOCKED:
        return []
    return [
        Need(
            task=task_name(workflow.id, workflow.plan.nodes[index].name),
            reason=TaskState.COMPENSATION_BLOCKED,
            message="Its compensation fails again and again: "
            f"{task.compensation_failure.message if task.compensation_failure else 'no cause'} "
            "It is tried on, slowly: mend the cause on the host.",
        )
        for index, task in workflow.tasks()
        if task.state is TaskState.COMPENSATION_BLOCKED
    ]


def tasks_to_proto(workflow: saga.Workflow, progress: ProgressKnown) -> list[Task]:
    """Returns a workflow's groups and tasks in the order of the tree, without the root."""
    return [
        task_to_proto(workflow, node.index, progress)
        for node in workflow.plan.nodes
        if node.index > 0
    ]


def task_to_proto(
    workflow: saga.Workflow, index: int, progress: ProgressKnown, *, full: bool = False
) -> Task:
    """Returns one node of a workflow; in full, with its context and attempts."""
    node = workflow.plan.nodes[index]
    view = Task(
        name=task_name(workflow.id, node.name),
        parent=task_name(workflow.id, workflow.plan.nodes[node.parent].name)
        if node.parent > 0
        else "",
        after=[task_name(workflow.id, workflow.plan.nodes[i].name) for i in node.after],
        progress=_rolled_up(workflow, index, progress),
    )
    if node.group is not None:
        view.kind = _KINDS[node.group]
        view.state = TASK_STATES[_group_state(workflow, index)]
        return view
    task = workflow.task(index)
    assert node.task is not None, node.name
    view.kind = Task.KIND_VERB
    view.state = TASK_STATES[task.state]
    view.verb = node.task.verb
    view.effect = effect_number(node.task.effect)
    view.opposite = VERBS[node.task.verb].opposite if node.task.effect is Effect.REVERSIBLE else ""
    view.host_id = task.last.host if task.attempts else node.task.host
    view.waits_for = _waits_for(task)
    if failure := failure_to_proto(task.failure):
        view.failure.CopyFrom(failure)
    if failure := failure_to_proto(task.compensation_failure):
        view.compensation_failure.CopyFrom(failure)
    if task.attempts:
        view.start_time.FromDatetime(task.attempts[0].create_time)
        if task.state not in IN_FLIGHT | BEING_COMPENSATED and task.last.end_time:
            view.end_time.FromDatetime(task.last.end_time)
    if full:
        _fill_context(view, workflow, index, progress)
    return view


def _fill_context(view: Task, workflow: saga.Workflow, index: int, progress: ProgressKnown) -> None:
    """Adds inbound values with their origins, outputs, and every attempt."""
    task, spec = workflow.task(index), workflow.plan.task(index)
    action = task.action
    if action is not None:
        view.inbound.extend(
            InboundValue(field=i.field, value=proto_value(i.value), origin=i.origin)
            for i in action.inbound
        )
        if action.output:
            view.output.CopyFrom(output_of_values(spec.verb, action.output))
    view.attempts.extend(
        attempt_to_proto(workflow, index, attempt, progress) for attempt in task.attempts
    )


def attempt_to_proto(
    workflow: saga.Workflow, index: int, attempt: saga.Attempt, progress: ProgressKnown
) -> Attempt:
    """Returns one attempt of a task."""
    node, spec = workflow.plan.nodes[index], workflow.plan.task(index)
    name = attempt_name(workflow.id, node.name, attempt.number)
    action = Action.FromString(spec.action)
    fill(action, attempt.inbound)
    return Attempt(
        name=name,
        kind=ATTEMPT_KINDS[attempt.kind],
        compensates=attempt_name(workflow.id, node.name, attempt.compensates)
        if attempt.compensates
        else "",
        host_id=attempt.host,
        state=ATTEMPT_STATES[attempt.state],
        action=action if not attempt.compensates else None,
        output=output_of_values(spec.verb, attempt.output) if attempt.output else None,
        failure=failure_to_proto(attempt.failure),
        progress=_progress(name, attempt, progress),
        create_time=timestamp(attempt.create_time),
        start_time=timestamp(attempt.start_time),
        end_time=timestamp(attempt.end_time),
        traceparent=traceparent_of(workflow, name),
    )


def _progress(name: str, attempt: saga.Attempt, progress: ProgressKnown) -> Progress | None:
    if attempt.open:
        return progress.get(name)
    if not attempt.done:
        return None
    # How much there was to do is kept by the agent only; it is certain where all of it was done.
    total = attempt.done if attempt.state is AttemptState.SUCCEEDED else 0
    return Progress(done=attempt.done, total=total, unit="bytes")


def _waits_for(task: saga.Task) -> str:
    if task.retry_time is None:
        return ""
    return f"attempt {len(task.attempts) + 1}, due {task.retry_time.isoformat(timespec='seconds')}"


def _rolled_up(workflow: saga.Workflow, index: int, progress: ProgressKnown) -> Progress | None:
    """Returns the sum of the progress of the actions below a node."""
    node = workflow.plan.nodes[index]
    if node.task is not None:
        action = workflow.task(index).action
        if action is None:
            return None
        return _progress(attempt_name(workflow.id, node.name, action.number), action, progress)
    parts = (_rolled_up(workflow, member, progress) for member in node.members)
    known = [part for part in parts if part and part.total]
    if not known:
        return None
    return Progress(
        done=sum(p.done for p in known),
        total=sum(p.total for p in known),
        rate=sum(p.rate for p in known),
        unit="bytes",
    )


# A group looks like the first of these that any of its members is in.
_LOUDEST = (
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


def _group_state(workflow: saga.Workflow, index: int) -> TaskState:
    """Returns the state that a group shows: worked out from its members, never stored."""
    group = workflow.nodes[index]
    assert isinstance(group, saga.Group), index
    states = {
        _group_state(workflow, member)
        if workflow.plan.nodes[member].group
        else workflow.task(member).state
        for member in workflow.plan.nodes[index].members
    }
    for state in _LOUDEST:
        if state in states:
            return state
    if TaskState.PENDING in states:
        return TaskState.RUNNING if group.started and len(states) > 1 else TaskState.PENDING
    return TaskState.SUCCEEDED
