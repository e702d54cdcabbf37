"""Sends spans to a collector over OTLP: gRPC, or protobuf over HTTP.

Settings have the names that OpenTelemetry gives them (`OTEL_EXPORTER_OTLP_*`,
https://opentelemetry.io/docs/specs/otel/protocol/exporter/). The exporters of its SDK take spans
that a program has just made; ours are projected, so they are sent as they are.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

import grpc
import grpc.aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

if TYPE_CHECKING:
    import aiohttp

TIMEOUT_S = 10.0  # as OpenTelemetry says
USER_AGENT = "countermand-traces/1"
GRPC, HTTP = "grpc", "http/protobuf"
_TRACES, _ALL = "OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"
_PATH = "/v1/traces"  # below an endpoint that is not for traces alone

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


class CollectorInvalid(ValueError):
    """The settings name no collector that spans could be sent to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """Where spans go, and how."""

    endpoint: str
    protocol: str = GRPC
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = TIMEOUT_S
    certificate: Path | None = None  # of who has to have signed the collector's


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


def collector_of(environment: Mapping[str, str]) -> Collector | None:
    """Returns where the environment wants spans sent, if anywhere.

    Raises:
        CollectorInvalid: A setting cannot be used; it says which, and what it may be.
    """

    def setting(name: str) -> str:
        return environment.get(_TRACES + name, "") or environment.get(_ALL + name, "")

    endpoint = setting("ENDPOINT")
    if not endpoint:
        return None
    protocol = setting("PROTOCOL") or GRPC
    if protocol not in (GRPC, HTTP):
        raise CollectorInvalid(f"{_ALL}PROTOCOL is {protocol!r}: write {GRPC} or {HTTP}")
    if urlsplit(endpoint).scheme not in ("http", "https"):
        raise CollectorInvalid(f"{_ALL}ENDPOINT is {endpoint!r}: write http://HOST:PORT, or https")
    if protocol == HTTP and not environment.get(f"{_TRACES}ENDPOINT"):
        endpoint = endpoint.rstrip("/") + _PATH
    timeout = setting("TIMEOUT") or str(TIMEOUT_S)
    try:
        timeout_s = float(timeout)
    except ValueError:
        raise CollectorInvalid(f"{_ALL}TIMEOUT is {timeout!r}: write seconds, as 10") from None
    certificate = setting("CERTIFICATE")
    return Collector(
        endpoint=endpoint,
        protocol=protocol,
        headers=tuple(_headers(setting("HEADERS"))),
        timeout_s=timeout_s,
        certificate=Path(certificate) if certificate else None,
    )


def _headers(text: str) -> list[tuple[str, str]]:
    """Returns the headers of "key=value,key=value", percent-encoded as in W3C Baggage."""
    found = []
    for pair in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise CollectorInvalid(f"{_ALL}HEADERS has {key!r}: write key=value,key=value")
        found.append((unquote(key.strip()).lower(), unquote(value.strip())))
    return found


def sender(collector: Collector) -> Send:
    """Returns what sends to a collector; it connects with the first spans."""
    return (_OverHttp if collector.protocol == HTTP else _OverGrpc)(collector)


class _OverGrpc:
    """Sends over gRPC; the channel connects anew by itself."""

    def __init__(self, collector: Collector) -> None:
        where = urlsplit(collector.endpoint)
        port = where.port or (443 if where.scheme == "https" else 4317)
        target = f"{where.hostname}:{port}"
        options = (("grpc.primary_user_agent", USER_AGENT),)
        if where.scheme == "https":
            signed_by = collector.certificate.read_bytes() if collector.certificate else None
            credentials = grpc.ssl_channel_credentials(signed_by)
            self._channel = grpc.aio.secure_channel(target, credentials, options)
        else:
            self._channel = grpc.aio.insecure_channel(target, options)
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
