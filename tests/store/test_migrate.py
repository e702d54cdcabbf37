"""Migrations end where the metadata says, and a schema from the future is left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text

from coordinator.runtime.ports import StoreError
from coordinator.store.database import sqlite
from coordinator.store.migrate import HEAD, SCRIPTS, migrate, stored_revision
from coordinator.store.run import Inline
from coordinator.store.sql import SqlStore
from coordinator.store.tables import metadata


def schema(connection: Connection) -> dict[str, str]:
    """Returns the text of every table and index: what Alembic does not compare is there too."""
    rows = connection.execute(
        text(
            "SELECT name, sql FROM sqlite_master"
            " WHERE name NOT LIKE 'alembic%' AND name NOT LIKE 'sqlite%'"
        )
    )
    return {row.name: row.sql for row in rows}


def test_a_migrated_store_is_what_the_metadata_says(tmp_path: Path):
    database = sqlite(tmp_path / "store.db")
    with database.writer.begin() as connection:
        migrate(connection)
    fresh = create_engine("sqlite://")
    metadata.create_all(fresh)

    with database.reader.connect() as connection, fresh.connect() as expected:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert schema(connection) == schema(expected)
        assert stored_revision(connection) == HEAD
    database.close()
    fresh.dispose()


def test_the_newest_script_is_the_one_that_starts_look_for():
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))

    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


async def test_a_schema_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "store.db"
    store = SqlStore(sqlite(path), Inline(), new_id=lambda: "c")
    await store.open()
    await store.close()
    database = sqlite(path)
    with database.writer.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()

    store = SqlStore(sqlite(path), Inline(), new_id=lambda: "c")
    with pytest.raises(StoreError, match=r"schema is 9999, .* a newer one wrote it"):
        await store.open()
    with store._database.reader.connect() as connection:
        assert connection.scalar(text("SELECT owner_epoch FROM meta")) == 1
    await store.close()


def test_a_start_that_finds_its_schema_does_not_import_alembic(tmp_path: Path):
    start = (
        "import asyncio, sys; from pathlib import Path;"
        "from coordinator.store.database import sqlite;"
        "from coordinator.store.run import Inline; from coordinator.store.sql import SqlStore;"
        "store = SqlStore(sqlite(Path(sys.argv[1])), Inline(), new_id=lambda: 'c');"
        "print(asyncio.run(store.open()).owner_epoch, 'alembic' in sys.modules)"
    )
    path = str(tmp_path / "store.db")

    lives = [
        subprocess.run(
            [sys.executable, "-c", start, path],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for _ in range(2)
    ]

    assert lives == [["1", "True"], ["2", "False"]]
