"""Databases that are moved and put back under real agents, as the how-to pages say."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from countermand.client import Client
from countermand.client.spec import sequence, workflow_spec
from countermand.rpc.errors import CoordinatorUnavailable, CountermandError, StoreUnavailable
from countermand.v1.coordinator_pb2 import Recovery
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from countermand.v1.workflow_state_pb2 import WORKFLOW_STATE_RUNNING
from tests.endtoend.checks import assert_clean, journals, labels, recorded
from tests.endtoend.cluster import Cluster, copy, running, until
from tests.endtoend.lives import Lives
from tests.endtoend.plans import BASE, HOSTS, failure, slow
from tests.endtoend.replicas import at, replicas
from tests.postgres import Server

pytestmark = pytest.mark.slow


@pytest.fixture
async def cluster(lives: Lives, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(lives, tmp_path, HOSTS) as cluster:
        yield cluster


def db(*words: str) -> str:
    command = [sys.executable, "-m", "coordinator", "db", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


async def half_way(cluster: Cluster, workflow_id: str) -> None:
    async with cluster.client() as client:
        await client.submit(slow(workflow_id), workflow_id=workflow_id)
    written = lambda: cluster.half_made_bytes("crawling", workflow_id)  # noqa: E731
    await until(written, f"the slow copy of {workflow_id}")


async def test_what_is_open_goes_on_where_the_store_was_moved_to(
    cluster: Cluster, postgres_server: Server
) -> None:
    """Half a copy, and a workflow that fails later; agents, addresses and ids stay."""
    coordinator, url = cluster.coordinator, postgres_server.new_database()
    async with cluster.client() as client:
        await client.submit(failure("fails"), workflow_id="fails")
    await half_way(cluster, "goes-on")
    await coordinator.stop()
    assert "workflows are open" in db("move", "--data", str(coordinator.data), "--database", url)
    assert not await coordinator.try_start("")
    assert "this store was moved to" in coordinator.logs[-1].read_text()

    coordinator.database = url
    await coordinator.start()
    async with cluster.client() as client:
        await client.submit(slow("since"), workflow_id="since")
    for name in ("goes-on", "fails", "since"):
        await cluster.settled(name)
    assert_clean(cluster, "goes-on", "SUCCEEDED")
    assert_clean(cluster, "fails", "COMPENSATED")
    assert_clean(cluster, "since", "SUCCEEDED")
    await coordinator.kill()
    postgres_server.drop(url)


def three(workflow_id: str, last: str = "c/pool-c") -> WorkflowSpec:
    """Returns a copy, a slow one, and another, for which there may be no room."""
    host, _, pool = last.partition("/")
    places = (("a", "pool-a"), ("b", "crawling"), (host, pool))
    copies = (
        copy(f"t{number}", host, BASE, f"{pool}/{workflow_id}-{number}")
        for number, (host, pool) in enumerate(places)
    )
    return workflow_spec("three", sequence("all", *copies))


def is_paused(cluster: Cluster, workflow_id: str) -> bool:
    return recorded(cluster, workflow_id).state == "PAUSED"


async def recovery(client: Client) -> Recovery | None:
    with suppress(CoordinatorUnavailable, StoreUnavailable):  # it may begin its next life just now
        return await client.coordinators.recovery()
    return None


@pytest.mark.parametrize("said", [False, True], ids=["noticed", "said before"])
async def test_an_older_backup_is_put_back_and_nothing_that_was_made_is_removed(
    cluster: Cluster, said: bool
) -> None:
    """S-Z19: what was done since, agents have forgotten; an operator says what is so, or before."""
    coordinator = cluster.coordinator
    place, backup = coordinator.data / "coordinator.sqlite", cluster.folder / "backup.sqlite"
    async with cluster.client() as client:
        await client.submit(three("open"), workflow_id="open")
        await client.submit(three("gone", last="c/small"), workflow_id="gone")
        for name in ("open", "gone"):
            await until(partial(cluster.half_made_bytes, "crawling", name), "the slow copies")
        with closing(sqlite3.connect(place)) as one, closing(sqlite3.connect(backup)) as other:
            one.backup(other)
        await cluster.settled("open")
        await cluster.settled("gone")
        await client.submit(three("since"), workflow_id="since")
        await cluster.settled("since")
        await until(lambda: not journals(cluster), "the agents forget")
    made = set(labels(cluster))
    assert len([name for name in made if "open" in name or "since" in name]) == 6
    assert not any("gone" in name for name in made)

    await coordinator.kill()
    shutil.rmtree(coordinator.data)
    coordinator.data.mkdir()
    shutil.copy(backup, place)
    if said:
        assert "goes on above" in db("restored", "--data", str(coordinator.data))
    await coordinator.start()
    async with cluster.client() as client:
        if not said:
            await until(partial(recovery, client), "it is noticed")
            await nothing_is_decided(client)
            assert (await client.coordinators.recover("the disk was lost")).paused_workflows in (
                0,
                2,
            )
        for name in ("open", "gone"):
            await until(partial(is_paused, cluster, name), "each waits for an operator")
            await until(partial(has_failed, cluster, name, "t1"), "its agent has forgotten it")
        assert set(labels(cluster)) == made

        await client.run("open").resume("its image is there", skip=["t1"])
        await cluster.settled("open")
        assert recorded(cluster, "open").state == "SUCCEEDED"
        await client.run("gone").resume("it had been made up for", give_up=["t1"])
        await cluster.settled("gone")
        assert recorded(cluster, "gone").state == "COMPENSATED"
        assert set(labels(cluster)) == made
        await client.submit(three("later"), workflow_id="later")
        await cluster.settled("later")
    assert recorded(cluster, "later").state == "SUCCEEDED"


def has_failed(cluster: Cluster, workflow_id: str, task: str) -> bool:
    return recorded(cluster, workflow_id).tasks[task] == "FAILED"


async def nothing_is_decided(client: Client) -> None:
    """Everything is shown, and nobody's wish is taken."""
    noticed = await client.coordinators.recovery()
    assert noticed is not None
    assert noticed.open_workflows == 2
    assert "has heard of" in noticed.why
    assert (await client.run("open").get()).state == WORKFLOW_STATE_RUNNING
    for refused in (
        client.submit(three("too-early"), workflow_id="too-early"),
        client.run("open").pause("a try"),
        client.run("open").cancel("a try"),
    ):
        with pytest.raises(CountermandError, match="went back in time"):
            await refused


