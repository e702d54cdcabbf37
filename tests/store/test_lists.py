"""What lists show and cost: of a store in a SQLite file, with many workflows in it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Self, cast

import pytest
from sqlalchemy import Connection, func, insert, select, text

from coordinator.runtime.ports import WorkflowQuery
from coordinator.saga.states import WorkflowState
from coordinator.store import lists
from coordinator.store.database import sqlite
from coordinator.store.run import Inline
from coordinator.store.sql import SqlStore
from coordinator.store.tables import attempts, events, labels, submissions, tasks, workflows
from coordinator.store.texts import micros
from tests.store.specs import three_tasks
from tests.store.walks import BEGIN, Walk

W = WorkflowState
FEW = 300
MANY = 3_000
EVERYTHING = {
    "all": WorkflowQuery(limit=5),
    "a settled state": WorkflowQuery(limit=5, states=frozenset({W.COMPENSATED})),
    "a state that nothing is in": WorkflowQuery(limit=5, states=frozenset({W.FAILED})),
    "two settled states": WorkflowQuery(limit=5, states=frozenset({W.SUCCEEDED, W.FAILED})),
    "open ones": WorkflowQuery(limit=5, states=lists.OPEN),
    "attention": WorkflowQuery(limit=5, needs_attention=True),
    "a label": WorkflowQuery(limit=5, labels=(("env", "test"),)),
    "a label of a few": WorkflowQuery(limit=5, labels=(("vm", "7"),)),
    "open ones with a label of all": WorkflowQuery(
        limit=5, states=lists.OPEN, labels=(("env", "test"),)
    ),
    "a host": WorkflowQuery(limit=5, host="host-1"),
    "a host that nothing is on": WorkflowQuery(limit=5, host="host-9"),
    "open ones on a host": WorkflowQuery(limit=5, host="host-1", states=lists.OPEN),
    "a kind": WorkflowQuery(limit=5, kind="three"),
    "a kind that nothing is of": WorkflowQuery(limit=5, kind="four"),
    "a kind in a state": WorkflowQuery(limit=5, kind="three", states=frozenset({W.FAILED})),
    "old ones": WorkflowQuery(limit=5, created_before=BEGIN + timedelta(hours=30)),
    "old ones of a kind": WorkflowQuery(
        limit=5, created_before=BEGIN + timedelta(hours=30), kind="three"
    ),
    "few that begin alike": WorkflowQuery(limit=5, id_prefix="open-"),
    "none that begin alike": WorkflowQuery(limit=5, id_prefix="nothing"),
    "a later page": WorkflowQuery(limit=5, after="40"),
}


async def filled(path: Path, count: int) -> SqlStore:
    """Returns a store with settled workflows, one an hour, and a few open ones among the first."""
    store = SqlStore(sqlite(path), Inline(), new_id=lambda: "c")
    await store.open()
    walks = [
        Walk(f"open-{n}", spec=three_tasks(), labels={"env": "test", "vm": "7"}) for n in range(3)
    ]
    held = walks[0]
    await store.commit([*(walk.change for walk in walks), held.quarantine()])
    done = Walk("done", spec=three_tasks(), labels={"env": "test"})
    await store.commit([done.change, done.succeed(), done.succeed(), done.succeed()])
    with store._database.writer.begin() as connection:
        _copy(connection, count)
    await store.close()
    store = SqlStore(sqlite(path), Inline(), new_id=lambda: "c")
    await store.open()
    return store


def _copy(connection: Connection, count: int) -> None:
    """Writes settled workflows like `done`, every other one made up for."""
    own = connection.execute(select(workflows).where(workflows.c.id == "done")).mappings().one()
    parts = {
        table: connection.execute(select(table).where(table.c.workflow_key == own["key"]))
        .mappings()
        .all()
        for table in (submissions, labels, tasks, attempts)
    }
    keys = [own["key"] + 1 + number for number in range(count)]
    rows = []
    for number, key in enumerate(keys):
        us = micros(BEGIN + timedelta(hours=number))
        state = (W.SUCCEEDED, W.COMPENSATED)[number % 2]
        times = {"create_time_us": us, "update_time_us": us, "end_time_us": us}
        rows.append({**own, "key": key, "id": f"done-{number}", "state": state, **times})
    connection.execute(insert(workflows), rows)
    for table, mine in parts.items():
        connection.execute(insert(table), [{**r, "workflow_key": k} for k in keys for r in mine])
    last = connection.scalar(select(func.max(events.c.position))) or 0
    told = [
        {"position": last + number, "workflow_key": key, "sequence": 1, "payload": b""}
        for number, key in enumerate(keys, 1)
    ]
    connection.execute(insert(events), told)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    store = await filled(tmp_path / "store.db", 20)
    yield store
    await store.close()


# -- what they cost -------------------------------------------------------------------------------


class Steps:
    """Counts what SQLite does: the steps of its virtual machine, the same on every computer."""

    EACH = 10

    def __init__(self, store: SqlStore) -> None:
        self.count = 0
        self._store = store

    def __enter__(self) -> Self:
        self._tell(self._step)
        return self

    def __exit__(self, *_: object) -> None:
        self._tell(None)

    def _tell(self, step: Callable[[], int] | None) -> None:
        for engine in (self._store._database.reader, self._store._database.writer):
            with engine.connect() as connection:
                database = cast("sqlite3.Connection", connection.connection.dbapi_connection)
                database.set_progress_handler(step, self.EACH)

    def _step(self) -> int:
        self.count += self.EACH
        return 0


async def test_a_page_costs_the_same_however_many_are_settled(tmp_path: Path):
    costs: dict[str, list[int]] = {name: [] for name in EVERYTHING}
    for count in (FEW, MANY):
        store = await filled(tmp_path / f"{count}.db", count)
        for name, query in EVERYTHING.items():
            await store.query(query)  # compiles the statements
            with Steps(store) as steps:
                await store.query(query)
            costs[name].append(steps.count)
        await store.close()

    assert {name: (few, many) for name, (few, many) in costs.items() if many > few * 1.2} == {}


async def test_retention_costs_what_it_removes(tmp_path: Path):
    costs = []
    for count in (FEW, MANY):
        store = await filled(tmp_path / f"{count}.db", count)
        await store.expire(before=BEGIN, limit=20)  # compiles the statements
        with Steps(store) as steps:
            assert await store.expire(before=BEGIN + timedelta(days=10), limit=20) == 20
        costs.append(steps.count)
        await store.close()

    few, many = costs
    assert many < few * 1.2


# Those that begin alike are found by their ids, and sorted: see `lists._of_prefix`.
IN_ORDER = [name for name, query in EVERYTHING.items() if not query.id_prefix]


@pytest.mark.parametrize("name", IN_ORDER)
async def test_pages_are_read_in_their_order(store: SqlStore, name: str):
    with store._database.reader.connect() as connection:
        for stream in lists.streams(EVERYTHING[name], 1_000):
            statement = stream.compile(connection, compile_kwargs={"literal_binds": True})
            plan = [row[3] for row in connection.execute(text(f"EXPLAIN QUERY PLAN {statement}"))]

            assert not [step for step in plan if "TEMP B-TREE" in step], plan  # nothing is sorted


async def test_lists_read_no_spec_plan_or_attempt_of_what_is_settled(store: SqlStore):
    with store._database.writer.begin() as connection:
        for table in (submissions, tasks):  # attempts go with their tasks
            connection.execute(table.delete().where(table.c.workflow_key > 3))

    page = await store.query(WorkflowQuery(states=frozenset({W.SUCCEEDED}), limit=100))

    assert {sum(each.counts.values()) for each in page.workflows} == {3}
    assert {each.about.labels for each in page.workflows} == {(("env", "test"),)}


async def test_what_the_caller_knows_by_itself_is_not_counted(store: SqlStore):
    page = await store.query(WorkflowQuery(states=lists.OPEN), lambda id_: id_ != "open-1")

    assert {each.id: sum(each.counts.values()) for each in page.workflows} == {
        "open-0": 0,
        "open-1": 3,
        "open-2": 0,
    }
