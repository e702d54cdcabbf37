"""Makes sure that a folder is the pool it is said to be, before anything is believed of it.

A pool that is not mounted looks like an empty one, and "there is nothing to make up for" would be
false once the mount is back. So each pool's folder carries `pool.json`, with an identity that the
first agent to serve it writes and every host shares; an agent's journal remembers which identity it
has served. The driver looks again whenever it is about to say that something is not there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from agent.config import ConfigInvalid
from agent.drivers.driver import PoolConfig
from agent.drivers.files import RealFiles
from agent.drivers.layout import MARK, Layout, Mark
from agent.journal import Transaction, Transactor


def check_folders(pools: Sequence[PoolConfig]) -> None:
    """Refuses pools without a folder of their own.

    Raises:
        ConfigInvalid: A folder is missing, is a file, or belongs to two pools.
    """
    folders: dict[str, Path] = {}
    for pool in pools:
        if pool.pool_id in folders:
            raise ConfigInvalid(f"pool {pool.pool_id} is described twice")
        folder = _folder(pool)
        for other_id, other in folders.items():
            if folder.samefile(other):
                raise ConfigInvalid(f"pools {other_id} and {pool.pool_id} are one folder, {folder}")
            inner, outer = (folder, other) if other in folder.parents else (other, folder)
            if outer in inner.parents:
                both = f"pools {other_id} and {pool.pool_id}"
                raise ConfigInvalid(f"{both} lie in one another: {inner} is inside {outer}")
        folders[pool.pool_id] = folder


def _folder(pool: PoolConfig) -> Path:
    """Returns where a pool's folder really is."""
    about = f"the folder of pool {pool.pool_id}, {pool.path},"
    try:
        folder = pool.path.resolve(strict=True)
        is_folder = folder.is_dir()
    except FileNotFoundError:
        todo = f"is it mounted? Make it first: mkdir -p {pool.path}"
        raise ConfigInvalid(f"{about} does not exist: {todo}") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: symbolic links in a circle
        raise ConfigInvalid(f"{about} cannot be reached: {_words(error)}") from error
    if not is_folder:
        raise ConfigInvalid(f"{about} is a file: a pool is a folder")
    return folder


def check_to_import(pool: PoolConfig) -> str:
    """Returns the identity of the only pool that an import is for, if it has been served yet.

    Raises:
        ConfigInvalid: Its folder is missing, or is another pool.
    """
    check_folders([pool])
    mark = _mark(pool)
    _refuse_other(pool, mark, "")
    return mark.identity if mark else ""


async def identify(
    journal: Transactor,
    pools: Sequence[PoolConfig],
    *,
    accepted: Collection[str],
    new_id: Callable[[], str],
) -> dict[str, str]:
    """Returns each pool's identity, empty for one that is read-only and has none yet.

    Nothing is written before every pool has been found to be what the journal remembers.

    Raises:
        ConfigInvalid: A folder is not the pool that this agent served before.
    """
    if unknown := set(accepted) - {pool.pool_id for pool in pools}:
        raise ConfigInvalid(f"--accept-pool {min(unknown)}: there is no such pool")
    remembered = await journal.transact(partial(_remembered, pools=pools))
    for pool in pools:
        known = "" if pool.pool_id in accepted else remembered[pool.pool_id]
        _refuse_other(pool, _mark(pool), known)
    # From here on a crash costs nothing: the next start finds the same identity.
    identities = {pool.pool_id: _identity(pool, new_id) for pool in pools}
    if identities != remembered:
        await journal.transact(partial(_remember, identities=identities))
    return identities


def _remembered(tx: Transaction, *, pools: Sequence[PoolConfig]) -> dict[str, str]:
    return {pool.pool_id: tx.meta(f"pool:{pool.pool_id}") for pool in pools}


def _remember(tx: Transaction, *, identities: Mapping[str, str]) -> None:
    for pool_id, identity in identities.items():
        tx.set_meta(f"pool:{pool_id}", identity)


def _refuse_other(pool: PoolConfig, mark: Mark | None, known: str) -> None:
    """Raises if a folder is not the pool that this agent knows."""
    where = f"pool {pool.pool_id} at {pool.path}"
    if mark is not None and mark.pool_id != pool.pool_id:
        raise ConfigInvalid(
            f"{where} is marked as pool {mark.pool_id} by its {MARK}: is this the right folder?"
        )
    if known and (mark is None or mark.identity != known):
        raise ConfigInvalid(
            f"{where} is not the one this agent served before: is it mounted? If it was replaced"
            f" on purpose, and all that was in the old one has gone for good, start once with"
            f" --accept-pool {pool.pool_id}"
        )


def _identity(pool: PoolConfig, new_id: Callable[[], str]) -> str:
    """Returns a pool's identity, having written it durably where it could and had to."""
    mark = _mark(pool)
    try:
        if not pool.read_only:
            if mark is None:
                _write(pool, Mark(pool_id=pool.pool_id, identity=new_id()))
                mark = _mark(pool)  # ours, or that of another host that was faster
            _flush(pool)  # also another host's: we shall remember it
    except OSError as error:
        where = f"pool {pool.pool_id} at {pool.path}"
        raise ConfigInvalid(f"{where}: cannot write its {MARK}: {_words(error)}") from error
    _refuse_other(pool, mark, "")
    return mark.identity if mark else ""


def _mark(pool: PoolConfig) -> Mark | None:
    path = pool.path / MARK
    try:
        return Layout(pool.pool_id, pool.path, RealFiles()).mark()
    except OSError as error:
        raise ConfigInvalid(f"pool {pool.pool_id}: cannot read {path}: {_words(error)}") from error
    except ValueError as error:
        raise ConfigInvalid(
            f"pool {pool.pool_id}: {path} says nothing that we wrote: is this the right folder?"
        ) from error


def _write(pool: PoolConfig, mark: Mark) -> None:
    """Writes a mark in full, never in the place of another."""
    draft = pool.path / f".{MARK}.{mark.identity}"
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(handle, mark.encode())
        os.fsync(handle)
        os.link(draft, pool.path / MARK)  # the only way not to replace that NFS has as well
    except FileExistsError:
        return
    finally:
        os.close(handle)
        draft.unlink()


def _flush(pool: PoolConfig) -> None:
    for path in (pool.path / MARK, pool.path):
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _words(error: Exception) -> str:
    """Returns what the operating system says, without its number."""
    return (isinstance(error, OSError) and error.strerror) or str(error)
