"""What every store promises, whatever it is made of."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from coordinator.runtime.ports import (
    AuditEvent,
    HostChange,
    HostRecord,
    Request,
    Store,
    StoreConflictError,
    WorkflowQuery,
)
from coordinator.saga import events
from coordinator.saga.states import AttemptKind, AttemptState, WorkflowState
from coordinator.saga.workflow import Failure, Group
from countermand.client.spec import parallel, sequence, task, workflow_spec
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_spec_pb2 import Policy
from tests.store.conftest import Life, begin, commit
from tests.store.specs import three_tasks
from tests.store.walks import BEGIN, Walk, as_stored, cancel, failure


async def workflow_ids(store: Store, query: WorkflowQuery) -> list[str]:
    return [workflow.id for workflow in (await store.query(query)).workflows]


async def everything(store: Store) -> object:
    """Returns all that can be seen of a store."""
    return (
        await store.load_open(),
        await store.query(WorkflowQuery(limit=1_000)),
        await store.events(after=0, limit=10_000),
        await store.position(),
    )


# -- opening --------------------------------------------------------------------------------------


async def test_each_life_has_a_higher_epoch_the_same_cluster_and_the_same_key(live: Life):
    openings = []
    for _ in range(3):
        store = live()
        openings.append(await store.open())
        await store.close()

    key = openings[0].token_key
    assert [(each.cluster_id, each.owner_epoch, each.token_key) for each in openings] == [
        ("id-1", epoch, key) for epoch in (1, 2, 3)
    ]
    assert openings[0].next_intent == 1


async def test_a_life_is_seen_with_what_it_has_open(live: Life):
    store = live()
    opening = await begin(store)
    [first] = [each for each in await store.sessions() if each.own]
    await store.close()
    assert (first.id, first.state, first.workflows) == (opening.owner_epoch, "ALIVE", 0)
    store = live()
    await begin(store)
    await commit(store, Walk("a").change)
    [own] = [each for each in await store.sessions() if each.own]
    await store.close()
    assert own.id > first.id
    assert own.workflows == 1
    assert (own.expire_time is None) is not store.shared
    assert own.keeps_house is not store.shared
    assert own.start_time >= first.start_time


async def test_the_next_intent_is_higher_than_any_committed(live: Life):
    store = live()
    await store.open()
    walk = Walk("a")
    while not walk.workflow.settled:
        await commit(store, walk.change)
        while walk.step() is None:
            pass
    await commit(store, walk.change)
    await store.close()

    store = live()
    opening = await store.open()
    await store.close()

    assert opening.next_intent >= walk.intent


async def test_what_one_life_committed_the_next_one_finds(live: Life):
    store = live()
    await store.open()
    walk = Walk("a", spec=three_tasks())
    await commit(store, walk.change)
    await store.put_host(HostRecord(id="h", address="h:1", create_time=BEGIN))
    before = await everything(store)
    await store.close()

    store = live()
    await begin(store)
    assert await everything(store) == before
    assert [host.id for host in await store.hosts()] == ["h"]
    await commit(store, walk.succeed())
    stored = await store.load("a")
    await store.close()

    assert stored is not None
    assert stored.workflow == as_stored(walk.workflow)


# -- committing -----------------------------------------------------------------------------------


async def test_nothing_to_commit_is_a_success(store: Store):
    await store.commit([])

    assert await store.position() == 0


async def test_a_workflow_is_loaded_as_it_was_committed_at_every_step(store: Store):
    walk = Walk("a", seed=3, labels={"vm": "7"})
    await commit(store, walk.change)
    for _ in range(60):
        if change := walk.step():
            await commit(store, change)

        stored = await store.load("a")
        assert stored is not None
        assert stored.workflow == as_stored(walk.workflow)
        assert stored.submission == walk.submission == await store.submission("a")
        assert stored.workflow.version == await store.version("a")


async def test_changes_of_one_workflow_in_one_batch_are_chained(store: Store):
    walk = Walk("a", spec=three_tasks())
    changes = [walk.change, walk.succeed(), walk.succeed(), walk.succeed()]

    await store.commit(changes)

    stored = await store.load("a")
    assert stored is not None
    assert stored.workflow == as_stored(walk.workflow)
    assert stored.workflow.state is WorkflowState.SUCCEEDED
    assert [e.sequence for e in await store.history("a", after=0, limit=100)] == list(
        range(1, walk.workflow.sequence + 1)
    )


async def test_an_unknown_action_is_kept_beside_its_compensation_and_known_later(store: Store):
    walk = Walk("a", spec=three_tasks())
    lost = events.AttemptLost(task=1, number=1, failure=failure(walk.random))
    stop = cancel(walk.random)
    for event in (None, lost, stop, events.AttemptMissing(task=1, number=1)):
        change = walk.change if event is None else walk.perform(event)
        assert change is not None
        await commit(store, change)
    action, compensation = walk.workflow.task(1).attempts
    assert (action.state, compensation.kind) == (AttemptState.UNKNOWN, AttemptKind.COMPENSATION)

    late = walk.perform(events.AttemptSucceeded(task=1, number=1))
    assert late is not None
    await commit(store, late)

    stored = await store.load("a")
    assert stored is not None
    assert stored.workflow == as_stored(walk.workflow)
    assert stored.workflow.task(1).attempts[0].state is AttemptState.SUCCEEDED


async def test_an_attempt_that_stays_unknown_is_followed_by_others(store: Store):
    """A group is made up for and begins another round: nobody will ever know about the first."""
    members = [task(name, host="host-1", action=Noop()) for name in "ab"]
    group = parallel("group", *members)
    group.policy.on_failure = Policy.ON_FAILURE_COMPENSATE_GROUP
    group.group.rounds_max = 2
    walk = Walk("a", spec=workflow_spec("rounds", sequence("root", group)))
    lost, wrong = walk.workflow.plan.by_name["a"], walk.workflow.plan.by_name["b"]
    await commit(store, walk.change)

    for event in (
        events.AttemptLost(task=lost, number=1, failure=failure(walk.random)),
        events.AttemptFailed(task=wrong, number=1, failure=failure(walk.random)),
        events.AttemptMissing(task=lost, number=1),
        events.AttemptSucceeded(task=lost, number=2),  # its compensation
    ):
        await commit(store, walk.must(event))

    stored = await store.load("a")
    assert stored
    assert stored.workflow == as_stored(walk.workflow)
    first, _, third = stored.workflow.task(lost).attempts
    assert (first.state, third.state) == (AttemptState.UNKNOWN, AttemptState.STARTING)
    again = stored.workflow.nodes[walk.workflow.plan.by_name["group"]]
    assert isinstance(again, Group)
    assert again.round == 2


async def test_a_settled_workflow_still_records_what_comes_late(store: Store):
    walk = Walk("a", spec=three_tasks())
    await store.commit([walk.change, walk.succeed(), walk.succeed(), walk.succeed()])

    while (change := walk.step()) is None:
        pass
    await commit(store, change)

    stored = await store.load("a")
    assert stored is not None
    assert stored.workflow == as_stored(walk.workflow)


async def test_a_quarantined_workflow_does_not_keep_others_from_being_loaded(store: Store):
    held, other = Walk("held", spec=three_tasks()), Walk("other", spec=three_tasks())
    await store.commit([held.change, held.succeed(), held.quarantine(), other.change])

    found = await store.load_open()

    assert [stored.workflow.id for stored in found] == ["held", "other"]
    assert found[0].workflow.state is WorkflowState.QUARANTINED
    assert dict(found[0].workflow.tasks()).keys() == dict(held.workflow.tasks()).keys()


# -- conflicts ------------------------------------------------------------------------------------


async def test_a_stale_version_is_refused_and_nothing_of_the_batch_is_visible(store: Store):
    walk, other = Walk("a", spec=three_tasks()), Walk("b")
    await commit(store, walk.change)
    walk.succeed()
    skipped = walk.succeed()
    before = await everything(store)

    with pytest.raises(StoreConflictError, match="workflow 'a' is at version 1, not 2"):
        await commit(store, other.change, skipped)

    assert await everything(store) == before
    await commit(store, other.change)  # the store goes on


async def test_a_version_committed_twice_is_refused(store: Store):
    walk = Walk("a", spec=three_tasks())
    await commit(store, walk.change)
    await commit(store, walk.succeed())

    with pytest.raises(StoreConflictError, match="workflow 'a' is at version 2, not 1"):
        await commit(store, walk.change)


async def test_a_change_of_an_unknown_workflow_is_refused(store: Store):
    walk = Walk("a", spec=three_tasks())

    with pytest.raises(StoreConflictError, match="workflow 'a' is at version 0, not 1"):
        await commit(store, walk.succeed())


async def test_a_broken_chain_in_a_batch_is_refused(store: Store):
    walk = Walk("a", spec=three_tasks())
    first = walk.change
    walk.succeed()

    with pytest.raises(StoreConflictError, match="workflow 'a' is at version 1, not 2"):
        await commit(store, first, walk.succeed())

    assert await store.load("a") is None


async def test_a_taken_workflow_id_is_refused(store: Store):
    await commit(store, Walk("a").change)
    before = await everything(store)

    with pytest.raises(StoreConflictError, match="workflow id 'a' is taken"):
        await commit(store, Walk("b").change, Walk("a", seed=2).change)

    assert await everything(store) == before


async def test_a_workflow_id_taken_twice_in_one_batch_is_refused(store: Store):
    with pytest.raises(StoreConflictError, match="workflow id 'a' is taken"):
        await commit(store, Walk("a").change, Walk("a", seed=2).change)

    assert await store.load("a") is None


async def test_a_lower_owner_epoch_is_refused(store: Store):
    walk = Walk("a", spec=three_tasks(), epoch=7)
    await commit(store, walk.change)
    change = walk.succeed()
    older = replace(change, workflow=replace(change.workflow, owner_epoch=6))

    with pytest.raises(StoreConflictError, match="workflow 'a' is owned by epoch 7"):
        await commit(store, older)


# -- requests -------------------------------------------------------------------------------------


async def test_a_request_is_remembered_with_what_it_changed(store: Store):
    request = Request(request_id="r-1", hash=b"\x00\xff")
    await commit(store, replace(Walk("a").change, request=request))

    assert await store.request("r-1") == (request, "a")
    assert await store.request("r-2") is None


async def test_a_taken_request_id_is_refused_and_nothing_is_visible(store: Store):
    request = Request(request_id="r-1", hash=b"1")
    await commit(store, replace(Walk("a").change, request=request))
    before = await everything(store)

    with pytest.raises(StoreConflictError, match="request id 'r-1' is taken"):
        await commit(store, Walk("b").change, replace(Walk("c").change, request=request))

    assert await everything(store) == before
    assert await store.request("r-1") == (request, "a")


async def test_a_request_id_taken_twice_in_one_batch_is_refused(store: Store):
    request = Request(request_id="r-1", hash=b"1")

    with pytest.raises(StoreConflictError, match="request id 'r-1' is taken"):
        await commit(
            store,
            replace(Walk("a").change, request=request),
            replace(Walk("b").change, request=request),
        )

    assert await store.request("r-1") is None


# -- history --------------------------------------------------------------------------------------


async def test_history_is_paged_in_order_and_says_what_the_contract_says(store: Store):
    walk, other = Walk("a", spec=three_tasks()), Walk("b", spec=three_tasks())
    await commit(store, walk.change, other.change)
    await commit(store, other.succeed(), walk.succeed())

    pages = [await store.history("a", after=after, limit=3) for after in (0, 3, 6, 100)]

    entries = [entry for page in pages for entry in page]
    assert [entry.sequence for entry in entries] == list(range(1, walk.workflow.sequence + 1))
    assert {entry.workflow_id for entry in entries} == {"a"}
    said = [HistoryEvent.FromString(entry.payload) for entry in entries]
    assert [event.sequence for event in said] == [entry.sequence for entry in entries]
    assert {event.workflow for event in said} == {"workflows/a"}
    assert said[0].workflow_started.principal == "engine"
    assert await store.history("nobody", after=0, limit=3) == []


async def test_what_the_history_says_of_a_workflow_itself_is_told_apart(store: Store):
    walk, other = Walk("a", spec=three_tasks()), Walk("b", spec=three_tasks())
    await commit(store, walk.change, other.change)
    await commit(store, walk.succeed(), other.succeed())
    await commit(store, walk.must(cancel(Random(1))))

    whole = await store.history("a", after=0, limit=100)
    own = [entry for entry in whole if not HistoryEvent.FromString(entry.payload).task]

    assert 2 < len(own) < len(whole)
    assert await store.own_history("a", after=0, limit=100) == own
    assert await store.own_history("a", after=own[0].sequence, limit=1) == own[1:2]
    assert await store.own_history("a", after=own[-1].sequence, limit=1) == []


async def test_events_of_all_workflows_are_paged_in_order_of_their_position(store: Store):
    walks = [Walk(name, spec=three_tasks()) for name in "abc"]
    await store.commit([walk.change for walk in walks])
    for walk in walks:
        await commit(store, walk.succeed())

    seen, after = [], 0
    while page := await store.events(after=after, limit=4):
        seen += page
        after = page[-1].position

    positions = [entry.position for entry in seen]
    assert positions == sorted(set(positions))
    assert positions[-1] == await store.position()
    assert {
        walk.workflow.id: [e.sequence for e in seen if e.workflow_id == walk.workflow.id]
        for walk in walks
    } == {walk.workflow.id: list(range(1, walk.workflow.sequence + 1)) for walk in walks}


# -- reading --------------------------------------------------------------------------------------


async def test_only_workflows_that_are_not_settled_are_loaded_at_start(store: Store):
    done, going = Walk("done", spec=three_tasks()), Walk("going", spec=three_tasks())
    await store.commit([done.change, done.succeed(), done.succeed(), done.succeed(), going.change])

    assert [stored.workflow.id for stored in await store.load_open()] == ["going"]
    assert await store.load("nobody") is None
    assert await store.submission("nobody") is None
    assert await store.version("nobody") == 0


async def test_many_open_workflows_are_all_loaded(store: Store):
    walks = [Walk(f"w-{number}", spec=three_tasks()) for number in range(1_001)]
    await store.commit([walk.change for walk in walks])

    found = await store.load_open()

    assert [stored.workflow for stored in found] == [as_stored(walk.workflow) for walk in walks]


async def test_lists_are_newest_first_and_paged(store: Store):
    for number in range(5):
        await commit(store, Walk(f"w-{number}").change)

    page = await store.query(WorkflowQuery(limit=2))
    pages = [page]
    while page.next:
        await commit(store, Walk(f"meanwhile-{len(pages)}").change)  # disturbs no page
        page = await store.query(WorkflowQuery(limit=2, after=page.next))
        pages.append(page)

    assert [[workflow.id for workflow in page.workflows] for page in pages] == [
        ["w-4", "w-3"],
        ["w-2", "w-1"],
        ["w-0"],
    ]


async def test_a_full_last_page_has_no_next(store: Store):
    await commit(store, Walk("a").change, Walk("b").change)

    assert (await store.query(WorkflowQuery(limit=2))).next == ""


@pytest.mark.parametrize("token", ["x", "-1", "1.5", "٣", "9" * 19])
async def test_a_token_that_is_none_is_refused(store: Store, token: str):
    with pytest.raises(ValueError, match="is not the token of a page"):
        await store.query(WorkflowQuery(after=token))


async def test_lists_are_filtered(store: Store):
    done = Walk("done", spec=three_tasks(), labels={"vm": "1", "env": "test"})
    later = BEGIN + timedelta(days=1)
    going = Walk("going", spec=three_tasks(), labels={"vm": "2", "env": "test"}, begin=later)
    await store.commit([done.change, done.succeed(), done.succeed(), done.succeed(), going.change])
    running, succeeded = WorkflowState.RUNNING, WorkflowState.SUCCEEDED

    for query, expected in [
        (WorkflowQuery(states=frozenset({running})), ["going"]),
        (WorkflowQuery(states=frozenset({succeeded})), ["done"]),
        (WorkflowQuery(states=frozenset({running, succeeded})), ["going", "done"]),
        (WorkflowQuery(states=frozenset({WorkflowState.FAILED})), []),
        (WorkflowQuery(labels=(("env", "test"),)), ["going", "done"]),
        (WorkflowQuery(labels=(("env", "test"), ("vm", "1"))), ["done"]),
        (WorkflowQuery(labels=(("vm", "3"),)), []),
        (WorkflowQuery(host="host-1"), ["going", "done"]),
        (WorkflowQuery(host="host-2"), []),
        (WorkflowQuery(kind="three"), ["going", "done"]),
        (WorkflowQuery(kind="four"), []),
        (WorkflowQuery(created_before=later), ["done"]),
        (WorkflowQuery(id_prefix="do"), ["done"]),
        (WorkflowQuery(id_prefix="done"), ["done"]),
        (WorkflowQuery(id_prefix="o"), []),
        (WorkflowQuery(id_prefix="do", states=frozenset({running})), []),
        (WorkflowQuery(id_prefix="do", states=frozenset({succeeded})), ["done"]),
        (WorkflowQuery(id_prefix="g", labels=(("env", "test"),)), ["going"]),
        (WorkflowQuery(id_prefix="g", host="host-1", kind="three"), ["going"]),
        (WorkflowQuery(created_before=BEGIN), []),
        (WorkflowQuery(kind="three", host="host-1", states=frozenset({running})), ["going"]),
    ]:
        assert await workflow_ids(store, query) == expected, query


# -- what agents are to forget --------------------------------------------------------------------


async def test_what_settles_leaves_evidence_with_every_host_it_was_on(store: Store):
    """S-Z28, I12: written with the change that settles it, and with no other."""
    walk = Walk("a", spec=three_tasks())
    await commit(store, walk.change, walk.succeed(), walk.succeed())
    assert await store.evidence("host-1", below=10_000, limit=10) == []
    await commit(store, walk.succeed())

    last = max(a.intent for _, t in walk.workflow.tasks() for a in t.attempts)
    assert await store.evidence("host-1", below=last + 1, limit=10) == ["a"]
    assert await store.evidence("host-1", below=last, limit=10) == []
    assert await store.evidence("host-2", below=10_000, limit=10) == []


async def test_who_has_fenced_keeps_evidence_as_well(store: Store):
    """It was told the workflow's epoch, and nothing else would have it forget that."""
    walk = Walk("a", spec=three_tasks())
    ask = events.Ask(principal="eve", reason="it is lost", request_id="r")
    fence = events.FenceRequested(ask=ask, task=1, host="host-2")
    changes = (walk.change, walk.must(fence), walk.succeed(), walk.succeed(), walk.succeed())
    await commit(store, *changes)
    assert await store.evidence("host-2", below=10_000, limit=10) == ["a"]
    assert await store.evidence("host-1", below=10_000, limit=10) == ["a"]


