"""Long sequences in pieces: what a tuple and a list would do, whatever the lengths."""

from __future__ import annotations

from random import Random

import pytest

from coordinator.saga import pieces
from coordinator.saga.pieces import SHORT_MAX, Pieces, PiecesDraft, draft, sealed
from tests.saga.random_workflows import RandomRun

LENGTHS = [SHORT_MAX + 1, 5 * 128 - 1, 5 * 128, 5 * 128 + 1, 9_999]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_draft_does_what_a_list_does(length: int):
    random = Random(length)
    values = list(range(length))
    before = sealed(draft(values))
    known = tuple(values)
    for _ in range(50):
        changed = draft(before)
        for _ in range(random.randrange(4)):
            at = random.randrange(-length, length)
            values[at] = changed[at] = random.randrange(10**6)
        first, end = (random.randrange(-length, 2 * length) for _ in range(2))
        assert list(changed) == values
        assert list(changed[first:end]) == values[first:end]
        assert list(changed[first:end:7]) == values[first:end:7]
        after = sealed(changed)
        assert tuple(before) == known, "what was before has changed"
        assert list(after[first:end]) == values[first:end]
        assert [after[at] for at in range(-length, length)] == values * 2
        assert after == tuple(values)
        assert (after == before) == (tuple(values) == known)
        before, known = after, tuple(values)


@pytest.mark.parametrize("length", [SHORT_MAX, *LENGTHS])
def test_a_draft_grows_as_a_list_does(length: int):
    values = list(range(length))
    before = sealed(draft(values))
    for round_ in range(1, 4):
        known = tuple(values)
        changed = draft(before)
        for value in (-round_, -round_ * 10):
            changed.append(value)
            values.append(value)
        changed[length] = values[length] = round_ * 100
        after = sealed(changed)
        assert tuple(before) == known, "what was before has changed"
        assert list(changed) == values
        assert [after[at] for at in range(-len(values), len(values))] == values * 2
        before = after


def test_a_change_shares_everything_but_its_piece():
    before = sealed(draft(range(9_999)))
    changed = draft(before)
    changed[5_000] = -1
    after = sealed(changed)

    assert isinstance(before, Pieces)
    assert isinstance(after, Pieces)
    others = [a is b for a, b in zip(before.pieces, after.pieces, strict=True)]
    assert others.count(False) == 1


def test_a_short_one_is_a_tuple():
    assert sealed(draft([1, 2, 3])) == (1, 2, 3)
    assert isinstance(draft(range(SHORT_MAX)), list)
    assert isinstance(draft(range(SHORT_MAX + 1)), PiecesDraft)


def test_any_workflow_goes_the_same_way_in_pieces(monkeypatch: pytest.MonkeyPatch):
    whole = [RandomRun(seed) for seed in range(20)]
    for run in whole:
        run.play()
    monkeypatch.setattr(pieces, "SHORT_MAX", 0)
    monkeypatch.setattr(pieces, "PIECE", 3)
    in_pieces = [RandomRun(seed) for seed in range(20)]
    for run in in_pieces:
        run.play()

    assert [run.workflow for run in in_pieces] == [run.workflow for run in whole]
    assert any(isinstance(run.workflow.nodes, Pieces) for run in in_pieces)
