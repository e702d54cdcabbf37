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
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from countermand.rpc.collector import HTTP, Collector

if TYPE_CHECKING:
    import aiohttp

USER_AGENT = "countermand-traces/1"

# Worth another try, says https://opentelemetry.io/docs/specs/otlp/#failures.
_AGAIN = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
        # Not in that list. A collector that does not know us yet may come to, and spans wait.
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    }
)
_AGAIN_HTTP = frozenset({401, 403, 404, 408, 429, 500, 502, 503, 504})


class CollectorAway(Exception):
    """The collector did not take spans, and may do so later."""


class SpansRefused(Exception):
    """The collector will never take these spans."""


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
            await self._stub.Export(
                request, timeout=self._collector.timeout_s, metadata=self._collector.headers
            )
        except grpc.aio.AioRpcError as error:
            said = f"{error.code().name}: {error.details()}"
            raise (CollectorAway if error.code() in _AGAIN else SpansRefused)(said) from None

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
                    return
                said = f"HTTP {response.status} from {self._collector.endpoint}"
                again = response.status in _AGAIN_HTTP
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
