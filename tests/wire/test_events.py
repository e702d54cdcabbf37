"""Facts of a history as the contract writes them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from coordinator.saga import history
from coordinator.saga.states import GroupState
from coordinator.saga.workflow import Failure, Inbound
from coordinator.wire.catalogue import VERBS, phrase, phrase_undone
from coordinator.wire.history import event_to_proto
from countermand.client.spec import action_of, image, sequence, task
from countermand.v1 import verb_pb2 as verb
from countermand.v1.event_pb2 import GroupStateChanged, HistoryEvent, Leftover
from tests.wire.specs import copy, copy_to, plan, spec_of

NOW = datetime(2026, 6, 1, tzinfo=UTC)
PLAN = plan(
    spec_of(
        sequence("g", copy("one")),
        copy_to("two", "input.name"),
        task("away", host="a", action=verb.DeleteImage(target=image("pool/old"))),
    ),
    {"name": "n"},
)


def event(fact: history.Fact, task: str = "") -> HistoryEvent:
    index = PLAN.by_name[task] if task else -1
    entry = history.Entry(sequence=3, time=NOW, task=index, fact=fact)
    return event_to_proto("w", PLAN, entry)


def test_what_became_of_a_group():
    failure = Failure(reason="NO_SPACE", message="full")
    fact = history.GroupMoved(
        before=GroupState.FORWARD, after=GroupState.RECOVERING, round=2, failure=failure
    )
    found = event(fact, "g")
    assert found.task == "workflows/w/tasks/g"
    changed = found.group_state_changed
    assert (changed.before, changed.after, changed.round, changed.failure.reason) == (
        GroupStateChanged.STATE_FORWARD,
        GroupStateChanged.STATE_RECOVERING,
        2,
        "NO_SPACE",
    )


def test_locks_are_taken():
    assert event(history.LocksTaken()).WhichOneof("event") == "locks_taken"


def test_an_intervention_shows_what_it_changed():
    change = Inbound(
        field="source.image_id",
        value="new",
        origin="patch",
        principal="p",
        time=NOW,
        previous="old",
    )
    fact = history.Intervened(
        verb="rerun", principal="p", reason="r", request_id="i", changes=(change,)
    )
    [shown] = event(fact, "one").intervention.changes
    assert (shown.field, shown.value.string_value, shown.previous.string_value) == (
        "source.image_id",
        "new",
        "old",
    )
    assert (shown.principal, shown.time.ToDatetime(UTC), shown.origin) == ("p", NOW, "patch")


def test_nothing_before_is_nothing():
    change = Inbound(field="digest", value=False, origin="patch")
    fact = history.Intervened(verb="v", principal="p", reason="r", request_id="", changes=(change,))
    [shown] = event(fact).intervention.changes
    assert not shown.HasField("previous")
    assert not shown.HasField("time")


def test_what_was_left_is_told_in_words():
    found = event(history.LeftBehind(reason="STOPPED"), "one").leftover_recorded.leftover
    expected = Leftover(
        task="workflows/w/tasks/one",
        host_id="a",
        description="the copy pool/one",
        reason="STOPPED",
    )
    expected.create_time.FromDatetime(NOW)
    assert found == expected


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("two", "STOPPED", "the copy pool/<input.name>"),
        ("away", "NO_SPACE", "the image pool/old"),
        ("away", "STOPPED", "the removal of pool/old"),
    ],
)
def test_what_was_left_is_named_as_far_as_the_plan_knows(name, reason, words):
    found = event(history.LeftBehind(reason=reason), name)
    assert found.leftover_recorded.leftover.description == words


def test_every_verb_has_words_for_what_it_leaves():
    for name in VERBS:
        action = verb.Action()
        getattr(action, name).SetInParent()
        assert phrase(action)
        assert phrase_undone(action)
    made = action_of(verb.CreateSnapshot(target=image("pool/vm"), snapshot_id="s"))
    assert phrase(made) == "the snapshot s of pool/vm"
