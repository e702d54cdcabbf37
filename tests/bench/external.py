"""What very many open external tasks cost, and whether any of their owners is wrongly judged.

Each task has been accepted, has a heartbeat timeout of 30 s, and is heard of every 10 s: many in
one request, or each in a request of its own. Meanwhile somebody else asks for a workflow and runs
W1, at a fixed rate which was measured alone before. Then the coordinator is killed, and started.

in specs  ten workflows that an engine has submitted
added     one open workflow of a vendor's own, to which they were added one by one

The vendor, the others, the coordinator and an agent share the machine. In each life of the
coordinator one owner falls silent on purpose: were that not noticed, the rest would prove nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from coordinator.saga.spec import NODES_MAX
from countermand.client import Client
from countermand.rpc.channel import open_channel
from countermand.v1.external_task_pb2 import ListExternalTasksRequest
from countermand.v1.external_task_pb2_grpc import ExternalTaskServiceStub
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import GetWorkflowRequest, ListTasksRequest, WorkflowView
from countermand.v1.workflow_pb2_grpc import WorkflowServiceStub
from tests.bench.figures import Figure, Goal, at_most
from tests.bench.memory import BASE_MIB, TASK_MIB
from tests.bench.offered import Call, Others, percentile
from tests.bench.processes import Process, machine_cpu_s, start_agent, start_coordinator
from tests.bench.vendor import CONNECTIONS, OWNER, PAGE, Vendor

if TYPE_CHECKING:
    from countermand.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

TASKS = 10_000
SECONDS = 60.0
BATCH = 1000
WORKFLOWS = 10  # that an engine has submitted
REPORTS_PER_S = 200
ASKED = 5  # times for each view
WAYS = {f"{BATCH} a request": BATCH, "one a request": 1}

NONE = at_most(0)
GROWTH = at_most(2)


class Runs:
    """The figures of one layout, as they are found."""

    def __init__(self, layout: str) -> None:
        """Knows none yet."""
        self._layout = layout
        self._runs: dict[str, list[float]] = {}
        self._about: dict[str, tuple[str, tuple[Goal, ...]]] = {}

    def note(self, name: str, unit: str, value: float, *goals: Goal) -> None:
        """Keeps what one run showed."""
        self._runs.setdefault(name, []).append(value)
        self._about[name] = unit, goals

    def median(self, name: str) -> float:
        """Returns the median of what was noted."""
        return median(self._runs[name])

    def figures(self) -> list[Figure]:
        """Returns all of them in their order."""
        found = []
        for name, runs in self._runs.items():
            unit, goals = self._about[name]
            title = f"{self._layout}: {name}"
            found.append(Figure(name=title, unit=unit, runs=tuple(runs), goals=goals))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is measured, and how long."""

    tasks: int
    seconds: float  # of heartbeats of each way, and again after the restart
    rounds: int  # that share them

    @property
    def round_s(self) -> float:
        """Returns the seconds of one round."""
        return self.seconds / self.rounds


