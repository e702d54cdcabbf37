"""Webhooks in the tables: their rows, and what is read and written of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from coordinator.runtime.ports import AuditEvent
from coordinator.runtime.webhooks import Origin, WebhookProgress, WebhookRecord
from coordinator.store import audit
from coordinator.store.tables import labels, webhooks, workflows
from coordinator.store.texts import (
    Row,
    encode,
    failure_from,
    failure_text,
    micros,
    micros_or_none,
    time_from,
    time_or_none,
)


def all_webhooks(connection: Connection) -> list[WebhookRecord]:
    """Returns every webhook, in order of their ids."""
    rows = connection.execute(select(webhooks).order_by(webhooks.c.id)).mappings()
    return [_webhook_from(row) for row in rows]


def put(webhook: WebhookRecord, event: AuditEvent | None, connection: Connection) -> None:
    """Adds or replaces a webhook."""
    row = _webhook_row(webhook)
    mine = webhooks.c.id == webhook.id
    if not connection.execute(update(webhooks).where(mine).values(row)).rowcount:
        connection.execute(insert(webhooks).values(row))
    audit.note((event,) if event else (), connection)


def note(progress: Mapping[str, WebhookProgress], connection: Connection) -> None:
    """Notes how far receivers have been told."""
    for webhook_id, told in progress.items():
        mine = webhooks.c.id == webhook_id
        connection.execute(update(webhooks).where(mine).values(_progress_row(told)))


def remove(webhook_id: str, event: AuditEvent | None, connection: Connection) -> None:
    """Removes a webhook."""
    connection.execute(delete(webhooks).where(webhooks.c.id == webhook_id))
    audit.note((event,) if event else (), connection)


def origins(workflow_ids: Sequence[str], connection: Connection) -> dict[str, Origin]:
    """Returns what some workflows were submitted with."""
    asked = workflows.c.id.in_(workflow_ids)
    of_workflow = select(workflows.c.key, workflows.c.id, workflows.c.kind, workflows.c.traceparent)
    rows = connection.execute(of_workflow.where(asked)).all()
    of_labels = select(labels).where(labels.c.workflow_key.in_([row.key for row in rows]))
    found: dict[int, dict[str, str]] = {}
    for label in connection.execute(of_labels):
        found.setdefault(label.workflow_key, {})[label.name] = label.value
    return {
        row.id: Origin(kind=row.kind, traceparent=row.traceparent, labels=found.get(row.key, {}))
        for row in rows
    }


def _webhook_row(webhook: WebhookRecord) -> Row:
    return {
        "id": webhook.id,
        "url": webhook.url,
        "event_types": encode(webhook.event_types),
        "labels": encode(dict(webhook.labels)),
        "kind": webhook.kind,
        "secret": webhook.secret,
        "old_secret": webhook.old_secret,
        "old_secret_end_us": micros_or_none(webhook.old_secret_end),
        "create_time_us": micros(webhook.create_time),
        **_progress_row(webhook.progress),
    }


def _progress_row(progress: WebhookProgress) -> Row:
    return {
        "position": progress.position,
        "missed": progress.missed,
        "disabled": progress.disabled,
        "failures": progress.failures,
        "failure": failure_text(progress.failure),
        "failure_time_us": micros_or_none(progress.failure_time),
        "success_time_us": micros_or_none(progress.success_time),
        "next_try_time_us": micros_or_none(progress.next_try_time),
    }


def _webhook_from(row: Mapping[Any, Any]) -> WebhookRecord:
    return WebhookRecord(
        id=row["id"],
        url=row["url"],
        event_types=tuple(json.loads(row["event_types"])),
        labels=tuple(sorted(json.loads(row["labels"]).items())),
        kind=row["kind"],
        secret=row["secret"],
        old_secret=row["old_secret"],
        old_secret_end=time_or_none(row["old_secret_end_us"]),
        create_time=time_from(row["create_time_us"]),
        progress=WebhookProgress(
            position=row["position"],
            missed=row["missed"],
            disabled=row["disabled"],
            failures=row["failures"],
            failure=failure_from(row["failure"]),
            failure_time=time_or_none(row["failure_time_us"]),
            success_time=time_or_none(row["success_time_us"]),
            next_try_time=time_or_none(row["next_try_time_us"]),
        ),
    )
