"""Brings a database to the schema of this version, at start, in one transaction.

Most starts find it there already: that is read from the table that Alembic keeps, without
importing Alembic, which takes half a second.
"""

from __future__ import annotations

import logging
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from coordinator.runtime.ports import StoreError

HEAD = "0013"  # the newest revision in migrations/versions; a test compares
SCRIPTS = Path(__file__).parent / "migrations"


def migrate(connection: Connection) -> None:
    """Migrates within the connection's transaction; refuses a schema that it does not know."""
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


def stored_revision(connection: Connection) -> str | None:
    """Returns the revision of a database; None if it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    stored: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return stored
