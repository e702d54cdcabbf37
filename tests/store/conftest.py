"""Every kind of store, made the same way, so that one suite holds them all to one behaviour."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from coordinator.runtime.ports import Change, Opening, Store
from coordinator.store.database import postgres, sqlite
from coordinator.store.memory import Kept, MemoryStore
from coordinator.store.run import Inline, Threads
from coordinator.store.sql import SqlStore
from countermand.rpc.crash import Crash, never

Now = Callable[[], datetime]
NAME = "the only one"  # of each life: it ends the one before, also where several are possible


def _now() -> datetime:
    return datetime.now(UTC)


# One life of a coordinator each: what one has committed, the next one finds.
Life = Callable[..., Store]


def memory_lives(*, shared: bool = False, now: Now = _now) -> Life:
    kept, ids = Kept(), (f"id-{number}" for number in count(1))

    def live(crash: Crash = never, name: str = NAME) -> Store:
        new_id = lambda: next(ids)  # noqa: E731
        return MemoryStore(kept, new_id=new_id, crash=crash, shared=shared, now=now, name=name)

    return live


def sqlite_lives(path: Path) -> Life:
    ids = (f"id-{number}" for number in count(1))

    def live(crash: Crash = never) -> Store:
        return SqlStore(sqlite(path), Inline(), new_id=lambda: next(ids), crash=crash)

    return live


def threaded_lives(path: Path) -> Life:
    ids = (f"id-{number}" for number in count(1))

    def live(crash: Crash = never) -> Store:
        return SqlStore(sqlite(path), Threads(), new_id=lambda: next(ids), crash=crash)

    return live


def postgres_lives(url: str) -> Life:
    ids = (f"id-{number}" for number in count(1))

    def live(crash: Crash = never, name: str = NAME) -> Store:
        return SqlStore(postgres(url), Inline(), new_id=lambda: next(ids), crash=crash, name=name)

    return live


@pytest.fixture(params=["memory", "memory-shared", "sqlite", "sqlite-threads", "postgres"])
def live(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Life]:
    """Returns what makes stores on the same kept state; each test closes what it opened."""
    if request.param == "memory":
        yield memory_lives()
    elif request.param == "memory-shared":
        yield memory_lives(shared=True)
    elif request.param == "sqlite":
        yield sqlite_lives(tmp_path / "store.db")
    elif request.param == "postgres":
        yield postgres_lives(request.getfixturevalue("postgres_url"))
    else:
        yield threaded_lives(tmp_path / "store.db")


@pytest.fixture
async def store(live: Life) -> AsyncIterator[Store]:
    """Returns an open store of each kind."""
    store = live()
    await store.open()
    yield store
    await store.close()


async def begin(store: Store) -> Opening:
    """Opens a store and takes over everything that is open there."""
    opening = await store.open()
    while await store.claim(100):
        pass
    return opening


async def commit(store: Store, *changes: Change) -> None:
    """Commits some changes together."""
    await store.commit(changes)
