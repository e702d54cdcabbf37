"""How long nothing has been heard of an owner, and whether that is the owner's fault.

Only time in which the coordinator could listen counts: whatever kept it from that, a restart or a
machine that stood still, begins every wait anew. So nobody is judged by a silence of ours.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

LATE_S = 0.5  # a wake-up that comes later than this: nobody could be heard meanwhile
WAIT_S_MAX = 3600.0


class Silence(Generic[K]):
    """Says of each that is waited for when nothing was heard of it for too long, once."""

    def __init__(self, say: Callable[[K], None]) -> None:
        """Waits for nobody yet."""
        self._say = say
        self._heard: dict[K, float] = {}
        self._patience: dict[K, tuple[float, Hashable]] = {}
        self._due: list[tuple[float, int, K]] = []  # looked at again: it may have been heard since
        self._count = 0
        self._deaf_until = 0.0
        self._woken = asyncio.Event()

    def wait_for(self, key: K, patience_s: float, *, phase: Hashable = None) -> None:
        """Begins to wait for somebody; anew in another phase of what is waited for."""
        if self._patience.get(key) != (patience_s, phase):
            self._patience[key] = patience_s, phase
            self._heard[key] = self._now()
            self._push(key, self._now() + patience_s)

    def hear(self, key: K) -> None:
        """Hears a sign of life."""
        if key in self._patience:
            self._heard[key] = self._now()

    def forget(self, key: K) -> None:
        """Waits for somebody no more."""
        self._patience.pop(key, None)
        self._heard.pop(key, None)

    async def run(self) -> None:
        """Says who is silent, until cancelled."""
        self._deaf_until = self._now()
        while True:
            self._woken.clear()
            next_s = min(self._due[0][0], self._now() + WAIT_S_MAX) if self._due else None
            try:
                async with asyncio.timeout_at(next_s):
                    await self._woken.wait()
            except TimeoutError:
                pass
            if next_s is not None and self._now() - next_s > LATE_S:
                self._deaf_until = self._now()
            self._look()

    def _look(self) -> None:
        now = self._now()
        while self._due and self._due[0][0] <= now:
            _, _, key = heapq.heappop(self._due)
            if key not in self._patience:
                continue
            due_s = max(self._heard[key], self._deaf_until) + self._patience[key][0]
            if due_s > now:
                self._push(key, due_s)
            else:
                self.forget(key)
                self._say(key)

    def _push(self, key: K, due_s: float) -> None:
        self._count += 1
        heapq.heappush(self._due, (due_s, self._count, key))
        if self._due[0][2] == key:
            self._woken.set()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
