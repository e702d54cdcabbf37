"""Sends spans to a collector over OTLP: gRPC, or protobuf over HTTP.

The exporters of OpenTelemetry's SDK take spans that a program has just made; ours are projected, so
they are sent as they are.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
from typing import TYPE_CHECKING, Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from countermand.rpc.collector import HTTP, Collector

if TYPE_CHECKING:
    import aiohttp

USER_AGENT = "countermand-traces/1"

# Worth another try, says https://opentelemetry.io/docs/specs/otlp/#failures. So is a lack of room,
# if the collector says when; else it means that what was sent is too large.
_AGAIN = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
        # Not in that list, and not about what was sent: somebody has to set the collector right.
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
_AGAIN_HTTP = frozenset({401, 403, 404, 408, 429, 502, 503, 504})


class CollectorAway(Exception):
    """The collector did not take spans, and may do so later."""


class SpansRefused(Exception):
    """The collector will never take these spans, or some of them."""


class Send(Protocol):
    """Sends spans to one collector."""

    async def __call__(self, request: ExportTraceServiceRequest) -> None:
        """Returns once they are taken.

        Raises:
            CollectorAway: They are to be sent again.
            SpansRefused: They are not.
        """

    async def close(self) -> None:
        """Closes the connection."""


def sender(collector: Collector) -> Send:
    """Returns what sends to a collector; it connects with the first spans."""
    return (_OverHttp if collector.protocol == HTTP else _OverGrpc)(collector)


class _OverGrpc:
    """Sends over gRPC; the channel connects anew by itself."""

    def __init__(self, collector: Collector) -> None:
        options = (("grpc.primary_user_agent", USER_AGENT),)
        if collector.secure:
            credentials = grpc.ssl_channel_credentials(collector.signed_by())
            self._channel = grpc.aio.secure_channel(collector.target, credentials, options)
        else:
            self._channel = grpc.aio.insecure_channel(collector.target, options)
        self._stub = TraceServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._collector = collector

    async def __call__(self, request: ExportTraceServiceRequest) -> None:
        try:
            answer = await self._stub.Export(
                request, timeout=self._collector.timeout_s, metadata=self._collector.headers
            )
        except grpc.aio.AioRpcError as error:
            said = f"{error.code().name}: {error.details()}"
            again = error.code() in _AGAIN or _says_when(error)
            raise (CollectorAway if again else SpansRefused)(said) from None
        _check(answer)

    async def close(self) -> None:
        await self._channel.close()


class _OverHttp:
    """Sends protobuf over HTTP."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, request: ExportTraceServiceRequest) -> None:
        session = await self._opened()
        import aiohttp  # noqa: PLC0415 - it is there by now

        body = request.SerializeToString(deterministic=True)
        try:
            async with session.post(self._collector.endpoint, data=body) as response:
                if response.ok:
                    _check(ExportTraceServiceResponse.FromString(await response.read()))
                    return
                said = f"HTTP {response.status} from {self._collector.endpoint}"
                again = response.status in _AGAIN_HTTP
        except DecodeError:
            return  # it took them, and says so in words of its own
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise CollectorAway(str(error) or type(error).__name__) from None
        raise (CollectorAway if again else SpansRefused)(said)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # On a thread, so that nobody who commits waits for it.
            await asyncio.to_thread(importlib.import_module, "aiohttp")
            import aiohttp  # noqa: PLC0415 - it is there by now

            tls: ssl.SSLContext | bool = True
            if self._collector.certificate is not None:
                tls = ssl.create_default_context(cafile=self._collector.certificate)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=tls),
                timeout=aiohttp.ClientTimeout(total=self._collector.timeout_s),
                headers={
                    "User-Agent": USER_AGENT,
                    **dict(self._collector.headers),
                    "Content-Type": "application/x-protobuf",
                },
            )
        return self._session


def _check(answer: ExportTraceServiceResponse) -> None:
    """Raises if the collector has taken some spans only: the others it will never take."""
    refused = answer.partial_success
    if refused.rejected_spans:
        raise SpansRefused(f"{refused.rejected_spans} of them: {refused.error_message}")


def _says_when(error: grpc.aio.AioRpcError) -> bool:
    """Returns whether a collector has no room for now, and says so."""
    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        return False
    trailers = {str(key): value for key, value in error.trailing_metadata()}
    details = trailers.get("grpc-status-details-bin", b"")
    try:
        status = Status.FromString(details if isinstance(details, bytes) else b"")
    except DecodeError:
        return False
    return any(detail.Is(RetryInfo.DESCRIPTOR) for detail in status.details)
