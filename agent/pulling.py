"""Pulls images from the agents of other hosts: sources and contents, as if they were here.

A connection that breaks is made again, and the reading goes on where it was; only when the other
agent has been away for long does the attempt fail, and another may go better. Called on the threads
of the work, which look at the cancel flag all the while.
"""

from __future__ import annotations

import queue
import threading
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from typing import TypeVar, cast

import grpc

from agent import tickets
from agent.drivers.digest import BLOCK_BYTES
from agent.drivers.driver import Format, ImageFound
from agent.frames import Piece, Received, piece_of, reader_of
from agent.wire import FORMATS
from countermand.rpc.channel import open_stream_channel
from countermand.rpc.credentials import Credentials, not_connected
from countermand.rpc.errors import (
    Busy,
    Conflict,
    CopyDamaged,
    CountermandError,
    HostSilent,
    HostUnreachable,
    TicketInvalid,
)
from countermand.rpc.status import RemoteError, error_from_rpc
from countermand.v1.agent_pb2 import (
    ContentHead,
    ContentLeaf,
    ReadImageRequest,
    ReadImageResponse,
    SourceAccess,
)
from countermand.v1.image_pb2 import Image, ImageAddress

T = TypeVar("T")

# An agent that was restarted is back within seconds, a host within minutes.
PATIENCE_S = 120.0
# A host that is gone is told of by gRPC, within seconds. An agent that answers, and sends nothing,
# waits for its storage: four megabytes, or where the data of an image lies, take less than this.
SILENCE_S = 60.0
RETRY_S_MIN = 0.1
RETRY_S_MAX = 2.0

# Of a megabyte each: enough to go on writing while the next ones come.
MESSAGES_MAX = 8

# More than this is not thrown away: the source is asked to go on elsewhere.
SKIPPED_BYTES_MAX = 16 * 1024 * 1024

# The longest time between two looks at the cancel flag.
_POLL_S = 0.1

NO_TICKET = "none was given"


# Raises to stop the work.
Check = Callable[[], None]


class Pulling:
    """How the attempts of one agent reach their sources; used from several threads."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        """Knows of no source yet."""
        self.credentials = credentials
        self._accesses: dict[str, SourceAccess] = {}  # by attempt: the latest one

    def offer(self, attempt: str, access: SourceAccess) -> None:
        """Takes the latest way to an attempt's source."""
        self._accesses[attempt] = access

    def access(self, attempt: str) -> SourceAccess | None:
        """Returns the latest way to an attempt's source."""
        return self._accesses.get(attempt)

    def renew(self, attempt: str, ticket: bytes) -> None:
        """Takes a ticket that the source itself has sent."""
        if access := self._accesses.get(attempt):
            self._accesses[attempt] = SourceAccess(address=access.address, ticket=ticket)

    def forget(self, attempt: str) -> None:
        """Drops what is known of an attempt that has ended."""
        self._accesses.pop(attempt, None)

    def source(
        self, attempt: str, image: ImageAddress, check: Check, *, take_digest: bool = False
    ) -> RemoteSource:
        """Returns the source of an attempt; with a digest each block is compared as it comes."""
        return RemoteSource(self, attempt, f"{image.pool_id}/{image.image_id}", check, take_digest)


@dataclass(frozen=True, slots=True)
class RemoteSource:
    """An image that the agent of another host serves."""

    pulling: Pulling
    attempt: str
    name: str
    check: Check
    take_digest: bool

    def find(self) -> ImageFound:
        """Looks at it."""
        line = _Line(self, ReadImageRequest(head_only=True))
        try:
            return _found(line.head.image)
        finally:
            line.close()

    @contextmanager
    def reading(self, layout: Format) -> Iterator[RemoteContent]:
        """Opens it: RAW is what a guest reads; QCOW2 the bytes of its file, if it stands alone.

        Raises:
            Conflict: It was changed while it was read.
            CopyDamaged: What came is not what was read there.
        """
        request = ReadImageRequest(layout=FORMATS[layout], take_digest=self.take_digest)
        line = _Line(self, request)
        content = (VouchedContent if line.head.leaves else RemoteContent)(line)
        try:
            yield content
            content.finish()
        finally:
            content.close()


