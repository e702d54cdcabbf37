"""Reads a content block by block: only what may hold data, ahead of whoever takes it.

A block is what one step of a copy moves and what one leaf of its digest covers. Buffers come from a
ring and are given back once they are written, so memory is bounded by the ring. Whether blocks are
read ahead, and in how many threads, is the file system's business (`Files.ahead`).
"""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from agent.drivers.ahead import AHEAD_MAX, Ahead, inline
from agent.drivers.content import FileContent
from agent.drivers.digest import BLOCK_BYTES, ZERO_LEAF, leaf_of
from agent.drivers.driver import Content
from agent.drivers.files import aligned_buffer

# Zeros are found in pieces of this size: as small as a cluster of qcow2, and large enough for what
# is written between them to keep a disk busy.
GRAIN_BYTES = 64 * 1024

# Nearly all data shows in the first bytes of a grain; only of the others all bytes are looked at.
_PROBE_BYTES = 32

# Scattered extents wait for the disk one after the other, so several are read at once (1.5 times
# as fast); long ones come as fast as the disk can one by one, and only get in each other's way.
_READERS = 3
_LONG_BYTES = 1024 * 1024

_ZEROS = memoryview(bytes(BLOCK_BYTES))

Extent = tuple[int, int]  # begin and end


@dataclass(frozen=True, slots=True)
class Block:
    """A block and its extents of data; without any it is a hole, which may be many blocks long."""

    begin: int
    end: int
    extents: tuple[Extent, ...]

    @property
    def data_bytes(self) -> int:
        """Returns how much of it may be data."""
        return sum(end - begin for begin, end in self.extents)


@dataclass(frozen=True, slots=True)
class Filled:
    """A block that was read."""

    block: Block
    buffer: memoryview  # the whole block, if there may be data in it
    data: tuple[Extent, ...]  # what is not zero, in whole grains
    leaf: bytes  # empty of a hole, and if nobody asked for it

    def piece(self, extent: Extent) -> memoryview:
        """Returns the bytes of one extent."""
        begin = self.block.begin
        return self.buffer[extent[0] - begin : extent[1] - begin]


def blocks(content: Content, begin: int) -> Iterator[Block]:
    """Yields the blocks from an offset to the end; begin is where one begins."""
    end, size = begin, content.size_bytes
    extents: list[Extent] = []
    for extent in _extents(content, begin):
        block_begin = extent[0] - extent[0] % BLOCK_BYTES
        if block_begin >= end:  # the first one of another block
            if extents:
                yield _block(extents, end)
                extents = []
            if block_begin > end:
                yield Block(end, block_begin, ())
            end = min(block_begin + BLOCK_BYTES, size)
        extents.append(extent)
    if extents:
        yield _block(extents, end)
    if end < size:
        yield Block(end, size, ())


def data_bytes(content: Content) -> int:
    """Returns how much data a content may hold: what a full copy of it will write at most."""
    return sum(end - begin for begin, end in _extents(content, 0))


def _block(extents: list[Extent], end: int) -> Block:
    begin = extents[0][0]
    return Block(begin - begin % BLOCK_BYTES, end, tuple(extents))


def _extents(content: Content, begin: int) -> Iterator[Extent]:
    """Yields the extents of data from an offset on, cut where blocks end."""
    size = content.size_bytes  # a file may have grown meanwhile
    while begin < size and (found := content.next_data(begin)) is not None:
        begin, stop = found[0], min(found[1], size)
        while begin < stop:
            end = min(stop, begin - begin % BLOCK_BYTES + BLOCK_BYTES)
            yield begin, end
            begin = end


@runtime_checkable
class Vouched(Protocol):
    """A content of which another host has taken the leaves while it read the same."""

    def check_leaf(self, offset: int, leaf: bytes) -> None:
        """Compares the leaf of a block whose data has just been read.

        Raises:
            CopyDamaged: It is another one.
        """
        ...


