"""Makes sure that storage is the pool it is said to be, before anything is believed of it.

A pool that is not mounted looks like an empty one, and "there is nothing to make up for" would be
false once the mount is back. So each pool's storage carries an identity, which its driver finds or
writes and every host shares; an agent's journal remembers which identity it has served. The driver
looks again whenever it is about to say that something is not there.

A pool that this agent has served before and cannot open now keeps it from none of the others: it is
told of as failing, and tried again every few seconds. One that is new is refused at once, while
whoever has described it is at hand.
"""

from __future__ import annotations

import asyncio
import logging
import stat
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from agent.closed import ClosedPool
from agent.disks import may_share
from agent.drivers.driver import Driver, PoolConfig
from agent.drivers.folders import words
from agent.drivers.layout import MARK, Mark
from agent.drivers.plugins import ConfigInvalid, Drivers
from agent.executors import Calls, InlineExecutor
from agent.journal import Transaction, Transactor
from agent.locking import PoolLocks

log = logging.getLogger(__name__)

# Storage in order answers in milliseconds; whatever comes later is served when it comes.
OPEN_WAIT_S = 10.0

# Until a pool that could not be opened is tried again: nobody waits long for a mount that is back.
RETRY_S = 10.0


def check_folders(
    pools: Sequence[PoolConfig], drivers: Drivers, *, data: Path | None = None
) -> None:
    """Refuses pools that share storage; a folder that cannot be reached shares none.

    The data are the journal's folder, which is no part of a pool and has none in it.

    Raises:
        ConfigInvalid: A folder is a file, or belongs to two pools.
    """
    folders: dict[str, _Folder] = {}
    journal = _reached(data) if data is not None else None
    if journal is not None:
        folders["--data"] = journal
    described: set[str] = set()
    for pool in pools:
        if pool.pool_id in described:
            raise ConfigInvalid(f"pool {pool.pool_id} is described twice")
        described.add(pool.pool_id)
        needed = drivers.load(pool.driver).folder(pool)
        folder = _reached(needed) if needed is not None else None
        if folder is None:  # whoever opens the pool says so
            continue
        if not folder.is_folder:
            about = f"the folder of pool {pool.pool_id}, {needed},"
            raise ConfigInvalid(f"{about} is a file: a pool is a folder")
        for other_id, other in folders.items():
            _refuse_shared(f"pool {pool.pool_id}", folder, other_id, other)
        folders[f"pool {pool.pool_id}"] = folder


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folder:
    """Where a pool's folder really is."""

    path: Path
    is_folder: bool
    file: tuple[int, int]  # its device and its number there


def _reached(path: Path) -> _Folder | None:
    """Returns a folder; None of one that cannot be reached, or whose storage does not answer."""
    found: list[_Folder] = []

    def look() -> None:
        with suppress(OSError, RuntimeError):  # RuntimeError: symbolic links in a circle
            real = path.resolve(strict=True)
            about = real.stat()
            is_folder, file = stat.S_ISDIR(about.st_mode), (about.st_dev, about.st_ino)
            found.append(_Folder(path=real, is_folder=is_folder, file=file))

    looking = threading.Thread(target=look, name="look", daemon=True)  # it may never come back
    looking.start()
    looking.join(OPEN_WAIT_S)
    return found[0] if found else None


def _refuse_shared(name: str, folder: _Folder, other_name: str, other: _Folder) -> None:
    """Refuses two folders of which one would take the other's content for its own."""
    both = f"{other_name} and {name}"
    if folder.file == other.file:
        raise ConfigInvalid(f"{both} are one folder, {folder.path}: each needs its own")
    one, two = folder.path, other.path
    inner, outer = (one, two) if two in one.parents else (two, one)
    if outer in inner.parents:
        raise ConfigInvalid(f"{both} lie in one another: {inner} is inside {outer}")


