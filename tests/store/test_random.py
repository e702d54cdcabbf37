"""Random workflows through the fake and the database at once: they must answer alike, always."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

from coordinator.runtime.ports import Store, StoreConflictError, WorkflowQuery
from coordinator.saga.states import WorkflowState
from coordinator.saga.workflow import Retention
from tests.store.conftest import Life, memory_lives, sqlite_lives
from tests.store.external import anything, own, progress
from tests.store.walks import BEGIN, Walk, as_stored

STEPS = 60


class Twins:
    """A memory store and a database that are asked the same."""

    def __init__(self, lives: tuple[Life, Life]) -> None:
        self.lives = lives
        self.stores: tuple[Store, ...] = ()

    async def reopen(self):
        for store in self.stores:
            await store.close()
        self.stores = tuple(live() for live in self.lives)
        return await self.ask("open")

    async def ask(self, name: str, *args: object, **kwargs: object):
        answers = []
        for store in self.stores:
            try:
                answer = await getattr(store, name)(*args, **kwargs)
                answers.append(frozenset(answer) if name == "progress" else answer)
            except StoreConflictError as error:
                answers.append(f"{error}")
        model, real = answers
        assert real == model, name
        return real


@pytest.mark.parametrize("seed", range(12))
async def test_memory_and_database_answer_alike(seed: int, tmp_path: Path):
    random = Random(seed)
    twins = Twins((memory_lives(), sqlite_lives(tmp_path / "store.db")))
    await twins.reopen()
    walks: list[Walk] = []
    names = (f"w-{number}" for number in range(STEPS))
    for _ in range(STEPS):
        batch = _batch(random, walks, names, seed)
        assert await twins.ask("commit", batch) is None
        if walks and random.random() < 0.1:  # what is stale, or taken, is refused alike
            stale = random.choice(walks).change
            assert "is " in await twins.ask("commit", [Walk(f"new-{seed}").change, stale])
        if random.random() < 0.05:
            await twins.reopen()
        if random.random() < 0.05:
            await _expire(random, twins, walks)
        await _compare(random, twins, walks)
    await twins.ask("load_open")
    await twins.ask("events", after=0, limit=100_000)
    for store in twins.stores:
        await store.close()


def _batch(random: Random, walks: list[Walk], names: Iterator[str], seed: int):
    """Returns what some workflows have come to, several steps of each in any mixture."""
    batch = []
    if len(walks) < 8 and (not walks or random.random() < 0.2):
        labels = {name: str(random.randrange(3)) for name in "ab" if random.random() < 0.7}
        if random.random() < 0.4:
            walks.append(_own(next(names), seed, random))
        else:
            locked = random.random() < 0.8
            walks.append(Walk(next(names), seed=seed, labels=labels, locked=locked))
        batch.append(walks[-1].change)
    steps = (random.choice(walks).step() for _ in range(random.randrange(1, 12)))
    return [*batch, *filter(None, steps)]


def _own(name: str, seed: int, random: Random) -> Walk:
    """Returns a vendor's own workflow, to which it adds tasks."""
    retention = random.choice((Retention.IN_TIME, Retention.KEPT))
    return Walk(name, seed=seed, spec=own(), owner="acme", retention=retention, wishes=anything)


async def _expire(random: Random, twins: Twins, walks: list[Walk]) -> None:
    """Removes what settled some time ago; nobody goes on with it."""
    before = BEGIN + timedelta(seconds=random.randrange(200))
    await twins.ask("expire", before=before, limit=random.choice((1, 2, 100)))
    if walks and random.random() < 0.5:
        await twins.ask("clear", random.choice(walks).workflow.id)
    for walk in list(walks):
        if await twins.ask("load", walk.workflow.id) is None:
            walks.remove(walk)


async def _compare(random: Random, twins: Twins, walks: list[Walk]) -> None:
    if not walks:
        return
    walk = random.choice(walks)
    stored = await twins.ask("load", walk.workflow.id)
    assert stored.workflow == as_stored(walk.workflow)
    await twins.ask("history", walk.workflow.id, after=random.randrange(20), limit=10)
    await twins.ask("events", after=random.randrange(200), limit=10)
    await twins.ask("position")
    count = len(walk.workflow.nodes)
    reported = [progress(walk, random, random.randrange(count)) for _ in range(2)]
    await twins.ask("note_progress", reported)
    await twins.ask("progress")
    ids = [each.workflow.id for each in walks]
    await twins.ask("settled", [*ids, "w-0", "nobody"])
    await twins.ask("evidence", f"host-{random.randrange(3)}", below=10_000, limit=5)
    await twins.ask("forgotten", f"host-{random.randrange(3)}", [f"w-{random.randrange(9)}"])
    await twins.ask("request", f"{walk.workflow.id}-1")
    query = WorkflowQuery(
        states=frozenset(random.sample(list(WorkflowState), random.choice((0, 0, 1, 4)))),
        labels=(("a", "1"),) if random.random() < 0.3 else (),
        host=random.choice(("", "", "host-1", "host-9")),
        needs_attention=random.random() < 0.2,
        kind=random.choice(("", "", "clone")),
        created_before=random.choice((None, None, walk.workflow.create_time)),
        limit=random.choice((1, 3, 50)),
    )
    page = await twins.ask("query", query)
    while page.next:
        page = await twins.ask("query", WorkflowQuery(limit=2, after=page.next))
