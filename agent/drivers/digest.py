"""The digest of an image: a tree over blocks of 4 MiB, so that what is zero costs nothing.

The format is "blake3-4m:" and 64 hexadecimal digits. It is taken of what a guest reads, holes as
zeros, so it does not depend on the image's format or on how it happens to be laid out:

1. The content is cut into blocks of 4194304 bytes; the last one may be shorter, none is empty.
2. The leaf of a block is BLAKE3 (32 bytes, no key) over its bytes.
3. The root is BLAKE3 over all leaves in order, and after them the content's size in bytes as an
   unsigned little-endian integer of 8 bytes. The digest is the root.

Of 4 MiB of zeros there is one leaf, which is known: whoever knows where the holes are reads nothing
of them. A copy that goes on after a crash does not read again what it has copied: its leaves lie in
a file beside the data, 32 bytes for each block and a hole for each block of zeros, 8 MiB for a TiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from blake3 import blake3

from agent.drivers.files import Files

ALGORITHM = "blake3-4m"
BLOCK_BYTES = 4 * 1024 * 1024
LEAF_BYTES = 32

# So many leaves of zeros are added to the root at once: a hole of 4 GiB.
_ZEROS_AT_ONCE = 1024


def leaf_of(block: memoryview | bytes) -> bytes:
    """Returns the leaf of one block."""
    return blake3(block).digest()


ZERO_LEAF = leaf_of(bytes(BLOCK_BYTES))
_HOLE = bytes(LEAF_BYTES)  # in the file of leaves; no block is known that has such a leaf


def zero_leaves(begin: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Yields the leaves of a hole that begins with a block, and how often each comes."""
    whole, rest = divmod(end - begin, BLOCK_BYTES)
    if whole:
        yield ZERO_LEAF, whole
    if rest:
        yield leaf_of(bytes(rest)), 1


class Digest:
    """A digest being taken: leaves are added in the order of their blocks."""

    def __init__(self) -> None:
        """Begins with nothing."""
        self._root = blake3()
        self.count = 0

    def add(self, leaf: bytes, count: int = 1) -> None:
        """Adds a leaf, so many times."""
        self.count += count
        whole, rest = divmod(count, _ZEROS_AT_ONCE)
        for _ in range(whole):
            self._root.update(leaf * _ZEROS_AT_ONCE)
        self._root.update(leaf * rest)

    def of(self, size_bytes: int) -> str:
        """Returns it as images carry it; all leaves were added."""
        assert self.count == -(-size_bytes // BLOCK_BYTES), (self.count, size_bytes)
        root = self._root.copy()
        root.update(size_bytes.to_bytes(8, "little"))
        return f"{ALGORITHM}:{root.hexdigest()}"


class Leaves:
    """The leaves of a copy so far, in a file of their own: what is flushed survives a crash."""

    def __init__(self, files: Files, handle: int) -> None:
        """Begins with none; `load` takes up those of an earlier life."""
        self.digest = Digest()
        self._files = files
        self._handle = handle
        self._kept: list[tuple[int, bytearray]] = []  # offset and leaves, not yet written

    def load(self, count: int) -> bool:
        """Takes up the first leaves of an earlier life; returns False, if they are not all there.

        Only into an empty one.
        """
        files, end = self._files, count * LEAF_BYTES
        begin, buffer = 0, memoryview(bytearray(LEAF_BYTES * _ZEROS_AT_ONCE))
        is_there = _is_as_long_as(files, self._handle, end)
        files.truncate(self._handle, end if is_there else 0)  # what lies beyond may be anything
        if not is_there:
            return False
        while begin < end:
            data_begin, data_end = files.next_data(self._handle, begin) or (end, end)
            data_begin = min(data_begin - data_begin % LEAF_BYTES, end)
            self.digest.add(ZERO_LEAF, (data_begin - begin) // LEAF_BYTES)
            data_end = min(data_end + -data_end % LEAF_BYTES, end, data_begin + len(buffer))
            view = buffer[: data_end - data_begin]
            files.pread(self._handle, view, data_begin)
            for leaf in _cut(view):
                self.digest.add(ZERO_LEAF if leaf == _HOLE else leaf)
            begin = data_end
        return True

    def add(self, leaf: bytes, count: int = 1) -> None:
        """Adds a leaf, so many times; of zeros only a hole is kept."""
        offset = self.digest.count * LEAF_BYTES
        self.digest.add(leaf, count)
        if leaf == ZERO_LEAF:
            return
        if self._kept and self._kept[-1][0] + len(self._kept[-1][1]) == offset:
            self._kept[-1][1].extend(leaf * count)
        else:
            self._kept.append((offset, bytearray(leaf * count)))

    def flush(self) -> None:
        """Returns once all leaves so far would survive a power cut."""
        for offset, leaves in self._kept:
            self._files.pwrite(self._handle, memoryview(leaves), offset)
        self._kept.clear()
        self._files.truncate(self._handle, self.digest.count * LEAF_BYTES)
        self._files.flush(self._handle)


def _is_as_long_as(files: Files, handle: int, size_bytes: int) -> bool:
    last = memoryview(bytearray(1))
    return size_bytes == 0 or files.pread(handle, last, size_bytes - 1) == 1


def _cut(view: memoryview) -> Iterable[bytes]:
    return (bytes(view[at : at + LEAF_BYTES]) for at in range(0, len(view), LEAF_BYTES))