def _need_folder(pool: PoolConfig, path: Path) -> None:
    """Refuses a pool whose folder is not there, or cannot be reached."""
    about = f"the folder of pool {pool.pool_id}, {path},"
    try:
        path.resolve(strict=True)
    except FileNotFoundError:
        todo = f"is it mounted? If the pool is new, make it first: mkdir -p {path}"
        raise ConfigInvalid(f"{about} does not exist: {todo}") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: symbolic links in a circle
        raise ConfigInvalid(f"{about} cannot be reached: {words(error)}") from error


def check_to_import(pool: PoolConfig, drivers: Drivers) -> str:
    """Returns the identity of the only pool that an import is for, if it has been served yet.

    Raises:
        ConfigInvalid: Its storage is missing, or is another pool.
    """
    check_folders([pool], drivers)
    return _look(pool, drivers)


def _look(pool: PoolConfig, drivers: Drivers) -> str:
    """Returns which storage is there now."""
    kind = drivers.load(pool.driver)
    needed = kind.folder(pool)
    if needed is not None:
        _need_folder(pool, needed)
    try:
        return kind.identity(pool)
    except OSError as error:  # a driver of somebody else's may say no more than that
        raise ConfigInvalid(f"pool {pool.pool_id} at {pool.path}: {words(error)}") from error


class Pools:
    """The pools of one agent, each opened as soon as it can be."""

    def __init__(
        self,
        journal: Transactor,
        configs: Sequence[PoolConfig],
        *,
        drivers: Drivers,
        new_id: Callable[[], str],
        calls: Calls | None = None,
        opening: Callable[[PoolConfig, str], Driver] | None = None,
        data: Path | None = None,
        locks: PoolLocks | None = None,
    ) -> None:
        """Opens none yet; calls storage that may hang. The data are the journal's folder.

        Without locks nobody keeps another agent off the pools.
        """
        self._journal = journal
        self._configs = {config.pool_id: config for config in configs}
        self._kinds = drivers
        self._new_id = new_id
        self._calls = calls or InlineExecutor()
        self._open_driver = opening or drivers.open
        self._data = data
        self._locks = locks
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # Both are as they are now, whoever holds them.
        self.drivers: dict[str, Driver] = {}
        self.identities: dict[str, str] = {}
        for config in configs:
            self._close(config.pool_id, "it was not opened so far")

    async def open(self, accepted: Collection[str] = ()) -> None:
        """Opens all of them; what was served before, and cannot be opened now, stays closed.

        Raises:
            ConfigInvalid: A pool that is new, or is to be accepted, cannot be opened.
        """
        if unknown := set(accepted) - self._configs.keys():
            raise ConfigInvalid(f"--accept-pool {min(unknown)}: there is no such pool")
        served = await self._journal.transact(partial(_served, pool_ids=[*self._configs]))
        for pool_id in self._configs:
            known = "" if pool_id in accepted else served.get(pool_id, "")
            self.identities[pool_id] = known
            self._begin(pool_id)
        await self._settled()
        for pool_id in self._closed():
            if pool_id in accepted or pool_id not in served:
                raise ConfigInvalid(self._why(pool_id))

    async def open_later(self) -> None:
        """Tries those again that are closed, until cancelled."""
        while True:
            await asyncio.sleep(RETRY_S)
            await self.try_again()

    async def try_again(self) -> None:
        """Tries those again that are closed, unless their storage has not answered yet."""
        for pool_id in self._closed():
            if self._tasks[pool_id].done():
                self._begin(pool_id)
        await self._settled()

    def stop(self) -> None:
        """Waits for no storage any more."""
        for task in self._tasks.values():
            task.cancel()

    def _begin(self, pool_id: str) -> None:
        self._tasks[pool_id] = asyncio.ensure_future(self._open(self._configs[pool_id]))

    async def _settled(self) -> None:
        """Returns once every pool is open or has said why not, or has not answered for long."""
        if not self._tasks:
            return
        _, pending = await asyncio.wait(self._tasks.values(), timeout=OPEN_WAIT_S)
        for pool_id, task in self._tasks.items():
            if task in pending:
                self._close(pool_id, f"its storage has not answered for {OPEN_WAIT_S:g} s")

    async def _open(self, config: PoolConfig) -> None:
        pool_id = config.pool_id
        try:
            driver = await self._opened(config)
        except Exception as error:  # a driver of somebody else's may raise anything
            why = words(error) or repr(error)
            if not isinstance(error, ConfigInvalid) and self._why(pool_id) != why:
                log.exception("pool.defect", extra={"pool": pool_id})
            if self._locks is not None:
                self._locks.let_go(pool_id)
            self._close(pool_id, why)
        else:
            self.drivers[pool_id] = driver
            beside = bool(driver.config.journals_beside)
            log.info("pool.open", extra={"pool": pool_id, "journals_beside": beside})

    async def _opened(self, config: PoolConfig) -> Driver:
        """Opens a pool, once its storage was found to be the pool that it is said to be.

        A crash costs nothing: whoever comes next finds the same identity. It is remembered last,
        since what could not be opened so far was never served.
        """
        call, kind = self._calls.call, self._kinds.load(config.driver)
        known = self.identities[config.pool_id]
        found = await call(partial(_look, config, self._kinds))
        if known and found != known:
            raise _other(config, known=known, found=found, folder=kind.folder(config))
        if not config.read_only:
            found = await call(partial(kind.mark, config, found or self._new_id()))
            folder = kind.folder(config)
            if self._locks is not None and folder is not None:
                await call(partial(self._locks.take, config, folder))
        driver = await call(lambda: self._open_driver(self._placed(config), found))
        if found != known or not found:
            await self._journal.transact(partial(_remember, pool_id=config.pool_id, identity=found))
        self.identities[config.pool_id] = found
        return driver

    def _placed(self, config: PoolConfig) -> PoolConfig:
        """Returns a pool that says whether a journal lies on its disk: known once it is mounted."""
        folder = self._kinds.load(config.driver).folder(config)
        # What is not in the pool's own folder lies where only its driver knows.
        if config.journals_beside is not None or self._data is None or folder != config.path:
            return config
        return replace(config, journals_beside=may_share(config.path, self._data))

    def _closed(self) -> list[str]:
        return [each for each, driver in self.drivers.items() if isinstance(driver, ClosedPool)]

    def _why(self, pool_id: str) -> str:
        driver = self.drivers[pool_id]
        return driver.why if isinstance(driver, ClosedPool) else ""

    def _close(self, pool_id: str, why: str) -> None:
        """Puts what only says why in the place of a driver, and says it once."""
        if pool_id in self.drivers and self._why(pool_id) != why:
            log.warning("pool.closed", extra={"pool": pool_id, "error": why})
        config = self._configs[pool_id]
        verbs = frozenset(self._kinds.load(config.driver).verbs)
        self.drivers[pool_id] = ClosedPool(config, verbs, why)


