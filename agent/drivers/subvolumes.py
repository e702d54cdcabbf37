"""Subvolumes of btrfs, by the kernel's own calls: made, snapshotted and exchanged in O(1).

No command is run for it, and no privilege is needed beyond owning the pool's folder: whoever owns a
subvolume may snapshot it, and since Linux 4.18 remove it when it is empty. A snapshot is atomic and
lasts once the call returns; an exchange of names lasts after the next flush of their folders.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# linux/btrfs.h: _IOW and _IOR of 0x94 with the size of each argument
_SUBVOLUME_CREATE = 0x5000940E  # _IOW(0x94, 14, struct btrfs_ioctl_vol_args)
_SNAPSHOT_CREATE = 0x50009417  # _IOW(0x94, 23, struct btrfs_ioctl_vol_args_v2)
_FS_INFO = 0x8400941F  # _IOR(0x94, 31, struct btrfs_ioctl_fs_info_args)
_GET_FLAGS = 0x80086601  # FS_IOC_GETFLAGS
_SET_FLAGS = 0x40086602  # FS_IOC_SETFLAGS
_NO_COW = 0x00800000  # FS_NOCOW_FL
_FS_INFO_BYTES = 1024

_ROOT_INODE = 256  # of every subvolume

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h

_NOT_BTRFS = {errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL}


def is_btrfs(path: Path) -> bool:
    """Returns whether a folder is on btrfs."""
    with _folder(path) as handle:
        try:
            fcntl.ioctl(handle, _FS_INFO, bytearray(_FS_INFO_BYTES))
        except OSError as error:
            if error.errno in _NOT_BTRFS:
                return False
            raise
    return True


def is_subvolume(path: Path) -> bool:
    """Returns whether a folder of a btrfs is the root of a subvolume."""
    return path.lstat().st_ino == _ROOT_INODE


def create(path: Path, *, no_cow: bool = False) -> None:
    """Makes an empty subvolume."""
    with _folder(path.parent) as parent:
        fcntl.ioctl(parent, _SUBVOLUME_CREATE, bytearray(struct.pack("q4088s", 0, _name(path))))
    path.chmod(0o750)  # as all folders of a pool
    if no_cow:  # what is made in it inherits that
        with _folder(path) as handle:
            flags = bytearray(8)
            fcntl.ioctl(handle, _GET_FLAGS, flags)
            [found] = struct.unpack("l", flags)
            fcntl.ioctl(handle, _SET_FLAGS, struct.pack("l", found | _NO_COW))


def snapshot(source: Path, path: Path) -> None:
    """Makes a subvolume that shares all that another one holds at this moment."""
    with _folder(source) as origin, _folder(path.parent) as parent:
        arguments = struct.pack("qQQ4Q4040s", origin, 0, 0, 0, 0, 0, 0, _name(path))
        fcntl.ioctl(parent, _SNAPSHOT_CREATE, bytearray(arguments))


def exchange(one: Path, other: Path) -> None:
    """Exchanges two names at once; no moment is without either."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(one), None, str(other))


def _name(path: Path) -> bytes:
    return os.fsencode(path.name)


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)
