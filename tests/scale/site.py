"""A site: coordinators on one database, as many hosts and open workflows as it has.

The coordinators' keepers, tails and inboxes are the product's own, with its intervals and sizes. Of
their loops and lines to hosts there is only what they take of the database and of their own core.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import quantiles
from typing import Any, cast

from coordinator.agents.fleet import FOLLOW_REST, FOLLOW_S, FOLLOW_S_MAX
from coordinator.agents.forgetting import FORGET_S
from coordinator.agents.line import KEEP_S
from coordinator.api.letters import Inbox
from coordinator.runtime.floors import Floor
from coordinator.runtime.loop import BATCH_MAX
from coordinator.runtime.ports import SESSION_LASTS, Claim, StoreFencedError
from coordinator.runtime.session import Keeper
from coordinator.runtime.tail import Tail
from tests.scale.costs import Costs
from tests.scale.database import Database, ModelStore
from tests.scale.machines import Cores, now
from tests.simulation.clock import VirtualLoop

LASTS_S = SESSION_LASTS.total_seconds()
CHUNKS = 20  # in so many what all lines of a coordinator ask the database for is asked
DECISIONS = 7  # about a workflow of two tasks, each of them an entry of the history
LIVES_S = 3600.0  # so long a workflow is open
DIALS = 0.9  # of its core a coordinator spends on connecting, until it has
FLOOR = Floor(next_intent=1, hosts={}, fences=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What a site has."""

    replicas: int
    hosts: int
    open: int
    cores: int = 16  # of the database's machine
    decisions_a_second: float = -1.0  # if not those of what is open
    one_machine: bool = False  # the coordinators compute on the same cores
    owners: int = 0  # that had it before all were killed, if not as many

    @property
    def rate(self) -> float:
        """Returns how much is decided each second, everywhere together."""
        usual = self.open * DECISIONS / LIVES_S
        return usual if self.decisions_a_second < 0 else self.decisions_a_second


@dataclass(slots=True, kw_only=True)
class Seen:
    """What has come of it."""

    database: float = 0.0  # cores that are busy
    positions: float = 0.0  # share of the time in which somebody commits
    coordinator: float = 0.0  # share of its core, of the busiest
    renewals_s: list[float] = field(default_factory=list)
    commits_s: list[float] = field(default_factory=list)
    floors_s: list[float] = field(default_factory=list)
    lost: int = 0  # sessions that were not renewed in time
    owned_s: float = math.nan  # all that nobody owned, since its owners were killed
    decided_s: float = math.nan  # and their new owners have made that durable
    dialled_s: float = math.nan  # all coordinators have connected to all hosts


def p99(seconds: Sequence[float]) -> float:
    """Returns how long it took, of a hundred the slowest."""
    return quantiles(seconds, n=100)[98] if len(seconds) > 1 else math.nan


class ModelLoop:
    """Decides about so many, in batches."""

    def __init__(self, store: ModelStore) -> None:
        """Has nothing to decide."""
        self._store = store
        self.waiting = 0
        self._woken = asyncio.Event()

    def hear(self, count: int) -> None:
        """Takes what is to be decided."""
        self.waiting += count
        self._woken.set()

    def adopt(self, claim: Claim) -> None:
        """Takes over workflows: each is decided about once, by whoever owns it now."""
        self.hear(len(claim.workflows))

    async def run(self) -> None:
        """Decides until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self.waiting:
                count = min(BATCH_MAX, self.waiting)
                await self._store.commit(count)
                self.waiting -= count

    def floor(self) -> Floor:
        """Returns a floor; how much it says is the store's to know."""
        return FLOOR

    def hear_floor(self, others: Floor) -> None:
        """Hears that."""

    async def look_at_others(self) -> None:
        """Finds nobody in the way."""


class Nobody:
    """Those who watch: none."""

    def topics(self) -> list[str]:
        """Returns that nothing is watched."""
        return []

    def committed(self, workflow_id: str, *, settled: bool) -> None:
        """Hears that."""


