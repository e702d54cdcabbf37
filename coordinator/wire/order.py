"""Committed intents on their way out, as the agent's typed requests."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import Message

from coordinator.saga.commands import SendAction, SendCancel, SendCompensation
from coordinator.saga.workflow import Attempt, Workflow
from coordinator.wire.catalogue import VERBS
from coordinator.wire.failure import failure_to_proto
from coordinator.wire.values import fill, output_of_values
from coordinator.wire.view import traceparent_of
from countermand.rpc.names import attempt_name
from countermand.rpc.request_hash import request_hash
from countermand.v1.agent_pb2 import CancelAttemptRequest, CompensateRequest
from countermand.v1.attempt_pb2 import AttemptHeader
from countermand.v1.verb_pb2 import Action

Send = SendAction | SendCancel | SendCompensation


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call to an agent: the RPC's name and its request."""

    rpc: str  # "CopyImage"
    request: Message


def name_of(workflow: Workflow, command: Send) -> str:
    """Returns the name of the attempt that a command is about."""
    task = workflow.plan.nodes[command.task].name
    return attempt_name(workflow.id, task, command.number)


def call_of(workflow: Workflow, command: Send, *, cluster_id: str, incarnation: str) -> Call:
    """Returns the call that carries a command out; the same one each time it is delivered."""
    name = name_of(workflow, command)
    attempt = workflow.task(command.task).attempts[command.number - 1]
    header = AttemptHeader(
        attempt=name,
        cluster_id=cluster_id,
        owner_epoch=workflow.owner_epoch,
        intent_sequence=attempt.intent,
        expected_incarnation=incarnation,
        traceparent=traceparent_of(workflow, name),
        tracestate=workflow.about.tracestate,
    )
    if isinstance(command, SendCancel):
        return Call(rpc="CancelAttempt", request=CancelAttemptRequest(header=header))
    if isinstance(command, SendCompensation):
        return Call(rpc="Compensate", request=_compensate(workflow, command, attempt, header))
    timeout = workflow.plan.task(command.task).policy.run_timeout
    if timeout is not None:
        header.run_timeout.FromTimedelta(timeout)
    action = action_of(workflow, command.task, attempt)
    header.request_hash = request_hash(action)
    verb = VERBS[str(action.WhichOneof("verb"))]
    arguments = {verb.name: getattr(action, verb.name)}
    return Call(rpc=verb.rpc, request=verb.request(header=header, **arguments))


def action_of(workflow: Workflow, task: int, attempt: Attempt) -> Action:
    """Returns the action of an attempt as it is sent, bindings resolved."""
    action = Action.FromString(workflow.plan.task(task).action)
    fill(action, attempt.inbound)
    return action


def _compensate(
    workflow: Workflow, command: SendCompensation, attempt: Attempt, header: AttemptHeader
) -> CompensateRequest:
    made = workflow.task(command.task).attempts[attempt.compensates - 1]
    node = workflow.plan.nodes[command.task]
    cause = failure_to_proto(workflow.cause)
    request = CompensateRequest(
        compensates=attempt_name(workflow.id, node.name, made.number),
        action=action_of(workflow, command.task, made),
        output=output_of_values(workflow.plan.task(command.task).verb, made.output)
        if made.output
        else None,
        causes=[cause] if cause else [],
    )
    header.request_hash = request_hash(request)
    request.header.CopyFrom(header)
    return request
