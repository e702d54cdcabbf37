"""Many quiet hosts in one process: `python -m tests.scale.hosts 200` prints their addresses.

Each has a port and a server of its own, and says what a quiet agent says: who it is, and bookmarks.
With `--every 0.1` each also tells so often that an attempt of somebody else's workflow has changed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from agent.watch import BOOKMARK_INTERVAL_S
from countermand.v1 import agent_pb2 as pb
from countermand.v1.agent_pb2_grpc import AgentServiceServicer, add_AgentServiceServicer_to_server
from countermand.v1.attempt_pb2 import Attempt


class Quiet(AgentServiceServicer):
    """An agent on which nothing happens that concerns whoever watches it."""

    def __init__(self, number: int, every_s: float) -> None:
        self._report = pb.HostReport(incarnation=f"{number:032x}", journal_sequence=1)
        self._every_s = every_s

    async def GetHost(self, request: Any, context: Any) -> pb.GetHostResponse:
        return pb.GetHostResponse(host=self._report)

    async def ListAttempts(self, request: Any, context: Any) -> pb.ListAttemptsResponse:
        return pb.ListAttemptsResponse()

    async def WatchAttempts(
        self, request: Any, context: Any
    ) -> AsyncIterator[pb.WatchAttemptsResponse]:
        name = "workflows/another-0123456789ab/tasks/step-1/attempts/1"
        while True:
            said = pb.WatchAttemptsResponse(bookmark=1, incarnation=self._report.incarnation)
            if self._every_s:
                attempt = Attempt(name=name, state=Attempt.STATE_RUNNING)
                said.updates.add(sequence=1, attempt=attempt)
            yield said
            await asyncio.sleep(self._every_s or BOOKMARK_INTERVAL_S)


async def serve(count: int, every_s: float) -> None:
    """Serves so many until it is ended."""
    addresses, servers = [], []
    for number in range(count):
        server = grpc.aio.server()
        add_AgentServiceServicer_to_server(Quiet(number, every_s), server)  # type: ignore[abstract]
        addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        servers.append(server)
    print(json.dumps({"address": ",".join(addresses)}), flush=True)
    await asyncio.gather(*(server.wait_for_termination() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[3]) if "--every" in sys.argv else 0.0))
