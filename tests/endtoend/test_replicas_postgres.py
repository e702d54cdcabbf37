"""Three coordinators whose PostgreSQL goes away, comes back, and is not heard at COMMIT."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from itertools import cycle

import pytest
import pytest_asyncio

from countermand.client import Client, Run
from countermand.client.spec import parallel, sequence, workflow_spec
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from tests.endtoend.checks import assert_clean, assert_ran_once
from tests.endtoend.cluster import Cluster, Service, copy, until
from tests.endtoend.lives import Lives
from tests.endtoend.plans import BASE
from tests.endtoend.replicas import (
    LEASE_S,
    anywhere,
    assert_seen,
    at,
    epochs,
    noop,
    replicas,
    sessions,
    watched,
)
from tests.endtoend.stories import ends
from tests.postgres import NoPostgres, Server
from tests.proxy import Moment, Proxy

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

COMMIT = b"COMMIT\0"


@dataclass(frozen=True, slots=True)
class Site:
    """Coordinators, the ways to their database, and its server."""

    cluster: Cluster
    ways: list[Proxy]
    server: Server

    def lives(self) -> list[tuple[object, bool]]:
        """Returns who runs, to be compared: nobody may have ended in between."""
        return [(each.life, each.alive) for each in self.cluster.coordinators]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(lives: Lives, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    try:
        server = Server()
        server.start()
    except (NoPostgres, ModuleNotFoundError) as error:
        pytest.skip(f"no PostgreSQL: {error}")
    try:
        url = server.new_database()
        name = url.partition("@/")[2].partition("?")[0]
        async with AsyncExitStack() as stack:
            ways = [await stack.enter_async_context(Proxy(server.socket)) for _ in range(3)]
            urls = [f"postgresql://postgres@{way.address}/{name}" for way in ways]
            folder = tmp_path_factory.mktemp("replicas")
            cluster = await stack.enter_async_context(replicas(lives, folder, url, urls))
            yield Site(cluster, ways, server)
    finally:
        server.remove()


def copies(workflow_id: str) -> WorkflowSpec:
    """Returns two copies at once, and something after them."""
    both = parallel(
        "both",
        copy("copy-a", "a", BASE, f"pool-a/{workflow_id}"),
        copy("copy-b", "b", BASE, f"pool-b/{workflow_id}"),
    )
    return workflow_spec("copies", sequence("all", both, noop("then", "b")))


async def submitted(client: Client, workflow_ids: list[str]) -> list[Run]:
    """Returns workflows that were handed in at the same time."""
    submits = (client.submit(copies(each), workflow_id=each) for each in workflow_ids)
    return list(await asyncio.gather(*submits))


async def all_succeed(runs: list[Run]) -> None:
    await asyncio.gather(*(ends(run, "SUCCEEDED") for run in runs))


def assert_all_clean(cluster: Cluster, workflow_ids: list[str]) -> None:
    for workflow_id in workflow_ids:
        assert_clean(cluster, workflow_id, "SUCCEEDED")
        assert_ran_once(cluster, workflow_id)


async def test_nothing_is_lost_or_done_twice_when_the_database_is_killed(site: Site) -> None:
    """Workflows are handed in before it, during it and after it; nobody ends, nobody takes over."""
    ids = [f"killed-{number}" for number in range(24)]
    before = sessions(site.cluster), site.lives()
    async with anywhere(site.cluster) as client:
        some = asyncio.create_task(submitted(client, ids[:12]))
        await until(lambda: site.cluster.data_of("pool-a/killed-0").exists(), "the first copy")
        site.server.kill()
        more = asyncio.create_task(submitted(client, ids[12:]))
        site.server.start()
        await all_succeed([*await some, *await more])
    assert_all_clean(site.cluster, ids)
    assert (sessions(site.cluster), site.lives()) == before


async def test_sessions_outlive_a_database_that_is_away_for_longer_than_they_last(
    site: Site,
) -> None:
    """Everybody's has lapsed then, and nobody judges anybody."""
    cluster = site.cluster
    before = sessions(cluster), site.lives()
    spec = workflow_spec(
        "slow", sequence("all", copy("slow", "b", BASE, "crawling/away"), noop("then"))
    )
    async with at(cluster.coordinators[1]) as there:
        await there.submit(spec, workflow_id="away")
    await until(lambda: cluster.half_made_bytes("crawling", "away"), "the middle of a copy")
    async with anywhere(cluster) as client, watched(client.run("away")) as seen:
        site.server.kill()
        is_long = lambda: min(map(away_s, cluster.coordinators)) > LEASE_S + 1  # noqa: E731
        await until(is_long, "an outage longer than any lease")
        site.server.start()
        await ends(client.run("away"), "SUCCEEDED")
    assert_seen(seen, cluster, "away")
    assert_all_clean(cluster, ["away"])
    assert epochs(cluster, "away") == []
    assert (sessions(cluster), site.lives()) == before


def away_s(service: Service) -> float:
    """Returns for how long a coordinator has not been able to keep its session."""
    told = [
        datetime.fromisoformat(str(event["time"]))
        for event in service.events()
        if event["event"] in {"session.not_renewed", "coordinator.ready"}
    ]
    failed = told[1:]
    return (failed[-1] - failed[0]).total_seconds() if failed else 0.0


async def test_commits_whose_connection_is_cut_happen_once_or_not_at_all(site: Site) -> None:
    """Before the database has heard of it, and before anybody has heard from the database."""
    before = site.lives()
    done: list[str] = []
    moments = cycle(Moment)
    async with anywhere(site.cluster) as client:
        for number, way in enumerate(site.ways * 4):
            way.cut_at(COMMIT, next(moments))
            ids = [f"cut-{number}-{each}" for each in range(3)]
            runs = await submitted(client, ids)
            async with asyncio.timeout(30):
                await way.sprung.wait()  # some coordinator commits something every second
            await all_succeed(runs)
            done += ids
    assert_all_clean(site.cluster, done)
    assert site.lives() == before
