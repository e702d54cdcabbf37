"""What everything in one life of a vendor shares: its calls, its array, its luck."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from random import Random
from typing import Any

from google.protobuf.message import Message

from coordinator.saga.workflow import Workflow
from countermand.rpc.errors import CountermandError
from tests.simulation.accounts import Accounts, Array
from tests.simulation.desk import Desk
from tests.simulation.nodes import Died, Surroundings

LOOK_S = 1.0
CALM_S_MAX = 1.0  # what anything takes, at most, when nothing fails any more

_REFUSED = frozenset(
    {
        "ATTEMPT_CLOSED",
        "NOT_OWNER",
        "REPORT_REUSED",
        "STATE_FORBIDS",
        "TASK_NOT_FOUND",
        "WORKFLOW_ID_TAKEN",
        "WORKFLOW_NOT_FOUND",
    }
)


class OwnersWorld(Surroundings):
    """What owners need of the world."""

    calm: bool
    accounts: Accounts

    def asserting(self) -> AbstractContextManager[None]:
        """Makes violations of failed assertions."""
        raise NotImplementedError

    def open_workflows(self) -> list[Workflow]:
        """Returns what is committed and not settled."""
        raise NotImplementedError


class Means:
    """What a vendor's process does everything with."""

    def __init__(self, name: str, world: OwnersWorld, desk: Desk) -> None:
        """Begins nothing."""
        self.name = name
        self.world = world
        self.desk = desk
        self.chance: Random = world.chance
        self.accounts = world.accounts
        self.array: Array = world.accounts.arrays[name]
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begins something in the process that this is called in."""
        task = asyncio.get_running_loop().create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, work: Awaitable[None]) -> None:
        """Lets nothing go wrong unseen."""
        try:
            await work
        except (asyncio.CancelledError, Died):
            raise
        except Exception as error:
            raise self.world.broken(f"{self.name}: {error!r}") from error

    async def ask(self, rpc: str, request: Message) -> Any:
        """Returns the answer to a call, however often it takes; raises what it is refused for."""
        try:
            return await self.desk.ask(rpc, request, at=self.name)
        except CountermandError as error:
            if error.reason not in _REFUSED:
                raise self.world.broken(f"{rpc} is refused: {error!r}") from error
            raise

    async def sleep(self, most_s: float) -> None:
        """Lets some time pass; little when all is calm."""
        most_s = min(most_s, CALM_S_MAX) if self.world.calm else most_s
        await asyncio.sleep(self.chance.random() * most_s)

    def happens(self, chance: float) -> bool:
        """Returns whether something happens that only does while things fail."""
        return not self.world.calm and self.chance.random() < chance

    async def until(self, holds: Callable[[], bool]) -> None:
        """Lets time pass until something holds."""
        while True:
            if holds():
                return
            await asyncio.sleep(LOOK_S)
