"""Serves images of this host to attempts of other hosts: who has a ticket reads that one image.

A content is read in threads of its own, a few megabytes ahead of what the stream has taken: the
stream's flow control holds it back. Each pool serves so many streams at a time, and no more.
"""

from __future__ import annotations

import asyncio
import logging
from array import array
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from blake3 import blake3

from agent import wire
from agent.closed import driver_of
from agent.drivers.digest import BLOCK_BYTES
from agent.drivers.driver import Content, Driver, Format
from agent.drivers.files import aligned_buffer
from agent.executors import Executor
from agent.frames import Frame, frame_of
from agent.lookers import Lookers
from agent.runner import Runner
from agent.tickets import TICKET_VALID, Ticket, Tickets, key_of
from countermand.rpc import names
from countermand.rpc.errors import (
    Busy,
    Conflict,
    FieldInvalid,
    ImageNotFound,
    StorageFailed,
    Violation,
)
from countermand.v1.agent_pb2 import (
    ContentExtents,
    ContentHead,
    ContentLeaf,
    ReadImageRequest,
    ReadImageResponse,
    ServeImageRequest,
    ServeImageResponse,
)
from countermand.v1.image_pb2 import ImageFormat

log = logging.getLogger(__name__)

# Of each pool. Readers of one disk slow each other down, and the attempts of this host as well.
STREAMS_MAX = 4
RETRY_DELAY = timedelta(seconds=2)
# A pool in order reads what is asked of it at once within a second, and one that is very busy
# within a few. Whoever waited for the end of streams that wait that long would wait for ever.
HANGS_AFTER = timedelta(seconds=60)

# A piece of data in a message; below, the cost of a message shows.
DATA_BYTES = 1024 * 1024
# What one look at the storage reads.
READ_BYTES = 4 * 1024 * 1024
# In one message: 20 bytes each at most.
EXTENTS_MAX = 4096
# A hole that is shorter is sent as zeros: a message costs as much.
HOLE_BYTES_MIN = 64 * 1024

_ZEROS = memoryview(bytes(BLOCK_BYTES))

_LAYOUTS = {
    ImageFormat.IMAGE_FORMAT_UNSPECIFIED: Format.RAW,
    ImageFormat.IMAGE_FORMAT_RAW: Format.RAW,
    ImageFormat.IMAGE_FORMAT_QCOW2: Format.QCOW2,
}

_Batch: TypeAlias = list[Frame]
_Batches: TypeAlias = Generator[_Batch, None, None]


@dataclass(slots=True, eq=False)
class _Stream:
    """Who reads an image."""

    ticket: Ticket
    batches: _Batches
    asked: datetime | None = None  # since when the storage owes it something


