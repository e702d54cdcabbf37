"""What is written into a workflow's history: one entry for every change of state."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from coordinator.saga.states import (
    AttemptKind,
    AttemptState,
    GroupState,
    TaskState,
    WorkflowState,
)
from coordinator.saga.workflow import BYTES, Failure, Inbound


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowStarted:
    """The workflow was accepted."""

    kind: str = ""
    principal: str = ""
    traceparent: str = ""
    sampled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowMoved:
    """The workflow's state changed."""

    before: WorkflowState
    after: WorkflowState
    cause: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMoved:
    """A task's state changed."""

    before: TaskState
    after: TaskState
    attempt: int = 0
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMoved:
    """What became of a group, beside its members' own states."""

    before: GroupState
    after: GroupState
    round: int
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStarted:
    """An intent was committed: the attempt may be on its way."""

    attempt: int
    kind: AttemptKind
    host: str
    owner_epoch: int
    compensates: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnded:
    """An attempt's outcome was recorded, or for the time being that it is unknown."""

    attempt: int
    state: AttemptState
    failure: Failure | None = None
    done: int = 0
    unit: str = BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptAccepted:
    """An owner has taken on the attempt of a compensation; of an action its task's move tells."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAdded:
    """A vendor added an external task."""

    parent: int  # the node that it was added under
    owner: str
    kind: str
    principal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceMoved:
    """Another host is to settle an attempt; none, when that one cannot and its own is asked."""

    attempt: int
    host: str
    failure: Failure | None = None  # why it cannot


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryScheduled:
    """A further attempt will follow."""

    attempt: int
    delay: timedelta
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervened:
    """Somebody asked for a change, or a policy paused."""

    verb: str
    principal: str
    reason: str
    request_id: str
    changes: tuple[Inbound, ...] = ()  # values that were given, with what they replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class LocksTaken:
    """The workflow holds every image that its terms name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftBehind:
    """An effect was knowingly left."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerMoved:
    """A coordinator took the workflow over."""

    owner_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedLate:
    """Something said about an attempt contradicts what is known, and changed nothing."""

    attempt: int
    state: AttemptState


Fact = (
    WorkflowStarted
    | WorkflowMoved
    | TaskMoved
    | GroupMoved
    | AttemptStarted
    | AttemptAccepted
    | AttemptEnded
    | TaskAdded
    | FenceMoved
    | RetryScheduled
    | Intervened
    | LocksTaken
    | LeftBehind
    | OwnerMoved
    | ReportedLate
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One fact at its place in a workflow's history."""

    sequence: int
    time: datetime
    task: int = -1  # the node it is about; -1 for the workflow itself
    fact: Fact
