"""Webhooks: receivers that are told what happens, as the store keeps them and services see them.

Records and ports only. What delivers is in `coordinator/webhooks/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from coordinator.runtime.ports import AuditEvent, StoredEntry
from coordinator.saga.workflow import Failure

SECRET_PREFIX = "whsec_"  # noqa: S105 - stands before the bytes of each, in base64


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookProgress:
    """How far a receiver has been told, and how that goes."""

    position: int  # of the history: everything up to it was delivered, or was not asked for
    missed: int = 0  # events that were removed before they could be read, wanted or not
    disabled: bool = False  # the receiver said that it is gone
    failures: int = 0  # since the last success
    failure: Failure | None = None  # the last one, until something succeeds
    failure_time: datetime | None = None
    success_time: datetime | None = None
    next_try_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRecord:
    """A webhook as the store keeps it."""

    id: str
    url: str
    event_types: tuple[str, ...]  # such as "workflow.failed", "task.*", "*"
    labels: tuple[tuple[str, str], ...] = ()  # of the workflows that it is told of
    kind: str = ""  # likewise; empty: any
    secret: str = field(repr=False)
    # Signs as well until its end: receivers change over when they like.
    old_secret: str = field(default="", repr=False)
    old_secret_end: datetime | None = None
    create_time: datetime
    progress: WebhookProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a workflow was submitted with, as far as it is told with each of its events."""

    kind: str
    traceparent: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookView:
    """A webhook as it stands now."""

    record: WebhookRecord
    behind: int  # positions after its own, wanted or not


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a receiver said to one call."""

    status: int  # of HTTP; 0 if there was no answer
    failure: Failure | None  # None: it took the event
    took: timedelta
    retry_after: timedelta | None = None  # it asks to be left alone for so long
    gone: bool = False  # it wants nothing any more


class WebhookStore(Protocol):
    """What webhooks need of the store, which is the one of `ports.py`."""

    async def events(self, *, after: int, limit: int) -> list[StoredEntry]:
        """Returns entries of all workflows after a position, in order."""

    async def position(self) -> int:
        """Returns the highest position ever given, 0 if there was none."""

    async def origins(self, workflow_ids: Sequence[str]) -> dict[str, Origin]:
        """Returns what some workflows were submitted with; of one that was removed nothing."""

    async def webhooks(self) -> list[WebhookRecord]:
        """Returns every webhook, in order of their ids."""

    async def put_webhook(self, webhook: WebhookRecord, event: AuditEvent | None = None) -> None:
        """Adds or replaces a webhook, and notes with it who did so, if anybody."""

    async def note_webhooks(self, progress: Mapping[str, WebhookProgress]) -> None:
        """Notes how far receivers have been told, all or none; of those removed nothing is kept."""

    async def remove_webhook(self, webhook_id: str, event: AuditEvent | None = None) -> None:
        """Removes a webhook, and notes with it who did so; an absent one is a success."""

    async def audit(self, subject: str, *, before: int, limit: int) -> list[AuditEvent]:
        """Returns what was done to one, or to a collection, before a position, the last first."""


class Webhooks(Protocol):
    """The receivers that are told what happens.

    A receiver that is slow or away delays no other, and nothing else.
    """

    @property
    def opened(self) -> bool:
        """Returns whether they are told from here: of all that share a store, from one only."""

    async def all(self) -> Mapping[str, WebhookView]:
        """Returns every webhook by its id."""

    async def add(self, record: WebhookRecord, event: AuditEvent) -> None:
        """Keeps a webhook and begins to deliver to it."""

    async def replace_secret(
        self, webhook_id: str, secret: str, *, overlap: timedelta, event: AuditEvent
    ) -> bool:
        """Signs with another secret from now on, and for a while with the old one as well.

        Returns:
            Whether it is another.
        """

    async def resume(self, webhook_id: str, position: int | None, event: AuditEvent) -> None:
        """Calls at once, also one that is disabled; from a position on, if one is given."""

    async def ping(self, webhook_id: str) -> Answer:
        """Sends a test event, and returns what came of it; nothing else changes."""

    async def remove(self, webhook_id: str, event: AuditEvent) -> None:
        """Ends deliveries and forgets the webhook; an absent one is a success."""
