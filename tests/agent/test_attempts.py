"""The tables of an attempt at the agent, row by row: its states, and who may begin one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from agent import attempts
from agent.attempts import (
    LATE,
    OPEN,
    TRANSITIONS,
    Admit,
    AttemptRecord,
    Event,
    Header,
    Join,
    JournalFacts,
    Kind,
    Place,
    Refuse,
    State,
)
from countermand.rpc.errors import PoolNotFound

NOW = datetime(2030, 1, 1, tzinfo=UTC)
NAME = "workflows/w1/tasks/copy/attempts/1"

HEADER = Header(
    attempt=NAME,
    cluster_id="cluster-a",
    owner_epoch=5,
    intent_sequence=50,
    request_hash=b"hash",
    expected_incarnation="life-1",
)
FACTS = JournalFacts(
    cluster_id="cluster-a", incarnation="life-1", highest_epoch=5, low_watermark=50, attempt=None
)
KNOWN = AttemptRecord(
    name=NAME,
    kind=Kind.ACTION,
    request=b"action",
    request_hash=b"hash",
    state=State.RUNNING,
    owner_epoch=5,
    intent_sequence=50,
    create_time=NOW,
)
BURIED = attempts.bury(None, name=NAME, header=HEADER, request=b"action", now=NOW)
NO_POOL = PoolNotFound(pool="gone")

# What differs from a welcome request, and the reason of the refusal; in the order of the checks.
# Each row holds with everything below it wrong as well: that is what the order means.
CHECKS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("WRONG_CLUSTER", {"cluster_id": "cluster-b"}, {}),
    ("INCARNATION_CHANGED", {"expected_incarnation": "life-0"}, {}),
    ("FENCED", {"owner_epoch": 4}, {}),
    ("ATTEMPT_REUSED", {"request_hash": b"other"}, {"attempt": KNOWN}),
    ("COMPENSATED", {}, {"attempt": BURIED}),
    ("EXPIRED", {"intent_sequence": 49}, {}),
]


@pytest.mark.parametrize("row", range(len(CHECKS)), ids=[check[0] for check in CHECKS])
def test_the_first_check_that_fails_decides(row):
    """S-V8, S-Z7, S-Z10, S-Z2: fencing, incarnation, tombstone, in the contract's order."""
    reason, _, facts = CHECKS[row]
    header_changes: dict[str, Any] = {}
    for _, changes, _ in CHECKS[row:]:
        header_changes |= changes
    decision = attempts.admit(
        replace(HEADER, **header_changes),
        replace(FACTS, **facts),
        place=Place.FULL,
        refusal=NO_POOL,
    )
    assert isinstance(decision, Refuse)
    assert decision.error.reason == reason


@pytest.mark.parametrize(
    ("reason", "place", "refusal", "in_charge"),
    [("POOL_NOT_FOUND", Place.FULL, NO_POOL, True), ("QUEUE_FULL", Place.FULL, None, False)],
)
def test_what_cannot_be_done_here_comes_last(reason, place, refusal, in_charge):
    """S-Z24: a full queue refuses before anything is journalled, the epoch neither."""
    decision = attempts.admit(HEADER, FACTS, place=place, refusal=refusal)
    assert isinstance(decision, Refuse)
    assert (decision.error.reason, decision.in_charge) == (reason, in_charge)


@pytest.mark.parametrize("reason", ["WRONG_CLUSTER", "INCARNATION_CHANGED", "FENCED"])
def test_who_is_not_in_charge_teaches_nothing(reason):
    [(_, changes, _)] = [check for check in CHECKS if check[0] == reason]
    decision = attempts.admit(replace(HEADER, **changes), FACTS, place=Place.SLOT)
    assert isinstance(decision, Refuse)
    assert not decision.in_charge


def test_a_new_attempt_is_admitted():
    assert attempts.admit(HEADER, FACTS, place=Place.SLOT) == Admit()


def test_the_first_coordinator_decides_the_cluster():
    facts = replace(FACTS, cluster_id="")
    assert attempts.admit(HEADER, facts, place=Place.SLOT) == Admit()


@pytest.mark.parametrize("state", list(State))
def test_a_repeat_joins_whatever_the_state(state):
    """S-V4, S-Z4: also under a full queue, a lost pool, a tombstone, and below the watermark."""
    known = replace(KNOWN, state=state, tombstoned=True)
    header = replace(HEADER, intent_sequence=1, owner_epoch=9)
    facts = replace(FACTS, attempt=known)
    decision = attempts.admit(header, facts, place=Place.FULL, refusal=NO_POOL)
    assert decision == Join(known)


def test_every_state_and_event_has_a_row_is_late_or_is_a_bug():
    outcomes = {Event.SUCCEEDED, Event.FAILED, Event.LOST}
    for state in State:
        for event in Event:
            row, late = (state, event) in TRANSITIONS, (state, event) in LATE
            assert not (row and late), (state, event)
            bug = event in outcomes and state not in {State.RUNNING, State.CANCELLING}
            assert row or late or bug, (state, event)


def test_outcomes_are_final():
    final = {State.SUCCEEDED, State.FAILED, State.CANCELLED}
    assert not [row for row in TRANSITIONS if row[0] in final]


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ("STARTED SUCCEEDED", State.SUCCEEDED),
        ("STARTED FAILED", State.FAILED),
        ("STARTED LOST", State.UNKNOWN),
        ("STARTED LOST STARTED SUCCEEDED", State.SUCCEEDED),
        ("CANCEL_ASKED", State.CANCELLED),
        ("CANCEL_ASKED STARTED", State.CANCELLED),
        ("STARTED CANCEL_ASKED", State.CANCELLING),
        ("STARTED CANCEL_ASKED STOPPED", State.CANCELLED),
        ("STARTED CANCEL_ASKED SUCCEEDED", State.SUCCEEDED),
        ("STARTED CANCEL_ASKED FAILED", State.FAILED),
        ("STARTED SUCCEEDED CANCEL_ASKED", State.SUCCEEDED),
        ("STOPPED", State.CANCELLED),
    ],
)
def test_an_attempt_moves_through_its_life(events, state):
    """S-V19, S-Z15: a cancel wins or loses; both sides say the same."""
    record = replace(KNOWN, state=State.ACCEPTED)
    for event in events.split():
        record = attempts.move(record, Event(event), now=NOW)
    assert record.state is state
    assert (record.end_time is None) == (state in OPEN)


def test_a_tombstone_keeps_what_was_received():
    buried = attempts.bury(KNOWN, name=NAME, header=HEADER, request=b"", now=NOW)
    assert buried == replace(KNOWN, tombstoned=True)


def test_a_tombstone_stands_for_what_was_never_received():
    """S-Z3: the name is closed before it was ever heard of."""
    assert (BURIED.state, BURIED.tombstoned, BURIED.received) == (State.UNKNOWN, True, False)
