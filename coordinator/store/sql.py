"""The store on a database.

Inside, plain functions that block; outside, `SqlStore`, which hands them to `Run`. The statements
of a commit are in `writing.py`, those that only read in `queries.py`; the few others are here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, delete, func, insert, select, text, update

from coordinator.runtime.draining import names
from coordinator.runtime.floors import UNHEARD, Common, Floor, lower
from coordinator.runtime.locks import Standing
from coordinator.runtime.ports import (
    SESSION_LASTS,
    Asked,
    AuditEvent,
    Change,
    Claim,
    Given,
    HostRecord,
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
    SessionView,
    StoreConflictError,
    Stored,
    StoredEntry,
    StoreError,
    StoreFencedError,
    StoreRefusedError,
    StoreRewoundError,
    Submission,
    WorkflowPage,
    WorkflowQuery,
    nobody,
)
from coordinator.runtime.webhooks import Origin, WebhookProgress, WebhookRecord
from coordinator.saga.workflow import Workflow, has_been_on
from coordinator.store import (
    audit,
    hosts,
    images,
    left,
    letters,
    lists,
    lives,
    positions,
    progress,
    queries,
    recovering,
    retention,
    sessions,
    webhooks,
)
from coordinator.store.batch import (
    Merged,
    batch_of,
    merge,
    request_conflict,
    used_conflict,
    version_conflict,
)
from coordinator.store.database import Database
from coordinator.store.epochs import check_epoch
from coordinator.store.migrate import is_empty, migrate
from coordinator.store.plans import Plans
from coordinator.store.prepared import StaleError
from coordinator.store.run import Run
from coordinator.store.tables import evidence, meta, workflows
from coordinator.store.transactions import CommitUnknownError, Transactions
from coordinator.store.writing import Writing
from countermand.rpc.crash import Crash, never

log = logging.getLogger(__name__)

T = TypeVar("T")

NEW_KEYS = text("SELECT nextval('workflow_keys') FROM generate_series(1, :count)")
# Of what was claimed, at a time: until they are read, some two seconds, no session is renewed.
LOADED_TASKS_MAX = 10_000
UNKNOWN_RETRY_S = 0.2  # a database that may have committed something is asked again this often


class SqlStore:
    """The store on a database."""

    def __init__(
        self,
        database: Database,
        run: Run,
        *,
        new_id: Callable[[], str],
        crash: Crash = never,
        name: str = "",
        session_lasts: timedelta = SESSION_LASTS,
    ) -> None:
        """Opens nothing yet; the name is the session's, for people.

        A session lasts so long until it is renewed for the first time.
        """
        self._database = database
        self._transactions = Transactions(database, crash, self._greet)
        self._run = run
        self._new_id = new_id
        self._name = name
        self._lasts = session_lasts
        self._plans = Plans()
        self._writing = Writing(database.writer.dialect)
        self._epoch = 0  # of this opening; where the store is shared, it is the session
        self._start_time: datetime | None = None  # of this opening, by the database's clock
        self._next_key = 0  # for the next new workflow, where the store is not shared
        self._keys: dict[str, int] = {}  # of workflows that are open, by id
        self._claimed: tuple[int, list[int], Floor] | None = None  # what is not loaded yet
        self._remembered = recovering.Remembered()
        self._closing = threading.Event()
        self._in_doubt = False  # whether something was claimed when the database went away

    @property
    def shared(self) -> bool:
        """Returns whether other coordinators may have it open."""
        return self._database.shared

    # -- sessions ---------------------------------------------------------------------------------

    async def claim(self, limit: int) -> Claim | None:
        """Takes over open workflows whose owner's session has ended."""
        if not self.shared:
            return None  # all of them, since it was opened
        # What was claimed and is not read yet is read first: nobody else ever would.
        if self._claimed is None and self._in_doubt:
            self._claimed = await self._write(self._lost)
            self._in_doubt = False
        if self._claimed is None:
            try:
                self._claimed = await self._beside(partial(sessions.claim, self._epoch, limit))
            except CommitUnknownError:
                self._in_doubt = True
                raise
        epoch, keys, floor = self._claimed
        self._remembered.epoch = max(self._remembered.epoch, epoch)
        if not keys:
            self._claimed = None
            return None
        some = partial(queries.load_first, self._plans, keys, LOADED_TASKS_MAX)
        found = await self._read(some)
        rest = [key for key in keys if key not in found]
        self._claimed = (epoch, rest, floor) if rest and found else None
        self._keys.update((each.workflow.id, key) for key, each in found.items())
        return Claim(owner_epoch=epoch, workflows=tuple(found.values()), floor=floor)

    async def renew(self, lasts: timedelta, floor: Floor) -> tuple[Session, ...]:
        """Lets the session last so long from now, by the database's clock; returns all of them."""
        # Nothing may be forgotten that belongs to what was perhaps claimed, or is not loaded yet.
        if self._in_doubt:
            floor = UNHEARD
        elif self._claimed is not None:
            floor = lower(floor, self._claimed[2])
        work = partial(sessions.renew, self._epoch, lasts, floor)
        return await self._run.write_beside(partial(self._transactions.write, work))

    async def floors(self) -> Common:
        """Returns what the floors of all sessions come to."""
        return await self._read(sessions.floors)

    async def end_session(self) -> None:
        """Ends the own session: what it owns may be claimed at once."""
        work = partial(sessions.end, self._epoch)
        await self._run.write_beside(partial(self._transactions.write, work))

    async def keep_house(self) -> int:
        """Returns the session that does what only one does for all."""
        if not self.shared:
            return self._epoch
        return await self._beside(partial(sessions.keep_house, self._epoch))

    async def house(self) -> Ownership:
        """Returns which session keeps the house."""
        return await self._read(partial(lives.house, self._epoch))

    async def sessions(self) -> list[SessionView]:
        """Returns all sessions, the oldest first."""
        if self.shared:
            return await self._page(partial(lives.all_sessions, self._epoch))
        assert self._start_time is not None, "not open"
        return [await self._page(partial(lives.own, self._epoch, self._name, self._start_time))]

    async def end_standstills(self) -> int:
        """Ends transactions of others that stand still; returns how many."""
        return await self._read(self._database.end_standstills)

    async def take_intents(self) -> tuple[int, int]:
        """Returns further intents, as first and end."""
        first, end = await self._beside(sessions.take_intents)
        self._remembered.intents_end = max(self._remembered.intents_end, end)
        return first, end

    # -- a database that went back in time --------------------------------------------------------

    async def given(self) -> Given:
        """Returns the highest epoch and intent that were given."""
        return await self._read(recovering.given)

    async def recovery(self) -> Recovery | None:
        """Returns why nothing is to be decided; None if all is well."""
        return await self._read(recovering.required)

    async def require_recovery(self, why: str) -> bool:
        """Ends every session, and has nobody decide anything until somebody has looked."""
        work = partial(recovering.require, why, self._epoch)
        return await self._run.write_beside(partial(self._transactions.write, work))

    async def recover(
        self, principal: str, reason: str, heard: Given | None = None
    ) -> Recovered | None:
        """Lets coordinators go on above all that was ever given, and ends every session."""
        work = partial(recovering.recover, principal, reason, heard or recovering.NOBODY)
        return await self._run.write_beside(partial(self._transactions.write, work))

    def _greet(self, connection: Connection) -> None:
        """Looks on a new connection whether the database is older than what was heard of it.

        A standby that was behind may have taken over. Raises StoreRewoundError, once that is noted.
        """
        if not self.shared or not self._epoch:
            return
        with connection.begin():
            why = self._remembered.why_behind(connection)
            if why:
                recovering.require(why, self._epoch, connection)
        if why:
            raise StoreRewoundError(why)

    async def standing(self, workflow_ids: Sequence[str]) -> dict[str, tuple[Standing, ...]]:
        """Returns who is in the way of own workflows that wait in line for images, by these."""
        return await self._read(partial(images.standing, self._epoch, workflow_ids))

    async def owners_of(self, workflow_ids: Sequence[str]) -> dict[str, Ownership]:
        """Returns whose some workflows are; those that are not open are left out."""
        return await self._read(partial(sessions.owners_of, self._epoch, workflow_ids))

    async def _beside(self, work: Callable[[Connection], T]) -> T:
        """Writes something small that must not wait for a commit, if the session lives."""
        return await self._run.write_beside(partial(self._transactions.write, self._fenced(work)))

    def _lost(self, connection: Connection) -> tuple[int, list[int], Floor] | None:
        """Returns what a claim took of which the answer was lost; None if it took nothing.

        Between two commits: of one that is under way it is not known yet what is open since.
        """
        lost = sessions.owned(self._epoch, connection) - set(self._keys.values())
        if not lost:
            return None
        return sessions.next_epoch(self._epoch, connection), sorted(lost), UNHEARD

    async def listen(self, hear: Callable[[str], None]) -> None:
        """Hears words that others say when there is something to look at, until cancelled."""
        if self._database.listen is not None:
            await self._database.listen(hear)

    # -- letters ----------------------------------------------------------------------------------

    async def post(self, some: Sequence[Letter]) -> None:
        """Puts letters into the inboxes of sessions."""
        await self._beside(partial(letters.post, tuple(some)))

    async def letters(self, limit: int) -> list[Letter]:
        """Returns the first letters for the own session that are not answered yet."""
        return await self._read(partial(letters.unanswered, self._epoch, limit))

    async def answer(self, answers: Sequence[LetterAnswer]) -> None:
        """Answers letters for the own session, all or none."""
        await self._beside(partial(letters.answer, tuple(answers)))

    async def answers(self, letter_ids: Sequence[str]) -> list[LetterAnswer]:
        """Returns the answers of those of some letters that have been answered."""
        return await self._read(partial(letters.answers_to, letter_ids))

    async def remove_letters(self, letter_ids: Sequence[str]) -> None:
        """Removes letters; absent ones are a success."""
        await self._beside(partial(letters.remove, tuple(letter_ids)))

    async def remove_old_letters(self) -> None:
        """Removes letters that nobody waits for any more."""
        await self._beside(letters.remove_old)

    async def moves(self, *, after: int, limit: int) -> list[tuple[str, int]]:
        """Returns whose entries follow a position, as workflow id and position, in order."""
        return await self._read(partial(queries.moves, after, limit))

    async def asked(
        self,
        *,
        owner: str = "",
        after: int = 0,
        limit: int,
        workflow_ids: Collection[str] | None = None,
    ) -> list[Asked]:
        """Returns attempts of open workflows that wait for an owner, in order of their intents."""
        return await self._page(partial(queries.asked, owner, after, limit, workflow_ids))

    async def open_naming(self, host_ids: Collection[str]) -> list[Stored]:
        """Returns all open workflows, whosesoever, that have to do with one of some hosts."""
        found = await self._read(partial(queries.open_naming, self._plans, host_ids))
        return [each for each in found if any(names(each.workflow, host) for host in host_ids)]

    async def open_on(self, host_id: str) -> list[Workflow]:
        """Returns open workflows that have, or may have, left something on a host."""
        found = await self._read(partial(queries.open_naming, self._plans, [host_id]))
        return [each.workflow for each in found if has_been_on(each.workflow, host_id)]

    # -- writing ----------------------------------------------------------------------------------

    async def open(self) -> Opening:
        """Migrates, takes a new epoch, and returns what a coordinator needs to begin."""
        return await self._run.write(self._open)

    async def commit(self, changes: Sequence[Change]) -> None:
        """Makes changes durable, all or none."""
        if changes:
            await self._run.write(partial(self._commit, tuple(changes)))

    async def expire(self, *, before: datetime, limit: int) -> int:
        """Removes workflows that settled before a time, the oldest first."""
        return await self._write(partial(retention.expire, before, limit))

    async def clear(self, workflow_id: str) -> None:
        """Removes one settled workflow; an absent one is a success."""
        await self._write(partial(retention.clear, workflow_id))

    async def note_progress(self, records: Sequence[ProgressRecord]) -> None:
        """Notes what owners reported of some attempts, all or none."""
        await self._write(partial(progress.note, tuple(records)))

    async def forgotten(self, host_id: str, workflow_ids: Sequence[str]) -> None:
        """Hears that a host keeps no evidence of some workflows any more."""
        of_host = evidence.c.host_id == host_id
        remove = delete(evidence).where(of_host, evidence.c.workflow_id.in_(workflow_ids))
        await self._write(lambda connection: connection.execute(remove))

    async def put_host(self, host: HostRecord, event: AuditEvent | None = None) -> None:
        """Adds or replaces a host, and notes with it who did so, if anybody."""
        await self._write(partial(hosts.put, host, event))

    async def change_host(
        self,
        host_id: str,
        change: Callable[[HostRecord], HostRecord],
        event: AuditEvent | None = None,
    ) -> tuple[HostRecord, bool] | None:
        """Changes a host as it is stored now, and notes with it who did so, if anybody."""
        return await self._write(partial(hosts.change, host_id, change, event))

    async def remove_host(self, host_id: str, event: AuditEvent | None = None) -> None:
        """Removes a host, and notes with it who did so; an absent one is a success."""
        await self._write(partial(hosts.remove, host_id, event))

    async def note_audit(self, events: Sequence[AuditEvent]) -> None:
        """Notes what is done and changes no other record, all or none."""
        await self._write(partial(audit.note, tuple(events)))

    async def put_webhook(self, webhook: WebhookRecord, event: AuditEvent | None = None) -> None:
        """Adds or replaces a webhook, and notes with it who did so, if anybody."""
        await self._write(partial(webhooks.put, webhook, event))

    async def note_webhooks(self, progress: Mapping[str, WebhookProgress]) -> None:
        """Notes how far receivers have been told, all or none."""
        await self._write(partial(webhooks.note, dict(progress)))

    async def remove_webhook(self, webhook_id: str, event: AuditEvent | None = None) -> None:
        """Removes a webhook, and notes with it who did so; an absent one is a success."""
        await self._write(partial(webhooks.remove, webhook_id, event))

    async def note_position(self, reader: str, position: int) -> None:
        """Notes how far somebody has read the history."""
        await self._write(partial(positions.note, reader, position))

    async def forget_reader(self, reader: str) -> None:
        """Forgets somebody who reads no more; what is removed does not wait for them then."""
        await self._write(partial(positions.forget, reader))

    async def close(self) -> None:
        """Releases everything; nothing is written any more."""
        self._closing.set()
        await self._run.close()
        self._database.close()

    async def _write(self, work: Callable[[Connection], T]) -> T:
        return await self._run.write(partial(self._transactions.write, self._fenced(work)))

    def _fenced(self, work: Callable[[Connection], T]) -> Callable[[Connection], T]:
        """Returns what works only while the own session lives, or the own epoch is the last."""

        def fenced(connection: Connection) -> T:
            self._fence(connection)
            return work(connection)

        return fenced

    def _fence(self, connection: Connection) -> None:
        if self.shared:
            sessions.check(self._epoch, connection)
        else:
            check_epoch(self._epoch, connection)

    def _open(self) -> Opening:
        self._database.take()
        self._keys.clear()
        try:
            opening, self._next_key = self._take_epoch()
            self._start_time = self._transactions.look(lives.time_now)
        except BaseException:
            self._database.release()
            raise
        self._epoch = opening.owner_epoch
        self._remembered = recovering.Remembered(
            epoch=opening.owner_epoch, intents_end=opening.intents_end or 0
        )
        return opening

    def _take_epoch(self) -> tuple[Opening, int]:
        take = partial(_open, self._database, self._new_id, self._name, self._lasts)
        was_empty = self._transactions.look(is_empty)
        try:
            return self._transactions.write(take)
        except StoreError:
            # Of two that found it empty one has made the tables; the other finds them now.
            if not was_empty or self._transactions.look(is_empty):
                raise
            return self._transactions.write(take)

    def _commit(self, changes: tuple[Change, ...]) -> None:
        assert self._epoch, "open() comes first"
        merged = merge(changes)
        try:
            keys = self._transactions.write(partial(self._write_batch, merged, changes))
        except CommitUnknownError as error:
            keys = self._what_became_of(merged, error)
        except StoreRefusedError as error:
            # Which row it was is found out afterwards: what nearly always succeeds stays simple.
            conflict = self._transactions.look(partial(self._conflict, merged, changes))
            if conflict is None:  # a constraint of another kind: a defect of ours
                raise
            raise conflict from error
        name, last = next(reversed(merged.items()))
        self._remembered.last = name, last.workflow.version
        # Only what is visible is remembered, and only what may be written again.
        for workflow_id, each in merged.items():
            if each.workflow.settled:
                self._keys.pop(workflow_id, None)
            else:
                self._keys[workflow_id] = keys[workflow_id]
        self._next_key = max([self._next_key, *(key + 1 for key in keys.values())])

    def _what_became_of(
        self, merged: dict[str, Merged], error: CommitUnknownError
    ) -> dict[str, int]:
        """Returns the keys of a batch that was committed; raises the error if it was not.

        Until the database can say so, nothing else is written: it would rest on either.
        """
        keys: dict[str, int] | None = None
        while True:
            try:
                keys = self._transactions.write(partial(sessions.committed, self._epoch, merged))
            except StoreFencedError:
                raise
            except StoreError as still:
                log.warning("commit.unknown", extra={"error": str(still)})
                if self._closing.wait(UNKNOWN_RETRY_S):  # on the writer's own thread
                    raise error from still
            else:
                break
        if keys is None:
            raise StoreError(f"the database went away before it had committed: {error}") from error
        log.info("commit.found", extra={"workflows": len(keys)})
        return keys

    def _write_batch(
        self, merged: dict[str, Merged], changes: tuple[Change, ...], connection: Connection
    ) -> dict[str, int]:
        """Writes a batch and returns the keys of its workflows."""
        keys = self._keys_of(merged, connection)
        new = [name for name, each in merged.items() if each.submission is not None]
        if new and (used := queries.used(new, connection)):
            raise used_conflict(used[0])
        session = self._epoch if self.shared else 0
        batch = batch_of(merged.values(), changes, keys.__getitem__, session)
        takers = [images.taker(each.workflow) for each in merged.values() if each.takes_images]
        if self.shared:  # they were taken before
            batch.next_intent, batch.last_intent = 0, batch.next_intent - 1
        check = partial(images.check, session, takers if session else ())
        self._writing.write(connection, batch, self._fence, check)
        return keys

    def _keys_of(self, merged: dict[str, Merged], connection: Connection) -> dict[str, int]:
        keys: dict[str, int] = {}
        new = sum(each.submission is not None for each in merged.values())
        new_keys = self._new_keys(new, connection)
        for workflow_id, each in merged.items():
            if each.submission is not None:
                keys[workflow_id] = next(new_keys)
                continue
            key = self._keys.get(workflow_id) or queries.key_of(connection, workflow_id)
            if key is None:
                raise StaleError("a workflow to change was not there")
            keys[workflow_id] = key
        return keys

    def _new_keys(self, count: int, connection: Connection) -> Iterator[int]:
        """Returns the keys of so many new workflows, in order."""
        if self.shared and count:
            return iter(connection.scalars(NEW_KEYS, {"count": count}).all())
        return iter(range(self._next_key, self._next_key + count))

    def _conflict(
        self, merged: dict[str, Merged], changes: tuple[Change, ...], connection: Connection
    ) -> StoreConflictError | None:
        """Returns what the caller did not know, if that is why a batch was refused."""
        for workflow_id, each in merged.items():
            version, owner_epoch, session = queries.version_of(workflow_id, connection)
            if version != each.version_before:
                return version_conflict(workflow_id, each.version_before, version)
            if version and self.shared and session != self._epoch:
                return StoreFencedError(f"{workflow_id!r} is owned by session {session}")
            if owner_epoch > each.workflow.owner_epoch:
                return StoreConflictError(
                    f"workflow {workflow_id!r} is owned by epoch {owner_epoch}"
                )
        for change in changes:
            if change.request and queries.request(change.request.request_id, connection):
                return request_conflict(change.request)
        return None

    # -- reading ----------------------------------------------------------------------------------

    async def load_open(self) -> list[Stored]:
        """Returns every workflow that is not settled."""
        found = await self._read(partial(queries.load_open, self._plans))
        self._keys.update((each.workflow.id, key) for key, each in found.items())
        return list(found.values())

    async def load(self, workflow_id: str) -> Stored | None:
        """Returns one workflow, settled or not; None if there is none."""
        return await self._page(partial(queries.load, self._plans, workflow_id))

    async def submission(self, workflow_id: str) -> Submission | None:
        """Returns what was handed in, without what has become of it; None if there is none."""
        return await self._page(partial(queries.submission_of, workflow_id))

    async def version(self, workflow_id: str) -> int:
        """Returns the version of a workflow, 0 if there is none."""
        return (await self._page(partial(queries.version_of, workflow_id)))[0]

    async def query(self, query: WorkflowQuery, known: Known = nobody) -> WorkflowPage:
        """Returns one page of workflows."""
        return await self._page(partial(lists.page, query, known))

    async def history(self, workflow_id: str, *, after: int, limit: int) -> list[StoredEntry]:
        """Returns a workflow's entries after a sequence, in order."""
        return await self._page(partial(queries.history, workflow_id, after, limit))

    async def own_history(self, workflow_id: str, *, after: int, limit: int) -> list[StoredEntry]:
        """Returns those of them that are about no task."""
        return await self._page(partial(queries.own_history, workflow_id, after, limit))

    async def events(self, *, after: int, limit: int) -> list[StoredEntry]:
        """Returns entries of all workflows after a position, in order."""
        return await self._read(partial(queries.all_events, after, limit))

    async def position_of(self, reader: str) -> int | None:
        """Returns how far somebody has read the history; None: never."""
        return await self._read(partial(positions.position_of, reader))

    async def position(self) -> int:
        """Returns the highest position, 0 if there is none."""
        return await self._read(queries.position)

    async def request(self, request_id: str) -> tuple[Request, str] | None:
        """Returns a remembered request and the id of the workflow it changed."""
        return await self._page(partial(queries.request, request_id))

    async def evidence(self, host_id: str, *, below: int, limit: int) -> list[str]:
        """Returns settled workflows of which a host still keeps evidence, the oldest first."""
        return await self._page(partial(queries.evidence_on, host_id, below, limit))

    async def settled(self, workflow_ids: Sequence[str]) -> frozenset[str]:
        """Returns those of some ids whose workflow has settled, even if it has been removed."""
        return await self._read(partial(queries.settled, workflow_ids))

    async def left_by(self, *, after: int, limit: int) -> tuple[list[str], int]:
        """Returns the workflows among the next so many that have left something, and where next."""
        return await self._read(partial(left.left_by, after, limit))

    async def stored(self, workflow_ids: Sequence[str]) -> frozenset[str]:
        """Returns those of some workflows that have not been removed."""
        return await self._read(partial(left.stored, workflow_ids))

    async def hosts(self) -> list[HostRecord]:
        """Returns every host, in order of their ids."""
        return await self._read(hosts.all_hosts)

    async def audit(self, subject: str, *, before: int, limit: int) -> list[AuditEvent]:
        """Returns what was done to one, or to a collection, before a position, the last first."""
        return await self._page(partial(audit.of, subject, before, limit))

    async def progress(self) -> list[ProgressRecord]:
        """Returns what owners have reported of attempts of open workflows."""
        return await self._read(progress.of_open)

    async def webhooks(self) -> list[WebhookRecord]:
        """Returns every webhook, in order of their ids."""
        return await self._read(webhooks.all_webhooks)

    async def origins(self, workflow_ids: Sequence[str]) -> dict[str, Origin]:
        """Returns what some workflows were submitted with; of one that was removed nothing."""
        return await self._read(partial(webhooks.origins, workflow_ids))

    async def _read(self, work: Callable[[Connection], T]) -> T:
        """Reads what the coordinator itself goes by: too many others are no reason to refuse it."""
        return await self._run.read(partial(self._transactions.look, work))

    async def _page(self, work: Callable[[Connection], T]) -> T:
        """Reads what callers ask for, and what is asked for each host. Raises Busy."""
        return await self._run.page(partial(self._transactions.look, work))


