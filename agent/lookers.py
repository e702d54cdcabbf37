"""Looks at storage for whoever asks, beside the attempts: none of it may hold up another.

A pool whose storage hangs keeps what looks at it waiting, perhaps for ever. So lookers have threads
of their own, and each pool has its share of them: the attempts and the other pools go on.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from agent.drivers import copying
from agent.drivers.driver import Driver, Format, ImageFound, PoolFound, Step, Steps
from agent.executors import Executor, Guard, Interrupted
from countermand.rpc.errors import Busy, StorageFailed

log = logging.getLogger(__name__)

T = TypeVar("T")

# Of each pool: enough for a few administrators. Whoever comes next waits until he goes away.
LOOKS_MAX = 4

# Of each pool: one reads as fast as the disk can, and takes that from the attempts.
DIGESTS_MAX = 1

# What a digest takes is not known; by then somebody may have gone away.
RETRY_DELAY = timedelta(seconds=10)

# A pool in order answers in microseconds; after this its last report is told instead.
REPORT_WAIT_S = 1.0

THREADS_PER_POOL = LOOKS_MAX + DIGESTS_MAX + 2  # one for the report, one for a fence


class CallGuard:
    """Lets the work run for as long as its caller waits for it."""

    def __init__(self) -> None:
        """Begins with a caller."""
        self.caller_gone = False

    def check(self, step: Step) -> None:  # noqa: ARG002 - one step is as good as another
        """Stops the work when nobody waits for it any more."""
        if self.caller_gone:
            raise Interrupted

    async def keep(self, step: Step) -> None:
        """Keeps nothing."""


class _Desk:
    """Who looks at one pool."""

    def __init__(self, driver: Driver) -> None:
        """Begins with nobody, and with a report that only says what needs no look."""
        self.looks = asyncio.Semaphore(LOOKS_MAX)
        self.digests = 0
        self.reporting: asyncio.Future[None] | None = None
        self.reported = PoolFound(
            capacity_bytes=0, used_bytes=0, formats=(), verbs=frozenset(driver.verbs)
        )


class Lookers:
    """All who look at the pools of one agent."""

    def __init__(self, pools: Mapping[str, Driver], executor: Executor) -> None:
        """Needs `THREADS_PER_POOL` threads for each pool; takes none before it is needed."""
        self._executor = executor
        self._desks = {pool_id: _Desk(driver) for pool_id, driver in pools.items()}

    async def find(self, driver: Driver, image_id: str) -> ImageFound:
        """Looks at one image."""
        return await self.look(driver, partial(driver.find, image_id))

    async def list_images(self, driver: Driver, *, after: str, count_max: int) -> list[ImageFound]:
        """Lists images in order of their ids."""
        return await self.look(
            driver, partial(driver.list_images, after=after, count_max=count_max)
        )

    async def digest(self, driver: Driver, image_id: str) -> str:
        """Reads an image in full and returns its content's digest.

        Raises:
            Busy: Somebody is doing just that in this pool.
        """
        desk = self._desks[driver.config.pool_id]
        if desk.digests >= DIGESTS_MAX:
            raise Busy(retry_delay=RETRY_DELAY)
        desk.digests += 1
        guard = CallGuard()
        digesting = asyncio.ensure_future(self._executor.drive(_digest(driver, image_id), guard))

        def ended(done: asyncio.Future[str]) -> None:
            desk.digests -= 1
            _hear(done)

        digesting.add_done_callback(ended)  # the thread outlives a caller that goes away
        try:
            return await asyncio.shield(digesting)
        finally:
            guard.caller_gone = True

    async def report(self, driver: Driver) -> PoolFound:
        """Returns a pool's room and abilities; the last ones known while its storage hangs."""
        desk = self._desks[driver.config.pool_id]
        if desk.reporting is None:
            desk.reporting = asyncio.ensure_future(self._report(driver, desk))
            desk.reporting.add_done_callback(_hear)
        reporting = desk.reporting
        done, _ = await asyncio.wait({reporting}, timeout=REPORT_WAIT_S)
        if not done:
            return replace(desk.reported, problem=_failed(driver, "nothing so far"))
        return desk.reported

    async def _report(self, driver: Driver, desk: _Desk) -> None:
        try:
            desk.reported = await self._executor.call(driver.report)
        except OSError as error:  # a pool that is gone keeps nobody from hearing of the others
            log.exception("pool.report_failed", extra={"pool": driver.config.pool_id})
            name = errno.errorcode.get(error.errno or 0, str(error))
            desk.reported = replace(desk.reported, problem=_failed(driver, name))
        except Exception as error:  # a driver's own defect is told of as well
            log.exception("pool.report_failed", extra={"pool": driver.config.pool_id})
            desk.reported = replace(desk.reported, problem=_failed(driver, repr(error)))
        finally:
            desk.reporting = None

    async def look(self, driver: Driver, function: Callable[[], T]) -> T:
        """Does something on a pool that ends within a moment, unless its storage hangs."""
        return await self._share(driver, lambda: self._executor.call(function))

    async def drive(self, driver: Driver, steps: Steps[T], guard: Guard) -> T:
        """Does something on a pool step by step."""
        return await self._share(driver, lambda: self._executor.drive(steps, guard))

    async def _share(self, driver: Driver, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        desk = self._desks[driver.config.pool_id]
        await desk.looks.acquire()
        looking = asyncio.ensure_future(begin())

        def ended(done: asyncio.Future[T]) -> None:
            desk.looks.release()
            _hear(done)

        looking.add_done_callback(ended)  # the thread outlives a caller that goes away
        return await asyncio.shield(looking)


def _digest(driver: Driver, image_id: str) -> Steps[str]:
    with driver.reading(image_id, Format.RAW) as content:
        return (yield from copying.digest_content(content))


def _failed(driver: Driver, answer: str) -> StorageFailed:
    return StorageFailed(pool=driver.config.pool_id, error=answer, image="no image")


def _hear(done: asyncio.Future[T]) -> None:
    """Takes note of an error that nobody may wait for any more."""
    if not done.cancelled():
        done.exception()
