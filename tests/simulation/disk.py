"""A file system in memory that forgets what was not flushed.

Names are kept as a journaling file system keeps them: changes become durable in their order, all of
them at the latest when any folder is flushed. A file's data becomes durable when it is flushed.
A kill of the process loses nothing; a power cut keeps some prefix of the changes of names, and of
each file either what was flushed or what was there. `Disk` outlives its agent; `LiveFiles` is one
life's way to it, and fails once that life is over.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent.drivers.ahead import Ahead, inline
from agent.drivers.files import FileKind, FileStat, Space

HOLE = 512  # data and holes are told apart in blocks of this size


@dataclass(slots=True, eq=False)
class _File:
    number: int
    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    writes: int = 0


_Names = dict[str, _File | None]  # None: a folder
_Locks = dict[tuple[object, int], bool]  # whose, and whether it is held alone
_Change = tuple[str, str, str, _File | None]  # what, path, other path, file


class Disk:
    """What is on the platters, and what is still on its way there."""

    def __init__(self, capacity_bytes: int) -> None:
        """Begins empty."""
        self.capacity_bytes = capacity_bytes
        self.names: _Names = {"/": None}
        self._durable: _Names = {"/": None}
        self._changes: list[_Change] = []
        self._files = 0
        self.locks: dict[str, _Locks] = {}  # of each place; those of a life that is over are gone

    def change(self, what: str, path: str, other: str = "", file: _File | None = None) -> None:
        """Changes names; durable at the next flush of any folder."""
        entry = (what, path, other, file)
        _apply(self.names, entry)
        self._changes.append(entry)

    def flush_names(self) -> None:
        """Makes every change of names durable."""
        for entry in self._changes:
            _apply(self._durable, entry)
        self._changes.clear()

    def new_file(self) -> _File:
        """Returns a file that no name stands for yet."""
        self._files += 1
        return _File(number=self._files)

    def cut_power(self, chance: random.Random) -> None:
        """Forgets what was not flushed, or most of it."""
        kept = chance.randint(0, len(self._changes))
        for entry in self._changes[:kept]:
            _apply(self._durable, entry)
        self._changes.clear()
        self.names = dict(self._durable)
        for file in self.names.values():
            if file is not None:
                if chance.random() < 0.5:
                    file.data = bytearray(file.durable)
                file.durable = bytes(file.data)


def _apply(names: _Names, entry: _Change) -> None:
    what, path, other, file = entry
    if what == "put":
        names[path] = file
    elif what == "remove":
        names.pop(path, None)
    else:  # rename, with everything below it
        for old in [n for n in names if n == path or n.startswith(f"{path}/")]:
            names[other + old[len(path) :]] = names.pop(old)


class LiveFiles:
    """One life's way to a disk: what `agent.drivers.files.Files` asks for."""

    def __init__(
        self, disk: Disk, alive: Callable[[], None], renamed: Callable[[str, str], None]
    ) -> None:
        """Asks `alive` before anything; tells `renamed` of each folder that was renamed."""
        self._disk = disk
        self._alive = alive
        self._renamed = renamed
        self._open: dict[int, _File] = {}
        self._locked: dict[int, _Locks] = {}
        self._handles = 2

    ahead: Ahead = staticmethod(inline)

    def tune(self, folder: Path, *, sample: Path | None = None) -> None:
        self._alive()

    def open_to_read(self, path: Path) -> int:
        self._alive()
        file = self._disk.names.get(str(path))
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return self._handle(file)

    def open_to_write(self, path: Path) -> int:
        self._alive()
        file = self._disk.names.get(str(path))
        if file is None:
            if str(path) in self._disk.names:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            self._need_parent(path)
            file = self._disk.new_file()
            self._disk.change("put", str(path), file=file)
        return self._handle(file)

    def _handle(self, file: _File) -> int:
        self._handles += 1
        self._open[self._handles] = file
        return self._handles

    def close(self, handle: int) -> None:
        self._open.pop(handle, None)  # also after death: a generator is closed by its collection
        self._locked.pop(handle, {}).pop((self, handle), None)

    def pread(self, handle: int, buffer: memoryview, offset: int) -> int:
        self._alive()
        data = self._open[handle].data[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        return len(data)

    def pwrite(self, handle: int, buffer: memoryview, offset: int) -> None:
        self._alive()
        file = self._open[handle]
        end = offset + len(buffer)
        grown = end - len(file.data)
        if grown > 0:
            if self._used() + grown > self._disk.capacity_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            file.data.extend(bytes(grown))
        file.data[offset:end] = buffer
        file.writes += 1

    def truncate(self, handle: int, size_bytes: int) -> None:
        self._alive()
        file = self._open[handle]
        del file.data[size_bytes:]
        file.data.extend(bytes(size_bytes - len(file.data)))
        file.writes += 1

    def extend(self, handle: int, size_bytes: int) -> None:
        self.truncate(handle, max(size_bytes, len(self._open[handle].data)))

    def allocate(self, handle: int, size_bytes: int) -> None:
        self.truncate(handle, size_bytes)

    def flush(self, handle: int) -> None:
        self._alive()
        file = self._open[handle]
        file.durable = bytes(file.data)

    def flush_folder(self, path: Path) -> None:
        self._alive()
        if str(path) not in self._disk.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        self._disk.flush_names()

    def next_data(self, handle: int, offset: int) -> tuple[int, int] | None:
        self._alive()
        data = self._open[handle].data
        begin = offset - offset % HOLE
        while begin < len(data) and not any(data[begin : begin + HOLE]):
            begin += HOLE
        if begin >= len(data):
            return None
        end = begin
        while end < len(data) and any(data[end : end + HOLE]):
            end += HOLE
        return max(begin, offset), min(end, len(data))

    def share(self, source: int, target: int) -> bool:
        self._alive()
        self._open[target].data = bytearray(self._open[source].data)
        return True

    def stat(self, path: Path) -> FileStat | None:
        self._alive()
        if str(path) not in self._disk.names:
            return None
        file = self._disk.names[str(path)]
        if file is None:
            return FileStat(
                kind=FileKind.FOLDER, size_bytes=0, allocated_bytes=0, links=2, identity="folder"
            )
        return FileStat(
            kind=FileKind.FILE,
            size_bytes=len(file.data),
            allocated_bytes=_allocated(file),
            links=1,
            identity=f"{file.number}.{len(file.data)}.{file.writes}",
        )

    def list_folder(self, path: Path) -> list[str]:
        self._alive()
        prefix = f"{path}/"
        names = (n[len(prefix) :] for n in self._disk.names if n.startswith(prefix))
        return sorted(name for name in names if name and "/" not in name)

    def make_folder(self, path: Path) -> None:
        self._alive()
        if str(path) not in self._disk.names:
            self._need_parent(path)
            self._disk.change("put", str(path))
        elif self._disk.names[str(path)] is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))

    def rename(self, source: Path, target: Path) -> None:
        self._alive()
        if str(source) not in self._disk.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
        self._need_parent(target)
        if self.list_folder(target):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(target))
        if self._disk.names[str(source)] is None and self._disk.names.get(str(target)) is not None:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target))
        self._renamed(str(source), str(target))
        self._disk.change("rename", str(source), str(target))

    def take_rights(self, path: Path, source: Path) -> None:
        self._alive()

    def remove_file(self, path: Path) -> None:
        self._alive()
        if self._disk.names.get(str(path), ()) is None:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        self._disk.change("remove", str(path))

    def remove_folder(self, path: Path) -> None:
        self._alive()
        if self.list_folder(path):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))
        if self._disk.names.get(str(path)) is not None:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        self._disk.change("remove", str(path))

    def lock(self, path: Path, place: int, *, alone: bool) -> int | None:
        self._alive()
        locks = self._disk.locks.setdefault(f"{path}:{place}", {})
        if locks and (alone or any(locks.values())):
            return None
        self._handles += 1
        self._locked[self._handles] = locks
        locks[self, self._handles] = alone
        return self._handles

    def space(self, path: Path) -> Space:
        self._alive()
        free = self._disk.capacity_bytes - self._used()
        return Space(capacity_bytes=self._disk.capacity_bytes, free_bytes=max(free, 0))

    def _used(self) -> int:
        return sum(len(file.data) for file in self._disk.names.values() if file is not None)

    def _need_parent(self, path: Path) -> None:
        if str(path.parent) not in self._disk.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        if self._disk.names[str(path.parent)] is not None:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def _allocated(file: _File) -> int:
    blocks = range(0, len(file.data), HOLE)
    return sum(HOLE for begin in blocks if any(file.data[begin : begin + HOLE]))
