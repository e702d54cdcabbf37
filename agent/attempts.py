"""What an agent knows of an attempt, how it moves, and whether a request may begin one.

Pure: no clock, no I/O, no await. The runner brings what the journal knows, asks `admit`, and writes
down what was decided, all in one transaction. Requests, outputs and failures are opaque bytes here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from countermand.rpc import names
from countermand.rpc.errors import (
    AttemptReused,
    Busy,
    Compensated,
    CountermandError,
    Expired,
    Fenced,
    IncarnationChanged,
    WrongCluster,
)

# Long enough for a no-op to leave the queue, short enough to keep a slot from standing empty.
RETRY_DELAY = timedelta(seconds=1)


class Kind(StrEnum):
    """What an attempt tries."""

    ACTION = "ACTION"
    COMPENSATION = "COMPENSATION"


class State(StrEnum):
    """Where an attempt is in its life at the agent."""

    ACCEPTED = "ACCEPTED"  # journalled; waits for a slot
    RUNNING = "RUNNING"  # works
    CANCELLING = "CANCELLING"  # asked to stop; the last I/O has not ended
    SUCCEEDED = "SUCCEEDED"  # the effect is durable
    FAILED = "FAILED"  # certain: no effect is left behind
    CANCELLED = "CANCELLED"  # stopped as asked; certain: no effect is left behind
    UNKNOWN = "UNKNOWN"  # never received but tombstoned, or the storage did not say


OPEN = frozenset({State.ACCEPTED, State.RUNNING, State.CANCELLING})


class Event(StrEnum):
    """What may happen to an attempt."""

    STARTED = "STARTED"
    CANCEL_ASKED = "CANCEL_ASKED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"
    LOST = "LOST"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.ACCEPTED, Event.STARTED): State.RUNNING,
    (State.ACCEPTED, Event.CANCEL_ASKED): State.CANCELLED,  # nothing to wait for
    (State.ACCEPTED, Event.STOPPED): State.CANCELLED,  # its tombstone came while it waited
    (State.RUNNING, Event.CANCEL_ASKED): State.CANCELLING,
    (State.RUNNING, Event.SUCCEEDED): State.SUCCEEDED,
    (State.RUNNING, Event.FAILED): State.FAILED,
    (State.RUNNING, Event.STOPPED): State.CANCELLED,  # stopped by its tombstone
    (State.RUNNING, Event.LOST): State.UNKNOWN,
    (State.CANCELLING, Event.SUCCEEDED): State.SUCCEEDED,  # the cancel lost the race
    (State.CANCELLING, Event.FAILED): State.FAILED,  # it failed before it saw the flag
    (State.CANCELLING, Event.STOPPED): State.CANCELLED,
    (State.CANCELLING, Event.LOST): State.UNKNOWN,
    (
        State.UNKNOWN,
        Event.STOPPED,
    ): State.CANCELLED,  # its compensation has looked, and made up for it
    (State.UNKNOWN, Event.STARTED): State.RUNNING,  # the agent looks again
}

# Facts that come too late: they change nothing. Anything else outside the table is a bug.
LATE = frozenset(
    {(state, Event.CANCEL_ASKED) for state in State if state not in {State.ACCEPTED, State.RUNNING}}
    | {(state, Event.STARTED) for state in State if state not in {State.ACCEPTED, State.UNKNOWN}}
    | {(state, Event.STOPPED) for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED)}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """An attempt as the agent's journal holds it."""

    name: str
    kind: Kind
    compensates: str = ""  # of a compensation: the attempt that it makes up for
    request: bytes  # the Action, or the CompensateRequest without its header
    request_hash: bytes
    state: State
    output: bytes = b""
    failure: bytes = b""
    note: str = ""  # what the verb wants to find again after a crash, such as a durable offset
    done_bytes: int = 0
    total_bytes: int = 0
    # The compensation was accepted: it may never start, nor show an effect again.
    tombstoned: bool = False
    # False of a name that is only known by its tombstone.
    received: bool = True
    owner_epoch: int
    intent_sequence: int
    run_timeout: timedelta | None = None
    stall_timeout: timedelta | None = None
    traceparent: str = ""
    tracestate: str = ""
    create_time: datetime
    start_time: datetime | None = None
    end_time: datetime | None = None
    sequence: int = 0  # of the journal's last change to it; given by the journal

    @property
    def workflow(self) -> str:
        """Returns the name of its workflow."""
        parts = names.parse_attempt(self.name)
        assert parts is not None, self.name
        return parts.workflow

    @property
    def is_open(self) -> bool:
        """Returns whether it has no outcome yet."""
        return self.state in OPEN


def can_look_again(record: AttemptRecord) -> bool:
    """Returns whether an attempt's own work may find out how it ended; else its compensation."""
    return record.state is State.UNKNOWN and record.received and not record.tombstoned


