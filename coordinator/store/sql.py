"""The store on a database.

Inside, plain functions that block; outside, `SqlStore`, which hands them to `Run`. The statements
of a commit are in `writing.py`, those that only read in `queries.py`; the few others are here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, Transaction, delete, insert, select, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from coordinator.runtime.ports import (
    AuditEvent,
    Change,
    HostRecord,
    Known,
    Opening,
    ProgressRecord,
    Request,
    StoreConflictError,
    Stored,
    StoredEntry,
    StoreError,
    StoreFencedError,
    StoreRefusedError,
    Submission,
    WorkflowPage,
    WorkflowQuery,
    nobody,
)
from coordinator.runtime.webhooks import Origin, WebhookProgress, WebhookRecord
from coordinator.store import (
    audit,
    hosts,
    left,
    lists,
    positions,
    progress,
    queries,
    retention,
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
from coordinator.store.migrate import is_empty, migrate
from coordinator.store.plans import Plans
from coordinator.store.run import Run
from coordinator.store.tables import evidence, meta
from coordinator.store.writing import StaleError, Writing
from countermand.rpc.crash import Crash, never

T = TypeVar("T")


class CommitUnknownError(StoreError):
    """The store lost its database during a commit, which is there or is not: {why}."""


class SqlStore:
    """The store on a database."""

    def __init__(
        self, database: Database, run: Run, *, new_id: Callable[[], str], crash: Crash = never
    ) -> None:
        self._database = database
        self._run = run
        self._new_id = new_id
        self._crash = crash
        self._plans = Plans()
        self._writing = Writing(database.writer.dialect)
        self._epoch = 0  # of this opening
        self._next_key = 0  # for the next new workflow; 0: to be looked up
        self._keys: dict[str, int] = {}  # of workflows that are open, by id

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
        work = partial(retention.expire, self._epoch, before, limit)
        return await self._run.write(partial(self._transact, work))

    async def clear(self, workflow_id: str) -> None:
        """Removes one settled workflow; an absent one is a success."""
        work = partial(retention.clear, self._epoch, workflow_id)
        await self._run.write(partial(self._transact, work))

    async def note_progress(self, records: Sequence[ProgressRecord]) -> None:
        """Notes what owners reported of some attempts, all or none."""
        await self._run.write(
            partial(self._transact, partial(progress.note, self._epoch, tuple(records)))
        )

    async def forgotten(self, host_id: str, workflow_ids: Sequence[str]) -> None:
        """Hears that a host keeps no evidence of some workflows any more."""
        of_host = evidence.c.host_id == host_id
        remove = delete(evidence).where(of_host, evidence.c.workflow_id.in_(workflow_ids))
        await self._run.write(partial(self._transact, lambda c: c.execute(remove)))

    async def put_host(self, host: HostRecord, event: AuditEvent | None = None) -> None:
        """Adds or replaces a host, and notes with it who did so, if anybody."""
        await self._run.write(partial(self._transact, partial(hosts.put, host, event)))

    async def remove_host(self, host_id: str, event: AuditEvent | None = None) -> None:
        """Removes a host, and notes with it who did so; an absent one is a success."""
        await self._run.write(partial(self._transact, partial(hosts.remove, host_id, event)))

    async def note_audit(self, events: Sequence[AuditEvent]) -> None:
        """Notes what is done and changes no other record, all or none."""
        await self._run.write(partial(self._transact, partial(audit.note, tuple(events))))

    async def put_webhook(self, webhook: WebhookRecord, event: AuditEvent | None = None) -> None:
        """Adds or replaces a webhook, and notes with it who did so, if anybody."""
        await self._run.write(partial(self._transact, partial(webhooks.put, webhook, event)))

    async def note_webhooks(self, progress: Mapping[str, WebhookProgress]) -> None:
        """Notes how far receivers have been told, all or none."""
        await self._run.write(partial(self._transact, partial(webhooks.note, dict(progress))))

    async def remove_webhook(self, webhook_id: str, event: AuditEvent | None = None) -> None:
        """Removes a webhook, and notes with it who did so; an absent one is a success."""
        await self._run.write(partial(self._transact, partial(webhooks.remove, webhook_id, event)))

    async def note_position(self, reader: str, position: int) -> None:
        """Notes how far somebody has read the history."""
        await self._run.write(partial(self._transact, partial(positions.note, reader, position)))

    async def forget_reader(self, reader: str) -> None:
        """Forgets somebody who reads no more; what is removed does not wait for them then."""
        await self._run.write(partial(self._transact, partial(positions.forget, reader)))

    async def close(self) -> None:
        """Releases everything; nothing is written any more."""
        await self._run.close()
        self._database.close()

    def _open(self) -> Opening:
        self._database.take()
        self._keys.clear()
        try:
            opening, self._next_key = self._take_epoch()
        except BaseException:
            self._database.release()
            raise
        self._epoch = opening.owner_epoch
        return opening

    def _take_epoch(self) -> tuple[Opening, int]:
        take = partial(_open, self._database.check, self._new_id)
        was_empty = self._look(is_empty)
        try:
            return self._transact(take)
        except StoreError:
            # Of two that found it empty one has made the tables; the other finds them now.
            if not was_empty or self._look(is_empty):
                raise
            return self._transact(take)

    def _commit(self, changes: tuple[Change, ...]) -> None:
        assert self._epoch, "open() comes first"
        merged = merge(changes)
        try:
            keys = self._transact(partial(self._write, merged, changes))
        except StoreRefusedError as error:
            # Which row it was is found out afterwards: what nearly always succeeds stays simple.
            conflict = self._look(partial(_conflict, merged, changes, self._epoch))
            if conflict is None:  # a constraint of another kind: a defect of ours
                raise
            raise conflict from error
        except CommitUnknownError:
            self._next_key = 0  # those that were given may be taken
            raise
        # Only what is visible is remembered, and only what may be written again.
        for workflow_id, each in merged.items():
            if each.workflow.settled:
                self._keys.pop(workflow_id, None)
            else:
                self._keys[workflow_id] = keys[workflow_id]
        self._next_key = max(self._next_key, *(key + 1 for key in keys.values()))

    def _write(
        self, merged: dict[str, Merged], changes: tuple[Change, ...], connection: Connection
    ) -> dict[str, int]:
        """Writes a batch and returns the keys of its workflows."""
        keys = self._keys_of(merged, connection)
        new = [name for name, each in merged.items() if each.submission is not None]
        if new and (used := queries.used(new, connection)):
            raise used_conflict(used[0])
        batch = batch_of(merged.values(), changes, keys.__getitem__)
        self._writing.write(connection, batch, self._epoch)
        return keys

    def _keys_of(self, merged: dict[str, Merged], connection: Connection) -> dict[str, int]:
        keys: dict[str, int] = {}
        next_key = self._next_key or queries.next_key(connection)
        for workflow_id, each in merged.items():
            if each.submission is not None:
                keys[workflow_id] = next_key
                next_key += 1
                continue
            key = self._keys.get(workflow_id) or queries.key_of(connection, workflow_id)
            if key is None:
                raise StaleError("a workflow to change was not there")
            keys[workflow_id] = key
        return keys

    def _transact(self, work: Callable[[Connection], T]) -> T:
        """Runs a function in one transaction that writes; on any error nothing is visible."""
        try:
            with self._database.writer.connect() as connection, connection.begin() as transaction:
                found = work(connection)
                self._crash("store.before_commit")
                _end(transaction)
                self._crash("store.after_commit")
                return found
        except (IntegrityError, DataError) as error:
            raise StoreRefusedError(f"the database refused a change: {_words(error)}") from error
        except SQLAlchemyError as error:
            raise StoreError(f"the database failed: {_words(error)}") from error

    # -- reading ----------------------------------------------------------------------------------

    async def load_open(self) -> list[Stored]:
        """Returns every workflow that is not settled."""
        found = await self._read(partial(queries.load_open, self._plans))
        self._keys.update((each.workflow.id, key) for key, each in found.items())
        return list(found.values())

    async def load(self, workflow_id: str) -> Stored | None:
        """Returns one workflow, settled or not; None if there is none."""
        return await self._read(partial(queries.load, self._plans, workflow_id))

    async def submission(self, workflow_id: str) -> Submission | None:
        """Returns what was handed in, without what has become of it; None if there is none."""
        return await self._read(partial(queries.submission_of, workflow_id))

    async def version(self, workflow_id: str) -> int:
        """Returns the version of a workflow, 0 if there is none."""
        return (await self._read(partial(queries.version_of, workflow_id)))[0]

    async def query(self, query: WorkflowQuery, known: Known = nobody) -> WorkflowPage:
        """Returns one page of workflows."""
        return await self._read(partial(lists.page, query, known))

    async def history(self, workflow_id: str, *, after: int, limit: int) -> list[StoredEntry]:
        """Returns a workflow's entries after a sequence, in order."""
        return await self._read(partial(queries.history, workflow_id, after, limit))

    async def own_history(self, workflow_id: str, *, after: int, limit: int) -> list[StoredEntry]:
        """Returns those of them that are about no task."""
        return await self._read(partial(queries.own_history, workflow_id, after, limit))

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
        return await self._read(partial(queries.request, request_id))

    async def evidence(self, host_id: str, *, below: int, limit: int) -> list[str]:
        """Returns settled workflows of which a host still keeps evidence, the oldest first."""
        return await self._read(partial(queries.evidence_on, host_id, below, limit))

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
        return await self._read(partial(audit.of, subject, before, limit))

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
        return await self._run.read(partial(self._look, work))

    def _look(self, work: Callable[[Connection], T]) -> T:
        """Runs a function in one transaction that only reads."""
        try:
            try:
                with self._database.reader.begin() as connection:
                    return work(connection)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
            # The server was started again since: none of the connections to it is used any more.
            with self._database.reader.begin() as connection:
                return work(connection)
        except SQLAlchemyError as error:
            raise StoreError(f"the database failed: {_words(error)}") from error


