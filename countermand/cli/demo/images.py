"""Makes real disk images for the demo: random data in scattered extents, holes between.

Random, so that nothing between can compress it away or share it; scattered, because that is what a
disk that was lived on looks like.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Format = Literal["raw", "qcow2"]

MIB: Final = 1024 * 1024
EXTENT: Final = MIB  # as coarse as a file system's allocation of a growing file


@dataclass(frozen=True, slots=True)
class Disk:
    """One image to make."""

    image_id: str
    virtual_mib: int
    data_mib: int


def best_format() -> Format:
    """Returns qcow2 where qemu-img can make it, and raw otherwise."""
    return "qcow2" if shutil.which("qemu-img") else "raw"


def make(disk: Disk, folder: Path, image_format: Format) -> Path:
    """Returns a new file with the disk's content."""
    raw = folder / f"{disk.image_id}.raw"
    _fill(raw, disk)
    if image_format == "raw":
        return raw
    target = folder / f"{disk.image_id}.qcow2"
    convert = ["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", str(raw), str(target)]
    subprocess.run(convert, check=True, capture_output=True)
    raw.unlink()
    return target


def _fill(path: Path, disk: Disk) -> None:
    """Writes random extents; where they are is the same on every run, what they hold is not."""
    places = random.Random(disk.image_id)  # noqa: S311 - places, not secrets
    extents = places.sample(range(disk.virtual_mib), disk.data_mib)
    with path.open("wb") as file:
        file.truncate(disk.virtual_mib * MIB)
        for extent in sorted(extents):
            file.seek(extent * MIB)
            file.write(os.urandom(EXTENT))
