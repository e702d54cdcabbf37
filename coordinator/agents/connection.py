"""A connection to one agent: typed calls, and errors from our own table.

`GrpcConnection` is the real one; the simulator has its own, over a network that loses and repeats.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import Message

from countermand.rpc.channel import open_channel
from countermand.rpc.credentials import Credentials, not_connected
from countermand.rpc.errors import CountermandError
from countermand.rpc.status import RemoteError, error_from_rpc
from countermand.v1.agent_pb2 import WatchAttemptsRequest, WatchAttemptsResponse
from countermand.v1.agent_pb2_grpc import AgentServiceStub

CALL_TIMEOUT_S = 10.0  # a verb answers when it is journalled: beyond this the disk is in trouble


# What gRPC says by itself when no answer came.
_NO_ANSWER = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    },
)


class Connection(Protocol):
    """Calls one agent. Every method raises CountermandError."""

    async def call(
        self, rpc: str, request: Message, *, timeout_s: float, traceparent: str = ""
    ) -> Any:  # noqa: ANN401  # the response type follows from the RPC's name
        """Returns the response of one unary call."""

    def watch(self, request: WatchAttemptsRequest) -> AsyncIterator[WatchAttemptsResponse]:
        """Yields what WatchAttempts streams, until it breaks."""

    async def close(self) -> None:
        """Ends the connection."""


Connect = Callable[[str], Connection]


class GrpcConnection:
    """Calls an agent over gRPC."""

    def __init__(self, address: str, *, credentials: Credentials | None = None) -> None:
        """Opens a channel; it connects at the first call."""
        self._address = address
        self._credentials = credentials
        self._channel = open_channel(address, credentials=credentials)
        self._stub = AgentServiceStub(self._channel)

    async def call(
        self, rpc: str, request: Message, *, timeout_s: float, traceparent: str = ""
    ) -> Any:  # noqa: ANN401
        """Returns the response of one unary call."""
        metadata = (("traceparent", traceparent),) if traceparent else None
        try:
            return await getattr(self._stub, rpc)(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise self._said(error) from error

    async def watch(self, request: WatchAttemptsRequest) -> AsyncIterator[WatchAttemptsResponse]:
        """Yields what WatchAttempts streams, until it breaks."""
        try:
            async for message in self._stub.WatchAttempts(request):
                yield message
        except grpc.aio.AioRpcError as error:
            raise self._said(error) from error

    def _said(self, error: grpc.aio.AioRpcError) -> CountermandError:
        """Returns what the agent said; where only gRPC speaks, that nobody answered."""
        if error.code() in _NO_ANSWER and isinstance(said := error_from_rpc(error), RemoteError):
            return not_connected(self._address, said.message, self._credentials)
        return error_from_rpc(error)

    async def close(self) -> None:
        """Closes the channel; calls in flight are cancelled."""
        await self._channel.close(None)
