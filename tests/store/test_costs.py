"""What a commit costs: in proportion to what changed, however large the workflow is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from coordinator.saga import events
from coordinator.store.sql import SqlStore
from countermand.client.spec import parallel, sequence, task, workflow_spec
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from tests.store.conftest import sqlite_lives
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
