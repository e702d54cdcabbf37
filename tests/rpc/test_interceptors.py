"""What callers see of handlers that raise, over a real loopback server."""

import asyncio
import json
import logging
from io import StringIO
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from countermand.rpc import channel, interceptors, logs, status, telemetry
from countermand.rpc.errors import Bug, StateForbids, WorkflowNotFound
from countermand.rpc.server import ListenRefused, Service, loopback_host, serve
from countermand.v1 import workflow_pb2 as pb
from countermand.v1 import workflow_pb2_grpc as pb_grpc

NAME = pb.DESCRIPTOR.services_by_name["WorkflowService"].full_name


class Servicer(pb_grpc.WorkflowServiceServicer):
    """Raises in every way a handler can."""

    def __init__(self):
        self.left = asyncio.Event()

    async def GetWorkflow(self, request, context):
        if request.name == "workflows/bug":
            raise KeyError("a secret")
        if request.name == "workflows/abort":
            await context.abort(grpc.StatusCode.DATA_LOSS, "by hand")
        if request.name == "workflows/trace":
            trace = telemetry.CURRENT.get()
            return pb.GetWorkflowResponse(
                workflow=pb.Workflow(traceparent=trace.traceparent if trace else "")
            )
        raise WorkflowNotFound(name=request.name)

    async def WatchWorkflow(self, request, context):
        yield pb.WatchWorkflowResponse(bookmark=1)
        if request.name == "workflows/endless":
            try:
                while True:
                    yield pb.WatchWorkflowResponse(bookmark=2)
            finally:
                self.left.set()
        trace = telemetry.CURRENT.get()
        raise StateForbids(name=request.name, state=trace.trace_id if trace else "PAUSED")

    async def WatchEvents(self, request, context):  # type: ignore[override]  # the other way to stream
        await context.write(pb.WatchEventsResponse(bookmark=1))
        raise StateForbids(name="all", state="PAUSED")


@pytest.fixture
def servicer():
    return Servicer()  # type: ignore[abstract]  # the other calls are not served


@pytest.fixture
async def address(servicer):
    service = Service(NAME, pb_grpc.add_WorkflowServiceServicer_to_server, servicer)
    running = await serve(listen="127.0.0.1:0", services=[service])
    yield running.address
    await running.stop(0)


@pytest.fixture
async def stub(address):
    async with channel.open_channel(address) as opened:
        yield pb_grpc.WorkflowServiceStub(opened)


@pytest.fixture
def log_lines():
    stream = StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    logs.configure(stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = before
    root.setLevel(level)


async def test_an_error_of_a_unary_handler_arrives_typed_and_is_logged_once(stub, log_lines):
    """At debug: that something is not there is an answer, and each submit asks for one."""
    logging.getLogger().setLevel(logging.DEBUG)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.GetWorkflow(pb.GetWorkflowRequest(name="workflows/w"))

    error = status.error_from_rpc(raised.value)
    assert isinstance(error, WorkflowNotFound)
    assert error.metadata == {"name": "workflows/w"}
    [line] = [line for line in log_lines() if line["event"] == "rpc.failed"]
    assert (line["level"], line["method"], line["code"], line["reason"]) == (
        "debug",
        f"/{NAME}/GetWorkflow",
        "NOT_FOUND",
        "WORKFLOW_NOT_FOUND",
    )


async def test_an_exception_is_a_bug_with_its_traceback_in_the_log_only(stub, log_lines):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.GetWorkflow(pb.GetWorkflowRequest(name="workflows/bug"))

    error = status.error_from_rpc(raised.value)
    assert isinstance(error, Bug)
    assert "secret" not in repr(raised.value)
    [line] = [line for line in log_lines() if line["event"] == "rpc.failed"]
    assert line["level"] == "error"
    assert "a secret" in line["traceback"]


async def test_a_handler_may_still_abort_by_itself(stub):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.GetWorkflow(pb.GetWorkflowRequest(name="workflows/abort"))

    assert raised.value.code() is grpc.StatusCode.DATA_LOSS


async def test_a_generator_that_raises_ends_its_stream_with_the_error(stub):
    call = stub.WatchWorkflow(pb.WatchWorkflowRequest(name="workflows/w"))
    assert (await call.read()).bookmark == 1
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call.read()
    assert isinstance(status.error_from_rpc(raised.value), StateForbids)


async def test_a_generator_is_closed_when_its_caller_leaves(stub, servicer):
    call = stub.WatchWorkflow(pb.WatchWorkflowRequest(name="workflows/endless"))
    await call.read()
    call.cancel()

    await servicer.left.wait()


async def test_a_writer_that_raises_ends_its_stream_with_the_error(stub):
    call = stub.WatchEvents(pb.WatchEventsRequest())
    assert (await call.read()).bookmark == 1
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call.read()
    assert isinstance(status.error_from_rpc(raised.value), StateForbids)


async def test_the_callers_trace_reaches_the_handler(address):
    trace = telemetry.new_trace()
    telemetry.CURRENT.set(trace)
    async with channel.open_channel(
        address, interceptors=interceptors.client_interceptors()
    ) as opened:
        stub = pb_grpc.WorkflowServiceStub(opened)
        answer = await stub.GetWorkflow(pb.GetWorkflowRequest(name="workflows/trace"))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for _ in stub.WatchWorkflow(pb.WatchWorkflowRequest(name="workflows/w")):
                pass

    assert answer.workflow.traceparent == trace.traceparent
    assert status.error_from_rpc(raised.value).metadata["state"] == trace.trace_id


async def test_health_knows_the_service_and_reads_as_stopping_when_told(address):
    async with channel.open_channel(address) as opened:
        health: Any = health_pb2_grpc.HealthStub(opened)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=NAME))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_request_beyond_the_bound_is_refused(address, stub):
    async with channel.open_channel(address, request_bytes_max=-1) as opened:
        careless = pb_grpc.WorkflowServiceStub(opened)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await careless.GetWorkflow(pb.GetWorkflowRequest(name="w" * 300_000))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_two_servers_never_share_a_port(address):
    with pytest.raises(ListenRefused, match="another process"):
        await serve(listen=address, services=[])


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "192.0.2.7:7700", "[::]:7700", "storage:7700"])
def test_only_loopback_is_listened_on(listen):
    with pytest.raises(ListenRefused, match="loopback"):
        loopback_host(listen)


@pytest.mark.parametrize("listen", ["127.0.0.1", "7700", ":7700", "127.0.0.1:http"])
def test_an_address_has_a_host_and_a_port(listen):
    with pytest.raises(ListenRefused, match="host:port"):
        loopback_host(listen)
