"""Several coordinators on one PostgreSQL: what another one adds, and what a restart of all costs.

Each workload runs on SQLite and on PostgreSQL with 1, 2 and 3 coordinators in turn, round by round,
on the same machine: what more of them could do with more cores this does not show.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from statistics import quantiles
from urllib.request import urlopen

import psycopg

from coordinator.metrics.table import DELAYS
from countermand.client import Client
from countermand.client.spec import sequence, task, workflow_spec
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.bench.figures import Figure, at_most, ratio
from tests.bench.processes import Process, start, start_agent, start_coordinator
from tests.bench.workloads import HOST, WARM_UP_S, w1
from tests.postgres import Server

IN_FLIGHT = (1, 16, 128)
REPLICAS = (1, 2, 3)
SQLITE = "SQLite"
# As somebody would run it; the tests' own server is made small.
SETTINGS = ("shared_buffers=256MB", "max_wal_size=1GB", "autovacuum=on")
HOSTS = 8
OPEN = 10_000
PATIENCE_S = 300.0
OPENED = b"SELECT count(*) FROM workflows WHERE end_time_us IS NULL"
ORPHANS = OPENED + b" AND session NOT IN (SELECT id FROM sessions WHERE NOT ended)"


def measure(folder: Path, rounds: int, seconds: float, opened: int) -> list[Figure]:
    """Returns the figures of all workloads, of their ratios, and of a restart of all."""
    server = Server(fsync=True, settings=SETTINGS)
    server.start()
    try:
        return asyncio.run(_measure(folder, server, rounds, seconds, opened))
    finally:
        server.remove()


async def _measure(
    folder: Path, server: Server, rounds: int, seconds: float, opened: int
) -> list[Figure]:
    rates: dict[tuple[str, int], list[float]] = {}
    for number in range(rounds):
        for name in (SQLITE, *map(_named, REPLICAS)):
            place = folder / f"{name}-{number}".replace(" ", "-")
            place.mkdir()
            count = 0 if name == SQLITE else int(name.split()[-1])
            for in_flight, rate in (await _rates(place, server, count, seconds)).items():
                rates.setdefault((name, in_flight), []).append(rate)
    figures = {
        key: Figure(name=f"W1 at {key[1]}, {key[0]}", unit="workflows/s", runs=tuple(runs))
        for key, runs in rates.items()
    }
    found = list(figures.values())
    one = _named(1)
    for in_flight in IN_FLIGHT:
        whole, alone = figures[SQLITE, in_flight], figures[one, in_flight]
        found.append(ratio(f"PostgreSQL ÷ SQLite at {in_flight}", alone, whole))
        for count in REPLICAS[1:]:
            several = figures[_named(count), in_flight]
            found.append(ratio(f"{count} coordinators ÷ 1 at {in_flight}", several, alone))
    if opened:
        place = folder / "restart"
        place.mkdir()
        found += await _restart(place, server, opened)
    return found


def _named(count: int) -> str:
    return f"PostgreSQL {count}"


@contextmanager
def replicas(folder: Path, url: str, count: int, *, web: str = "off") -> Iterator[list[Process]]:
    """Yields so many coordinators on one database."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                start(
                    [
                        *("coordinator", "serve", "--database", url),
                        *("--listen", "127.0.0.1:0", "--web", web),
                    ],
                    folder / f"coordinator-{number}.log",
                )
            )
            for number in range(count)
        ]


async def _rates(folder: Path, server: Server, count: int, seconds: float) -> dict[int, float]:
    """Returns the workflows per second by how many are in flight; no replica means SQLite."""
    url = server.new_database()
    async with AsyncExitStack() as stack:
        agent = stack.enter_context(start_agent(folder))
        if count:
            coordinators = stack.enter_context(replicas(folder, url, count))
        else:
            coordinators = [stack.enter_context(start_coordinator(folder))]
        clients = [await stack.enter_async_context(Client(each.address)) for each in coordinators]
        await clients[0].hosts.add(HOST, agent.address)
        await _until_known(clients, 1)
        names = itertools.count()
        rates = {}
        for in_flight in IN_FLIGHT:
            await _run(clients, in_flight, WARM_UP_S, names)
            rates[in_flight] = await _run(clients, in_flight, seconds, names)
    server.drop(url)
    return rates


async def _run(
    clients: Sequence[Client], in_flight: int, seconds: float, names: Iterator[int]
) -> float:
    """Keeps so many in flight, shared out among all coordinators; returns how many end a second."""
    began, done = time.perf_counter(), 0

    async def one_after_another(client: Client) -> None:
        nonlocal done
        while time.perf_counter() - began < seconds:
            run = await client.submit(w1(), workflow_id=f"w1-{next(names)}")
            workflow = await run.wait()
            assert workflow.state == WorkflowState.WORKFLOW_STATE_SUCCEEDED, workflow
            done += 1

    await asyncio.gather(
        *(one_after_another(clients[number % len(clients)]) for number in range(in_flight))
    )
    return done / (time.perf_counter() - began)