class Replica:
    """One coordinator."""

    def __init__(self, site: Site, session: int) -> None:
        """Has just opened the store."""
        self._site = site
        self.session = session
        self.core = site.database.cores if site.size.one_machine else Cores(1)
        if not site.size.one_machine:
            self.core.background = self._lines()
        self.store = ModelStore(site.database, self.core, session)
        self.loop = ModelLoop(self.store)
        self._chance = Random(session)
        store = cast("Any", self.store)
        loop, chance = cast("Any", self.loop), cast("Any", self)
        self.keeper = Keeper(store=store, loop=loop, chance=chance, session=session)
        self._works = (
            self.keeper.run,
            self.loop.run,
            Tail(store=store, hints=Nobody(), owned=lambda _: False).run,
            Inbox(store=store, answer=cast("Any", None)).run,
            self._follow,
            self._forgetting,
            self._keeping,
            self._deciding,
        )
        self.running = asyncio.create_task(self._run())

    def jitter(self) -> float:
        """Returns a number from 0 to 1."""
        return self._chance.random()

    async def _run(self) -> None:
        await asyncio.sleep(self.jitter())  # nobody begins in step with others
        tasks = [asyncio.create_task(work()) for work in self._works]
        renew, taken = self.store.renew, self._site.seen.renewals_s
        commit, committed = self.store.commit, self._site.seen.commits_s

        async def timed(*said: Any) -> Any:
            began = now()
            sessions = await renew(*said)
            taken.append(now() - began)
            return sessions

        async def committing(decisions: int) -> None:
            began = now()
            await commit(decisions)
            committed.append(now() - began)

        self.store.renew = timed  # type: ignore[method-assign,assignment]
        self.store.commit = committing  # type: ignore[method-assign]
        try:
            await asyncio.gather(*tasks)
        except StoreFencedError:
            self._site.seen.lost += 1
        finally:
            for task in tasks:
                task.cancel()

    async def dial(self) -> float:
        """Connects to all hosts; other things come in between. Returns when it has."""
        quiet, self.core.background = self.core.background, DIALS
        await asyncio.sleep(self._site.size.hosts * self._site.costs.dial_ms / 1000 / DIALS)
        self.core.background = quiet
        return now()

    async def _follow(self) -> None:
        """Reads all hosts now and then, as `Fleet.follow` does."""
        took_s = 0.0
        while True:
            await asyncio.sleep(min(max(FOLLOW_S, FOLLOW_REST * took_s), FOLLOW_S_MAX))
            began = now()
            await self.store.hosts()
            took_s = now() - began

    def _lines(self) -> float:
        """Returns what it takes to keep all lines up, and to hear what happens on every host."""
        site = self._site
        # Where something has settled all hosts are looked at, before the agent is told.
        told = min(1.0, site.size.rate / DECISIONS / site.size.hosts * FORGET_S)
        looks = told * site.size.hosts / FORGET_S * site.database.named
        quiet_ms = site.size.hosts * site.costs.line_ms + looks * site.costs.mark_ms
        return (quiet_ms + site.size.rate * site.costs.heard_ms) / 1000

    async def _forgetting(self) -> None:
        """Asks of each host what it may forget, as its line does."""
        share = self._site.size.hosts / CHUNKS
        await self._regularly(FORGET_S / CHUNKS, lambda: self.store.evidence(share))

    async def _keeping(self) -> None:
        """Notes how far each host was heard of, as its line does if anything was heard there.

        What another coordinator has noted meanwhile need not be noted.
        """
        size = self._site.size
        a_second = min(1 / KEEP_S, size.rate / max(1, size.hosts) / size.replicas)
        while True:
            began, due = now(), size.hosts * a_second
            await self.store.change_host(round(due))
            await asyncio.sleep(max(0.0, 1 - (now() - began)))

    async def _deciding(self) -> None:
        """Hears what the agents have done of its own workflows."""
        share = self._site.size.rate / self._site.size.replicas
        due = self.jitter()
        while True:
            await asyncio.sleep(0.05)
            due += 0.05 * share
            self.loop.hear(int(due))
            due -= int(due)

    @staticmethod
    async def _regularly(every_s: float, work: Callable[[], Any]) -> None:
        """Does something so often, or as often as it can be done."""
        while True:
            began = now()
            await work()
            await asyncio.sleep(max(0.0, began + every_s - now()))


