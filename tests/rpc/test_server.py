"""Servers as both services start them."""

from __future__ import annotations

import asyncio

from countermand.rpc import channel, server
from countermand.v1 import workflow_pb2 as pb
from countermand.v1 import workflow_pb2_grpc as pb_grpc
from tests.proxy import Proxy
from tests.rpc.scripted import Scripted, start


class Watched(Scripted):
    """Says when a watch has ended."""

    def __init__(self):
        super().__init__()
        self.ended = asyncio.Event()

    async def WatchWorkflow(self, request, context):
        try:
            async for update in super().WatchWorkflow(request, context):
                yield update
        finally:
            self.ended.set()


async def test_a_client_that_vanished_is_noticed(monkeypatch):
    """Without closing: nothing comes any more, not even the end of the connection."""
    monkeypatch.setattr(server, "KEEPALIVE_TIME_S", 1)
    monkeypatch.setattr(server, "KEEPALIVE_TIMEOUT_S", 1)
    scripted = Watched()  # type: ignore[abstract]  # the other calls are not served
    scripted.add("w")
    running = await start(scripted)
    async with Proxy(running.address) as proxy, channel.open_channel(proxy.address) as opened:
        watch = pb_grpc.WorkflowServiceStub(opened).WatchWorkflow(
            pb.WatchWorkflowRequest(name="workflows/w")
        )
        await watch.read()
        proxy.hold()
        try:
            async with asyncio.timeout(channel.READ_TIMEOUT_S):
                await scripted.ended.wait()
        finally:
            await running.stop(0)
