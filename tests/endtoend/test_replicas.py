"""Three coordinators on one database, and what happens to workflows when their owner goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
import pytest_asyncio
from click.testing import CliRunner

from coordinator.__main__ import main
from countermand.client import Run
from countermand.client.external import Handler, Owner
from countermand.client.spec import parallel, sequence, workflow_spec
from countermand.v1.annotation_pb2 import EFFECT_READ_ONLY
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from tests.api.owners import serving
from tests.api.vendors import external, plan_of
from tests.endtoend.checks import assert_clean, assert_ran_once, journal, recorded
from tests.endtoend.cluster import Cluster, copy, free_address, until
from tests.endtoend.lives import Lives
from tests.endtoend.plans import BASE
from tests.endtoend.replicas import (
    anywhere,
    assert_seen,
    at,
    epochs,
    noop,
    replicas,
    sessions,
    watched,
)
from tests.endtoend.stories import ends, needs
from tests.postgres import Server

pytestmark = pytest.mark.slow


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def began(
    lives: Lives, tmp_path_factory: pytest.TempPathFactory, postgres_server: Server
) -> AsyncIterator[Cluster]:
    url = postgres_server.new_database(postgres_server.template)
    async with replicas(lives, tmp_path_factory.mktemp("replicas"), url, [url] * 3) as cluster:
        yield cluster
    postgres_server.drop(url)


@pytest.fixture
async def cluster(began: Cluster) -> Cluster:
    """Returns all three, those that a test has ended started again."""
    for service in began.coordinators:
        if not service.alive:
            await service.start()
    return began


def copies(workflow_id: str, *, held: bool = False) -> WorkflowSpec:
    """Returns a copy that takes some seconds, and one after it; it may wait for somebody, too."""
    slow = copy("slow", "b", BASE, f"crawling/{workflow_id}")
    then = copy("then", "a", BASE, f"pool-a/{workflow_id}")
    beside = sequence("beside", noop("noop"), noop("held", held=True))
    first = parallel("first", slow, beside) if held else slow
    return workflow_spec("copies", sequence("all", first, then))


async def at_work(cluster: Cluster, workflow_id: str) -> None:
    """Returns once the slow copy is under way."""
    await until(lambda: cluster.half_made_bytes("crawling", workflow_id), "the middle of a copy")


async def taken_over(cluster: Cluster, workflow_id: str) -> None:
    await until(lambda: epochs(cluster, workflow_id), f"another owner of {workflow_id}")


async def test_what_a_killed_owner_had_is_taken_over_and_done_once(cluster: Cluster) -> None:
    """Calls and a watch through the others go on meanwhile."""
    owner, *others = cluster.coordinators
    async with at(owner) as client:
        await client.submit(copies("killed", held=True), workflow_id="killed")
    await at_work(cluster, "killed")
    await until(lambda: recorded(cluster, "killed").state == "PAUSING", "the wait for somebody")
    async with anywhere(cluster) as client, at(others[0]) as one, at(others[1]) as two:
        run = client.run("killed")
        async with watched(run) as seen:
            await owner.kill()
            assert (await one.run("killed").get()).name == "workflows/killed"  # reads need no owner
            await two.run("killed").resume()  # waits for as long as nobody owns it
            assert epochs(cluster, "killed")
            await ends(run, "SUCCEEDED")
    assert_seen(seen, cluster, "killed")
    assert_clean(cluster, "killed", "SUCCEEDED")
    assert_ran_once(cluster, "killed")


async def test_who_is_stopped_hands_over_without_waiting_for_its_lease(cluster: Cluster) -> None:
    owner = cluster.coordinators[1]
    async with at(owner) as client:
        await client.submit(copies("stopped"), workflow_id="stopped")
    await at_work(cluster, "stopped")
    async with anywhere(cluster) as client, watched(client.run("stopped")) as seen:
        await owner.stop()
        assert owner.name not in sessions(cluster)  # it has ended it itself
        await taken_over(cluster, "stopped")
        await ends(client.run("stopped"), "SUCCEEDED")
    assert_seen(seen, cluster, "stopped")
    assert_clean(cluster, "stopped", "SUCCEEDED")
    assert_ran_once(cluster, "stopped")


async def test_who_was_frozen_for_longer_than_its_lease_changes_nothing(cluster: Cluster) -> None:
    """It finds that others have taken over, says so, and ends; started again, it serves."""
    owner, other = cluster.coordinators[2], cluster.coordinators[0]
    spec = workflow_spec("held", sequence("all", noop("first"), noop("held", held=True)))
    async with at(owner) as client:
        await client.submit(copies("frozen"), workflow_id="frozen")
        await needs(await client.submit(spec, workflow_id="held"), "PAUSED")
    await at_work(cluster, "frozen")
    life = sessions(cluster)[owner.name]
    async with anywhere(cluster) as client, at(owner) as caller:
        waiting = asyncio.create_task(ends(caller.run("frozen"), "SUCCEEDED"))
        await caller.run("frozen").get()
        owner.freeze()
        await taken_over(cluster, "frozen")
        async with at(other) as here:
            await here.run("held").resume()
        await ends(client.run("held"), "SUCCEEDED")
        owner.thaw()
        assert await owner.ended() == 1
        assert f"session {life} has ended" in owner.log()
        await owner.start()
        await ends(client.run("frozen"), "SUCCEEDED")
        await waiting  # whoever still waited there was told to ask again
    for workflow_id in ("frozen", "held"):
        assert_clean(cluster, workflow_id, "SUCCEEDED")
        assert_ran_once(cluster, workflow_id)
        assert len(epochs(cluster, workflow_id)) == 1  # it was never taken back
    assert sessions(cluster)[owner.name] > life


async def test_workflows_of_two_coordinators_have_an_image_one_after_the_other(
    cluster: Cluster,
) -> None:
    """The second waits for the first; whoever is asked says for whom."""
    one, two, three = cluster.coordinators
    makes = sequence("all", copy("makes", "a", BASE, "pool-a/both"), noop("held", held=True))
    reads = sequence("all", copy("reads", "a", "pool-a/both", "pool-a/reads"))
    async with at(one) as here, at(two) as there, at(three) as elsewhere:
        maker = await here.submit(workflow_spec("makes", makes), workflow_id="maker")
        await needs(maker, "PAUSED")
        reader = await there.submit(workflow_spec("reads", reads), workflow_id="reader")
        for client in (here, there, elsewhere):
            told = partial(_is_named, client.run("reader"), "pool-a/both")
            await until(told, "who stands before it")
        assert not any(a.workflow == "reader" for a in journal(cluster, "a").values())
        await elsewhere.run("maker").resume()
        await ends(maker, "SUCCEEDED")
        await ends(reader, "SUCCEEDED")
    for workflow_id in ("maker", "reader"):
        assert_clean(cluster, workflow_id, "SUCCEEDED")


async def _is_named(run: Run, address: str) -> bool:
    return address in (await run.get()).waits_for


async def test_a_vendor_does_its_part_through_coordinators_that_do_not_own_it(
    cluster: Cluster,
) -> None:
    """Also of what the one that it speaks to has lost in the meantime."""
    owner, other, _ = cluster.coordinators
    parts = [
        external(f"t{number}", "acme", kind="work", effect=EFFECT_READ_ONLY) for number in "12"
    ]
    done: list[str] = []

    async def work(task: object) -> None:
        if not done:
            await owner.kill()
        done.append(str(task))

    async with (
        anywhere(cluster) as client,
        Owner(other.address, "acme") as vendor,
        serving(vendor, work=Handler(start=work)),
    ):
        async with at(owner) as here:
            await here.submit(plan_of(*parts), workflow_id="hybrid")
        await ends(client.run("hybrid"), "SUCCEEDED")
    assert len(done) == 2
    assert set(recorded(cluster, "hybrid").tasks.values()) == {"SUCCEEDED"}


async def test_a_host_that_was_added_at_one_is_known_at_all(cluster: Cluster) -> None:
    one, two, _ = cluster.coordinators
    spec = workflow_spec("noop", sequence("all", noop("noop", "late")))
    async with at(one) as here, at(two) as there:
        await here.hosts.add("late", free_address(), unreachable_allowed=True)
        assert await there.plan(spec)
        run = await there.submit(spec, workflow_id="added")
        await run.cancel("there is nobody")
        await ends(run, "COMPENSATED")
        await here.hosts.remove("late", "it was never there")


@pytest.mark.parametrize("said", ["2s", "11m", "15", "soon"])
def test_how_long_sessions_last_has_bounds_and_a_unit(said: str) -> None:
    refused = CliRunner().invoke(main, ["serve", "--data", "nowhere", "--session-lasts", said])
    assert refused.exit_code == 2
    assert f"{said!r} is none of 3s to 10m: write 15s, 1m" in refused.output
