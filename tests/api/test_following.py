"""A slow reader: it is read for at its own pace, misses nothing, and holds next to nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from coordinator.api.follow import PAGE, Follower, needs_somebody
from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import StoredEntry
from coordinator.runtime.watch import Watches
from coordinator.store.memory import Kept, MemoryStore
from countermand.rpc.crash import never
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.event_pb2 import HistoryEvent
from tests.api.test_shown import PAUSE, Told, noop

EVENTS = 3 * PAGE + 7


class Book(MemoryStore):
    """A store with one long history, that counts what is taken out of it."""

    def __init__(self) -> None:
        super().__init__(Kept(), new_id=Certain().new_id)
        self.taken = 0

    def _page(self, after: int, limit: int) -> list[StoredEntry]:
        page = [
            StoredEntry(
                workflow_id="long",
                sequence=number,
                position=number,
                payload=HistoryEvent(sequence=number).SerializeToString(),
            )
            for number in range(after + 1, min(after + limit, EVENTS) + 1)
        ]
        self.taken += len(page)
        return page

    async def history(self, workflow_id: str, *, after: int, limit: int) -> list[StoredEntry]:
        return self._page(after, limit)

    async def events(self, *, after: int, limit: int) -> list[StoredEntry]:
        return self._page(after, limit)

    async def position(self) -> int:
        return EVENTS


class Noon:
    def now(self) -> datetime:
        return datetime(2026, 3, 2, 12, tzinfo=UTC)


class Certain:
    def jitter(self) -> float:
        return 0.0

    def new_id(self) -> str:
        return "id"


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def follower(book: Book) -> Follower:
    watches: Watches[Progress] = Watches()
    loop = Loop(store=book, clock=Noon(), chance=Certain(), crash=never, hints=watches)
    return Follower(loop=loop, store=book, watches=watches)


async def slowly(book: Book, updates: AsyncIterator[Any], upto: int) -> list[int]:
    """Takes one update after the other, and looks each time at what was taken out for it."""
    seen: list[int] = []
    async for update in updates:
        if update.HasField("event"):
            seen.append(update.event.sequence)
            assert book.taken - len(seen) < PAGE, "more than one page is held for a slow reader"
        if len(seen) == upto:
            break
    return seen


async def test_a_slow_watcher_of_a_workflow_misses_nothing(book, follower):
    updates = follower.workflow("long", after=0, progress=True)
    assert await slowly(book, updates, EVENTS) == list(range(1, EVENTS + 1))


async def test_a_watch_ends_with_a_bookmark_where_it_has_been(book, follower):
    updates = [
        update async for update in follower.workflow("long", after=EVENTS - 2, progress=True)
    ]
    assert [update.event.sequence for update in updates[:-1]] == [EVENTS - 1, EVENTS]
    assert updates[-1].bookmark == EVENTS


async def test_a_slow_watcher_of_everything_goes_on_from_where_it_was(book, follower):
    """It lets go in the middle, and comes back with the position that it has seen."""
    half = EVENTS // 2
    first = await slowly(book, follower.everything(after=0), half)
    book.taken = 0
    rest = await slowly(book, follower.everything(after=first[-1]), EVENTS - half)
    assert first + rest == list(range(1, EVENTS + 1))


def test_somebody_is_needed_as_soon_as_a_failure_is_open():
    """While a sibling is still in flight, the workflow is only about to pause."""
    from coordinator.saga.states import WorkflowState
    from countermand.client.spec import parallel

    told = Told(parallel("both", noop("one"), noop("two")), policy=PAUSE)
    assert not needs_somebody(told.workflow)
    told.fails("one")
    assert told.workflow.state is WorkflowState.PAUSING
    assert needs_somebody(told.workflow)
