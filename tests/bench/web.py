"""How soon pages answer: beside many settled workflows, and of a workflow of thousands of tasks.

A coordinator and an agent are processes on loopback; pages are asked for one after the other over
one connection, as a browser does, and each is timed until its last byte. Settled workflows are
copies of one that really ran; the large workflows really run: of one all but its last task succeed,
and it is paused; of another half is in flight, with an owner who does not end it. Beside the time
stands the CPU time, which a busy machine changes less; and what pages cost others: the time of a
call while somebody asks for the largest page all along.
"""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles

from countermand.client import Client, Run
from countermand.client.spec import parallel, policy, sequence, task, workflow_spec
from countermand.v1.task_pb2 import Task
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_spec_pb2 import Policy, WorkflowSpec
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.api.vendors import Vendor, external, vendor_at
from tests.bench.figures import Figure, at_most
from tests.bench.processes import Process, start_agent, start_coordinator
from tests.bench.settled import fill
from tests.bench.workloads import HOST, w1
from tests.endtoend.cluster import until

SETTLED = 10_000
TASKS = 5_000
ASKED = 20  # times each page is asked for in a round
GOAL = at_most(100, "for 95 of 100")
CALLS = 100
RUNNING = 200  # tasks that the owner has accepted; what else is in flight waits for it
LARGE, DONE, BUSY = "large", "done", "busy"


def measure(folder: Path, rounds: int, settled: int, tasks: int) -> list[Figure]:
    """Returns figures of each page."""
    asyncio.run(_prepare(folder, settled, tasks))
    figures: list[Figure] = []
    with start_coordinator(folder, "--web", "127.0.0.1:0") as coordinator:
        one = asyncio.run(_some_settled(coordinator))
        large, done, busy = f"/workflows/{LARGE}", f"/workflows/{DONE}", f"/workflows/{BUSY}"
        for title, path in (
            (f"a workflow of {tasks} tasks", large),
            ("a settled one", done),
            ("one that is half in flight", busy),
        ):
            figures += _first(coordinator, path, f"{title}, after a restart")
        for title, path in (
            (f"the list, {settled} settled", "/workflows"),
            (f"the list by state, {settled} settled", "/workflows?state=succeeded"),
            (f"the list by host, {settled} settled", f"/workflows?host={HOST}"),
            ("a settled workflow of 3 tasks", f"/workflows/{one}"),
            (f"a workflow of {tasks} tasks", large),
            ("a settled one", done),
            ("200 of its tasks", f"{large}/tasks"),
            ("its tasks in one state", f"{large}/tasks?state=failed"),
            ("200 of its events", f"{large}/events?after={tasks}"),
            ("one of its tasks", f"{large}/tasks/step-0000"),
            ("one that is half in flight", busy),
            ("what runs of it", f"{busy}/tasks?state=running"),
            ("its form to cancel", f"{busy}/cancel"),
            ("its form to pause", f"{busy}/pause"),
            ("the form to resume the paused one", f"{large}/resume"),
            (f"the list by how ids begin, {settled} settled", "/workflows?id=f"),
        ):
            figures += _page(coordinator, title, path, rounds)
        figures += asyncio.run(_beside(coordinator, large, rounds))
    return figures


# -- what is shown ---------------------------------------------------------------------------------


async def _prepare(folder: Path, settled: int, tasks: int) -> None:
    """Fills a store: one workflow that ran, its copies, and a large one."""
    with start_agent(folder) as agent:
        with start_coordinator(folder) as coordinator:
            async with Client(coordinator.address) as client:
                await client.hosts.add(HOST, agent.address)
                await (await client.submit(w1(), workflow_id="first")).wait()
        fill(folder / "coordinator/coordinator.sqlite", settled)
        with start_coordinator(folder) as coordinator:
            async with Client(coordinator.address) as client:
                for workflow_id in (LARGE, DONE):
                    run = await client.submit(large(tasks), workflow_id=workflow_id)
                    await run.wait(until_attention=True)
                run = await client.submit(half_in_flight(tasks), workflow_id=BUSY)
                async with vendor_at(coordinator.address) as vendor:
                    await _busy(run, vendor, tasks)
                done = client.run(DONE)
                await done.cancel("measured when it has settled")
                await done.wait()


