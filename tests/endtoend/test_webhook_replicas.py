"""Webhooks while the coordinator that tells receivers is killed, and stopped: another goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from countermand.client.spec import sequence, workflow_spec
from tests.endtoend.cluster import Cluster, Service, until
from tests.endtoend.lives import Lives
from tests.endtoend.replicas import anywhere, at, noop, replicas
from tests.postgres import Server
from tests.webhooks.receiver import SECRET, Receiver, position, receiver

pytestmark = pytest.mark.slow

SPEC = workflow_spec("told", sequence("all", noop("one"), noop("two", "b")))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(
    lives: Lives, tmp_path_factory: pytest.TempPathFactory, postgres_server: Server
) -> AsyncIterator[Cluster]:
    url = postgres_server.new_database(postgres_server.template)
    async with replicas(lives, tmp_path_factory.mktemp("told"), url, [url] * 3) as cluster:
        yield cluster
    postgres_server.drop(url)


async def keeper(cluster: Cluster) -> Service:
    """Returns the one that keeps the house, once one that runs does."""
    found: list[Service] = []

    async def kept() -> list[Service]:
        async with anywhere(cluster) as client:
            listed = [each async for each in client.coordinators.list()]
        places = [each.place for each in listed if each.keeps_house]
        running = (each for each in cluster.coordinators if each.alive)
        found[:] = [each for each in running if any(p.endswith(each.address) for p in places)]
        return found

    await until(kept, "somebody who keeps the house")
    return found[0]


async def run(cluster: Cluster, *names: str) -> None:
    async with anywhere(cluster) as client:
        for name in names:
            await client.submit(SPEC, workflow_id=name)
        for name in names:
            await client.run(name).wait()


async def told(cluster: Cluster, to: Receiver) -> None:
    """Returns once a receiver has all there is, each in its place."""
    async with anywhere(cluster) as client:

        async def there() -> bool:
            return not (await client.webhooks.get("hook")).behind

        await until(there, "a receiver that is told everything")
        top = await client.position()
        whole = []
        async for event in client.events(after=0):
            whole.append(event.position)
            if event.position == top:
                break
    assert to.positions == whole
    assert not to.refused
    assert len(set(zip(map(position, to.taken), to.ids, strict=True))) == len(whole)


@pytest.mark.asyncio(loop_scope="module")
async def test_whoever_dies_or_stops_another_tells_what_is_left(cluster: Cluster) -> None:
    async with receiver() as to:
        first = await keeper(cluster)
        other = next(each for each in cluster.coordinators if each is not first)
        async with at(other) as client:
            added = await client.webhooks.add(
                "hook", to.url, event_types=["*"], secret=SECRET, since_position=0
            )
            assert added.webhook.name == "webhooks/hook"
        await run(cluster, "before")
        await told(cluster, to)

        to.open.clear()  # it is told nothing more for now: the kill comes in the middle of a call
        calls = to.calls
        await run(cluster, *(f"amid-{number}" for number in range(10)))
        await to.until(lambda: to.calls > calls)
        await first.kill()
        to.open.set()
        second = await keeper(cluster)
        await run(cluster, "after")
        await told(cluster, to)

        await first.start()
        count = len(to.taken)
        await second.stop()
        await keeper(cluster)
        await run(cluster, "stopped")
        await told(cluster, to)
        # Who stops notes how far it has come: nothing of it is told twice.
        late = [position(event) for event in to.taken[count:]]
        assert len(set(late)) == len(late)
        async with anywhere(cluster) as client:
            await client.webhooks.remove("hook", "for a test")
