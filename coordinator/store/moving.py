"""Moves a store from SQLite to PostgreSQL: everything, in one transaction, or nothing.

Both must be at the schema of this version, the new one empty. The old one is marked before the new
one can be seen, so that there are never two that would be served; whoever finds the mark and does
not know what became of the move gives the same command again. What is written is read again before
it is committed, and must be what was read: as many rows, with one digest for each table.

The new store looks like one whose coordinators have all gone: what was open belongs to a session
that has ended, and whoever opens it first claims it, asks the agents, and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

from sqlalchemy import (
    Connection,
    Table,
    delete,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)

from coordinator.runtime.floors import UNHEARD
from coordinator.runtime.ports import StoreError
from coordinator.store import migrate, sessions
from coordinator.store.columns import metadata
from coordinator.store.counters import begin_intents
from coordinator.store.database import Database
from coordinator.store.dialects import now_us
from coordinator.store.tables import counters, letters, meta, schemas, workflows
from coordinator.store.tables import sessions as session_rows
from coordinator.store.transactions import CommitUnknownError, Transactions
from countermand.rpc.crash import Crash, never

BATCH = 500  # rows; the largest have some 100 KiB each

# What is about the database itself, or about those who have it open.
_STAYS = (session_rows, letters, schemas)
TABLES = tuple(table for table in metadata.sorted_tables if table not in _STAYS)

Tell = Callable[[int, int], None]  # how many rows are done, of how many


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What was moved, and where it is now."""

    place: str
    rows: Mapping[str, int]  # by table
    open_workflows: int
    before: bool = False  # by an earlier run of the same command


class Move:
    """One move of a store."""

    def __init__(self, old: Database, new: Database, *, tell: Tell, crash: Crash = never) -> None:
        """Opens nothing yet."""
        self._old = old
        self._new = new
        self._in_old = Transactions(old, never)
        self._in_new = Transactions(new, crash)
        self._tell = tell
        self._copied = False

    def run(self) -> Moved:
        """Moves everything; raises StoreError, and then nothing is to be seen of it."""
        self._old.take()
        self._in_old.look(_check_old)
        place, cluster_id = self._in_new.look(partial(_look, self._new))
        if cluster_id is not None:
            return self._found_there(place, cluster_id)
        self._in_old.write(partial(_mark, place))
        try:
            rows, count = self._in_new.write(self._copy)
        except CommitUnknownError as error:
            raise StoreError(
                "the database went away when everything was written: give the same command again"
            ) from error
        except BaseException:
            # Only where nothing can be there: else whoever comes next has to look.
            if not self._copied:
                self._in_old.write(_unmark)
            raise
        return Moved(place=place, rows=rows, open_workflows=count)

    def _found_there(self, place: str, cluster_id: str) -> Moved:
        """Returns what an earlier move has done; raises StoreError if there is something else."""
        own, is_marked = self._in_old.look(_own)
        if not is_marked or own != cluster_id:
            raise StoreError(f"the database {place} is not empty: make another one for the store")
        return Moved(place=place, rows={}, open_workflows=0, before=True)

    def _copy(self, connection: Connection) -> tuple[dict[str, int], int]:
        """Copies everything within one transaction."""
        # Reading the old one may take longer than what a coordinator may stand still for.
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        migrate.migrate(connection)
        if connection.scalar(select(func.count()).select_from(meta)):
            raise StoreError("somebody else has begun to use the database: make another one")
        connection.execute(delete(counters))  # which it has begun
        with self._old.reader.connect() as reader:
            count = {table: _count(table, reader) for table in TABLES}
            epoch: int = reader.scalar(select(meta.c.owner_epoch)) or 1
            done = partial(self._done, total=2 * sum(count.values()))
            written = {
                table: _write(table, _read(table, reader, epoch), connection, done)
                for table in TABLES
            }
        for table in TABLES:
            if (found := _sum(_rows(table, connection), done)) != written[table]:
                raise StoreError(f"{table.name} is not as written: {found}, not {written[table]}")
        count_open = _go_on(epoch, connection)
        self._copied = True
        return {table.name: count[table] for table in TABLES}, count_open

    def _done(self, rows: int, *, total: int) -> None:
        self._tell(rows, total)


# -- the old one ----------------------------------------------------------------------------------


