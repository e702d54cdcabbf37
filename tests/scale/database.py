"""A model of the database that coordinators share, and of the store that each has on it.

It answers what `Keeper`, `Tail` and `Inbox` ask, after as long as it takes. Sessions and who owns
how many workflows are kept; of the workflows there is only a number.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from coordinator.runtime.floors import NOBODYS, Common, Floor
from coordinator.runtime.ports import (
    Claim,
    Letter,
    LetterAnswer,
    Session,
    StoreFencedError,
)
from tests.scale.costs import Cost, Costs
from tests.scale.machines import Cores, Point, now

SOME = [("another", n) for n in range(2001)]  # entries: whose they are does not matter


@dataclass(slots=True)
class Life:
    """A session."""

    expire_s: float
    workflows: int
    ended: bool = False


@dataclass(slots=True)
class Database:
    """What there is once."""

    costs: Costs
    cores: Cores
    hosts: int
    named: float  # hosts that a floor names
    lives: dict[int, Life] = field(default_factory=dict)
    epoch: int = 0
    position: int = 1
    housekeeper: int = 0
    positions: Point = field(default_factory=Point)  # the row that counts them
    epochs: Point = field(default_factory=Point)

    def begin(self, workflows: int, lasts_s: float) -> int:
        """Returns a new session that owns so many."""
        self.epoch += 1
        self.lives[self.epoch] = Life(expire_s=now() + lasts_s, workflows=workflows)
        return self.epoch

    @property
    def orphans(self) -> int:
        """Returns how many workflows nobody owns, or somebody who is gone and not found so."""
        gone = (each for each in self.lives.values() if each.ended or each.expire_s < now())
        return sum(each.workflows for each in gone)


class ModelStore:
    """A coordinator's store: what it computes itself, its own core does."""

    def __init__(self, database: Database, core: Cores, session: int) -> None:
        """Has the database open as a session."""
        self._database = database
        self._core = core
        self._session = session
        self._writer = Point()  # one commit at a time
        self._beside = Point()  # one small transaction at a time
        self._readers = (Point(), Point())
        self._turn = 0
        self.floors_s: list[float] = []  # how long it took to read them

    # -- sessions -------------------------------------------------------------------------------

    async def end_standstills(self) -> int:
        """Ends transactions of others that stand still: here none does."""
        return 0

    async def renew(self, lasts: timedelta, floor: Floor) -> tuple[Session, ...]:
        """Lets the session last on."""
        costs, database = self._database.costs, self._database
        async with self._beside.held():
            await self._take(costs.renew.plus(costs.renew_host.times(database.named)))
            self._check()
            database.lives[self._session].expire_s = now() + lasts.total_seconds()
        begin = datetime.min.replace(tzinfo=UTC)
        return tuple(
            Session(id=i, name="", start_time=begin, ended=each.ended)
            for i, each in database.lives.items()
        )

    async def floors(self) -> Common:
        """Returns what the floors of all sessions come to."""
        began, database = now(), self._database
        async with self._reader():
            entries = len(database.lives) * database.named
            await self._take(database.costs.floors_host.times(entries))
        self.floors_s.append(now() - began)
        return Common(lowest=NOBODYS, newest=0)

    async def claim(self, limit: int) -> Claim | None:
        """Takes over what an ended session has left."""
        costs, database = self._database.costs, self._database
        async with self._beside.held():
            self._check()
            for number, life in database.lives.items():
                if life.expire_s < now() and number != self._session:
                    life.ended = True
            left = [n for n, each in sorted(database.lives.items()) if each.ended]
            owners = [n for n in left if database.lives[n].workflows]
            if not owners:
                await self._take(costs.look)
                for number in left:
                    database.lives.pop(number, None)
                return None
            owner = database.lives[owners[self._session % len(owners)]]
            count = min(limit, owner.workflows)
            owner.workflows -= count  # their rows are locked: others skip them
            named = database.named
            hold_ms = costs.claim_holds_ms + named * costs.claim_host_holds_ms
            whole = costs.claim.plus(costs.claim_host.times(named))
            held = whole.times(min(1.0, hold_ms / whole.whole_ms))
            await self._take(whole.plus(held.times(-1)))
            async with database.epochs.held():
                await self._take(held)
                self._check()
                database.epoch += 1
            database.lives[self._session].workflows += count
        async with self._reader():
            await self._take(costs.load.times(count / 100))
        workflows: Any = (None,) * count
        return Claim(owner_epoch=database.epoch, workflows=workflows, floor=NOBODYS)

    async def keep_house(self) -> int:
        """Returns who keeps the house."""
        database = self._database
        async with self._beside.held():
            await self._take(database.costs.keep_house)
        keeper = database.lives.get(database.housekeeper)
        if keeper is None or keeper.ended:
            database.housekeeper = self._session
        return database.housekeeper

    # -- looks ----------------------------------------------------------------------------------

    async def letters(self, limit: int) -> list[Letter]:
        """Returns that there are no letters."""
        async with self._reader():
            await self._take(self._database.costs.letters)
        self._check()
        return []

    async def answer(self, answers: Sequence[LetterAnswer]) -> None:
        """Answers none."""

    async def position(self) -> int:
        """Returns the last position."""
        return self._database.position

    async def moves(self, *, after: int, limit: int) -> list[tuple[str, int]]:
        """Returns entries after a position."""
        costs, found = self._database.costs, min(limit, self._database.position - after)
        async with self._reader():
            await self._take(costs.moves.plus(costs.moves_row.times(found)))
        return [*SOME[: found - 1], ("another", after + found)] if found else []

    async def settled(self, workflow_ids: Sequence[str]) -> frozenset[str]:
        """Returns that nothing has settled: nobody watches."""
        return frozenset()

    async def hosts(self) -> None:
        """Reads all hosts."""
        async with self._reader():
            await self._take(self._database.costs.hosts_row.times(self._database.hosts))

    async def evidence(self, hosts: float) -> None:
        """Looks what so many hosts may forget, each by itself; their lines pay for themselves."""
        async with self._reader():
            once = self._database.costs.evidence
            await self._database.cores.use(hosts * once.server_ms)

    # -- writing --------------------------------------------------------------------------------

    async def commit(self, decisions: int) -> None:
        """Commits; from its position on no other commit goes on."""
        costs, database = self._database.costs, self._database
        more = decisions - 1
        whole = costs.commit.plus(costs.commit_more.times(more))
        holds_ms = costs.holds_ms + costs.holds_more_ms * more
        held = whole.times(min(1.0, holds_ms / whole.whole_ms))
        async with self._writer.held():
            await self._take(whole.plus(held.times(-1)))
            async with database.positions.held():
                await self._take(held)
                database.position += decisions
        self._check()

    async def change_host(self, times: int) -> None:
        """Notes how far so many hosts were heard of, one after the other."""
        for some in (5,) * (times // 5) + (times % 5,):
            async with self._writer.held():
                await self._take(self._database.costs.change_host.times(some))

    # -- what it takes --------------------------------------------------------------------------

    async def _take(self, cost: Cost) -> None:
        await self._core.use(cost.client_ms)
        await self._database.cores.use(cost.server_ms)
        await asyncio.sleep(cost.waits_ms / 1000)

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[None]:
        """Waits for one of the threads that read."""
        self._turn += 1
        async with self._readers[self._turn % len(self._readers)].held():
            yield

    def _check(self) -> None:
        life = self._database.lives.get(self._session)
        if life is None or life.ended:
            raise StoreFencedError(f"session {self._session} has ended")
