"""Spans, sent over OTLP only when somebody asked for them; and W3C trace context for everybody.

Without an endpoint every span is a no-op that passes its parent on, so callers never ask whether
telemetry is on. OpenTelemetry is imported only when it is: the base install has none. The current
trace context is ours, a context variable, because the contrib gRPC package loses OpenTelemetry's
own across `grpc.aio` handlers.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from countermand.rpc.collector import HTTP, Collector

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as OtelSpan

log = logging.getLogger(__name__)

# A dead collector must not make Ctrl-C feel broken: the exporter alone would take over 7 s, and all
# of an end should take no more than one.
SHUTDOWN_S_MAX = 0.5

Kind = Literal["internal", "server", "client"]
Value = str | int | bool | float

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where a span hangs in its trace (https://www.w3.org/TR/trace-context/)."""

    trace_id: str  # 32 hex digits
    span_id: str  # 16 hex digits
    sampled: bool = True
    tracestate: str = ""

    @property
    def traceparent(self) -> str:
        """Returns the header's value."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


CURRENT: ContextVar[TraceContext | None] = ContextVar("countermand_trace", default=None)


def untraced() -> Context:
    """Returns the context of the caller without its trace: for what a call begins and outlives."""
    context = copy_context()
    context.run(CURRENT.set, None)
    return context


def new_trace() -> TraceContext:
    """Returns the context of a new trace with a random id."""
    return TraceContext(trace_id=secrets.token_hex(16), span_id=secrets.token_hex(8))


def parse_traceparent(header: str, tracestate: str = "") -> TraceContext | None:
    """Returns the context a header names; None for a malformed one, which W3C says to ignore."""
    match = _TRACEPARENT.fullmatch(header)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    # Version 00 ends here; all-zero ids and version ff are invalid by definition.
    if (
        version == "ff"
        or (version == "00" and rest)
        or not (int(trace_id, 16) and int(span_id, 16))
    ):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED), tracestate)


class Span(Protocol):
    """What the body of `Telemetry.span` may say about its work."""

    @property
    def context(self) -> TraceContext | None:
        """Returns where children hang; None outside of any trace."""
        ...

    def set(self, key: str, value: Value) -> None:
        """Adds one attribute."""
        ...

    def fail(self, reason: str, message: str) -> None:
        """Marks the span as failed."""
        ...


@dataclass(frozen=True, slots=True)
class _NoSpan:
    """Passes the parent on."""

    context: TraceContext | None

    def set(self, key: str, value: Value) -> None:
        """Does nothing."""

    def fail(self, reason: str, message: str) -> None:
        """Does nothing."""


@dataclass(slots=True)
class _LiveSpan:
    """Speaks to OpenTelemetry."""

    span: OtelSpan
    context: TraceContext
    failed: bool = False

    def set(self, key: str, value: Value) -> None:
        """Adds one attribute."""
        self.span.set_attribute(key, value)

    def fail(self, reason: str, message: str) -> None:
        """Marks the span as failed; what was said first stands, it was nearest to the cause."""
        if self.failed:
            return
        self.failed = True
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415  # not in the base

        self.span.set_attribute("error.type", reason)
        self.span.set_status(Status(StatusCode.ERROR, message))


class Telemetry:
    """The spans of one process."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        """Keeps where spans go; None for nowhere."""
        self._provider = provider
        self._tracer = provider.get_tracer("countermand") if provider else None

    @property
    def on(self) -> bool:
        """Returns whether spans go anywhere."""
        return self._tracer is not None

    @contextmanager
    def span(
        self,
        name: str,
        *,
        parent: TraceContext | None = None,
        kind: Kind = "internal",
        attributes: Mapping[str, Value] | None = None,
    ) -> Iterator[Span]:
        """Runs its body in a span below the parent, or else below the current one.

        Without either there is none: it is engines and workflows that begin traces, and decide
        whether they are sent. What is called from the body sees the span as current. An exception
        that passes through marks the span; one that is not ours by its type alone, since its text
        may hold anything.
        """
        parent = parent or CURRENT.get()
        if self._tracer is None or parent is None:
            yield _NoSpan(parent)
            return
        span = self._start(name, parent, kind, attributes or {})
        token = CURRENT.set(span.context)
        try:
            yield span
        except Exception as error:
            # Of ours the words are made to be shown.
            reason, plain = getattr(error, "reason", ""), type(error).__name__
            span.fail(reason or plain, str(error) if reason else plain)
            raise
        finally:
            span.span.end()
            CURRENT.reset(token)

    def _start(
        self, name: str, parent: TraceContext, kind: Kind, attributes: Mapping[str, Value]
    ) -> _LiveSpan:
        from opentelemetry import trace  # noqa: PLC0415  # not in the base install
        from opentelemetry.context import Context  # noqa: PLC0415

        assert self._tracer is not None, name
        remote = trace.SpanContext(
            trace_id=int(parent.trace_id, 16),
            span_id=int(parent.span_id, 16),
            is_remote=True,
            trace_flags=trace.TraceFlags(_SAMPLED if parent.sampled else 0),
            trace_state=trace.TraceState.from_header([parent.tracestate]),
        )
        context = trace.set_span_in_context(trace.NonRecordingSpan(remote), Context())
        span = self._tracer.start_span(
            name,
            context,
            kind=trace.SpanKind[kind.upper()],
            attributes=dict(attributes),
            record_exception=False,
            set_status_on_exception=False,
        )
        made = span.get_span_context()
        return _LiveSpan(
            span,
            TraceContext(
                trace_id=f"{made.trace_id:032x}",
                span_id=f"{made.span_id:016x}",
                sampled=bool(made.trace_flags & _SAMPLED),
                tracestate=made.trace_state.to_header(),
            ),
        )

    def stop(self) -> None:
        """Sends what is left, for half a second at most; blocks that long, so call it last."""
        if self._provider is None:
            return
        stopping = threading.Thread(target=self._provider.shutdown, daemon=True)
        stopping.start()
        stopping.join(SHUTDOWN_S_MAX)
        if stopping.is_alive():
            log.warning("telemetry.abandoned", extra={"waited_s": SHUTDOWN_S_MAX})


OFF = Telemetry()


def start(service_name: str, collector: Collector | None) -> Telemetry:
    """Starts sending spans to a collector; without one, or without the extra, returns `OFF`."""
    if collector is None:
        return OFF
    try:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import DEFAULT_ON  # noqa: PLC0415

        exporter = _exporter(collector)
    except ImportError:
        # "countermand-agent" comes with the extra "agent": each service's extra has OpenTelemetry.
        extra = service_name.removeprefix("countermand-")
        log.warning(
            "telemetry.missing",
            extra={"endpoint": collector.endpoint, "advice": f"install countermand[{extra}]"},
        )
        return OFF
    # As the parent was decided: else OpenTelemetry would read OTEL_TRACES_SAMPLER, and draw again.
    provider = TracerProvider(
        sampler=DEFAULT_ON,
        resource=Resource.create({"service.name": service_name}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(BatchSpanProcessor(_telling(exporter)))
    return Telemetry(provider)


def _telling(exporter: SpanExporter) -> SpanExporter:
    """Returns what says once that spans get lost, and once that they do no longer.

    OpenTelemetry says it with every batch, as an error and in sentences.
    """
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult  # noqa: PLC0415

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    class Telling(SpanExporter):
        fails = False

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = exporter.export(spans)
            fails = result is not SpanExportResult.SUCCESS
            if fails and not self.fails:
                log.warning("telemetry.lost", extra={"spans": len(spans)})
            elif self.fails and not fails:
                log.info("telemetry.go_on")
            self.fails = fails
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return exporter.force_flush(timeout_millis)

    return Telling()


def _exporter(collector: Collector) -> SpanExporter:
    headers = dict(collector.headers)
    if collector.protocol == HTTP:
        from opentelemetry.exporter.otlp.proto.http import trace_exporter  # noqa: PLC0415

        signed_by = str(collector.certificate) if collector.certificate else None
        return trace_exporter.OTLPSpanExporter(
            collector.endpoint,
            certificate_file=signed_by,
            headers=headers,
            timeout=collector.timeout_s,
        )
    import grpc  # noqa: PLC0415  # the command line has no need of it yet
    from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as over_grpc  # noqa: PLC0415

    secure = grpc.ssl_channel_credentials(collector.signed_by()) if collector.secure else None
    return over_grpc.OTLPSpanExporter(
        collector.endpoint,
        insecure=not collector.secure,
        credentials=secure,
        headers=headers,
        timeout=collector.timeout_s,
    )
