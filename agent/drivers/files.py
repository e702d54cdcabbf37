"""The port to a file system: everything the `file` driver ever asks of one.

Small on purpose: the simulation brings a file system in memory that forgets what was not flushed,
and must be able to say the same things. Nothing here follows a symbolic link in the last part of a
path. Errors are OSError with the errno a kernel would give.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from agent.drivers.ahead import Ahead, threaded
from agent.drivers.modes import DataIO, probe
from countermand.rpc.metrics import Histogram

FICLONE = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of fcntl(2)

# Of a flush: from a good disk to one that is shared by many.
FLUSH_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)

BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system's own is


class FileKind(StrEnum):
    """What a name stands for."""

    FILE = "FILE"
    FOLDER = "FOLDER"
    LINK = "LINK"  # symbolic
    SPECIAL = "SPECIAL"  # a device, a pipe or a socket


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStat:
    """What is known of a name."""

    kind: FileKind
    size_bytes: int
    allocated_bytes: int
    links: int
    identity: str  # changes when the content was replaced or written to


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The room of a file system."""

    capacity_bytes: int
    free_bytes: int
    read_only: bool = False  # it is mounted so, from the start or since it met an error


class Files(Protocol):
    """A file system."""

    @property
    def ahead(self) -> Ahead:
        """Reads ahead, in threads where the order of things need not be the same each time."""
        ...

    def tune(self, folder: Path, *, sample: Path | None = None) -> None:
        """Finds out how data is best read and written below a folder; with a sample, only read."""
        ...

    def open_to_read(self, path: Path) -> int:
        """Opens an existing file."""
        ...

    def open_to_write(self, path: Path) -> int:
        """Opens a file for reading and writing, making it if it is not there."""
        ...

    def close(self, handle: int) -> None:
        """Closes a file."""
        ...

    def pread(self, handle: int, buffer: memoryview, offset: int) -> int:
        """Fills the buffer from an offset; returns how much there was."""
        ...

    def pwrite(self, handle: int, buffer: memoryview, offset: int) -> None:
        """Writes the whole buffer at an offset."""
        ...

    def truncate(self, handle: int, size_bytes: int) -> None:
        """Sets the size; what is new is a hole."""
        ...

    def extend(self, handle: int, size_bytes: int) -> None:
        """Makes a file at least so long, whoever else makes it longer; what is new is a hole."""
        ...

    def allocate(self, handle: int, size_bytes: int) -> None:
        """Takes the room for a whole file now."""
        ...

    def flush(self, handle: int) -> None:
        """Returns once the file's data would survive a power cut."""
        ...

    def flush_folder(self, path: Path) -> None:
        """Returns once the folder's names would survive a power cut."""
        ...

    def next_data(self, handle: int, offset: int) -> tuple[int, int] | None:
        """Returns the next extent that holds data, as (begin, end), or None at the end."""
        ...

    def share(self, source: int, target: int) -> bool:
        """Makes the target share the source's data; False where the file system cannot."""
        ...

    def stat(self, path: Path) -> FileStat | None:
        """Returns what a name stands for, itself and not where it leads; None if nothing."""
        ...

    def list_folder(self, path: Path) -> list[str]:
        """Returns the names in a folder, sorted; none if there is no such folder."""
        ...

    def make_folder(self, path: Path) -> None:
        """Makes a folder; one that exists is fine."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Renames a folder; one with content in the target's place is EEXIST or ENOTEMPTY.

        A file takes the place of another at once.
        """
        ...

    def take_rights(self, path: Path, source: Path) -> None:
        """Gives a file the mode of another, and its owner where that is allowed, durably."""
        ...

    def remove_file(self, path: Path) -> None:
        """Removes a file; an absent one is fine."""
        ...

    def remove_folder(self, path: Path) -> None:
        """Removes an empty folder; an absent one is fine."""
        ...

    def lock(self, path: Path, place: int, *, alone: bool) -> int | None:
        """Locks one place of a file, against other hosts too; None while somebody is in the way.

        Until what is returned is closed, or its process ends. Several may hold a place that none
        holds alone. What a file holds at the place, if anything, does not matter.
        """
        ...

    def space(self, path: Path) -> Space:
        """Returns the room of the file system under a path."""
        ...


