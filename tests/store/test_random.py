"""Random workflows through the fake and the databases at once: they must answer alike, always."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

from coordinator.runtime.ports import (
    AuditEvent,
    HostChange,
    HostRecord,
    Store,
    StoreConflictError,
    WorkflowQuery,
    WorkflowSummary,
)
from coordinator.runtime.webhooks import WebhookProgress, WebhookRecord
from coordinator.saga.states import WorkflowState
from coordinator.saga.workflow import Retention
from tests.store.conftest import Life, begin, memory_lives, postgres_lives, sqlite_lives
from tests.store.external import anything, own, progress
from tests.store.walks import BEGIN, Walk, as_stored

STEPS = 60


TEXTS = ("", "plain", "é\u2028'\"\\%s%", "a\0b", "\x1a0\x1a", "\U0001f600~", "A", "a", "_%")


class Twins:
    """A memory store and databases that are asked the same."""

    def __init__(self, lives: Sequence[Life]) -> None:
        self.lives = lives
        self.stores: tuple[Store, ...] = ()

    async def reopen(self):
        for store in self.stores:
            await store.close()
        self.stores = tuple(live() for live in self.lives)
        openings = [await begin(store) for store in self.stores]
        # Where intents are taken in advance, some are lost with each life.
        told = {(each.cluster_id, each.owner_epoch, each.token_key) for each in openings}
        assert len(told) == 1, told

    async def ask(self, name: str, *args: object, **kwargs: object):
        answers = []
        for store in self.stores:
            try:
                answer = await getattr(store, name)(*args, **kwargs)
                answers.append(frozenset(answer) if name == "progress" else answer)
            except StoreConflictError as error:
                answers.append(f"{error}")
        model = answers[0]
        assert answers == [model] * len(answers), name
        return model


@pytest.fixture
def lives(request: pytest.FixtureRequest, tmp_path: Path) -> list[Life]:
    """Returns each kind of store that there can be here, the model first."""
    found = [memory_lives(), memory_lives(shared=True), sqlite_lives(tmp_path / "store.db")]
    with suppress(pytest.skip.Exception):  # others say so aloud
        found.append(postgres_lives(request.getfixturevalue("postgres_url")))
    return found


@pytest.mark.parametrize("seed", range(3))
async def test_memory_and_databases_answer_alike(seed: int, lives: list[Life]):
    random = Random(seed)
    twins = Twins(lives)
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
        await _administer(random, twins)
        await _compare(random, twins, walks)
    await _whole(twins)
    await twins.reopen()
    await _whole(twins)
    for store in twins.stores:
        await store.close()


def _batch(random: Random, walks: list[Walk], names: Iterator[str], seed: int):
    """Returns what some workflows have come to, several steps of each in any mixture."""
    batch = []
    if len(walks) < 8 and (not walks or random.random() < 0.2):
        labels = {
            name: random.choice(("0", "1", "2", *TEXTS)) for name in "ab" if random.random() < 0.7
        }
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


async def _administer(random: Random, twins: Twins) -> None:
    """Does something to a host, a webhook or a reader, in anybody's words."""
    name, said = f"h-{random.choice('abAZ-')}", random.choice(TEXTS)
    host = HostRecord(id=name, address=said, held=random.choice(TEXTS), create_time=BEGIN)
    event = AuditEvent(
        subject=f"hosts/{name}",
        change=random.choice(list(HostChange)),
        time=BEGIN + timedelta(microseconds=random.randrange(10**9)),
        principal=random.choice(TEXTS),
        reason=said,
    )
    progress = WebhookProgress(position=random.randrange(500))
    hook = WebhookRecord(
        id=f"w-{random.choice('abAZ-')}",
        url="https://receiver.example",
        event_types=("*",),
        labels=((said or "a", said),),
        secret=said,
        create_time=BEGIN,
        progress=replace(progress, disabled=random.random() < 0.3),
    )
    match random.randrange(10):
        case 0:
            await twins.ask("put_host", host, event)
        case 1:
            await twins.ask("remove_host", name, event)
        case 2:
            await twins.ask("note_audit", [event, replace(event, subject="hosts/z")])
        case 3:
            await twins.ask("put_webhook", hook)
        case 4:
            await twins.ask("note_webhooks", {hook.id: progress})
        case 5:
            await twins.ask("remove_webhook", hook.id)
        case 6:
            await twins.ask("note_position", said, random.randrange(500))
        case 7:
            await twins.ask("forget_reader", said)
        case _:
            pass


async def _whole(twins: Twins) -> None:
    """Compares all that can be seen of the stores."""
    for name in ("load_open", "position", "progress", "hosts", "webhooks"):
        await twins.ask(name)
    await twins.ask("events", after=0, limit=100_000)
    for text in TEXTS:
        await twins.ask("position_of", text)
    for subject in ("hosts/", "hosts/h-a", "webhooks/", "HOSTS/"):
        await twins.ask("audit", subject, before=2**62, limit=1_000)
    page = await twins.ask("query", WorkflowQuery(limit=1_000))
    ids = [workflow.id for workflow in page.workflows]
    await twins.ask("origins", ids)
    for workflow_id in ids:
        await twins.ask("load", workflow_id)
        await twins.ask("own_history", workflow_id, after=0, limit=1_000)


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
        id_prefix=random.choice(("", "", "w-1", "w", "W")),
        limit=random.choice((1, 3, 50)),
    )
    read = [await _pages(store, query) for store in twins.stores]
    assert read == read[:1] * len(read)


async def _pages(store: Store, query: WorkflowQuery) -> list[tuple[WorkflowSummary, ...]]:
    """Returns all pages: the tokens between them are each store's own."""
    page = await store.query(query)
    pages = [page.workflows]
    while page.next:
        page = await store.query(WorkflowQuery(limit=2, after=page.next))
        pages.append(page.workflows)
    return pages
