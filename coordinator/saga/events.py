"""The facts that are given to the core. Past tense; time, chance and order arrive inside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from coordinator.saga.commands import Timer
from coordinator.saga.spec import Lock, TaskSpec
from coordinator.saga.workflow import BYTES, Failure, Values, no_values


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
    unit: str = BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed:
    """Certain: no effect is left behind. Of a compensation: the effect may still be there."""

    task: int
    number: int
    failure: Failure
    done: int = 0
    unit: str = BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptCancelled:
    """Stopped as asked; certain: no effect is left behind."""

    task: int
    number: int
    done: int = 0
    unit: str = BYTES


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
class AttemptRecalled:
    """Certain: it was taken back from the line before its host, and has never been sent."""

    task: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceRefused:
    """The host that was to fence an attempt of another cannot; nothing is known of the attempt."""

    task: int
    number: int
    host: str
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerSilent:
    """The owner of an external task does not do what it was asked; its attempt stays open."""

    task: int
    number: int
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired:
    """A time that was asked for has come."""

    timer: Timer
    task: int = -1  # -1: of the whole workflow
    number: int = 0  # of the attempt that it is about: the coming one for DUE


@dataclass(frozen=True, slots=True, kw_only=True)
class HostChosen:
    """A host was found for a task that leaves the choice to the coordinator."""

    task: int
    number: int  # of the attempt to come
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LocksGranted:
    """Its turn in line has come: it holds every image that its terms name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Who asks for something, why, and what they had seen."""

    principal: str
    reason: str
    request_id: str
    version: int = 0  # of the workflow as the asker saw it; 0: any


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    """Somebody wants the workflow stopped and made up for."""

    ask: Ask
    failure: Failure  # the cause that it would get


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseRequested:
    """Somebody wants nothing new to start."""

    ask: Ask
    hold_compensation: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """Run a failed task again, or what failed in a group; of one that waits, change its values."""

    task: int  # a leaf or a group
    patch: Values = field(default_factory=no_values)  # fields of the action, by path
    items: tuple[int, ...] = ()  # of a fan-out: only these; empty: all that failed
    reset: bool = False  # of a group: all of it, what succeeded is made up for first
    host: str = ""  # another host than before


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """Go on from what comes after a task."""

    task: int
    output: Values = field(default_factory=no_values)


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Make up for the whole workflow, because of this task."""

    task: int


Choice = Rerun | Skip | GiveUp


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequested:
    """Somebody wants a held workflow to go on, with one choice per task that needs one."""

    ask: Ask
    choices: tuple[Choice, ...] = ()
    input: Values = field(default_factory=no_values)  # changed fields of the input, by path
    locks: tuple[Lock, ...] = ()  # of images that it names and that are not held yet


class CompensationVerb(StrEnum):
    """What an operator may decide about a compensation."""

    RETRY = "retry-compensation"
    REPLACE = "replace-compensation"
    MARK_DONE = "mark-compensated"
    ABANDON = "abandon"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompensationDecided:
    """Somebody decides about one task that cannot be made up for by itself."""

    ask: Ask
    task: int
    verb: CompensationVerb
    replacement: bytes = b""  # of REPLACE: the action to send instead
    locks: tuple[Lock, ...] = ()  # of images that it names and that are not held yet


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceRequested:
    """Somebody wants an attempt settled by another host that reaches the same storage."""

    ask: Ask
    task: int
    host: str  # which


@dataclass(frozen=True, slots=True, kw_only=True)
class AddRequested:
    """A vendor wants a task added to an open group, or under an external task of its own."""

    ask: Ask
    spec: TaskSpec
    parent: int  # the group that it becomes a member of
    under: int = -1  # the external task that it is a part of


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRequested:
    """An owner ends an external task of its own, and with it what was added under it."""

    ask: Ask
    said: AttemptSucceeded | AttemptFailed | AttemptCancelled
    force: bool = False  # what is open under it is closed


@dataclass(frozen=True, slots=True, kw_only=True)
class EndAllRequested:
    """An owner ends a workflow of its own."""

    ask: Ask
    failure: Failure | None = None  # why it did not succeed
    force: bool = False  # what is open is closed


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerChanged:
    """A coordinator took the workflow over, under a higher epoch."""

    owner_epoch: int
    # Whoever let it go on with a store that went back in time: an operator decides what follows.
    hold: Ask | None = None


AttemptEvent = (
    AttemptAccepted
    | AttemptSucceeded
    | AttemptFailed
    | AttemptCancelled
    | AttemptLost
    | AttemptMissing
    | AttemptRecalled
    | FenceRefused
)
Request = (
    CancelRequested
    | PauseRequested
    | ResumeRequested
    | CompensationDecided
    | FenceRequested
    | AddRequested
    | EndRequested
    | EndAllRequested
)
Event = AttemptEvent | OwnerSilent | TimerFired | HostChosen | LocksGranted | Request | OwnerChanged