async def test_evidence_is_told_oldest_first_until_it_is_forgotten(store: Store):
    walks = [Walk(name, spec=three_tasks()) for name in "cab"]
    for walk in walks:
        await commit(store, walk.change, walk.succeed(), walk.succeed(), walk.succeed())
    first, second, third = (w.workflow.id for w in sorted(walks, key=lambda walk: walk.intent))

    assert await store.evidence("host-1", below=10_000, limit=2) == [first, second]
    await store.forgotten("host-1", [second, "nobody"])
    await store.forgotten("host-2", [first])
    await store.forgotten("host-1", [])
    assert await store.evidence("host-1", below=10_000, limit=9) == [first, third]


async def test_retention_and_the_removal_of_its_host_lose_no_evidence(store: Store):
    walk = Walk("a", spec=three_tasks())
    await commit(store, walk.change, walk.succeed(), walk.succeed(), walk.succeed())
    assert await store.expire(before=BEGIN + timedelta(days=1), limit=10) == 1
    await store.remove_host("host-1")

    assert await store.evidence("host-1", below=10_000, limit=9) == ["a"]


# -- hosts ----------------------------------------------------------------------------------------


async def test_hosts_are_put_replaced_and_removed(store: Store):
    one = HostRecord(id="h-1", address="h-1:7001", create_time=BEGIN)
    two = HostRecord(id="h-2", address="h-2:7001", create_time=BEGIN + timedelta(microseconds=1))
    await store.put_host(two)
    await store.put_host(one)
    assert await store.hosts() == [one, two]

    drained = replace(
        one,
        draining=True,
        incarnation="i-1",
        address="h-1:7002",
        heard_sequence=2**40,
        pools=(("fast", "é-1"), ("old", "")),
        lost_intent=7,
        accepted_intent=5,
        held="its journal went back",
    )
    await store.put_host(drained)
    assert await store.hosts() == [drained, two]

    await store.remove_host("h-2")
    await store.remove_host("h-2")
    assert await store.hosts() == [drained]


