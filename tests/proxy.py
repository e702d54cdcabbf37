"""Stands between a client and a server, at TCP: passes bytes on until it is told not to.

It knows nothing of what it passes, so it serves for gRPC as for PostgreSQL. What it can do to those
who speak through it, at once or when certain bytes come by: cut them off, hold what they say, and
refuse whoever comes.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from enum import Enum
from typing import Final, Self

CHUNK_BYTES: Final = 65536


class Moment(Enum):
    """When something is done about bytes that come by."""

    BEFORE = "they are not passed on"
    AFTER = "they are passed on, and nothing of what is answered"


@dataclass(frozen=True, slots=True)
class _Trap:
    said: bytes
    moment: Moment


class Proxy:
    """Listens on loopback, and passes on to one address: "host:port", or the path of a socket."""

    def __init__(self, target: str) -> None:
        """Listens once it is entered; keeps its port from then on."""
        self.target = target
        self.address = ""
        self.accepted = 0  # connections, ever
        self.sprung = asyncio.Event()  # the bytes that were waited for have come by
        self._port = 0
        self._trap: _Trap | None = None
        self._flows = asyncio.Event()  # not while it holds
        self._flows.set()
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        self._flows.set()
        await asyncio.gather(*self._tasks)

    # -- what a test does with it ------------------------------------------------------------------

    @property
    def open(self) -> int:
        """Returns how many connections there are."""
        return len(self._links)

    def cut(self) -> None:
        """Ends every connection; new ones are passed on."""
        for link in [*self._links]:
            link.end()

    def hold(self) -> None:
        """Passes nothing on, in either direction; accepts connections, and holds them as well."""
        self._flows.clear()

    async def refuse(self) -> None:
        """Ends every connection, and has nobody listen any more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    async def pass_on(self) -> None:
        """Passes everything on again: what was held, and whoever comes."""
        self._trap = None
        self._flows.set()
        await self._listen()

    def cut_at(self, said: bytes, moment: Moment) -> None:
        """Ends the next connection on which a client says certain bytes, and only that, once."""
        self.sprung.clear()
        self._trap = _Trap(said, moment)

    # -- what it does ------------------------------------------------------------------------------

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]
            self.address = f"127.0.0.1:{self._port}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        link = _Link(writer)
        self._links.add(link)
        try:
            await self._flows.wait()
            if link.ended:
                return
            there, here = await self._connect()
            link.writers.append(here)
            asks = self._pump(reader, here, link, asks=True)
            await asyncio.gather(asks, self._pump(there, writer, link, asks=False))
        except OSError:
            pass  # nobody is there: whoever asks is told so by the end of its connection
        finally:
            link.end()
            self._links.discard(link)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.target.startswith("/"):
            return await asyncio.open_unix_connection(self.target)
        host, _, port = self.target.rpartition(":")
        return await asyncio.open_connection(host.strip("[]"), int(port))

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link, *, asks: bool
    ) -> None:
        tail = b""  # what is waited for may come in two pieces
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                await self._flows.wait()
                trap = self._trap
                if asks and trap is not None and trap.said in tail + data:
                    self._trap = None
                    if trap.moment is Moment.AFTER:
                        link.mute = True
                        writer.write(data)
                        await writer.drain()
                    self.sprung.set()
                    if trap.moment is Moment.BEFORE:
                        break
                    continue
                tail = (tail + data)[-len(trap.said) :] if trap else b""
                if link.ended or (link.mute and not asks):
                    break  # if it was answered, nobody hears of it
                writer.write(data)
                await writer.drain()
        link.end()


class _Link:
    """One connection, with its two ends."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writers = [writer]
        self.mute = False
        self.ended = False

    def end(self) -> None:
        self.ended = True
        for writer in self.writers:
            writer.transport.abort()
