"""Fences of the `file` driver: how a host keeps a lost attempt of another out of a shared pool.

The name of an attempt in the folder of what is staged is its right to work there. All that it ever
shows comes out of a folder of that name by one rename, or goes into it; a fence is a file in its
place, and then no such path can be walked: A's publishing fails, and so does a late start.

    one rename decides      the folder is renamed away, or what was in it is renamed out of it
    only then is it sure    who had walked the path before may still rename out of the folder where
                            it is now: so that is emptied and removed before anybody believes in
                            the fence. The folder inside it changes its name first, so that nothing
                            half-purged is ever published; a network file system whose client
                            remembers folders longer than names needs the same
    a fence holds nobody    it is empty, costs an inode, and stays until the attempt is forgotten

Knows nothing of what the attempt was to do: whether it has come to its effect before the fence
did, is for the verb's own action to find.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from agent.drivers.staging import Staging

# Each try loses only to another host that does something in the same place at the same moment.
TRIES_MAX = 100

_MOVED_ON = {errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}


def fence(staging: Staging, attempt: str) -> None:
    """Returns once the fence of an attempt stands, durably, and nothing gets past it.

    Repeatable, and by several hosts at once: whoever comes after a crash begins again.
    """
    staging.need_pool()
    layout, files = staging.layout, staging.files
    own, aside = layout.own(attempt), layout.aside(attempt)
    for _ in range(TRIES_MAX):
        _empty(staging, aside)  # also what an earlier try, perhaps of another host, has left
        if _stands(staging, own):
            break
        try:
            files.rename(own, aside)
        except OSError as error:
            if error.errno not in _MOVED_ON:
                raise
    else:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(own))
    # The images' folder as well: what had become visible must be found, and must last.
    staging.flush_folders()
    _empty(staging, aside)
    staging.room.settle(layout.account(layout.staged(attempt)), 0)


def _stands(staging: Staging, own: Path) -> bool:
    """Makes the fence, or finds it; returns False if a folder is in its place."""
    try:
        handle = staging.files.open_to_write(own)
    except OSError as error:
        if error.errno in _MOVED_ON:
            return False
        raise
    try:
        staging.files.flush(handle)
    finally:
        staging.files.close(handle)
    return True


def _empty(staging: Staging, aside: Path) -> None:
    """Removes what was put aside, for certain: it holds nobody's effect."""
    files = staging.files
    for _ in range(TRIES_MAX):
        if files.stat(aside) is None:
            return
        for name in files.list_folder(aside):
            if not name.endswith(_GOING):
                _rename_within(staging, aside, name)
        try:
            staging.layout.purge(aside)
        except OSError as error:
            if error.errno not in _MOVED_ON:
                raise
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(aside))


_GOING = ".going"


def _rename_within(staging: Staging, aside: Path, name: str) -> None:
    """Gives something that is to be purged a name that nobody else knows."""
    going = aside / f"{name}{_GOING}"
    staging.layout.purge(going)  # of an earlier try
    try:
        staging.files.rename(aside / name, going)
    except OSError as error:
        if error.errno not in _MOVED_ON:
            raise


def remove_fence(staging: Staging, attempt: str) -> None:
    """Removes the fence of an attempt that is forgotten everywhere; nothing is fine."""
    if staging.layout.is_fenced(attempt):
        staging.files.remove_file(staging.layout.own(attempt))
        staging.files.flush_folder(staging.layout.staging)
