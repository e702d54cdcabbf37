"""Workflows and tasks as people and programs see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from coordinator.saga import leftovers as saga_leftovers
from coordinator.saga import workflow as saga
from coordinator.saga.leftovers import leftovers
from coordinator.saga.plan import Node, Plan
from coordinator.saga.spec import OnFailure
from coordinator.saga.states import (
    BEING_COMPENSATED,
    IN_FLIGHT,
    PASSED,
    AttemptState,
    TaskState,
)
from coordinator.saga.turn import bound_host
from coordinator.traces.ids import span_id_of, trace_id_of
from coordinator.wire.actions import action_of
from coordinator.wire.catalogue import effect_number, field_of, phrase_left
from coordinator.wire.failure import failure_to_proto
from coordinator.wire.groups import fill_group, states_of
from coordinator.wire.history import (
    ATTEMPT_KINDS,
    ATTEMPT_STATES,
    TASK_STATES,
    WORKFLOW_STATES,
    inbound_to_proto,
    placed,
    timestamp,
)
from coordinator.wire.needs import needs_of
from coordinator.wire.opposites import opposite_of
from coordinator.wire.values import fill, output_of_values
from coordinator.wire.waits import task_waits_for, workflow_waits_for
from countermand.rpc.names import attempt_name, task_name, workflow_name
from countermand.v1.attempt_pb2 import Attempt, Progress
from countermand.v1.event_pb2 import Leftover
from countermand.v1.task_pb2 import Task, TaskDecision
from countermand.v1.verb_pb2 import Action
from countermand.v1.workflow_pb2 import TaskCount, Workflow

TASKS_MAX = 1000  # of a FULL view; beyond it ListTasks pages
PERCENT = 100
PERCENT_UNIT = "percent"
_WHOLE_AT_END = frozenset({saga.BYTES, PERCENT_UNIT})
LEFTOVERS_MAX = 1000  # told of one workflow; the states of its tasks tell of all

# The progress of attempts, by name, as last heard of.
ProgressKnown = Mapping[str, Progress]


def etag_of(workflow: saga.Workflow) -> str:
    """Returns what changes with every change of a workflow."""
    return str(workflow.version)


def traceparent_of(workflow: saga.Workflow, attempt: str) -> str:
    """Returns the trace context of an attempt's span; the same one after any restart."""
    trace_id = trace_id_of(workflow.id, workflow.create_time)
    flags = "01" if workflow.about.sampled else "00"
    return f"00-{trace_id.hex()}-{span_id_of(attempt).hex()}-{flags}"


def workflow_to_proto(workflow: saga.Workflow, progress: ProgressKnown) -> Workflow:
    """Returns the BASIC view of a workflow."""
    counts = Counter(task.state for _, task in workflow.tasks())
    return Workflow(
        name=workflow_name(workflow.id),
        kind=workflow.about.kind,
        state=WORKFLOW_STATES[workflow.state],
        cause=failure_to_proto(workflow.cause),
        needs=needs_of(workflow),
        leftovers=leftovers_to_proto(workflow),
        labels=dict(workflow.about.labels),
        create_time=timestamp(workflow.create_time),
        update_time=timestamp(workflow.update_time),
        end_time=timestamp(workflow.end_time),
        etag=etag_of(workflow),
        last_sequence=workflow.sequence,
        principal=workflow.about.principal,
        traceparent=workflow.about.traceparent,
        trace_id=trace_id_of(workflow.id, workflow.create_time).hex(),
        progress=_rolled_up(workflow, 0, progress),
        task_counts=[
            TaskCount(state=TASK_STATES[state], count=counts[state])
            for state in TaskState
            if counts[state]
        ],
        forked_from=workflow.about.forked_from,
        owner_epoch=workflow.owner_epoch,
        owner_id=workflow.about.owner,
        waits_for=workflow_waits_for(workflow),
    )


def leftovers_to_proto(workflow: saga.Workflow) -> list[Leftover]:
    """Returns the effects that were knowingly left, at most so many, each in words."""
    return [_leftover(workflow, left) for left in islice(leftovers(workflow), LEFTOVERS_MAX)]


def _leftover(workflow: saga.Workflow, left: saga_leftovers.Leftover) -> Leftover:
    name, spec, task = (
        workflow.plan.nodes[left.task].name,
        workflow.plan.task(left.task),
        workflow.task(left.task),
    )
    action = Action.FromString(spec.action)
    if task.action is not None:
        fill(action, task.action.inbound)
    return Leftover(
        task=task_name(workflow.id, name),
        attempt=attempt_name(workflow.id, name, left.attempt) if left.attempt else "",
        host_id=placed(left.host)[0],
        description=phrase_left(spec, action, undone=not left.attempt),
        reason=left.reason,
        create_time=timestamp(left.time),
    )


