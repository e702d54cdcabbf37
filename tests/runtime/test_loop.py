"""The loop on a real store: what one workflow cannot be done with harms no other."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.struct_pb2 import Struct

from coordinator.runtime.loop import Loop, Start
from coordinator.runtime.ports import Change, Order, StoreConflictError, StoreError, Submission
from coordinator.runtime.watch import Watches
from coordinator.saga.events import AttemptSucceeded
from coordinator.saga.states import WorkflowState
from coordinator.saga.workflow import About, Workflow
from coordinator.store.database import sqlite
from coordinator.store.run import Inline
from coordinator.store.sql import SqlStore
from coordinator.wire.spec import plan_of
from countermand.client.spec import sequence, task, workflow_spec
from countermand.rpc.crash import never
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_spec_pb2 import Node
from tests.runtime.rig import Agent, coordinator, noop, series, until

LONG = "x" * 60_000


class Frozen:
    """A clock and a source of chance that never surprise."""

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def jitter(self) -> float:
        return 0.0

    def new_id(self) -> str:
        return "cluster"


class Delivered:
    """Agents that only take orders."""

    def __init__(self) -> None:
        self.orders: list[Order] = []

    def deliver(self, order: Order) -> None:
        self.orders.append(order)

    def moved(self, workflow: Workflow, changed: frozenset[int]) -> None:
        pass


class Gated(SqlStore):
    """A store whose commits wait for the gate to be open."""

    gate = asyncio.Event()

    async def commit(self, changes: Sequence[Change]) -> None:
        await self.gate.wait()
        await super().commit(changes)


@pytest.fixture
def gate(monkeypatch):
    gate = asyncio.Event()
    gate.set()
    monkeypatch.setattr(Gated, "gate", gate)
    return gate


@pytest.fixture
async def loop(tmp_path, gate):
    frozen, watches = Frozen(), Watches[Progress]()
    store = Gated(sqlite(tmp_path / "store.db"), Inline(), new_id=frozen.new_id, crash=never)
    loop = Loop(store=store, clock=frozen, chance=frozen, crash=never, hints=watches)
    await loop.open()
    loop.attach(Delivered())
    running = asyncio.create_task(loop.run())
    yield loop
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await store.close()


def start(*members: Node) -> Start:
    """Returns a workflow whose input is long."""
    spec = workflow_spec("test", sequence("all", *members))
    return Start(
        about=About(kind="test", input={"text": LONG}),
        plan=plan_of(spec, Struct()),
        submission=Submission(spec=spec.SerializeToString(), input=b"", hash=b""),
    )


def plain(name: str) -> Node:
    return task(name, host="a", action=Noop())


def too_much(name: str) -> Node:
    """Returns a task into which more is bound than the store takes; no such spec is accepted."""
    node = plain(name)
    for _ in range(20):
        node.task.bindings.add(field="failure_message", source="input.text")
    return node


async def state_of(loop: Loop, workflow_id: str) -> WorkflowState:
    stored = await loop._store.load(workflow_id)
    assert stored is not None
    return stored.workflow.state


async def test_a_fact_that_cannot_be_stored_quarantines_its_workflow_only(loop):
    """S-V25, S-Z17: the others, decided in the same batch, go on."""
    await loop.ask("poisoned", start(plain("first"), too_much("then")))
    await loop.ask("sound", start(plain("first")))
    done = AttemptSucceeded(task=1, number=1, output={}, done=0)
    loop.hear("poisoned", done)
    loop.hear("sound", done)
    await loop.ask("later", start(plain("first")))
    states = Counter([await state_of(loop, name) for name in ("poisoned", "sound", "later")])
    assert states == {
        WorkflowState.QUARANTINED: 1,
        WorkflowState.SUCCEEDED: 1,
        WorkflowState.RUNNING: 1,
    }
    loop.hear("poisoned", done)  # what is heard of it changes nothing any more
    await loop.ask("last", start(plain("first")))
    assert await state_of(loop, "poisoned") is WorkflowState.QUARANTINED


async def test_a_request_that_cannot_be_stored_is_refused_alone(loop):
    asked = await asyncio.gather(
        loop.ask("poisoned", start(too_much("then"))),
        loop.ask("sound", start(plain("first"))),
        return_exceptions=True,
    )
    assert isinstance(asked[0], StoreError)
    assert asked[0].reason == "BUG"
    assert await state_of(loop, "sound") is WorkflowState.RUNNING
    assert await loop._store.load("poisoned") is None


async def test_an_id_is_taken_only_once_that_is_durable(loop, gate):
    """Who is told so reads the other workflow next, and must find it."""
    gate.clear()
    asked = [asyncio.create_task(loop.ask("same", start(plain("first")))) for _ in range(2)]
    for _ in range(10):  # turns of the event loop: everything that can happen has happened
        await asyncio.sleep(0)
    assert not any(task.done() for task in asked)
    gate.set()
    await asked[0]
    with pytest.raises(StoreConflictError):
        await asked[1]


async def test_no_time_is_waited_for_once_a_workflow_has_settled(tmp_path):
    agent = Agent()
    spec = series(noop("only", "a"), timeout=timedelta(days=2))
    async with coordinator(tmp_path, {"a": agent}) as one:
        await one.start("w", spec)
        assert len(one.loop._timers) == 1
        await until(lambda: agent.sent)
        agent.end(agent.sent[0])
        await until(lambda: one.known("w").settled)
        assert len(one.loop._timers) == 0


async def test_a_workflow_that_takes_too_long_is_stopped_also_by_the_next_life(tmp_path):
    agent = Agent()
    spec = series(noop("only", "a"), timeout=timedelta(seconds=2))  # the first life is shorter
    async with coordinator(tmp_path, {"a": agent}) as one:
        await one.start("w", spec)
    async with coordinator(tmp_path, {"a": agent}) as one:
        await until(lambda: one.known("w").settled)
        cause = one.known("w").cause
        assert cause is not None
        assert cause.reason == "TIMED_OUT"