class RemoteContent:
    """The bytes of an image elsewhere; quick for whoever reads them in their order."""

    def __init__(self, line: _Line) -> None:
        """Takes over a line whose head and extents have come."""
        self._line = line
        self.size_bytes = line.head.size_bytes
        self.identity = line.head.identity
        self._begins, self._ends = line.extents[::2], line.extents[1::2]
        self._offset = 0  # where the message at hand begins
        self._data = memoryview(b"")

    def next_data(self, offset: int) -> tuple[int, int] | None:
        """Returns the next extent that holds data, as (begin, end), or None at the end."""
        index = bisect_right(self._ends, offset)
        if index == len(self._ends):
            return None
        return max(offset, self._begins[index]), self._ends[index]

    def pread(self, buffer: memoryview, offset: int) -> int:
        """Fills the buffer from an offset; returns how much there was."""
        count = max(0, min(len(buffer), self.size_bytes - offset))
        done = 0
        while done < count:
            begin, end = self.next_data(offset + done) or (self.size_bytes, self.size_bytes)
            hole = min(count, begin - offset) - done
            buffer[done : done + hole] = bytes(hole)
            done += hole
            stop = min(count, end - offset)
            while done < stop:
                data = self._at(offset + done)[: stop - done]
                buffer[done : done + len(data)] = data
                done += len(data)
        return count

    def _at(self, offset: int) -> memoryview:
        """Returns what there is of the data from an offset on, at least a byte."""
        if offset < self._offset or self._passed_over(offset) > SKIPPED_BYTES_MAX:
            self._line.go_to(offset)
            self._offset, self._data = offset, memoryview(b"")
        while offset >= self._offset + len(self._data):
            piece = self._line.next(offset) or Piece(self.size_bytes, memoryview(b""))
            self._offset, self._data = piece
            if offset < self._offset:  # it was told to be data
                raise Conflict(name=self._line.name)
        return self._data[offset - self._offset :]

    def _passed_over(self, offset: int) -> int:
        """Returns how much data would come that nobody wants, before an offset."""
        found = self.next_data(self._offset + len(self._data))
        return offset - found[0] if found else 0

    def finish(self) -> None:
        """Waits for the source to say that it was the same to the end, if all of it was read."""
        if self._ends and self._offset + len(self._data) < self._ends[-1]:
            return
        while self._line.next(self.size_bytes) is not None:
            pass

    def close(self) -> None:
        """Hangs up."""
        self._line.close()


class VouchedContent(RemoteContent):
    """The same, with the leaves of what the source has read."""

    def check_leaf(self, offset: int, leaf: bytes) -> None:
        """Compares the leaf of a block whose data has just been read.

        Raises:
            CopyDamaged: It is another one.
        """
        expected = self._line.leaf(offset)
        if leaf != expected:
            raise CopyDamaged(
                image=self._line.name, offset=offset, found=leaf.hex(), expected=expected.hex()
            )


