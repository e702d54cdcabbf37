"""A coordinator's inside in one process: the real loop, store and fleet, on agents of our own.

An agent here takes whatever it is asked and works on it until the test says how it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from coordinator.agents.ears import ears_of
from coordinator.agents.fleet import Fleet
from coordinator.agents.forgetting import FORGET_S
from coordinator.runtime.loop import Loop, Start
from coordinator.runtime.ports import Change, HostRecord, StoreError, Submission
from coordinator.runtime.watch import Watches
from coordinator.saga.advance import Decision
from coordinator.saga.events import Ask, CancelRequested, PauseRequested, ResumeRequested
from coordinator.saga.states import TaskState, WorkflowState
from coordinator.saga.workflow import About, Failure, Workflow
from coordinator.store.database import sqlite
from coordinator.store.run import Inline
from coordinator.store.sql import SqlStore
from coordinator.wire.spec import plan_of
from coordinator.wire.values import values_of_struct
from countermand.client.spec import image, sequence, task, workflow_spec
from countermand.rpc.crash import never
from countermand.rpc.errors import AttemptNotFound, HostUnreachable
from countermand.v1.agent_pb2 import (
    ForgetRequest,
    ForgetResponse,
    GetAttemptResponse,
    GetHostResponse,
    HostReport,
    ListAttemptsResponse,
    NoopResponse,
    WatchAttemptsRequest,
    WatchAttemptsResponse,
)
from countermand.v1.attempt_pb2 import Attempt, Progress
from countermand.v1.failure_pb2 import Failure as FailureMessage
from countermand.v1.image_pb2 import Pool
from countermand.v1.verb_pb2 import CopyImage, Noop
from countermand.v1.workflow_spec_pb2 import Node, WorkflowSpec

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE_S = 20.0
ASK = Ask(principal="p", reason="a test", request_id="r")


class World:
    """The time of day, and a source of chance that never surprises."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def jitter(self) -> float:
        return 0.0

    def new_id(self) -> str:
        return "cluster"


