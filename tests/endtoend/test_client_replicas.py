"""A client with several addresses, while one of them after the other goes away.

One coordinator as a real process, with proxies before it: several addresses of one store. What is
cut, held or refused at one address goes on at another.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from itertools import cycle

import pytest
import pytest_asyncio

from countermand.client import Client, Run, coordinators
from countermand.client.external import Handler, Owner
from countermand.rpc import channel
from countermand.v1.annotation_pb2 import EFFECT_READ_ONLY
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.api.owners import serving
from tests.api.vendors import external, plan_of
from tests.endtoend.cluster import Cluster, Service, free_address, running, until
from tests.endtoend.lives import Lives
from tests.proxy import Moment, Proxy

pytestmark = pytest.mark.slow

SUCCEEDED = WorkflowState.WORKFLOW_STATE_SUCCEEDED
PATIENCE = timedelta(seconds=25)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives: Lives, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with running(lives, tmp_path_factory.mktemp("replicas"), {}) as cluster:
        yield cluster


@pytest.fixture
async def doors(cluster: Cluster) -> AsyncIterator[Sequence[Proxy]]:
    """Yields three addresses of one coordinator."""
    async with AsyncExitStack() as stack:
        address = cluster.coordinator.address
        yield [await stack.enter_async_context(Proxy(address)) for _ in range(3)]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Returns a name for what one test makes."""
    test: str = request.node.name
    return test.removeprefix("test_").replace("_", "-").replace("[", "-").strip("]")


def addresses(doors: Sequence[Proxy]) -> list[str]:
    return [door.address for door in doors]


def plan(owner: str, tasks: int = 2) -> WorkflowSpec:
    """Returns tasks of an owner, one after the other."""
    return plan_of(
        *(
            external(f"t{number}", owner, kind="work", effect=EFFECT_READ_ONLY)
            for number in range(tasks)
        )
    )


@asynccontextmanager
async def at_work(doors: Sequence[Proxy], name: str) -> AsyncIterator[asyncio.Event]:
    """Has an owner do its work, through the same doors, as soon as the event is set."""
    go = asyncio.Event()

    async def work(_: object) -> None:
        await go.wait()

    async with (
        Owner(addresses(doors), name) as owner,
        serving(owner, work=Handler(start=work)),
    ):
        yield go


def sequences(events: Sequence[HistoryEvent]) -> list[int]:
    return [event.sequence for event in events]


# -- one goes, the others go on -----------------------------------------------------------------


async def test_everything_goes_on_while_doors_close_one_after_the_other(
    doors: Sequence[Proxy], name: str
) -> None:
    """Submits, watches of one and of all, and an owner: no event is missing, none comes twice."""
    seen: list[HistoryEvent] = []
    last_of: dict[str, int] = {}
    async with (
        Client(addresses(doors), patience=PATIENCE) as client,
        at_work(doors, name) as go,
    ):
        after = await client.position()

        async def follow_all() -> None:
            async for event in client.events(after):
                seen.append(event)  # noqa: PERF401 - looked at meanwhile

        async def close_and_open() -> None:
            for door in cycle(doors):
                heard, accepted = len(seen), door.accepted
                await door.refuse()
                await until(partial(_more, seen, heard), "an event at another door")
                await door.pass_on()
                await until(partial(_entered, door, accepted), "somebody at the open door")

        following = asyncio.create_task(follow_all())
        closing = asyncio.create_task(close_and_open())
        go.set()
        for number in range(12):
            run = await client.submit(plan(name, tasks=5), workflow_id=f"{name[:20]}-{number}")
            watched = [u.event async for u in run.watch() if u.HasField("event")]
            settled = await run.wait(PATIENCE)
            assert settled.state == SUCCEEDED
            assert sequences(watched) == [*range(1, settled.last_sequence + 1)]
            last_of[run.name] = settled.last_sequence
        last = await client.position()
        closing.cancel()
        await asyncio.wait({closing})
        assert closing.cancelled()
        for door in doors:
            await door.pass_on()
        await until(lambda: seen[-1].position >= last, "the last event")
        following.cancel()
        await asyncio.wait({following})

    positions = [event.position for event in seen]
    assert positions == sorted(set(positions))
    for workflow, last_sequence in last_of.items():
        of_one = [event for event in seen if event.workflow == workflow]
        assert sequences(of_one) == [*range(1, last_sequence + 1)]


def _more(seen: Sequence[object], heard: int) -> bool:
    return len(seen) > heard


def _entered(door: Proxy, before: int) -> bool:
    return door.accepted > before


@pytest.mark.parametrize("moment", Moment)
async def test_a_submit_that_is_cut_is_one_workflow(
    doors: Sequence[Proxy], name: str, moment: Moment
) -> None:
    """Whether it was heard or not: it is asked for again at another door."""
    name = name.lower().replace(".", "-")
    for door in doors:
        door.cut_at(name.encode(), moment)
    async with Client(addresses(doors), patience=PATIENCE) as client:
        run = await client.submit(plan(name), workflow_id=name)

        assert all(door.sprung.is_set() for door in doors)
        found = [workflow.name async for workflow in client.list(id_prefix=name)]
        assert found == [run.name]
        await run.cancel("a test")


