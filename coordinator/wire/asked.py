"""What owners of external tasks are asked, as the contract writes it."""

from __future__ import annotations

from datetime import timedelta
from itertools import islice

from google.protobuf.duration_pb2 import Duration

from coordinator.saga.plan import Node
from coordinator.saga.states import AttemptKind, TaskState
from coordinator.saga.workflow import Task, Workflow
from coordinator.wire.actions import action_of
from coordinator.wire.catalogue import effect_number
from coordinator.wire.history import duration, timestamp
from coordinator.wire.order import CAUSES_MAX, causes_of
from coordinator.wire.values import output_of_values
from coordinator.wire.view import traceparent_of
from countermand.rpc.names import attempt_name, task_name
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.external_task_pb2 import ExternalRequest


def request_to_proto(
    workflow: Workflow, index: int, token: str, progress: Progress | None
) -> ExternalRequest:
    """Returns what is asked about the newest attempt of a task, complete."""
    node, task, spec = workflow.plan.nodes[index], workflow.task(index), workflow.plan.task(index)
    assert spec.external is not None, node.name
    attempt = action = task.last
    name = attempt_name(workflow.id, node.name, attempt.number)
    request = ExternalRequest(
        attempt=name,
        kind=_kind(task),
        task_kind=spec.verb.partition("/")[2],
        capability_token=token,
        accepted=attempt.start_time is not None,
        traceparent=traceparent_of(workflow, name),
        create_time=timestamp(attempt.create_time),
        labels=dict(workflow.about.labels),
        progress=progress,
        heartbeat_timeout=_span(spec.external.heartbeat_timeout),
        part_of=_part_of(workflow, node),
        effect=effect_number(spec.effect),
    )
    if attempt.kind is AttemptKind.COMPENSATION:
        action = task.attempts[attempt.compensates - 1]
        request.compensates = attempt_name(workflow.id, node.name, action.number)
        if action.output:
            request.output.CopyFrom(output_of_values("external", action.output).external)
        request.causes.extend(islice(causes_of(workflow, index), CAUSES_MAX))
    else:
        request.outputs.update(spec.external.outputs)
        if spec.policy.run_timeout is not None:
            request.run_timeout.CopyFrom(duration(spec.policy.run_timeout))
    for key, value in action_of(workflow, index, action).custom.arguments.items():
        request.arguments[key] = _text(value)
    return request


def _kind(task: Task) -> ExternalRequest.Kind.ValueType:
    if task.last.kind is AttemptKind.COMPENSATION:
        return ExternalRequest.KIND_COMPENSATE
    if task.state is TaskState.CANCELLING:
        return ExternalRequest.KIND_CANCEL
    return ExternalRequest.KIND_START


def _part_of(workflow: Workflow, node: Node) -> str:
    """Returns the task that a task was added under, if one owner does both."""
    if node.under < 0:
        return ""
    whole = workflow.plan.nodes[node.under]
    assert whole.task is not None, node.name
    same = node.task is not None and node.task.host == whole.task.host
    return task_name(workflow.id, whole.name) if same else ""


def _span(span: timedelta | None) -> Duration | None:
    return duration(span) if span is not None else None


def _text(value: object) -> str:
    """Returns a bound value as an argument: numbers and truth as JSON writes them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
