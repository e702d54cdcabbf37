"""All webhooks: their couriers, and the one who makes durable how far receivers have been told.

Of several coordinators on one store one has couriers, the one that keeps the house. When that
changes hands the next goes on from what is durable; the one before sends nothing more by then, by
its own clock, so that a receiver is told twice only what was under way.

Progress of all of them is written in one transaction a moment after it was made, so that any number
of events and receivers costs the writer of the store a few small commits in a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta

from google.protobuf.empty_pb2 import Empty

from coordinator.runtime import crash_points
from coordinator.runtime.ports import AuditEvent, Chance, Clock, StoreError, StoreFencedError
from coordinator.runtime.watch import Topic
from coordinator.runtime.webhooks import Answer, WebhookRecord, WebhookStore, WebhookView
from coordinator.webhooks.courier import Courier, World
from coordinator.webhooks.envelope import PING, cloud_event, source
from coordinator.webhooks.pages import Pages
from coordinator.webhooks.post import Post
from coordinator.wire.history import timestamp
from countermand.rpc.crash import Crash, never
from countermand.v1.attempt_pb2 import Progress

log = logging.getLogger(__name__)

NOTE_S = 0.25  # what a receiver took within it may come once more after a crash
NOTE_RETRY_S = 1.0


class Receivers:
    """The receivers that are told what happens."""

    def __init__(
        self,
        store: WebhookStore,
        *,
        cluster_id: str,
        hints: Topic[Progress],
        post: Post,
        clock: Clock,
        chance: Chance,
        crash: Crash = never,
        trusted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Knows of none before `open`; sends nothing while it is not trusted to be the one."""
        self._opened = False
        self._store = store
        self._cluster_id = cluster_id
        self._couriers: dict[str, Courier] = {}
        self._moved: set[str] = set()  # whose progress is not durable
        self._something_moved = asyncio.Event()
        self._world = World(
            pages=Pages(store, cluster_id=cluster_id),
            hints=hints,
            post=post,
            clock=clock,
            chance=chance,
            crash=crash,
            moved=self._hear_moved,
            trusted=trusted,
        )

    # -- one life ---------------------------------------------------------------------------------

    @property
    def opened(self) -> bool:
        """Returns whether it is from here that receivers are told."""
        return self._opened

    async def open(self) -> None:
        """Goes on with every webhook."""
        for record in await self._store.webhooks():
            self._begin(record)
        self._opened = True

    async def run(self) -> None:
        """Makes progress durable, until cancelled.

        Raises:
            StoreFencedError: The session has ended; another one goes on.
        """
        while True:
            await self._something_moved.wait()
            await asyncio.sleep(NOTE_S)  # more of it gathers
            try:
                await self._note()
            except StoreFencedError:
                raise
            except StoreError as error:
                log.warning("webhook.not_noted", extra={"error": str(error)})
                await asyncio.sleep(NOTE_RETRY_S)

    async def close(self) -> None:
        """Ends all deliveries, and notes how far they have come; nothing is told from here now."""
        self._opened = False
        await asyncio.gather(*(courier.stop() for courier in self._couriers.values()))
        await self._world.pages.close()
        try:
            await self._note()
        except StoreError as error:
            log.warning("webhook.not_noted", extra={"error": str(error)})

    def _begin(self, record: WebhookRecord) -> None:
        courier = Courier(record, self._world)
        self._couriers[record.id] = courier
        courier.start()

    def _hear_moved(self, webhook_id: str) -> None:
        self._moved.add(webhook_id)
        self._something_moved.set()

    async def _note(self) -> None:
        moved, self._moved = self._moved, set()
        self._something_moved.clear()
        couriers = (self._couriers[name] for name in moved if name in self._couriers)
        progress = {courier.record.id: courier.record.progress for courier in couriers}
        if not progress:
            return
        try:
            await self._store.note_webhooks(progress)
        except BaseException:
            # Of one that was cancelled nobody knows whether it was made: once more does no harm.
            self._moved |= moved
            self._something_moved.set()
            raise
        self._world.crash(crash_points.EVENT_NOTED)

    # -- what is asked ----------------------------------------------------------------------------

    async def all(self) -> Mapping[str, WebhookView]:
        """Returns every webhook by its id."""
        top = await self._store.position()
        views = {}
        for name, courier in sorted(self._couriers.items()):
            behind = max(0, top - courier.record.progress.position)
            views[name] = WebhookView(record=courier.record, behind=behind)
        return views

    async def add(self, record: WebhookRecord, event: AuditEvent | None = None) -> None:
        """Keeps a webhook and begins to deliver to it."""
        await self._store.put_webhook(record, event)
        # If the process stops here, the next one begins.
        self._begin(record)

    async def replace_secret(
        self, webhook_id: str, secret: str, *, overlap: timedelta, event: AuditEvent | None = None
    ) -> bool:
        """Signs with another secret from now on, and for a while with the old one as well.

        Returns:
            Whether it is another.
        """
        courier = self._couriers[webhook_id]
        old = courier.record
        if old.secret == secret:
            return False
        end = self._world.clock.now() + overlap
        new = replace(old, secret=secret, old_secret=old.secret, old_secret_end=end)
        await self._store.put_webhook(new, event)
        # It may have come further meanwhile.
        courier.record = replace(new, progress=courier.record.progress)
        self._hear_moved(webhook_id)
        return True

    async def resume(
        self, webhook_id: str, position: int | None = None, event: AuditEvent | None = None
    ) -> None:
        """Calls at once, also one that is disabled; from a position on, if one is given."""
        courier = self._couriers[webhook_id]
        await courier.stop()
        now = courier.record.progress
        progress = replace(
            now,
            disabled=False,
            next_try_time=None,
            position=now.position if position is None else position,
        )
        courier.record = replace(courier.record, progress=progress)
        try:
            await self._store.put_webhook(courier.record, event)
        finally:
            courier.start()

    async def ping(self, webhook_id: str) -> Answer:
        """Sends a test event, and returns what came of it; nothing else changes."""
        time = timestamp(self._world.clock.now())
        assert time is not None
        message_id = f"{self._cluster_id}-ping-{self._world.chance.new_id()}"
        attributes = {
            "id": message_id,
            "source": source(self._cluster_id),
            "type": PING,
            "subject": f"webhooks/{webhook_id}",
            "time": time.ToJsonString(),
        }
        return await self._couriers[webhook_id].send(message_id, cloud_event(attributes, Empty()))

    async def remove(self, webhook_id: str, event: AuditEvent | None = None) -> None:
        """Ends deliveries and forgets the webhook; an absent one is a success."""
        courier = self._couriers.pop(webhook_id, None)
        if courier is not None:
            await courier.stop()
        try:
            await self._store.remove_webhook(webhook_id, event)
        except BaseException:
            if courier is not None:  # it is still kept: a repeat removes it
                self._couriers[webhook_id] = courier
                courier.start()
            raise
