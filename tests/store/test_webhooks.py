"""What every store promises of webhooks."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from coordinator.runtime.ports import AuditEvent, HostChange, WebhookChange
from coordinator.runtime.webhooks import Origin, WebhookProgress, WebhookRecord
from coordinator.saga.workflow import Failure
from coordinator.store.memory import MemoryStore
from coordinator.store.sql import SqlStore
from tests.store.conftest import commit
from tests.store.walks import BEGIN, Walk

ONE = WebhookRecord(
    id="w-1",
    url="https://receiver.example/é",
    event_types=("workflow.failed", "task.*"),
    labels=(("tenant", "é"), ("zone", "1")),
    kind="copy",
    secret="whsec_c2VjcmV0",
    create_time=BEGIN,
    progress=WebhookProgress(position=7),
)
TOLD = WebhookProgress(
    position=2**40,
    missed=3,
    disabled=True,
    failures=5,
    failure=Failure(reason="R", message="é", metadata=(("status", "500"),), retriable=True),
    failure_time=BEGIN + timedelta(microseconds=1),
    success_time=BEGIN + timedelta(microseconds=2),
    next_try_time=BEGIN + timedelta(microseconds=3),
)


async def reopened(live) -> SqlStore | MemoryStore:
    store: SqlStore | MemoryStore = live()
    await store.open()
    return store


def test_a_webhook_in_a_log_shows_no_secret():
    assert "c2VjcmV0" not in repr(replace(ONE, old_secret=ONE.secret))


async def test_what_is_done_to_a_webhook_is_noted_with_it_and_outlives_it(live):
    def noted(change: WebhookChange, webhook: str = "w-1", **about: Any) -> AuditEvent:
        subject = f"webhooks/{webhook}"
        return AuditEvent(subject=subject, change=change, time=BEGIN, principal="ann", **about)

    host = AuditEvent(subject="hosts/w-1", change=HostChange.ADDED, time=BEGIN, principal="ann")
    done = [
        noted(WebhookChange.ADDED),
        noted(WebhookChange.RESUMED, reason="é", detail="7"),
        noted(WebhookChange.REMOVED, reason="gone"),
    ]
    store = await reopened(live)
    await store.put_webhook(ONE, done[0])
    await store.note_audit([host])
    await store.put_webhook(ONE, done[1])
    await store.put_webhook(replace(ONE, id="w-10"), noted(WebhookChange.ADDED, "w-10"))
    await store.put_webhook(ONE)  # by itself
    await store.remove_webhook("w-1", done[2])
    await store.close()

    store = await reopened(live)
    mine = await store.audit("webhooks/w-1", before=2**62, limit=9)
    assert [replace(each, position=0) for each in reversed(mine)] == done
    every = await store.audit("webhooks/", before=2**62, limit=9)
    assert len(every) == 4
    assert every[1:] != mine  # another's is among them
    assert await store.audit("webhooks/", before=every[1].position, limit=1) == every[2:3]
    assert [each.change for each in await store.audit("hosts/", before=2**62, limit=9)] == ["ADDED"]
    await store.close()


async def test_webhooks_are_put_replaced_noted_and_removed(live):
    two = replace(ONE, id="a-2", labels=(), kind="", old_secret="o", old_secret_end=BEGIN)
    store = await reopened(live)
    await store.put_webhook(ONE)
    await store.put_webhook(two)
    await store.note_webhooks({})
    await store.note_webhooks({"w-1": TOLD, "nobody": TOLD})
    await store.close()

    store = await reopened(live)
    assert await store.webhooks() == [two, replace(ONE, progress=TOLD)]
    await store.put_webhook(replace(two, secret="n"))
    await store.remove_webhook("w-1")
    await store.remove_webhook("w-1")
    await store.note_webhooks({"w-1": TOLD})
    assert await store.webhooks() == [replace(two, secret="n")]
    await store.close()


async def test_what_a_workflow_was_submitted_with_is_told_while_it_is_kept(live):
    one, two = Walk("a", labels={"tenant": "é", "zone": "1"}), Walk("b")
    store = await reopened(live)
    await commit(store, one.change, two.change)

    found = await store.origins(["a", "nobody", "b"])
    assert found["a"].labels == {"tenant": "é", "zone": "1"}
    assert found == {
        name: Origin(
            kind=walk.workflow.about.kind,
            traceparent=walk.workflow.about.traceparent,
            labels=dict(walk.workflow.about.labels),
        )
        for name, walk in (("a", one), ("b", two))
    }
    assert await store.origins([]) == {}
    await store.close()
