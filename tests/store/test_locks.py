"""Images that workflows hold: never two who may write one, and none that outlives its workflow."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from coordinator.runtime.ports import ImagesHeldError, Store, StoreRefusedError
from coordinator.saga import events
from coordinator.saga.spec import Lock
from coordinator.saga.states import WorkflowState
from coordinator.store.sql import SqlStore
from tests.store.conftest import commit, sqlite_lives
from tests.store.specs import one_copy
from tests.store.walks import Walk, as_stored, ask, cancel

SHARED, ALONE = ("pool", "source", 0), ("pool", "target", 1)


def copying(workflow_id: str, target: str = "pool/target", *, locked: bool = True) -> Walk:
    return Walk(workflow_id, spec=one_copy(target), locked=locked)


@pytest.fixture
async def sql(tmp_path: Path):
    store = sqlite_lives(tmp_path / "store.db")()
    await store.open()
    yield store
    await store.close()


def rows(store: SqlStore) -> list[tuple[object, ...]]:
    with store._database.reader.connect() as connection:
        found = text(
            "SELECT pool_id, image_id, exclusive, held, id FROM locks"
            " JOIN workflows ON key = workflow_key ORDER BY id, image_id"
        )
        return [tuple(row) for row in connection.execute(found)]


# -- of every store -------------------------------------------------------------------------------


async def test_two_who_may_write_one_image_are_refused(store: Store):
    """S-V24: the store itself does not take a second holder."""
    first, second, other = copying("a"), copying("b"), copying("c", "pool/other")
    await commit(store, first.change)

    with pytest.raises((StoreRefusedError, ImagesHeldError)):
        await commit(store, other.change, second.change)

    assert [each.workflow.id for each in await store.load_open()] == ["a"]
    await commit(store, other.change)  # which reads the same source


async def test_two_in_one_batch_are_refused_as_well(store: Store):
    with pytest.raises((StoreRefusedError, ImagesHeldError)):
        await commit(store, copying("a").change, copying("b").change)

    assert await store.load_open() == []


async def test_a_further_image_that_another_holds_is_refused(store: Store):
    """S-V24: two who may write one image, one of them since a decision of somebody."""
    first, second = copying("a"), copying("b", "pool/other")
    await commit(store, first.change, second.change)
    more = events.ResumeRequested(
        ask=ask(), locks=(Lock(pool="pool", image="other", exclusive=True),)
    )
    pausing = first.must(events.PauseRequested(ask=ask()))
    taking = first.must(more)
    with pytest.raises((StoreRefusedError, ImagesHeldError)):
        await commit(store, pausing, taking)
    await commit(store, second.succeed(), pausing, taking)

    found = await store.load("a")
    assert found
    assert found.workflow == as_stored(first.workflow)
    assert [lock.image for lock in found.workflow.locks] == ["other", "source", "target"]
    third = copying("c", "pool/other")
    with pytest.raises((StoreRefusedError, ImagesHeldError)):
        await commit(store, third.change)
    await commit(store, first.succeed())
    await commit(store, third.change)


async def test_who_waits_in_line_takes_over_once_the_holder_is_settled(store: Store):
    """S-V24: one after the other; who was before is not asked again."""
    first, second = copying("a"), copying("b", locked=False)
    await commit(store, first.change, second.change)
    stored = await store.load("b")
    assert stored
    assert not stored.workflow.locked

    granted = second.must(events.LocksGranted())
    with pytest.raises((StoreRefusedError, ImagesHeldError)):
        await commit(store, granted)
    await commit(store, first.succeed(), granted)

    found = await store.load("b")
    assert found
    assert found.workflow == as_stored(second.workflow)
    assert found.workflow.locked


async def test_a_holder_that_is_held_keeps_its_images(store: Store):
    first = copying("a")
    await commit(store, first.change, first.quarantine())

    with pytest.raises((StoreRefusedError, ImagesHeldError)):
        await commit(store, copying("b").change)


async def test_those_who_wait_are_found_in_the_order_in_which_they_came(store: Store):
    """S-V24: the lines are built from it when a coordinator begins."""
    names = ["d", "b", "c", "a"]
    walks = {name: copying(name, locked=name == "d") for name in names}
    await commit(store, *(walk.change for walk in walks.values()))
    await commit(store, walks["b"].must(cancel(walks["b"].random)))
    pausing = walks["a"].must(events.PauseRequested(ask=cancel(walks["a"].random).ask))
    await commit(store, pausing)

    found = [stored.workflow for stored in await store.load_open()]

    assert [(workflow.id, workflow.locked) for workflow in found] == [
        ("d", True),
        ("c", False),
        ("a", False),
    ]
    assert [lock.image for lock in found[0].plan.terms.locks] == ["source", "target"]


# -- of the tables --------------------------------------------------------------------------------


async def test_locks_are_rows_as_long_as_their_workflow_is_open(sql: SqlStore):
    """S-V33: settled and released are one."""
    first, second = copying("a"), copying("b", locked=False)
    await commit(sql, first.change, second.change)
    assert rows(sql) == [(*SHARED, 1, "a"), (*ALONE, 1, "a"), (*SHARED, 0, "b"), (*ALONE, 0, "b")]

    await commit(sql, first.succeed())
    assert first.workflow.state is WorkflowState.SUCCEEDED
    assert rows(sql) == [(*SHARED, 0, "b"), (*ALONE, 0, "b")]

    await commit(sql, second.must(events.LocksGranted()))
    assert rows(sql) == [(*SHARED, 1, "b"), (*ALONE, 1, "b")]

    second.must(cancel(second.random))
    change = second.change
    late = second.must(events.AttemptCancelled(task=1, number=1))
    await commit(sql, change, late)
    assert second.workflow.settled
    assert rows(sql) == []


def given_more(walk: Walk, *more: Lock) -> events.ResumeRequested:
    walk.must(events.PauseRequested(ask=ask()))
    return events.ResumeRequested(ask=ask(), locks=more)


async def test_further_images_are_rows_as_well_until_the_end(sql: SqlStore):
    """S-V24: what an operator's decision brought; the source that was shared is now its own."""
    walk = copying("a")
    await commit(sql, walk.change)
    more = given_more(
        walk,
        Lock(pool="pool", image="more", exclusive=True),
        Lock(pool="pool", image="source", exclusive=True),
    )
    await commit(sql, walk.change)
    await commit(sql, walk.must(more))
    assert rows(sql) == [
        ("pool", "more", 1, 1, "a"),
        ("pool", "source", 1, 1, "a"),
        (*ALONE, 1, "a"),
    ]
    await commit(sql, walk.succeed())
    assert walk.workflow.settled
    assert rows(sql) == []