class BlockReader:
    """Reads the blocks of one content."""

    def __init__(self, content: Content, ahead: Ahead | None = None, *, take_leaves: bool) -> None:
        """Reads ahead as a content's own file system does, or as it is told to."""
        if ahead is None:
            ahead = content.files.ahead if isinstance(content, FileContent) else inline
        is_file = isinstance(content, FileContent)
        self._vouched = content if isinstance(content, Vouched) else None
        self._content = content if is_file else _OneByOne(content)
        self._ahead = ahead
        self._readers = _READERS if is_file else 1
        self._take_leaves = take_leaves or self._vouched is not None
        self._buffers: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._long = threading.Lock()

    def read(self, begin: int = 0) -> Generator[Filled, None, None]:
        """Yields the blocks from an offset on, each to be used before the next one is asked for."""
        for _ in range(AHEAD_MAX + 1):  # so many are read and wait, and one is being used
            self._buffers.put(aligned_buffer(BLOCK_BYTES))
        found = blocks(self._content, begin)
        with closing(self._ahead(self._fill, found, threads=self._readers)) as filled:
            for each in filled:
                yield each
                if each.block.extents:
                    self._buffers.put(each.buffer)

    def _fill(self, block: Block) -> Filled:
        """Reads one block; on a thread, several at once."""
        if not block.extents:
            return Filled(block, _ZEROS[:0], (), b"")
        buffer = self._buffers.get()
        for begin, end in block.extents:
            self._pread(buffer[begin - block.begin : end - block.begin], begin)
        data = tuple(_not_zero(block, buffer))
        leaf = _leaf(block, buffer, is_zero=not data) if self._take_leaves else b""
        if self._vouched is not None:
            self._vouched.check_leaf(block.begin, leaf)
        return Filled(block, buffer, data, leaf)

    def _pread(self, view: memoryview, offset: int) -> None:
        if len(view) >= _LONG_BYTES:
            with self._long:
                count = self._content.pread(view, offset)
        else:
            count = self._content.pread(view, offset)
        if count < len(view):
            raise OSError(errno.EIO, f"{os.strerror(errno.EIO)}: the source became shorter")


class _OneByOne:
    """A content that is no file, such as a connection: it is never asked for two things at once."""

    def __init__(self, content: Content) -> None:
        self.size_bytes, self.identity = content.size_bytes, content.identity
        self._content = content
        self._lock = threading.Lock()

    def next_data(self, offset: int) -> Extent | None:
        with self._lock:
            return self._content.next_data(offset)

    def pread(self, buffer: memoryview, offset: int) -> int:
        with self._lock:
            return self._content.pread(buffer, offset)


def _not_zero(block: Block, buffer: memoryview) -> Iterator[Extent]:
    """Yields the grains that are not all zero, neighbours as one."""
    begin = end = block.begin
    for extent in block.extents:
        for grain_begin, grain_end in _grains(extent):
            if _is_zero(buffer[grain_begin - block.begin : grain_end - block.begin]):
                continue
            if grain_begin != end:
                if begin != end:
                    yield begin, end
                begin = grain_begin
            end = grain_end
    if begin != end:
        yield begin, end


def _grains(extent: Extent) -> Iterator[Extent]:
    begin, stop = extent
    while begin < stop:
        end = min(stop, begin - begin % GRAIN_BYTES + GRAIN_BYTES)
        yield begin, end
        begin = end


def _is_zero(view: memoryview) -> bool:
    if any(view[:_PROBE_BYTES]):
        return False
    return bytes(view) == bytes(_ZEROS[: len(view)])


def _leaf(block: Block, buffer: memoryview, *, is_zero: bool) -> bytes:
    """Returns the leaf of a block; what an earlier one left in its holes is overwritten."""
    if is_zero and block.end - block.begin == BLOCK_BYTES:
        return ZERO_LEAF
    hole = block.begin
    for begin, end in (*block.extents, (block.end, block.end)):
        buffer[hole - block.begin : begin - block.begin] = _ZEROS[: begin - hole]
        hole = end
    return leaf_of(buffer[: block.end - block.begin])
