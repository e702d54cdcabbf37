"""Builders of the requests that a coordinator would send."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from countermand.rpc.request_hash import request_hash
from countermand.v1.agent_pb2 import (
    CancelAttemptRequest,
    CompensateRequest,
    CopyImageRequest,
    GetAttemptRequest,
    ServeImageRequest,
    WatchAttemptsRequest,
)
from countermand.v1.attempt_pb2 import Attempt, AttemptHeader
from countermand.v1.image_pb2 import ImageAddress
from countermand.v1.verb_pb2 import Action, CopyImage, Noop

if TYPE_CHECKING:  # only the stubs have it
    from countermand.v1.agent_pb2_grpc import AgentServiceAsyncStub


CLUSTER = "cluster-a"
OUTCOMES = {
    Attempt.STATE_SUCCEEDED,
    Attempt.STATE_FAILED,
    Attempt.STATE_CANCELLED,
    Attempt.STATE_UNKNOWN,
}


def address(text: str) -> ImageAddress:
    """Returns an image's address from "pool/image"."""
    pool_id, _, image_id = text.partition("/")
    return ImageAddress(pool_id=pool_id, image_id=image_id)


def attempt_name(task: str, number: int = 1, *, workflow: str = "w1") -> str:
    """Returns the name of a task's attempt."""
    return f"workflows/{workflow}/tasks/{task}/attempts/{number}"


def copy_action(source: str, target: str, **fields) -> Action:
    """Returns a copy from "pool/image" to "pool/image"."""
    return Action(copy_image=CopyImage(source=address(source), target=address(target), **fields))


def noop_action(failure_message: str = "") -> Action:
    """Returns an action that does nothing, or fails."""
    return Action(noop=Noop(failure_message=failure_message))


@dataclass(slots=True)
class Requests:
    """Makes requests to an agent of one incarnation."""

    incarnation: str
    cluster_id: str = CLUSTER
    owner_epoch: int = 1
    intent_sequence: int = 1

    def header(self, name: str, hashed: bytes = b"", **fields) -> AttemptHeader:
        """Returns a header; fields may be replaced."""
        spans = {name: fields.pop(name, None) for name in ("run_timeout", "stall_timeout")}
        values = {
            "attempt": name,
            "cluster_id": self.cluster_id,
            "owner_epoch": self.owner_epoch,
            "intent_sequence": self.intent_sequence,
            "request_hash": hashed,
            "expected_incarnation": self.incarnation,
        }
        header = AttemptHeader(**{**values, **fields})
        for name_of_span, span in spans.items():
            if span is not None:
                assert isinstance(span, timedelta)
                getattr(header, name_of_span).FromTimedelta(span)
        return header

    def for_action(self, name: str, action: Action, **fields) -> AttemptHeader:
        """Returns the header of an action."""
        return self.header(name, request_hash(action), **fields)

    def copy(self, name: str, action: Action, **fields) -> CopyImageRequest:
        """Asks for a copy."""
        access = fields.pop("source_access", None)
        header = self.for_action(name, action, **fields)
        return CopyImageRequest(header=header, copy_image=action.copy_image, source_access=access)

    def serve(self, name: str, source: str, **fields) -> ServeImageRequest:
        """Asks for a ticket."""
        return ServeImageRequest(header=self.header(name, **fields), address=address(source))

    def compensate(
        self, name: str, compensates: str, action: Action, **fields
    ) -> CompensateRequest:
        """Asks to make up for an attempt."""
        replacement = fields.pop("replacement", None)
        request = CompensateRequest(compensates=compensates, action=action, replacement=replacement)
        request.header.CopyFrom(self.header(name, request_hash(request), **fields))
        return request

    def cancel(self, name: str, **fields) -> CancelAttemptRequest:
        """Asks an attempt to stop."""
        return CancelAttemptRequest(header=self.header(name, **fields))


async def settled(stub: AgentServiceAsyncStub, name: str) -> Attempt:
    """Returns an attempt once it has an outcome; follows the watch, asks no clock."""
    watch = stub.WatchAttempts(WatchAttemptsRequest(after_sequence=0))
    try:
        async for message in watch:
            for update in message.updates:
                if update.attempt.name == name and update.attempt.state in OUTCOMES:
                    answer = await stub.GetAttempt(GetAttemptRequest(name=name))
                    return answer.attempt
    finally:
        watch.cancel()
    raise AssertionError(f"the watch ended before {name} had an outcome")
