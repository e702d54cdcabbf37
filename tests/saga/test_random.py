"""Random workflows keep every invariant, and settle once the world answers."""

from __future__ import annotations

import pytest

from tests.saga.random_external import ExternalRun
from tests.saga.random_workflows import RandomRun

SEEDS = 2_000
CHUNK = 100


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_random_workflows_keep_every_invariant(first: int):
    for seed in range(first, first + CHUNK):
        try:
            RandomRun(seed).play()
        except AssertionError as error:
            error.add_note(f"again with: RandomRun({seed}).play()")
            raise


@pytest.mark.parametrize("first", range(0, SEEDS // 2, CHUNK))
def test_random_workflows_with_owners_keep_every_invariant(first: int):
    for seed in range(first, first + CHUNK):
        try:
            ExternalRun(seed).play()
        except AssertionError as error:
            error.add_note(f"again with: ExternalRun({seed}).play()")
            raise


def test_a_seed_is_one_story():
    """I14."""
    one, other = RandomRun(7), RandomRun(7)
    one.play()
    other.play()
    assert one.workflow == other.workflow
