"""Which disks lie under a folder: whether a pool's data and a journal wait for one another.

A partition lies on its disk, a device made of others on all of theirs, a loop device wherever its
file does, and what is in memory on none. Where nobody can tell, as of an overlay, two folders may
share a disk: that costs copies some speed, where the opposite would cost every workflow its pace.
"""

from __future__ import annotations

import os
from pathlib import Path

_DEVICES = Path("/sys/dev/block")
_BTRFS = Path("/sys/fs/btrfs")

_IN_MEMORY = {"tmpfs", "ramfs"}
_MEMORY_DEVICES = ("zram", "ram")

# Their disks are another machine's; two mounts of one of them have one device number.
_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "fuse.glusterfs"}

# Names of disks; None where it cannot be told.
_Disks = frozenset[str] | None


def may_share(one: Path, other: Path) -> bool:
    """Returns whether flushes below one folder may wait for what is written below another."""
    found, others = _under(one), _under(other)
    if found is None or others is None:
        return found != frozenset() and others != frozenset()
    return not found.isdisjoint(others)


def _under(path: Path) -> _Disks:
    """Returns the disks under a folder or file."""
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            number = os.fstat(handle).st_dev
            kind, source = _mount(handle)
        finally:
            os.close(handle)
        if kind in _IN_MEMORY:
            return frozenset()
        if kind in _REMOTE or os.major(number):
            return _of_device(_named(number))
        if source.startswith("/"):  # file systems of several devices have numbers of their own
            return _of_all(_devices(Path(source)))
    except OSError:
        return None
    return None


def _mount(handle: int) -> tuple[str, str]:
    """Returns the kind and the source of the mount that an open file lies in."""
    about = Path(f"/proc/self/fdinfo/{handle}").read_text()
    [number] = [line.split()[1] for line in about.splitlines() if line.startswith("mnt_id:")]
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if line.split(" ", 1)[0] == number:
            kind, source, *_ = line.partition(" - ")[2].split(" ")
            return kind, source
    return "", ""


def _devices(source: Path) -> list[str]:
    """Returns the numbers of all the devices of a file system, of which one is its source."""
    number = _named(source.stat().st_rdev)
    name = (_DEVICES / number).resolve().name
    for folder in _BTRFS.glob("*/devices"):
        devices = list(folder.iterdir())
        if name in {device.name for device in devices}:
            return [_number_of(device) for device in devices]
    return [number]


def _of_device(number: str) -> _Disks:
    """Returns the disks that a device lies on; itself where nothing is known of it."""
    place = (_DEVICES / number).resolve()
    if not place.is_dir():
        return frozenset({number})
    if (place / "partition").exists():
        place = place.parent
    if place.name.startswith(_MEMORY_DEVICES):
        return frozenset()
    if (backing := place / "loop/backing_file").exists():
        return _of_loop(backing.read_text().strip())
    if parts := [*(place / "slaves").glob("*")]:
        return _of_all([_number_of(part) for part in parts])
    return frozenset({place.name})


def _of_loop(backing: str) -> _Disks:
    """Returns the disks under the file of a loop device; it may have no name any more."""
    path = Path(backing)
    if not path.is_absolute():  # in no folder that is seen from here
        return None
    while not path.exists():
        path = path.parent
    return _under(path)


def _of_all(numbers: list[str]) -> _Disks:
    found: frozenset[str] = frozenset()
    for number in numbers:
        disks = _of_device(number)
        if disks is None:
            return None
        found |= disks
    return found


def _named(number: int) -> str:
    return f"{os.major(number)}:{os.minor(number)}"


def _number_of(device: Path) -> str:
    return (device / "dev").read_text().strip()
