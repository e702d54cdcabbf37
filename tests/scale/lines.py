"""Measures what a host costs its coordinators, and a coordinator its agents: real processes."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path

import grpc.aio
import psycopg

from coordinator.runtime.watermark import Watermarks
from coordinator.saga.workflow import Workflow
from coordinator.store.database import postgres
from coordinator.store.run import Inline
from coordinator.store.sql import SqlStore
from countermand.client import Client
from countermand.client.spec import sequence, task, workflow_spec
from countermand.v1 import agent_pb2 as pb
from countermand.v1.agent_pb2_grpc import AgentServiceStub
from countermand.v1.host_pb2 import Host
from countermand.v1.verb_pb2 import Noop
from tests.bench.processes import Process, start, start_agent
from tests.bench.replicas import SETTINGS, replicas
from tests.postgres import Server
from tests.store.walks import Walk

HOSTS = 400
CHATTY = 50
EVERY_S = 0.05
STREAMS = 100
LOOK_S = 15.0
ADD = """
INSERT INTO hosts (id, address, draining, incarnation, heard_sequence, pools, lost_intent,
  accepted_intent, held, create_time_us)
VALUES (%s, %s, false, %s, 1, NULL, 0, 0, '', 1700000000000000)
"""


def measure_marks(hosts: int = 2000) -> dict[str, object]:
    """Returns what it takes to look at the watermark of one host of many with something open."""
    workflows: dict[str, Workflow] = {}
    marks = Watermarks(workflows.get)
    for number in range(hosts):
        member = task("t", host=f"host-{number}", action=Noop())
        walk = Walk(f"w{number}", spec=workflow_spec("one", sequence("root", member)))
        workflows[walk.workflow.id] = walk.workflow
        index, attempt = next((i, t.attempts[-1]) for i, t in walk.workflow.tasks() if t.attempts)
        placed = (attempt.intent, walk.workflow.id, index, attempt.number)
        marks._placed[attempt.host] = [placed]
    began = time.perf_counter()
    for _ in range(20):
        marks.lowest()
    return {"mark_ms": 1000 * (time.perf_counter() - began) / 20 / hosts}


def measure_lines(folder: Path) -> dict[str, object]:
    """Returns what lines take, by the names in `Costs`."""
    server = Server(fsync=True, settings=SETTINGS)
    server.start()
    try:
        found = asyncio.run(_quiet(folder, server))
        found["heard_ms"] = asyncio.run(_chatty(folder, server))
    finally:
        server.remove()
    return {**found, **measure_marks(), **asyncio.run(_streams(folder))}


async def _quiet(folder: Path, server: Server) -> dict[str, object]:
    url = await _new(server)
    with ExitStack() as stack:
        hosts = stack.enter_context(start(["tests.scale.hosts", str(HOSTS)], folder / "hosts.log"))
        [coordinator] = stack.enter_context(replicas(folder, url, 1))
        await asyncio.sleep(3)
        idle, bare = await _cpu(coordinator), coordinator.memory().pss
        before_s, began = coordinator.cpu_s(), time.perf_counter()
        _add(url, hosts.address.split(","))
        await _until_ready(coordinator, HOSTS)
        spent_s = coordinator.cpu_s() - before_s - idle * (time.perf_counter() - began)
        await asyncio.sleep(LOOK_S)
        busy, full = await _cpu(coordinator), coordinator.memory().pss
    return {
        "line_ms": 1000 * (busy - idle) / HOSTS,
        "dial_ms": 1000 * spent_s / HOSTS,
        "line_kib": 1024 * (full - bare) / HOSTS,
    }


async def _chatty(folder: Path, server: Server) -> float:
    """Returns what a coordinator takes to hear of one change that is not its own."""
    url = await _new(server)
    with ExitStack() as stack:
        said = ["tests.scale.hosts", str(CHATTY), "--every", str(EVERY_S)]
        hosts = stack.enter_context(start(said, folder / "hosts.log"))
        [coordinator] = stack.enter_context(replicas(folder, url, 1))
        await asyncio.sleep(3)
        idle = await _cpu(coordinator)
        _add(url, hosts.address.split(","))
        await _until_ready(coordinator, CHATTY)
        await asyncio.sleep(5)
        return 1000 * (await _cpu(coordinator) - idle) / (CHATTY / EVERY_S)


async def _streams(folder: Path) -> dict[str, object]:
    """Returns what an agent has and takes for each coordinator that watches it."""
    with start_agent(folder) as agent:
        bare, idle = agent.memory().pss, await _cpu(agent)
        watching = [asyncio.create_task(_watch(agent.address)) for _ in range(STREAMS)]
        await asyncio.sleep(5)
        full, busy = agent.memory().pss, await _cpu(agent)
        for each in watching:
            each.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
    return {
        "stream_kib": 1024 * (full - bare) / STREAMS,
        "stream_ms": 1000 * (busy - idle) / STREAMS,
    }


async def _watch(address: str) -> None:
    alone = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
    async with grpc.aio.insecure_channel(address, options=alone) as channel:
        stub = AgentServiceStub(channel)
        await stub.GetHost(pb.GetHostRequest())
        async for _ in stub.WatchAttempts(pb.WatchAttemptsRequest()):
            pass


async def _new(server: Server) -> str:
    """Returns the URL of a database that a coordinator has made."""
    url = server.new_database()
    store = SqlStore(postgres(url), Inline(), new_id=lambda: "cluster")
    await store.open()
    await store.close()
    return url


def _add(url: str, addresses: list[str]) -> None:
    with psycopg.connect(url, autocommit=True) as database:
        for number, address in enumerate(addresses):
            name = f"host-{number:05d}.site-a.example.com"
            database.execute(ADD.encode(), (name, address, f"{number:032x}"))


async def _until_ready(coordinator: Process, count: int) -> None:
    async with Client([coordinator.address]) as client:
        ready = 0
        while ready < count:
            await asyncio.sleep(0.5)
            states = [host.state async for host in client.hosts.list()]
            ready = states.count(Host.STATE_READY)


async def _cpu(process: Process) -> float:
    """Returns how much of a core a process takes for a while."""
    before_s = process.cpu_s()
    await asyncio.sleep(LOOK_S)
    return (process.cpu_s() - before_s) / LOOK_S
