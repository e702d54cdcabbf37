"""The model of large sites: what the product does stays within what the documentation says of it.

No times of this machine: all of it is virtual, from costs that were measured once.
"""

from __future__ import annotations

from dataclasses import replace

from tests.scale.costs import MEASURED
from tests.scale.site import Size, all_killed, one_killed, p99, steady

CELL = Size(replicas=3, hosts=1_000, open=10_000)  # what a cell is recommended to have at most


def test_in_a_cell_as_recommended_everybody_renews_in_time_and_much_is_left_over():
    seen = steady(CELL, MEASURED, seconds=10.0)

    assert not seen.lost
    assert p99(seen.renewals_s) < 1
    assert p99(seen.commits_s) < 0.1
    assert seen.coordinator < 0.5
    assert seen.database < 0.5


def test_in_a_cell_as_recommended_what_one_has_left_is_taken_over_at_once():
    seen = one_killed(CELL, MEASURED)

    assert not seen.lost
    assert seen.owned_s < 5
    assert seen.decided_s < 10


def test_in_a_cell_as_recommended_a_restart_of_all_takes_seconds():
    seen = all_killed(CELL, MEASURED)

    assert seen.owned_s < 10
    assert seen.decided_s < 20


def test_a_database_that_is_too_slow_loses_sessions():
    slow = replace(MEASURED, renew=MEASURED.renew.times(20_000))

    assert steady(replace(CELL, hosts=1), slow, seconds=40.0).lost


def test_the_more_one_has_left_the_longer_others_take_to_claim_it():
    few = one_killed(replace(CELL, open=300), MEASURED)
    many = one_killed(replace(CELL, open=30_000), MEASURED)

    assert few.owned_s <= many.owned_s
