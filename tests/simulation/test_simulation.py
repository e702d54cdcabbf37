"""A few hundred simulated clusters, each under one seed; `make simulate` runs more.

Covers S-Z1 to S-Z7, S-Z9, S-Z14 to S-Z16, S-Z20, S-Z22, S-V3 to S-V9, S-V14, S-V18, S-V19.
"""

from __future__ import annotations

import pytest

from coordinator.runtime.loop import Loop
from coordinator.saga.states import WorkflowState
from tests.simulation.disk import LiveFiles
from tests.simulation.stores import STORES
from tests.simulation.world import Faults, Violation, World

SEEDS = range(1, 241)
PER_TEST = 20


@pytest.mark.parametrize("first", SEEDS[::PER_TEST])
def test_every_cluster_keeps_its_promises(first: int) -> None:
    """Nothing lost, nothing left behind, nothing twice, and everything settles."""
    _play(range(first, first + PER_TEST))


@pytest.mark.parametrize("first", range(1, 41, 10))
def test_every_cluster_keeps_its_promises_on_sqlite(first: int) -> None:
    """The same with the real store in the place of the model."""
    for seed in range(first, first + 10):
        World(seed, store=STORES["sqlite"]).run()


def test_the_storm_reaches_what_it_should() -> None:
    """Guards the harness: nodes die, workflows end both ways."""
    reports = [World(seed).run() for seed in range(1, 21)]
    ends = {state for report in reports for state in report.settled.values()}
    assert ends == {WorkflowState.SUCCEEDED, WorkflowState.COMPENSATED}
    assert sum(report.deaths for report in reports) > 100


def test_a_calm_cluster_needs_no_luck() -> None:
    """Without faults every workflow settles as well."""
    calm = Faults(
        crash_point=0, kill_every_s=1e9, message_lost=0, message_repeated=0, cut_every_s=1e9
    )
    for seed in range(1, 11):
        report = World(seed, faults=calm).run()
        assert len(report.settled) >= 1


@pytest.mark.parametrize("seed", [1, 7, 48])
def test_the_same_seed_gives_the_same_trace(seed: int) -> None:
    """I14: a failure can be replayed."""
    assert World(seed).run() == World(seed).run()


# -- planted bugs: a simulator that finds nothing proves nothing ----------------------------------


def test_finds_a_request_that_leaves_before_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the loop delivers before it commits (I5)."""
    commit = Loop._commit

    async def deliver_first(self: Loop, batch: object) -> None:
        for decision in batch.decisions:  # type: ignore[attr-defined]
            self._deliver(decision, ask_first=False)
        await commit(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Loop, "_commit", deliver_first)
    _expect_violation("I5", seeds=20)


def test_finds_a_missing_tombstone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the agent forgets to bury what it compensates (S-Z2)."""
    monkeypatch.setattr("agent.runner._bury", lambda *_: None)
    _expect_violation("I3|I1", seeds=200)


def test_finds_a_missing_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: data is renamed into place before it is durable."""
    monkeypatch.setattr(LiveFiles, "flush", lambda *_: None)
    _expect_violation("I3|never settled", seeds=40)


def _expect_violation(words: str, *, seeds: int) -> None:
    with pytest.raises(Violation, match=words):
        _play(range(1, seeds + 1))


def _play(seeds: range) -> None:
    for seed in seeds:
        World(seed).run()
