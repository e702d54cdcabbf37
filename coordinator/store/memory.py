"""The store in memory: the fake that the simulator uses and the model that `SqlStore` is held to.

`Kept` is what a disk would hold; it outlives the `MemoryStore` of one life of a coordinator, so a
simulated crash throws the store away and opens another on the same `Kept`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from itertools import islice

from coordinator.runtime.draining import names
from coordinator.runtime.floors import Common, Floor, common, lower, lowest
from coordinator.runtime.locks import Standing, stands_in_line
from coordinator.runtime.owners import waits_for
from coordinator.runtime.ports import (
    LETTERS_LAST,
    SESSION_LASTS,
    STORE,
    Asked,
    AuditEvent,
    Change,
    Claim,
    Given,
    HostRecord,
    ImagesHeldError,
    Known,
    Letter,
    LetterAnswer,
    Opening,
    Ownership,
    ProgressRecord,
    Recovered,
    Recovery,
    Request,
    Session,
    SessionState,
    SessionView,
    StoreChange,
    StoreConflictError,
    Stored,
    StoredEntry,
    StoreFencedError,
    StoreRefusedError,
    StoreRewoundError,
    Submission,
    WorkflowPage,
    WorkflowQuery,
    nobody,
)
from coordinator.runtime.webhooks import Origin, WebhookProgress, WebhookRecord
from coordinator.saga.history import LocksTaken
from coordinator.saga.workflow import (
    Group,
    Retention,
    Task,
    Workflow,
    fresh_nodes,
    has_been_on,
)
from coordinator.store.batch import (
    Merged,
    merge,
    request_conflict,
    used_conflict,
    version_conflict,
)
from coordinator.store.lists import ATTENTION
from coordinator.store.recovering import BY_POLICY, EPOCHS, LEFT_OUT, NOBODY, Remembered
from coordinator.store.recovering import INTENTS as ABOVE
from coordinator.store.rows import counted, evidence_rows, told
from coordinator.store.summaries import summary_of
from coordinator.store.tokens import key_from
from coordinator.wire.history import event_to_proto
from countermand.rpc.crash import Crash, never
from countermand.rpc.names import attempt_name
from countermand.v1.event_pb2 import HistoryEvent

Image = tuple[str, str]  # pool and image id
INTENTS = 1 << 22  # taken at a time where several take them


@dataclass(slots=True, kw_only=True)
class _Session:
    """One life of a coordinator."""

    name: str
    start_time: datetime
    expire_time: datetime
    floor: Floor
    ended: bool = False


@dataclass(slots=True, kw_only=True)
class _Record:
    """One workflow as kept: of its groups only what is told of them."""

    key: int
    workflow: Workflow
    submission: Submission
    session: int  # whose it is, while it is open

    def stored(self) -> Stored:
        return Stored(workflow=counted(self.workflow), submission=self.submission)


@dataclass(slots=True, kw_only=True)
class _Posted:
    """A letter as kept."""

    letter: Letter
    time: datetime
    answer: LetterAnswer | None = None


@dataclass(slots=True)
class Kept:
    """What survives a crash."""

    cluster_id: str = ""
    owner_epoch: int = 0
    next_intent: int = 1
    token_key: str = ""
    next_key: int = 1
    sessions: dict[int, _Session] = field(default_factory=dict)
    housekeeper: int = 0  # its session
    last_intent: int = 0  # that was committed
    left_out: range = range(0)  # intents
    recovery: Recovery | None = None
    recovered: Recovered | None = None
    records: dict[str, _Record] = field(default_factory=dict)  # in order of creation
    events: list[StoredEntry] = field(default_factory=list)
    last_position: int = 0
    writers: dict[Image, str] = field(default_factory=dict)  # who holds an image alone
    requests: dict[str, tuple[Request, str]] = field(default_factory=dict)
    hosts: dict[str, HostRecord] = field(default_factory=dict)
    audit: list[AuditEvent] = field(default_factory=list)
    webhooks: dict[str, WebhookRecord] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)
    progress: dict[tuple[str, int, int], ProgressRecord] = field(default_factory=dict)
    evidence: dict[tuple[str, str], int] = field(default_factory=dict)  # (workflow, host) → intent
    used_ids: set[str] = field(default_factory=set)  # of workflows that retention has removed
    letters: dict[str, _Posted] = field(default_factory=dict)  # in order


class MemoryStore:
    """The store in memory."""

    def __init__(
        self,
        kept: Kept,
        *,
        new_id: Callable[[], str],
        crash: Crash = never,
        shared: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        name: str = "",
    ) -> None:
        self._kept = kept
        self._new_id = new_id
        self._crash = crash
        self._shared = shared
        self._now = now
        self._name = name
        self._session = 0
        self._remembered = Remembered()

    @property
    def shared(self) -> bool:
        """Returns whether other coordinators may have it open."""
        return self._shared

    # -- sessions -------------------------------------------------------------------------------

    async def open(self) -> Opening:
        """Begins a session, and returns what a coordinator needs to begin."""
        kept = self._kept
        kept.cluster_id = kept.cluster_id or self._new_id()
        kept.token_key = kept.token_key or f"{self._new_id()}{self._new_id()}"
        kept.owner_epoch += 1
        for session in kept.sessions.values():
            is_namesake = bool(self._name) and session.name == self._name
            session.ended |= is_namesake or session.expire_time < self._now()
        if not self._shared:
            kept.next_key = 1 + max((record.key for record in kept.records.values()), default=0)
            for session in kept.sessions.values():
                session.ended = True
        if all(session.ended for session in kept.sessions.values()):
            self._leave_out()
        self._session = kept.owner_epoch
        first, end = (await self.take_intents()) if self._shared else (kept.next_intent, None)
        now = self._now()
        kept.sessions[self._session] = _Session(
            name=self._name,
            start_time=now,
            expire_time=now + SESSION_LASTS,
            floor=Floor(next_intent=first, hosts={}, fences=first),
        )
        self._remembered = Remembered(epoch=self._session, intents_end=end or 0)
        return Opening(
            cluster_id=kept.cluster_id,
            owner_epoch=self._session,
            next_intent=first,
            intents_end=end,
            token_key=kept.token_key,
            recovery=kept.recovery,
            recovered=kept.recovered,
        )

    async def claim(self, limit: int) -> Claim | None:
        """Takes over open workflows whose owner's session has ended."""
        if not self._shared:
            return None  # all of them, since it was opened
        kept, now = self._kept, self._now()
        for number, session in kept.sessions.items():
            session.ended |= session.expire_time < now and number != self._session
        self._check_session()
        if kept.recovery is not None:
            return None
        found = [r for r in kept.records.values() if self._is_orphan(r)][:limit]
        if not found:
            needed = {r.session for r in kept.records.values() if not r.workflow.settled}
            gone = [i for i, session in kept.sessions.items() if session.ended and i not in needed]
            for each in gone:
                del kept.sessions[each]
            return None
        if kept.owner_epoch > self._session:
            kept.owner_epoch += 1
        owners = sorted({record.session for record in found} & kept.sessions.keys())
        floor = lowest(kept.sessions[owner].floor for owner in owners)
        mine = kept.sessions[self._session]
        mine.floor = lower(mine.floor, floor)
        for record in found:
            record.session = self._session
        self._remembered.epoch = kept.owner_epoch
        stored = tuple(record.stored() for record in found)
        return Claim(owner_epoch=kept.owner_epoch, workflows=stored, floor=floor)

    def _is_orphan(self, record: _Record) -> bool:
        session = self._kept.sessions.get(record.session)
        return not record.workflow.settled and (session is None or session.ended)

    def _is_others(self, record: _Record) -> bool:
        return self._shared and record.session != self._session

    async def renew(self, lasts: timedelta, floor: Floor) -> tuple[Session, ...]:
        """Lets the session last so long from now; returns all of them."""
        self._check_session()
        mine = self._kept.sessions[self._session]
        mine.expire_time, mine.floor = self._now() + lasts, floor
        return tuple(
            Session(
                id=i,
                name=each.name,
                start_time=each.start_time,
                ended=each.ended,
            )
            for i, each in sorted(self._kept.sessions.items())
        )

    async def floors(self) -> Common:
        """Returns what the floors of all sessions come to."""
        return common(each.floor for each in self._kept.sessions.values())

    async def end_session(self) -> None:
        """Ends the own session: what it owns may be claimed at once."""
        if session := self._kept.sessions.get(self._session):
            session.ended = True

    async def keep_house(self) -> int:
        """Returns the session that does what only one does for all."""
        self._check_session()
        keeper = self._kept.sessions.get(self._kept.housekeeper)
        if keeper is None or keeper.ended:
            self._kept.housekeeper = self._session
        return self._kept.housekeeper

    async def house(self) -> Ownership:
        """Returns which session keeps the house."""
        keeper = self._kept.sessions.get(self._kept.housekeeper)
        return Ownership(
            session=self._kept.housekeeper,
            ended=keeper is None or keeper.ended,
            own=self._kept.housekeeper == self._session,
        )

    async def sessions(self) -> list[SessionView]:
        """Returns all sessions, the oldest first."""
        owned = Counter(r.session for r in self._kept.records.values() if not r.workflow.settled)
        return [
            SessionView(
                id=i,
                name=each.name,
                version=version("countermand"),
                schema="",
                state=self._state_of(each),
                own=i == self._session,
                keeps_house=not self._shared or (i == self._kept.housekeeper and not each.ended),
                workflows=owned[i],
                start_time=each.start_time,
                expire_time=each.expire_time if self._shared else None,
            )
            for i, each in sorted(self._kept.sessions.items())
            if self._shared or i == self._session
        ]

    def _state_of(self, session: _Session) -> SessionState:
        if session.ended:
            return SessionState.ENDED
        is_late = session.expire_time < self._now()
        return SessionState.LAPSED if is_late else SessionState.ALIVE

    async def end_standstills(self) -> int:
        """Ends transactions of others that stand still: here none takes any time."""
        return 0

    async def take_intents(self) -> tuple[int, int]:
        """Returns further intents, as first and end."""
        self._check_newest()
        first = self._kept.next_intent
        self._kept.next_intent += INTENTS
        self._remembered.intents_end = self._kept.next_intent
        return first, self._kept.next_intent

    # -- having gone back in time -----------------------------------------------------------------

    async def given(self) -> Given:
        """Returns the highest epoch and intent that were given."""
        self._check_newest()
        kept = self._kept
        next_intent = kept.last_intent + 1 if self._shared else kept.next_intent
        return Given(owner_epoch=kept.owner_epoch, next_intent=next_intent, left_out=kept.left_out)

    def _leave_out(self) -> None:
        """Leaves intents out, since whoever had the store open has ended."""
        kept = self._kept
        given = kept.last_intent + 1 if self._shared else kept.next_intent
        if given > max(1, kept.left_out.stop):
            first = kept.next_intent + LEFT_OUT
            kept.left_out, kept.next_intent = range(given, first), first

    async def recovery(self) -> Recovery | None:
        """Returns why nothing is to be decided; None if all is well."""
        return self._kept.recovery

    async def require_recovery(self, why: str) -> bool:
        """Ends every session, and has nobody decide anything until somebody has looked."""
        return self._require_recovery(why)

    def _require_recovery(self, why: str) -> bool:
        kept, now = self._kept, self._now()
        if kept.recovery is not None:
            return True
        if kept.recovered is not None and kept.recovered.owner_epoch > self._session:
            return False
        kept.recovery = Recovery(why=why, notice_time=now)
        self._note_store(StoreChange.RECOVERY_REQUIRED, now, BY_POLICY, why)
        return True

    async def recover(
        self, principal: str, reason: str, heard: Given | None = None
    ) -> Recovered | None:
        """Lets coordinators go on above all that was ever given, and ends every session."""
        kept, now = self._kept, self._now()
        if kept.recovery is None:
            return None
        heard = heard or NOBODY
        kept.owner_epoch = max(kept.owner_epoch, heard.owner_epoch) + EPOCHS
        kept.next_intent = max(kept.next_intent, heard.next_intent) + ABOVE
        kept.last_intent = kept.next_intent - 1
        kept.recovery = None
        for host_id, host in kept.hosts.items():
            kept.hosts[host_id] = replace(host, lost_intent=kept.next_intent)
        kept.recovered = Recovered(
            owner_epoch=kept.owner_epoch,
            next_intent=kept.next_intent,
            principal=principal,
            reason=reason,
            time=now,
        )
        self._note_store(StoreChange.RECOVERED, now, principal, reason)
        return kept.recovered

    def _note_store(self, change: StoreChange, now: datetime, who: str, why: str) -> None:
        event = AuditEvent(subject=STORE, change=change, time=now, principal=who, reason=why)
        self._note(event)
        self._kept.owner_epoch += 1
        for session in self._kept.sessions.values():
            session.ended = True

    def _check_newest(self) -> None:
        """Raises if this is older than what was heard of it: a standby that was behind.

        `SqlStore` looks on each new connection, and there is one where another database serves.
        """
        if not self._shared or not self._session:
            return
        kept, known = self._kept, self._remembered
        name, version = known.last or ("", 0)
        record = kept.records.get(name)
        is_behind = kept.owner_epoch < known.epoch or kept.next_intent < known.intents_end
        is_older = record.workflow.version < version if record else name not in kept.used_ids
        if is_behind or (known.last and is_older):
            why = f"less is stored than session {self._session} has heard of"
            self._require_recovery(why)
            raise StoreRewoundError(why)

    def _check_session(self) -> None:
        self._check_newest()
        session = self._kept.sessions.get(self._session)
        if session is None or session.ended:
            raise StoreFencedError(f"session {self._session} has ended")

    async def standing(self, workflow_ids: Sequence[str]) -> dict[str, tuple[Standing, ...]]:
        """Returns who is in the way of own workflows that wait in line for images, by these."""
        records = self._kept.records
        found = (records[each].workflow for each in workflow_ids if each in records)
        return {
            each.id: ways
            for each in found
            if (ways := (*self._in_the_way(each), *self._held_by_own(each, {})))
        }

    def _in_the_way(self, workflow: Workflow) -> Iterator[Standing]:
        """Yields other sessions' workflows that keep one from its images."""
        place = (workflow.create_time, workflow.id)
        for record in self._kept.records.values():
            other = record.workflow
            if not self._is_others(record) or not stands_in_line(other):
                continue
            if other.id == workflow.id:
                continue  # another session has claimed it: nothing of it is own any more
            is_before = other.locked or (other.create_time, other.id) < place
            if is_before and _clash(workflow, other):
                yield _standing_of(other)

    def _held_by_own(self, workflow: Workflow, merged: dict[str, Merged]) -> Iterator[Standing]:
        """Yields own workflows that keep one from its images, once a transaction is made.

        Of what it has claimed a moment ago a coordinator knows nothing yet: these are no others'
        any more, and stand in no line of its own.
        """
        for record in self._kept.records.values():
            other = record.workflow
            holds = (
                other.locked and stands_in_line(other) and other.id not in {*merged, workflow.id}
            )
            if self._shared and not self._is_others(record) and holds and _clash(workflow, other):
                yield _standing_of(other)

    async def commit(self, changes: Sequence[Change]) -> None:
        """Makes changes durable, all or none."""
        if not changes:
            return
        merged = merge(changes)
        self._check(merged, changes)
        self._crash("store.before_commit")
        for each in merged.values():
            self._keep(each)
        for change in changes:
            if change.request:
                self._kept.requests[change.request.request_id] = (
                    change.request,
                    change.workflow.id,
                )
        newest = changes[-1].workflow
        self._remembered.last = (newest.id, newest.version)
        self._crash("store.after_commit")

    def _check(self, merged: dict[str, Merged], changes: Sequence[Change]) -> None:
        """Raises before anything is touched."""
        kept = self._kept
        self._check_session()
        for workflow_id, each in merged.items():
            record = kept.records.get(workflow_id)
            if workflow_id in kept.used_ids:
                raise used_conflict(workflow_id)
            version = record.workflow.version if record else 0
            if version != each.version_before:
                raise version_conflict(workflow_id, each.version_before, version)
            if record and record.workflow.owner_epoch > each.workflow.owner_epoch:
                epoch = record.workflow.owner_epoch
                raise StoreConflictError(f"workflow {workflow_id!r} is owned by epoch {epoch}")
            if record and not record.workflow.settled and self._is_others(record):
                raise StoreFencedError(f"{workflow_id!r} is owned by session {record.session}")
        for change in changes:
            if change.request and change.request.request_id in kept.requests:
                raise request_conflict(change.request)
        self._check_images(merged)
        self._check_writers(merged)

    def _check_images(self, merged: dict[str, Merged]) -> None:
        """Raises if other workflows are in the way of one that is to hold its images."""
        for workflow_id, each in merged.items():
            takes = each.submission is not None or any(
                isinstance(entry.fact, LocksTaken) for entry in each.history
            )
            if not takes or not each.workflow.locked or each.workflow.settled:
                continue
            others = self._in_the_way(each.workflow)
            if standing := (*others, *self._held_by_own(each.workflow, merged)):
                raise ImagesHeldError(workflow_id, standing)

    def _check_writers(self, merged: dict[str, Merged]) -> None:
        """Raises if two workflows would hold the same image, and may write it."""
        claimed: dict[Image, str] = {}
        for workflow_id, each in merged.items():
            for image in _writes(each.workflow):
                holder = claimed.setdefault(image, self._kept.writers.get(image, workflow_id))
                is_over = holder in merged and merged[holder].workflow.settled
                if holder != workflow_id and not is_over:
                    raise StoreRefusedError(f"{holder!r} holds {image!r}")
                claimed[image] = workflow_id

    def _keep(self, each: Merged) -> None:
        """Keeps one workflow: of an old one only the leaves that are said to have changed."""
        kept, new = self._kept, each.workflow
        record = kept.records.get(new.id)
        if record is None:
            assert each.submission is not None, new.id
            record = _Record(
                key=kept.next_key,
                workflow=new,
                submission=each.submission,
                session=self._session,
            )
            kept.records[new.id] = record
            kept.next_key += 1
        old = record.workflow
        for image in _writes(old):
            if kept.writers.get(image) == new.id:
                del kept.writers[image]
        kept.writers.update(dict.fromkeys(_writes(new), new.id))
        if each.settles:
            for row in evidence_rows(new):
                kept.evidence[row["workflow_id"], row["host_id"]] = row["last_intent"]
        before = (*old.nodes, *new.nodes[len(old.nodes) :])  # what was added is new
        nodes = (
            _kept_of(now if i in each.changed or old is new else then, fresh)
            for i, (then, now, fresh) in enumerate(
                zip(before, new.nodes, fresh_nodes(new.plan), strict=True)
            )
        )
        record.workflow = replace(new, nodes=tuple(nodes), busy=0, blocked=0)
        changed = (new.nodes[index] for index in each.changed)
        sent = (a.intent for task in changed if isinstance(task, Task) for a in task.attempts)
        kept.last_intent = max(kept.last_intent, *sent, 0)
        kept.next_intent = max(kept.next_intent, 1 + kept.last_intent)
        for entry in each.history:
            kept.last_position += 1
            kept.events.append(
                StoredEntry(
                    workflow_id=new.id,
                    sequence=entry.sequence,
                    position=kept.last_position,
                    payload=event_to_proto(new.id, new.plan, entry).SerializeToString(),
                )
            )

    # -- between sessions -----------------------------------------------------------------------

    async def owners_of(self, workflow_ids: Sequence[str]) -> dict[str, Ownership]:
        """Returns whose some workflows are, of those that are open."""
        records = (self._kept.records[each] for each in workflow_ids if each in self._kept.records)
        return {
            record.workflow.id: Ownership(
                session=record.session,
                ended=self._is_orphan(record),
                own=record.session == self._session,
            )
            for record in records
            if not record.workflow.settled
        }

    async def post(self, letters: Sequence[Letter]) -> None:
        """Puts letters into the inboxes of sessions."""
        for letter in letters:
            self._kept.letters.setdefault(letter.id, _Posted(letter=letter, time=self._now()))

    async def letters(self, limit: int) -> list[Letter]:
        """Returns the first letters for the own session that are not answered yet, in order."""
        self._check_session()
        mine = (
            each.letter
            for each in self._kept.letters.values()
            if each.letter.session == self._session and each.answer is None
        )
        return list(islice(mine, limit))

    async def answer(self, answers: Sequence[LetterAnswer]) -> None:
        """Answers letters for the own session, all or none."""
        self._check_session()
        for answer in answers:
            posted = self._kept.letters.get(answer.letter)
            if posted and posted.letter.session == self._session and posted.answer is None:
                posted.answer = answer

    async def answers(self, letter_ids: Sequence[str]) -> list[LetterAnswer]:
        """Returns the answers of those of some letters that have been answered."""
        found = (self._kept.letters.get(each) for each in letter_ids)
        return [each.answer for each in found if each is not None and each.answer is not None]

    async def remove_letters(self, letter_ids: Sequence[str]) -> None:
        """Removes letters; absent ones are a success."""
        for each in letter_ids:
            self._kept.letters.pop(each, None)

    async def remove_old_letters(self) -> None:
        """Removes letters that were posted long ago."""
        before = self._now() - LETTERS_LAST
        old = [each for each, posted in self._kept.letters.items() if posted.time < before]
        await self.remove_letters(old)

    async def moves(self, *, after: int, limit: int) -> list[tuple[str, int]]:
        """Returns whose entries follow a position, in order."""
        found = await self.events(after=after, limit=limit)
        return [(entry.workflow_id, entry.position) for entry in found]

    async def asked(
        self,
        *,
        owner: str = "",
        after: int = 0,
        limit: int,
        workflow_ids: Collection[str] | None = None,
    ) -> list[Asked]:
        """Returns attempts of open workflows that wait for an owner, in order of their intents."""
        records = self._kept.records.values()
        found = (
            each
            for record in records
            if workflow_ids is None or record.workflow.id in workflow_ids
            for each in _asked(record.workflow)
            if each.intent > after and owner in ("", each.owner)
        )
        return sorted(found, key=lambda each: each.intent)[:limit]

    async def open_naming(self, host_ids: Collection[str]) -> list[Stored]:
        """Returns all open workflows that have to do with one of some hosts."""
        return [
            record.stored()
            for record in self._kept.records.values()
            if not record.workflow.settled
            and any(names(record.workflow, host_id) for host_id in host_ids)
        ]

    async def load_open(self) -> list[Stored]:
        """Returns every workflow that is not settled, in order of creation."""
        return [r.stored() for r in self._kept.records.values() if not r.workflow.settled]

    async def load(self, workflow_id: str) -> Stored | None:
        """Returns one workflow, settled or not; None if there is none."""
        record = self._kept.records.get(workflow_id)
        return record.stored() if record else None

    async def submission(self, workflow_id: str) -> Submission | None:
        """Returns what was handed in, without what has become of it; None if there is none."""
        record = self._kept.records.get(workflow_id)
        return record.submission if record else None

    async def version(self, workflow_id: str) -> int:
        """Returns the version of a workflow, 0 if there is none."""
        record = self._kept.records.get(workflow_id)
        return record.workflow.version if record else 0

    async def query(
        self,
        query: WorkflowQuery,
        known: Known = nobody,  # noqa: ARG002 - here counting reads nothing
    ) -> WorkflowPage:
        """Returns one page of workflows."""
        below = key_from(query.after) if query.after else self._kept.next_key
        found = [
            record
            for record in reversed(self._kept.records.values())
            if record.key < below and _matches(record.workflow, query)
        ]
        shown = found[: query.limit]
        return WorkflowPage(
            workflows=tuple(summary_of(record.workflow) for record in shown),
            next=str(shown[-1].key) if len(found) > len(shown) else "",
        )

    async def expire(self, *, before: datetime, limit: int) -> int:
        """Removes workflows that settled before a time, the oldest first."""
        kept = self._kept
        self._check_session()
        untold = self._untold()
        ended = (  # what is to go at once goes first, in order of creation
            (False, record.key, record.key, workflow_id)
            if is_told
            else (True, w.end_time, record.key, workflow_id)
            for workflow_id, record in kept.records.items()
            if (w := record.workflow).end_time is not None
            and (
                (is_told := w.retention is Retention.AT_ONCE and workflow_id not in untold)
                or (w.retention is not Retention.KEPT and w.end_time < before)
            )
        )
        gone = {workflow_id for *_, workflow_id in sorted(ended)[:limit]}
        self._remove(gone)
        return len(gone)

    def _untold(self) -> set[str]:
        """Returns workflows of which somebody who reads all of the history has not read all."""
        hooks = (each.progress for each in self._kept.webhooks.values())
        receivers = (each.position for each in hooks if not each.disabled)
        told = min((*receivers, *self._kept.positions.values()), default=None)
        if told is None:
            return set()
        first = bisect_right(self._kept.events, told, key=lambda entry: entry.position)
        return {entry.workflow_id for entry in self._kept.events[first:]}

    async def clear(self, workflow_id: str) -> None:
        """Removes one settled workflow; an absent one is a success."""
        self._check_session()
        record = self._kept.records.get(workflow_id)
        if record is not None and record.workflow.settled:
            self._remove({workflow_id})

    def _remove(self, gone: set[str]) -> None:
        kept = self._kept
        for workflow_id in gone:
            del kept.records[workflow_id]
        kept.used_ids |= gone
        kept.events = [entry for entry in kept.events if entry.workflow_id not in gone]
        kept.requests = {id_: said for id_, said in kept.requests.items() if said[1] not in gone}
        kept.progress = {key: each for key, each in kept.progress.items() if key[0] not in gone}

    async def note_progress(self, records: Sequence[ProgressRecord]) -> None:
        """Notes what owners reported of some attempts."""
        self._check_session()
        for record in records:
            if record.workflow_id in self._kept.records:
                self._kept.progress[record.workflow_id, record.task, record.number] = record

    async def progress(self) -> list[ProgressRecord]:
        """Returns what owners have reported of attempts of open workflows."""
        records = self._kept.records
        return [
            each
            for each in self._kept.progress.values()
            if not records[each.workflow_id].workflow.settled
        ]

    async def history(self, workflow_id: str, *, after: int, limit: int) -> list[StoredEntry]:
        """Returns a workflow's entries after a sequence, in order."""
        mine = [e for e in self._kept.events if e.workflow_id == workflow_id and e.sequence > after]
        return mine[:limit]

    async def own_history(self, workflow_id: str, *, after: int, limit: int) -> list[StoredEntry]:
        """Returns those of them that are about no task."""
        mine = await self.history(workflow_id, after=after, limit=len(self._kept.events))
        return [entry for entry in mine if not HistoryEvent.FromString(entry.payload).task][:limit]

    async def events(self, *, after: int, limit: int) -> list[StoredEntry]:
        """Returns entries of all workflows after a position, in order."""
        first = bisect_right(self._kept.events, after, key=lambda entry: entry.position)
        return self._kept.events[first : first + limit]

    async def position(self) -> int:
        """Returns the highest position ever given, 0 if there was none."""
        return self._kept.last_position

    async def request(self, request_id: str) -> tuple[Request, str] | None:
        """Returns a remembered request and the id of the workflow it changed."""
        return self._kept.requests.get(request_id)

    async def evidence(self, host_id: str, *, below: int, limit: int) -> list[str]:
        """Returns settled workflows of which a host still keeps evidence, the oldest first."""
        found = sorted(
            (intent, workflow_id)
            for (workflow_id, host), intent in self._kept.evidence.items()
            if host == host_id and intent < below
        )
        return [workflow_id for _, workflow_id in found[:limit]]

    async def settled(self, workflow_ids: Sequence[str]) -> frozenset[str]:
        """Returns those of some ids whose workflow has settled, even if it has been removed."""
        over = {name for name, record in self._kept.records.items() if record.workflow.settled}
        return frozenset(workflow_ids) & (over | self._kept.used_ids)

    async def forgotten(self, host_id: str, workflow_ids: Sequence[str]) -> None:
        """Hears that a host keeps no evidence of some workflows any more."""
        self._check_session()
        for workflow_id in workflow_ids:
            self._kept.evidence.pop((workflow_id, host_id), None)

    async def hosts(self) -> list[HostRecord]:
        """Returns every host, in order of their ids."""
        return [host for _, host in sorted(self._kept.hosts.items())]

    async def put_host(self, host: HostRecord, event: AuditEvent | None = None) -> None:
        """Adds or replaces a host, and notes with it who did so, if anybody."""
        self._check_session()
        self._kept.hosts[host.id] = host
        self._note(event)

    async def change_host(
        self,
        host_id: str,
        change: Callable[[HostRecord], HostRecord],
        event: AuditEvent | None = None,
    ) -> tuple[HostRecord, bool] | None:
        """Changes a host as it is stored now."""
        self._check_session()
        before = self._kept.hosts.get(host_id)
        if before is None:
            return None
        after = change(before)
        if after == before:
            return before, False
        self._kept.hosts[host_id] = after
        self._note(event)
        return after, True

    async def open_on(self, host_id: str) -> list[Workflow]:
        """Returns open workflows that have, or may have, left something on a host."""
        return [
            record.stored().workflow
            for record in self._kept.records.values()
            if not record.workflow.settled and has_been_on(record.workflow, host_id)
        ]

    async def remove_host(self, host_id: str, event: AuditEvent | None = None) -> None:
        """Removes a host, and notes with it who did so; an absent one is a success."""
        self._check_session()
        self._kept.hosts.pop(host_id, None)
        self._note(event)

    async def note_audit(self, events: Sequence[AuditEvent]) -> None:
        """Notes what is done and changes no other record, all or none."""
        self._check_session()
        for event in events:
            self._note(event)

    def _note(self, event: AuditEvent | None) -> None:
        if event is not None:
            kept = self._kept.audit
            kept.append(replace(event, position=len(kept) + 1))

    async def audit(self, subject: str, *, before: int, limit: int) -> list[AuditEvent]:
        """Returns what was done to one, or to a collection, before a position, the last first."""
        whole = subject.endswith("/")
        found = [
            event
            for event in reversed(self._kept.audit)
            if event.position < before
            and (event.subject.startswith(subject) if whole else event.subject == subject)
        ]
        return found[:limit]

    async def webhooks(self) -> list[WebhookRecord]:
        """Returns every webhook, in order of their ids."""
        return [webhook for _, webhook in sorted(self._kept.webhooks.items())]

    async def put_webhook(self, webhook: WebhookRecord, event: AuditEvent | None = None) -> None:
        """Adds or replaces a webhook, and notes with it who did so, if anybody."""
        self._check_session()
        self._kept.webhooks[webhook.id] = webhook
        self._note(event)

    async def note_webhooks(self, progress: Mapping[str, WebhookProgress]) -> None:
        """Notes how far receivers have been told, all or none."""
        self._check_session()
        for webhook_id, now in progress.items():
            if webhook_id in self._kept.webhooks:
                kept = self._kept.webhooks[webhook_id]
                self._kept.webhooks[webhook_id] = replace(kept, progress=now)

    async def remove_webhook(self, webhook_id: str, event: AuditEvent | None = None) -> None:
        """Removes a webhook, and notes with it who did so; an absent one is a success."""
        self._check_session()
        self._kept.webhooks.pop(webhook_id, None)
        self._note(event)

    async def position_of(self, reader: str) -> int | None:
        """Returns how far somebody has read the history; None: never."""
        return self._kept.positions.get(reader)

    async def note_position(self, reader: str, position: int) -> None:
        """Notes how far somebody has read the history."""
        self._check_session()
        self._kept.positions[reader] = position

    async def forget_reader(self, reader: str) -> None:
        """Forgets somebody who reads no more; what is removed does not wait for them then."""
        self._check_session()
        self._kept.positions.pop(reader, None)

    async def origins(self, workflow_ids: Sequence[str]) -> dict[str, Origin]:
        """Returns what some workflows were submitted with; of one that was removed nothing."""
        found = (self._kept.records[name] for name in workflow_ids if name in self._kept.records)
        abouts = {record.workflow.id: record.workflow.about for record in found}
        return {
            name: Origin(kind=about.kind, traceparent=about.traceparent, labels=dict(about.labels))
            for name, about in abouts.items()
        }

    async def listen(self, hear: Callable[[str], None]) -> None:
        """Hears nothing: here nobody says a word."""

    async def close(self) -> None:
        """Releases everything; nothing is written any more."""


