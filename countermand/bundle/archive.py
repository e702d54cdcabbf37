"""A zip file that is made while it is sent: nothing of it is kept but what is yet to be taken."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from datetime import datetime
from typing import IO


class _Taken(io.RawIOBase):
    """What a zip file is written to: it cannot go back, and hands over what it has."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # whatever has bytes
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


class Archive:
    """Files that are written one after the other, each in as many pieces as it takes."""

    def __init__(self, folder: str, now: datetime) -> None:
        """Begins; every file is in one folder, so that unpacking litters nothing."""
        self._folder = folder
        self._time = now.timetuple()[:6]
        self._sink = _Taken()
        self._zip = zipfile.ZipFile(self._sink, "w", zipfile.ZIP_DEFLATED)
        self._file: IO[bytes] | None = None

    def begin(self, name: str) -> None:
        """Begins a file."""
        about = zipfile.ZipInfo(f"{self._folder}/{name}", self._time)
        about.compress_type = zipfile.ZIP_DEFLATED
        about.external_attr = 0o644 << 16
        self._file = self._zip.open(about, "w", force_zip64=True)

    def put(self, pieces: Iterable[str]) -> bytes:
        """Writes to the file; returns what is ready to be sent."""
        assert self._file is not None
        for piece in pieces:
            self._file.write(piece.encode())
        return self._sink.take()

    def end(self) -> bytes:
        """Ends the file."""
        assert self._file is not None
        self._file.close()
        return self._sink.take()

    def drop(self) -> None:
        """Ends what was begun, if it has not ended: nobody takes the rest."""
        if self._file is not None:
            self._file.close()
        self._zip.close()

    def close(self) -> bytes:
        """Ends all; returns the rest."""
        self._zip.close()
        return self._sink.take()
