"""An agent that `agent-sanity` is let loose on, inside the test: ours, or one that is broken."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from agent.drivers.copying import CHUNK_BYTES
from agent.runner import Limits, Runner
from agent.service import AgentService
from countermand.rpc import crash
from countermand.rpc.server import Service, serve
from countermand.sanity.asking import Calls, connected
from countermand.sanity.run import Ending, Result, checks, run
from countermand.sanity.subject import Subject
from countermand.v1 import agent_pb2_grpc
from countermand.v1.agent_pb2 import HostReport
from countermand.v1.image_pb2 import ImageAddress
from tests.agent.rig import NOW, Rig

ADD = agent_pb2_grpc.add_AgentServiceServicer_to_server
POOL = "fast"

# Of an agent whose queue can be filled: a copy of its source takes seconds, unless it is cancelled.
SLOW: dict[str, Any] = {
    "limits": Limits(attempts_max=1, queue_max=1),
    "options": {"bandwidth_bytes_per_s": CHUNK_BYTES},
}

MakeService = Callable[[Runner], AgentService]


def ours(runner: Runner) -> AgentService:
    """Returns our service."""
    return AgentService(runner, now=lambda: NOW, version="1.2.3")


@asynccontextmanager
async def subject(
    folder: Path,
    *,
    make: MakeService = ours,
    options: dict[str, Any] | None = None,
    source: bool = False,
    limits: Limits | None = None,
    crash_at: crash.Crash = crash.never,
    now: datetime = NOW,
) -> AsyncIterator[Subject]:
    """Yields an agent, served on loopback, as the suite sees it."""
    rig = Rig(folder, options={POOL: options or {}}, limits=limits, crash_at=crash_at)
    rig.now = now
    await rig.start()
    try:
        if source:
            rig.put("base", os.urandom(CHUNK_BYTES) + bytes(CHUNK_BYTES) + os.urandom(512))
        server = await serve(
            listen="127.0.0.1:0",
            services=[Service("countermand.v1.AgentService", ADD, make(rig.runner))],
        )
        try:
            async with connected(server.address) as calls:
                yield await seen_through(calls, server.address, source=source)
        finally:
            await server.stop(0)
    finally:
        await rig.runner.stop()


async def seen_through(calls: Calls, address: str, *, source: bool = False) -> Subject:
    """Returns an agent as the suite sees it."""
    found = Subject(
        calls=calls,
        address=address,
        host=HostReport(),
        cluster_id="agent-sanity",
        run="0",
        intent=0,
        pools=(POOL,),
        source=ImageAddress(pool_id=POOL, image_id="base") if source else None,
        patience_s=60.0,  # only a hang takes longer
    )
    await found.look()
    return found


async def results(one: Subject, *only: str, skip: tuple[str, ...] = ()) -> list[Result]:
    """Returns how checks ended."""
    return [result for check in checks(only, skip) async for result in run(one, check)]


def broken(found: list[Result]) -> dict[str, str]:
    """Returns the promises that are broken, each with what was expected and seen."""
    return {
        result.instance.label: f"expected {result.expected}; seen {result.seen}"
        for result in found
        if result.ending is Ending.BROKEN
    }