async def test_a_workflow_whose_record_cannot_be_read_keeps_further_images(sql: SqlStore):
    walk = copying("a")
    await commit(sql, walk.change)
    more = given_more(walk, Lock(pool="pool", image="more", exclusive=True))
    await commit(sql, walk.change)
    await commit(sql, walk.must(more))
    with sql._database.writer.begin() as connection:
        connection.execute(text("UPDATE workflows SET more_locks = '?' WHERE key = 1"))

    [held] = [stored.workflow for stored in await sql.load_open()]

    assert held.state is WorkflowState.QUARANTINED
    assert [lock.image for lock in held.locks] == ["more", "source", "target"]


async def test_a_workflow_that_is_settled_at_once_leaves_no_lock(sql: SqlStore):
    walk = copying("a")

    await commit(sql, walk.change, walk.succeed())

    assert rows(sql) == []


async def test_a_workflow_whose_record_cannot_be_read_keeps_its_images(sql: SqlStore):
    """S-V24: nobody knows what it has done to them."""
    await commit(sql, copying("a").change, copying("b", "pool/other").change)
    with sql._database.writer.begin() as connection:
        connection.execute(text("UPDATE tasks SET failure = '{' WHERE workflow_key = 1"))
        connection.execute(text("UPDATE workflows SET pause = '?' WHERE key = 1"))

    held, other = [stored.workflow for stored in await sql.load_open()]

    assert (held.id, held.state) == ("a", WorkflowState.QUARANTINED)
    assert [lock.image for lock in held.plan.terms.locks] == ["source", "target"]
    assert other.state is WorkflowState.RUNNING


async def test_the_database_refuses_two_writers_whoever_writes(sql: SqlStore):
    await commit(sql, copying("a").change, copying("b", locked=False).change)

    with (
        pytest.raises(IntegrityError, match=r"UNIQUE constraint failed: locks\.pool_id"),
        sql._database.writer.begin() as connection,
    ):
        connection.execute(text("UPDATE locks SET held = 1"))
