"""The line to one host, on a connection that answers as the test wants."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from coordinator.agents.ears import Ears
from coordinator.agents.line import Line
from coordinator.runtime.ports import AuditEvent, HostRecord
from coordinator.saga.advance import advance, start
from coordinator.saga.commands import SendAction, SendCancel
from coordinator.saga.events import Ask, CancelRequested, Now
from coordinator.saga.workflow import About, Failure, Workflow
from coordinator.wire.spec import plan_of
from countermand.client.spec import sequence, task, workflow_spec
from countermand.rpc.crash import never
from countermand.v1.agent_pb2 import (
    GetHostResponse,
    HostReport,
    NoopResponse,
    WatchAttemptsRequest,
    WatchAttemptsResponse,
)
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.verb_pb2 import Noop

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ATTEMPT = "workflows/w/tasks/only/attempts/1"


class Frozen:
    def now(self) -> datetime:
        return NOW

    def jitter(self) -> float:
        return 0.0

    def new_id(self) -> str:
        return "id"


@dataclass
class Agent:
    """A connection to an agent that has taken the attempt and works on it."""

    calls: list[str] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(
        self, rpc: str, request: Message, *, timeout_s: float, traceparent: str = ""
    ) -> Any:
        self.calls.append(rpc)
        if rpc == "GetHost":
            return GetHostResponse(host=HostReport(incarnation="i"))
        if rpc == "CancelAttempt":
            self.cancelled.set()
        return NoopResponse(attempt=Attempt(name=ATTEMPT, state=Attempt.STATE_RUNNING))

    async def watch(self, request: WatchAttemptsRequest) -> AsyncIterator[WatchAttemptsResponse]:
        yield WatchAttemptsResponse(bookmark=1)
        await asyncio.Event().wait()

    async def close(self) -> None:
        pass


class Stored:
    """A host as a store keeps it."""

    def __init__(self, record: HostRecord) -> None:
        self.records = [record]
        self.done: list[AuditEvent] = []

    async def change(
        self,
        _host: str,
        change: Callable[[HostRecord], HostRecord],
        event: AuditEvent | None = None,
    ) -> tuple[HostRecord, bool]:
        after = change(self.records[-1])
        if after == self.records[-1]:
            return after, False
        self.records.append(after)
        if event is not None:
            self.done.append(event)
        return after, True


RECORD = HostRecord(id="a", address="a:1", create_time=NOW)


async def nobody(_host: str) -> list[Workflow]:
    return []


async def hundred() -> int:
    return 100


async def nothing_to_forget(_host: str, *, below: int, limit: int) -> list[str]:
    return []


async def forgotten(_host: str, _workflows: Sequence[str]) -> None:
    pass


async def all_settled(workflows: Sequence[str]) -> frozenset[str]:
    return frozenset(workflows)


def ears(**said: Any) -> Ears:
    """Returns ears of a coordinator that has one open workflow, which is all it knows."""
    return Ears(
        **{
            "event": lambda *_: None,
            "progress": lambda *_: None,
            "record": Stored(RECORD).change,
            "workflow": lambda _: None,
            "open_on": nobody,
            "unsent_intent": hundred,
            "low_watermark": lambda _: 1,
            "fence_low_watermark": lambda: 1,
            "evidence": nothing_to_forget,
            "forgotten": forgotten,
            "settled": all_settled,
            "owner_epoch": lambda: 3,
            **said,
        }
    )


async def test_an_order_that_comes_while_the_last_one_ends_is_seen_to():
    """In the very turn of the event loop, and not with the next look at everything."""
    spec = workflow_spec("test", sequence("all", task("only", host="a", action=Noop())))
    now = Now(time=NOW, jitter=0.0, intent=1)
    plan = plan_of(spec, Struct())
    started = start(workflow_id="w", about=About(kind="k"), plan=plan, owner_epoch=1, now=now)
    why = Failure(reason="CANCELLED", message="a test")
    asked = CancelRequested(ask=Ask(principal="p", reason="r", request_id="i"), failure=why)
    cancelled = advance(started.workflow, asked, now)
    [send] = [command for command in started.commands if isinstance(command, SendAction)]
    [stop] = [command for command in cancelled.commands if isinstance(command, SendCancel)]

    def heard(*_: object) -> None:
        # What the loop does in the next turn, when it has been told that the action was taken.
        deliver = partial(line.orders.deliver, cancelled.workflow, stop, ask_first=False)
        asyncio.get_running_loop().call_soon(deliver)

    agent = Agent()
    line = Line(
        RECORD,
        connect=lambda _: agent,
        cluster_id="c",
        clock=Frozen(),
        chance=Frozen(),
        crash=never,
        ears=ears(event=heard, progress=heard),
    )
    running = asyncio.create_task(line.run())
    line.orders.deliver(started.workflow, send, ask_first=False)
    async with asyncio.timeout(30):
        await agent.cancelled.wait()
    assert agent.calls[:2] == ["GetHost", "Noop"]
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
