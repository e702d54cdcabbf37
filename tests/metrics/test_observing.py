"""Those who look on see each transaction once, and stop nobody; leftovers of earlier lives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import pytest

from coordinator.metrics import leftovers
from coordinator.metrics.counting import Counting
from coordinator.metrics.leftovers import Leftovers
from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import Change, StoreError
from coordinator.runtime.watch import Watches
from coordinator.saga.states import WorkflowState
from coordinator.store.database import sqlite
from coordinator.store.run import Inline
from coordinator.store.sql import SqlStore
from countermand.rpc.crash import never
from countermand.v1.attempt_pb2 import Progress
from tests.metrics.test_counting import decision, standing
from tests.runtime.rig import until
from tests.runtime.test_loop import Delivered, Frozen, plain, start
from tests.store.walks import Walk

LEAVE = {8, 90, 98, 110}  # walks that leave something


class Fails(SqlStore):
    """A store that does not take what it is given until it is told to."""

    failing = False

    async def commit(self, changes: Sequence[Change]) -> None:
        if self.failing:
            raise StoreError("a test")
        await super().commit(changes)


class Broken(Counting):
    """One who looks on, and breaks."""

    def committed(self, decisions, took_s):
        super().committed(decisions, took_s)
        raise ZeroDivisionError


@contextlib.asynccontextmanager
async def life(path, *observers):
    frozen = Frozen()
    store = Fails(sqlite(path), Inline(), new_id=frozen.new_id, crash=never)
    loop = Loop(
        store=store,
        clock=frozen,
        chance=frozen,
        crash=never,
        hints=Watches[Progress](),
        observers=observers,
    )
    await loop.open()
    loop.attach(Delivered())
    running = asyncio.create_task(loop.run())
    try:
        yield loop, store
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await store.close()


async def test_one_who_breaks_stops_nobody(tmp_path, caplog):
    broken, sound = Broken(), Counting()
    async with life(tmp_path / "db", broken, sound) as (loop, _):
        await loop.ask("w", start(plain("a")))
        await loop.ask("v", start(plain("a")))
    assert sound.started == broken.started == 2
    assert caplog.messages.count("observer.failed") == 2


async def test_a_new_life_counts_what_is_open(tmp_path):
    first, second = Counting(), Counting()
    async with life(tmp_path / "db", first) as (loop, _):
        await loop.ask("w", start(plain("a")))
    assert (first.started, first.workflows[WorkflowState.RUNNING]) == (1, 1)
    async with life(tmp_path / "db", second):
        pass
    assert (second.started, second.workflows[WorkflowState.RUNNING]) == (0, 1)
    assert standing(second) == standing(first)


async def test_what_was_not_taken_is_counted_as_that(tmp_path):
    counting = Counting()
    async with life(tmp_path / "db", counting) as (loop, store):
        store.failing = True
        with pytest.raises(StoreError):
            await loop.ask("w", start(plain("a")))
        store.failing = False
    assert (counting.failures, counting.started) == (1, 0)
    assert sum(counting.batches.counts) == 0


async def test_what_waits_for_the_store_grows_old(tmp_path):
    async with life(tmp_path / "db") as (loop, store):
        assert (loop.waiting, loop.oldest_s) == (0, 0.0)
        gate, taken = asyncio.Event(), store.commit

        async def wait(changes):
            await gate.wait()
            await taken(changes)

        store.commit = wait
        asked = [asyncio.create_task(loop.ask(f"w{n}", start(plain("a")))) for n in range(3)]
        await until(lambda: loop.oldest_s > 0)
        before = loop.oldest_s
        await until(lambda: loop.oldest_s > before)
        gate.set()
        await asyncio.gather(*asked)
        await until(lambda: (loop.waiting, loop.oldest_s) == (0, 0.0))


async def test_leftovers_of_earlier_lives_are_found_and_forgotten_with_their_workflows(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(leftovers, "PIECE", 7)
    monkeypatch.setattr(leftovers, "REST_S", 0.0)
    monkeypatch.setattr(leftovers, "STORED_S", 0.001)
    world = Frozen()
    store = SqlStore(sqlite(tmp_path / "db"), Inline(), new_id=world.new_id, crash=never)
    await store.open()
    counting = Counting()
    for number in LEAVE | set(range(20)):
        walk = Walk(f"w{number}", seed=number)
        await store.commit([walk.change])
        for _ in range(150):
            if walk.workflow.settled:
                break
            if walk.step() is not None:
                await store.commit([walk.change])
        counting.committed([decision(walk.change)], 0.001)
    wanted = dict(counting.left_by)
    assert wanted.keys() == {f"w{number}" for number in LEAVE}

    found: dict[str, None] = {}
    keeper = Leftovers(store, found)
    running = asyncio.create_task(keeper.run())
    await until(lambda: keeper.complete)
    assert found.keys() == wanted.keys()
    removed = next(iter(wanted))
    await store.clear(removed)
    await until(lambda: removed not in found)
    assert found.keys() == wanted.keys() - {removed}
    running.cancel()
    await store.close()
