"""What the services have in common about the audit: what is written, and pages of what was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from coordinator.api import requests
from coordinator.api.deciding import PRINCIPAL
from coordinator.runtime.ports import AuditEvent, Clock, HostChange, WebhookChange


class Audited(Protocol):
    """What a request for a page of the audit says."""

    @property
    def page_size(self) -> int:
        """Returns how many records are wanted."""

    @property
    def page_token(self) -> str:
        """Returns where the page before ended."""


class AuditStore(Protocol):
    """What is asked of the store."""

    async def audit(self, subject: str, *, before: int, limit: int) -> list[AuditEvent]:
        """Returns what was done to one, or to a collection, before a position, the last first."""


async def page(
    store: AuditStore, subject: str, request: Audited
) -> tuple[Sequence[AuditEvent], str]:
    """Returns one page of what was done to a subject, the last first, and the next one's token."""
    limit = requests.page_size(request.page_size)
    before = requests.NUMBER_MAX
    if request.page_token:
        before = requests.number(request.page_token, "page_token")
    found = await store.audit(subject, before=before, limit=limit + 1)
    shown = found[:limit]
    return shown, str(shown[-1].position) if len(found) > limit else ""


def done(
    subject: str,
    change: HostChange | WebhookChange,
    clock: Clock,
    *,
    reason: str = "",
    detail: str = "",
) -> AuditEvent:
    """Returns the record of what a caller does."""
    return AuditEvent(
        subject=subject,
        change=change,
        time=clock.now(),
        principal=PRINCIPAL,
        reason=reason,
        detail=detail,
    )
