"""Brings a database to the schema of this version, at start, in one transaction.

Most starts find it there already: that is read from the table that Alembic keeps, without
importing Alembic, which takes half a second.

Where several coordinators have the database open, versions stand side by side for a while. So each
revision says which is the oldest whose coordinators can go on beside it, as `serves_from` in its
script. One that only adds (tables, columns that may be null or have a default) names an older one:
it expands. One that takes away or changes what is there says nothing: it contracts, and is its own
oldest. What a version stops using goes away one version later: expand, migrate, contract.

- An expansion is made by the first coordinator that wants it, under the eyes of the older ones.
- A contraction waits until no session of an older version is left: serving refuses, and says so.
- An older version that finds a newer schema serves it if that names it as one of those that can.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    String,
    Table,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import OperationalError

from coordinator.runtime.ports import StoreError
from coordinator.store.columns import metadata
from coordinator.store.counters import begin as begin_counters
from coordinator.store.dialects import now_us
from coordinator.store.tables import schemas, sessions
from coordinator.store.texts import time_from

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0015"  # the newest revision in migrations/versions; a test compares
SCRIPTS = Path(__file__).parent / "migrations"
MOVED = "moved"  # in the place of a revision: no version serves it

TURN = 0x636F756E746572  # of PostgreSQL's advisory locks: whoever opens a store has it to itself
# Shorter than the second after which PostgreSQL looks for deadlocks: it is never a commit that is
# ended in favour of a migration.
WAITS = "SET LOCAL lock_timeout = '500ms'"
TRIES = 40
REST_S = 0.25  # between two: those who wait behind it go on

# As Alembic makes it.
version = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One revision that an upgrade would make."""

    revision: str
    title: str


def migrate(connection: Connection) -> None:
    """Migrates within the connection's transaction; refuses a schema that it cannot serve."""
    is_postgres = connection.dialect.name == "postgresql"
    if is_postgres:  # who opens it at the same time waits, and finds it done
        connection.execute(text("SELECT pg_advisory_xact_lock(:turn)"), {"turn": TURN})
    stored = stored_revision(connection)
    if stored is None and is_postgres:
        make(connection)
    elif stored is None or stored < HEAD:
        _upgrade(connection)
    else:
        check_newer(stored, connection)


def make(connection: Connection) -> None:
    """Makes all tables as they are now: no PostgreSQL has a store of before revision 0015."""
    metadata.create_all(connection, checkfirst=False)
    begin_counters(connection)
    version.metadata.create_all(connection, checkfirst=False)
    connection.execute(version.insert().values(version_num=HEAD))
    _note(connection)


def check_newer(stored: str, connection: Connection) -> None:
    """Raises StoreError if a newer version has changed what this one needs."""
    if stored == HEAD:
        return
    if stored == MOVED:
        raise StoreError(told_moved(connection))
    oldest = serves_from(stored, connection)
    if oldest is None or oldest > HEAD:
        raise StoreError(
            f"the store's schema is {stored}, which this version does not know: a newer one wrote "
            f"it. Install that version again, or restore a backup made before (schema {HEAD})"
        )


def check_others(connection: Connection) -> None:
    """Raises StoreError if an older version that has the store open could not go on."""
    if not inspect(connection).has_table(sessions.name):
        return
    oldest = own_serves_from()
    lives = ~sessions.c.ended, sessions.c.expire_time_us >= now_us(), sessions.c.schema < oldest
    if found := connection.execute(select(sessions).where(*lives).order_by(sessions.c.id)).all():
        names = ", ".join(f"{row.name or '?'} (session {row.id})" for row in found)
        raise StoreError(
            f"schema {HEAD} takes away what older coordinators need that have the store open: "
            f"{names}. Stop them, or bring them to a version that serves schema {oldest} first"
        )


def steps(stored: str | None) -> tuple[Step, ...]:
    """Returns what an upgrade from a revision would make, in order."""
    return tuple(
        Step(revision=revision, title=title)
        for revision, title, _ in sorted(_scripts())
        if stored is None or stored < revision
    )


def own_serves_from() -> str:
    """Returns the oldest revision whose coordinators can go on beside this version's schema."""
    return max(oldest for _, _, oldest in _scripts())


def serves_from(stored: str, connection: Connection) -> str | None:
    """Returns likewise of what is stored, which may be newer; None: it says nothing."""
    if not inspect(connection).has_table(schemas.name):
        return None
    said = select(schemas.c.serves_from).where(schemas.c.revision == stored)
    oldest: str | None = connection.scalar(said)
    return oldest


def is_empty(connection: Connection) -> bool:
    """Returns whether nothing was ever stored in a database."""
    return stored_revision(connection) is None


def stored_revision(connection: Connection) -> str | None:
    """Returns the revision of a database; None if it is empty."""
    if not inspect(connection).has_table(version.name):
        return None
    stored: str | None = connection.scalar(select(version.c.version_num))
    return stored


def told_moved(connection: Connection) -> str:
    """Returns where a store that was moved has gone, in a sentence."""
    row = connection.execute(text("SELECT place, time_us FROM moved")).one()
    when = f"{time_from(row.time_us):%Y-%m-%d %H:%M:%SZ}"
    return (
        f"this store was moved to {row.place} ({when}): serve that one. If the move was cut off,"
        " give the same command again: it finds out"
    )


def _upgrade(connection: Connection) -> None:
    check_others(connection)
    # One that has lapsed might still come back, and is of no use any more.
    if inspect(connection).has_table(sessions.name):
        old = ~sessions.c.ended, sessions.c.schema < own_serves_from()
        connection.execute(update(sessions).where(*old).values(ended=True))
    # Its own progress is of no interest to whoever reads the coordinator's log.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from alembic import command  # noqa: PLC0415 - half a second that most starts need not spend

    config = _config()
    config.attributes["connection"] = connection
    for patience in reversed(range(TRIES)):
        try:
            with _beside_others(connection):
                command.upgrade(config, HEAD)
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE or not patience:
                raise
            time.sleep(REST_S)  # on the thread that opens: nothing else is to be done
        else:
            break
    _note(connection)


LOCK_NOT_AVAILABLE = "55P03"


@contextmanager
def _beside_others(connection: Connection) -> Iterator[None]:
    """Lets those who use a table go first, for as long as it takes: what is half done is undone."""
    if connection.dialect.name != "postgresql":
        yield
        return
    with connection.begin_nested():
        connection.execute(text(WAITS))
        yield
        connection.execute(text("SET LOCAL lock_timeout = DEFAULT"))


def _note(connection: Connection) -> None:
    said = {"revision": HEAD, "serves_from": own_serves_from()}
    connection.execute(insert(schemas).values(**said, create_time_us=now_us()))


def _config() -> Config:
    from alembic.config import Config  # noqa: PLC0415 - as above

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return config


def _scripts() -> list[tuple[str, str, str]]:
    """Returns each revision that this version knows, its title, and whom it leaves standing."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - as above

    found = ScriptDirectory.from_config(_config()).walk_revisions()
    return [
        (each.revision, each.doc, getattr(each.module, "serves_from", each.revision))
        for each in found
        if each.revision <= HEAD
    ]