class RealFiles:
    """The operating system's."""

    ahead: Ahead = staticmethod(threaded)

    def __init__(self, *, journals_beside: bool | None = False) -> None:
        """Reads and writes as any file system can, before it is tuned to one."""
        self._journals_beside = bool(journals_beside)
        self.flushes = Histogram(FLUSH_BUCKETS)  # how long files took, on whichever thread
        self._counting = threading.Lock()
        self._data = DataIO(journals_beside=self._journals_beside)

    def tune(self, folder: Path, *, sample: Path | None = None) -> None:
        """Finds out how data is best read and written below a folder; with a sample, only read."""
        mode = probe(folder, sample)
        self._data = DataIO(mode, journals_beside=self._journals_beside)

    def open_to_read(self, path: Path) -> int:
        """Opens an existing file."""
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def open_to_write(self, path: Path) -> int:
        """Opens a file for reading and writing, making it if it is not there."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)

    def close(self, handle: int) -> None:
        """Closes a file."""
        self._data.close(handle)
        os.close(handle)

    def pread(self, handle: int, buffer: memoryview, offset: int) -> int:
        """Fills the buffer from an offset; returns how much there was."""
        done = 0
        while done < len(buffer):
            count = self._data.read(handle, buffer[done:], offset + done)
            if count == 0:
                break
            done += count
        return done

    def pwrite(self, handle: int, buffer: memoryview, offset: int) -> None:
        """Writes the whole buffer at an offset."""
        done = 0
        while done < len(buffer):
            done += self._data.write(handle, buffer[done:], offset + done)

    def truncate(self, handle: int, size_bytes: int) -> None:
        """Sets the size; what is new is a hole."""
        os.ftruncate(handle, size_bytes)

    def extend(self, handle: int, size_bytes: int) -> None:
        """Makes a file at least so long, at the price of one block; never shorter, as truncate may.

        An agent that was held up here for a while must not cut off what others have written since.
        """
        if size_bytes:
            os.posix_fallocate(handle, size_bytes - 1, 1)

    def allocate(self, handle: int, size_bytes: int) -> None:
        """Takes the room for a whole file now."""
        os.posix_fallocate(handle, 0, size_bytes)

    def flush(self, handle: int) -> None:
        """Returns once the file's data would survive a power cut."""
        began = time.monotonic()
        os.fdatasync(handle)
        took_s = time.monotonic() - began
        with self._counting:
            self.flushes.observe(took_s)

    def flush_folder(self, path: Path) -> None:
        """Returns once the folder's names would survive a power cut."""
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def next_data(self, handle: int, offset: int) -> tuple[int, int] | None:
        """Returns the next extent that holds data, as (begin, end), or None at the end."""
        try:
            begin = os.lseek(handle, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            raise
        return begin, os.lseek(handle, begin, os.SEEK_HOLE)

    def share(self, source: int, target: int) -> bool:
        """Makes the target share the source's data; False where the file system cannot."""
        try:
            fcntl.ioctl(target, FICLONE, source)
        except OSError as error:
            if error.errno in {errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV}:
                return False
            raise
        return True

    def stat(self, path: Path) -> FileStat | None:
        """Returns what a name stands for, itself and not where it leads; None if nothing."""
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):  # below a file there is nothing
            return None
        return FileStat(
            kind=_KINDS.get(stat.S_IFMT(found.st_mode), FileKind.SPECIAL),
            size_bytes=found.st_size,
            allocated_bytes=found.st_blocks * BLOCK_BYTES,
            links=found.st_nlink,
            identity=f"{found.st_ino}.{found.st_size}.{found.st_mtime_ns}",
        )

    def list_folder(self, path: Path) -> list[str]:
        """Returns the names in a folder, sorted; none if there is no such folder."""
        try:
            return sorted(os.listdir(path))  # noqa: PTH208 - names, not paths
        except (FileNotFoundError, NotADirectoryError):
            return []

    def make_folder(self, path: Path) -> None:
        """Makes a folder; one that exists is fine, and a link to one is not: it leads elsewhere."""
        try:
            path.mkdir(mode=0o750)
        except FileExistsError:
            if not stat.S_ISDIR(path.lstat().st_mode):
                raise

    def rename(self, source: Path, target: Path) -> None:
        """Renames a folder, or a file in the place of another."""
        source.rename(target)

    def take_rights(self, path: Path, source: Path) -> None:
        """Gives a file the mode of another, and its owner where that is allowed, durably."""
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            wanted, found = source.lstat(), os.fstat(handle)
            rights = (wanted.st_uid, wanted.st_gid, wanted.st_mode)
            if rights == (found.st_uid, found.st_gid, found.st_mode):
                return
            with suppress(PermissionError):  # of an agent that is not root
                os.fchown(handle, wanted.st_uid, wanted.st_gid)
            os.fchmod(handle, stat.S_IMODE(wanted.st_mode))  # last: the other takes bits away
            os.fsync(handle)
        finally:
            os.close(handle)

    def remove_file(self, path: Path) -> None:
        """Removes a file; an absent one is fine."""
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Removes an empty folder; an absent one is fine."""
        try:
            path.rmdir()
        except FileNotFoundError:
            return

    def lock(self, path: Path, place: int, *, alone: bool) -> int | None:
        """Locks one place of a file, against other hosts too; None while somebody is in the way."""
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        kind = fcntl.F_WRLCK if alone else fcntl.F_RDLCK
        try:
            fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, place, 1, 0))
        except OSError as error:
            os.close(handle)
            if error.errno in {errno.EAGAIN, errno.EACCES}:
                return None
            raise
        return handle

    def space(self, path: Path) -> Space:
        """Returns the room of the file system under a path."""
        found = os.statvfs(path)
        return Space(
            capacity_bytes=found.f_blocks * found.f_frsize,
            free_bytes=found.f_bavail * found.f_frsize,
            read_only=bool(found.f_flag & os.ST_RDONLY),
        )


_KINDS = {
    stat.S_IFREG: FileKind.FILE,
    stat.S_IFDIR: FileKind.FOLDER,
    stat.S_IFLNK: FileKind.LINK,
}


def aligned_buffer(size_bytes: int) -> memoryview:
    """Returns a buffer that begins on a page, as direct I/O and the kernel's copies like it."""
    return memoryview(mmap.mmap(-1, size_bytes))
