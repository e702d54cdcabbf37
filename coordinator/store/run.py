"""Where the store's statements run: on threads, or, for the simulation, where the caller stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Protocol, TypeVar

from countermand.rpc.errors import Busy

T = TypeVar("T")

READERS = 2  # reads share the cores with the loop: more would only take turns
READ_RETRY = timedelta(seconds=1)  # by then some of those that wait have been read
READS_MAX = 256  # waiting and running: beyond it pages are asked for faster than they can be read


class Run(Protocol):
    """Runs plain functions that block on a database."""

    async def write(self, work: Callable[[], T]) -> T:
        """Runs what writes; one at a time, in the order of the calls."""

    async def write_beside(self, work: Callable[[], T]) -> T:
        """Runs what writes and must not wait for what else is written; one at a time as well."""

    async def read(self, work: Callable[[], T]) -> T:
        """Runs what only reads."""

    async def page(self, work: Callable[[], T]) -> T:
        """Runs what only reads and any number may ask for; it may be refused."""

    async def close(self) -> None:
        """Lets what has begun end, and takes nothing more."""


class Threads:
    """One thread that writes, one that writes what cannot wait for it, a few that read.

    A caller who is cancelled does not stop what has begun: a commit is then made or not made, and
    only the store knows.
    """

    def __init__(self, *, readers: int = READERS, reads_max: int = READS_MAX) -> None:
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="store-beside")
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="store-reader")
        self._reads = 0
        self._reads_max = reads_max

    async def write(self, work: Callable[[], T]) -> T:
        """Runs what writes; one at a time, in the order of the calls."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)

    async def write_beside(self, work: Callable[[], T]) -> T:
        """Runs what writes and must not wait for what else is written; one at a time as well."""
        return await asyncio.get_running_loop().run_in_executor(self._beside, work)

    async def read(self, work: Callable[[], T]) -> T:
        """Runs what only reads."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def page(self, work: Callable[[], T]) -> T:
        """Runs what only reads; refuses what would only wait."""
        if self._reads >= self._reads_max:
            raise Busy(retry_delay=READ_RETRY)
        self._reads += 1
        try:
            return await self.read(work)
        finally:
            self._reads -= 1

    async def close(self) -> None:
        """Lets what has begun end, and takes nothing more."""
        for executor in (self._readers, self._beside, self._writer):
            await asyncio.to_thread(executor.shutdown)


class Inline:
    """Runs everything at once on the caller's thread: the same order each time."""

    async def write(self, work: Callable[[], T]) -> T:
        """Runs what writes."""
        return work()

    async def write_beside(self, work: Callable[[], T]) -> T:
        """Runs what writes."""
        return work()

    async def read(self, work: Callable[[], T]) -> T:
        """Runs what only reads."""
        return work()

    async def page(self, work: Callable[[], T]) -> T:
        """Runs what only reads."""
        return work()

    async def close(self) -> None:
        """Does nothing: nothing is under way."""