def tasks_to_proto(workflow: saga.Workflow, progress: ProgressKnown) -> list[Task]:
    """Returns a workflow's groups and tasks in the order of the tree, without the root."""
    states = states_of(workflow)
    return [
        task_to_proto(workflow, index, progress, states=states)
        for index in in_order(workflow.plan)[1:]
    ]


def in_order(plan: Plan) -> Sequence[int]:
    """Returns every node in the order of the tree; what was added comes where it belongs."""
    if len(plan.nodes) == plan.planned:
        return range(plan.planned)
    found: list[int] = []
    roots = (0, plan.on_success, plan.on_failure)
    waiting = [root for root in reversed(roots) if root >= 0]
    while waiting:
        index = waiting.pop()
        found.append(index)
        if members := plan.nodes[index].members:
            waiting.extend(m for m in reversed(members) if plan.nodes[m].under < 0)
        elif parts := plan.parts.get(index):
            waiting.extend(reversed(parts))
    return found


def task_to_proto(
    workflow: saga.Workflow,
    index: int,
    progress: ProgressKnown,
    *,
    full: bool = False,
    states: Sequence[TaskState] | None = None,
) -> Task:
    """Returns one node of a workflow; in full, with its context and attempts.

    Who shows more than one gives `states_of`: the state of a group is worked out from all below.
    """
    node = workflow.plan.nodes[index]
    view = Task(
        name=task_name(workflow.id, node.name),
        parent=_parent(workflow, node),
        after=[task_name(workflow.id, workflow.plan.nodes[i].name) for i in node.after],
        progress=_rolled_up(workflow, index, progress),
    )
    view.end_action = workflow.plan.is_end_action(index)
    view.waits_for = task_waits_for(workflow, index)
    if node.group is not None:
        fill_group(view, workflow, index, states)
        return view
    _fill_leaf(view, workflow, index)
    if full:
        _fill_context(view, workflow, index, progress)
    return view


def _parent(workflow: saga.Workflow, node: Node) -> str:
    parent = node.under if node.under >= 0 else node.parent
    return task_name(workflow.id, workflow.plan.nodes[parent].name) if parent > 0 else ""


def _fill_leaf(view: Task, workflow: saga.Workflow, index: int) -> None:
    """Adds what a task has and a group has not."""
    task, spec = workflow.task(index), workflow.plan.task(index)
    view.kind = Task.KIND_EXTERNAL if spec.external else Task.KIND_VERB
    view.description = spec.external.description if spec.external else ""
    view.weight = spec.weight
    view.state = TASK_STATES[task.state]
    view.verb = spec.verb
    view.effect = effect_number(spec.effect)
    view.opposite = opposite_of(spec, task)
    view.host_id, view.owner_id = placed(task.last.host if task.attempts else spec.host)
    view.bound_host_id = placed(bound_host(spec, task))[0]
    view.open = bool(spec.external) and task.state in (TaskState.RUNNING, TaskState.UNKNOWN)
    view.optional_by_policy = spec.policy.on_failure is OnFailure.IGNORE
    view.needs_decision = task.needs_decision
    if task.decided is not None:
        view.decided.CopyFrom(_decision(task.decided))
    # Of one that nobody knows about: what is known all the same.
    nobody_knows = task.state is TaskState.UNKNOWN and task.last.failure
    if failure := failure_to_proto(nobody_knows or task.failure):
        view.failure.CopyFrom(failure)
    if failure := failure_to_proto(task.compensation_failure):
        view.compensation_failure.CopyFrom(failure)
    if task.attempts:
        view.start_time.FromDatetime(task.attempts[0].create_time)
        if task.state not in IN_FLIGHT | BEING_COMPENSATED and task.last.end_time:
            view.end_time.FromDatetime(task.last.end_time)


def _decision(decided: saga.Decided) -> TaskDecision:
    return TaskDecision(
        verb=decided.verb,
        principal=decided.principal,
        reason=decided.reason,
        time=timestamp(decided.time),
    )


def _fill_context(view: Task, workflow: saga.Workflow, index: int, progress: ProgressKnown) -> None:
    """Adds inbound values with their origins, outputs, and every attempt."""
    task, spec = workflow.task(index), workflow.plan.task(index)
    action = task.action
    inbound = {each.field: each for each in (action.inbound if action else ())}
    # What an operator has given since, too: the next attempt will see it.
    inbound |= {each.field: each for each in task.patch}
    view.inbound.extend(map(inbound_to_proto, inbound.values()))
    gone = task.state is TaskState.COMPENSATED
    output = task.output or (action.output if action and not gone else {})
    if output:
        named = "external" if spec.external else field_of(spec.verb)
        view.output.CopyFrom(output_of_values(named, output))
    view.attempts.extend(
        attempt_to_proto(workflow, index, attempt, progress) for attempt in task.attempts
    )