def _check_old(connection: Connection) -> None:
    """Raises StoreError if a store cannot be moved as it is."""
    stored = migrate.stored_revision(connection)
    if stored == migrate.MOVED:
        stored = connection.scalar(text("SELECT revision FROM moved"))
    if stored is None or connection.scalar(select(func.count()).select_from(meta)) == 0:
        raise StoreError("there is nothing to move: no coordinator has ever opened it")
    if stored != migrate.HEAD:
        raise StoreError(
            f"its schema is {stored}, and this version's {migrate.HEAD}: move it with the version"
            " that serves it, or upgrade it first (countermand-coordinator db upgrade)"
        )


def _own(connection: Connection) -> tuple[str, bool]:
    """Returns the id of the cluster, and whether the store is marked as moved."""
    cluster_id: str = connection.scalars(select(meta.c.cluster_id)).one()
    return cluster_id, migrate.stored_revision(connection) == migrate.MOVED


def _mark(place: str, connection: Connection) -> None:
    """Has every version refuse to serve it: no schema is called so."""
    stored = migrate.stored_revision(connection)
    if stored == migrate.MOVED:
        connection.execute(text("UPDATE moved SET place = :place"), {"place": place})
        return
    connection.execute(text("CREATE TABLE moved (place TEXT, revision TEXT, time_us INTEGER)"))
    time_us = connection.scalar(select(now_us()))
    row = {"place": place, "revision": stored, "time_us": time_us}
    connection.execute(text("INSERT INTO moved VALUES (:place, :revision, :time_us)"), row)
    connection.execute(update(migrate.version).values(version_num=migrate.MOVED))


def _unmark(connection: Connection) -> None:
    revision = connection.scalar(text("SELECT revision FROM moved"))
    connection.execute(update(migrate.version).values(version_num=revision))
    connection.execute(text("DROP TABLE moved"))


def _read(table: Table, connection: Connection, epoch: int) -> Iterator[Sequence[dict[str, Any]]]:
    """Yields a table's rows as they are to be written."""
    for rows in _rows(table, connection):
        if table is meta:
            yield [{**row, "housekeeper": 0} for row in rows]
        elif table is workflows:
            yield [{**row, "session": 0 if row["end_time_us"] else epoch} for row in rows]
        else:
            yield rows


def _rows(table: Table, connection: Connection) -> Iterator[list[dict[str, Any]]]:
    streamed = connection.execute(select(table).execution_options(yield_per=BATCH))
    for rows in streamed.mappings().partitions():
        yield [dict(row) for row in rows]


def _count(table: Table, connection: Connection) -> int:
    return connection.scalar(select(func.count()).select_from(table)) or 0


# -- the new one ----------------------------------------------------------------------------------


def _look(database: Database, connection: Connection) -> tuple[str, str | None]:
    """Returns where it is, and whose store it has; None if it is empty."""
    from coordinator.store import server  # noqa: PLC0415 - the driver is an extra

    database.check(connection)
    place = server.place(connection)
    names = inspect(connection).get_table_names()
    if not names:
        return place, None
    if meta.name in names and migrate.version.name in names:
        return place, connection.scalar(select(meta.c.cluster_id)) or ""
    return place, ""


Sum = tuple[int, int]  # how many rows, and of all of them a digest


def _write(
    table: Table,
    batches: Iterator[Sequence[dict[str, Any]]],
    connection: Connection,
    done: Callable[[int], None],
) -> Sum:
    """Writes a table's rows; returns what must be found there."""

    def written() -> Iterator[Sequence[dict[str, Any]]]:
        for batch in batches:
            connection.execute(insert(table), batch)
            yield batch

    return _sum(written(), done)


def _sum(batches: Iterator[Sequence[dict[str, Any]]], done: Callable[[int], None]) -> Sum:
    """Returns a sum over rows that does not depend on their order."""
    count = digest = 0
    for batch in batches:
        for row in batch:
            told = repr(sorted(row.items())).encode()
            digest += int.from_bytes(blake2b(told, digest_size=32).digest(), "big")
        count += len(batch)
        done(len(batch))
    return count, digest % (1 << 256)


def _go_on(epoch: int, connection: Connection) -> int:
    """Leaves the store as after the end of all that had it open; returns what they left open."""
    last_key = connection.scalar(select(func.max(workflows.c.key)))
    if last_key:
        connection.execute(text("SELECT setval('workflow_keys', :last)"), {"last": last_key})
    begin_intents(connection.scalar(select(meta.c.next_intent - 1)) or 0, connection)
    left = select(func.count()).where(workflows.c.session == epoch)
    count = connection.scalar(left) or 0
    if count:
        sessions.leave(epoch, "moved from SQLite", UNHEARD, connection)
    connection.execute(text("ANALYZE"))  # else the first minutes would be planned as for nothing
    return count
