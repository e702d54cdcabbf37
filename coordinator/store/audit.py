"""The audit in its table: what was done to hosts and webhooks, by whom and why; kept for good."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, and_, bindparam, insert, select

from coordinator.runtime.ports import STORE, AuditEvent, HostChange, StoreChange, WebhookChange
from coordinator.store import counters
from coordinator.store.tables import audit
from coordinator.store.texts import Row, failure_from, failure_text, micros, time_from

_CHANGES: dict[str, type[HostChange | WebhookChange | StoreChange]] = {
    "hosts": HostChange,
    "webhooks": WebhookChange,
    STORE: StoreChange,
}

_TAKE = counters.take(counters.AUDIT)
_ADD = insert(audit).values(position=counters.taken(counters.AUDIT, bindparam("before"))).inline()


def note(events: Sequence[AuditEvent], connection: Connection) -> None:
    """Notes what is done; it becomes durable with what is written beside it."""
    if events:
        connection.execute(_TAKE, {"taken": len(events)})
        rows = ({**_row(event), "before": i} for i, event in enumerate(reversed(events)))
        connection.execute(_ADD, list(rows))


def of(subject: str, before: int, limit: int, connection: Connection) -> list[AuditEvent]:
    """Returns what was done before a position, the last first: to one, or to a collection."""
    name = audit.c.subject
    # Compared as texts: LIKE does not tell letters from capitals, on SQLite.
    beyond = subject.removesuffix("/") + chr(ord("/") + 1)
    mine = and_(name >= subject, name < beyond) if subject.endswith("/") else name == subject
    found = select(audit).where(audit.c.position < before, mine)
    found = found.order_by(audit.c.position.desc()).limit(limit)
    return [_event_from(row) for row in connection.execute(found).mappings()]


def _row(event: AuditEvent) -> Row:
    """Returns a row, but for its position."""
    return {
        "subject": event.subject,
        "change": event.change,
        "time_us": micros(event.time),
        "principal": event.principal,
        "reason": event.reason,
        "detail": event.detail,
        "failure": failure_text(event.failure),
    }


def _event_from(row: RowMapping) -> AuditEvent:
    change = _CHANGES[row["subject"].partition("/")[0]]
    return AuditEvent(
        subject=row["subject"],
        change=change(row["change"]),
        time=time_from(row["time_us"]),
        principal=row["principal"],
        reason=row["reason"],
        detail=row["detail"],
        failure=failure_from(row["failure"]),
        position=row["position"],
    )
