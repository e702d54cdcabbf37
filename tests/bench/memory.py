"""What the services hold: idle, and with many tasks open, of which a host has its window full."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from coordinator.agents.slots import WINDOW
from countermand.client import Client
from countermand.client.spec import image, parallel, task, workflow_spec
from countermand.rpc.channel import open_channel
from countermand.v1.agent_pb2 import ListAttemptsRequest
from countermand.v1.agent_pb2_grpc import AgentServiceStub
from countermand.v1.verb_pb2 import CopyImage
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from tests.bench.figures import Figure, Goal, at_most
from tests.bench.processes import Memory, Process, start_both

TASKS = 1000
TASKS_PER_WORKFLOW = 100
HANG_S = 30.0
POLL_S = 0.2

BASE_MIB = 120.0
TASK_MIB = 4 / 1024

# So slow a pool that no copy ends while we look: a few run, others wait for them.
BANDWIDTH = "4KiB"
IMAGE_BYTES = 2**20


def measure(folder: Path, runs: int) -> list[Figure]:
    """Returns figures of fresh services."""
    found: dict[str, list[Memory]] = {}
    for number in range(runs):
        place = folder / str(number)
        place.mkdir(parents=True)
        for name, memory in asyncio.run(_once(place)).items():
            found.setdefault(name, []).append(memory)
    goals = {
        "coordinator idle": at_most(BASE_MIB),
        f"coordinator, {TASKS} open tasks": at_most(BASE_MIB + TASKS * TASK_MIB),
    }
    figures = [figure for name in found for figure in _figures(name, found[name], goals.get(name))]
    idle = next(f for f in figures if f.name == "coordinator idle, PSS")
    busy = next(f for f in figures if f.name == f"coordinator, {TASKS} open tasks, PSS")
    pairs = zip(busy.runs, idle.runs, strict=True)
    grown = tuple((with_tasks - without) * 1024 / TASKS for with_tasks, without in pairs)
    return [*figures, Figure(name="coordinator, grown per open task", unit="KiB", runs=grown)]


def _figures(name: str, found: list[Memory], goal: Goal | None) -> list[Figure]:
    read: dict[str, Callable[[Memory], float]] = {
        "PSS": lambda memory: memory.pss,
        "RSS peak": lambda memory: memory.rss_peak,
    }
    return [
        Figure(
            name=f"{name}, {kind}",
            unit="MiB",
            runs=tuple(map(take, found)),
            goals=(goal,) if goal and kind == "PSS" else (),
        )
        for kind, take in read.items()
    ]


async def _once(folder: Path) -> dict[str, Memory]:
    pools = _make_pools(folder)
    with start_both(folder, *pools) as (coordinator, agent):
        async with Client(coordinator.address) as client:
            await client.hosts.add("host", agent.address)
            found = {"coordinator idle": coordinator.memory(), "agent idle": agent.memory()}
            for number in range(TASKS // TASKS_PER_WORKFLOW):
                await client.submit(_copies(number), workflow_id=f"open-{number}")
            await _until_busy(agent)
            return found | {
                f"coordinator, {TASKS} open tasks": coordinator.memory(),
                f"agent, {WINDOW} open attempts": agent.memory(),
            }


def _make_pools(folder: Path) -> list[str]:
    """Imports one image, and returns an agent's arguments for its pool and a slow one."""
    source = folder / "source.raw"
    source.write_bytes(random.Random(1).randbytes(IMAGE_BYTES))
    pools = {name: folder / name for name in ("fast", "slow")}
    for pool in pools.values():
        pool.mkdir()
    subprocess.run(
        [
            *(sys.executable, "-m", "agent", "import", "--pool", f"fast={pools['fast']}"),
            *("--image", "source", "--format", "raw", str(source)),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    slow = f"slow={pools['slow']},bandwidth={BANDWIDTH}"
    return ["--pool", f"fast={pools['fast']}", "--pool", slow]


def _copies(number: int) -> WorkflowSpec:
    tasks = [
        task(
            f"copy-{index}",
            host="host",
            action=CopyImage(source=image("fast/source"), target=image(f"slow/i-{number}-{index}")),
        )
        for index in range(TASKS_PER_WORKFLOW)
    ]
    return workflow_spec("open", parallel("copies", *tasks))


async def _until_busy(agent: Process) -> None:
    """Returns once the agent has as many attempts as it is ever asked for; none ends by then."""
    async with open_channel(agent.address) as channel, asyncio.timeout(HANG_S):
        stub = AgentServiceStub(channel)
        request = ListAttemptsRequest(page_size=TASKS, open_only=True)
        while len((await stub.ListAttempts(request)).attempts) < WINDOW:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)  # the journal's watch would be measured too
