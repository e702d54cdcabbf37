"""Failures, between the saga's value and the contract's message."""

from __future__ import annotations

from coordinator.saga.workflow import Failure
from countermand.v1.failure_pb2 import Failure as FailureMessage


def failure_from_proto(message: FailureMessage, *, attempt: str = "", host: str = "") -> Failure:
    """Returns a failure; attempt and host are filled in where the message names none."""
    return Failure(
        reason=message.reason,
        message=message.message,
        metadata=tuple(sorted(message.metadata.items())),
        retriable=message.retriable,
        attempt=message.attempt or attempt,
        host=message.host_id or host,
    )


def failure_to_proto(failure: Failure | None) -> FailureMessage | None:
    """Returns the message of a failure; None for none, as message constructors take it."""
    if failure is None:
        return None
    return FailureMessage(
        reason=failure.reason,
        message=failure.message,
        metadata=dict(failure.metadata),
        retriable=failure.retriable,
        attempt=failure.attempt,
        host_id=failure.host,
    )
