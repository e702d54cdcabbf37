"""Fences of the `file` driver: how a host keeps a lost attempt of another out of a shared pool.

The name of an attempt in the folder of what is staged is its right to work there: all that it ever
shows comes by one rename out of a folder inside a folder of that name, or goes into it. A fence is
a file under that name. No such path can be walked then: publishing fails, and so does a late start.

    one rename decides      what the attempt would publish is renamed away, or was published before
    nobody gets past        the attempt's own folder is removed, never renamed: whoever had walked
                            into it holds a dead folder, where nothing can be made any more, and no
                            fence of another host is ever moved
    only then is it sure    what was renamed away is purged before anybody believes in the fence:
                            who had walked into that may still rename a label out of it
    a fence holds nothing   it is empty, costs an inode, and stays until the attempt is forgotten

The same holds where a client remembers folders longer than their names, as those of NFS do. Knows
nothing of what the attempt was to do: whether it came to its effect before the fence did, is for
the verb's own action to find.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.drivers.staging import Staging

# Each try loses only to somebody who does something in the same place at the same moment.
TRIES_MAX = 100

_MOVED_ON = {errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}


def fence(staging: Staging, attempt: str) -> None:
    """Returns once the fence of an attempt stands, durably, and nothing gets past it.

    Repeatable, and by several hosts at once: whoever comes after a crash begins again.
    """
    staging.need_pool()
    layout = staging.layout
    own, aside = layout.own(attempt), layout.aside(attempt)
    for _ in range(TRIES_MAX):
        if _stands(staging, own):
            break
        _clear(staging, own, aside)
    else:
        raise _busy(own)
    # Of the images as well: what had become visible must be found, and must last.
    staging.flush_folders()
    _empty(staging, aside)  # what another host has put there, too
    staging.room.settle(layout.account(layout.staged(attempt)), 0)


def remove_fence(staging: Staging, attempt: str) -> None:
    """Removes the fence of an attempt that is forgotten everywhere; nothing is fine."""
    if staging.layout.is_fenced(attempt):
        staging.files.remove_file(staging.layout.own(attempt))
        staging.files.flush_folder(staging.layout.staging)


def _stands(staging: Staging, own: Path) -> bool:
    """Makes the fence, or finds it; returns False if a folder is in its place."""
    try:
        handle = staging.files.open_to_write(own)
    except IsADirectoryError:
        return False
    try:
        staging.files.flush(handle)
    finally:
        staging.files.close(handle)
    return True


def _clear(staging: Staging, own: Path, aside: Path) -> None:
    """Takes everything out of an attempt's folder, and removes that; others may do so, too."""
    files = staging.files
    _empty(staging, aside)
    with _racing():
        files.make_folder(aside)
        for name in files.list_folder(own):
            files.rename(own / name, aside / name)
        files.remove_folder(own)


def _empty(staging: Staging, aside: Path) -> None:
    """Removes what was put aside, for certain: it holds nobody's effect."""
    for _ in range(TRIES_MAX):
        if staging.files.stat(aside) is None:
            return
        with _racing():
            staging.layout.purge(aside)
    raise _busy(aside)


@contextmanager
def _racing() -> Iterator[None]:
    """Lets somebody else have been faster: whoever calls looks again."""
    try:
        yield
    except OSError as error:
        if error.errno not in _MOVED_ON:
            raise


def _busy(path: Path) -> OSError:
    return OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