def large(tasks: int) -> WorkflowSpec:
    """Returns a plan of many tasks at once, of which a last one fails and is held."""
    steps = (task(f"step-{n:04}", host=HOST, action=Noop()) for n in range(tasks - 1))
    fails = task("fails", host=HOST, action=Noop(failure_message="as asked"))
    held = policy(on_failure=Policy.ON_FAILURE_PAUSE)
    return workflow_spec("large", sequence("all", parallel("steps", *steps), fails), policy=held)


def half_in_flight(tasks: int) -> WorkflowSpec:
    """Returns a plan of many tasks at once, half of which only their owner ends."""
    steps = [task(f"step-{n:04}", host=HOST, action=Noop()) for n in range(tasks // 2)]
    steps += [external(f"clone-{n:04}") for n in range(tasks - tasks // 2)]
    return workflow_spec("busy", parallel("steps", *steps))


async def _busy(run: Run, vendor: Vendor, tasks: int) -> None:
    """Returns once half of it is done and the other half in flight, some of that accepted."""

    async def half() -> bool:
        by = {each.state: each.count for each in (await run.get()).task_counts}
        asked = by.get(Task.STATE_STARTING, 0)
        return (by.get(Task.STATE_SUCCEEDED, 0), asked) == (tasks // 2, tasks - tasks // 2)

    await until(half, "that half of it is done, and the other half in flight")
    for request in (await vendor.requests())[:RUNNING]:
        await vendor.accept(request.attempt)


async def _some_settled(coordinator: Process) -> str:
    async with Client(coordinator.address) as client:
        async for found in client.list(states=[WorkflowState.WORKFLOW_STATE_SUCCEEDED]):
            return found.name.removeprefix("workflows/")
    raise AssertionError("nothing has settled")


# -- pages -----------------------------------------------------------------------------------------


def _first(coordinator: Process, path: str, title: str) -> list[Figure]:
    """Returns how long a page takes that nobody has asked for before, once the pages are up."""
    with _asking(coordinator) as ask:
        ask("/webhooks")
        return [Figure(name=f"first time: {title}", unit="ms", runs=(ask(path),))]


def _page(coordinator: Process, title: str, path: str, rounds: int) -> list[Figure]:
    """Returns how long one page takes, and how much of the coordinator's CPU time."""
    took, spent = [], []
    with _asking(coordinator) as ask:
        ask(path)
        for _ in range(rounds):
            before_s = coordinator.cpu_s()
            took.append(quantiles([ask(path) for _ in range(ASKED)], n=20)[-1])
            spent.append((coordinator.cpu_s() - before_s) * 1000 / ASKED)
    return [
        Figure(name=title, unit="ms", runs=tuple(took), goals=(GOAL,)),
        Figure(name=f"{title}: CPU", unit="ms", runs=tuple(spent)),
    ]


@contextmanager
def _asking(coordinator: Process) -> Iterator[_Asker]:
    asker = _Asker(coordinator)
    try:
        yield asker
    finally:
        asker.connection.close()


class _Asker:
    """Asks for pages over one connection."""

    def __init__(self, coordinator: Process) -> None:
        self.connection = http.client.HTTPConnection(coordinator.web.removeprefix("http://"))

    def __call__(self, path: str) -> float:
        """Returns the milliseconds until the whole page was there."""
        began = time.perf_counter()
        self.connection.request("GET", path)
        answer = self.connection.getresponse()
        body = answer.read()
        took_ms = (time.perf_counter() - began) * 1000
        assert answer.status == 200, body[-2000:]
        return took_ms


# -- what they cost others -------------------------------------------------------------------------


async def _beside(coordinator: Process, path: str, rounds: int) -> list[Figure]:
    """Returns how long a call takes, alone and while somebody reads the largest page."""
    alone, beside = [], []
    async with Client(coordinator.address) as client:
        for _ in range(rounds):
            alone.append(await _calls_ms(client))
            with _reading(coordinator, path):
                beside.append(await _calls_ms(client))
    return [
        Figure(name="GetWorkflow, p99, alone", unit="ms", runs=tuple(alone)),
        Figure(name="GetWorkflow, p99, while a page is read", unit="ms", runs=tuple(beside)),
    ]


async def _calls_ms(client: Client) -> float:
    took = []
    for _ in range(CALLS):
        began = time.perf_counter()
        await client.run(LARGE).get()
        took.append((time.perf_counter() - began) * 1000)
    return quantiles(took, n=100)[-1]


@contextmanager
def _reading(coordinator: Process, path: str) -> Iterator[None]:
    over = threading.Event()

    def read() -> None:
        with _asking(coordinator) as ask:
            while not over.is_set():
                ask(path)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        over.set()
        reader.join()
