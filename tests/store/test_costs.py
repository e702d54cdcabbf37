"""What a commit costs: in proportion to what changed, however large the workflow is.

And a look for what nobody owns: in proportion to what there is of that, however much others own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from coordinator.saga import events
from coordinator.store import sessions
from coordinator.store.sql import SqlStore
from countermand.client.spec import parallel, sequence, task, workflow_spec
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from tests.store.conftest import postgres_lives, sqlite_lives
from tests.store.walks import Walk, as_stored

TASKS_MAX = 9_998  # with the root and a group: as many nodes as a workflow may have


def wide() -> WorkflowSpec:
    """Returns the largest workflow that there may be."""
    members = [task(f"task-{n}", host="host-1", action=Noop()) for n in range(TASKS_MAX)]
    return workflow_spec("wide", sequence("root", parallel("all", *members, concurrency_max=1)))


@contextmanager
def changed_rows(store: SqlStore) -> Iterator[list[int]]:
    """Counts the rows that are written meanwhile."""
    with store._database.writer.connect() as connection:
        database = cast("sqlite3.Connection", connection.connection.dbapi_connection)
    before = database.total_changes
    found: list[int] = []
    yield found
    found.append(database.total_changes - before)


async def test_one_changed_task_of_a_large_workflow_touches_no_other(tmp_path: Path):
    store = sqlite_lives(tmp_path / "store.db")()
    await store.open()
    assert isinstance(store, SqlStore)
    walk = Walk("a", spec=wide())
    await store.commit([walk.change])

    with changed_rows(store) as rows:
        await store.commit([walk.must(events.AttemptAccepted(task=2, number=1))])

    told = len(walk.change.history)
    assert rows == [1 + 1 + 1 + 1 + told]  # the workflow, task, attempt, counter
    found = await store.load("a")
    assert found
    assert found.workflow == as_stored(walk.workflow)
    await store.close()


# The first of all, again and again: this session's, and others that the last one has left.
MANY = """
INSERT INTO workflows (key, id, session, {columns})
SELECT key + number, id || number, session + number / 2900, {columns}
FROM workflows, generate_series(1, 3000) AS number
"""
COLUMNS = """
SELECT string_agg(column_name, ',') FROM information_schema.columns
WHERE table_name = 'workflows' AND column_name NOT IN ('key', 'id', 'session')
"""
READ = """
SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'workflows'
"""


@pytest.mark.parametrize("gone", [False, True], ids=["none", "some"])
async def test_who_looks_for_what_nobody_owns_reads_nothing_that_others_own(
    postgres_url: str, gone: bool
):
    live = postgres_lives(postgres_url)
    store, other = live(name="one"), live(name="other")
    await store.open()
    await other.open()
    assert isinstance(store, SqlStore)
    await store.commit([Walk("a").change])
    with store._database.writer.begin() as connection:
        columns = connection.exec_driver_sql(COLUMNS).scalar_one()
        connection.exec_driver_sql(MANY.format(columns=columns))
    with store._database.writer.connect().execution_options(
        isolation_level="AUTOCOMMIT"
    ) as connection:
        connection.exec_driver_sql("ANALYZE workflows")
    if gone:
        await other.end_session()

    with store._database.writer.begin() as connection:
        _, keys, _ = sessions.claim(1, 10, connection)
        read = connection.exec_driver_sql(READ).scalar_one()

    assert len(keys) == (10 if gone else 0)
    assert read < 100  # some for each, none for what others own
    await store.close()
    await other.close()
