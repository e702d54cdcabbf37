"""The bytes of images on this host, open to be read."""

from __future__ import annotations

from dataclasses import dataclass

from agent.drivers.files import Files


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
