"""How owners stand, for whoever looks after all of them."""

from __future__ import annotations

from typing import Any, cast

import pytest

from coordinator.owners.owners import Owners
from coordinator.owners.reported import Reported
from coordinator.runtime.owners import Standing, Waiting
from coordinator.saga.states import TaskState
from coordinator.store.memory import Kept, MemoryStore
from tests.runtime.rig import World
from tests.store.external import anything, own
from tests.store.walks import Walk

STEPS = 120
SILENT = frozenset({TaskState.UNKNOWN, TaskState.COMPENSATION_BLOCKED})


class Looked(dict[str, Waiting]):
    """What waits, by its name; counts how often somebody looks one up."""

    looks = 0

    def __getitem__(self, name: str) -> Waiting:
        self.looks += 1
        return super().__getitem__(name)


def opened(say: Any = lambda *_: None) -> Owners:
    store = MemoryStore(Kept(), new_id=World().new_id)
    return Owners(say=say, show=lambda *_: None, reported=Reported(store))


def walks(seed: int) -> list[Walk]:
    found = [Walk(f"w{n}", seed=seed, spec=own(), owner="acme", wishes=anything) for n in range(3)]
    for walk in found:
        walk.intent += 10_000 * seed
    return found


def counted(owners: Owners) -> Standing | None:
    """Returns how the one owner stands, by everything that waits for it."""
    waiting = owners.page("acme", after=0, limit=10_000)
    if not waiting:
        return None
    return Standing(
        owner="acme",
        waiting=len(waiting),
        unaccepted=sum(not each.accepted for each in waiting),
        silent=sum(each.state in SILENT for each in waiting),
        oldest_time=waiting[0].attempt.create_time,
        watching=False,
    )


@pytest.mark.parametrize("seed", range(12))
def test_how_an_owner_stands_is_counted_as_it_moves(seed):
    owners = opened()
    all_of_it = walks(seed)
    for walk in all_of_it:
        owners.moved(walk.workflow, walk.change.changed)
    for _ in range(STEPS):
        for walk in all_of_it:
            if not walk.workflow.settled and walk.step() is not None:
                owners.moved(walk.workflow, walk.change.changed)
        expected = counted(owners)
        assert list(owners.standings(after="", limit=9)) == ([expected] if expected else [])


def test_walks_pass_through_all_that_is_counted():
    """A comparison of nothing with nothing would hold as well."""
    seen = set()
    for seed in range(12):
        owners = opened()
        all_of_it = walks(seed)
        for _ in range(STEPS):
            for walk in all_of_it:
                owners.moved(walk.workflow, walk.change.changed)
                if not walk.workflow.settled:
                    walk.step()
            for each in owners.standings(after="", limit=9):
                seen |= {name for name in ("unaccepted", "silent") if getattr(each, name)}
                seen |= {"accepted"} if each.unaccepted < each.waiting else set()
    assert seen == {"unaccepted", "accepted", "silent"}


def test_who_asks_how_owners_stand_does_not_walk_through_all_that_waits():
    """Nobody else has the loop meanwhile."""
    owners = opened()
    for number in range(200):
        walk = Walk(f"w{number}", spec=own(), owner="acme")
        owners.moved(walk.workflow, walk.change.changed)
    looked = owners._by_name = cast("Any", Looked(owners._by_name))
    (standing,) = owners.standings(after="", limit=9)
    assert standing.waiting == standing.unaccepted == 200
    assert looked.looks <= 2
