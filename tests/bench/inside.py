"""A coordinator's inside in one process: the real loop on the real store, and nobody to deliver to.

What is measured here is one fact: from the moment when the loop hears it until what it makes of its
workflow is durable. Agents, gRPC and the client's own work are left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

from google.protobuf.struct_pb2 import Struct

from coordinator.runtime.loop import Loop, Start
from coordinator.runtime.ports import Order, Submission
from coordinator.saga.events import AttemptAccepted, AttemptSucceeded, Event
from coordinator.saga.plan import Plan
from coordinator.saga.workflow import About, Workflow
from coordinator.store.database import sqlite
from coordinator.store.run import Threads
from coordinator.store.sql import SqlStore
from coordinator.wire.spec import plan_of
from countermand.rpc.crash import never
from countermand.v1.workflow_spec_pb2 import WorkflowSpec

LABELS = (("engine", "bench"),)


class World:
    """The time of day, and chance that never surprises."""

    def now(self) -> datetime:
        """Returns the time."""
        return datetime.now(UTC)

    def jitter(self) -> float:
        """Returns the same number each time."""
        return 0.0

    def new_id(self) -> str:
        """Returns the one id that is asked for."""
        return "bench"


class Nobody:
    """Agents that are told everything and do nothing."""

    def deliver(self, order: Order) -> None:
        """Takes an order."""

    def moved(self, workflow: Workflow, changed: frozenset[int]) -> None:
        """Hears what has changed."""


class Durable:
    """Notes when the change that somebody waits for was durable."""

    def __init__(self) -> None:
        """Begins with nobody waiting."""
        self._waiting: dict[str, asyncio.Future[float]] = {}

    def wait_for(self, workflow_id: str) -> asyncio.Future[float]:
        """Returns what will hold the moment of a workflow's next change."""
        waiter: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting[workflow_id] = waiter
        return waiter

    def committed(self, workflow_id: str, *, settled: bool) -> None:
        """Hears that a workflow has changed, durably."""
        if waiter := self._waiting.pop(workflow_id, None):
            waiter.set_result(time.perf_counter())


class Inside:
    """One life of a coordinator's loop and store."""

    def __init__(self, path: Path) -> None:
        """Keeps its parts; `life` begins."""
        world = World()
        self.durable = Durable()
        self.store = SqlStore(sqlite(path), Threads(), new_id=world.new_id)
        self.loop = Loop(
            store=self.store, clock=world, chance=world, crash=never, hints=self.durable
        )
        self.loop.attach(Nobody())

    @contextlib.asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        """Opens the store, and decides meanwhile."""
        await self.loop.open()
        running = asyncio.create_task(self.loop.run())
        try:
            yield
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            await self.store.close()

    async def start(self, workflow_id: str, spec: WorkflowSpec, plan: Plan) -> float:
        """Starts a workflow; returns the seconds until that was durable."""
        about = About(kind=spec.kind, labels=LABELS)
        handed_in = Submission(spec=spec.SerializeToString(), input=b"", hash=b"")
        began = time.perf_counter()
        await self.loop.ask(workflow_id, Start(about=about, plan=plan, submission=handed_in))
        return time.perf_counter() - began

    async def hear(self, workflow_id: str, event: Event) -> float:
        """Tells the loop of a fact; returns the seconds until what it makes of it is durable."""
        waiter = self.durable.wait_for(workflow_id)
        began = time.perf_counter()
        self.loop.hear(workflow_id, event)
        return await waiter - began

    async def advance(self, workflow_id: str, index: int) -> float:
        """Leads one task from its intent to its success; returns the seconds of both facts."""
        return sum([await self.hear(workflow_id, event) for event in reports(index)])

    async def run(self, workflow_id: str, spec: WorkflowSpec, plan: Plan) -> float:
        """Leads a workflow of one sequence to its end; returns the seconds of all its changes."""
        took = await self.start(workflow_id, spec, plan)
        for index in leaves(plan):
            took += await self.advance(workflow_id, index)
        assert self.loop.workflow(workflow_id) is None, "it should be settled by now"
        return took


def reports(index: int) -> Iterator[Event]:
    """Yields what the agent says of the first attempt of a task that succeeds."""
    yield AttemptAccepted(task=index, number=1)
    yield AttemptSucceeded(task=index, number=1)


def leaves(plan_: Plan) -> tuple[int, ...]:
    """Returns the places of the tasks of a plan, in the order of the tree."""
    return tuple(leaf.index for leaf in plan_.leaves)


def plan(spec: WorkflowSpec) -> Plan:
    """Returns the plan of a spec that needs no input."""
    return plan_of(spec, Struct())