class Site:
    """All of it."""

    def __init__(self, size: Size, costs: Costs) -> None:
        """Begins with nobody there."""
        self.size = size
        self.costs = costs
        share = size.open / size.replicas
        # Each open workflow has something under way on one host.
        named = size.hosts * (1 - (1 - 1 / size.hosts) ** share) if size.hosts else 0.0
        self.database = Database(costs, Cores(size.cores), size.hosts, named)
        self.seen = Seen()
        self.replicas: list[Replica] = []

    def begin(self, workflows: int) -> None:
        """Starts all coordinators; each owns so many."""
        for _ in range(self.size.replicas):
            session = self.database.begin(workflows, LASTS_S)
            self.replicas.append(Replica(self, session))

    def forget(self) -> None:
        """Begins to count anew."""
        for each in (self.database.cores, self.database.positions, self.database.epochs):
            each.forget()
        for replica in self.replicas:
            replica.core.forget()
            replica.store.floors_s.clear()
        self.seen.renewals_s.clear()
        self.seen.commits_s.clear()

    def look(self) -> None:
        """Notes what it has come to so far."""
        self.seen.database = self.database.cores.busy
        self.seen.positions = self.database.positions.busy
        self.seen.coordinator = max(each.core.busy for each in self.replicas)
        self.seen.floors_s = [s for each in self.replicas for s in each.store.floors_s]

    async def until_owned(self, give_up_s: float) -> None:
        """Notes when nothing is left that nobody owns, and when all of it has been decided."""
        began, seen = now(), self.seen
        while now() - began < give_up_s:
            await asyncio.sleep(0.05)
            if math.isnan(seen.owned_s) and not self.database.orphans:
                seen.owned_s = now() - began
            if not math.isnan(seen.owned_s) and max(r.loop.waiting for r in self.replicas) < 100:
                seen.decided_s = now() - began
                return

    async def end(self) -> None:
        """Ends all of them."""
        for replica in self.replicas:
            replica.running.cancel()
        running = (replica.running for replica in self.replicas)
        await asyncio.gather(*running, return_exceptions=True)


def steady(size: Size, costs: Costs, seconds: float = 20.0, warm_up_s: float = 10.0) -> Seen:
    """Returns how it goes while nothing happens to coordinators."""

    async def play() -> Seen:
        site = Site(size, costs)
        site.begin(size.open // size.replicas)
        await asyncio.sleep(warm_up_s)
        site.forget()
        await asyncio.sleep(seconds)
        site.look()
        await site.end()
        return site.seen

    return _virtually(play)


def one_killed(size: Size, costs: Costs, give_up_s: float = 90.0) -> Seen:
    """Returns how it goes when one is killed: the others wait for its lease, then claim."""

    async def play() -> Seen:
        site = Site(size, costs)
        site.begin(size.open // size.replicas)
        await asyncio.sleep(6)
        killed = site.replicas.pop()
        killed.running.cancel()
        while site.database.lives[killed.session].expire_s >= now():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await site.until_owned(give_up_s)
        site.look()
        await site.end()
        return site.seen

    return _virtually(play)


def all_killed(size: Size, costs: Costs, give_up_s: float = 300.0) -> Seen:
    """Returns how it goes when all are killed, and started again: each ends who had its name."""

    async def play() -> Seen:
        site = Site(size, costs)
        for _ in range(size.owners or size.replicas):
            before = site.database.begin(size.open // (size.owners or size.replicas), LASTS_S)
            site.database.lives[before].ended = True
        site.begin(0)
        dialling = [asyncio.create_task(each.dial()) for each in site.replicas]
        await site.until_owned(give_up_s)
        site.look()
        site.seen.dialled_s = max(await asyncio.gather(*dialling))
        await site.end()
        return site.seen

    return _virtually(play)


def _virtually(play: Callable[[], Any]) -> Seen:
    loop = VirtualLoop()
    try:
        seen: Seen = loop.run_until_complete(play())
        return seen
    finally:
        loop.close()
