"""What stands between a coordinator and an agent: one that writes down the calls, one that cuts.

`Recorder` speaks gRPC and forwards bytes; of them it reads only the attempt's name. `Wire` is below
it, at TCP: it can swallow what an agent answers, and stay cut for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Self

import grpc
import grpc.aio

from countermand.rpc.names import ID_PATTERN
from tests.endtoend.cluster import free_address

STREAMS = {"WatchAttempts"}
ATTEMPT = re.compile(rf"workflows/{ID_PATTERN}/tasks/{ID_PATTERN}/attempts/[0-9]+".encode())


@dataclass(frozen=True, slots=True)
class Said:
    """One call that went to an agent."""

    rpc: str
    attempt: str  # the first attempt that the request names: the one that it is about


class Recorder(grpc.GenericRpcHandler):
    """Forwards every call to an agent, and remembers it."""

    def __init__(self, agent: str) -> None:
        self.address = free_address()
        self.calls: list[Said] = []
        self._agent = agent

    async def __aenter__(self) -> Self:
        self._channel: Any = grpc.aio.insecure_channel(  # untyped: bytes have no serializer
            self._agent, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((self,))
        self._server.add_insecure_port(self.address)
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)
        await self._channel.close()

    def about(self, attempt: str) -> list[str]:
        """Returns the calls about one attempt, in order."""
        return [said.rpc for said in self.calls if said.attempt == attempt]

    def service(self, details: Any) -> Any:
        """Returns the handler of any method: bytes in, bytes out."""
        method = details.method
        rpc = method.rpartition("/")[2]

        async def unary(request: bytes, context: Any) -> bytes:
            found = ATTEMPT.search(request)
            self.calls.append(Said(rpc, found.group().decode() if found else ""))
            answer = b""
            try:
                answer = await self._channel.unary_unary(method)(request)
            except grpc.aio.AioRpcError as error:
                details = tuple(error.trailing_metadata() or ())
                await context.abort(error.code(), error.details() or "", details)
            return answer

        async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for message in self._channel.unary_stream(method)(request):
                    yield message

        if rpc in STREAMS:
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)


class Wire:
    """Passes bytes on to an agent, until it is told not to."""

    def __init__(self, agent: str) -> None:
        self.address = free_address()
        self.swallowed = asyncio.Event()  # something was, and the other side waits for it
        self._agent = agent
        self._from: bytes | None = None
        self._is_cut = False
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        host, _, port = self.address.rpartition(":")
        self._server = await asyncio.start_server(self._serve, host, int(port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def swallow_from(self, request: bytes) -> None:
        """Passes a request on, and from then on nothing of what is answered."""
        self._from = request

    def cut(self) -> None:
        """Ends every connection, and every new one at once."""
        self._is_cut = True
        for writer in self._open:
            writer.close()

    def heal(self) -> None:
        """Passes everything on again."""
        self._is_cut, self._from = False, None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._is_cut:
            writer.close()
            return
        host, _, port = self._agent.rpartition(":")
        there, here = await asyncio.open_connection(host, int(port))
        mute = asyncio.Event()
        self._open |= {writer, here}
        with contextlib.suppress(ConnectionError):
            await asyncio.wait(
                {
                    asyncio.ensure_future(self._pump(reader, here, mute, asks=True)),
                    asyncio.ensure_future(self._pump(there, writer, mute, asks=False)),
                },
                return_when=asyncio.FIRST_COMPLETED,
            )
        self._open -= {writer, here}
        writer.close()
        here.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        mute: asyncio.Event,
        *,
        asks: bool,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if asks and self._from is not None and self._from in data:
                    mute.set()
                    self.swallowed.set()
                if not asks and mute.is_set():
                    continue
                writer.write(data)
                await writer.drain()
