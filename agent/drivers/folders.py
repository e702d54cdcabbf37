"""Drivers whose pools are folders: each folder carries `pool.json`, so that it is known again.

A folder whose file system is not mounted looks like an empty pool, and "there is nothing to make up
for" would be false once the mount is back. So the first agent to serve a folder writes an identity
into it, which every host shares; see `agent.pools` for who remembers it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.drivers.driver import Driver, PoolConfig
from agent.drivers.files import RealFiles
from agent.drivers.layout import MARK, Layout, Mark
from agent.drivers.plugins import ConfigInvalid


def _nothing(_pool: PoolConfig) -> None:
    """Refuses no pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderType:
    """A kind of driver whose pools are folders."""

    verbs: frozenset[str]
    opening: Callable[[PoolConfig, str], Driver]
    options: Mapping[str, str] = field(default_factory=dict)
    checking: Callable[[PoolConfig], None] = _nothing

    def folder(self, pool: PoolConfig) -> Path | None:
        """Returns the folder that a pool must have to itself."""
        return pool.path

    def check(self, pool: PoolConfig) -> None:
        """Refuses a pool that it cannot serve."""
        self.checking(pool)

    def identity(self, pool: PoolConfig) -> str:
        """Returns what the folder's mark says; empty if there is none."""
        mark = _mark(pool)
        return mark.identity if mark else ""

    def mark(self, pool: PoolConfig, identity: str) -> str:
        """Writes the folder's mark durably, unless another host was faster."""
        try:
            if _mark(pool) is None:
                _write(pool, Mark(pool_id=pool.pool_id, identity=identity))
            _flush(pool)  # also another host's: we shall remember it
        except OSError as error:
            where = f"pool {pool.pool_id} at {pool.path}"
            raise ConfigInvalid(f"{where}: cannot write its {MARK}: {words(error)}") from error
        return self.identity(pool)

    def open(self, pool: PoolConfig, identity: str) -> Driver:
        """Serves a pool."""
        return self.opening(pool, identity)


def carries(pool: PoolConfig, identity: str) -> bool:
    """Returns whether a pool's folder carries an identity now: its file system may have gone."""
    try:
        mark = Layout(pool.pool_id, pool.path, RealFiles()).mark()
    except ValueError:
        return False
    return mark is not None and mark.identity == identity


def _mark(pool: PoolConfig) -> Mark | None:
    path = pool.path / MARK
    try:
        mark = Layout(pool.pool_id, pool.path, RealFiles()).mark()
    except OSError as error:
        raise ConfigInvalid(f"pool {pool.pool_id}: cannot read {path}: {words(error)}") from error
    except ValueError as error:
        raise ConfigInvalid(
            f"pool {pool.pool_id}: {path} says nothing that we wrote: is this the right folder?"
        ) from error
    if mark is not None and mark.pool_id != pool.pool_id:
        where = f"pool {pool.pool_id} at {pool.path}"
        renamed = replace(mark, pool_id=pool.pool_id).command(path)
        raise ConfigInvalid(
            f"{where} is marked as pool {mark.pool_id} by its {MARK}: is this the right folder?"
            f" Then serve it as {mark.pool_id}={pool.path}; or, once no agent serves it and no"
            f" workflow names it as {mark.pool_id}, give it its new name: {renamed}"
        )
    return mark


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


def words(error: Exception) -> str:
    """Returns what the operating system says, without its number."""
    return (isinstance(error, OSError) and error.strerror) or str(error)
