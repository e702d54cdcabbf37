"""A hundred simulated clusters, each under one seed; `make simulate` runs more.

Covers S-Z1 to S-Z7, S-Z9, S-Z14 to S-Z16, S-Z20, S-Z22, S-Z28, S-Z31, S-V3 to S-V9,
S-V14, S-V18, S-V19; with owners of external tasks S-V27 to S-V31, S-B14, S-Z32.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from coordinator.saga.states import WorkflowState
from tests.simulation.stores import STORES
from tests.simulation.world import Faults, World

SEEDS = range(1, 81)
PER_TEST = 20


@pytest.mark.parametrize("first", SEEDS[::PER_TEST])
def test_every_cluster_keeps_its_promises(first: int) -> None:
    """Nothing lost, nothing left behind, nothing twice, and everything settles."""
    _play(range(first, first + PER_TEST))


@pytest.mark.parametrize("first", range(1, 21, 10))
def test_every_cluster_keeps_its_promises_on_sqlite(first: int) -> None:
    """The same with the real store in the place of the model."""
    for seed in range(first, first + 10):
        World(seed, store=STORES["sqlite"]).run()


@pytest.mark.parametrize(("store", "seeds"), [("model", 10), ("sqlite", 4)])
def test_every_cluster_with_owners_keeps_its_promises(store: str, seeds: int) -> None:
    """Vendors do part of the work: they die, are silent, come late, and contradict themselves."""
    for seed in range(101, 101 + seeds):
        World(seed, store=STORES[store], plain=0.0, external=1.0).run()


@pytest.mark.parametrize("first", range(1, 17, 8))
def test_every_cluster_of_several_coordinators_keeps_its_promises(first: int) -> None:
    """Z7, I6: whoever is frozen, cut off, stopped or killed, each workflow has one owner."""
    for seed in range(first, first + 8):
        World(seed, several=True).run()


# Agents start again often, and what they start on is not always what they left.
JOURNALS_LOST = Faults(journal_lost=0.3, kill_every_s=6.0, down_s_max=6.0)
POOLS_LOST_TOO = replace(JOURNALS_LOST, pool_lost_too=0.4)
JOURNALS_OLDER = replace(JOURNALS_LOST, journal_lost=0.05, journal_copied=0.4, journal_restored=0.6)


@pytest.mark.parametrize(
    "faults",
    [JOURNALS_LOST, POOLS_LOST_TOO, JOURNALS_OLDER],
    ids=["journals lost", "pools lost too", "journals older"],
)
def test_every_cluster_keeps_its_promises_whatever_becomes_of_journals(faults: Faults) -> None:
    """S-Z10, S-Z11: reconciled with the storage, or held until somebody accepts what is gone."""
    for seed in range(1, 21):
        World(seed, faults=faults).run()


def test_journals_are_lost_where_there_are_several_coordinators_too() -> None:
    """S-Z10, S-Z11: one of them notices, and all of them know."""
    for seed, faults in enumerate((JOURNALS_LOST, POOLS_LOST_TOO, JOURNALS_OLDER), 1):
        World(seed, faults=faults, several=True).run()


def test_the_storm_reaches_what_it_should() -> None:
    """Guards the harness: nodes die, workflows end both ways."""
    reports = [World(seed).run() for seed in range(1, 21)]
    ends = {state for report in reports for state in report.settled.values()}
    assert ends == {WorkflowState.SUCCEEDED, WorkflowState.COMPENSATED, WorkflowState.FAILED}
    assert sum(report.deaths for report in reports) > 100


def test_the_storm_reaches_owners_too() -> None:
    """Guards the harness: effects come and go, and much of what owners do is refused or late."""
    worlds = [World(seed, plain=0.0, external=1.0) for seed in range(1, 11)]
    for world in worlds:
        world.run()
    arrays = [array for world in worlds for array in world.accounts.arrays.values()]
    for state in ("made", "removed"):
        assert sum(each == state for array in arrays for each in array.effects.values()) > 15
    states = Counter(
        attempt.failure.reason if attempt.failure else attempt.state
        for world in worlds
        for workflow in world.promises.workflows.values()
        for index, task in workflow.tasks()
        for attempt in task.attempts
        if workflow.plan.task(index).external
    )
    assert {"SUCCEEDED", "CANCELLED", "ARRAY_FULL", "UNKNOWN"} <= states.keys()
    said = {entry for world in worlds for entry in world.accounts.ended.values()}
    assert said == {"output", "failure", "cancelled"}
    assert sum(len(world.accounts.added) for world in worlds) > 50


def test_a_calm_cluster_needs_no_luck() -> None:
    """Without faults every workflow settles as well."""
    calm = Faults(
        crash_point=0, kill_every_s=1e9, message_lost=0, message_repeated=0, cut_every_s=1e9
    )
    for seed in range(1, 11):
        report = World(seed, faults=calm).run()
        assert len(report.settled) >= 1


def test_the_storm_reaches_several_coordinators() -> None:
    """Guards the harness: workflows change hands, some are waited for, and who is late hears so."""
    worlds = [World(seed, several=True) for seed in range(101, 107)]
    for world in worlds:
        world.run()
    assert {len(world.coordinators) for world in worlds} == {1, 2, 3}
    sessions = [world.several.sessions for world in worlds if world.several]
    assert sum(len(each.owners) for each in sessions) > 20
    assert sum(each.claims for each in sessions) > 10


def test_several_give_the_same_trace_under_the_same_seed() -> None:
    """I14: a failure can be replayed."""
    assert World(3, several=True).run() == World(3, several=True).run()


@pytest.mark.parametrize(("seed", "external"), [(1, 0.0), (7, 0.0), (48, 0.0), (2, 1.0), (4, 1.0)])
def test_the_same_seed_gives_the_same_trace(seed: int, external: float) -> None:
    """I14: a failure can be replayed."""
    assert World(seed, external=external).run() == World(seed, external=external).run()


def _play(seeds: range) -> None:
    for seed in seeds:
        World(seed).run()


@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
def test_every_cluster_whose_store_goes_back_in_time_keeps_its_promises(several: bool) -> None:
    """S-Z19: it is noticed where agents acted on what was lost, and not where nobody did."""
    worlds = [World(seed, several=several, rewound=True) for seed in range(1, 13)]
    for world in worlds:
        world.run()
    rewindings = [world.rewinding for world in worlds if world.rewinding]
    assert sum(each.acted for each in rewindings) > 1
    assert sum(each.lost for each in rewindings) > 1
