"""What happens to coordinators: killed, frozen for longer than their lease, stopped.

Each incident remembers what its victim owned, so that it can be told how long nobody decided.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

from tests.endtoend.checks import read
from tests.endtoend.cluster import Cluster, HangError, Service, until

CRASH, AT_ONCE, FREEZE, STOP = "kill -9", "kill -9, started at once", "SIGSTOP", "SIGTERM"
KINDS = {CRASH: 3, FREEZE: 2, STOP: 3, AT_ONCE: 1}
OWNED = (
    "SELECT w.id FROM workflows w JOIN sessions s ON s.id = w.session"
    " WHERE w.end_time_us IS NULL AND NOT s.ended AND s.name LIKE ?"
)


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that was done to a coordinator."""

    kind: str
    time: float  # of day
    owned: frozenset[str]  # what it owned a moment before
    others: bool  # whether any other coordinator was well
    took_s: float  # until the process had ended


@dataclass(slots=True)
class Trouble:
    """Makes trouble for some coordinators at a time, and starts them again."""

    cluster: Cluster
    url: str
    chance: random.Random
    lease_s: float
    complain: list[str]
    incidents: list[Incident] = field(default_factory=list)
    in_trouble: set[str] = field(default_factory=set)
    codes: list[int] = field(default_factory=list)  # of those that ended because they were stale

    async def run(self, stop: asyncio.Event) -> None:
        """Goes on until told to stop; all are well then."""
        while not stop.is_set():
            await asyncio.sleep(self.chance.uniform(0.4, 1.2) * self.lease_s)
            [count] = self.chance.choices((1, 2, 3), weights=(8, 2, 1))
            victims = self.chance.sample(self.cluster.coordinators, count)
            [kind] = self.chance.choices([*KINDS], weights=[*KINDS.values()])
            self.in_trouble = {each.name for each in victims}
            await asyncio.gather(*(self._strike(kind, each) for each in victims))
            self.in_trouble = set()

    async def watch(self) -> None:
        """Sees until cancelled whether any ends without a reason; it is started again."""
        while True:
            for service in self.cluster.coordinators:
                if not service.alive and service.name not in self.in_trouble:
                    life = service.life
                    assert life is not None
                    self.complain.append(
                        f"{service.name} ended by itself, with code {life.code}:"
                        f" {life.log.read_text()[-1000:]}"
                    )
                    await self._start(service)
            await asyncio.sleep(0.2)

    async def _strike(self, kind: str, service: Service) -> None:
        owned = await asyncio.to_thread(self._owned, service)
        now, began = time.time(), time.monotonic()
        if kind == FREEZE:
            service.freeze()
            await asyncio.sleep(self.lease_s * self.chance.uniform(1.3, 2.0))
            service.thaw()
            await self._sees_that_it_is_stale(service)
        elif kind == STOP:
            await service.stop()
        else:
            await service.kill()
        took_s = time.monotonic() - began
        others = len(self.in_trouble) < len(self.cluster.coordinators)
        self.incidents.append(Incident(kind, now, owned, others, took_s))
        if kind == CRASH:
            await asyncio.sleep(self.lease_s * self.chance.uniform(1.2, 1.8))
        elif kind == STOP:
            await asyncio.sleep(self.chance.uniform(0, self.lease_s))
        await self._start(service)

    async def _sees_that_it_is_stale(self, service: Service) -> None:
        """Waits for the end of one whose session others have ended, if any of them was there."""
        try:
            code = await service.ended()
        except HangError:
            if len(self.in_trouble) < len(self.cluster.coordinators):
                self.complain.append(f"{service.name} was frozen past its lease, and goes on")
            await service.kill()
        else:
            self.codes.append(code)
            assert service.life is not None
            if code != 1 or "has ended" not in service.life.log.read_text()[-3000:]:
                self.complain.append(f"{service.name} was stale, and ended with code {code}")

    async def _start(self, service: Service) -> None:
        if not await service.try_start(""):
            assert service.life is not None
            said = service.life.log.read_text()[-1000:]
            self.complain.append(f"{service.name} did not start: {said}")
            await until(lambda: not service.alive, f"end of {service.name}")

    def _owned(self, service: Service) -> frozenset[str]:
        rows = read(self.url, OWNED, f"%{service.address}")
        return frozenset(row["id"] for row in rows)
