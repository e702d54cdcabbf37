"""What a line makes of errors and silence: certain is only what an agent refuses by name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from coordinator.agents.ears import Guards, Unguarded
from coordinator.agents.line import Line
from coordinator.runtime.ports import Delivery, HostRecord, HostState
from coordinator.saga import events
from coordinator.saga.advance import Decision, advance, start
from coordinator.saga.commands import SendFence
from coordinator.saga.workflow import About, Failure, Workflow
from coordinator.wire.spec import plan_of
from countermand.client.spec import sequence, task, workflow_spec
from countermand.rpc.crash import never
from countermand.rpc.errors import (
    AttemptNotFound,
    AttemptReused,
    CountermandError,
    Fenced,
    PoolFailing,
    PoolNotFound,
    PoolNotShared,
    RequestIdReused,
    StorageFailed,
)
from countermand.v1.agent_pb2 import (
    FenceAttemptResponse,
    GetAttemptResponse,
    GetHostResponse,
    HostReport,
    NoopResponse,
    WatchAttemptsRequest,
    WatchAttemptsResponse,
)
from countermand.v1.agent_pb2 import Heard as AgentHeard
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.verb_pb2 import Noop
from tests.runtime.test_line import ATTEMPT, NOW, Frozen, Stored, ears

SPEC = workflow_spec("test", sequence("all", task("only", host="a", action=Noop())))
STARTED = start(
    workflow_id="w",
    about=About(kind="k"),
    plan=plan_of(SPEC, Struct()),
    owner_epoch=1,
    now=events.Now(time=NOW, jitter=0.0, intent=1),
)
WHY = Failure(reason="CANCELLED", message="a test")
CANCELLED = advance(
    STARTED.workflow,
    events.CancelRequested(ask=events.Ask(principal="p", reason="r", request_id="i"), failure=WHY),
    events.Now(time=NOW, jitter=0.0, intent=2),
)


@dataclass
class Agent:
    """Answers each call with what the test put there; an error is raised once."""

    answers: dict[str, list[Message | CountermandError]]
    incarnation: str = "one"
    heard: tuple[int, int] = (0, 0)  # epoch and intent
    calls: list[str] = field(default_factory=list)

    async def call(
        self, rpc: str, request: Message, *, timeout_s: float, traceparent: str = ""
    ) -> Any:
        self.calls.append(rpc)
        if rpc == "GetHost":
            heard = AgentHeard(owner_epoch=self.heard[0], intent_sequence=self.heard[1])
            return GetHostResponse(host=HostReport(incarnation=self.incarnation, heard=heard))
        said = self.answers[rpc].pop(0)
        if isinstance(said, CountermandError):
            raise said
        return said

    async def watch(self, request: WatchAttemptsRequest) -> AsyncIterator[WatchAttemptsResponse]:
        yield WatchAttemptsResponse(bookmark=1)
        await asyncio.Event().wait()

    async def close(self) -> None:
        pass


@dataclass
class Heard:
    """What the line told, and when it has told something."""

    facts: list[events.AttemptEvent] = field(default_factory=list)
    some: asyncio.Event = field(default_factory=asyncio.Event)

    def event(self, _workflow: str, event: events.AttemptEvent | events.HostChosen) -> None:
        assert not isinstance(event, events.HostChosen)
        self.facts.append(event)
        self.some.set()


async def started(_host: str) -> list[Workflow]:
    return [STARTED.workflow]


@contextlib.asynccontextmanager
async def line_to(
    agent: Agent, heard: Heard, *, known: str = "", guard: Guards | None = None
) -> AsyncIterator[Line]:
    record = HostRecord(id="a", address="a:1", create_time=NOW, incarnation=known)
    line = Line(
        record,
        connect=lambda _: agent,
        cluster_id="c",
        clock=Frozen(),
        chance=Frozen(),
        crash=never,
        ears=ears(
            event=heard.event,
            record=Stored(record).change,
            open_on=started,
            guard=guard or Unguarded(),
        ),
    )
    running = asyncio.create_task(line.run())
    try:
        yield line
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


@dataclass(frozen=True)
class Standing:
    """An order as a line gets it."""

    decision: Decision
    ask_first: bool = False

    def deliver(self, line: Line) -> None:
        [command] = (c for c in self.decision.commands if isinstance(c, Delivery))
        line.orders.deliver(self.decision.workflow, command, ask_first=self.ask_first)


def taken(state: Attempt.State.ValueType) -> NoopResponse:
    return NoopResponse(attempt=Attempt(name=ATTEMPT, state=state))


async def first_heard(agent: Agent, order: Standing) -> events.AttemptEvent:
    heard = Heard()
    async with line_to(agent, heard) as line, asyncio.timeout(20):
        order.deliver(line)
        await heard.some.wait()
    return heard.facts[0]


SEND = Standing(STARTED)
ASK = Standing(STARTED, ask_first=True)
STOP = Standing(CANCELLED)
FENCE = Standing(replace(STARTED, commands=(SendFence(task=1, number=1, host="a"),)))


async def test_what_an_agent_refuses_by_name_is_certain() -> None:
    """A pool that it does not reach: the request has no effect, and never will."""
    event = await first_heard(Agent({"Noop": [PoolNotFound(pool="p")]}), SEND)
    assert isinstance(event, events.AttemptFailed)
    assert event.failure.reason == "POOL_NOT_FOUND"
    assert event.failure.host == "a"


async def test_a_host_whose_pool_is_closed_is_asked_again_to_fence() -> None:
    """It tries that pool again every few seconds, and nobody else may be there to ask."""
    settled = taken(Attempt.STATE_FAILED).attempt
    closed = PoolFailing(pool="p", why="is it mounted?")
    agent = Agent({"FenceAttempt": [closed, FenceAttemptResponse(attempt=settled)]})
    assert isinstance(await first_heard(agent, FENCE), events.AttemptFailed)


async def test_a_host_that_cannot_fence_says_so_once() -> None:
    agent = Agent({"FenceAttempt": [PoolNotShared(pool="p")]})
    assert isinstance(await first_heard(agent, FENCE), events.FenceRefused)


@pytest.mark.parametrize(
    "error",
    [
        AttemptReused(attempt=ATTEMPT),
        StorageFailed(pool="(journal)", error="EIO", image="a request"),
        RequestIdReused(request_id="gRPC's own, or an error of a later version"),
    ],
)
async def test_any_other_refusal_is_asked_about(error: CountermandError) -> None:
    """S-V5: the agent may have the attempt all the same, so nothing is concluded."""
    known = GetAttemptResponse(attempt=taken(Attempt.STATE_SUCCEEDED).attempt)
    agent = Agent({"Noop": [error], "GetAttempt": [known]})
    assert isinstance(await first_heard(agent, SEND), events.AttemptSucceeded)
    assert agent.calls == ["GetHost", "Noop", "GetAttempt"]


async def test_an_error_of_asking_says_nothing_about_the_attempt() -> None:
    """S-H1: after a restart the agent is asked until it answers; only then is anything sent."""
    agent = Agent(
        {
            "GetAttempt": [PoolNotFound(pool="p"), AttemptNotFound(attempt=ATTEMPT)],
            "Noop": [taken(Attempt.STATE_SUCCEEDED)],
        },
    )
    assert isinstance(await first_heard(agent, ASK), events.AttemptSucceeded)
    assert agent.calls == ["GetHost", "GetAttempt", "GetAttempt", "Noop"]


async def test_an_agent_that_cannot_tell_is_not_asked_for_ever() -> None:
    """A cancel teaches it nothing: only a compensation settles what it calls unknown."""
    agent = Agent({"CancelAttempt": [taken(Attempt.STATE_UNKNOWN)]})
    assert isinstance(await first_heard(agent, STOP), events.AttemptMissing)


async def test_a_lost_journal_is_noticed_before_any_order_comes() -> None:
    """S-Z10: what is at work there is in the store, whether or not it was delivered yet."""
    agent, heard = Agent({}, incarnation="two"), Heard()
    async with line_to(agent, heard, known="one") as line, asyncio.timeout(20):
        ASK.deliver(line)
        await heard.some.wait()
        assert line.state is HostState.QUARANTINED
    assert isinstance(heard.facts[0], events.AttemptLost)
    assert heard.facts[0].failure.reason == "JOURNAL_LOST"
    assert set(agent.calls) == {"GetHost"}


async def test_a_fenced_line_shows_it() -> None:
    """S-Z7: an agent that knows a higher epoch is sent nothing more, visibly."""
    agent = Agent({"Noop": [Fenced(owner_epoch=1, workflow="workflows/w", highest=2)]})
    heard = Heard()
    async with line_to(agent, heard) as line, asyncio.timeout(20):
        SEND.deliver(line)
        await heard.some.wait()
        assert line.state is HostState.QUARANTINED
    assert isinstance(heard.facts[0], events.AttemptLost)