def _open(
    database: Database,
    new_id: Callable[[], str],
    name: str,
    lasts: timedelta,
    connection: Connection,
) -> tuple[Opening, int]:
    """Returns what a coordinator needs to begin, and the key of the next new workflow."""
    database.check(connection)
    migrate(connection)
    is_first = not database.shared or sessions.is_first(name, connection)
    # Kept until the end: of two that open it at once, each takes an epoch of its own.
    found = connection.execute(select(meta).with_for_update()).mappings().one_or_none()
    is_new = found is None
    if found is None:
        row = {"id": 1, "cluster_id": new_id(), "owner_epoch": 1, "next_intent": 1}
        connection.execute(insert(meta).values(row))
        found = connection.execute(select(meta)).mappings().one()
    epoch = found["owner_epoch"] + (not is_new)
    token_key = found["token_key"] or f"{new_id()}{new_id()}"
    kept = {"owner_epoch": epoch, "token_key": token_key}
    connection.execute(update(meta).values(kept))
    if is_first:
        recovering.leave_out(connection)
    first, end = connection.execute(select(meta.c.next_intent)).scalar_one(), None
    if database.shared:
        first, end = sessions.take_intents(connection)
        floor = Floor(next_intent=first, hosts={}, fences=first)
        sessions.begin(epoch, name, lasts, floor, connection)
    opening = Opening(
        cluster_id=found["cluster_id"],
        owner_epoch=epoch,
        next_intent=first,
        intents_end=end,
        token_key=token_key,
        recovery=recovering.recovery_of(found),
        recovered=recovering.recovered_of(found),
    )
    last_key: int = connection.scalar(select(func.coalesce(func.max(workflows.c.key), 0))) or 0
    return opening, last_key + 1
