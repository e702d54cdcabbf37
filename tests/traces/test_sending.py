"""Spans arrive over both protocols; what a collector says decides whether they are sent again."""

from __future__ import annotations

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from coordinator.traces.sending import CollectorAway, SpansRefused, sender
from countermand.rpc.collector import GRPC, HTTP, Collector, CollectorInvalid, collector_of
from tests.traces.collector import PROTOCOLS, collector

SPANS = [Span(trace_id=b"t" * 16, span_id=b"s" * 8, name="a")]


def request() -> ExportTraceServiceRequest:
    made = ExportTraceServiceRequest()
    made.resource_spans.add().scope_spans.add(spans=SPANS)
    return made


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_spans_arrive_with_the_headers_that_were_asked_for(protocol):
    async with collector(protocol) as to:
        told = to.environment | {"OTEL_EXPORTER_OTLP_HEADERS": "X-Tenant=a%20b, authorization=k"}
        where = collector_of(told)
        assert where is not None
        send = sender(where)
        await send(request())
        await send(request())
        await send.close()

        assert to.spans == SPANS * 2
        assert (to.headers["x-tenant"], to.headers["authorization"]) == ("a b", "k")


@pytest.mark.parametrize(
    ("protocol", "status", "raised"),
    [
        (GRPC, grpc.StatusCode.UNAVAILABLE, CollectorAway),
        (GRPC, grpc.StatusCode.UNAUTHENTICATED, CollectorAway),
        (GRPC, grpc.StatusCode.INVALID_ARGUMENT, SpansRefused),
        (GRPC, grpc.StatusCode.RESOURCE_EXHAUSTED, SpansRefused),  # they are too many at once
        (HTTP, 503, CollectorAway),
        (HTTP, 429, CollectorAway),
        (HTTP, 400, SpansRefused),
        (HTTP, 413, SpansRefused),
    ],
)
async def test_an_answer_says_whether_to_send_again(protocol, status, raised):
    async with collector(protocol) as to:
        to.answers.append(status)
        where = collector_of(to.environment)
        assert where is not None
        send = sender(where)
        with pytest.raises(raised):
            await send(request())
        await send(request())
        await send.close()

        assert to.spans == SPANS


async def test_a_collector_without_room_that_says_when_is_asked_again():
    when = Status(code=8)
    when.details.add().Pack(RetryInfo())
    async with collector(GRPC) as to:
        to.answers.append(grpc.StatusCode.RESOURCE_EXHAUSTED)
        to.trailers = (("grpc-status-details-bin", when.SerializeToString()),)
        where = collector_of(to.environment)
        assert where is not None
        send = sender(where)
        with pytest.raises(CollectorAway):
            await send(request())
        await send.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_spans_that_are_taken_in_part_are_not_sent_again(protocol):
    async with collector(protocol) as to:
        to.rejects = 1
        where = collector_of(to.environment)
        assert where is not None
        send = sender(where)
        with pytest.raises(SpansRefused, match="1 of them: as it was told"):
            await send(request())
        await send.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_collector_that_is_not_there_or_says_nothing_is_away(protocol):
    async with collector(protocol, is_open=False) as to:
        where = collector_of(to.environment | {"OTEL_EXPORTER_OTLP_TIMEOUT": "0.1"})
        assert where is not None
        send = sender(where)
        with pytest.raises(CollectorAway):
            await send(request())
    with pytest.raises(CollectorAway):
        await send(request())
    await send.close()


def test_settings_have_the_names_of_opentelemetry():
    assert collector_of({}) is None
    assert collector_of({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}) == Collector(
        endpoint="http://c:4317"
    )
    over_http = {"OTEL_EXPORTER_OTLP_PROTOCOL": HTTP}
    for name, endpoint in (
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/v1/traces"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4318"),
    ):
        found = collector_of(over_http | {name: "http://c:4318"})
        assert found is not None
        assert found.endpoint == endpoint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENDPOINT", "c:4317"),
        ("ENDPOINT", "http://"),
        ("ENDPOINT", "http://[::1"),
        ("ENDPOINT", "http://c:99999"),
        ("PROTOCOL", "http/json"),
        ("TIMEOUT", "soon"),
        ("TIMEOUT", "nan"),
        ("TIMEOUT", "0"),
        ("HEADERS", "token"),
        ("HEADERS", "a=b%0Ac"),
        ("HEADERS", "Ä=b"),
        ("CERTIFICATE", "/no/such.pem"),
        ("CERTIFICATE", __file__),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(name, value):
    name = f"OTEL_EXPORTER_OTLP_{name}"
    with pytest.raises(CollectorInvalid, match=name):
        collector_of({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", name: value})


def test_a_header_that_cannot_be_sent_is_told_by_its_number_and_not_by_its_words():
    headers = {"OTEL_EXPORTER_OTLP_HEADERS": "a=b, secret"}
    with pytest.raises(CollectorInvalid, match="number 2") as raised:
        collector_of({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", **headers})
    assert "secret" not in str(raised.value)
