"""How the data of images is read and written in one pool's file system: found out by a probe.

Buffered writes lose to the page cache's pressure, and one flush at the end hides by how much. So:

UNCACHED  Linux 6.14 with a file system that has it: write-back starts at once, pages go at its end.
          The fastest measured, and no buffer need be aligned.
DIRECT    past the page cache; only in whole pages, so the odd end of a file is buffered.
BUFFERED  write-back is started after each write, and the pages are dropped when it has ended. With
          memory to spare as fast as the others; the kernel copies more.

Short reads and writes, such as labels, are always buffered: they are wanted again soon.

Copies are not alone on a disk, and a disk serves in the order of asking: whoever else flushes, such
as a journal, waits behind all that they have under way. So long reads and writes take turns. One
copy alone has only so much write-back left running, and loses nothing by it. Several of them beside
a journal read and write in short pieces past the page cache, so that what is under way is known:
two pieces, and nothing that the kernel reads ahead or writes back by itself.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

# Python does not name it yet.
RWF_DONTCACHE = 0x80

PAGE_BYTES = mmap.PAGESIZE
SHORT_BYTES = 16 * 1024  # what is shorter stays in the page cache

# What is as long takes turns in a pool, one read and one write at a time; where several files are
# read or written that way beside a journal, in pieces of just that. Twice as long, others wait
# twice as long; half as long, copies lose more than they do already: a quarter of their speed, and
# up to a half where the cores are busy with other things.
PIECE_BYTES = 512 * 1024
_TURNS = 2

# So much of a pool is on its way to the disk before the oldest write of a file is waited for.
_BEHIND_BYTES_MAX = 12 * 1024 * 1024

# sync_file_range(2), which Python does not name either.
_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4
_LIBC = ctypes.CDLL(None, use_errno=True)

# What a file system answers that has no such way.
_UNSUPPORTED = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


class Mode(StrEnum):
    """A way to read and write data."""

    UNCACHED = "UNCACHED"
    DIRECT = "DIRECT"
    BUFFERED = "BUFFERED"


def probe(folder: Path, sample: Path | None = None) -> Mode:
    """Returns the best way that a folder's file system has, by trying.

    On a file without a name; where nothing is to be written, on a sample that is only read. Where
    even that fails the last one is as good as any.
    """
    page = mmap.mmap(-1, PAGE_BYTES)
    try:
        with sample.open("rb") if sample else tempfile.TemporaryFile(dir=folder) as file:
            handle = file.fileno()
            action = os.preadv if sample else os.pwritev
            if _can(lambda: action(handle, [page], 0, RWF_DONTCACHE)):
                return Mode.UNCACHED
            if _can(lambda: _directly(handle, lambda direct: action(direct, [page], 0))):
                return Mode.DIRECT
    except OSError:
        return Mode.BUFFERED
    return Mode.BUFFERED


class DataIO:
    """Reads and writes in one mode; used from several threads, also on one file."""

    def __init__(self, mode: Mode = Mode.BUFFERED, *, journals_beside: bool = False) -> None:
        """Begins with no file."""
        self.mode = mode
        self.journals_beside = journals_beside
        self._lock = threading.Lock()
        self._direct: dict[int, int | None] = {}  # by handle: the same file past the page cache
        self._read_from: set[int] = set()  # handles of files with long reads
        self._behind: dict[int, deque[tuple[int, int]]] = {}  # by handle: writes on their way
        self._turns = threading.Semaphore(_TURNS)

    def read(self, handle: int, view: memoryview, offset: int) -> int:
        """Reads some bytes; returns how many, 0 at the end."""
        if len(view) < PIECE_BYTES:
            return self._read(handle, view, offset, self.mode)
        with self._lock:
            self._read_from.add(handle)
        with self._turns:
            view, mode = self._share(view)
            return self._read(handle, view, offset, mode)

    def write(self, handle: int, view: memoryview, offset: int) -> int:
        """Writes some bytes; returns how many."""
        if len(view) < PIECE_BYTES:
            return self._write(handle, view, offset, self.mode)
        with self._lock:
            self._behind.setdefault(handle, deque())
        with self._turns:
            view, mode = self._share(view)
            return self._write(handle, view, offset, mode)

    def _share(self, view: memoryview) -> tuple[memoryview, Mode]:
        """Returns how much to read or write in one turn, and how."""
        alone = len(self._read_from) <= 1 and len(self._behind) <= 1
        if alone or not self.journals_beside:
            return view, self.mode
        mode = Mode.DIRECT if self.mode is Mode.UNCACHED else self.mode
        return view[:PIECE_BYTES], mode

    def _read(self, handle: int, view: memoryview, offset: int, mode: Mode) -> int:
        if len(view) < SHORT_BYTES or mode is Mode.BUFFERED:
            return os.preadv(handle, [view], offset)
        try:
            if mode is Mode.UNCACHED:
                return os.preadv(handle, [view], offset, RWF_DONTCACHE)
            direct, whole = self._directly(handle, view, offset)
            return os.preadv(direct, [whole], offset)
        except OSError as error:  # a file of somebody else's file system, or an odd buffer
            if error.errno not in _UNSUPPORTED:
                raise
            return os.preadv(handle, [view], offset)

    def _write(self, handle: int, view: memoryview, offset: int, mode: Mode) -> int:
        if len(view) < SHORT_BYTES:
            return os.pwritev(handle, [view], offset)
        try:
            if mode is Mode.UNCACHED:
                count = os.pwritev(handle, [view], offset, RWF_DONTCACHE)
                self._wait_behind(handle, offset, count)
                return count
            if mode is Mode.DIRECT:
                direct, whole = self._directly(handle, view, offset)
                return os.pwritev(direct, [whole], offset)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        count = os.pwritev(handle, [view], offset)
        _sync_range(handle, offset, count, _WRITE)
        for arrived in self._wait_behind(handle, offset, count):
            os.posix_fadvise(handle, *arrived, os.POSIX_FADV_DONTNEED)
        return count

    def close(self, handle: int) -> None:
        """Forgets a file before it is closed."""
        with self._lock:
            direct = self._direct.pop(handle, None)
            self._behind.pop(handle, None)
            self._read_from.discard(handle)
        if direct is not None:
            os.close(direct)

    def _directly(self, handle: int, view: memoryview, offset: int) -> tuple[int, memoryview]:
        """Returns a file's way past the page cache, and the whole pages of a view."""
        if offset % PAGE_BYTES == 0:
            with self._lock:
                if handle not in self._direct:
                    self._direct[handle] = _reopen(handle)
                direct = self._direct[handle]
            if direct is not None:
                return direct, view[: len(view) - len(view) % PAGE_BYTES]
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def _wait_behind(self, handle: int, offset: int, count: int) -> list[tuple[int, int]]:
        """Waits for the oldest writes of a file when too many are on their way; returns them."""
        with self._lock:
            behind = self._behind.setdefault(handle, deque())
            bytes_max = _BEHIND_BYTES_MAX // len(self._behind)
        behind.append((offset, count))
        left = sum(each for _, each in behind)
        arrived: list[tuple[int, int]] = []
        while left > bytes_max and len(behind) > 1:
            arrived.append(behind.popleft())
            left -= arrived[-1][1]
        for each in arrived:
            _sync_range(handle, *each, _WAIT_BEFORE | _WRITE | _WAIT_AFTER)
        return arrived


def _can(trial: Callable[[], object]) -> bool:
    try:
        trial()
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    return True


def _directly(handle: int, trial: Callable[[int], object]) -> None:
    direct = _reopen(handle)
    if direct is None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    try:
        trial(direct)
    finally:
        os.close(direct)


def _reopen(handle: int) -> int | None:
    """Opens the same file once more, past the page cache; None where that is not to be had."""
    access = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE
    try:
        return os.open(f"/proc/self/fd/{handle}", access | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return None


def _sync_range(handle: int, offset: int, count: int, flags: int) -> None:
    """Raises OSError when the disk does; a flush says it again."""
    found = _LIBC.sync_file_range(
        handle, ctypes.c_int64(offset), ctypes.c_int64(count), ctypes.c_uint(flags)
    )
    if found != 0 and ctypes.get_errno() not in _UNSUPPORTED | {errno.ESPIPE}:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
