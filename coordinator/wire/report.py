"""What agents say of attempts, as the saga's events."""

from __future__ import annotations

from collections.abc import Callable

from coordinator.saga import events
from coordinator.wire.failure import failure_from_proto
from coordinator.wire.values import values_of_output
from countermand.v1.attempt_pb2 import Attempt

_Reader = Callable[[Attempt, int, int], events.AttemptEvent]


def event_from_attempt(attempt: Attempt, task: int, number: int) -> events.AttemptEvent | None:
    """Returns what an agent's record of an attempt means; None if it means nothing new."""
    reader = _READERS.get(attempt.state)
    return reader(attempt, task, number) if reader else None


def _accepted(_attempt: Attempt, task: int, number: int) -> events.AttemptEvent:
    return events.AttemptAccepted(task=task, number=number)


def _succeeded(attempt: Attempt, task: int, number: int) -> events.AttemptEvent:
    return events.AttemptSucceeded(
        task=task,
        number=number,
        output=values_of_output(attempt.output),
        done=attempt.progress.done,
    )


def _failed(attempt: Attempt, task: int, number: int) -> events.AttemptEvent:
    return events.AttemptFailed(
        task=task,
        number=number,
        failure=failure_from_proto(attempt.failure, attempt=attempt.name, host=attempt.host_id),
        done=attempt.progress.done,
    )


def _cancelled(attempt: Attempt, task: int, number: int) -> events.AttemptEvent:
    return events.AttemptCancelled(task=task, number=number, done=attempt.progress.done)


# An agent never says UNKNOWN of its own journal; CANCELLING changes nothing we did not ask for.
_READERS: dict[int, _Reader] = {
    Attempt.STATE_ACCEPTED: _accepted,
    Attempt.STATE_RUNNING: _accepted,
    Attempt.STATE_SUCCEEDED: _succeeded,
    Attempt.STATE_FAILED: _failed,
    Attempt.STATE_CANCELLED: _cancelled,
}