class Serving:
    """The images that one agent serves to others."""

    def __init__(
        self,
        runner: Runner,
        lookers: Lookers,
        executor: Executor,
        *,
        now: Callable[[], datetime],
    ) -> None:
        """Needs STREAMS_MAX threads for each pool; takes none before it is needed."""
        self._runner = runner
        self._lookers = lookers
        self._executor = executor
        self._now = now
        self._made: Tickets | None = None
        self._streams: list[_Stream] = []
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def readers(self) -> list[Ticket]:
        """Returns who reads, and what."""
        return [stream.ticket for stream in self._streams]

    async def issue(self, request: ServeImageRequest) -> ServeImageResponse:
        """Returns a ticket for an image that is there.

        Raises:
            CountermandError: Any of ServeImage's table.
        """
        address = request.address
        for part in ("pool_id", "image_id"):
            if not names.is_id(getattr(address, part)):
                raise FieldInvalid(Violation(f"address.{part}", names.ID_RULE))
        header = await self._runner.challenge(request.header)
        driver = driver_of(self._runner.pools, address.pool_id)
        await self._lookers.find(driver, address.image_id)
        ticket = (await self._tickets()).issue(
            pool_id=address.pool_id, image_id=address.image_id, attempt=header.attempt
        )
        answer = ServeImageResponse(ticket=ticket)
        answer.valid_for.FromTimedelta(TICKET_VALID)
        return answer

    async def read(self, request: ReadImageRequest) -> AsyncGenerator[Frame, None]:
        """Streams what a ticket is for, as messages of ReadImage.

        Raises:
            CountermandError: Any of ReadImage's table.
        """
        tickets = await self._tickets()
        ticket = tickets.check(request.ticket)
        stream = self._begin(ticket, request)
        reading = self._next(stream)
        renewed = self._now()
        try:
            while batch := await asyncio.shield(reading):
                reading = self._next(stream)  # while gRPC takes what we have
                for frame in batch:
                    yield frame
                if self._now() - renewed > TICKET_VALID / 4:
                    renewed = self._now()
                    yield _frame(renewed_ticket=tickets.renew(ticket))
        finally:
            # The thread outlives a reader that goes away: it may hang in the storage.
            ending = asyncio.ensure_future(self._end(stream, reading))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def stop(self) -> None:
        """Returns once nothing is read for any stream."""
        while self._ending:
            await asyncio.wait(self._ending)

    def _begin(self, ticket: Ticket, request: ReadImageRequest) -> _Stream:
        driver = driver_of(self._runner.pools, ticket.pool_id)
        others = [each for each in self._streams if each.ticket.pool_id == ticket.pool_id]
        if len(others) >= STREAMS_MAX:
            if all(map(self._hangs, others)):
                error = f"nothing for {HANGS_AFTER.total_seconds():g} s"
                raise StorageFailed(pool=ticket.pool_id, error=error, image=ticket.image_id)
            raise Busy(retry_delay=RETRY_DELAY)
        stream = _Stream(ticket, _batches(driver, ticket.image_id, request))
        self._streams.append(stream)
        return stream

    def _hangs(self, stream: _Stream) -> bool:
        return stream.asked is not None and self._now() - stream.asked >= HANGS_AFTER

    def _next(self, stream: _Stream) -> asyncio.Future[_Batch]:
        stream.asked = self._now()
        return asyncio.ensure_future(self._read(stream))

    async def _read(self, stream: _Stream) -> _Batch:
        try:
            return await self._executor.call(lambda: next(stream.batches, []))
        finally:
            stream.asked = None

    async def _end(self, stream: _Stream, reading: asyncio.Future[_Batch]) -> None:
        await asyncio.wait([reading])
        if not reading.cancelled():
            reading.exception()
        try:
            await self._executor.call(stream.batches.close)
        except Exception:  # a driver of somebody else's may raise anything
            log.exception("stream.close_failed", extra={"pool": stream.ticket.pool_id})
        finally:
            self._streams.remove(stream)

    async def _tickets(self) -> Tickets:
        if self._made is None:
            key = await self._runner.transact(key_of)
            incarnation = self._runner.identity.incarnation
            self._made = Tickets(key, incarnation=incarnation, now=self._now)
        return self._made


def _batches(driver: Driver, image_id: str, request: ReadImageRequest) -> _Batches:
    """Yields what ReadImage sends, some messages at a time; runs in a thread."""
    found = driver.find(image_id)
    head = ContentHead(image=wire.image(found, driver.config.pool_id, ()))
    if request.head_only:
        yield [_frame(head=head)]
        return
    layout = _LAYOUTS.get(request.layout)
    if layout is None or (layout is not Format.RAW and (layout is not found.format or found.chain)):
        rule = "must be RAW, or QCOW2 of such an image that stands alone"
        raise FieldInvalid(Violation("layout", rule))
    with driver.reading(image_id, layout) as content:
        if request.identity not in {"", content.identity}:
            raise _changed(driver, image_id)
        head.size_bytes, head.identity = content.size_bytes, content.identity
        extents = array("q")  # begin and end in turns: there may be a million
        for begin, end in _extents(content, max(0, request.offset)):
            extents.extend((begin, end))
        head.leaves = request.take_digest
        head.data_bytes = sum(extents[1::2]) - sum(extents[::2])
        yield [_frame(head=head), *_told(extents, content.size_bytes)]
        leaves = _Leaves(request.offset, content.size_bytes) if head.leaves else None
        yield from _data(content, extents, leaves)
        identity = content.identity
    with _same(driver, image_id), driver.reading(image_id, layout) as content:
        if content.identity != identity:  # it was written to while it was read
            raise _changed(driver, image_id)


