"""What every call passes: trace context in, errors out, one log line when it failed.

Ours rather than the contrib package's, whose aio interceptors break handlers that `await
context.write()` and report failed calls as fine. Handlers only raise. Spans are for unary calls: a
stream may stay open for days, and health checks would bury the rest.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio

from countermand.rpc import status
from countermand.rpc.errors import CallUnsupported, CountermandError
from countermand.rpc.telemetry import (
    CURRENT,
    OFF,
    Span,
    Telemetry,
    TraceContext,
    parse_traceparent,
)

log = logging.getLogger(__name__)

# grpc's own types differ between the packages that stub it; a handler is opaque to us anyway.
_Context: TypeAlias = Any
_Handler: TypeAlias = Any
_Details: TypeAlias = Any
_Call: TypeAlias = Any

# Asked every few seconds by probes, or by tools: not worth a span.
UNTRACED = ("/grpc.health.", "/grpc.reflection.")


# -- trace context ------------------------------------------------------------------------------


def trace_context(context: _Context) -> TraceContext | None:
    """Returns the caller's W3C trace context, from a call's metadata."""
    traceparent = tracestate = ""
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent":
            traceparent = str(value)
        elif key == "tracestate":
            tracestate = str(value)
    return parse_traceparent(traceparent, tracestate) if traceparent else None


def trace_metadata(trace: TraceContext | None = None) -> tuple[tuple[str, str], ...]:
    """Returns the metadata that carries a trace context, by default the current one.

    Cheaper than the interceptor below, which costs a task per call.
    """
    trace = trace or CURRENT.get()
    if trace is None:
        return ()
    state = (("tracestate", trace.tracestate),) if trace.tracestate else ()
    return (("traceparent", trace.traceparent), *state)


# -- server -------------------------------------------------------------------------------------


class ServerInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg, unused-ignore]  # generic in one package of stubs only
    """Gives every handler the caller's trace context, and every caller a status with a reason."""

    def __init__(self, telemetry: Telemetry = OFF) -> None:
        """Keeps where spans go."""
        self._telemetry = telemetry
        self._wrapped: dict[str, tuple[_Handler, _Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Returns the handler of a call, guarded; None where there is none."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        # Handlers live as long as the server, so each is wrapped once and not at every call.
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = (handler, self._wrap(method, handler))
        return known[1]

    def _wrap(self, method: str, handler: _Handler) -> _Handler:
        """Returns a handler of the same kind around another."""
        if handler.response_streaming:
            inner = handler.stream_stream if handler.request_streaming else handler.unary_stream
            generates = inspect.isasyncgenfunction(inner)
            behavior = (self._generator if generates else self._writer)(method, inner)
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
        else:
            inner = handler.stream_unary if handler.request_streaming else handler.unary_unary
            behavior = self._unary(method, inner)
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
        return make(
            behavior,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _unary(self, method: str, inner: Callable[..., Awaitable[object]]) -> _Handler:
        traced = self._telemetry.on and not method.startswith(UNTRACED)

        async def unary(request: object, context: _Context) -> object:
            # Each call has a task of its own, so the variable needs no reset.
            CURRENT.set(trace_context(context))
            if not traced:
                async with _guarded(method, context):
                    return await inner(request, context)
            name = method.removeprefix("/")
            attributes = {"rpc.system.name": "grpc", "rpc.method": name}
            with self._telemetry.span(name, kind="server", attributes=attributes) as span:
                async with _guarded(method, context, span):
                    return await inner(request, context)

        return unary

    def _writer(self, method: str, inner: Callable[..., Awaitable[None]]) -> _Handler:
        async def writer(request: object, context: _Context) -> None:
            CURRENT.set(trace_context(context))
            async with _guarded(method, context):
                await inner(request, context)

        return writer

    def _generator(self, method: str, inner: Callable[..., AsyncGenerator[object]]) -> _Handler:
        async def generator(request: object, context: _Context) -> AsyncIterator[object]:
            CURRENT.set(trace_context(context))
            # Closed here and now when the caller leaves: what the handler holds, such as a
            # subscription, must not wait for the garbage collector.
            async with (
                _guarded(method, context),
                aclosing(inner(request, context)) as responses,
            ):
                async for response in responses:
                    yield response

        return generator


@asynccontextmanager
async def _guarded(method: str, context: _Context, span: Span | None = None) -> AsyncIterator[None]:
    """Ends the call with a status when its body raises.

    A cancelled call passes: its caller has gone, or its deadline is over, and nobody listens.
    """
    try:
        yield
    except grpc.aio.AbortError:  # the handler spoke to gRPC itself, as health does
        raise
    except Exception as raised:  # noqa: BLE001  # the loop that must survive: logged, answered
        error = _error(method, raised)
        _log(method, context, error, raised)
        if span is not None:
            span.set("rpc.response.status_code", error.code.name)
            span.fail(error.reason, error.reason)
        await _abort(context, error)


def _error(method: str, raised: Exception) -> CountermandError:
    """Returns what the caller is told; a call that nobody wrote is none of ours yet, and no bug."""
    if isinstance(raised, NotImplementedError):  # by the generated base class
        return CallUnsupported(call=method.rpartition("/")[2])
    return status.known(raised)


async def _abort(context: _Context, error: CountermandError) -> NoReturn:
    answer = status.status_from_error(error)
    metadata = status.trailing_metadata(answer)
    await context.abort(error.code, answer.message, metadata)
    raise AssertionError(error)  # abort has raised


def _log(method: str, context: _Context, error: CountermandError, raised: Exception) -> None:
    """Logs one line: a bug with its traceback, what the caller did wrong without.

    That something is not there is an answer like others: whoever submits asks for that first.
    """
    bug = error.code is grpc.StatusCode.INTERNAL
    missing = error.code is grpc.StatusCode.NOT_FOUND
    log.log(
        logging.ERROR if bug else logging.DEBUG if missing else logging.INFO,
        "rpc.failed",
        extra={
            "method": method,
            "code": error.code.name,
            "reason": error.reason,
            "error": error.message,
            "peer": context.peer(),
        },
        exc_info=raised if bug else None,
    )


# -- client -------------------------------------------------------------------------------------


def _injected(details: _Details) -> _Details:
    """Returns call details with the current trace context, unless the caller gave one."""
    added = trace_metadata()
    given: Iterable[tuple[str, str | bytes]] = details.metadata or ()
    if not added or any(key == "traceparent" for key, _ in given):
        return details
    return details._replace(metadata=grpc.aio.Metadata(*given, *added))


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg, unused-ignore]
    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: _Details, request: object
    ) -> _Call:
        return await continuation(_injected(client_call_details), request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg, unused-ignore]
    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: _Details, request: object
    ) -> _Call:
        return await continuation(_injected(client_call_details), request)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):  # type: ignore[type-arg, unused-ignore]
    async def intercept_stream_stream(
        self,
        continuation: Callable[..., Any],
        client_call_details: _Details,
        request_iterator: _Call,
    ) -> _Call:
        return await continuation(_injected(client_call_details), request_iterator)


def client_interceptors() -> Sequence[Any]:
    """Returns interceptors that put the current trace context into every call of a channel."""
    return (_UnaryUnary(), _UnaryStream(), _StreamStream())
