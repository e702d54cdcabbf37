"""Several coordinators in one process on one shared store, and the agents that all of them call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from coordinator.agents.ears import ears_of
from coordinator.agents.fleet import Fleet
from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import HostRecord, Store, StoreFencedError
from coordinator.runtime.session import Keeper
from coordinator.runtime.watch import Watches
from coordinator.store.memory import Kept, MemoryStore
from countermand.rpc.crash import never
from countermand.v1.attempt_pb2 import Progress
from tests.runtime.rig import NOW, Agent, Coordinator, World


@dataclass
class Shared:
    """What replicas share: a store, its clock, and the agents."""

    agents: dict[str, Agent]
    kept: Kept = field(default_factory=Kept)
    ahead: timedelta = timedelta()  # how far the store's clock was moved on

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def store(self, name: str = "") -> Store:
        """Returns the store as one more coordinator opens it."""
        new_id: Callable[[], str] = lambda: "cluster"  # noqa: E731
        return MemoryStore(self.kept, new_id=new_id, shared=True, now=self.now, name=name)


@dataclass
class Replica(Coordinator):
    """One of several coordinators."""

    keeper: Keeper
    running: asyncio.Future[Any]  # ends when it has lost its session

    async def freeze(self) -> None:
        """Does nothing any more, as a stopped process."""
        self.running.cancel()
        with contextlib.suppress(asyncio.CancelledError, StoreFencedError):
            await self.running
        await self.fleet.close()


@contextlib.asynccontextmanager
async def replica(shared: Shared, name: str = "") -> AsyncIterator[Replica]:
    """Lives as one of several coordinators."""
    world, watches = World(), Watches[Progress]()
    store = shared.store(name)
    loop = Loop(store=store, clock=world, chance=world, crash=never, hints=watches)
    opening = await loop.open()
    keeper = Keeper(store=store, loop=loop, chance=world, session=opening.owner_epoch)
    for host, agent in shared.agents.items():
        agent.incarnation = f"of-{host}"
    for host in shared.agents.keys() - {record.id for record in await store.hosts()}:
        await store.put_host(HostRecord(id=host, address=host, create_time=NOW))
    fleet = Fleet(
        store=store,
        connect=shared.agents.__getitem__,
        cluster_id=opening.cluster_id,
        clock=world,
        chance=world,
        crash=never,
        ears=ears_of(loop, store, watches.heard_progress),
        trusted=keeper.trusted,
        forget_s=0.01,
    )
    loop.attach(fleet)
    await fleet.open()
    works = asyncio.gather(loop.run(), keeper.run(), fleet.follow(loop.redeliver, keeper.live))
    one = Replica(loop=loop, fleet=fleet, store=store, keeper=keeper, running=works)
    try:
        yield one
    finally:
        await one.freeze()
        await store.close()