def attempt_to_proto(
    workflow: saga.Workflow, index: int, attempt: saga.Attempt, progress: ProgressKnown
) -> Attempt:
    """Returns one attempt of a task."""
    node = workflow.plan.nodes[index]
    name = attempt_name(workflow.id, node.name, attempt.number)
    action = action_of(workflow, index, attempt)
    is_external = workflow.plan.task(index).external is not None
    verb = "external" if is_external else str(action.WhichOneof("verb"))
    host_id, owner_id = placed(attempt.host)
    return Attempt(
        name=name,
        kind=ATTEMPT_KINDS[attempt.kind],
        compensates=attempt_name(workflow.id, node.name, attempt.compensates)
        if attempt.compensates
        else "",
        host_id=host_id,
        owner_id=owner_id,
        state=ATTEMPT_STATES[attempt.state],
        # What makes up for it by the verb's own opposite, the agent knows itself.
        action=action if attempt.overriding or not attempt.compensates else None,
        output=output_of_values(verb, attempt.output) if attempt.output else None,
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
    # How much there was to do is kept by whoever does it only. It is certain of bytes, once all is
    # done; what owners count in their own units need not have come to its end.
    is_all = attempt.state is AttemptState.SUCCEEDED and attempt.unit in _WHOLE_AT_END
    total = attempt.done if is_all else 0
    return Progress(done=attempt.done, total=total, unit=attempt.unit)


def _rolled_up(workflow: saga.Workflow, index: int, progress: ProgressKnown) -> Progress | None:
    """Returns how far a node is: in bytes, or by the weights of external tasks among others."""
    plan = workflow.plan
    if plan.nodes[index].task is not None:
        own = _of_action(workflow, index, progress)
        known = own is not None and (own.total or own.done)
        return own if known or index not in plan.parts else _weighed(workflow, index, progress)
    below = plan.below(index)
    if any(spec is not None and spec.external for spec in (plan.nodes[i].task for i in below)):
        return _weighed(workflow, index, progress)
    done = total = rate = 0
    for each, record in zip(below, _records(workflow, below), strict=True):
        # Most have nothing to tell, and there may be thousands.
        if not isinstance(record, saga.Task) or not _tells(record.action, progress):
            continue
        part = _of_action(workflow, each, progress)
        if part is not None and part.total:
            done, total, rate = done + part.done, total + part.total, rate + part.rate
    return Progress(done=done, total=total, rate=rate, unit="bytes") if total else None


def _records(workflow: saga.Workflow, indices: Sequence[int]) -> Sequence[saga.Task | saga.Group]:
    if isinstance(indices, range):  # at once: one by one costs more than looking at them
        return workflow.nodes[indices.start : indices.stop]
    return [workflow.nodes[index] for index in indices]


def _tells(action: saga.Attempt | None, progress: ProgressKnown) -> bool:
    """Returns whether it may be known how far an attempt is, or was."""
    return action is not None and bool(action.done or (progress and action.open))


def _weighed(workflow: saga.Workflow, index: int, progress: ProgressKnown) -> Progress:
    """Returns how far a node is, in hundredths."""
    share = _Shares(workflow, progress).of(index)
    return Progress(done=int(share * PERCENT), total=PERCENT, unit=PERCENT_UNIT)


@dataclass(frozen=True, slots=True)
class _Shares:
    """How much of nodes is done, from 0 to 1: each member counts by its weight."""

    workflow: saga.Workflow
    progress: ProgressKnown

    def of(self, index: int) -> float:
        """Returns the share of a node."""
        plan = self.workflow.plan
        node = plan.nodes[index]
        if node.task is None:
            members = [m for m in node.forward if plan.nodes[m].under < 0]
            return self._together(members)
        task = self.workflow.task(index)
        if task.state in PASSED or (task.decided and task.decided.verb == saga.CLOSE):
            return 1.0
        own = _of_action(self.workflow, index, self.progress)
        if own is not None and own.total:
            return min(1.0, own.done / own.total)
        parts = plan.parts.get(index)
        return self._together(parts) if parts else 0.0

    def _together(self, members: Sequence[int]) -> float:
        nodes = self.workflow.plan.nodes
        done, whole = 0.0, 0
        for member in members:
            task = nodes[member].task
            weight = task.weight if task else 1
            whole += weight
            done += weight * self.of(member)
        return done / whole if whole else 0.0


def _of_action(workflow: saga.Workflow, index: int, progress: ProgressKnown) -> Progress | None:
    action = workflow.task(index).action
    if action is None or not _tells(action, progress):
        return None
    name = workflow.plan.nodes[index].name  # of what is open, its attempt is looked up by name
    attempt = attempt_name(workflow.id, name, action.number) if action.open else ""
    return _progress(attempt, action, progress)
