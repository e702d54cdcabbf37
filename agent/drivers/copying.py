"""Copies bytes from one open file to another: holes kept, zeros left out, resumable, digested.

Two stages overlap: the content is read ahead, and digested there, while what was read is written.
With uncached I/O that is as fast as a disk takes it: reads and writes release the GIL.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from agent import crash_points
from agent.drivers.ahead import Ahead
from agent.drivers.blocks import BlockReader, Filled
from agent.drivers.digest import BLOCK_BYTES, Digest, Leaves, zero_leaves
from agent.drivers.driver import FLUSH_BYTES, Content, Step, Steps
from agent.drivers.files import Files
from agent.drivers.room import Room
from countermand.rpc.crash import Crash

# Large enough to keep a disk busy, small enough to be cancelled within a few milliseconds.
CHUNK_BYTES = BLOCK_BYTES


@dataclass(slots=True, kw_only=True)
class Offset:
    """How far a copy is: what of it is durable comes back after a crash."""

    source: str  # identity of the source; another one begins again
    begin: int = 0
    written_bytes: int = 0

    @classmethod
    def after(cls, note: str, *, source: str) -> Offset:
        """Returns where an earlier life left off; the beginning if it was another source."""
        known = json.loads(note) if note else {}
        # Earlier versions ended wherever data did.
        if known.get("source") != source or known["offset"] % BLOCK_BYTES:
            return cls(source=source)
        return cls(source=source, begin=known["offset"], written_bytes=known["written_bytes"])

    def note(self, offset: int, written_bytes: int) -> str:
        """Returns the note for the journal."""
        return json.dumps({"offset": offset, "written_bytes": written_bytes, "source": self.source})


@dataclass(slots=True, kw_only=True)
class Copy:
    """One copy of one content into one file; `run` makes it."""

    files: Files
    source: Content
    target: int
    offset: Offset
    room: Room
    folder: str  # whose account is charged
    crash: Crash
    leaves: Leaves | None = None  # takes the digest along
    flush_bytes: int = FLUSH_BYTES
    written_bytes: int = field(default=0, init=False)

    def run(self) -> Steps[int]:
        """Copies everything; returns the bytes written, those of an earlier life too."""
        begin = self._resume()
        size = self.source.size_bytes
        # What lies beyond the durable offset may be anything. The size is set first: writes that
        # move the end of a file are slower, by a tenth.
        self.files.truncate(self.target, begin)
        self.files.truncate(self.target, size)
        reader = BlockReader(self.source, self.files.ahead, take_leaves=self.leaves is not None)
        writer, unsaved = self.room.writing(), 0
        with closing(reader.read(begin)) as found:
            for filled in found:
                written = self._write(filled)
                self.crash(crash_points.IN_COPY)
                unsaved += filled.block.data_bytes
                end, note = filled.block.end, ""
                if unsaved >= self.flush_bytes and end % BLOCK_BYTES == 0:
                    note, unsaved = self._save(end), 0
                yield Step(done=end, total=size, note=note)
                for wait_s in writer.waits(written):
                    yield Step(wait_s=wait_s)
        self.files.flush(self.target)
        yield Step(done=size, total=size)
        return self.written_bytes

    def _resume(self) -> int:
        """Returns where to go on, with the leaves up to there."""
        begin = self.offset.begin
        if self.leaves is not None and not self.leaves.load(begin // BLOCK_BYTES):
            return 0  # without them all would be read again anyway
        self.written_bytes = self.offset.written_bytes
        return begin

    def _write(self, filled: Filled) -> int:
        """Writes what is not zero of one block; returns how much that was."""
        written = 0
        for extent in filled.data:
            view = filled.piece(extent)
            self.room.take(self.folder, len(view))
            self.files.pwrite(self.target, view, extent[0])
            written += len(view)
        self.written_bytes += written
        if self.leaves is not None:
            for leaf, count in _leaves(filled):
                self.leaves.add(leaf, count)
        return written

    def _save(self, offset: int) -> str:
        """Makes what was copied durable; returns the note that says so."""
        self.files.flush(self.target)
        if self.leaves is not None:
            self.leaves.flush()
        return self.offset.note(offset, self.written_bytes)


def digest_content(content: Content, ahead: Ahead | None = None) -> Steps[str]:
    """Reads a whole content and returns its digest."""
    digest = Digest()
    size = content.size_bytes
    with closing(BlockReader(content, ahead, take_leaves=True).read()) as found:
        for filled in found:
            for leaf, count in _leaves(filled):
                digest.add(leaf, count)
            yield Step(done=filled.block.end, total=size)
    return digest.of(size)


def _leaves(filled: Filled) -> Iterator[tuple[bytes, int]]:
    """Yields the leaves of what was read, and how often each comes."""
    if filled.block.extents:
        yield filled.leaf, 1
    else:
        yield from zero_leaves(filled.block.begin, filled.block.end)
