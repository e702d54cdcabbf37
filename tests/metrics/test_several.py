"""What each of several coordinators shows of all of them, and of what it took over."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from coordinator.metrics import table
from coordinator.metrics.counting import Counting
from coordinator.metrics.leftovers import Leftovers
from coordinator.metrics.reading import Subject, read
from coordinator.metrics.table import DELAY_BUCKETS
from coordinator.runtime import session
from countermand.rpc.metrics import Histogram, Reading
from tests.runtime.replicas import Replica, Shared, replica
from tests.runtime.rig import NOW, Agent, noop, series, until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RENEW_S", "CLAIM_S", "OTHERS_S"):
        monkeypatch.setattr(session, name, 0.01)


async def shown(at: Replica) -> Reading:
    """Returns what one shows; it has no webhooks."""

    async def nobody() -> dict[str, Any]:
        return {}

    counting = Counting()
    store = cast("Any", at.store)
    return await read(
        Subject(
            counting=counting,
            leftovers=Leftovers(store, counting.left_by),
            loop=at.loop,
            delays=Histogram(DELAY_BUCKETS),
            store=store,
            session=at.keeper,
            files=(),
            hosts=at.fleet,
            waiting_for_owners=dict,
            webhooks=cast("Any", SimpleNamespace(all=nobody)),
            now=lambda: NOW,
            traces=lambda: None,
        )
    )


def number(reading: Reading, name: str, *labels: str) -> float:
    [found] = [number for each, number in reading.numbers[name] if each == labels]
    assert isinstance(found, (int, float)), found
    return found


async def test_each_tells_of_all_and_of_what_it_took_over():
    shared = Shared({"a": Agent(pools=("p",))})
    async with replica(shared) as one, replica(shared) as other:
        await one.keeper.keeps_house.wait()
        for workflow_id in ("x", "y"):
            await one.start(workflow_id, series(noop("t", "a")))
        before = await shown(other)
        await until(lambda: other.keeper.live() == 2)
        await one.freeze()
        await one.store.end_session()
        await other.keeper.keeps_house.wait()
        await until(lambda: other.keeper.takeovers and other.keeper.seen_ended)
        after = await shown(other)

    alive = (table.COORDINATORS, "alive")
    assert (number(before, *alive), number(after, *alive)) == (2, 1)
    assert number(before, table.ORPHANED) == number(after, table.ORPHANED) == 0
    for name, numbers in {
        table.CLAIMED: (0, 2),
        table.TAKEOVERS: (0, 1),
        table.SESSIONS_ENDED: (0, 1),
        table.KEEPS_HOUSE: (0, 1),
    }.items():
        assert (number(before, name), number(after, name)) == numbers, name
    assert 0 < number(after, table.SESSION_EXPIRES) <= session.LASTS_S


async def test_what_nobody_takes_over_is_told_of_and_when_the_own_session_lapses():
    shared = Shared({"a": Agent(pools=("p",))})
    async with replica(shared) as one, replica(shared) as other:
        await one.start("x", series(noop("t", "a")))
        await other.freeze()
        await one.freeze()
        await one.store.end_session()
        other.keeper._trusted_until -= session.LASTS_S
        seen = await shown(other)
    assert number(seen, table.ORPHANED) == 1
    assert number(seen, table.COORDINATORS, "ended") == 1
    assert number(seen, table.SESSION_EXPIRES) < 0


async def test_each_tells_that_somebody_has_to_look_at_the_database():
    shared = Shared({})
    async with replica(shared) as one:
        before = await shown(one)
        await one.store.require_recovery("an agent is ahead")
        after = await shown(one)
    name = table.RECOVERY_REQUIRED
    assert (number(before, name), number(after, name)) == (0, 1)
