"""What there is to wait for: cores, and points that one passes at a time. In virtual time."""

from __future__ import annotations

import asyncio
import heapq
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


def now() -> float:
    """Returns the virtual time in seconds."""
    return asyncio.get_running_loop().time()


SWITCH_S = sys.getswitchinterval()  # for so long a busy thread of Python's keeps others waiting
BACKGROUND_MAX = 0.5  # threads take turns, however much one of them has to do


class Cores:
    """So many cores: whoever comes first is served first, by one of them.

    What is done all the time besides is a share, `background`: it makes all else take longer, and
    each who comes wait, as threads of one process of Python's do.
    """

    def __init__(self, count: int) -> None:
        """Begins idle."""
        self.count = count
        self.background = 0.0
        self._free_at = [0.0] * count
        self._busy_s = 0.0
        self._since = 0.0

    async def use(self, service_ms: float) -> None:
        """Returns once one of them has computed for so long."""
        begin = max(now(), heapq.heappop(self._free_at))
        share = min(self.background, BACKGROUND_MAX)
        end = begin + service_ms / 1000 / (1 - share) + share * SWITCH_S
        heapq.heappush(self._free_at, end)
        self._busy_s += service_ms / 1000
        await asyncio.sleep(end - now())

    def forget(self) -> None:
        """Begins to count anew."""
        self._busy_s, self._since = 0.0, now()

    @property
    def busy(self) -> float:
        """Returns how many were asked for on average; more than there are where it is too much."""
        return self.background + self._busy_s / max(now() - self._since, 1e-9)


class Point:
    """What one passes at a time, in the order in which they come."""

    def __init__(self) -> None:
        """Begins with nobody there."""
        self._lock = asyncio.Lock()
        self._held_s = 0.0
        self._since = 0.0

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Has everybody else wait meanwhile."""
        async with self._lock:
            began = now()
            try:
                yield
            finally:
                self._held_s += now() - began

    def forget(self) -> None:
        """Begins to count anew."""
        self._held_s, self._since = 0.0, now()

    @property
    def busy(self) -> float:
        """Returns which share of the time somebody was there."""
        return self._held_s / max(now() - self._since, 1e-9)
