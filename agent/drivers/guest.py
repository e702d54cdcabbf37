"""Reads qcow2 images as a guest does, through a private qemu-nbd.

It gets the whole chain by name and format, as the labels have it: no header of an image is ever
followed to another file, and no format is ever guessed. Its socket lies in a folder of ours, is
connected to before it starts, and closed with the last byte; it dies with this process.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from agent.drivers.driver import Format
from agent.drivers.nbd import Nbd
from countermand.rpc.errors import ToolFailed

TOOL = "qemu-nbd"
MISSING = "qemu-nbd is not installed on this host: install the package qemu-utils"

_STDERR_BYTES_MAX = 2000

# A listening socket as its third descriptor, and its own number in the environment: the way in
# which service managers hand sockets over.
_HAND_OVER = 'export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@" 3<&0 0</dev/null'

_Node: TypeAlias = dict[str, object]


def is_installed() -> bool:
    """Returns whether qemu-nbd is on the PATH."""
    return shutil.which(TOOL) is not None


@dataclass(slots=True, kw_only=True)
class GuestContent:
    """What a guest reads of an image."""

    nbd: Nbd
    size_bytes: int  # at most as many as there are
    identity: str
    _extents: list[tuple[int, int, bool]] = field(default_factory=list)  # told, and not passed yet

    def next_data(self, offset: int) -> tuple[int, int] | None:
        """Returns the next extent that holds data, as (begin, end), or None at the end."""
        if self._extents and offset < self._extents[0][0]:
            self._extents = []  # somebody begins again
        while offset < self.size_bytes:
            if not self._extents:
                self._extents = self.nbd.extents(offset)
            begin, end, is_zero = self._extents[0]
            if end <= offset:
                del self._extents[0]
            elif is_zero:
                offset = end
            else:
                return max(offset, begin), min(end, self.size_bytes)
        return None

    def pread(self, buffer: memoryview, offset: int) -> int:
        """Fills the buffer from an offset; returns how much there was."""
        count = max(0, min(len(buffer), self.size_bytes - offset))
        self.nbd.read(buffer[:count], offset)
        return count


@contextmanager
def serving(chain: Sequence[tuple[Path, Format]], *, image: str) -> Iterator[Nbd]:
    """Opens an image and those below it, nearest first, each with its format.

    Raises:
        ToolFailed: qemu-nbd cannot open it, or is not there.
    """
    if not is_installed():
        raise ToolFailed(tool=TOOL, image=image, stderr=MISSING)
    with tempfile.TemporaryFile() as stderr:
        process, connection = _start(chain, stderr.fileno())
        try:
            try:
                nbd = Nbd(connection)
            except OSError as error:
                process.kill()
                process.wait()
                stderr.seek(0)
                words = stderr.read(_STDERR_BYTES_MAX).decode(errors="replace").strip()
                raise ToolFailed(tool=TOOL, image=image, stderr=words or str(error)) from error
            with closing(nbd):
                yield nbd
        finally:
            connection.close()
            process.kill()
            process.wait()


def _start(
    chain: Sequence[tuple[Path, Format]], stderr: int
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Starts it, with a connection that waits for it already."""
    arguments = [TOOL, "--cache", "none" if _is_direct(chain) else "writeback"]
    arguments += ["--read-only", f"json:{json.dumps(_node(chain))}"]
    if shutil.which("setpriv"):  # or an agent that is killed leaves it behind
        arguments = ["setpriv", "--pdeathsig", "KILL", "--", *arguments]
    connection = socket.socket(socket.AF_UNIX)
    with (
        tempfile.TemporaryDirectory(prefix="countermand-") as folder,  # for us alone: 0700
        socket.socket(socket.AF_UNIX) as listening,
    ):
        listening.bind(f"{folder}/nbd")
        listening.listen(1)
        connection.connect(f"{folder}/nbd")
        process = subprocess.Popen(
            ["sh", "-c", _HAND_OVER, "sh", *arguments],
            stdin=listening.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    return process, connection


def _node(chain: Sequence[tuple[Path, Format]]) -> _Node:
    """Returns an image and those below it in qemu's words."""
    path, image_format = chain[0]
    file = {"driver": "file", "filename": str(path), "read-only": True}
    node: _Node = {"driver": image_format.value, "file": file, "read-only": True}
    if image_format is Format.QCOW2:
        node["backing"] = _node(chain[1:]) if chain[1:] else None
    return node


def _is_direct(chain: Sequence[tuple[Path, Format]]) -> bool:
    """Returns whether every file can be read past the page cache, which is for guests."""
    try:
        for path, _ in chain:
            os.close(os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True
