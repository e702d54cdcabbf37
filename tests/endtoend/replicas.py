"""Several coordinators as real processes on one PostgreSQL, for tests that kill some of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from countermand.client import Client, Run
from countermand.client.spec import task
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_spec_pb2 import Node
from tests.endtoend.checks import database, read, recorded
from tests.endtoend.cluster import SMALL, Cluster, Service, running
from tests.endtoend.lives import Lives

LEASE_S = 3.0  # the shortest there is
HOSTS = {
    "a": {"pool-a": ""},
    "b": {"pool-b": "", "crawling": "bandwidth=128KiB"},
}


@asynccontextmanager
async def replicas(
    lives: Lives, folder: Path, database: str, ways: Sequence[str]
) -> AsyncIterator[Cluster]:
    """Yields coordinators, one for each way to their database, with hosts a and b."""
    began = running(
        lives,
        folder,
        HOSTS,
        base=SMALL,
        options={"coordinator": ("--session-lasts", f"{LEASE_S:g}s")},
        database=database,
        databases=ways,
        evidence_kept=True,
    )
    async with began as cluster:
        yield cluster


@asynccontextmanager
async def at(service: Service) -> AsyncIterator[Client]:
    """Yields a client of one coordinator."""
    async with Client(service.address) as client:
        yield client


@asynccontextmanager
async def anywhere(cluster: Cluster) -> AsyncIterator[Client]:
    """Yields a client that asks any of them, and bears with those that have gone."""
    async with Client(cluster.coordinator_addresses) as client:
        yield client


@asynccontextmanager
async def watched(run: Run) -> AsyncIterator[list[HistoryEvent]]:
    """Yields what a watch of a workflow has seen so far; by the end of the block it has ended."""
    seen: list[HistoryEvent] = []

    async def watch() -> None:
        async for update in run.watch(events_only=True):
            if update.HasField("event"):
                seen.append(update.event)  # noqa: PERF401 - looked at meanwhile

    watching = asyncio.create_task(watch())
    try:
        yield seen
        await watching
    finally:
        watching.cancel()


def noop(name: str, host: str = "a", *, held: bool = False) -> Node:
    """Returns a task that does nothing; one that is held waits for somebody before it."""
    node = task(name, host=host, action=Noop())
    node.policy.pause_before = held
    return node


def sessions(cluster: Cluster) -> dict[str, int]:
    """Returns the sessions that have not ended, by the names of their coordinators."""
    rows = read(database(cluster), "SELECT id, name FROM sessions WHERE NOT ended")
    by_address = {row["name"].partition(":")[2]: row["id"] for row in rows}
    return {
        each.name: by_address[each.address]
        for each in cluster.coordinators
        if each.address in by_address
    }


def epochs(cluster: Cluster, workflow_id: str) -> list[int]:
    """Returns the epochs under which a workflow was taken over, in order."""
    events = recorded(cluster, workflow_id).events
    return [e.owner_changed.owner_epoch for e in events if e.HasField("owner_changed")]


def assert_seen(seen: Sequence[HistoryEvent], cluster: Cluster, workflow_id: str) -> None:
    """Checks that a watch saw every event of a workflow, once, in order."""
    assert [event.sequence for event in seen] == [
        event.sequence for event in recorded(cluster, workflow_id).events
    ]
