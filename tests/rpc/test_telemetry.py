"""Spans arrive where they should, with the caller's trace; and cost nothing when nobody asked."""

import asyncio
import logging
import subprocess
import sys
from dataclasses import replace
from functools import partial

import grpc.aio
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from countermand.rpc import channel, interceptors, telemetry
from countermand.rpc.collector import GRPC, HTTP, collector_of
from countermand.rpc.errors import WorkflowNotFound
from countermand.rpc.server import Service, serve
from countermand.v1 import workflow_pb2 as pb
from countermand.v1 import workflow_pb2_grpc as pb_grpc
from tests.traces.collector import PROTOCOLS, Collector, collector

NAME = pb.DESCRIPTOR.services_by_name["WorkflowService"].full_name


class Servicer(pb_grpc.WorkflowServiceServicer):
    """Answers one call, fails another, and shows what the handler sees."""

    async def GetWorkflow(self, request, context):
        if request.name != "workflows/w":
            raise WorkflowNotFound(name=request.name)
        current = telemetry.CURRENT.get()
        traceparent = current.traceparent if current else ""
        return pb.GetWorkflowResponse(workflow=pb.Workflow(traceparent=traceparent))


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_call_becomes_a_span_in_the_callers_trace(protocol):
    async with collector(protocol) as to:
        await _call_and_look(to)


async def _call_and_look(to):
    live = telemetry.start("coordinator", collector_of(to.environment))
    service = Service(
        NAME,
        pb_grpc.add_WorkflowServiceServicer_to_server,
        Servicer(),  # type: ignore[abstract]  # the other calls are not served
    )
    running = await serve(listen="127.0.0.1:0", services=[service], telemetry=live)
    caller = telemetry.new_trace()

    async with channel.open_channel(running.address) as opened:
        stub = pb_grpc.WorkflowServiceStub(opened)
        metadata = interceptors.trace_metadata(caller)
        answer = await stub.GetWorkflow(
            pb.GetWorkflowRequest(name="workflows/w"), metadata=metadata
        )
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.GetWorkflow(pb.GetWorkflowRequest(name="workflows/x"), metadata=metadata)
    await running.stop(0)
    await asyncio.to_thread(live.stop)

    good, bad = to.spans
    assert to.services == {"coordinator"}
    for span in (good, bad):
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (caller.trace_id, caller.span_id)
        assert (span.kind, span.name) == (Span.SPAN_KIND_SERVER, f"{NAME}/GetWorkflow")
    assert answer.workflow.traceparent == f"00-{caller.trace_id}-{good.span_id.hex()}-01"
    assert good.status.code == Status.STATUS_CODE_UNSET
    assert bad.status == Status(code=Status.STATUS_CODE_ERROR, message="WORKFLOW_NOT_FOUND")
    attributes = {a.key: a.value.string_value for a in bad.attributes}
    assert attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert attributes["error.type"] == "WORKFLOW_NOT_FOUND"


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_stopping_does_not_wait_for_a_collector_that_hangs(protocol, caplog):
    async with collector(protocol, is_open=False) as to:
        live = telemetry.start("agent", collector_of(to.environment))
        with live.span("work", parent=telemetry.new_trace()):
            pass

        with caplog.at_level(logging.WARNING, logger="countermand"):
            await asyncio.to_thread(live.stop)

    told = [each.getMessage() for each in caplog.records if each.name.startswith("countermand")]
    assert told == ["telemetry.abandoned"]


async def test_whether_a_trace_is_sent_was_decided_where_it_began(monkeypatch):
    """The environment's sampler is for those who begin traces: drawn twice, half is missing."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    async with collector(GRPC) as to:
        live = telemetry.start("agent", collector_of(to.environment))
        wanted = [telemetry.new_trace() for _ in range(20)]
        for each in wanted:
            with live.span("wanted", parent=each):
                pass
            with live.span("unwanted", parent=replace(each, sampled=False)):
                pass
        with live.span("of no trace"):
            pass
        await asyncio.to_thread(live.stop)
    assert [span.trace_id.hex() for span in to.spans] == [each.trace_id for each in wanted]


def _has_been_called(to: Collector, times: int) -> bool:
    return to.calls >= times


@pytest.mark.parametrize(
    ("protocol", "refused"), [(GRPC, grpc.StatusCode.INVALID_ARGUMENT), (HTTP, 400)]
)
async def test_a_collector_that_refuses_is_told_of_once(protocol, refused, caplog, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    async with collector(protocol) as to:
        live = telemetry.start("agent", collector_of(to.environment))
        to.answers.extend([refused] * 2)
        with caplog.at_level(logging.INFO):
            for sent in range(1, 4):
                with live.span("work", parent=telemetry.new_trace()):
                    pass
                await to.until(partial(_has_been_called, to, sent))
            await asyncio.to_thread(live.stop)
    speakers = ("countermand", "opentelemetry")
    told = [each.getMessage() for each in caplog.records if each.name.startswith(speakers)]
    assert told == ["telemetry.lost", "telemetry.go_on"]


def test_without_an_endpoint_a_span_passes_its_parent_on():
    off = telemetry.start("agent", None)
    parent = telemetry.new_trace()

    with off.span("work", parent=parent) as span:
        span.set("bytes", 1)
        span.fail("NO_SPACE", "full")

    assert off is telemetry.OFF
    assert span.context == parent
    off.stop()


@pytest.mark.parametrize(
    "header",
    [
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    ],
    ids=["sampled", "unsampled"],
)
def test_a_traceparent_reads_as_it_was_written(header):
    context = telemetry.parse_traceparent(header, "vendor=1")

    assert context is not None
    assert (context.traceparent, context.tracestate) == (header, "vendor=1")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
    ],
    ids=["empty", "short", "upper-case", "no-trace", "no-span", "version-ff", "long"],
)
def test_a_malformed_traceparent_is_ignored(header):
    assert telemetry.parse_traceparent(header) is None


def test_a_later_version_may_say_more():
    header = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"

    assert telemetry.parse_traceparent(header) is not None


def test_the_base_install_needs_no_extra():
    """Clients and the command line import without what only services install."""
    script = """
import sys
for name in ("opentelemetry", "sqlalchemy", "alembic", "grpc_health", "grpc_reflection"):
    sys.modules[name] = None
import countermand.client, countermand.client.templates, countermand.cli.main
import countermand.cli.workflow, countermand.cli.host, countermand.cli.follow, countermand.cli.live
import countermand.rpc.logs
from countermand.rpc import telemetry
from countermand.rpc.collector import Collector
assert telemetry.start("x", Collector(endpoint="http://127.0.0.1:1")) is telemetry.OFF
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
