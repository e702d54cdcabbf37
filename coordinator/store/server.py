"""Connections to a server of PostgreSQL's, and what is asked of it before it is trusted.

The only place that knows psycopg; imported where there is a PostgreSQL.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, cast

import psycopg
from psycopg.adapt import Buffer
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.string import StrDumperUnknown, TextLoader
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import DBAPIError

from coordinator.runtime.ports import SESSION_LASTS, StoreError
from coordinator.store.dialects import CHANNEL, CONNECTED

log = logging.getLogger(__name__)

VERSION_MIN = 15
SHUTDOWNS = "57P0"  # classes of errors by which the server ends a connection
LISTEN_AGAIN_S = 1.0  # after a connection was lost

STANDSTILL = SESSION_LASTS / 3

Settings = dict[str, str]

# A server that is gone is found out in half a minute, whatever the network says. Written as in a
# URL, where all of them may be said otherwise.
_DEFAULTS: Settings = {
    "fallback_application_name": "countermand-coordinator",
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
_SERVER = text(
    "SELECT current_setting('server_version_num'), current_setting('server_encoding'),"
    " current_setting('synchronous_commit')"
)


def settings_of(url: str, standstill: timedelta = STANDSTILL) -> Settings:
    """Returns what libpq is told; raises ValueError, which repeats nothing of a URL.

    A coordinator that stands still in the middle of a transaction holds up all others: the server
    ends that after a while, long before their sessions lapse.

    There may be a password in it. One that is not escaped would be taken for a host or a port, and
    shown when that is not found.
    """
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError("the URL of the database must begin with postgresql://")
    said: Settings = {}
    try:
        said = {name: str(value) for name, value in conninfo_to_dict(url).items()}
        is_odd = any("@" in said.get(name, "") for name in ("host", "dbname"))
        is_odd |= not re.fullmatch(r"[0-9,]*", said.get("port", ""))
    except psycopg.Error:
        is_odd = True
    if is_odd:
        raise ValueError(
            "the URL of the database is none: write postgresql://user@host:port/name, and in a"
            " password %40 for @, %2F for /, %25 for %"
        )
    ends = f"-c idle_in_transaction_session_timeout={int(standstill / timedelta(milliseconds=1))}"
    return {**_DEFAULTS, "options": ends, **said, "client_encoding": "UTF8"}


def engine(settings: Settings, *, connections: int, read_only: bool) -> Engine:
    """Returns what keeps so many connections."""
    made = create_engine(
        "postgresql+psycopg://",
        creator=partial(_connect, settings, read_only=read_only),
        paramstyle="format",  # by position, as `writing.py` hands values over
        use_native_hstore=False,  # which would be looked for with every connection
        hide_parameters=True,  # there are secrets among them
        pool_size=connections,
        max_overflow=0,
    )
    event.listen(made, "handle_error", _note_end)
    return made


def _note_end(context: ExceptionContext) -> None:
    """Takes a connection that the server ends for lost: it says so a moment before it does."""
    context.is_disconnect = context.is_disconnect or _ends(context.original_exception)


def _ends(error: BaseException) -> bool:
    return isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith(SHUTDOWNS)


def _connect(settings: Settings, *, read_only: bool) -> DBAPIConnection:
    connection = psycopg.connect(**settings)  # type: ignore[arg-type]  # all of libpq's are texts
    # Told to the server with each BEGIN: nothing stays behind that a pooler in between could hand
    # to somebody else. All that one read asks for, it sees as of one moment.
    level = psycopg.IsolationLevel
    connection.isolation_level = level.REPEATABLE_READ if read_only else level.READ_COMMITTED
    connection.read_only = read_only
    connection.adapters.register_dumper(str, _Escape)
    for name in ("text", "varchar"):
        connection.adapters.register_loader(name, _Unescape)
    return cast("DBAPIConnection", connection)


def pipelined(
    connection: Connection, statements: Sequence[tuple[str, tuple[object, ...]]]
) -> list[int]:
    """Runs statements in their order, all sent before the first is waited for.

    Returns how many rows each was about. Raises SQLAlchemy's DBAPIError, as SQLAlchemy would.
    """
    raw = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    try:
        with raw.pipeline():
            cursors = [raw.execute(sql, values) for sql, values in statements]
        return [cursor.rowcount for cursor in cursors]
    except psycopg.Error as error:
        is_lost = raw.closed or _ends(error)
        if is_lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            None,
            None,
            error,
            psycopg.Error,
            hide_parameters=True,
            connection_invalidated=is_lost,
            dialect=connection.dialect,
        ) from error


# The server ends those that are idle in a transaction by itself. Where only a part of a request has
# come it awaits the rest, however long that takes: such a client looks like one at work.
_END_STANDSTILLS = text(
    "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()"
    " AND application_name = current_setting('application_name') AND wait_event_type = 'Client'"
    " AND xact_start IS NOT NULL AND query_start < clock_timestamp() - make_interval(secs => :s)"
)


def end_standstills(after: timedelta, connection: Connection) -> int:
    """Ends transactions of coordinators that have said nothing for so long; returns how many."""
    ended: int = connection.execute(_END_STANDSTILLS, {"s": after.total_seconds()}).scalar_one()
    return ended


async def listen(settings: Settings, hear: Callable[[str], None]) -> None:
    """Hears what others say with NOTIFY, until cancelled.

    A hint and no more: some are lost whenever the connection is, and behind some poolers all of
    them. So whoever listens looks by itself as well. It hears CONNECTED first, and again whenever
    it was lost: another server may have taken over.
    """
    while True:
        try:
            connection = await psycopg.AsyncConnection.connect(**settings, autocommit=True)  # type: ignore[arg-type]  # as above
            async with connection:
                await connection.execute(f"LISTEN {CHANNEL}")
                hear(CONNECTED)
                async for said in connection.notifies():
                    hear(said.payload)
        except psycopg.Error as error:
            log.info("hints.lost", extra={"error": str(error).strip()})
        await asyncio.sleep(LISTEN_AGAIN_S)


def check(connection: Connection) -> None:
    """Raises StoreError if a server would not keep what it is given, or not as it is given."""
    version, encoding, flushes = connection.execute(_SERVER).one()
    major = int(version) // 10_000
    if major < VERSION_MIN:
        raise StoreError(
            f"the server is PostgreSQL {major}; {VERSION_MIN} is the oldest that serves"
        )
    if encoding != "UTF8":
        raise StoreError(
            f"the database is in {encoding}: make one with CREATE DATABASE … ENCODING 'UTF8'"
            " TEMPLATE template0"
        )
    if flushes == "off":
        raise StoreError(
            "the database answers before it has written: ALTER DATABASE … SET"
            " synchronous_commit = on"
        )


def place(connection: Connection) -> str:
    """Returns which database it is, for people."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection), driver
    return f"{driver.info.dbname} on {driver.info.host}:{driver.info.port}"


# PostgreSQL's texts hold every character but U+0000, which people and agents may send all the same.
# It is kept as two others, of which the first is one that nobody writes; and that, doubled.
_NUL, _MARK = "\0", "\x1a"


class _Escape(StrDumperUnknown):
    """Says texts to the server."""

    def dump(self, obj: str) -> Buffer | None:
        """Returns a text as the server keeps it."""
        if _NUL in obj or _MARK in obj:
            obj = obj.replace(_MARK, _MARK + _MARK).replace(_NUL, _MARK + "0")
        return super().dump(obj)


class _Unescape(TextLoader):
    """Hears texts from the server."""

    def load(self, data: Buffer) -> str:
        """Returns a text as it was given."""
        said = bytes(data).decode()
        return _KEPT.sub(_meant, said) if _MARK in said else said


_KEPT = re.compile(f"{_MARK}(.)")


def _meant(kept: re.Match[str]) -> str:
    return _NUL if kept[1] == "0" else kept[1]