def _open(
    check: Callable[[Connection], None], new_id: Callable[[], str], connection: Connection
) -> tuple[Opening, int]:
    """Returns what a coordinator needs to begin, and the key of the next new workflow."""
    check(connection)
    migrate(connection)
    # Kept until the end: of two that open it at once, each takes an epoch of its own.
    found = connection.execute(select(meta).with_for_update()).mappings().one_or_none()
    is_new = found is None
    if found is None:
        row = {"id": 1, "cluster_id": new_id(), "owner_epoch": 1, "next_intent": 1}
        connection.execute(insert(meta).values(row))
        found = connection.execute(select(meta)).mappings().one()
    opening = Opening(
        cluster_id=found["cluster_id"],
        owner_epoch=found["owner_epoch"] + (not is_new),
        next_intent=found["next_intent"],
        token_key=found["token_key"] or f"{new_id()}{new_id()}",
    )
    kept = {"owner_epoch": opening.owner_epoch, "token_key": opening.token_key}
    connection.execute(update(meta).values(kept))
    return opening, queries.next_key(connection)


def _conflict(
    merged: dict[str, Merged], changes: tuple[Change, ...], epoch: int, connection: Connection
) -> StoreConflictError | None:
    """Returns what the caller did not know, if that is why a batch was refused."""
    current = connection.scalar(select(meta.c.owner_epoch))
    if current != epoch:
        return StoreFencedError(f"its epoch is {current}, ours is {epoch}")
    for workflow_id, each in merged.items():
        version, owner_epoch = queries.version_of(workflow_id, connection)
        if version != each.version_before:
            return version_conflict(workflow_id, each.version_before, version)
        if owner_epoch > each.workflow.owner_epoch:
            return StoreConflictError(f"workflow {workflow_id!r} is owned by epoch {owner_epoch}")
    for change in changes:
        if change.request and queries.request(change.request.request_id, connection):
            return request_conflict(change.request)
    return None


def _end(transaction: Transaction) -> None:
    """Commits. Here alone nobody can say what became of a transaction: look for it before going on.

    Whatever fails before has left nothing, and whatever the database itself refuses now as well.
    """
    try:
        transaction.commit()
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise CommitUnknownError(_words(error)) from error


def _words(error: SQLAlchemyError) -> str:
    """Returns what the database said, without the statement and its parameters.

    Nor with the row that PostgreSQL would show: there are secrets in some.
    """
    said = getattr(error, "orig", None) or error
    primary = getattr(getattr(said, "diag", None), "message_primary", None)
    return primary or " ".join(str(said).split())