def measure(folder: Path, extent: Extent) -> list[Figure]:
    """Returns figures of both layouts."""
    figures: list[Figure] = []
    for layout in ("in specs", "added"):
        place = folder / layout.replace(" ", "-")
        place.mkdir()
        runs = Runs(layout)
        asyncio.run(_lives(place, runs, layout, extent))
        figures += runs.figures()
    return figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One life of the coordinator, and everybody around it."""

    coordinator: Process
    agent: Process
    client: Client
    vendor: Vendor
    others: Others
    runs: Runs
    ask: WorkflowServiceAsyncStub

    def strangers_s(self) -> float:
        """Returns the CPU time that was spent by what is none of ours."""
        ours = self.coordinator.cpu_s() + self.agent.cpu_s() + time.process_time()
        return machine_cpu_s() - ours


@asynccontextmanager
async def _life(folder: Path, agent: Process, runs: Runs) -> AsyncIterator[Life]:
    with start_coordinator(folder) as coordinator:
        address = coordinator.address
        async with Client(address) as client, AsyncExitStack() as stack:
            channels = [
                await stack.enter_async_context(open_channel(address)) for _ in range(CONNECTIONS)
            ]
            yield Life(
                coordinator=coordinator,
                agent=agent,
                client=client,
                vendor=Vendor([ExternalTaskServiceStub(each) for each in channels]),
                others=Others(client),
                runs=runs,
                ask=WorkflowServiceStub(channels[0]),
            )


async def _lives(folder: Path, runs: Runs, layout: str, extent: Extent) -> None:
    with start_agent(folder) as agent:
        async with _life(folder, agent, runs) as first:
            await first.client.hosts.add("host", agent.address)
            await first.vendor.fall_silent(first.client, "silent-1")
            await _alone(first, extent.round_s)
            names = await _lay_out(first, layout, extent.tasks)
            await _accept(first)
            for way, batch in WAYS.items():
                for _ in range(extent.rounds):
                    await _beside(first, way, batch, extent.round_s)
            # Of all rounds together: a median would hide a bad one.
            runs.note("heartbeats refused", "requests", first.vendor.refused, NONE)
            await _report(first, extent.round_s)
            await _views(first, names[-1])
            os.kill(first.coordinator.pid, signal.SIGKILL)
        async with _life(folder, agent, runs) as second:
            second.vendor.tasks.extend(first.vendor.tasks)
            await _restarted(second, names[-1], extent.seconds)
            await second.vendor.fall_silent(second.client, "silent-2")
            await _judge(second, names, first.vendor.unwell + second.vendor.unwell)


async def _alone(life: Life, seconds: float) -> None:
    """Measures the coordinator with nothing open, and what the others cost alone."""
    runs, memory = life.runs, life.coordinator.memory()
    runs.note("RSS idle", "MiB", memory.rss)
    before = life.coordinator.cpu_s()
    async with life.others.asking():
        await asyncio.sleep(seconds)
    runs.note("CPU, others only", "cores", (life.coordinator.cpu_s() - before) / seconds)
    life.others.note(runs.note, "alone")


async def _lay_out(life: Life, layout: str, tasks: int) -> list[str]:
    """Makes the tasks; returns the names of their workflows."""
    runs, vendor = life.runs, life.vendor
    if layout == "in specs":
        began = time.perf_counter()
        names = [
            await vendor.submit(life.client, f"open-{number}", tasks // WORKFLOWS)
            for number in range(WORKFLOWS)
        ]
        runs.note("tasks submitted", "tasks/s", tasks / (time.perf_counter() - began))
        return names
    took_s = await vendor.add("open", min(tasks, NODES_MAX - 1) - 1)  # one is "main"
    tenth = len(took_s) // 10
    runs.note("tasks added, one by one", "tasks/s", len(took_s) / sum(took_s))
    first, last = median(took_s[:tenth]) * 1000, median(took_s[-tenth:]) * 1000
    runs.note("an add, of the first tenth", "ms", first)
    runs.note("an add, of the last tenth", "ms", last)
    runs.note("an add, last ÷ first tenth", "x", last / first, GROWTH)
    return ["workflows/open"]


async def _accept(life: Life) -> None:
    """Has the vendor accept all of them; it keeps alive what it has."""
    runs, vendor, idle = life.runs, life.vendor, life.runs.median("RSS idle")
    began = time.perf_counter()
    async with vendor.beating(BATCH):
        await vendor.accept_all()
    runs.note("tasks accepted", "tasks/s", len(vendor.tasks) / (time.perf_counter() - began))
    memory = life.coordinator.memory()
    goal = at_most(BASE_MIB + len(vendor.tasks) * TASK_MIB)
    runs.note(f"RSS, {len(vendor.tasks)} tasks", "MiB", memory.rss, goal)
    grown = (memory.rss - idle) * 1024 / len(vendor.tasks)
    runs.note("RSS, grown per task", "KiB", grown)


async def _beside(life: Life, way: str, batch: int, seconds: float) -> None:
    """Measures what heartbeats cost, and what others see of them."""
    runs, vendor, coordinator = life.runs, life.vendor, life.coordinator
    took_ms: list[float] = []
    sent, before, began = vendor.sent, coordinator.cpu_s(), time.perf_counter()
    strangers_s = life.strangers_s()
    async with vendor.beating(batch, took_ms), life.others.asking():
        await asyncio.sleep(seconds)
    elapsed_s = time.perf_counter() - began
    cores, beats = (coordinator.cpu_s() - before) / elapsed_s, vendor.sent - sent
    runs.note(f"{way}: heartbeats", "tasks/s", beats / elapsed_s)
    runs.note(f"{way}: CPU, others included", "cores", cores)
    spent_us = (cores - runs.median("CPU, others only")) * elapsed_s * 1e6 / max(beats, 1)
    runs.note(f"{way}: CPU of a heartbeat", "µs", spent_us)
    runs.note(f"{way}: a request, p50", "ms", percentile(took_ms, 50))
    # Of one request a second too few are made in a run for any other percentile.
    slowest = "slowest" if batch > 1 else "p99"
    runs.note(f"{way}: a request, {slowest}", "ms", percentile(took_ms, 99))
    life.others.note(runs.note, way)
    strangers = max(0.0, life.strangers_s() - strangers_s) / elapsed_s
    runs.note(f"{way}: strangers on this machine", f"of {os.cpu_count()} cores", strangers)


async def _report(life: Life, seconds: float) -> None:
    """Measures reports of progress, which are durable once they are answered."""
    before = life.coordinator.cpu_s()
    async with life.vendor.beating(BATCH):
        took_ms = await life.vendor.report(REPORTS_PER_S, seconds)
    name, runs = f"{REPORTS_PER_S} reports/s", life.runs
    runs.note(f"{name}: answered", "reports/s", len(took_ms) / seconds)
    runs.note(
        f"{name}: CPU, heartbeats included",
        "cores",
        (life.coordinator.cpu_s() - before) / seconds,
    )
    runs.note(f"{name}: p50", "ms", percentile(took_ms, 50))
    runs.note(f"{name}: p99", "ms", percentile(took_ms, 99))


async def _views(life: Life, name: str) -> None:
    """Measures what it takes to see the last workflow, and what waits for the vendor."""
    full = WorkflowView.WORKFLOW_VIEW_FULL
    views: dict[str, Call] = {
        "GetWorkflow": lambda: life.ask.GetWorkflow(GetWorkflowRequest(name=name)),
        "GetWorkflow, FULL": lambda: life.ask.GetWorkflow(GetWorkflowRequest(name=name, view=full)),
        f"ListTasks, a page of {PAGE}": lambda: life.ask.ListTasks(
            ListTasksRequest(parent=name, page_size=PAGE)
        ),
        f"ListExternalTasks, a page of {PAGE}": lambda: life.vendor.stub.ListExternalTasks(
            ListExternalTasksRequest(owner_id=OWNER, page_size=PAGE)
        ),
    }
    async with life.vendor.beating(BATCH):
        for view, call in views.items():
            for _ in range(ASKED):
                began = time.perf_counter()
                await call()
                life.runs.note(view, "ms", (time.perf_counter() - began) * 1000)


async def _restarted(life: Life, name: str, seconds: float) -> None:
    """Measures a start with everything open; then keeps all alive, as long as before."""
    runs = life.runs
    runs.note("killed and started: ready", "ms", life.coordinator.ready_ms)
    began = time.perf_counter()
    await life.ask.GetWorkflow(GetWorkflowRequest(name=name))
    runs.note("killed and started: first GetWorkflow", "ms", (time.perf_counter() - began) * 1000)
    took_ms: list[float] = []
    async with life.vendor.beating(BATCH, took_ms):
        await asyncio.sleep(seconds)
    runs.note("killed and started: first heartbeats", "ms", took_ms[0])
    runs.note("killed and started: RSS", "MiB", life.coordinator.memory().rss)


async def _judge(life: Life, names: list[str], unwell: int) -> None:
    """Looks whether anything was ever said of an owner but that it is at work."""
    runs = life.runs
    judged = at_work = 0
    for name in names:
        run = life.client.run(name.partition("/")[2])
        async for event in run.events():
            judged += event.task_state_changed.after == Task.STATE_UNKNOWN
        at_work += len(await run.tasks([Task.STATE_RUNNING]))
    runs.note("tasks wrongly judged", "tasks", judged, NONE)
    runs.note("tasks not at work at the end", "tasks", len(life.vendor.tasks) - at_work, NONE)
    runs.note("heartbeats answered otherwise", "answers", unwell, NONE)
