"""Webhooks on a real store, called over real HTTP; the workflows are walked by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count

from coordinator.runtime.watch import Watches
from coordinator.runtime.webhooks import WebhookProgress, WebhookRecord, WebhookView
from coordinator.store.memory import Kept, MemoryStore
from coordinator.webhooks.post import CALL_TIMEOUT_S, HttpPost
from coordinator.webhooks.receivers import Receivers
from countermand.rpc.crash import Crash, never
from countermand.v1.attempt_pb2 import Progress
from tests.store.walks import BEGIN, Walk
from tests.webhooks.receiver import SECRET, TIMEOUT_S, Receiver

ENDS = {"workflow.succeeded", "workflow.compensated", "workflow.failed"}


class Clock:
    """The time of day, and what was added to it."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class Chance:
    """No jitter, and ids by number."""

    def __init__(self) -> None:
        self._ids = (f"id-{number}" for number in count(1))

    def jitter(self) -> float:
        return 0.0

    def new_id(self) -> str:
        return next(self._ids)


@dataclass
class World:
    """One life of a coordinator, as far as webhooks see it."""

    store: MemoryStore
    receivers: Receivers
    watches: Watches[Progress]
    clock: Clock
    running: asyncio.Task[None]
    kept: Kept
    walked: list[str] = field(default_factory=list)

    async def walk(self, *names: str, labels: dict[str, str] | None = None) -> None:
        """Walks workflows from their beginning to their end."""
        for name in names:
            walk = Walk(name, labels=labels)
            await self.commit(walk)
            while not walk.workflow.settled:
                if walk.step() is not None:
                    await self.commit(walk)

    async def commit(self, walk: Walk) -> None:
        """Commits a step, and lets everybody know."""
        await self.store.commit([walk.change])
        self.watches.committed(walk.workflow.id, settled=walk.workflow.settled)

    async def add(self, to: Receiver, name: str = "one", **settings) -> None:
        """Adds a webhook, from the beginning of the history."""
        progress = WebhookProgress(position=settings.pop("position", 0))
        record = WebhookRecord(
            id=name,
            url=settings.pop("url", to.url),
            event_types=settings.pop("event_types", ("*",)),
            secret=settings.pop("secret", SECRET),
            create_time=BEGIN,
            progress=progress,
        )
        await self.receivers.add(replace(record, **settings))

    async def view(self, name: str = "one") -> WebhookView:
        """Returns a webhook as it is shown."""
        return (await self.receivers.all())[name]

    async def until(self, condition: Callable[[WebhookView], object], name: str = "one") -> None:
        """Returns once a webhook is shown as wanted."""
        async with asyncio.timeout(TIMEOUT_S):
            while not condition(await self.view(name)):  # noqa: ASYNC110 - what is shown is asked for
                await asyncio.sleep(0.001)

    async def noted(self, condition: Callable[[WebhookProgress], object], name="one") -> None:
        """Returns once what is durable of a webhook is as wanted."""
        async with asyncio.timeout(TIMEOUT_S):
            while not condition({w.id: w.progress for w in await self.store.webhooks()}[name]):  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def all_noted(self, or_else: asyncio.Event) -> None:
        """Returns once it is durable that all was told, or something else has happened."""
        top = await self.store.position()
        await self.noted(lambda noted: or_else.is_set() or noted.position == top)

    async def die(self) -> None:
        """Ends as a killed process does: nothing more is written."""
        self.running.cancel()
        for courier in self.receivers._couriers.values():
            await courier.stop()
        await self.receivers._world.pages.close()


@asynccontextmanager
async def world(
    kept: Kept | None = None,
    *,
    crash: Crash = never,
    timeout_s: float = CALL_TIMEOUT_S,
    trusted: Callable[[], bool] = lambda: True,
) -> AsyncIterator[World]:
    """Yields one life on what is kept; at its end progress is noted, unless it has died."""
    kept = kept or Kept()
    clock, chance = Clock(), Chance()
    store = MemoryStore(kept, new_id=chance.new_id)
    watches: Watches[Progress] = Watches()
    opening = await store.open()
    post = HttpPost(clock, timeout_s=timeout_s)
    receivers = Receivers(
        store,
        cluster_id=opening.cluster_id,
        hints=watches.everything,
        post=post,
        clock=clock,
        chance=chance,
        crash=crash,
        trusted=trusted,
    )
    await receivers.open()
    running = asyncio.create_task(receivers.run())
    one = World(store, receivers, watches, clock, running, kept)
    try:
        yield one
    finally:
        if not running.cancelled() and not running.cancelling():
            await receivers.close()
            running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await post.close()
