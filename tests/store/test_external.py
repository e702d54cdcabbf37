"""What every store promises of external tasks: added, reported, kept or removed as was said."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any

from coordinator.runtime.ports import ProgressRecord, Store
from coordinator.runtime.webhooks import WebhookProgress
from coordinator.saga.external import MAIN
from coordinator.saga.states import TaskState
from coordinator.saga.workflow import Retention
from coordinator.store.memory import MemoryStore
from coordinator.store.sql import SqlStore
from tests.store.conftest import Life, commit
from tests.store.external import ENDED, accept, add, end_all, own, progress
from tests.store.test_webhooks import ONE
from tests.store.walks import BEGIN, Walk, as_stored

LATER = BEGIN + timedelta(days=1)


def begun(workflow_id: str = "own", **fields: Any) -> Walk:
    """Returns a vendor's own workflow."""
    return Walk(workflow_id, spec=own(), owner="acme", **fields)


async def ended(
    store: Store, workflow_id: str, *, force: bool = False, **fields: Retention
) -> Walk:
    """Commits a vendor's own workflow that has ended."""
    walk = begun(workflow_id, **fields)
    await commit(store, walk.change, walk.must(accept(walk)), walk.must(end_all(force=force)))
    assert walk.workflow.settled
    return walk


async def left(store: Store, *ids: str) -> list[str]:
    """Returns those of some workflows that are still there."""
    return [name for name in ids if await store.load(name) is not None]


# -- added ----------------------------------------------------------------------------------------


async def test_tasks_that_were_added_are_found_by_the_next_life(live: Life):
    """S-V29: in their order, with all that was said of them, in whatever state."""
    walk = begun(retention=Retention.KEPT)
    store = live()
    await store.open()
    await commit(store, walk.change)
    for number, parent in enumerate(("", MAIN, "t-1", "")):
        if parent:
            walk_on = walk.perform(accept(walk, parent))
            await commit(store, *([walk_on] if walk_on else []))
        more = {"after": ["t-0"]} if number == 3 else {"operator_checklist": "Do it."}
        event = add(walk, f"t-{number}", parent, weight=number, description="x", **more)
        await commit(store, walk.must(event))
    await store.close()
    store = live()
    await store.open()

    [stored] = await store.load_open()
    assert stored.workflow == as_stored(walk.workflow)
    assert stored.workflow.about.owner == "acme"
    assert stored.workflow.retention is Retention.KEPT
    names = [node.name for node in stored.workflow.plan.nodes]
    assert names == ["root", MAIN, "t-0", "t-1", "t-2", "t-3"]
    assert stored.workflow.plan == walk.workflow.plan
    await store.close()


async def test_tasks_added_in_the_batch_that_starts_their_workflow(store: Store):
    walk = begun()
    first = walk.change
    await commit(store, first, walk.must(add(walk, "a")), walk.must(add(walk, "b")))
    await commit(store, walk.must(add(walk, "c")), walk.must(accept(walk, "c")))

    stored = await store.load("own")
    assert stored is not None
    assert stored.workflow == as_stored(walk.workflow)
    index = walk.workflow.plan.by_name["c"]
    assert stored.workflow.task(index).state is TaskState.RUNNING


async def test_a_workflow_with_added_tasks_that_has_settled_is_loaded_whole(store: Store):
    walk = begun()
    await commit(store, walk.change, walk.must(add(walk, "a")), walk.must(accept(walk, "a")))
    await commit(store, walk.must(end_all(force=True, failure=ENDED)))

    stored = await store.load("own")
    assert stored is not None
    assert stored.workflow == as_stored(walk.workflow)
    assert stored.workflow.task(2).state is TaskState.ABANDONED
    assert stored.workflow.retention is Retention.AT_ONCE


# -- reported -------------------------------------------------------------------------------------


async def test_the_last_report_counts_and_the_next_life_finds_it(live: Life):
    random, walk = Random(1), begun()
    store = live()
    await store.open()
    await commit(store, walk.change, walk.must(add(walk, "a")))
    await store.note_progress([])
    await store.note_progress([progress(walk, random), progress(walk, random, task=2)])
    last = [progress(walk, random), progress(walk, random, task=2, number=2)]
    await store.note_progress([progress(walk, random), *last])
    kept = frozenset(await store.progress())
    await store.close()
    store = live()
    await store.open()

    assert frozenset(await store.progress()) == kept
    assert len(kept) == 3
    assert kept >= frozenset(last)
    await store.close()


