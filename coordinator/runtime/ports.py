"""What the runtime needs of the world: the store, the agents, the clock, chance.

Protocols only. Each has a real implementation and, where tests need one, a fake that passes the
same conformance suite. Nothing here knows gRPC or SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from coordinator.runtime.floors import Common, Floor
from coordinator.runtime.locks import Standing
from coordinator.saga.commands import (
    ChooseHost,
    Recall,
    SendAction,
    SendCancel,
    SendCompensation,
    SendFence,
    Withdraw,
)
from coordinator.saga.history import Entry
from coordinator.saga.states import SETTLED, TaskState, WorkflowState
from coordinator.saga.workflow import About, Decided, Failure, Retention, Workflow
from countermand.rpc.errors import Bug, StoreUnavailable

SESSION_LASTS = timedelta(seconds=15)  # without being renewed


class StoreError(StoreUnavailable):
    """The coordinator's store failed: {why}. Look at its disk and at the coordinator's log."""

    def __init__(self, why: str) -> None:
        """Keeps why; nothing of what was asked is visible."""
        super().__init__(why=why)


class StoreConflictError(StoreError):
    """The store did not find what the coordinator expected: {why}."""


class UsedIdError(StoreConflictError):
    """The store does not give a workflow id twice: {why}. Choose another workflow id."""


class StoreFencedError(StoreConflictError):
    """This coordinator's session is over, others go on with its workflows: {why}. It stops."""


class StoreRewoundError(StoreFencedError):
    """The store went back in time: {why}. What agents have acted on is missing in it."""


class ImagesHeldError(StoreConflictError):
    """A workflow cannot hold its images now: {why}."""

    def __init__(self, workflow_id: str, standing: tuple[Standing, ...]) -> None:
        """Keeps who is in the way, all of them other coordinators' workflows."""
        self.workflow_id = workflow_id
        self.standing = standing
        super().__init__(f"{standing[0].workflow_id!r} is in the way of {workflow_id!r}")


