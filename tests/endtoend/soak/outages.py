"""What happens to PostgreSQL: killed and started again, and connections to it cut at COMMIT."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.postgres import Server
from tests.proxy import Moment, Proxy

COMMIT = b"COMMIT\0"
BETWEEN_S = (20.0, 60.0)
LONG_SHARE = 0.4  # of outages: as long as a lease, or longer


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which there was no database."""

    began: float  # of day
    ended: float


@dataclass(slots=True)
class Outages:
    """Makes trouble for the database, and for the ways to it."""

    server: Server
    proxies: Sequence[Proxy]
    chance: random.Random
    lease_s: float
    outages: list[Outage] = field(default_factory=list)
    cuts: int = 0
    # The server ends with the thread that started it.
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    async def start(self) -> None:
        """Starts the server."""
        await self._do(self.server.start)

    async def run(self, stop: asyncio.Event) -> None:
        """Goes on until told to stop; the database is there then."""
        cutting = asyncio.create_task(self._cut_for_ever())
        while not stop.is_set():
            try:
                async with asyncio.timeout(self.chance.uniform(*BETWEEN_S)):
                    await stop.wait()
            except TimeoutError:
                await self._strike()
        cutting.cancel()
        for proxy in self.proxies:
            await proxy.pass_on()

    async def end(self) -> None:
        """Removes the server."""
        await self._do(self.server.remove)
        self._thread.shutdown()

    async def _strike(self) -> None:
        began = time.time()
        await self._do(self.server.kill)
        if self.chance.random() < LONG_SHARE:
            await asyncio.sleep(self.lease_s * self.chance.uniform(1.0, 2.0))
        await self._do(self.server.start)
        self.outages.append(Outage(began, time.time()))

    async def _cut_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.chance.uniform(0.3, 3.0))
            proxy = self.chance.choice(self.proxies)
            proxy.cut_at(COMMIT, self.chance.choice([*Moment]))
            try:
                async with asyncio.timeout(5):
                    await proxy.sprung.wait()
            except TimeoutError:
                continue
            self.cuts += 1

    async def _do(self, what: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, what)  # type: ignore[arg-type]
