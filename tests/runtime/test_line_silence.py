"""A host that falls silent while it works: nobody knows, in time; nothing is taken for lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.message import Message

from coordinator.agents import line as lines
from coordinator.runtime.ports import HostState
from coordinator.saga import events
from countermand.rpc.errors import HostUnreachable
from countermand.v1.agent_pb2 import WatchAttemptsRequest, WatchAttemptsResponse
from countermand.v1.attempt_pb2 import Attempt
from tests.runtime.test_line_errors import SEND, Agent, Heard, line_to, taken


class Dying(Agent):
    """Takes one order, and is never heard again: its connection breaks, or only stands."""

    def __init__(self, *, breaks: bool) -> None:
        super().__init__({"Noop": [taken(Attempt.STATE_RUNNING)]})
        self.breaks = breaks
        self.dead = asyncio.Event()

    async def call(
        self, rpc: str, request: Message, *, timeout_s: float, traceparent: str = ""
    ) -> Any:
        if self.dead.is_set():
            raise HostUnreachable(address="a:1")
        answer = await super().call(rpc, request, timeout_s=timeout_s, traceparent=traceparent)
        if rpc == "Noop":
            self.dead.set()
        return answer

    async def watch(self, request: WatchAttemptsRequest) -> AsyncIterator[WatchAttemptsResponse]:
        yield WatchAttemptsResponse(bookmark=1, incarnation="one")
        await self.dead.wait()
        if self.breaks:
            raise HostUnreachable(address="a:1")
        await asyncio.Event().wait()


@pytest.mark.parametrize("breaks", [False, True])
async def test_an_agent_that_dies_at_work_makes_its_attempt_unknown(monkeypatch, breaks):
    """S-H5, S-Z21: within the time that silence may last, whether its host goes down or hangs."""
    monkeypatch.setattr(lines, "SUSPECT_S", 0.2)
    agent, heard = Dying(breaks=breaks), Heard()
    async with line_to(agent, heard) as line, asyncio.timeout(20):
        SEND.deliver(line)
        while len(heard.facts) < 2:
            heard.some.clear()
            await heard.some.wait()
        assert line.state is HostState.SUSPECT
    assert [type(fact) for fact in heard.facts] == [events.AttemptAccepted, events.AttemptLost]
