"""The facts that are given to the core. Past tense; time, chance and order arrive inside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from coordinator.saga.workflow import Failure, Values, no_values


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """What the world adds to an event when it is taken up."""

    time: datetime
    jitter: float  # in [0, 1), for the waits that this event causes
    intent: int  # the next free place in the coordinator's order of intents


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptAccepted:
    """The agent has the attempt in its journal."""

    task: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSucceeded:
    """The effect is durable on the host."""

    task: int
    number: int
    output: Values = field(default_factory=no_values)
    done: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed:
    """Certain: no effect is left behind. Of a compensation: the effect may still be there."""

    task: int
    number: int
    failure: Failure
    done: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptCancelled:
    """Stopped as asked; certain: no effect is left behind."""

    task: int
    number: int
    done: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptLost:
    """Nobody knows what became of it: a deadline, a broken call, a vanished agent."""

    task: int
    number: int
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptMissing:
    """The agent, in the expected incarnation, has never seen it. It may still be on its way."""

    task: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryDue:
    """The wait before the attempt of this number is over."""

    task: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    """Somebody wants the workflow stopped and made up for."""

    failure: Failure  # the cause that it would get
    version: int = 0  # of the workflow as the asker saw it; 0: any
    principal: str
    reason: str
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerChanged:
    """A coordinator took the workflow over, under a higher epoch."""

    owner_epoch: int


AttemptEvent = (
    AttemptAccepted
    | AttemptSucceeded
    | AttemptFailed
    | AttemptCancelled
    | AttemptLost
    | AttemptMissing
)
Event = AttemptEvent | RetryDue | CancelRequested | OwnerChanged
