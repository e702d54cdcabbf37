"""What is a difference, and what is none: one row for each (S-V35)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator.api.doctor.comparing import (
    Fix,
    Kind,
    Knowledge,
    Odd,
    Seen,
    SeenAttempt,
    SeenImage,
    SeenOddity,
    SeenPool,
    compare,
    compare_pools,
)
from coordinator.api.doctor.standing import NOT_OURS, Expected, Known, Place, Standing
from coordinator.saga.states import AttemptState

NAME = "workflows/w/tasks/t/attempts/1"
OTHER = "workflows/w/tasks/t/attempts/2"
PLACE = Place("fast", "made")


def known(standing: Standing, *, settled: bool = True, state: str = "") -> Known:
    return Known(standing=standing, settled=settled, state=AttemptState(state) if state else None)


def attempt(outcome: str = "", **fields: Any) -> SeenAttempt:
    values: dict[str, Any] = {"name": NAME, "is_action": True, "tombstoned": False}
    return SeenAttempt(outcome=outcome, open=not outcome, **{**values, **fields})


def image(attempt: str = NAME, cluster_id: str = "ours") -> SeenImage:
    return SeenImage(place=PLACE, cluster_id=cluster_id, attempt=attempt, allocated_bytes=7)


def oddity(kind: Odd, attempt: str = NAME, *, in_use: bool = False) -> SeenOddity:
    return SeenOddity(
        kind=kind,
        pool_id="fast",
        name="staging/x",
        attempt=attempt,
        why="half-made",
        in_use=in_use,
        allocated_bytes=7,
    )


STANDS = known(Standing.STANDS, state="SUCCEEDED")
GONE = known(Standing.MADE_UP_FOR, state="SUCCEEDED")
FAILED = known(Standing.NO_EFFECT, state="FAILED")
OPEN = known(Standing.OPEN, settled=False, state="RUNNING")
NEVER = known(Standing.NEVER)
EXPECTED = (Expected(attempt=NAME, host="a", place=PLACE),)

# (what was seen, what is known of the attempt, the difference and its fix)
ROWS: dict[str, tuple[dict[str, Any], Known, tuple[Kind, Fix] | None]] = {
    "an image that stands": ({"images": [image()]}, STANDS, None),
    "an image being made": ({"images": [image()]}, OPEN, None),
    "an image of a workflow that is no more": ({"images": [image()]}, NOT_OURS, None),
    "an imported image": ({"images": [image(attempt="")]}, NEVER, None),
    "an image that was made up for": (
        {"images": [image()]},
        GONE,
        (Kind.IMAGE_ORPHAN, Fix.REMOVE_IMAGE),
    ),
    "an image of an attempt that failed": (
        {"images": [image()]},
        FAILED,
        (Kind.IMAGE_ORPHAN, Fix.REMOVE_IMAGE),
    ),
    "an image of an attempt never sent": (
        {"images": [image()]},
        NEVER,
        (Kind.IMAGE_ORPHAN, Fix.REMOVE_IMAGE),
    ),
    "what was forgotten before an older database was put back may be in use": (
        {"images": [image()]},
        replace(FAILED, in_doubt=True),
        (Kind.IMAGE_ORPHAN, Fix.NONE),
    ),
    "an orphan whose workflow is open is left alone": (
        {"images": [image()]},
        known(Standing.NO_EFFECT, settled=False, state="FAILED"),
        (Kind.IMAGE_ORPHAN, Fix.NONE),
    ),
    "an image of another cluster": (
        {"images": [image(cluster_id="theirs")]},
        GONE,
        (Kind.IMAGE_OF_ANOTHER_CLUSTER, Fix.NONE),
    ),
    "an attempt that both know": ({"attempts": [attempt("SUCCEEDED")]}, STANDS, None),
    "an attempt at work": ({"attempts": [attempt()]}, OPEN, None),
    "an outcome not heard of yet": ({"attempts": [attempt("SUCCEEDED")]}, OPEN, None),
    "an attempt at work for nobody": (
        {"attempts": [attempt()]},
        FAILED,
        (Kind.ATTEMPT_STRAY, Fix.CANCEL_ATTEMPT),
    ),
    "a compensation at work for nobody goes on": (
        {"attempts": [attempt(is_action=False)]},
        FAILED,
        None,
    ),
    "an attempt at work of a workflow that is no more": (
        {"attempts": [attempt()]},
        NOT_OURS,
        (Kind.ATTEMPT_UNKNOWN, Fix.NONE),
    ),
    "evidence of a workflow that is no more": ({"attempts": [attempt("FAILED")]}, NOT_OURS, None),
    "done in the journal, failed here": (
        {"attempts": [attempt("SUCCEEDED")]},
        FAILED,
        (Kind.OUTCOME_DIFFERS, Fix.NONE),
    ),
    "failed in the journal, done here": (
        {"attempts": [attempt("FAILED")]},
        STANDS,
        (Kind.OUTCOME_DIFFERS, Fix.NONE),
    ),
    "cancelled there, failed here": ({"attempts": [attempt("CANCELLED")]}, FAILED, None),
    "what has its tombstone does not matter": (
        {"attempts": [attempt("SUCCEEDED", tombstoned=True)]},
        FAILED,
        None,
    ),
    "half-made by an attempt that is over": (
        {"oddities": [oddity(Odd.STAGED)]},
        FAILED,
        (Kind.STAGED_LEFT, Fix.REMOVE_STAGED),
    ),
    "half-made by one at work elsewhere": ({"oddities": [oddity(Odd.STAGED)]}, OPEN, None),
    "half-made and in use": ({"oddities": [oddity(Odd.STAGED, in_use=True)]}, FAILED, None),
    "half-made, and open in the journal": (
        {"oddities": [oddity(Odd.STAGED)], "attempts": [attempt(is_action=False)]},
        STANDS,
        None,
    ),
    "half-made by nobody we know": (
        {"oddities": [oddity(Odd.STAGED)]},
        NOT_OURS,
        (Kind.STAGED_UNKNOWN, Fix.NONE),
    ),
    "an import that was not ended": (
        {"oddities": [oddity(Odd.STAGED, attempt="")]},
        NEVER,
        (Kind.FOREIGN, Fix.NONE),
    ),
    "a fence that may still be needed": ({"oddities": [oddity(Odd.FENCE)]}, FAILED, None),
    "what is not safe to touch": (
        {"oddities": [oddity(Odd.UNSAFE, attempt="")]},
        NEVER,
        (Kind.IMAGE_UNSAFE, Fix.NONE),
    ),
    "what nobody made": (
        {"oddities": [oddity(Odd.FOREIGN, attempt="")]},
        NEVER,
        (Kind.FOREIGN, Fix.NONE),
    ),
    "a pool that fails": (
        {"pools": [SeenPool(pool_id="fast", identity="1", shared=False, problem="it is gone")]},
        NEVER,
        (Kind.POOL_FAILING, Fix.NONE),
    ),
}


def knowledge(of: Known = NEVER, **fields: Any) -> Knowledge:
    return Knowledge(cluster_id="ours", of=lambda _name: of, **fields)


@pytest.mark.parametrize("row", ROWS)
def test_a_difference_and_its_fix(row):
    seen, of, expected = ROWS[row]
    found = compare(Seen(host="a", **seen), knowledge(of))
    assert [(finding.kind, finding.fix) for finding in found] == ([expected] if expected else [])
    for finding in found:
        assert finding.name.startswith("hosts/a/findings/")
        assert finding.message
        assert finding.advice


def test_a_copy_that_somebody_made_by_hand_is_told_of():
    original = Known(standing=Standing.STANDS, settled=True, place=Place("fast", "original"))
    [finding] = compare(Seen(host="a", images=[image()]), knowledge(original))
    assert (finding.kind, finding.fix) == (Kind.IMAGE_ORPHAN, Fix.NONE)
    assert "fast/original" in finding.message


def test_an_orphan_that_an_open_workflow_names_is_left_alone():
    seen = Seen(host="a", images=[image()])
    [finding] = compare(seen, knowledge(GONE, held={PLACE: "workflows/other"}))
    assert (finding.kind, finding.fix) == (Kind.IMAGE_ORPHAN, Fix.NONE)
    assert "workflows/other" in finding.advice


def test_a_fence_goes_once_its_host_has_forgotten():
    seen = Seen(host="a", oddities=[oddity(Odd.FENCE)])
    [finding] = compare(seen, knowledge(FAILED, forgotten=[NAME]))
    assert (finding.kind, finding.fix) == (Kind.FENCE_LEFT, Fix.REMOVE_FENCE)


def test_what_is_relied_on_must_be_there():
    there = Seen(host="a", images=[image()])
    assert compare(there, knowledge(STANDS, expected=EXPECTED)) == []
    [finding] = compare(Seen(host="a"), knowledge(STANDS, expected=EXPECTED))
    assert (finding.kind, finding.subject, finding.fix) == (Kind.IMAGE_MISSING, "made", Fix.NONE)


def test_what_was_accepted_must_be_in_the_journal():
    assert compare(Seen(host="a", attempts=[attempt()]), knowledge(OPEN, accepted=[NAME])) == []
    [finding] = compare(Seen(host="a"), knowledge(OPEN, accepted=[OTHER]))
    assert (finding.kind, finding.subject) == (Kind.ATTEMPT_MISSING, OTHER)


@pytest.mark.parametrize(
    ("identity", "shared", "kind"),
    [
        ("1", (True, True), None),
        ("2", (True, True), Kind.POOLS_DIFFER),
        ("1", (True, False), Kind.POOL_NOT_SHARED),
        ("1", (False, False), Kind.POOL_NOT_SHARED),
        ("", (False, False), None),
    ],
)
def test_one_pool_on_two_hosts(identity, shared, kind):
    hosts = [
        Seen(
            host=host,
            pools=[SeenPool(pool_id="fast", identity=found, shared=says, problem="")],
        )
        for host, found, says in zip("ab", ("1", identity), shared, strict=True)
    ]
    assert [finding.kind for finding in compare_pools(hosts)] == ([kind] if kind else [])
