"""Makes sure that storage is the pool it is said to be, before anything is believed of it.

A pool that is not mounted looks like an empty one, and "there is nothing to make up for" would be
false once the mount is back. So each pool's storage carries an identity, which its driver finds or
writes and every host shares; an agent's journal remembers which identity it has served. The driver
looks again whenever it is about to say that something is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from agent.drivers.driver import PoolConfig
from agent.drivers.folders import words
from agent.drivers.plugins import ConfigInvalid, Drivers
from agent.journal import Transaction, Transactor


def check_folders(pools: Sequence[PoolConfig], drivers: Drivers) -> None:
    """Refuses pools that share storage, or whose drivers need a folder that is not there.

    Raises:
        ConfigInvalid: A folder is missing, is a file, or belongs to two pools.
    """
    folders: dict[str, Path] = {}
    described: set[str] = set()
    for pool in pools:
        if pool.pool_id in described:
            raise ConfigInvalid(f"pool {pool.pool_id} is described twice")
        described.add(pool.pool_id)
        needed = drivers.load(pool.driver).folder(pool)
        if needed is None:
            continue
        folder = _folder(pool.pool_id, needed)
        for other_id, other in folders.items():
            if folder.samefile(other):
                raise ConfigInvalid(f"pools {other_id} and {pool.pool_id} are one folder, {folder}")
            inner, outer = (folder, other) if other in folder.parents else (other, folder)
            if outer in inner.parents:
                both = f"pools {other_id} and {pool.pool_id}"
                raise ConfigInvalid(f"{both} lie in one another: {inner} is inside {outer}")
        folders[pool.pool_id] = folder


def _folder(pool_id: str, path: Path) -> Path:
    """Returns where a pool's folder really is."""
    about = f"the folder of pool {pool_id}, {path},"
    try:
        folder = path.resolve(strict=True)
        is_folder = folder.is_dir()
    except FileNotFoundError:
        todo = f"is it mounted? Make it first: mkdir -p {path}"
        raise ConfigInvalid(f"{about} does not exist: {todo}") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: symbolic links in a circle
        raise ConfigInvalid(f"{about} cannot be reached: {words(error)}") from error
    if not is_folder:
        raise ConfigInvalid(f"{about} is a file: a pool is a folder")
    return folder


def check_to_import(pool: PoolConfig, drivers: Drivers) -> str:
    """Returns the identity of the only pool that an import is for, if it has been served yet.

    Raises:
        ConfigInvalid: Its storage is missing, or is another pool.
    """
    check_folders([pool], drivers)
    return drivers.load(pool.driver).identity(pool)


async def identify(
    journal: Transactor,
    pools: Sequence[PoolConfig],
    *,
    drivers: Drivers,
    accepted: Collection[str],
    new_id: Callable[[], str],
) -> dict[str, str]:
    """Returns each pool's identity, empty for one that is read-only and has none yet.

    Nothing is written before every pool has been found to be what the journal remembers.

    Raises:
        ConfigInvalid: A pool is not the one that this agent served before.
    """
    if unknown := set(accepted) - {pool.pool_id for pool in pools}:
        raise ConfigInvalid(f"--accept-pool {min(unknown)}: there is no such pool")
    remembered = await journal.transact(partial(_remembered, pools=pools))
    kinds = {pool.pool_id: drivers.load(pool.driver) for pool in pools}
    found = {pool.pool_id: kinds[pool.pool_id].identity(pool) for pool in pools}
    for pool in pools:
        known = "" if pool.pool_id in accepted else remembered[pool.pool_id]
        if known and found[pool.pool_id] != known:
            raise _other(pool)
    # From here on a crash costs nothing: the next start finds the same identity.
    for pool in pools:
        if not pool.read_only:
            identity = found[pool.pool_id] or new_id()
            found[pool.pool_id] = kinds[pool.pool_id].mark(pool, identity)
    if found != remembered:
        await journal.transact(partial(_remember, identities=found))
    return found


def _remembered(tx: Transaction, *, pools: Sequence[PoolConfig]) -> dict[str, str]:
    return {pool.pool_id: tx.meta(f"pool:{pool.pool_id}") for pool in pools}


def _remember(tx: Transaction, *, identities: Mapping[str, str]) -> None:
    for pool_id, identity in identities.items():
        tx.set_meta(f"pool:{pool_id}", identity)


def _other(pool: PoolConfig) -> ConfigInvalid:
    """Returns the error that says that storage is not the one that this agent knows."""
    return ConfigInvalid(
        f"pool {pool.pool_id} at {pool.path} is not the one this agent served before: is it"
        " mounted? If it was replaced on purpose, and all that was in the old one has gone for"
        f" good, start once with --accept-pool {pool.pool_id}"
    )
