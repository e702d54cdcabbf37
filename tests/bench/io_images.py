"""The images that copies are measured with, made anew each time: nothing of them is compressible.

full     raw, every block written
sparse   raw, a tenth of it in scattered extents of 64 KiB to 1 MiB
base     qcow2, half of it written; an overlay on it, `top`, has another quarter of its own
"""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

PIECE_BYTES = 4 * 2**20
SCATTERED_BYTES = tuple(2**power for power in range(16, 21))


def make_full(path: Path, size_bytes: int) -> None:
    """Writes a raw image in full."""
    with path.open("wb") as file:
        for _ in range(0, size_bytes, PIECE_BYTES):
            file.write(os.urandom(PIECE_BYTES))
        file.truncate(size_bytes)


def make_sparse(path: Path, size_bytes: int) -> None:
    """Writes a tenth of a raw image, here and there; always in the same places."""
    chance = random.Random(size_bytes)
    left = size_bytes // 10
    with path.open("wb") as file:
        file.truncate(size_bytes)
        while left > 0:
            length = chance.choice(SCATTERED_BYTES)
            file.seek(chance.randrange(0, size_bytes - length, SCATTERED_BYTES[0]))
            file.write(os.urandom(length))
            left -= length


def make_base(path: Path, size_bytes: int) -> None:
    """Writes every other piece of a qcow2 image."""
    raw = path.with_suffix(".raw")
    with raw.open("wb") as file:
        for offset in range(0, size_bytes, 2 * PIECE_BYTES):
            file.seek(offset)
            file.write(os.urandom(PIECE_BYTES))
        file.truncate(size_bytes)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path], check=True)
    raw.unlink()


def write_overlay(path: Path, size_bytes: int) -> None:
    """Writes every fourth piece of an overlay, as a guest would."""
    commands = [
        f"write -q -P {1 + offset // PIECE_BYTES % 255} {offset} {PIECE_BYTES}"
        for offset in range(PIECE_BYTES, size_bytes, 4 * PIECE_BYTES)
    ]
    text = "\n".join([*commands, "flush", "quit", ""])
    subprocess.run(
        ["qemu-io", "-f", "qcow2", path], input=text.encode(), check=True, capture_output=True
    )


def make_empty(path: Path, size_bytes: int) -> None:
    """Makes a qcow2 image without data."""
    create = ["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(size_bytes)]
    subprocess.run(create, check=True)
