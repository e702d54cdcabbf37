"""Sees every name that appears in some folders: the kernel tells, nobody polls."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CREATE, _MOVED_TO = 0x100, 0x80
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
_LIBC = ctypes.CDLL(None, use_errno=True)


class Watched:
    """Folders that are watched."""

    def __init__(self, handle: int, folders: dict[int, Path]) -> None:
        """Keeps what is read from."""
        self._handle = handle
        self._folders = folders

    def appeared(self) -> list[str]:
        """Returns what has appeared since the last call, as folder/name; none was missed."""
        found: list[str] = []
        while True:
            try:
                data = os.read(self._handle, 65_536)
            except BlockingIOError:
                return found
            while data:
                watch, mask, _, length = _EVENT.unpack_from(data)
                assert watch in self._folders, f"events were lost: mask {mask:#x}"
                name = data[_EVENT.size : _EVENT.size + length].rstrip(b"\0").decode()
                found.append(f"{self._folders[watch].name}/{name}")
                data = data[_EVENT.size + length :]


@contextmanager
def watching(*folders: Path) -> Iterator[Watched]:
    """Watches folders for names that are made in them, or moved into them."""
    handle = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert handle >= 0, os.strerror(ctypes.get_errno())
    try:
        watches = {}
        for folder in folders:
            watch = _LIBC.inotify_add_watch(handle, bytes(folder), _CREATE | _MOVED_TO)
            assert watch >= 0, f"{folder}: {os.strerror(ctypes.get_errno())}"
            watches[watch] = folder
        yield Watched(handle, watches)
    finally:
        os.close(handle)