def _served(tx: Transaction, *, pool_ids: Sequence[str]) -> dict[str, str]:
    """Returns the pools that were served before, each with its identity."""
    known = {each: tx.meta(f"pool:{each}") for each in pool_ids}
    return {each: known[each] for each in pool_ids if known[each] or tx.meta(f"served:{each}")}


def _remember(tx: Transaction, *, pool_id: str, identity: str) -> None:
    tx.set_meta(f"pool:{pool_id}", identity)
    tx.set_meta(f"served:{pool_id}", "1")  # also of one that is read-only and has no identity


def _other(pool: PoolConfig, *, known: str, found: str, folder: Path | None) -> ConfigInvalid:
    """Returns the error that says that storage is not the one that this agent knows."""
    about = f"pool {pool.pool_id} at {pool.path}"
    accept = (
        "If it was replaced on purpose, and all that was in the old one has gone for good, start"
        f" once with --accept-pool {pool.pool_id}"
    )
    if found or folder is None:
        what = f"is not the one this agent served before ({found or 'no identity'}, not {known})"
        return ConfigInvalid(f"{about} {what}: is it mounted? {accept}")
    mark = Mark(pool_id=pool.pool_id, identity=known)
    again = mark.command(folder / MARK)
    lost = f"If the images are there and only that file was lost, write it again: {again} ."
    what = f"has lost its {MARK}, which says which pool it is: is it mounted? Then mount it."
    return ConfigInvalid(f"{about} {what} {lost} {accept}")
