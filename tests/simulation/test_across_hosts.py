"""Copies across hosts under seeds: the line breaks anywhere, and both hosts die in the middle.

The hosts of the simulated clusters copy only what they have themselves: whoever pulls waits on
threads, which know no virtual time. So this is the real thing, agents with files, journals, tickets
and gRPC, of which only the faults are drawn: after how many bytes the line breaks, whether the one
that serves starts again then, and where the one that pulls loses power (S-V6, S-Z5).

COUNTERMAND_STORMS=200 plays so many seeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sqlite3
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent import crash_points, frames
from agent.drivers.copying import CHUNK_BYTES
from agent.drivers.files import RealFiles
from agent.service import AgentService
from countermand.rpc import crash
from countermand.rpc.server import RunningServer, Service, serve
from countermand.v1.agent_pb2 import SourceAccess
from countermand.v1.attempt_pb2 import Attempt
from tests.agent.digests import digest
from tests.agent.requests import attempt_name, copy_action
from tests.agent.rig import Rig
from tests.agent.test_conformance import Power, PowerCutError, lose

SEEDS = int(os.environ.get("COUNTERMAND_STORMS", "5"))
COPY = attempt_name("copy")
ACTION = copy_action("fast/base", "near/made", take_digest=True, source_host_id="elsewhere")

CHUNKS = 5
PIECE_BYTES = 64 * 1024
# The digest's leaves are written as well, and are much smaller.
DATA_BYTES_MIN = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """The line breaks."""

    after_bytes: int  # that came since it was made or broke last
    starts_again: bool  # the host that serves, before the line can be made again


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """All that happens to one copy."""

    content: bytes
    breaks: tuple[Break, ...]
    deaths: tuple[int, ...]  # of the host that pulls: after so many chunks of each life

    @property
    def data_bytes(self) -> int:
        """Returns how much of the content is no hole."""
        chunks = range(0, len(self.content), CHUNK_BYTES)
        data = (self.content[begin : begin + CHUNK_BYTES] for begin in chunks)
        return sum(len(chunk) for chunk in data if any(chunk))


def drawn(seed: int) -> Storm:
    """Draws a storm from its seed."""
    chance = random.Random(seed)
    chunks = [
        chance.randbytes(CHUNK_BYTES) if chance.random() < 0.8 else bytes(CHUNK_BYTES)
        for _ in range(CHUNKS)
    ]
    breaks = (
        Break(after_bytes=chance.randint(1, 2 * CHUNK_BYTES), starts_again=chance.random() < 0.4)
        for _ in range(chance.randint(0, 3))
    )
    return Storm(
        content=b"".join(chunks) + chance.randbytes(chance.choice((0, 512, DATA_BYTES_MIN))),
        breaks=tuple(breaks),
        deaths=tuple(chance.randint(1, 3) for _ in range(chance.randint(0, 3))),
    )


# -- the host that serves -------------------------------------------------------------------------


class Elsewhere:
    """A host that serves one image, in a thread of its own, behind a line that breaks."""

    def __init__(self, folder: Path, storm: Storm) -> None:
        """Begins with no thread."""
        self._folder = folder
        self._content = storm.content
        self._breaks = list(storm.breaks)
        self._came_bytes = 0  # since the line broke last
        self._carrying: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._rig: Rig
        self._service: AgentService
        self._server: RunningServer
        self._line: asyncio.Server

    @contextlib.contextmanager
    def running(self) -> Iterator[Elsewhere]:
        """Runs it meanwhile."""
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        try:
            self._await(self._open())
            yield self
        finally:
            self._await(self._close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    def access(self) -> SourceAccess:
        """Returns the way to its image: by the line that breaks."""
        request = self._rig.requests.serve(COPY, "fast/base")
        ticket = self._await(self._service.ServeImage(request, None)).ticket
        host, port = self._line.sockets[0].getsockname()
        return SourceAccess(address=f"{host}:{port}", ticket=ticket)

    def _await(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _open(self) -> None:
        self._line = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        await self._start()
        self._rig.put("base", self._content)

    async def _close(self) -> None:
        self._line.close()
        if self._carrying:  # whoever pulled has hung up; perhaps a break has come just before
            await asyncio.wait(self._carrying)
        await self._stop()

    async def _start(self) -> None:
        self._rig = Rig(self._folder)
        await self._rig.start()
        rig = self._rig
        self._service = AgentService(rig.runner, now=lambda: rig.now, version="0")
        add = Service("countermand.v1.AgentService", frames.add_to_server, self._service)
        self._server = await serve(listen="127.0.0.1:0", services=[add])

    async def _stop(self) -> None:
        await self._server.stop(0)
        await self._rig.runner.stop()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries what one connection says to the server, and what that answers."""
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        host, _, port = self._server.address.rpartition(":")
        broken: Break | None = None
        try:
            answers, asks = await asyncio.open_connection(host, int(port))
            asking = asyncio.ensure_future(_pass_on(reader, asks))
            try:
                broken = await self._answer(answers, writer)
            finally:
                asking.cancel()
                asks.transport.abort()
            if broken is not None and broken.starts_again:
                await self._stop()
                await self._start()
        except OSError:
            pass  # it starts again just now
        finally:
            writer.transport.abort()
            self._carrying.discard(task)

    async def _answer(
        self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Break | None:
        """Passes on what is answered, until the line breaks by chance or somebody hangs up."""
        with contextlib.suppress(ConnectionError):
            while data := await answers.read(PIECE_BYTES):
                self._came_bytes += len(data)
                if self._breaks and self._came_bytes >= self._breaks[0].after_bytes:
                    self._came_bytes = 0
                    return self._breaks.pop(0)
                writer.write(data)
                await writer.drain()
        return None


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Passes on what is asked until whoever asks hangs up, and hangs up as well."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(PIECE_BYTES):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


# -- the host that pulls --------------------------------------------------------------------------


class Written(RealFiles):
    """Files that remember where data was written."""

    def __init__(self) -> None:
        """Begins with none."""
        super().__init__()
        self.offsets: list[int] = []

    def pwrite(self, handle: int, buffer: memoryview, offset: int) -> None:
        """Writes the whole buffer at an offset."""
        if len(buffer) >= DATA_BYTES_MIN:
            self.offsets.append(offset)
        super().pwrite(handle, buffer, offset)


def durable_offset(folder: Path) -> int:
    """Returns how far the copy is durable, as the journal of a dead agent says."""
    with contextlib.closing(sqlite3.connect(folder / "journal.sqlite")) as journal:
        [row] = journal.execute("SELECT note FROM attempts WHERE name = ?", (COPY,)).fetchall()
    note = json.loads(row[0]) if row[0] else {}
    return int(note.get("offset", 0))


async def live(folder: Path, power: crash.Crash, elsewhere: Elsewhere, *, first: bool) -> Rig:
    """Lives until the copy has ended or the power is cut; what goes on begins where it was."""
    begin = 0 if first else durable_offset(folder)
    files = Written()
    rig = Rig(folder, options={"near": {"flush_bytes": CHUNK_BYTES}}, crash_at=power)
    rig.files = files
    await rig.start()
    with contextlib.suppress(PowerCutError):
        if first:
            header = rig.requests.for_action(COPY, ACTION)
            await rig.runner.accept(header, ACTION, access=elsewhere.access())
        await rig.settled(COPY)
    assert min(files.offsets, default=begin) >= begin, "what was durable was written again"
    return rig


async def to_the_end(folder: Path, storm: Storm, elsewhere: Elsewhere) -> Rig:
    """Lives through the deaths that are drawn; returns the agent in whose life the copy ended."""
    for life, chunks in enumerate(storm.deaths):
        power = Power((crash_points.IN_COPY, chunks))
        rig = await live(folder, power, elsewhere, first=life == 0)
        if not power.cut.is_set():
            return rig
        await lose(rig)
    return await live(folder, crash.never, elsewhere, first=not storm.deaths)


@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
async def test_a_copy_is_whole_whatever_breaks_on_its_way(seed, tmp_path):
    """Everything once, the right digest, and nothing half-made."""
    storm = drawn(seed)
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
    with Elsewhere(tmp_path / "elsewhere", storm).running() as elsewhere:
        rig = await to_the_end(tmp_path / "here", storm, elsewhere)
        copied = await rig.get(COPY)
    assert copied.state == Attempt.STATE_SUCCEEDED, copied
    assert rig.data("made", "near").read_bytes() == storm.content
    output = copied.output.copy_image
    assert output.digest == digest(storm.content)
    assert output.written_bytes == storm.data_bytes
    assert (rig.images("near"), rig.staged("near")) == (["made"], [])
    await rig.runner.stop()