class _Line:
    """A line to one image, made again whenever it breaks."""

    def __init__(self, source: RemoteSource, request: ReadImageRequest) -> None:
        """Dials, and waits for the head and the extents."""
        self._source = source
        self._request = request
        self._offset = 0  # where to go on when it breaks
        self._leaf = ContentLeaf(offset=-1)  # the latest one
        self.head = ContentHead()
        self.extents: array[int] = array("q")
        self._stream: _Stream | None = None
        self._retry_s = RETRY_S_MIN
        self._persist(self._dial)

    @property
    def name(self) -> str:
        """Returns the image, for people."""
        return self._source.name

    def next(self, offset: int) -> Piece | None:
        """Returns the next piece of data, None at the end; a new line begins at the offset."""
        self._offset = offset
        while isinstance(received := self._persist(self._next), ContentLeaf):
            self._leaf = received
        return received

    def leaf(self, offset: int) -> bytes:
        """Returns the leaf of a block whose data has all come; empty if the source has none."""
        self._offset = offset
        while self._leaf.offset != offset:
            received = self._persist(self._next)
            if isinstance(received, ContentLeaf):
                self._leaf = received
            # Its data comes again, if the line broke just here.
            elif received is None or received.offset >= offset + BLOCK_BYTES:
                return b""
        return self._leaf.leaf

    def go_to(self, offset: int) -> None:
        """Has the data from an offset on come next."""
        self.close()
        self._offset = offset

    def close(self) -> None:
        """Hangs up."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _next(self) -> Piece | ContentLeaf | None:
        if self._stream is None:
            self._dial()
            assert self._stream is not None
        while (received := self._stream.next(self._source.check)) is not None:
            if isinstance(received, Piece):
                return received
            if received.renewed_ticket:
                self._source.pulling.renew(self._source.attempt, received.renewed_ticket)
            if received.HasField("leaf"):
                return received.leaf
            if piece := piece_of(received):
                return piece
        return None

    def _dial(self) -> None:
        source, pulling = self._source, self._source.pulling
        access = pulling.access(source.attempt)
        if access is None or not access.ticket:
            raise TicketInvalid(image=source.name, why=NO_TICKET)
        request = ReadImageRequest()
        request.CopyFrom(self._request)
        # Of a block that does not come whole there is no leaf.
        request.ticket, request.offset = access.ticket, self._offset - self._offset % BLOCK_BYTES
        request.identity = self.head.identity
        stream = self._stream = _Stream(access.address, pulling.credentials, request)
        message = stream.next(source.check)
        if not isinstance(message, ReadImageResponse) or not message.HasField("head"):
            raise HostUnreachable(address=access.address)
        if self.head.HasField("image"):
            return  # what was told before still holds: the identity is the same
        extents: array[int] = array("q")
        told = 0 if request.head_only else -1
        while told < message.head.size_bytes:
            part = stream.next(source.check)
            if not isinstance(part, ReadImageResponse):
                raise HostUnreachable(address=access.address)
            numbers = part.extents.offsets_and_lengths
            for begin, length in zip(numbers[::2], numbers[1::2], strict=True):
                extents.extend((begin, begin + length))
            told = part.extents.end
        self.head, self.extents = message.head, extents

    def _persist(self, function: Callable[[], T]) -> T:
        """Does something with the source, again and again while that may help."""
        heard = time.monotonic()  # from it
        while True:
            try:
                value = function()
            except Busy as busy:  # it is well, and others come first
                self.close()
                self._pause(max(RETRY_S_MIN, busy.retry_delay.total_seconds()))
                heard = time.monotonic()
            except CountermandError as error:
                self.close()
                if not _is_away(error) or time.monotonic() - heard > PATIENCE_S:
                    raise
                self._pause(self._retry_s)
                self._retry_s = min(2 * self._retry_s, RETRY_S_MAX)
            else:
                self._retry_s = RETRY_S_MIN
                return value

    def _pause(self, wait_s: float) -> None:
        until = time.monotonic() + wait_s
        while (left_s := until - time.monotonic()) > 0:
            self._source.check()
            time.sleep(min(left_s, _POLL_S))


class _Stream:
    """One call of ReadImage, received on a thread of its own: a few messages ahead."""

    def __init__(
        self, address: str, credentials: Credentials | None, request: ReadImageRequest
    ) -> None:
        """Begins to receive."""
        self._address = address
        self._credentials = credentials
        self._channel = open_stream_channel(address, credentials=credentials)
        self._call = reader_of(self._channel)(request)
        self._received: queue.Queue[Received | CountermandError | None] = queue.Queue(MESSAGES_MAX)
        self._closed = False
        self._thread = threading.Thread(target=self._receive, name="pull", daemon=True)
        self._thread.start()

    def next(self, check: Check) -> Received | None:
        """Returns the next message; None at the end.

        Raises:
            HostUnreachable: The connection broke, or brings nothing.
            CountermandError: What the source said.
        """
        check()
        begun = time.monotonic()
        while True:
            try:
                item = self._received.get(timeout=_POLL_S)
            except queue.Empty:
                check()
                if time.monotonic() - begun > SILENCE_S:
                    raise HostSilent(address=self._address, silent_s=f"{SILENCE_S:g}") from None
                continue
            if isinstance(item, CountermandError):
                raise item
            return item

    def close(self) -> None:
        """Ends the call, and the thread."""
        self._closed = True
        self._call.cancel()
        self._thread.join()
        self._channel.close()

    def _receive(self) -> None:
        try:
            for message in self._call:
                self._put(message)
            self._put(None)
        except grpc.RpcError as error:
            self._put(self._said(cast("grpc.Call", error)))  # as every error of a call is

    def _put(self, item: Received | CountermandError | None) -> None:
        while not self._closed:
            try:
                self._received.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return

    def _said(self, error: grpc.Call) -> CountermandError:
        """Returns what the source said; where only gRPC speaks, that nobody answered."""
        said = error_from_rpc(error)
        if isinstance(said, RemoteError):
            return not_connected(self._address, said.message, self._credentials)
        return said


def _is_away(error: CountermandError) -> bool:
    """Returns whether waiting may mend it: the agent may come back, or a ticket may come."""
    if isinstance(error, TicketInvalid):
        return error.metadata["why"] in {tickets.EXPIRED, NO_TICKET}
    return isinstance(error, HostUnreachable)


def _found(image: Image) -> ImageFound:
    """Returns an image as its own agent has told of it."""
    return ImageFound(
        image_id=image.address.image_id,
        format=next(each for each, number in FORMATS.items() if number == image.format),
        virtual_size_bytes=image.virtual_size_bytes,
        allocated_bytes=image.allocated_bytes,
        generation=image.generation,
        cluster_id=image.owner.cluster_id,
        attempt=image.owner.attempt,
        create_time=image.owner.create_time.ToDatetime(tzinfo=UTC),
        digest=image.digest,
        chain=tuple(below.image_id for below in image.chain),
        snapshots=(),
    )
