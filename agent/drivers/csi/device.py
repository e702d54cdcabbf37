"""The bytes of a volume that is shown: a device of one size, which may know no holes."""

from __future__ import annotations

import ctypes
import errno
import os
from dataclasses import dataclass

from agent.drivers.driver import Content, Step, Steps
from agent.drivers.files import RealFiles, aligned_buffer

# linux/falloc.h: what is punched out of a block device reads as zeros, or the call fails.
_PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01
_WIPE_BYTES = 256 * 2**20  # between two looks at whether it is still wanted
_ZERO_BYTES = 4 * 2**20
_CANNOT_PUNCH = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV, errno.ENOSYS}


def size_of(handle: int) -> int:
    """Returns how many bytes a device has."""
    return os.lseek(handle, 0, os.SEEK_END)


class DeviceFiles(RealFiles):
    """The operating system's files, for what has one size for good and may know no holes."""

    def truncate(self, handle: int, size_bytes: int) -> None:
        """Leaves a device as long as it is: it was wiped before."""

    def next_data(self, handle: int, offset: int) -> tuple[int, int] | None:
        """Returns the next extent that holds data; all of a device may be."""
        try:
            return super().next_data(handle, offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        size = size_of(handle)
        return (offset, size) if offset < size else None


def wipe(handle: int, begin: int, end: int) -> Steps[None]:
    """Makes a device read as zeros, without writing them where it can."""
    offset = begin
    punches = True
    zeros = aligned_buffer(_ZERO_BYTES)
    while offset < end:
        yield Step(pulse=1 + offset // _ZERO_BYTES)
        length = min(end - offset, _WIPE_BYTES if punches else _ZERO_BYTES)
        if punches and not _punch(handle, offset, length):
            punches = False
            continue
        if not punches:
            RealFiles().pwrite(handle, zeros[:length], offset)
        offset += length


def _punch(handle: int, offset: int, length: int) -> bool:
    """Makes a range read as zeros; False where it cannot be done without writing them."""
    libc = ctypes.CDLL(None, use_errno=True)
    call = libc.fallocate64 if hasattr(libc, "fallocate64") else libc.fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if call(handle, _PUNCH_HOLE_KEEP_SIZE, offset, length) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_PUNCH:
        return False
    raise OSError(number, os.strerror(number))


@dataclass(frozen=True, slots=True, kw_only=True)
class Padded:
    """A content, and zeros after it: what a guest reads of a volume that is larger."""

    content: Content
    size_bytes: int

    @property
    def identity(self) -> str:
        """Returns the content's own: the zeros are always the same."""
        return self.content.identity

    def next_data(self, offset: int) -> tuple[int, int] | None:
        """Returns the next extent that holds data; the zeros are none."""
        return self.content.next_data(offset) if offset < self.content.size_bytes else None

    def pread(self, buffer: memoryview, offset: int) -> int:
        """Fills the buffer from an offset; returns how much there was."""
        wanted = max(0, min(len(buffer), self.size_bytes - offset))
        there = max(0, min(wanted, self.content.size_bytes - offset))
        done = self.content.pread(buffer[:there], offset) if there else 0
        if done < there:
            return done
        buffer[there:wanted] = bytes(wanted - there)
        return wanted
