"""Committed intents on their way out, as the agent's typed requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from google.protobuf.message import Message

from coordinator.saga.commands import SendAction, SendCancel, SendCompensation, SendFence
from coordinator.saga.plan import ancestors
from coordinator.saga.states import PASSED
from coordinator.saga.workflow import Attempt, Failure, Group, Workflow
from coordinator.wire.actions import action_of
from coordinator.wire.catalogue import VERBS, field_of
from coordinator.wire.failure import failure_to_proto
from coordinator.wire.values import output_of_values
from coordinator.wire.view import traceparent_of
from countermand.rpc.names import attempt_name
from countermand.rpc.request_hash import request_hash
from countermand.v1.agent_pb2 import (
    CancelAttemptRequest,
    CompensateRequest,
    FenceAttemptRequest,
)
from countermand.v1.attempt_pb2 import AttemptHeader
from countermand.v1.failure_pb2 import Failure as FailureMessage
from countermand.v1.verb_pb2 import Action

# What a compensation tells of why it is: all failures of most workflows, and those nearest to the
# task of a larger one. Thousands of compensations may go out at once, and none of them may look at
# thousands of tasks.
CAUSES_MAX = 16
NODES_LOOKED_AT = 256

# Commands that are no calls, Withdraw and ChooseHost, are for lines and fleet alone.
Send = SendAction | SendCancel | SendCompensation | SendFence


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
    if isinstance(command, SendFence):
        action = action_of(workflow, command.task, attempt)
        header.request_hash = request_hash(action)
        return Call(rpc="FenceAttempt", request=FenceAttemptRequest(header=header, action=action))
    if isinstance(command, SendCompensation):
        if attempt.overriding:
            return _call(action_of(workflow, command.task, attempt), header)
        return Call(rpc="Compensate", request=_compensate(workflow, command, attempt, header))
    policy = workflow.plan.task(command.task).policy
    if policy.run_timeout is not None:
        header.run_timeout.FromTimedelta(policy.run_timeout)
    if policy.stall_timeout is not None:
        header.stall_timeout.FromTimedelta(policy.stall_timeout)
    return _call(action_of(workflow, command.task, attempt), header)


def _call(action: Action, header: AttemptHeader) -> Call:
    """Returns the call of an action's own verb."""
    header.request_hash = request_hash(action)
    verb = VERBS[str(action.WhichOneof("verb"))]
    arguments = {verb.name: getattr(action, verb.name)}
    return Call(rpc=verb.rpc, request=verb.request(header=header, **arguments))


def _compensate(
    workflow: Workflow, command: SendCompensation, attempt: Attempt, header: AttemptHeader
) -> CompensateRequest:
    made = workflow.task(command.task).attempts[attempt.compensates - 1]
    node = workflow.plan.nodes[command.task]
    request = CompensateRequest(
        compensates=attempt_name(workflow.id, node.name, made.number),
        action=action_of(workflow, command.task, made),
        output=output_of_values(field_of(workflow.plan.task(command.task).verb), made.output)
        if made.output
        else None,
    )
    # Causes are told, and no part of what is asked for: another task may fail between two
    # deliveries of one order, and the agent must know it again.
    header.request_hash = request_hash(request)
    for cause in islice(causes_of(workflow, command.task), CAUSES_MAX):
        request.causes.append(cause)
    request.header.CopyFrom(header)
    return request


def causes_of(workflow: Workflow, task: int) -> Iterator[FailureMessage]:
    """Yields why a task is made up for, each failure once: the cause first, then what is near."""
    told: set[Failure] = set()
    for failure in _failures(workflow, task):
        if failure not in told:
            told.add(failure)
            message = failure_to_proto(failure)
            assert message is not None
            yield message


def _failures(workflow: Workflow, task: int) -> Iterator[Failure]:
    if workflow.cause is not None:
        yield workflow.cause
    for above in ancestors(workflow.plan, task):
        group = workflow.nodes[above]
        if isinstance(group, Group) and group.failure is not None:
            yield group.failure
    # Nodes are numbered in the order of the tree: the nearest in number are the nearest in it.
    first = max(0, min(task - NODES_LOOKED_AT // 2, len(workflow.nodes) - NODES_LOOKED_AT))
    for node in workflow.nodes[first : first + NODES_LOOKED_AT]:
        if not isinstance(node, Group) and node.failure and node.state not in PASSED:
            yield node.failure
