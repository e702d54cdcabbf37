"""W1 and W2: many workflows of no-op tasks, submitted and waited for over gRPC.

The client, the coordinator and the agent are three processes on loopback, with the logs and the
durability that they have in production: SQLite with synchronous=FULL in both services. The client
shares the machine with them, as does whatever else runs: both are told.

W1  three tasks in sequence on one agent; SUCCEEDED
W2  eight tasks in parallel on one agent, the eighth fails, seven are made up for; COMPENSATED
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

from countermand.client import Client
from countermand.client.spec import parallel, policy, sequence, task, workflow_spec
from countermand.v1.task_pb2 import Task
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_spec_pb2 import Policy, WorkflowSpec
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.bench import limits
from tests.bench.figures import Figure, Goal, at_least, at_most, ratio
from tests.bench.processes import Process, machine_cpu_s, start, start_both

HOST = "host"
WARM_UP_S = 0.5
LIMIT_S = 1.0

# What one W1 cannot do without while every call is unary: start and wait, and one call per task.
W1_CALLS = 2 + 3

# The best of the peers that were measured on a machine like this, at 1, 16 and 128 in flight; they
# are not installed here, so this is a comparison with another run.
BEST_PEER = {1: 50, 16: 218, 128: 359}
PEER_FACTOR = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One kind of workflow at one concurrency."""

    name: str
    spec: WorkflowSpec
    end: WorkflowState.ValueType
    in_flight: int
    tasks: int
    rate_goals: tuple[Goal, ...] = ()
    p50_goals: tuple[Goal, ...] = ()
    cpu_goals: tuple[Goal, ...] = ()

    @property
    def title(self) -> str:
        """Returns "W1 at 16"."""
        return f"{self.name} at {self.in_flight}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one run of a workload showed."""

    per_s: float
    p50_ms: float
    p99_ms: float
    coordinator_cpu_ms: float  # per task
    agent_cpu_ms: float  # per task
    client_cpu_ms: float  # per task
    other_cores: float  # kept busy by what is none of ours


def w1() -> WorkflowSpec:
    """Returns three no-ops, one after the other."""
    steps = [task(f"step-{number}", host=HOST, action=Noop()) for number in (1, 2, 3)]
    return workflow_spec("w1", sequence("steps", *steps))


def w2() -> WorkflowSpec:
    """Returns eight no-ops at once; the last one fails."""
    steps = [task(f"step-{number}", host=HOST, action=Noop()) for number in range(1, 8)]
    fails = task("step-8", host=HOST, action=Noop(failure_message="as W2 asks"))
    # Without it the siblings would be cancelled, and some might never run.
    awaiting = policy(on_sibling_failure=Policy.ON_SIBLING_FAILURE_AWAIT)
    return workflow_spec("w2", parallel("steps", *steps, fails, policy=awaiting))


WORKLOADS = (
    *(
        Workload(
            name="W1",
            spec=w1(),
            end=WorkflowState.WORKFLOW_STATE_SUCCEEDED,
            in_flight=in_flight,
            tasks=3,
            rate_goals=(
                *(
                    (at_least(3000), at_least(1000, "with unary calls only"))
                    if in_flight == 128
                    else ()
                ),
                at_least(PEER_FACTOR * peer, f"= {PEER_FACTOR} x best peer, another run"),
            ),
            p50_goals=(at_most(8),) if in_flight == 1 else (),
            cpu_goals=(at_most(0.5),),
        )
        for in_flight, peer in BEST_PEER.items()
    ),
    Workload(
        name="W2",
        spec=w2(),
        end=WorkflowState.WORKFLOW_STATE_COMPENSATED,
        in_flight=16,
        tasks=8,
        rate_goals=(at_least(400),),
        cpu_goals=(at_most(0.5),),
    ),
)


def measure(folder: Path, rounds: int, seconds: float) -> list[Figure]:
    """Returns the figures of all workloads and of the limits beside them, round by round."""
    return asyncio.run(_measure(folder, rounds, seconds))


async def _measure(folder: Path, rounds: int, seconds: float) -> list[Figure]:
    loads: dict[str, list[Load]] = {load.title: [] for load in WORKLOADS}
    calls: dict[int, list[float]] = {in_flight: [] for in_flight in BEST_PEER}
    commits: dict[int, list[float]] = {1: [], limits.ROWS: []}
    with ExitStack() as stack:
        coordinator, agent = stack.enter_context(start_both(folder))
        bare = stack.enter_context(start(["tests.bench.limits"], folder / "limits.log"))
        async with Client(coordinator.address) as client:
            await client.hosts.add(HOST, agent.address)
            bench = Bench(client, coordinator, agent)
            for workload in WORKLOADS:
                await bench.check(workload)
            for _ in range(rounds):
                for workload in WORKLOADS:
                    await bench.run(workload, WARM_UP_S)
                    loads[workload.title].append(await bench.run(workload, seconds))
                for in_flight, rates in calls.items():
                    rates.append(await limits.calls_per_s(bare.address, in_flight, LIMIT_S))
                for rows, rates in commits.items():
                    rates.append(limits.commits_per_s(folder, rows, LIMIT_S))
    figures = [figure for load in WORKLOADS for figure in _figures(load, loads[load.title])]
    return [*figures, *_beside(figures, calls, commits)]


