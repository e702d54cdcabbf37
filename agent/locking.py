"""Keeps two agents off one pool: who serves it alone locks it, for as long as the agent lives.

An agent takes what its journal does not know for what an earlier life has left, and sweeps it. Of a
folder that a second agent serves as well that would be what the other is at work on. So each locks
a place in the pool's mark, the only file there that is never replaced: alone, or together with
others where the pool is said to be shared. The kernel lets go of it when the process ends.
"""

from __future__ import annotations

import errno
import logging
from pathlib import Path

from agent.drivers.driver import PoolConfig
from agent.drivers.files import RealFiles
from agent.drivers.folders import words
from agent.drivers.layout import MARK
from agent.drivers.plugins import ConfigInvalid

log = logging.getLogger(__name__)

# Beyond the places that stand for images.
PLACE = 2**56

# There are no locks, or none for us: whoever has described the pool answers for it.
_UNLOCKED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL} | {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,  # its driver knows it by something else
}


class PoolLocks:
    """The locks on the pools of one agent; each pool's are taken and let go one after another."""

    def __init__(self) -> None:
        """Holds none."""
        self._files = RealFiles()
        self._held: dict[str, int] = {}

    def take(self, pool: PoolConfig, folder: Path) -> None:
        """Locks a pool; what was held of it before is let go first.

        Raises:
            ConfigInvalid: Another agent is in the way.
        """
        self.let_go(pool.pool_id)
        try:
            handle = self._files.lock(folder / MARK, PLACE, alone=not pool.shared)
        except OSError as error:
            if error.errno not in _UNLOCKED:
                raise
            log.warning("pool.unlocked", extra={"pool": pool.pool_id, "error": words(error)})
            return
        if handle is None:
            raise _taken(pool, folder)
        self._held[pool.pool_id] = handle

    def let_go(self, pool_id: str) -> None:
        """Lets go of a pool; one that is not held is fine."""
        handle = self._held.pop(pool_id, None)
        if handle is not None:
            self._files.close(handle)


def _taken(pool: PoolConfig, folder: Path) -> ConfigInvalid:
    """Returns the error that says that another agent is in the way, and what to do."""
    how = "alone: it does not say that it is shared" if pool.shared else "now"
    return ConfigInvalid(
        f"pool {pool.pool_id} at {pool.path}: another agent is serving it {how}. Stop one of them"
        f" (fuser {folder / MARK} names those of this host), or, if several hosts shall serve it,"
        " write shared for each of them"
    )