@pytest.fixture
async def two(lives: Lives, tmp_path: Path, postgres_server: Server) -> AsyncIterator[Cluster]:
    url = postgres_server.new_database()
    async with replicas(lives, tmp_path, url, [url, url]) as cluster:
        yield cluster
    postgres_server.drop(url)


def copied(server: Server, url: str, name: str) -> None:
    """Copies a database that coordinators have open, as a standby that falls behind now."""
    with cut_off(server, url) as database:
        server.execute(f"CREATE DATABASE {name} TEMPLATE {database} STRATEGY file_copy")


def put_back(server: Server, url: str, name: str) -> None:
    """Has a copy take over from a database, as a standby would."""
    with cut_off(server, url) as database:
        server.execute(f"DROP DATABASE {database} WITH (FORCE)")
        server.execute(f"ALTER DATABASE {name} RENAME TO {database}")


@contextmanager
def cut_off(server: Server, url: str) -> Iterator[str]:
    """Keeps everybody from a database for a moment."""
    database = url.partition("@/")[2].partition("?")[0]
    server.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
    of = f"FROM pg_stat_activity WHERE datname = '{database}'"
    server.execute(f"SELECT pg_terminate_backend(pid, 5000) {of}")
    yield database
    server.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")


@pytest.mark.parametrize("dies", [False, True], ids=["both live", "who knew it dies"])
async def test_a_standby_that_was_behind_takes_over_from_under_two_coordinators(
    two: Cluster, postgres_server: Server, dies: bool
) -> None:
    """S-Z19: who has it open notices what is missing, or what agents have heard of."""
    knows, other = two.coordinators
    async with at(other if not dies else knows) as client:
        await client.submit(three("open", last="b/pool-b"), workflow_id="open")
        await until(partial(two.half_made_bytes, "crawling", "open"), "the slow copy")
        copied(postgres_server, two.database, "behind")
        await two.settled("open")
        await client.submit(three("since", last="b/pool-b"), workflow_id="since")
        await two.settled("since")
        made = set(labels(two))
    if dies:
        await knows.kill()
    async with at(other) as client:
        put_back(postgres_server, two.database, "behind")
        await until(partial(recovery, client), "it is noticed")
        await client.coordinators.recover("the standby was behind")
        await until(partial(is_paused, two, "open"), "it waits for an operator")
        assert set(labels(two)) == made
        assert len([name for name in made if "since" in name]) == 3

        await client.run("open").resume("its agents tell how it went")
        await two.settled("open")
    assert recorded(two, "open").state == "SUCCEEDED"
    assert set(labels(two)) == made