class Bench:
    """Two services and a client, put to work."""

    def __init__(self, client: Client, coordinator: Process, agent: Process) -> None:
        """Keeps them; names go on over all runs."""
        self._client = client
        self._coordinator = coordinator
        self._agent = agent
        self._numbers = itertools.count()

    async def check(self, workload: Workload) -> None:
        """Looks closely at one workflow: a bench of something else would be worthless."""
        name = await self._once(workload)
        states = [t.state for t in await self._client.run(name).tasks() if t.kind == Task.KIND_VERB]
        wanted = [Task.STATE_SUCCEEDED] * workload.tasks
        if workload.end == WorkflowState.WORKFLOW_STATE_COMPENSATED:
            wanted = [Task.STATE_COMPENSATED] * (workload.tasks - 1) + [Task.STATE_FAILED]
        assert states == wanted, [Task.State.Name(state) for state in states]

    async def run(self, workload: Workload, seconds: float) -> Load:
        """Keeps so many workflows in flight for some time."""
        took_ms: list[float] = []
        before = self._cpu_s()
        began = time.perf_counter()

        async def one_after_another() -> None:
            while (start := time.perf_counter()) - began < seconds:
                await self._once(workload)
                took_ms.append((time.perf_counter() - start) * 1000)

        await asyncio.gather(*(one_after_another() for _ in range(workload.in_flight)))
        elapsed_s = time.perf_counter() - began
        coordinator, agent, client, machine = (
            after - earlier for after, earlier in zip(self._cpu_s(), before, strict=True)
        )
        task_ms = 1000 / (len(took_ms) * workload.tasks)
        percentiles = quantiles(took_ms, n=100) if len(took_ms) > 1 else took_ms * 99
        return Load(
            per_s=len(took_ms) / elapsed_s,
            p50_ms=percentiles[49],
            p99_ms=percentiles[98],
            coordinator_cpu_ms=coordinator * task_ms,
            agent_cpu_ms=agent * task_ms,
            client_cpu_ms=client * task_ms,
            other_cores=max(0.0, machine - coordinator - agent - client) / elapsed_s,
        )

    async def _once(self, workload: Workload) -> str:
        name = f"{workload.name.lower()}-{next(self._numbers)}"
        run = await self._client.submit(workload.spec, workflow_id=name)
        workflow = await run.wait()
        assert workflow.state == workload.end, workflow
        return name

    def _cpu_s(self) -> tuple[float, float, float, float]:
        return (
            self._coordinator.cpu_s(),
            self._agent.cpu_s(),
            time.process_time(),
            machine_cpu_s(),
        )


def _figures(workload: Workload, loads: list[Load]) -> Iterator[Figure]:
    def figure(
        what: str, unit: str, take: Callable[[Load], float], goals: tuple[Goal, ...] = ()
    ) -> Figure:
        runs = tuple(map(take, loads))
        return Figure(name=f"{workload.title}: {what}", unit=unit, runs=runs, goals=goals)

    yield figure("rate", "workflows/s", lambda load: load.per_s, workload.rate_goals)
    yield figure("p50", "ms", lambda load: load.p50_ms, workload.p50_goals)
    yield figure("p99", "ms", lambda load: load.p99_ms)
    coordinator_goals = workload.cpu_goals
    yield figure(
        "coordinator CPU", "ms/task", lambda load: load.coordinator_cpu_ms, coordinator_goals
    )
    yield figure("agent CPU", "ms/task", lambda load: load.agent_cpu_ms)
    yield figure("client CPU", "ms/task", lambda load: load.client_cpu_ms)
    yield figure(
        "others on this machine", f"of {os.cpu_count()} cores", lambda load: load.other_cores
    )


def _beside(
    figures: list[Figure], calls: dict[int, list[float]], commits: dict[int, list[float]]
) -> Iterator[Figure]:
    """Yields the limits, and how near to them W1 comes."""
    for in_flight, rates in calls.items():
        limit = Figure(name=f"bare gRPC at {in_flight}", unit="calls/s", runs=tuple(rates))
        ours = next(f for f in figures if f.name == f"W1 at {in_flight}: rate")
        yield limit
        yield ratio(f"W1's {W1_CALLS} calls ÷ bare gRPC at {in_flight}", ours, limit, W1_CALLS)
    for rows, rates in commits.items():
        name = f"SQLite FULL, {rows} {'row' if rows == 1 else 'rows'} a commit"
        yield Figure(name=name, unit="commits/s", runs=tuple(rates))