async def until(condition: Callable[[], object]) -> None:
    """Returns once a condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event of its own
            await asyncio.sleep(0.002)


@dataclass
class Agent:
    """A connection to an agent, and the agent behind it."""

    pools: tuple[str, ...] = ()
    incarnation: str = ""  # the host's own, once it has one
    failing: dict[str, FailureMessage] = field(default_factory=dict)  # pools that do not serve now
    up: bool = True
    mute: bool = False  # takes calls and answers none until `speak`
    spoken: asyncio.Event = field(default_factory=asyncio.Event)
    sent: list[str] = field(default_factory=list)  # attempts, as they were sent
    cancelled: list[str] = field(default_factory=list)
    deaf: bool = False  # to Forget
    keeps: set[str] = field(default_factory=set)  # workflows of which it does not forget all
    forgets: list[ForgetRequest] = field(default_factory=list)
    journal: dict[str, Attempt.State.ValueType] = field(default_factory=dict)
    streams: list[asyncio.Queue[WatchAttemptsResponse | None]] = field(default_factory=list)

    async def call(
        self, rpc: str, request: Message, *, timeout_s: float, traceparent: str = ""
    ) -> Any:
        if not self.up:
            raise HostUnreachable(address="a:1")
        if rpc == "GetHost":
            verbs = ("copy_image", "delete_image")
            pools = [
                Pool(pool_id=pool, verbs=verbs, problem=self.failing.get(pool))
                for pool in self.pools
            ]
            return GetHostResponse(host=HostReport(incarnation=self.incarnation, pools=pools))
        if self.mute:
            await self.spoken.wait()
        if rpc == "GetAttempt":
            name = request.name  # type: ignore[attr-defined]
            if name not in self.journal:
                raise AttemptNotFound(attempt=name)
            return GetAttemptResponse(attempt=self._attempt(name))
        if rpc == "ListAttempts":
            return ListAttemptsResponse()  # it has nothing that it should not have
        if rpc == "Forget":
            assert isinstance(request, ForgetRequest)
            self.forgets.append(request)
            if self.deaf:
                raise HostUnreachable(address="a:1")
            return ForgetResponse(kept=[name for name in request.workflows if name in self.keeps])
        name = request.header.attempt  # type: ignore[attr-defined]
        if rpc == "CancelAttempt":
            self.cancelled.append(name)
            self.end(name, Attempt.STATE_CANCELLED)
        else:
            self.sent.append(name)
            self.journal.setdefault(name, Attempt.STATE_RUNNING)
        return NoopResponse(attempt=self._attempt(name))

    async def watch(self, request: WatchAttemptsRequest) -> AsyncIterator[WatchAttemptsResponse]:
        stream: asyncio.Queue[WatchAttemptsResponse | None] = asyncio.Queue()
        self.streams.append(stream)
        yield WatchAttemptsResponse(bookmark=1)
        while message := await stream.get():
            yield message

    async def close(self) -> None:
        pass

    def _attempt(self, name: str) -> Attempt:
        return Attempt(name=name, state=self.journal[name])

    def end(self, name: str, state: Attempt.State.ValueType = Attempt.STATE_SUCCEEDED) -> None:
        """Ends an attempt, and says so to whoever watches."""
        self.journal[name] = state
        for stream in self.streams:
            message = WatchAttemptsResponse()
            message.updates.add(sequence=len(self.journal), attempt=self._attempt(name))
            stream.put_nowait(message)

    def progress(self, name: str, done: int) -> None:
        """Says to whoever watches how far an attempt is."""
        for stream in self.streams:
            message = WatchAttemptsResponse()
            message.updates.add(attempt=Attempt(name=name, progress=Progress(done=done)))
            stream.put_nowait(message)

    def speak(self) -> None:
        """Answers every call that it has taken."""
        self.mute = False
        self.spoken.set()

    def go_down(self) -> None:
        """Answers nothing any more."""
        self.up = False
        for stream in self.streams:
            stream.put_nowait(None)
        self.streams.clear()

    @property
    def tasks(self) -> list[str]:
        """Returns the names of the tasks it was sent, in order."""
        return [name.split("/")[3] for name in self.sent]


class Fragile(SqlStore):
    """A store that fails as often as it is told to."""

    failures = 0

    async def commit(self, changes: Sequence[Change]) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreError("as the test wants it")
        await super().commit(changes)


@dataclass
class Coordinator:
    """One life of a coordinator."""

    loop: Loop
    fleet: Fleet
    store: Any  # Fragile, or what several share

    async def start(self, workflow_id: str, spec: WorkflowSpec, **values: str) -> Decision:
        given = Struct()
        given.update(values)
        submission = Submission(
            spec=spec.SerializeToString(), input=given.SerializeToString(), hash=b""
        )
        about = About(kind="test", input=values_of_struct(given))
        what = Start(about=about, plan=plan_of(spec, given), submission=submission)
        return await self.loop.ask(workflow_id, what)

    def known(self, workflow_id: str) -> Workflow:
        found = self.loop.workflow(workflow_id) or self.loop.settled(workflow_id)
        assert found is not None, workflow_id
        return found

    def task(self, workflow_id: str, name: str) -> TaskState:
        workflow = self.known(workflow_id)
        return workflow.task(workflow.plan.by_name[name]).state

    def state(self, workflow_id: str) -> WorkflowState:
        return self.known(workflow_id).state

    def waits(self, workflow_id: str, name: str) -> str:
        workflow = self.known(workflow_id)
        index = workflow.plan.by_name[name]
        return self.fleet.waiting_for_host(workflow_id, index) or self.fleet.waiting_for_slot(
            workflow, index
        )

    async def cancel(self, workflow_id: str) -> Decision:
        why = Failure(reason="CANCELLED", message="a test")
        return await self.loop.ask(workflow_id, CancelRequested(ask=ASK, failure=why))

    async def pause(self, workflow_id: str) -> Decision:
        return await self.loop.ask(workflow_id, PauseRequested(ask=ASK))

    async def resume(self, workflow_id: str) -> Decision:
        return await self.loop.ask(workflow_id, ResumeRequested(ask=ASK))


@contextlib.asynccontextmanager
async def coordinator(
    folder: Path, agents: dict[str, Agent], *, window: int = 64, forget_s: float = FORGET_S
) -> AsyncIterator[Coordinator]:
    """Lives once on what is stored in a folder."""
    world, watches = World(), Watches[Progress]()
    store = Fragile(sqlite(folder / "store.db"), Inline(), new_id=world.new_id, crash=never)
    loop = Loop(store=store, clock=world, chance=world, crash=never, hints=watches)
    opening = await loop.open()
    for host, agent in agents.items():
        agent.incarnation = f"of-{host}"
    for host in agents.keys() - {record.id for record in await store.hosts()}:
        await store.put_host(HostRecord(id=host, address=host, create_time=NOW))
    fleet = Fleet(
        store=store,
        connect=agents.__getitem__,
        cluster_id=opening.cluster_id,
        clock=world,
        chance=world,
        crash=never,
        ears=ears_of(loop, store, watches.heard_progress),
        window=window,
        forget_s=forget_s,
    )
    loop.attach(fleet)
    await fleet.open()
    running = asyncio.create_task(loop.run())
    try:
        yield Coordinator(loop=loop, fleet=fleet, store=store)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await fleet.close()
        await store.close()


def noop(name: str, host: str = "", **node: Any) -> Node:
    """Returns a task that names no pool."""
    return task(name, host=host, action=Noop(), **node)


def copy(name: str, source: str, target: str, host: str = "", **node: Any) -> Node:
    """Returns a task that copies "pool/image" to "pool/image"."""
    action = CopyImage(source=image(source), target=image(target))
    return task(name, host=host, action=action, **node)


def series(*members: Node, **said: Any) -> WorkflowSpec:
    """Returns a spec of tasks that follow each other."""
    return workflow_spec("test", sequence("all", *members), **said)