def _asked(workflow: Workflow) -> Iterator[Asked]:
    """Yields the attempts of a workflow that wait for their owners."""
    for index, task in workflow.tasks():
        if owner := waits_for(workflow, index):
            last = task.last
            yield Asked(
                workflow_id=workflow.id,
                name=attempt_name(workflow.id, workflow.plan.nodes[index].name, last.number),
                owner=owner,
                intent=last.intent,
                state=task.state,
                accepted=last.start_time is not None,
                create_time=last.create_time,
            )


def _writes(workflow: Workflow) -> Iterator[Image]:
    """Yields the images that a workflow holds for itself alone."""
    if workflow.locked and not workflow.settled:
        yield from ((i.pool, i.image) for i in workflow.locks if i.exclusive)


def _standing_of(workflow: Workflow) -> Standing:
    return Standing(workflow_id=workflow.id, locks=workflow.locks, held=workflow.locked)


def _clash(one: Workflow, other: Workflow) -> bool:
    """Returns whether two workflows name an image that they cannot share."""
    theirs = {(lock.pool, lock.image): lock.exclusive for lock in other.locks}
    return any(
        (lock.pool, lock.image) in theirs and (lock.exclusive or theirs[lock.pool, lock.image])
        for lock in one.locks
    )


def _kept_of(node: Task | Group, fresh: Task | Group) -> Task | Group:
    """Returns what a disk would hold of a node: counters are worked out when it is loaded."""
    if isinstance(node, Task):
        return replace(node, compensation_due=False, made_up_for=False)
    assert isinstance(fresh, Group), fresh
    return told(node, fresh)


def _matches(workflow: Workflow, query: WorkflowQuery) -> bool:
    """Returns whether a workflow is one of those asked for."""
    created_before = query.created_before
    return (
        (not query.states or workflow.state in query.states)
        and (not query.needs_attention or _needs_attention(workflow))
        and set(query.labels) <= set(workflow.about.labels)
        and (not query.host or query.host in _hosts(workflow))
        and (not query.kind or workflow.about.kind == query.kind)
        and workflow.id.startswith(query.id_prefix)
        and (created_before is None or workflow.create_time < created_before)
    )


def _needs_attention(workflow: Workflow) -> bool:
    if workflow.settled:
        return False
    return workflow.state in ATTENTION or any(t.needs_somebody for _, t in workflow.tasks())


def _hosts(workflow: Workflow) -> set[str]:
    """Returns the hosts on which tasks were last placed, or that their specs name."""
    return {
        task.last.host if task.attempts else workflow.plan.task(index).host
        for index, task in workflow.tasks()
    }