async def test_a_wait_and_a_watch_go_on_when_their_door_hangs(
    doors: Sequence[Proxy], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "KEEPALIVE_TIME_S", 1)
    monkeypatch.setattr(channel, "KEEPALIVE_TIMEOUT_S", 1)
    async with (
        Client(addresses(doors), patience=PATIENCE) as client,
        at_work(doors[-1:], name) as go,  # its own door stays open
    ):
        run = await client.submit(plan(name), workflow_id=name)
        waiting = asyncio.create_task(run.wait(PATIENCE))
        seen: list[HistoryEvent] = []

        async def follow() -> None:
            async for update in run.watch(events_only=True):
                seen.extend([update.event] if update.HasField("event") else [])

        following = asyncio.create_task(follow())
        await until(lambda: seen, "the first event")
        for door in doors[:-1]:
            door.hold()
        go.set()
        settled = await waiting
        await following

    assert settled.state == SUCCEEDED
    assert sequences(seen) == [*range(1, settled.last_sequence + 1)]


async def test_a_place_that_has_not_come_yet_is_waited_for(
    doors: Sequence[Proxy], name: str
) -> None:
    """As by a coordinator that is a moment behind the one that was asked before."""
    async with Client(addresses(doors), patience=PATIENCE) as client, at_work(doors, name) as go:
        run = await client.submit(plan(name), workflow_id=name)
        ahead = (await run.get()).last_sequence + 4
        after = await client.position() + 4
        of_all = client.events(after)
        first = asyncio.ensure_future(anext(of_all))
        watching = asyncio.create_task(_watched(run, ahead))
        await until(lambda: sum(door.accepted for door in doors) > len(doors), "the watches")
        go.set()
        seen = await watching
        settled = await run.wait(PATIENCE)

        assert seen == [*range(ahead + 1, settled.last_sequence + 1)]
        assert (await first).position == after + 1


async def _watched(run: Run, after: int) -> list[int]:
    updates = run.watch(after, events_only=True)
    return [update.event.sequence async for update in updates if update.HasField("event")]


# -- real coordinators --------------------------------------------------------------------------


async def test_a_stopped_process_is_passed_over(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP: it holds its connections, and answers nothing."""
    monkeypatch.setattr(coordinators, "TRY_S_MAX", 0.5)
    other = Service(cluster.lives, "other", "coordinator", cluster.folder, ("--web", "off"))
    await other.start()
    try:
        async with Client([cluster.coordinator.address, other.address]) as client:
            known: set[str] = set()

            async def both_are_known() -> bool:
                known.add(await at(client))
                return len(known) > 1

            await until(both_are_known, "calls to both")
            other.freeze()
            for _ in range(10):
                await client.position()
            other.thaw()
    finally:
        await other.kill()


async def at(client: Client) -> str:
    """Returns who has answered a call."""
    several = client._calls._several
    assert several is not None
    await client.position()
    return several._all[several._next - 1].address


async def test_a_watch_outlives_the_death_of_the_coordinator_behind_all_doors(
    cluster: Cluster, doors: Sequence[Proxy], name: str
) -> None:
    async with Client(addresses(doors), patience=PATIENCE) as client, at_work(doors, name) as go:
        run = await client.submit(plan(name), workflow_id=name)
        seen: list[HistoryEvent] = []

        async def follow() -> None:
            async for update in run.watch(events_only=True):
                seen.extend([update.event] if update.HasField("event") else [])

        following = asyncio.create_task(follow())
        await until(lambda: seen, "the first event")
        await cluster.coordinator.kill()
        go.set()
        await cluster.coordinator.start()
        await following

    assert seen[-1].workflow_state_changed.after == SUCCEEDED
    assert sequences(seen) == [*range(1, len(seen) + 1)]


# -- the command line ---------------------------------------------------------------------------


async def command(*words: str, coordinator: str) -> asyncio.subprocess.Process:
    environment = os.environ | {"COUNTERMAND_COORDINATOR": coordinator}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "countermand.cli", *words),
        stdout=PIPE,
        stderr=PIPE,
        env=environment,
    )


async def test_a_command_that_follows_goes_on_at_another_door(
    doors: Sequence[Proxy], name: str
) -> None:
    several = ",".join(addresses(doors))
    async with Client(several) as client, at_work(doors, name) as go:
        run = await client.submit(plan(name), workflow_id=name)
        follows = await command(
            "workflow", "events", name, "--follow", "-o", "json", coordinator=several
        )
        waits = await command("workflow", "wait", name, coordinator=several)
        assert follows.stdout is not None
        lines = [await follows.stdout.readline()]
        for door in doors[:-1]:
            await door.refuse()
        go.set()
        rest, said = await follows.communicate()
        assert follows.returncode == 0, said
        _, said = await waits.communicate()
        assert waits.returncode == 0, said
        last = (await run.get()).last_sequence

    lines += rest.splitlines()
    assert [int(json.loads(line)["sequence"]) for line in lines] == [*range(1, last + 1)]


async def test_a_command_says_whom_it_has_asked() -> None:
    nobody = [free_address(), free_address()]
    fails = await command("workflow", "list", coordinator=",".join(nobody))
    _, said = await fails.communicate()

    assert fails.returncode == 1
    assert "No coordinator answers" in said.decode()
    for address in nobody:
        assert f"{address}: refuses connections" in said.decode()


async def test_a_command_refuses_what_is_no_address() -> None:
    fails = await command("workflow", "list", coordinator="10.0.0.1:7700,10.0.0.2")
    _, said = await fails.communicate()

    assert fails.returncode == 2
    assert "'10.0.0.2' is not an address: write host:port, as in 10.0.0.1:7700,10.0.0.2:7700" in (
        " ".join(said.decode().split())
    )