def move(
    record: AttemptRecord,
    event: Event,
    *,
    now: datetime,
    output: bytes = b"",
    failure: bytes = b"",
) -> AttemptRecord:
    """Returns the attempt after an event; the same one when the event comes too late."""
    if (record.state, event) in LATE:
        return record
    state = TRANSITIONS[record.state, event]
    return replace(
        record,
        state=state,
        output=output,
        failure=failure,
        # Of the first start: a run timeout counts from there, however often it is taken up again.
        start_time=record.start_time or (now if event is Event.STARTED else None),
        end_time=None if state in OPEN else now,
    )


# -- admission ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a request says of itself."""

    attempt: str
    cluster_id: str
    owner_epoch: int
    intent_sequence: int
    request_hash: bytes
    expected_incarnation: str
    run_timeout: timedelta | None = None
    stall_timeout: timedelta | None = None
    traceparent: str = ""
    tracestate: str = ""

    @property
    def workflow(self) -> str:
        """Returns the name of the workflow."""
        parts = names.parse_attempt(self.attempt)
        assert parts is not None, self.attempt
        return parts.workflow


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalFacts:
    """What the journal knows that bears on one request."""

    cluster_id: str  # empty until the first coordinator spoke
    incarnation: str
    highest_epoch: int
    low_watermark: int
    attempt: AttemptRecord | None
    fence_low_watermark: int = 0


class Place(StrEnum):
    """Where a new attempt would go."""

    SLOT = "SLOT"
    QUEUE = "QUEUE"
    FULL = "FULL"


@dataclass(frozen=True, slots=True)
class Admit:
    """The attempt begins."""


@dataclass(frozen=True, slots=True)
class Join:
    """The attempt is known: its recorded state is the answer."""

    record: AttemptRecord


@dataclass(frozen=True, slots=True)
class Refuse:
    """The attempt does not begin."""

    error: CountermandError
    # Whether the caller proved to be in charge: its epoch is remembered all the same.
    in_charge: bool = False


Decision = Admit | Join | Refuse


def challenge(header: Header, facts: JournalFacts) -> CountermandError | None:
    """Returns why the caller is not the one to give orders to this agent, or None."""
    if facts.cluster_id and header.cluster_id != facts.cluster_id:
        return WrongCluster(expected=facts.cluster_id, cluster_id=header.cluster_id)
    if header.expected_incarnation != facts.incarnation:
        return IncarnationChanged(
            incarnation=facts.incarnation, expected=header.expected_incarnation
        )
    if header.owner_epoch < facts.highest_epoch:
        return Fenced(
            owner_epoch=header.owner_epoch, workflow=header.workflow, highest=facts.highest_epoch
        )
    return None


def is_late(header: Header, facts: JournalFacts) -> bool:
    """Returns whether a request is about something that may have been forgotten."""
    return facts.attempt is None and header.intent_sequence < facts.low_watermark


def admit(
    header: Header, facts: JournalFacts, *, place: Place, refusal: CountermandError | None = None
) -> Decision:
    """Decides whether a request begins an attempt; the order of the checks is the contract's.

    `refusal` is why this host cannot do such a thing at all. It comes after the known attempt, so
    that a pool taken out of service never hides what was already done in it.
    """
    if error := challenge(header, facts):
        return Refuse(error)
    known = facts.attempt
    if known is not None and known.received:
        if known.request_hash == header.request_hash:
            return Join(known)
        return Refuse(AttemptReused(attempt=header.attempt), in_charge=True)
    if known is not None:
        return Refuse(Compensated(attempt=header.attempt), in_charge=True)
    if is_late(header, facts):  # whoever was in charge then may not be any more
        return Refuse(Expired(attempt=header.attempt))
    if refusal is not None:
        return Refuse(refusal, in_charge=True)
    if place is Place.FULL:
        return Refuse(Busy(retry_delay=RETRY_DELAY))
    return Admit()


def begin(
    header: Header, *, kind: Kind, request: bytes, compensates: str, place: Place, now: datetime
) -> AttemptRecord:
    """Returns the record of an attempt that was admitted."""
    running = place is Place.SLOT  # both changes in one commit when nothing is to be waited for
    return AttemptRecord(
        name=header.attempt,
        kind=kind,
        compensates=compensates,
        request=request,
        request_hash=header.request_hash,
        state=State.RUNNING if running else State.ACCEPTED,
        owner_epoch=header.owner_epoch,
        intent_sequence=header.intent_sequence,
        run_timeout=header.run_timeout,
        stall_timeout=header.stall_timeout,
        traceparent=header.traceparent,
        tracestate=header.tracestate,
        create_time=now,
        start_time=now if running else None,
    )


def bury(
    known: AttemptRecord | None, *, name: str, header: Header, request: bytes, now: datetime
) -> AttemptRecord:
    """Returns the attempt with its tombstone, whether or not it was ever received."""
    if known is not None:
        return replace(known, tombstoned=True)
    return AttemptRecord(
        name=name,
        kind=Kind.ACTION,
        request=request,
        request_hash=b"",
        state=State.UNKNOWN,  # until its compensation has looked at the storage
        tombstoned=True,
        received=False,
        owner_epoch=header.owner_epoch,
        # The compensation's, which is higher than the action's own: the tombstone is kept longer.
        intent_sequence=header.intent_sequence,
        create_time=now,
        end_time=now,
    )
