"""Reads are repeated on UNAVAILABLE; whatever changes something is not."""

import asyncio
import contextlib

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from countermand.rpc import channel
from countermand.rpc.errors import CoordinatorUnavailable
from countermand.rpc.server import Service, serve
from countermand.v1 import workflow_pb2 as pb
from countermand.v1 import workflow_pb2_grpc as pb_grpc
from tests.proxy import Proxy
from tests.rpc.scripted import Scripted, start

NAME = pb.DESCRIPTOR.services_by_name["WorkflowService"].full_name

# How long a peer takes to say its first word: a busy machine, a far network, a handshake of TLS.
SLOW_S = 0.5


class Hiccups(pb_grpc.WorkflowServiceServicer):
    """Is unavailable once."""

    def __init__(self):
        self.calls = 0

    async def GetWorkflow(self, request, context):
        self._hiccup()
        return pb.GetWorkflowResponse()

    async def CancelWorkflow(self, request, context):
        self._hiccup()
        return pb.CancelWorkflowResponse()

    def _hiccup(self):
        self.calls += 1
        if self.calls == 1:
            raise CoordinatorUnavailable(address="here")


@pytest.fixture
def servicer():
    return Hiccups()  # type: ignore[abstract]  # the other calls are not served


@pytest.fixture
async def stub(servicer):
    service = Service(NAME, pb_grpc.add_WorkflowServiceServicer_to_server, servicer)
    running = await serve(listen="127.0.0.1:0", services=[service])
    async with channel.open_channel(running.address) as opened:
        yield pb_grpc.WorkflowServiceStub(opened)
    await running.stop(0)


async def test_a_read_is_asked_again(stub, servicer):
    await stub.GetWorkflow(pb.GetWorkflowRequest(), timeout=channel.READ_TIMEOUT_S)

    assert servicer.calls == 2


async def test_a_change_is_not(stub, servicer):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.CancelWorkflow(pb.CancelWorkflowRequest(), timeout=channel.CHANGE_TIMEOUT_S)

    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert servicer.calls == 1


async def test_a_connection_may_take_its_time(servicer):
    """Else whoever changes something would be told that a busy coordinator does not answer."""
    servicer.calls = 1  # it has had its hiccup
    service = Service(NAME, pb_grpc.add_WorkflowServiceServicer_to_server, servicer)
    running = await serve(listen="127.0.0.1:0", services=[service])
    relays: list[asyncio.Task[None] | None] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relays.append(asyncio.current_task())
        await asyncio.sleep(SLOW_S)  # what is tested is that this time passes
        there, here = await asyncio.open_connection(*running.address.split(":"))
        await asyncio.gather(pump(reader, here), pump(there, writer))

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)

    slow = await asyncio.start_server(relay, "127.0.0.1", 0)
    host, port = slow.sockets[0].getsockname()
    try:
        async with slow, channel.open_channel(f"{host}:{port}") as opened:
            stub = pb_grpc.WorkflowServiceStub(opened)
            await stub.CancelWorkflow(pb.CancelWorkflowRequest(), timeout=channel.CHANGE_TIMEOUT_S)
    finally:
        await running.stop(0)
        await asyncio.gather(*filter(None, relays), return_exceptions=True)


async def test_a_peer_that_vanished_is_noticed(monkeypatch):
    """Without closing: nothing comes any more, not even the end of the connection."""
    monkeypatch.setattr(channel, "KEEPALIVE_TIME_S", 1)
    monkeypatch.setattr(channel, "KEEPALIVE_TIMEOUT_S", 1)
    scripted = Scripted()  # type: ignore[abstract]  # the other calls are not served
    scripted.add("w")
    running = await start(scripted)
    wait = pb.WaitWorkflowRequest(name="workflows/w", wait_timeout=Duration(seconds=60))
    async with Proxy(running.address) as proxy, channel.open_channel(proxy.address) as opened:
        stub = pb_grpc.WorkflowServiceStub(opened)
        await stub.GetWorkflow(pb.GetWorkflowRequest(name="workflows/w"))
        proxy.hold()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.WaitWorkflow(wait, timeout=channel.READ_TIMEOUT_S)
    await running.stop(0)

    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_every_read_that_is_named_exists():
    """A misspelt method in the service config would be ignored in silence."""
    from countermand.v1 import agent_pb2, external_task_pb2, host_pb2

    services = {
        service.full_name: {method.name for method in service.methods}
        for file in (pb, host_pb2, external_task_pb2, agent_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
    }
    for service, methods in channel._READS.items():
        assert set(methods) <= services[service]