async def _until_known(clients: Sequence[Client], hosts: int) -> None:
    """Returns once every coordinator has heard of every host."""
    for client in clients:
        while len([host async for host in client.hosts.list()]) < hosts:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


# -- everything is killed, and started again ------------------------------------------------------


async def _restart(folder: Path, server: Server, opened: int) -> list[Figure]:
    """Kills three coordinators with many open workflows, and starts them all at once."""
    url = server.new_database()
    with ExitStack() as stack:
        agents = []
        for number in range(HOSTS):
            place = folder / f"agent-{number}"
            place.mkdir()
            agents.append(stack.enter_context(start_agent(place)))
        with replicas(folder, url, 3) as before:
            addresses = [each.address for each in before]
            async with Client(addresses) as client:
                for number, agent in enumerate(agents):
                    await client.hosts.add(f"host-{number}", agent.address)
            for agent in agents:
                os.kill(agent.pid, signal.SIGSTOP)
            await _submit(addresses, opened)
            for each in before:
                os.kill(each.pid, signal.SIGKILL)
        for agent in agents:
            os.kill(agent.pid, signal.SIGCONT)
        began = time.perf_counter()
        with replicas(folder, url, 3, web="127.0.0.1:0") as after:
            found = await _watch([each.address for each in after], url, began, opened)
            late = [_late(each.web) for each in after]
            name = f"restart of all with {opened} open: of the event loop's turns, over 200 ms late"
            return [*found, Figure(name=name, unit="%", runs=tuple(late), goals=(at_most(1),))]


async def _submit(addresses: Sequence[str], opened: int) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(each)) for each in addresses]
        await _until_known(clients, HOSTS)
        turns = asyncio.Semaphore(64)

        async def submit(number: int) -> None:
            async with turns:
                client = clients[number % len(clients)]
                await client.submit(_two(number % HOSTS), workflow_id=f"open-{number}")

        await asyncio.gather(*map(submit, range(opened)))


def _two(host: int) -> WorkflowSpec:
    steps = [task(f"step-{number}", host=f"host-{host}", action=Noop()) for number in (1, 2)]
    return workflow_spec("two", sequence("steps", *steps))


async def _watch(addresses: Sequence[str], url: str, began: float, opened: int) -> list[Figure]:
    """Returns when all answered, owned and ended, and how long answers took meanwhile."""
    serving_s = time.perf_counter() - began  # each has said so
    answers_ms: list[float] = []
    owned_s = ended_s = 0.0
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(each)) for each in addresses]
        database = await stack.enter_async_context(
            await psycopg.AsyncConnection.connect(url, autocommit=True)
        )
        for turn in itertools.count():
            asked = time.perf_counter()
            await clients[turn % 3].run(f"open-{turn * 7919 % opened}").get()
            answers_ms.append((time.perf_counter() - asked) * 1000)
            elapsed_s = time.perf_counter() - began
            if turn % 20 == 0:
                owned_s = owned_s or (elapsed_s if not await _count(database, ORPHANS) else 0.0)
                ended_s = elapsed_s if not await _count(database, OPENED) else 0.0
            if ended_s or elapsed_s > PATIENCE_S:
                break
            await asyncio.sleep(0.05)
    said = f"restart of all with {opened} open"
    p99_ms = quantiles(answers_ms, n=100)[98]
    return [
        Figure(name=f"{said}: serving", unit="s", runs=(serving_s,), goals=(at_most(10),)),
        Figure(name=f"{said}: all owned", unit="s", runs=(owned_s,), goals=(at_most(60),)),
        Figure(name=f"{said}: all ended", unit="s", runs=(ended_s,)),
        Figure(name=f"{said}: answers meanwhile, p99", unit="ms", runs=(p99_ms,)),
    ]


def _late(page: str) -> float:
    """Returns the share of turns that came more than 200 ms late, in per cent."""
    with urlopen(f"{page}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    numbers = dict(line.rsplit(" ", 1) for line in lines if line.startswith(DELAYS))
    every = float(numbers[f"{DELAYS}_count"])
    return 100 * (1 - float(numbers[f'{DELAYS}_bucket{{le="0.2"}}']) / every)


async def _count(database: psycopg.AsyncConnection[tuple[int]], sql: bytes) -> int:
    found = await (await database.execute(sql)).fetchone()
    return found[0] if found else 0
