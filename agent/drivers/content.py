"""The bytes of images on this host, open to be read."""

from __future__ import annotations

from dataclasses import dataclass

from agent.drivers.driver import Content
from agent.drivers.files import Files, aligned_buffer

_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class FileContent:
    """The bytes of an open file."""

    files: Files
    handle: int
    size_bytes: int
    identity: str

    def next_data(self, offset: int) -> tuple[int, int] | None:
        """Returns the next extent that holds data, as (begin, end), or None at the end."""
        return self.files.next_data(self.handle, offset)

    def pread(self, buffer: memoryview, offset: int) -> int:
        """Fills the buffer from an offset; returns how much there was."""
        return self.files.pread(self.handle, buffer, offset)


def holds_data(content: Content, begin: int) -> bool:
    """Returns whether anything but zeros is read from an offset on: holes cost nothing."""
    buffer = aligned_buffer(_READ_BYTES)
    while extent := content.next_data(begin):
        begin = min(extent[1], extent[0] + _READ_BYTES)
        piece = buffer[: begin - extent[0]]
        count = content.pread(piece, extent[0])
        if bytes(piece[:count]).strip(b"\0"):
            return True
    return False
