"""Connections to the database of the store: a file of SQLite's, or a database on PostgreSQL.

SQLite serves one coordinator: a lock file beside the database is held for as long as the store is
open. On PostgreSQL there may be several, each with a session: see `sessions.py`. All commits of one
go through one connection. Where their SQL differs is in `dialects.py`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from coordinator.runtime.ports import SESSION_LASTS, StoreError
from coordinator.store.run import READERS

# Only a backup or a person with a shell competes for the file; they are quick, or wrong.
BUSY_TIMEOUT_S = 5

FILE = "coordinator.sqlite"  # in a folder of data

WRITERS = 2  # one commits, one writes what must not wait for that

_PRAGMAS = (
    "PRAGMA journal_mode = WAL",  # readers and the writer do not wait for each other
    "PRAGMA synchronous = FULL",  # what COMMIT has returned from survives a power cut
    "PRAGMA foreign_keys = ON",
)


Hear = Callable[[str], None]


class DatabaseInvalid(ValueError):
    """The settings name no database that could hold the store."""


def _nothing(_: Connection) -> None:
    """Finds nothing to say."""


def _none(_: Connection) -> int:
    """Finds none."""
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """The two ways into one database, and what keeps others out."""

    writer: Engine
    reader: Engine
    lock: Lock | None = None
    check: Callable[[Connection], None] = _nothing  # raises StoreError if it cannot serve us
    end_standstills: Callable[[Connection], int] = _none  # of other coordinators
    # To what others say; it knows the password.
    listen: Callable[[Hear], Coroutine[None, None, None]] | None = field(default=None, repr=False)

    @property
    def shared(self) -> bool:
        """Returns whether several coordinators may have it open."""
        return self.lock is None

    def take(self) -> None:
        """Keeps others out, where the database cannot tell who writes."""
        if self.lock is not None:
            self.lock.take()

    def release(self) -> None:
        """Lets others in."""
        if self.lock is not None:
            self.lock.release()

    def close(self) -> None:
        """Closes every connection, and then lets others in."""
        self.reader.dispose()
        self.writer.dispose()
        self.release()


def sqlite(path: Path) -> Database:
    """Returns the database in a file, which is made when it is first opened."""
    url = URL.create("sqlite", database=str(path))
    connect = {"timeout": BUSY_TIMEOUT_S}
    writer = create_engine(url, connect_args=connect, pool_size=1, max_overflow=0)
    reader = create_engine(url, connect_args=connect, pool_size=READERS, max_overflow=0)
    event.listen(writer, "connect", _prepare_writer)
    event.listen(reader, "connect", _prepare_reader)
    # sqlite3 would open transactions by its own rules, and too late: it is told to keep out of it
    # (isolation_level = None), and SQLAlchemy says BEGIN. IMMEDIATE takes the lock at once, where
    # waiting for it is still possible.
    event.listen(writer, "begin", _begin_immediate)
    event.listen(reader, "begin", _begin)
    return Database(writer=writer, reader=reader, lock=Lock(path))


def postgres(url: str, session_lasts: timedelta = SESSION_LASTS) -> Database:
    """Returns the database at a URL of libpq's, such as postgresql://user@host/name.

    What it leaves open, libpq takes from where it always does: PGPASSWORD, ~/.pgpass, a service.
    Raises DatabaseInvalid if it is none; it is connected to when it is first opened.
    """
    try:
        from coordinator.store import server  # noqa: PLC0415 - the driver is an extra
    except ImportError as error:
        raise DatabaseInvalid(
            "what speaks to PostgreSQL is not installed: pip install 'countermand[postgres]'"
        ) from error
    try:
        standstill = session_lasts / 3
        settings = server.settings_of(url, standstill)
    except ValueError as error:
        raise DatabaseInvalid(str(error)) from None
    return Database(
        writer=server.engine(settings, connections=WRITERS, read_only=False),
        reader=server.engine(settings, connections=READERS, read_only=True),
        check=server.check,
        end_standstills=partial(server.end_standstills, standstill),
        listen=partial(server.listen, settings),
    )


def _prepare_writer(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _prepare_reader(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA query_only = ON")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


class Lock:
    """An exclusive lock beside a database file. It ends with the process, whatever ends that."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._path = database.with_name(database.name + ".lock")
        self._file: int | None = None

    def take(self) -> None:
        """Takes the lock; raises StoreError at once if another coordinator holds it."""
        if self._file is not None:
            return
        # What is stored is nobody else's business: database and lock are made for their owner only.
        try:
            os.close(os.open(self._database, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            file = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"the store cannot be opened: {error}") from error
        try:
            # flock, not lockf: it belongs to this opening, so that a second store in the same
            # process is refused too. The file stays: removing it would let two hold "the" lock.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(file)
            raise StoreError(
                f"another coordinator (pid {holder}) uses this store: {self._database}; "
                "stop it, or give this one a database of its own"
            ) from error
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        self._file = file

    def release(self) -> None:
        """Lets others in."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
