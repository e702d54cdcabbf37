"""A collector of spans: real servers for both protocols; it answers as it is told."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from aiohttp import web
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from countermand.rpc.collector import GRPC, HTTP

TIMEOUT_S = 30.0
PROTOCOLS = (GRPC, HTTP)


@dataclass(slots=True)
class Collector:
    """What was sent to it, and what it says to that."""

    protocol: str
    endpoint: str = ""
    calls: int = 0
    spans: list[Span] = field(default_factory=list)
    services: set[str] = field(default_factory=set)
    headers: dict[str, str] = field(default_factory=dict)  # of the last call
    bytes_max: int = 4 << 20  # of one request; more it refuses, as collectors do
    rejects: int = 0  # so many spans of each request it says it did not take
    # What it answers next, as a status of the protocol; then it takes everything.
    answers: deque[Any] = field(default_factory=deque)
    trailers: tuple[tuple[str, bytes], ...] = ()  # of these answers, over gRPC
    # Answers nothing while it is not set.
    open: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def environment(self) -> dict[str, str]:
        """Returns the settings that lead to it."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": self.protocol,
        }

    def of(self, trace_id: str) -> list[Span]:
        """Returns the spans of a trace in the order of their arrival, each once."""
        mine = (span for span in self.spans if span.trace_id.hex() == trace_id)
        return list({span.span_id: span for span in mine}.values())

    async def until(self, condition: Callable[[], object]) -> None:
        """Returns once a condition about it holds."""
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def taken(self) -> otlp.ExportTraceServiceResponse:
        """Returns what it says once it has taken something."""
        answer = otlp.ExportTraceServiceResponse()
        if self.rejects:
            answer.partial_success.rejected_spans = self.rejects
            answer.partial_success.error_message = "as it was told"
        return answer

    async def answer(self, request: otlp.ExportTraceServiceRequest) -> Any:
        """Takes what is sent, or returns what it says instead."""
        self.calls += 1
        self._changed.set()
        await self.open.wait()
        if self.answers:
            return self.answers.popleft()
        for sent in request.resource_spans:
            self.services |= {
                each.value.string_value
                for each in sent.resource.attributes
                if each.key == "service.name"
            }
            self.spans += [span for scope in sent.scope_spans for span in scope.spans]
        self._changed.set()
        return None


@asynccontextmanager
async def collector(protocol: str, *, is_open: bool = True) -> AsyncIterator[Collector]:
    """Yields a collector that listens."""
    made = Collector(protocol)
    if is_open:
        made.open.set()
    async with (_over_http if protocol == HTTP else _over_grpc)(made):
        yield made


@asynccontextmanager
async def _over_grpc(to: Collector) -> AsyncIterator[None]:
    class Servicer(otlp_grpc.TraceServiceServicer):
        async def Export(self, request, context):
            to.headers = dict(context.invocation_metadata())
            if (said := await to.answer(request)) is not None:
                await context.abort(said, "as it was told", to.trailers)
            return to.taken()

    server = grpc.aio.server(options=(("grpc.max_receive_message_length", to.bytes_max),))
    otlp_grpc.add_TraceServiceServicer_to_server(Servicer(), server)
    to.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield
    finally:
        to.open.set()
        await server.stop(None)


@asynccontextmanager
async def _over_http(to: Collector) -> AsyncIterator[None]:
    async def export(request: web.Request) -> web.Response:
        to.headers = {name.lower(): value for name, value in request.headers.items()}
        assert request.content_type == "application/x-protobuf"
        sent = otlp.ExportTraceServiceRequest.FromString(await request.read())
        if (said := await to.answer(sent)) is not None:
            return web.Response(status=said)
        body = to.taken().SerializeToString()
        return web.Response(body=body, content_type="application/x-protobuf")

    app = web.Application(client_max_size=to.bytes_max)
    app.router.add_post("/v1/traces", export)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    to.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield
    finally:
        to.open.set()
        await runner.cleanup()