async def test_what_is_done_to_a_host_is_noted_with_it_and_kept_for_good(live: Life):
    def noted(host: str, change: HostChange, **about: Any) -> AuditEvent:
        return AuditEvent(
            subject=f"hosts/{host}", change=change, time=BEGIN, principal="ann", **about
        )

    one = HostRecord(id="h-1", address="h-1:7001", create_time=BEGIN)
    kept = Failure(reason="IMAGE_BUSY", message="é", metadata=(("image", "a"),))
    store = live()
    await store.open()
    await store.put_host(one, noted("h-1", HostChange.ADDED))
    await store.put_host(replace(one, draining=True), noted("h-1", HostChange.DRAINED, reason="é"))
    await store.put_host(replace(one, draining=True, heard_sequence=2))  # by itself
    await store.note_audit([])
    await store.note_audit(
        [
            noted("h-2", HostChange.REPAIR_BEGUN, reason="r", detail="f"),
            noted("h-1", HostChange.REPAIR_REFUSED, reason="r", detail="g", failure=kept),
        ]
    )
    await store.remove_host("h-1", noted("h-1", HostChange.REMOVED, reason="sold"))
    await store.close()

    store = live()
    await store.open()
    found = await store.audit("hosts/", before=2**62, limit=9)
    mine = await store.audit("hosts/h-1", before=2**62, limit=2)
    older = await store.audit("hosts/h-1", before=mine[-1].position, limit=9)
    await store.close()

    assert [
        (event.subject.removeprefix("hosts/"), event.change.name, event.reason) for event in found
    ] == [
        ("h-1", "REMOVED", "sold"),
        ("h-1", "REPAIR_REFUSED", "r"),
        ("h-2", "REPAIR_BEGUN", "r"),
        ("h-1", "DRAINED", "é"),
        ("h-1", "ADDED", ""),
    ]
    assert [*mine, *older] == [event for event in found if event.subject == "hosts/h-1"]
    refused = noted("h-1", HostChange.REPAIR_REFUSED, reason="r", detail="g", failure=kept)
    assert replace(found[1], position=0) == refused
