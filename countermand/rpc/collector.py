"""Where spans are sent, by the settings that OpenTelemetry has names for.

`OTEL_EXPORTER_OTLP_*`: https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

GRPC: Final = "grpc"
HTTP: Final = "http/protobuf"
GRPC_PORT = 4317
TIMEOUT_S, TIMEOUT_S_MAX = 10.0, 60.0

_TRACES, _ALL = "OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"
_PATH = "/v1/traces"  # below an endpoint that is not for traces alone

_HEADER, _VALUE = re.compile(r"[0-9A-Za-z_.-]+"), re.compile(r"[\x20-\x7e]*")


class CollectorInvalid(ValueError):
    """The settings name no collector that spans could be sent to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """Where spans go, and how."""

    endpoint: str
    protocol: str = GRPC
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = TIMEOUT_S
    certificate: Path | None = None  # of who has to have signed the collector's; it can be read

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
    if not _is_address(endpoint):
        raise CollectorInvalid(f"{_ALL}ENDPOINT is {endpoint!r}: write http://HOST:PORT, or https")
    if protocol == HTTP and not environment.get(f"{_TRACES}ENDPOINT"):
        endpoint = endpoint.rstrip("/") + _PATH
    return Collector(
        endpoint=endpoint,
        protocol=protocol,
        headers=tuple(_headers(setting("HEADERS"))),
        timeout_s=_timeout_s(setting("TIMEOUT")),
        certificate=_certificate(setting("CERTIFICATE")),
    )


def _is_address(endpoint: str) -> bool:
    try:
        where = urlsplit(endpoint)
        return where.scheme in ("http", "https") and bool(where.hostname) and where.port != 0
    except ValueError:  # a port that is none, a bracket that is not closed
        return False


def _timeout_s(text: str) -> float:
    try:
        timeout_s = float(text or TIMEOUT_S)
    except ValueError:
        timeout_s = math.nan
    # Some take it for milliseconds: 10000 of these would be hours of ours.
    if not 0.0 < timeout_s <= TIMEOUT_S_MAX:
        raise CollectorInvalid(
            f"{_ALL}TIMEOUT is {text!r}: write seconds up to {TIMEOUT_S_MAX:.0f}, as 10"
        )
    return timeout_s


def _certificate(path: str) -> Path | None:
    """Returns where certificates are, once they could be read."""
    if not path:
        return None
    import ssl  # noqa: PLC0415  # the command line has no need of it

    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = f"{_ALL}CERTIFICATE is {path!r}, which cannot be used: {error}"
        raise CollectorInvalid(f"{why}. Name a file of certificates in PEM") from error
    return Path(path)


def _headers(text: str) -> list[tuple[str, str]]:
    """Returns the headers of "key=value,key=value", percent-encoded as in W3C Baggage."""
    found: list[tuple[str, str]] = []
    for pair in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (unquote(part.strip()) for part in pair.partition("="))
        if not equals or not _HEADER.fullmatch(key) or not _VALUE.fullmatch(value):
            # Not what was written: it may be a secret.
            why = f"{_ALL}HEADERS has one that cannot be sent, number {len(found) + 1}"
            raise CollectorInvalid(f"{why}: write key=value,key=value, in ASCII")
        found.append((key.lower(), value))
    return found
