"""Tells one receiver what it asks for: one event at a time, in order, again until it is taken.

It reads the history from its position, and moves that on as the receiver answers; `receivers.py`
makes it durable a moment later. Wherever the process stops, the next one goes on from what is
durable: nothing is left out, and what is sent once more has the same id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from coordinator.runtime import crash_points
from coordinator.runtime.ports import Chance, Clock
from coordinator.runtime.watch import Topic
from coordinator.runtime.webhooks import Answer, WebhookProgress, WebhookRecord
from coordinator.webhooks import answers
from coordinator.webhooks.envelope import CONTENT_TYPE, Envelope, wanted
from coordinator.webhooks.pages import Pages
from coordinator.webhooks.post import Post
from coordinator.webhooks.signing import signed_headers
from coordinator.wire.failure import failure_from_proto
from countermand.rpc import telemetry
from countermand.rpc.crash import Crash
from countermand.rpc.errors import Bug, CountermandError
from countermand.v1.attempt_pb2 import Progress

log = logging.getLogger(__name__)

GATHER_S = 0.1  # after a hint: under load a page then holds many commits
QUIET_S = 15.0  # without a hint: looks all the same
READ_RETRY_S = 1.0  # the store is busy, or failed
TRUST_AGAIN_S = 0.5  # another coordinator may have taken over: either this one hears so, or not


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What all couriers share."""

    pages: Pages
    hints: Topic[Progress]  # of everything that is committed
    post: Post
    clock: Clock
    chance: Chance
    crash: Crash
    moved: Callable[[str], None]  # hears which webhook's progress is to be made durable
    trusted: Callable[[], bool]  # nobody else can have begun to tell receivers


class Courier:
    """One receiver, and how far it was told."""

    def __init__(self, record: WebhookRecord, world: World) -> None:
        """Begins where the record says; nothing is sent yet."""
        self.record = record
        self._world = world
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to deliver, unless the receiver is gone."""
        if not self.record.progress.disabled:
            name = f"webhook {self.record.id}"
            # It is nobody's call that is told of here.
            context = telemetry.untraced()
            self._task = asyncio.create_task(self._run(), name=name, context=context)

    async def stop(self) -> None:
        """Ends in the middle of whatever it does; the position is true all the same."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def send(self, message_id: str, body: bytes) -> Answer:
        """Sends a body, signed, and returns what came of it."""
        now = self._world.clock.now()
        record = self.record
        signers = [record.secret]
        if record.old_secret_end is not None and now < record.old_secret_end:
            signers.append(record.old_secret)
        headers = signed_headers(signers, message_id, int(now.timestamp()), body)
        return await self._world.post(record.url, body, {"Content-Type": CONTENT_TYPE, **headers})

    # -- delivering -------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Delivers until the receiver is gone; whatever breaks, it is tried again, and shown."""
        await self._wait_as_asked()
        while not self.record.progress.disabled:
            try:
                await self._round()
            except CountermandError as error:
                log.warning("webhook.read_failed", extra={**self._named, "error": str(error)})
                await asyncio.sleep(READ_RETRY_S)
            except Exception as error:
                # A defect of ours stops this webhook alone, and not for ever.
                log.exception("webhook.broke", extra=self._named)
                failure = failure_from_proto(Bug(what=type(error).__name__).failure())
                await self._failed(Answer(status=0, failure=failure, took=answers.NO_TIME))

    async def _wait_as_asked(self) -> None:
        """Waits for as long as the receiver has asked for before a restart."""
        next_try = self.record.progress.next_try_time
        if next_try is not None:
            left = min(next_try - self._world.clock.now(), answers.RETRY_AFTER_MAX)
            await asyncio.sleep(max(left.total_seconds(), 0.0))

    async def _round(self) -> None:
        """Delivers one page, and waits for more if there is none."""
        seen = self._world.hints.changes
        page = await self._world.pages.after(self.record.progress.position, seen)
        position = self.record.progress.position  # of the last event that was looked at
        for event in page.events:
            if event.position > position + 1:
                self._missed(position, event.position - 1)
            position = event.position
            if wanted(self.record, event) and not await self._delivered(event):
                return
        if page.end > position:
            self._missed(position, page.end)
        elif position > self.record.progress.position:
            self._moves(position=position)
        if not page.last:
            return
        if await self._world.hints.wait(seen, QUIET_S) == seen:
            self._world.pages.forget()
        else:
            await asyncio.sleep(GATHER_S)

    async def _delivered(self, event: Envelope) -> bool:
        """Sends an event until it is taken; returns False once the receiver is gone."""
        while True:
            while not self._world.trusted():  # noqa: ASYNC110 - a clock tells, it wakes nobody
                await asyncio.sleep(TRUST_AGAIN_S)
            answer = await self.send(event.id, event.body)
            if answer.failure is None:
                self._world.crash(crash_points.EVENT_TAKEN)
                self._took(event)
                return True
            await self._failed(answer)
            if self.record.progress.disabled:
                return False

    def _took(self, event: Envelope) -> None:
        """Notes that the receiver has an event."""
        if self.record.progress.failures:
            log.info("webhook.recovered", extra=self._named)
        self._moves(
            position=event.position,
            failures=0,
            failure=None,
            next_try_time=None,
            success_time=self._world.clock.now(),
        )

    async def _failed(self, answer: Answer) -> None:
        """Notes a failure, and waits until the next try."""
        now = self._world.clock.now()
        failures = self.record.progress.failures + 1
        wait = answers.wait(failures, self._world.chance.jitter(), answer)
        self._moves(
            failures=failures,
            failure=answer.failure,
            failure_time=now,
            disabled=answer.gone,
            next_try_time=None if answer.gone else now + wait,
        )
        reason = answer.failure.reason if answer.failure else ""
        told = {**self._named, "failures": failures, "reason": reason}
        told["http_status"] = answer.status
        log.warning("webhook.gone" if answer.gone else "webhook.failed", extra=told)
        if not answer.gone:
            await asyncio.sleep(wait.total_seconds())

    def _missed(self, after: int, until: int) -> None:
        """Notes that nothing is kept of what is between two positions."""
        self._moves(position=until, missed=self.record.progress.missed + until - after)
        log.warning("webhook.missed", extra={**self._named, "events": until - after})

    def _moves(self, **changes: object) -> None:
        progress: WebhookProgress = replace(self.record.progress, **changes)  # type: ignore[arg-type]
        self.record = replace(self.record, progress=progress)
        self._world.moved(self.record.id)

    @property
    def _named(self) -> dict[str, object]:
        return {"webhook": self.record.id, "position": self.record.progress.position}
