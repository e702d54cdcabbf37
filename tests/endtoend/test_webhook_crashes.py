"""Webhooks while the coordinator is killed: nothing is left out, and the order stays."""

from __future__ import annotations

from contextlib import suppress

import pytest
import pytest_asyncio

from coordinator.runtime.crash_points import CRASH_POINTS_OF_WEBHOOKS, EVENT_TAKEN
from countermand.client.spec import sequence, task, workflow_spec
from countermand.rpc.errors import CountermandError
from countermand.v1.verb_pb2 import Noop
from tests.endtoend.cluster import Cluster, until
from tests.webhooks.receiver import SECRET, Receiver, position, receiver

pytestmark = pytest.mark.slow

SPEC = workflow_spec(
    "told", sequence("all", *(task(name, host="a", action=Noop()) for name in ("one", "two")))
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    cluster = Cluster(lives, tmp_path_factory.mktemp("webhooks"), {"a": {}})
    await cluster.start()
    yield cluster
    await cluster.end()


async def run(cluster: Cluster, *names: str) -> None:
    async with cluster.client() as client:
        for name in names:
            await client.submit(SPEC, workflow_id=name)
    for name in names:
        await cluster.settled(name)


async def told(cluster: Cluster, webhook: str) -> int:
    """Returns the last position, once a webhook is there."""
    async with cluster.client() as client:

        async def there() -> bool:
            return not (await client.webhooks.get(webhook)).behind

        await until(there, f"{webhook} is told everything")
        return (await client.webhooks.get(webhook)).position


def assert_whole(to: Receiver, last: int) -> None:
    """Checks that a receiver has everything, each in its place, and each under one id."""
    assert to.positions == list(range(1, last + 1))
    assert not to.refused
    places = [position(event) for event in to.taken]
    assert len(set(zip(places, to.ids, strict=True))) == len(set(to.ids)) == last


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("point", CRASH_POINTS_OF_WEBHOOKS)
@pytest.mark.parametrize("passing", [1, 4])
async def test_killed_at_its_crash_points_it_goes_on_where_it_was(cluster, point, passing):
    name = f"{point.partition('.')[2].replace('_', '-')}-{passing}"
    async with receiver() as to:
        await cluster.coordinator.kill()
        await cluster.coordinator.start(f"{point}:{passing}")
        async with cluster.client() as client:
            with suppress(CountermandError):  # it may die before it has answered
                await client.webhooks.add(
                    name, to.url, event_types=["*"], secret=SECRET, since_position=0
                )
            if point != EVENT_TAKEN:  # a note is for all that has gathered: work goes on meanwhile
                with suppress(CountermandError):
                    for number in range(1000):
                        await client.submit(SPEC, workflow_id=f"{name}-{number}")
            else:
                with suppress(CountermandError):
                    await client.submit(SPEC, workflow_id=f"{name}-0")
        await cluster.coordinator.died()
        await cluster.coordinator.start()
        await run(cluster, f"{name}-last")
        assert_whole(to, await told(cluster, name))
    async with cluster.client() as client:
        await client.webhooks.remove(name, "the test is over")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_receiver_that_hangs_delays_no_workflow_and_survives_a_kill(cluster):
    async with receiver() as hangs, receiver() as quick:
        async with cluster.client() as client:
            hangs.open.clear()
            for name, to in (("hangs", hangs), ("quick", quick)):
                await client.webhooks.add(
                    name, to.url, event_types=["*"], secret=SECRET, since_position=0
                )
        await run(cluster, "beside-1", "beside-2")
        await hangs.until(lambda: hangs.calls)
        assert_whole(quick, await told(cluster, "quick"))
        assert not hangs.taken

        await cluster.coordinator.kill()
        hangs.open.set()
        await cluster.coordinator.start()
        await run(cluster, "beside-3")
        assert_whole(hangs, await told(cluster, "hangs"))
        assert_whole(quick, await told(cluster, "quick"))
