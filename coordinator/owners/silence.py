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

LOOKS = 4  # on the way to whoever is due next: of a halt of ours little more than a fourth counts
LOOK_S_MIN = 0.1  # between two looks; how much later than that somebody may be judged
WAIT_S_MAX = 3600.0
COMPACT_AT = 1000  # those that are due no more are removed once so many have gathered
LATE_S = 0.25  # a wake-up that comes later than this: nobody could be heard meanwhile


class Silence(Generic[K]):
    """Says of each that is waited for when nothing was heard of it for too long, once."""

    def __init__(self, say: Callable[[K], None]) -> None:
        """Waits for nobody yet."""
        self._say = say
        self._heard: dict[K, float] = {}
        self._patience: dict[K, tuple[float, Hashable]] = {}
        self._due: list[tuple[float, int, K]] = []  # looked at again: it may have been heard since
        self._number: dict[K, int] = {}  # which of these counts
        self._count = 0
        # Time in which we listened, which is what counts, and up to when it was reckoned.
        self._listened_s = 0.0
        self._reckoned_s: float | None = None
        self._planned_s = 0.0  # how long we meant to sleep since
        self._woken = asyncio.Event()

    def wait_for(self, key: K, patience_s: float, *, phase: Hashable = None) -> None:
        """Begins to wait for somebody; anew in another phase of what is waited for."""
        if self._patience.get(key) != (patience_s, phase):
            self._patience[key] = patience_s, phase
            self._heard[key] = self._now()
            self._push(key, self._heard[key] + patience_s)

    def hear(self, key: K) -> None:
        """Hears a sign of life."""
        if key in self._patience:
            self._heard[key] = self._now()

    def forget(self, key: K) -> None:
        """Waits for somebody no more."""
        self._patience.pop(key, None)
        self._number.pop(key, None)
        self._heard.pop(key, None)

    async def run(self) -> None:
        """Says who is silent, until cancelled."""
        self._reckon(0.0)
        while True:
            self._woken.clear()
            next_s = (self._due[0][0] - self._listened_s) / LOOKS if self._due else WAIT_S_MAX
            self._planned_s = min(max(next_s, LOOK_S_MIN), WAIT_S_MAX)
            try:
                async with asyncio.timeout(self._planned_s):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._reckon(self._now())
            self._look()

    def _reckon(self, listened_s: float) -> None:
        self._listened_s = listened_s
        self._reckoned_s = asyncio.get_running_loop().time()
        self._planned_s = 0.0

    def _look(self) -> None:
        now = self._now()
        while self._due and self._due[0][0] <= now:
            _, number, key = heapq.heappop(self._due)
            if self._number.get(key) != number:
                continue  # forgotten, or waited for anew since
            due_s = self._heard[key] + self._patience[key][0]
            if due_s > now:
                self._push(key, due_s)
            else:
                self.forget(key)
                self._say(key)

    def _push(self, key: K, due_s: float) -> None:
        self._count += 1
        self._number[key] = self._count
        heapq.heappush(self._due, (due_s, self._count, key))
        if len(self._due) > max(COMPACT_AT, 2 * len(self._number)):
            self._due = [each for each in self._due if self._number.get(each[2]) == each[1]]
            heapq.heapify(self._due)
        if self._due[0][2] == key:
            self._woken.set()

    def _now(self) -> float:
        """Returns how long we have listened; not at all before `run` has begun."""
        if self._reckoned_s is None:
            return self._listened_s
        passed_s = asyncio.get_running_loop().time() - self._reckoned_s
        return self._listened_s + min(passed_s, self._planned_s + LATE_S)
