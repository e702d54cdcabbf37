"""Brings a database to the schema of this version, at start, in one transaction.

Most starts find it there already: that is read from the table that Alembic keeps, without
importing Alembic, which takes half a second.
"""

from __future__ import annotations

import logging
from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, String, Table, inspect, text

from coordinator.runtime.ports import StoreError
from coordinator.store.columns import metadata
from coordinator.store.counters import begin as begin_counters

HEAD = "0015"  # the newest revision in migrations/versions; a test compares
SCRIPTS = Path(__file__).parent / "migrations"

# As Alembic makes it.
_version = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


def migrate(connection: Connection) -> None:
    """Migrates within the connection's transaction; refuses a schema that it does not know."""
    stored = stored_revision(connection)
    is_postgres = connection.dialect.name == "postgresql"
    if stored is None and is_postgres:
        _make(connection)
        return
    if stored != HEAD and is_postgres:  # of two that would migrate, the second finds it done
        connection.execute(text("LOCK TABLE alembic_version IN SHARE ROW EXCLUSIVE MODE"))
        stored = stored_revision(connection)
    if stored == HEAD:
        return
    # Its own progress is of no interest to whoever reads the coordinator's log.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from alembic import command  # noqa: PLC0415 - half a second that most starts need not spend
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if stored is not None and stored not in known:
        raise StoreError(
            f"the store's schema is {stored}, which this version does not know: a newer one wrote "
            f"it. Install that version again, or restore a backup made before (schema {HEAD})"
        )
    command.upgrade(config, HEAD)


def _make(connection: Connection) -> None:
    """Makes all tables as they are now: no PostgreSQL has a store of before revision 0015."""
    metadata.create_all(connection, checkfirst=False)
    begin_counters(connection)
    _version.metadata.create_all(connection, checkfirst=False)
    connection.execute(_version.insert().values(version_num=HEAD))


def is_empty(connection: Connection) -> bool:
    """Returns whether nothing was ever stored in a database."""
    return stored_revision(connection) is None


def stored_revision(connection: Connection) -> str | None:
    """Returns the revision of a database; None if it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    stored: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return stored