def _extents(content: Content, offset: int) -> Iterator[tuple[int, int]]:
    """Yields where data is from an offset on, holes too short to be told left out."""
    begin = end = offset
    while (found := content.next_data(end)) is not None and found[0] < content.size_bytes:
        if found[0] - end >= HOLE_BYTES_MIN and begin != end:
            yield begin, end
            begin = found[0]
        elif begin == end:
            begin = found[0]
        end = min(found[1], content.size_bytes)
    if begin != end:
        yield begin, end


def _told(extents: array[int], size_bytes: int) -> Iterator[Frame]:
    for first in range(0, max(1, len(extents)), 2 * EXTENTS_MAX):
        part = extents[first : first + 2 * EXTENTS_MAX]
        lengths = (part[i] - (part[i - 1] if i % 2 else 0) for i in range(len(part)))
        is_last = first + len(part) >= len(extents)
        yield _frame(
            extents=ContentExtents(
                offsets_and_lengths=lengths, end=size_bytes if is_last else part[-1]
            )
        )


def _data(content: Content, extents: array[int], leaves: _Leaves | None) -> _Batches:
    """Yields the data of extents, as much at a time as one look at the storage reads."""
    buffer = aligned_buffer(READ_BYTES)
    batch: _Batch = []
    size = 0
    for offset, stop, following in _pieces(extents):
        view = buffer[: stop - offset]
        if content.pread(view, offset) < len(view):
            raise OSError("the image became shorter")
        batch.append(frame_of(offset, view))
        if leaves is not None:
            leaves.add(offset, view)
            batch.extend(leaves.ended(before=following))
        size += len(view)
        if size >= READ_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _pieces(extents: array[int]) -> Iterator[tuple[int, int, int | None]]:
    """Yields where each piece of data begins and ends, and where the next one begins."""
    following_begins = (*extents[2::2], None)
    # Not strict: of what holds no data at all there is nothing that the None could follow.
    for begin, end, following in zip(extents[::2], extents[1::2], following_begins, strict=False):
        offset = begin
        while offset < end:
            # Cut at multiples of a piece, so that what is written is aligned.
            stop = min(end, offset - offset % DATA_BYTES + DATA_BYTES)
            yield offset, stop, stop if stop < end else following
            offset = stop


class _Leaves:
    """The leaves of what is sent, taken as it is read: of each block that holds data."""

    def __init__(self, begin: int, size_bytes: int) -> None:
        """Begins with the first block that begins at an offset or after it."""
        self._begin = begin
        self._size_bytes = size_bytes
        self._block = self._end = -1  # the one at hand, and how far of it is known

    def add(self, offset: int, view: memoryview) -> None:
        """Takes a piece, which lies in one block."""
        block = offset - offset % BLOCK_BYTES
        if block < self._begin:
            return
        if block != self._block:
            self._block = self._end = block
            self._hasher = blake3()
        self._pass_over(offset)
        self._hasher.update(view)
        self._end = offset + len(view)

    def ended(self, *, before: int | None) -> Iterator[Frame]:
        """Yields the leaf of the block at hand, if the next data lies beyond it."""
        end = min(self._block + BLOCK_BYTES, self._size_bytes)
        if self._block < 0 or (before is not None and before < end):
            return
        self._pass_over(end)
        yield _frame(leaf=ContentLeaf(offset=self._block, leaf=self._hasher.digest()))
        self._block = -1

    def _pass_over(self, offset: int) -> None:
        self._hasher.update(_ZEROS[: offset - self._end])
        self._end = offset


@contextmanager
def _same(driver: Driver, image_id: str) -> Iterator[None]:
    """Takes an image that has gone for one that has changed."""
    try:
        yield
    except ImageNotFound:
        raise _changed(driver, image_id) from None


def _changed(driver: Driver, image_id: str) -> Conflict:
    return Conflict(name=f"image {image_id} in pool {driver.config.pool_id}")


def _frame(**part: object) -> Frame:
    return ReadImageResponse(**part).SerializeToString()  # type: ignore[arg-type]
