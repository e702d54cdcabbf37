"""What several coordinators on one store go through, and how they are told to.

They are killed like any other process. Besides, one is frozen for longer than its lease, or cut off
from the store while it reaches the agents, or told to stop; the store's clock jumps; all of them
die at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

from tests.simulation.clock import EPOCH
from tests.simulation.nodes import CoordinatorNode, Node
from tests.simulation.sessions import Sessions

SEVERAL = (1, 2, 2, 3)  # one alone claims from its own earlier lives


CUT_S_MAX = 3.0  # after which a call to a store that cannot be reached fails


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """How often it happens to coordinators, and how long it lasts."""

    freeze_every_s: float = 15.0
    store_cut_every_s: float = 25.0
    store_cut_s_max: float = 20.0
    stop_every_s: float = 40.0
    jump_every_s: float = 45.0
    jump_s_max: float = 30.0
    all_killed_every_s: float = 150.0


QUIET = Trouble(
    freeze_every_s=1e9,
    store_cut_every_s=1e9,
    stop_every_s=1e9,
    jump_every_s=1e9,
    all_killed_every_s=1e9,
)


def count_of(seed: int) -> int:
    """Returns how many coordinators a world has, by dice of its own."""
    return Random(f"coordinators {seed}").choice(SEVERAL)


def trusts_clock(seed: int) -> bool:
    """Returns whether its coordinators send nothing once their leases may be over."""
    return Random(f"clocks {seed}").random() < 0.5


@dataclass(slots=True)
class Several:
    """The coordinators of one world, their sessions, and how they reach the store."""

    nodes: Sequence[CoordinatorNode]
    sessions: Sessions
    chance: Random
    time: Callable[[], float]
    note: Callable[[str], None]
    cut_until: dict[str, float] = field(default_factory=dict)  # from the store
    _deaf_until: dict[str, float] = field(default_factory=dict)  # frozen, or cut off
    ahead: timedelta = timedelta()  # how far the store's clock has jumped

    def anybody(self) -> CoordinatorNode:
        """Returns somebody to call: one that is up, if any is."""
        return self.chance.choice([node for node in self.nodes if node.services] or self.nodes)

    # -- trouble --------------------------------------------------------------------------------

    def storm(self, trouble: Trouble) -> Iterator[Coroutine[Any, Any, None]]:
        """Yields what goes wrong while everything fails."""
        yield self._freeze_for_ever(trouble)
        yield self._cut_for_ever(trouble)
        yield self._stop_for_ever(trouble)
        yield self._jump_for_ever(trouble)
        yield self._kill_all_for_ever(trouble)

    def calm(self) -> None:
        """Ends all of it."""
        self.cut_until.clear()
        for node in self.nodes:
            node.resume()

    def cut_from_store(self, node: Node) -> float:
        """Returns after how long a call of a coordinator to the store fails; 0: it does not."""
        if self.cut_until.get(node.name, 0.0) <= self.time():
            return 0.0
        return 0.001 + self.chance.random() ** 2 * CUT_S_MAX

    def hears_since(self, node: Node) -> datetime:
        """Returns since when a coordinator hears what others do, by its clock."""
        return EPOCH + timedelta(seconds=self._deaf_until.get(node.name, 0.0))

    def _deaf(self, node: Node, seconds: float) -> None:
        until = self.time() + seconds
        self._deaf_until[node.name] = max(self._deaf_until.get(node.name, 0.0), until)

    async def _freeze_for_ever(self, trouble: Trouble) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._while(trouble.freeze_every_s)
            node = self.chance.choice(self.nodes)
            node.freeze()
            shortest, longest = self.chance.choice(((0.1, 1.0), (1.0, 15.0), (14.0, 60.0)))
            frozen_s = shortest + self.chance.random() * (longest - shortest)
            self._deaf(node, frozen_s)
            loop.call_later(frozen_s, self._resume, node, node.life)

    def _resume(self, node: Node, life: int) -> None:
        if node.life == life:
            node.resume()

    async def _cut_for_ever(self, trouble: Trouble) -> None:
        while True:
            await self._while(trouble.store_cut_every_s)
            # Now and then the store itself is away.
            whole = self.chance.random() < 0.2
            cut_s = self.chance.random() * trouble.store_cut_s_max
            for node in self.nodes if whole else [self.chance.choice(self.nodes)]:
                self.note(f"{node.name} is cut off from the store")
                self.cut_until[node.name] = self.time() + cut_s
                self._deaf(node, cut_s + CUT_S_MAX)

    async def _stop_for_ever(self, trouble: Trouble) -> None:
        while True:
            await self._while(trouble.stop_every_s)
            self.chance.choice(self.nodes).stop()

    async def _jump_for_ever(self, trouble: Trouble) -> None:
        while True:
            await self._while(trouble.jump_every_s)
            jump_s = (self.chance.random() * 2 - 1) * trouble.jump_s_max
            self.note(f"the clock of the store jumps by {jump_s:.1f} s")
            self.ahead += timedelta(seconds=jump_s)

    async def _kill_all_for_ever(self, trouble: Trouble) -> None:
        while True:
            await self._while(trouble.all_killed_every_s)
            for node in self.nodes:
                node.kill()

    async def _while(self, mean_s: float) -> None:
        await asyncio.sleep(self.chance.expovariate(1 / mean_s))
