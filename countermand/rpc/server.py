"""Starts a gRPC server the way both services want it: guarded, bounded, checkable.

Without credentials it listens on this machine's own addresses only.

Needs an extra of a service ([coordinator] or [agent]) for health and reflection; clients never
import it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from countermand.rpc.channel import ANSWER_BYTES_MAX, REQUEST_BYTES_MAX
from countermand.rpc.credentials import Credentials
from countermand.rpc.interceptors import ServerInterceptor
from countermand.rpc.telemetry import OFF, Telemetry

# Watches never end by themselves; everything else answers well within this.
STOP_GRACE_S = 2.0

# Our channels ping every 10 s; a client that pings more often than this is sent away.
PING_INTERVAL_S_MIN = 5
KEEPALIVE_TIME_S = 30
KEEPALIVE_TIMEOUT_S = 10
# Of whoever sends images: the answer to a ping stands in line behind all that is on its way. It is
# what gRPC has unless told.
DATA_PING_TIMEOUT_S = 60

# One connection carries an agent's or an engine's whole traffic; beyond this, calls wait.
STREAMS_PER_CONNECTION_MAX = 1000


class ListenRefused(Exception):
    """The address to listen on is not allowed, not an address, or taken."""


@dataclass(frozen=True, slots=True)
class Service:
    """One servicer, and how gRPC is told about it."""

    name: str  # full: "countermand.v1.WorkflowService"
    add: Callable[[Any, grpc.aio.Server], None]  # the generated add_…Servicer_to_server
    servicer: object


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers."""

    address: str  # "127.0.0.1:7700": where it really listens
    server: grpc.aio.Server
    _health: HealthServicer
    _names: tuple[str, ...]

    async def set_serving(self, *, serving: bool) -> None:
        """Tells health checks whether the services can do their work."""
        statuses = health_pb2.HealthCheckResponse
        answer = statuses.SERVING if serving else statuses.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, answer)

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Takes no new calls, lets those in flight end for a while, then cancels them."""
        await self._health.enter_graceful_shutdown()
        await self.server.stop(grace_s)

    async def wait(self) -> None:
        """Returns once the server has stopped."""
        await self.server.wait_for_termination()


class BoundServer:
    """A server whose address is taken, and which answers nobody yet."""

    def __init__(
        self,
        *,
        listen: str,
        telemetry: Telemetry = OFF,
        interceptors: Sequence[Any] = (),
        request_bytes_max: int = REQUEST_BYTES_MAX,
        answer_bytes_max: int = ANSWER_BYTES_MAX,
        credentials: Credentials | None = None,
        ping_timeout_s: int | None = None,
    ) -> None:
        """Takes the address; port 0 takes a free one.

        A client that does not answer a ping in time has vanished; None: as for keepalive.

        Raises:
            ListenRefused: The address is not an address, in use, or not loopback and there are no
                credentials.
        """
        host = loopback_host(listen) if credentials is None else _split(listen)[0]
        self._server = grpc.aio.server(
            interceptors=[ServerInterceptor(telemetry), *interceptors],
            options=[
                *_options(request_bytes_max, answer_bytes_max),
                # Without it gRPC waits a minute, keepalive or not, while another ping is out.
                ("grpc.http2.ping_timeout_ms", (ping_timeout_s or KEEPALIVE_TIMEOUT_S) * 1000),
            ],
        )
        try:
            port = (
                self._server.add_insecure_port(listen)
                if credentials is None
                else self._server.add_secure_port(listen, credentials.for_server())
            )
        except RuntimeError as error:
            raise ListenRefused(
                f"cannot listen on {listen}: is another process using the port? Choose another."
            ) from error
        self.address = f"{host}:{port}"

    async def start(self, services: Sequence[Service]) -> RunningServer:
        """Answers from now on."""
        checks = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checks, self._server)
        for service in services:
            service.add(service.servicer, self._server)
        names = tuple(service.name for service in services)
        reflection.enable_server_reflection(
            (*names, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        await self._server.start()
        running = RunningServer(self.address, self._server, checks, names)
        await running.set_serving(serving=True)
        return running


async def serve(
    *,
    listen: str,
    services: Sequence[Service],
    telemetry: Telemetry = OFF,
    interceptors: Sequence[Any] = (),
    request_bytes_max: int = REQUEST_BYTES_MAX,
    answer_bytes_max: int = ANSWER_BYTES_MAX,
    credentials: Credentials | None = None,
    ping_timeout_s: int | None = None,
) -> RunningServer:
    """Takes an address and answers at once, where nothing has to be done in between.

    Raises:
        ListenRefused: As `BoundServer`.
    """
    bound = BoundServer(
        listen=listen,
        telemetry=telemetry,
        interceptors=interceptors,
        request_bytes_max=request_bytes_max,
        answer_bytes_max=answer_bytes_max,
        credentials=credentials,
        ping_timeout_s=ping_timeout_s,
    )
    return await bound.start(services)


def loopback_host(listen: str) -> str:
    """Returns the host part of an address, if it is this machine's own.

    Raises:
        ListenRefused: It is not: without TLS anybody on the network could delete images.
    """
    host, _ = _split(listen)
    bare = host.removeprefix("[").removesuffix("]")
    try:
        loopback = bare == "localhost" or ipaddress.ip_address(bare).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ListenRefused(
            f"{listen} is not loopback: without TLS it listens only on 127.0.0.1, "
            "[::1] or localhost"
        )
    return host


def _split(listen: str) -> tuple[str, str]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal():
        raise ListenRefused(f"{listen!r} is not an address: write host:port, as in 127.0.0.1:7700")
    return host, port


def _options(request_bytes_max: int, answer_bytes_max: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", request_bytes_max),
        ("grpc.max_send_message_length", answer_bytes_max),
        ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_S * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_S_MIN * 1000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_INTERVAL_S_MIN * 1000),
        # By default two servers may share a port, and calls go to either: never what is meant.
        ("grpc.so_reuseport", 0),
    ]