class StoreRefusedError(StoreError):
    """The store does not take what was to be written: {why}. Please report it, with the log."""

    # Unlike the others it would be refused again and again: a defect of ours.
    code = Bug.code
    reason = Bug.reason
    retriable = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What a coordinator learns when it opens its store."""

    cluster_id: str  # made at the first opening, never changes
    owner_epoch: int  # of this life of the coordinator, and its session: higher than any before
    next_intent: int  # higher than any ever committed
    token_key: str = field(repr=False)  # made at the first opening; known to the store only
    intents_end: int | None = None  # no intent may reach it before more are taken; None: none ends
    recovery: Recovery | None = None  # why nothing is to be decided in this life; None: all is well
    recovered: Recovered | None = None  # the last time that it went back


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """That the store went back in time, and waits for an operator."""

    why: str
    notice_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """That an operator has let coordinators go on with a store that went back in time.

    What was open then is under a lower epoch: it is paused by whoever takes it over.
    """

    owner_epoch: int  # higher than any that was given before, also of those that are not known
    next_intent: int  # likewise
    principal: str
    reason: str
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The highest that was given, as last committed."""

    owner_epoch: int
    next_intent: int  # higher than any intent that was ever committed
    # What nobody was ever given: it was left out when the last of all had ended and the first of
    # those that live now began, so that what was lost before is told from what was sent since.
    left_out: range = range(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Open workflows that nobody owned and that this coordinator does now."""

    owner_epoch: int  # higher than any that one of them had
    workflows: tuple[Stored, ...]  # in order of creation, under the epoch of who had them before
    floor: Floor  # of those who had them


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One life of a coordinator, as all that share the store see it."""

    id: int
    name: str  # where it is, for people
    start_time: datetime
    ended: bool  # it lapsed or was ended; what it owned is claimed by the others


class SessionState(StrEnum):
    """Where a session is, as in the contract."""

    ALIVE = "ALIVE"
    LAPSED = "LAPSED"  # it was not renewed in time: somebody ends it soon
    ENDED = "ENDED"  # and is gone once all that it owned has been claimed


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionView:
    """A session as it stands now, by the store's clock."""

    id: int
    name: str  # where its coordinator is, for people
    version: str  # of its coordinator
    schema: str  # the newest revision that its coordinator knows
    state: SessionState
    own: bool  # it is the session of who asks
    keeps_house: bool
    workflows: int  # open ones that it owns
    start_time: datetime
    expire_time: datetime | None  # when it lapses, unless it is renewed; None: nobody else can


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What was handed in when a workflow was started; opaque here, and never changed."""

    spec: bytes
    input: bytes
    hash: bytes  # over both: tells a repeat from a clash


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that was answered by a change: a repeat of it is not done again."""

    request_id: str
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One decision, to be committed whole."""

    workflow: Workflow  # as decided
    version_before: int  # 0 for a new workflow: compared with the row
    history: tuple[Entry, ...]
    changed: frozenset[int]  # the nodes whose record differs; all of a new workflow count
    submission: Submission | None = None  # of a new workflow
    request: Request | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRecord:
    """A host as the store keeps it."""

    id: str
    address: str
    draining: bool = False
    incarnation: str = ""  # empty until its agent has been heard
    # Of its journal: the highest that was heard of, as of some seconds ago; 0 if none was.
    heard_sequence: int = 0
    # The pools it had and which storage each was, by their ids; None if that was never heard.
    pools: tuple[tuple[str, str], ...] | None = None
    # Attempts with a lower intent may have been in a journal that is lost: that its agent does not
    # have them proves nothing.
    lost_intent: int = 0
    # Of those, the ones about which an operator has said that what is lost is gone.
    accepted_intent: int = 0
    held: str = ""  # why nothing is sent to it until an operator accepts it; empty if nothing is
    create_time: datetime


class HostChange(StrEnum):
    """What was done to a host, as in the contract."""

    ADDED = "ADDED"
    REMOVED = "REMOVED"
    DRAINED = "DRAINED"
    UNDRAINED = "UNDRAINED"
    ACCEPTED = "ACCEPTED"
    RECONCILED = "RECONCILED"  # by itself, with a journal that is another one
    REPAIR_BEGUN = "REPAIR_BEGUN"  # written before anything is touched
    REPAIRED = "REPAIRED"
    REPAIR_REFUSED = "REPAIR_REFUSED"  # what it was about is as it was


class WebhookChange(StrEnum):
    """What was done to a webhook, as in the contract."""

    ADDED = "ADDED"
    REMOVED = "REMOVED"
    RESUMED = "RESUMED"
    SECRET_ROTATED = "SECRET_ROTATED"  # noqa: S105 - a word


class StoreChange(StrEnum):
    """What was done to the store itself."""

    RECOVERY_REQUIRED = "RECOVERY_REQUIRED"
    RECOVERED = "RECOVERED"


STORE = "store"  # the subject of these


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One record of the audit: who did what, and why. Never changed, nor removed."""

    subject: str  # the name of what it was done to: hosts/{host}, webhooks/{webhook}, STORE
    change: HostChange | WebhookChange | StoreChange
    time: datetime
    principal: str
    reason: str = ""
    # Of a repair, the name of its finding; of a webhook that was resumed, from where, if said.
    detail: str = ""
    failure: Failure | None = None  # why a repair was refused
    position: int = 0  # among all of them, once it is stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A workflow as loaded, with its counters restored."""

    workflow: Workflow
    submission: Submission


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry:
    """One entry of some workflow's history, with its place among all of them."""

    workflow_id: str
    sequence: int
    position: int
    payload: bytes  # as the contract puts it on the wire: a serialized HistoryEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowQuery:
    """Which workflows to list; newest first."""

    states: frozenset[WorkflowState] = frozenset()  # empty: all
    labels: tuple[tuple[str, str], ...] = ()
    host: str = ""  # a task names it, or was last placed there
    kind: str = ""
    created_before: datetime | None = None
    # Open ones that are PAUSED, BLOCKED or QUARANTINED, or have a task that needs somebody.
    needs_attention: bool = False
    id_prefix: str = ""
    limit: int = 50
    after: str = ""  # the opaque token of the page before


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftoverSummary:
    """One effect that a settled workflow left, told without its plan."""

    task: str  # its name in the plan
    attempt: int  # 0: of nobody's attempt
    host: str
    verb: str
    reason: str
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowSummary:
    """What lists show of a workflow: read without its plan, tasks and attempts."""

    id: str
    about: About  # without its input
    state: WorkflowState
    version: int
    sequence: int
    owner_epoch: int
    cause: Failure | None
    verdict: WorkflowState | None
    locked: bool
    pause: Decided | None
    create_time: datetime
    update_time: datetime
    end_time: datetime | None
    counts: Mapping[TaskState, int]  # of its tasks, end actions included; no zeros
    needs: int  # tasks that need somebody
    done: int  # bytes that its actions have done, of those that succeeded
    leftovers: tuple[LeftoverSummary, ...]  # once it is settled
    retention: Retention

    @property
    def settled(self) -> bool:
        """Returns whether it is in a final state."""
        return self.state in SETTLED


Known = Callable[[str], bool]  # of a workflow's id; asked from any thread


def nobody(_: str) -> bool:
    """Returns that a workflow is not known."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowPage:
    """One page of a list."""

    workflows: tuple[WorkflowSummary, ...]
    next: str = ""  # empty at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressRecord:
    """What the owner of an external task last reported of an attempt that is at work."""

    workflow_id: str
    task: int
    number: int
    done: int
    total: int  # 0: not known
    unit: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """Whose an open workflow is."""

    session: int
    ended: bool  # that session has; the workflow is nobody's until it is claimed
    own: bool  # it is the session of who asks


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A call that another session is to answer, since it owns what the call is about."""

    id: str  # chosen by who posts it; never used again
    session: int  # whom it is for
    method: str  # "countermand.v1.WorkflowService/PauseWorkflow"
    request: bytes  # serialized
    metadata: tuple[tuple[str, str], ...] = ()  # of the call: who asks, its trace context


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterAnswer:
    """What became of a letter."""

    letter: str  # its id
    answer: bytes = b""  # a serialized answer
    status: bytes = b""  # a serialized google.rpc.Status, if it was refused; else empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An attempt of an external task that waits for its owner, told without its workflow."""

    workflow_id: str
    name: str  # the attempt's
    owner: str
    intent: int
    state: TaskState  # of its task
    accepted: bool
    create_time: datetime


LETTERS_LAST = timedelta(minutes=10)  # in the store, answered or not; nobody waits as long
LETTER_BYTES_MAX = 4 * 1024 * 1024  # of a request and of an answer: as much as gRPC carries


class Store(Protocol):
    """Durable state. What `commit` has returned from is never lost.

    One that is shared is open to several coordinators at the same time. Each has a session there;
    an open workflow belongs to the session that started or claimed it, until that has ended.
    """

    @property
    def shared(self) -> bool:
        """Returns whether other coordinators may have it open."""

    async def open(self) -> Opening:
        """Prepares the store, begins a session, and returns what a coordinator needs to begin.

        In a store that is not shared every earlier session has ended by that, and every open
        workflow belongs to the new one.
        """

    async def claim(self, limit: int) -> Claim | None:
        """Takes over open workflows whose owner's session has ended; None if there are none.

        At most so many, the oldest first. A session that has lapsed is ended by it. Nobody else
        can write them from now on. Raises StoreFencedError when the own session has ended.
        """

    async def renew(self, lasts: timedelta, floor: Floor) -> tuple[Session, ...]:
        """Lets the session last so long from now, by the store's clock; returns all of them.

        An ended one is among them for as long as anything is left that it owned; and whoever claims
        some of that has its floor lowered to that of the one who had it. Raises StoreFencedError
        when the own session has ended.
        """

    async def floors(self) -> Common:
        """Returns what the floors of all sessions come to, the own one as it was last told."""

    async def end_session(self) -> None:
        """Ends the own session: what it owns may be claimed at once. Again is a success."""

    async def keep_house(self) -> int:
        """Returns the session that does what only one does for all: retention, webhooks, traces.

        It is the own one from now on if that one's has ended. Raises StoreFencedError when the own
        session has ended.
        """

    async def house(self) -> Ownership:
        """Returns which session keeps the house, as last committed; only a shared store is asked.

        Nobody does so far if that session has ended.
        """

    async def sessions(self) -> list[SessionView]:
        """Returns all sessions, the oldest first; of a store that is not shared the own one."""

    async def end_standstills(self) -> int:
        """Ends transactions that others have begun and stand still in; returns how many.

        They hold up everybody: no session of whoever waits could be renewed in time. Only a shared
        store is asked. What they have written is not there then.
        """

    async def take_intents(self) -> tuple[int, int]:
        """Returns further intents, as first and end: higher than any that were given before."""

    # -- a store that went back in time -----------------------------------------------------------

    async def given(self) -> Given:
        """Returns the highest epoch and intent that were given, as committed by now.

        Whoever has heard of a higher one before this was asked has heard of what is lost.
        """

    async def recovery(self) -> Recovery | None:
        """Returns why nothing is to be decided, as last committed; None if all is well."""

    async def require_recovery(self, why: str) -> bool:
        """Ends every session and has nobody decide anything until `recover`; audited.

        In the name of who noticed it, whose session may have ended. Returns whether it is required
        now: not if the store was recovered since the own session began, which answers it. Again is
        a success.
        """

    async def recover(
        self, principal: str, reason: str, heard: Given | None = None
    ) -> Recovered | None:
        """Lets coordinators go on above all that was ever given, and ends every session; audited.

        Also above what agents say that they have heard of: the same backup may have been put back
        before. None if nothing is required.
        """

    async def standing(self, workflow_ids: Sequence[str]) -> Mapping[str, tuple[Standing, ...]]:
        """Returns who is in the way of own workflows that wait in line for images, by these.

        That is, of other sessions' workflows that name one of the images and cannot share it, those
        that hold theirs and those that were created before.
        """

    async def commit(self, changes: Sequence[Change]) -> None:
        """Makes changes durable, all or none.

        Raises StoreConflictError when a version is not as said, or a workflow id is taken, as
        UsedIdError if by one that has been removed, as StoreFencedError if the own session has
        ended or another one owns the workflow, as ImagesHeldError if a workflow is to hold images
        in which another session's is in the way; StoreRefusedError when a change breaks a
        constraint, and would again; StoreError when the store failed. Nothing is visible then.
        """

    # -- between sessions ------------------------------------------------------------------------

    async def owners_of(self, workflow_ids: Sequence[str]) -> Mapping[str, Ownership]:
        """Returns whose some workflows are; those that are not open, or do not exist, are left out.

        As last committed: one that is started, claimed or settled meanwhile is another's, or
        nobody's, by the time that it is looked at.
        """

    async def post(self, letters: Sequence[Letter]) -> None:
        """Puts letters into the inboxes of sessions, behind what is there; all or none.

        Whether a session has ended is not looked at: it is for who posts to find out. A letter
        whose id is there already is the same one, and is not posted again.
        """

    async def letters(self, limit: int) -> list[Letter]:
        """Returns the first letters for the own session that are not answered yet, in order.

        That is the order in which they were posted, as far as one was posted before another was;
        at most so many. Reading takes none away: who reads again gets the same ones until they are
        answered or removed. Raises StoreFencedError when the own session has ended.
        """

    async def answer(self, answers: Sequence[LetterAnswer]) -> None:
        """Answers letters for the own session, all or none.

        What is gone is left out, and what is answered keeps its first answer. Raises
        StoreFencedError when the own session has ended: no letter is answered then.
        """

    async def answers(self, letter_ids: Sequence[str]) -> list[LetterAnswer]:
        """Returns the answers of those of some letters that have been answered, in any order."""

    async def remove_letters(self, letter_ids: Sequence[str]) -> None:
        """Removes letters, answered or not, whoever posted them; absent ones are a success."""

    async def remove_old_letters(self) -> None:
        """Removes letters that were posted more than LETTERS_LAST ago, by the store's clock.

        Whoever posted them, and whomever they are for: sessions end before they have removed what
        they posted. Anybody may ask for it, at any time.
        """

    async def moves(self, *, after: int, limit: int) -> list[tuple[str, int]]:
        """Returns whose entries follow a position, as workflow id and position, in order.

        As `events` without what they say: every entry once, whosesoever. Nothing that becomes
        visible later has a lower position than what was returned.
        """

    async def asked(
        self,
        *,
        owner: str = "",
        after: int = 0,
        limit: int,
        workflow_ids: Collection[str] | None = None,
    ) -> list[Asked]:
        """Returns attempts of open workflows, whosesoever, that wait for an owner.

        That is the last attempt of an external task, if its outcome is open and its task in flight
        or being compensated. In order of their intents, from after one on; at most so many. Of all
        owners if none is said, and of all open workflows, or of those among some.
        """

    async def open_naming(self, host_ids: Collection[str]) -> list[Stored]:
        """Returns all open workflows, whosesoever, that have to do with one of some hosts.

        That is, a task of theirs names it, or had an attempt there, or one that it fenced: those of
        which `coordinator.runtime.draining.names` is true. In order of creation.
        """

    async def load_open(self) -> list[Stored]:
        """Returns every workflow that is not settled, in order of creation."""

    async def load(self, workflow_id: str) -> Stored | None:
        """Returns one workflow, settled or not; None if there is none. Costs all of its tasks."""

    async def submission(self, workflow_id: str) -> Submission | None:
        """Returns what was handed in, without what has become of it; None if there is none."""

    async def version(self, workflow_id: str) -> int:
        """Returns the version of a workflow, 0 if there is none."""

    async def query(self, query: WorkflowQuery, known: Known = nobody) -> WorkflowPage:
        """Returns one page of workflows; costs what is on it, however many are stored.

        Of open ones that the caller knows by itself, the tasks need not be counted.
        """

    async def expire(self, *, before: datetime, limit: int) -> int:
        """Removes workflows that settled before a time, and all that is kept but their ids.

        What is to go at once goes first, as soon as every webhook that is not disabled was told of
        it; what is kept until it is cleared stays. The oldest go first, at most `limit`; returns
        how many went. Positions of their events stay gaps. Raises
        StoreFencedError when the session has ended.
        """

    async def clear(self, workflow_id: str) -> None:
        """Removes one settled workflow, as `expire` would; an absent one is a success."""

    async def note_progress(self, records: Sequence[ProgressRecord]) -> None:
        """Notes what owners reported of some attempts, all or none; the last counts."""

    async def progress(self) -> list[ProgressRecord]:
        """Returns what owners have reported of attempts of open workflows."""

    async def history(self, workflow_id: str, *, after: int, limit: int) -> list[StoredEntry]:
        """Returns a workflow's entries after a sequence, in order."""

    async def own_history(self, workflow_id: str, *, after: int, limit: int) -> list[StoredEntry]:
        """Returns those of them that are about no task; all others are read for it."""

    async def events(self, *, after: int, limit: int) -> list[StoredEntry]:
        """Returns entries of all workflows after a position, in order."""

    async def position(self) -> int:
        """Returns the highest position ever given, 0 if there was none."""

    async def position_of(self, reader: str) -> int | None:
        """Returns how far somebody has read the history of all; None: never."""

    async def note_position(self, reader: str, position: int) -> None:
        """Notes how far somebody has read the history of all."""

    async def forget_reader(self, reader: str) -> None:
        """Forgets somebody who reads no more; what is removed does not wait for them then."""

    async def request(self, request_id: str) -> tuple[Request, str] | None:
        """Returns a remembered request and the id of the workflow it changed."""

    async def evidence(self, host_id: str, *, below: int, limit: int) -> list[str]:
        """Returns settled workflows of which a host still keeps evidence, the oldest first.

        Only those all of whose intents on that host are below a number. What a workflow leaves
        there is written with the change that settles it, and outlives it.
        """

    async def settled(self, workflow_ids: Sequence[str]) -> frozenset[str]:
        """Returns those of some ids whose workflow has settled, even if it has been removed."""

    async def forgotten(self, host_id: str, workflow_ids: Sequence[str]) -> None:
        """Hears that a host keeps no evidence of some workflows any more."""

    async def hosts(self) -> list[HostRecord]:
        """Returns every host, in order of their ids."""

    async def put_host(self, host: HostRecord, event: AuditEvent | None = None) -> None:
        """Adds or replaces a host, and notes with it who did so, if anybody."""

    async def change_host(
        self,
        host_id: str,
        change: Callable[[HostRecord], HostRecord],
        event: AuditEvent | None = None,
    ) -> tuple[HostRecord, bool] | None:
        """Changes a host as it is stored now, and notes with it who did so, if anybody.

        The function is called on any thread. What changes nothing is no event. Returns the host as
        it is then, and whether it has changed; None if there is none. Raises StoreFencedError when
        the session has ended.
        """

    async def open_on(self, host_id: str) -> list[Workflow]:
        """Returns open workflows that have, or may have, left something on a host, all of them."""

    async def remove_host(self, host_id: str, event: AuditEvent | None = None) -> None:
        """Removes a host, and notes with it who did so; an absent one is a success."""

    async def note_audit(self, events: Sequence[AuditEvent]) -> None:
        """Notes what is done and changes no other record, all or none."""

    async def audit(self, subject: str, *, before: int, limit: int) -> list[AuditEvent]:
        """Returns what was done before a position, the last first.

        The subject is a name, or a collection, such as "hosts/", for all that ever were in it.
        """

    async def listen(self, hear: Callable[[str], None]) -> None:
        """Hears words that other sessions say when there is something to look at, until cancelled.

        A hint and no more: any of them may be lost.
        """

    async def close(self) -> None:
        """Releases everything; nothing is written any more."""


Delivery = SendAction | SendCancel | SendCompensation | SendFence


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A committed intent on its way to a host, or to whoever finds one for it."""

    workflow: Workflow  # as committed: holds the attempt and, in its plan, the action
    command: Delivery | Withdraw | Recall | ChooseHost
    # After a restart nobody knows whether it went out: the host is asked before anything is sent.
    ask_first: bool = field(default=False)


class Agents(Protocol):
    """Delivers committed intents to hosts until their outcome is known, and reports what it hears.

    What it hears goes to the loop as `AttemptEvent`s, and as `HostChosen`. A newer order about the
    same attempt replaces an older one. A host that does not answer delays no other.
    """

    def deliver(self, order: Order) -> None:
        """Takes an order; returns at once."""

    def moved(self, workflow: Workflow, changed: frozenset[int]) -> None:
        """Hears which nodes of a workflow have changed, durably; before what follows from it.

        A task that no longer waits for a host is not looked for any more.
        """


class HostState(StrEnum):
    """Where a host is, as the coordinator sees it."""

    CONNECTING = "CONNECTING"  # nothing has been heard of it yet
    READY = "READY"  # answers
    SUSPECT = "SUSPECT"  # silent for a while; nothing is concluded from it
    UNREACHABLE = "UNREACHABLE"  # silent for long
    QUARANTINED = "QUARANTINED"  # its journal is not the one that was planned with


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """A host as it stands now."""

    record: HostRecord
    state: HostState
    problem: Failure | None  # why it is not READY
    report: object  # the agent's description of itself; None until it was heard
    open_attempts: int  # that are out: their outcome is still to come
    waiting: int  # actions that wait for a slot
    window: int  # actions that may be out at the same time
    seen_time: datetime | None
    silent_s: float  # how long nothing has been heard of it


class Hosts(Protocol):
    """The hosts that tasks may be sent to."""

    def all(self) -> Mapping[str, HostView]:
        """Returns every host by its id."""

    async def look(self) -> None:
        """Hears at once what other coordinators have done with hosts, where there are others.

        Raises:
            StoreError: The store failed.
        """

    def placement_problem(self, host_id: str, pools: frozenset[str], verb: str) -> str | None:
        """Returns why a new verb on some pools cannot run on a host, or None.

        An empty id means any host. One that has not been heard yet gets the benefit of the doubt.
        """

    def fencer(self, lost: str, pools: frozenset[str], wanted: str) -> tuple[str, str]:
        """Returns the host that settles an attempt of a lost one; or nothing, and why not.

        It must reach every one of the pools as shared, and each must be known to be the same
        storage as the lost one's; an empty wish leaves the choice.
        """

    def waiting_for_host(self, workflow_id: str, task: int) -> str:
        """Returns why no host is found for a task, in words; empty if none is looked for."""

    def waiting_for_slot(self, workflow: Workflow, task: int) -> str:
        """Returns where a task's attempt stands in line on its host; empty if it is not in line."""

    def expected(self, host_id: str) -> Sequence[tuple[str, int]]:
        """Returns the tasks for which a host was chosen and nothing of it is durable yet."""

    # What each of these three returns is whether it has changed anything.

    async def drain(self, host_id: str, event: AuditEvent) -> bool:
        """Gives a host no new tasks, from now on and after any restart."""

    async def undrain(self, host_id: str, event: AuditEvent) -> bool:
        """Gives a host tasks again."""

    async def accept(self, host_id: str, event: AuditEvent) -> bool:
        """Takes a quarantined host as it is now, with the journal and the pools that it has."""

    async def probe(self, address: str) -> str:
        """Returns the incarnation of the agent at an address, if it would serve this cluster."""

    async def begin(self, record: HostRecord, *, wait_s: float) -> None:
        """Connects to a host, and waits for its first answer for at most so long."""

    async def end(self, host_id: str) -> None:
        """Ends the line to a host."""


class Hints(Protocol):
    """Those who wait for changes."""

    def committed(self, workflow_id: str, *, settled: bool) -> None:
        """Says that a workflow has changed, durably."""


class Clock(Protocol):
    """Tells the time of day. Waiting is asyncio's, so that a simulator owns both."""

    def now(self) -> datetime:
        """Returns the time, aware, in UTC."""


class Chance(Protocol):
    """Draws numbers and ids."""

    def jitter(self) -> float:
        """Returns a number in [0, 1)."""

    def new_id(self) -> str:
        """Returns a fresh unique id."""