async def test_reports_of_what_has_settled_or_is_gone_are_not_told(store: Store):
    random, walk = Random(1), begun()
    await commit(store, walk.change)
    nobody = ProgressRecord(
        workflow_id="nobody", task=1, number=1, done=1, total=0, unit="", message=""
    )
    said = progress(walk, random)
    await store.note_progress([nobody, said])
    assert await store.progress() == [said]
    await commit(store, walk.must(end_all(force=True)))
    assert await store.progress() == []
    await store.clear("own")
    await store.note_progress([said])
    assert await store.progress() == []


# -- removed --------------------------------------------------------------------------------------


async def test_what_was_forced_stays_until_all_receivers_were_told_but_not_for_ever(
    store: SqlStore | MemoryStore,
):
    """S-V28: one that is away for an hour is told how it ended; one that is gone holds nothing."""
    await ended(store, "forced", force=True)
    last = await store.position()
    gone = replace(ONE, id="gone", progress=WebhookProgress(position=0, disabled=True))
    slow = replace(ONE, id="slow", progress=WebhookProgress(position=last - 1))
    quick = replace(ONE, id="quick", progress=WebhookProgress(position=last))
    for webhook in (gone, slow, quick):
        await store.put_webhook(webhook)
    assert await store.expire(before=BEGIN, limit=9) == 0
    await store.note_webhooks({"slow": WebhookProgress(position=last)})
    assert await store.expire(before=BEGIN, limit=9) == 1

    await ended(store, "untold", force=True)
    assert await store.expire(before=BEGIN, limit=9) == 0
    assert await store.expire(before=LATER, limit=9) == 1
    assert await left(store, "forced", "untold") == []


async def test_what_was_forced_stays_until_it_was_read_by_who_reads_everything(
    store: SqlStore | MemoryStore,
):
    """S-V28: also while spans wait for a collector."""
    await ended(store, "forced", force=True)
    await store.note_position("traces", await store.position() - 1)
    assert await store.expire(before=BEGIN, limit=9) == 0
    await store.note_position("traces", await store.position())
    assert await store.expire(before=BEGIN, limit=9) == 1

    await ended(store, "unread", force=True)
    assert await store.expire(before=BEGIN, limit=9) == 0
    await store.forget_reader("traces")
    await store.forget_reader("nobody")
    assert await store.expire(before=BEGIN, limit=9) == 1


async def test_what_is_kept_is_removed_only_when_told_and_what_was_forced_at_once(store: Store):
    """S-V28: a forced end outweighs what was said at the start."""
    await ended(store, "in-time")
    await ended(store, "kept", retention=Retention.KEPT)
    await ended(store, "forced", force=True, retention=Retention.KEPT)
    ids = ("in-time", "kept", "forced")

    assert await store.expire(before=BEGIN, limit=10) == 1
    assert await left(store, *ids) == ["in-time", "kept"]
    assert await store.expire(before=LATER, limit=10) == 1
    assert await left(store, *ids) == ["kept"]
    await store.clear("kept")
    await store.clear("kept")
    assert await left(store, *ids) == []
    assert await store.settled([*ids, "nobody"]) == frozenset(ids)


async def test_what_is_open_is_never_cleared_and_keeps_nobody_else(store: Store):
    """However many were ended by force and still wait for something."""
    waits = own()
    waits.policy.wait_after.FromSeconds(3600)
    walks = [Walk(f"open-{number}", spec=waits, owner="acme") for number in range(3)]
    for walk in walks:
        await commit(store, walk.change, walk.must(accept(walk)), walk.must(end_all(force=True)))
        assert (walk.workflow.retention, walk.workflow.settled) == (Retention.AT_ONCE, False)
        await store.clear(walk.workflow.id)
    await ended(store, "forced", force=True)
    await ended(store, "forced-too", force=True)
    ids = [walk.workflow.id for walk in walks]

    assert await store.expire(before=BEGIN, limit=1) == 1
    assert await left(store, "forced", "forced-too", *ids) == ["forced-too", *ids]
    assert await store.expire(before=BEGIN, limit=2) == 1
    assert await left(store, "forced-too", *ids) == ids
