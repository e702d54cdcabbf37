"""Where spans are sent, by the settings that OpenTelemetry has names for.

`OTEL_EXPORTER_OTLP_*`: https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

GRPC: Final = "grpc"
HTTP: Final = "http/protobuf"
GRPC_PORT = 4317
TIMEOUT_S = 10.0

_TRACES, _ALL = "OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"
_PATH = "/v1/traces"  # below an endpoint that is not for traces alone


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

    @property
    def secure(self) -> bool:
        """Returns whether it is called over TLS."""
        return urlsplit(self.endpoint).scheme == "https"

    @property
    def target(self) -> str:
        """Returns its host and port, as gRPC wants them."""
        where = urlsplit(self.endpoint)
        host = f"[{where.hostname}]" if ":" in (where.hostname or "") else where.hostname
        return f"{host}:{where.port or (443 if self.secure else GRPC_PORT)}"

    def signed_by(self) -> bytes | None:
        """Returns the certificate as PEM; None for those that this machine trusts."""
        return self.certificate.read_bytes() if self.certificate else None


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
