"""What agents say of attempts, as the saga's events."""

from __future__ import annotations

from collections.abc import Callable

from coordinator.saga import events
from coordinator.wire.failure import failure_from_proto
from coordinator.wire.values import values_of_output
from countermand.v1.attempt_pb2 import Attempt

_Reader = Callable[[Attempt, int, int, str], events.AttemptEvent]


def event_from_attempt(
    attempt: Attempt, *, task: int, number: int, host: str
) -> events.AttemptEvent | None:
    """Returns what an agent's record of an attempt means; None if it means nothing new.

    The host is the one that was asked: an agent may not know what it is called.
    """
    reader = _READERS.get(attempt.state)
    return reader(attempt, task, number, host) if reader else None


def _accepted(_attempt: Attempt, task: int, number: int, _host: str) -> events.AttemptEvent:
    return events.AttemptAccepted(task=task, number=number)


def _succeeded(attempt: Attempt, task: int, number: int, _host: str) -> events.AttemptEvent:
    return events.AttemptSucceeded(
        task=task,
        number=number,
        output=values_of_output(attempt.output),
        done=attempt.progress.done,
    )


def _failed(attempt: Attempt, task: int, number: int, host: str) -> events.AttemptEvent:
    return events.AttemptFailed(
        task=task,
        number=number,
        failure=failure_from_proto(attempt.failure, attempt=attempt.name, host=host),
        done=attempt.progress.done,
    )


def _cancelled(attempt: Attempt, task: int, number: int, _host: str) -> events.AttemptEvent:
    return events.AttemptCancelled(task=task, number=number, done=attempt.progress.done)


def _unknown(attempt: Attempt, task: int, number: int, host: str) -> events.AttemptEvent:
    failure = failure_from_proto(attempt.failure, attempt=attempt.name, host=host)
    return events.AttemptLost(task=task, number=number, failure=failure)


# CANCELLING changes nothing that we did not ask for. An agent says UNKNOWN when its storage failed
# at the one moment that leaves both outcomes possible; it looks again at its next start.
_READERS: dict[int, _Reader] = {
    Attempt.STATE_ACCEPTED: _accepted,
    Attempt.STATE_RUNNING: _accepted,
    Attempt.STATE_SUCCEEDED: _succeeded,
    Attempt.STATE_FAILED: _failed,
    Attempt.STATE_CANCELLED: _cancelled,
    Attempt.STATE_UNKNOWN: _unknown,
}
