"""What is true of the store in a SQLite file alone: flushing, crashes, full disks, one owner."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from coordinator.runtime.ports import StoreConflictError, StoreError, StoreFencedError
from coordinator.saga.workflow import Workflow
from coordinator.store.database import sqlite
from coordinator.store.run import Inline, Threads
from coordinator.store.sql import SqlStore
from countermand.rpc.crash import VARIABLE
from countermand.rpc.errors import Busy
from tests.store.conftest import sqlite_lives
from tests.store.specs import three_tasks
from tests.store.walks import BEGIN, Walk, as_stored

CHILD = """
import asyncio, os, sys
from pathlib import Path
from coordinator.store.database import sqlite
from coordinator.store.run import Threads
from coordinator.store.sql import SqlStore
from countermand.rpc.crash import from_environment
from tests.store.specs import three_tasks
from tests.store.walks import Walk

async def main():
    crash = from_environment(os.environ)
    store = SqlStore(sqlite(Path(sys.argv[1])), Threads(), new_id=lambda: "c", crash=crash)
    await store.open()
    for number in range(100):
        one, two = Walk(f"one-{number}", spec=three_tasks()), Walk(f"two-{number}")
        await store.commit([one.change, one.succeed(), two.change])
        print(number, flush=True)

asyncio.run(main())
"""


async def opened(path: Path) -> SqlStore:
    store = SqlStore(sqlite(path), Inline(), new_id=lambda: "c")
    await store.open()
    return store


async def test_commits_are_flushed_and_references_checked(tmp_path: Path):
    database = sqlite(tmp_path / "store.db")
    with database.writer.connect() as writer, database.reader.connect() as reader:
        pragmas = {
            name: writer.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
        query_only = reader.scalar(text("PRAGMA query_only"))
    database.close()

    full = 2
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": full,
        "foreign_keys": 1,
        "busy_timeout": 5_000,
    }
    assert query_only == 1


def test_writing_takes_the_lock_at_once(tmp_path: Path):
    path = tmp_path / "store.db"
    database = sqlite(path)
    other = sqlite3.connect(path, timeout=0, isolation_level=None)

    with database.writer.begin(), pytest.raises(sqlite3.OperationalError, match="is locked"):
        other.execute("BEGIN IMMEDIATE")

    other.close()
    database.close()


async def test_files_are_their_owners_only(tmp_path: Path):
    store = await opened(tmp_path / "store.db")
    await store.commit([Walk("a").change])

    names = ("store.db", "store.db-shm", "store.db-wal", "store.db.lock")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names}
    await store.close()

    assert modes == {0o600}


async def test_a_second_coordinator_is_refused_until_the_first_is_gone(tmp_path: Path):
    path = tmp_path / "store.db"
    first = await opened(path)
    second = SqlStore(sqlite(path), Inline(), new_id=lambda: "c")

    with pytest.raises(StoreError, match=rf"another coordinator \(pid {os.getpid()}\) uses"):
        await second.open()
    await first.commit([Walk("a").change])
    await first.close()

    assert (await second.open()).owner_epoch == 2
    await second.close()


async def test_a_folder_that_is_not_there_is_an_error_of_the_store(tmp_path: Path):
    with pytest.raises(StoreError, match=r"the store cannot be opened: .*absent"):
        await opened(tmp_path / "absent" / "store.db")


async def test_a_store_that_was_overtaken_commits_nothing(tmp_path: Path):
    path = tmp_path / "store.db"
    first = await opened(path)
    first._database.release()  # as if the file system had lost the lock
    second = await opened(path)

    with pytest.raises(StoreConflictError, match="This coordinator's session is over"):
        await first.commit([Walk("a").change])

    assert await second.load("a") is None
    with pytest.raises(StoreFencedError):
        await first.expire(before=BEGIN, limit=1)
    await first.close()
    await second.close()


async def test_threads_are_named_and_end(tmp_path: Path):
    store = SqlStore(sqlite(tmp_path / "store.db"), Threads(), new_id=lambda: "c")
    await store.open()
    await store.position()
    names = {thread.name.rpartition("_")[0] for thread in threading.enumerate()}
    assert {"store-writer", "store-reader"} <= names

    await store.close()

    assert not [t.name for t in threading.enumerate() if t.name.startswith("store-")]


async def test_too_many_reads_are_refused():
    run, hold = Threads(reads_max=2), threading.Event()
    held = [asyncio.ensure_future(run.page(hold.wait)) for _ in range(2)]
    await asyncio.sleep(0)  # lets them begin

    with pytest.raises(Busy):
        await run.page(hold.wait)

    hold.set()
    await asyncio.gather(*held)
    await run.close()


async def test_what_a_coordinator_goes_by_is_read_however_many_ask_for_pages(tmp_path: Path):
    full = Threads(reads_max=0)
    store = SqlStore(sqlite(tmp_path / "store.db"), full, new_id=lambda: "c")
    await store.open()

    assert await store.moves(after=0, limit=1) == []
    assert await store.hosts() == []
    assert await store.settled(["a"]) == frozenset()
    assert await store.owners_of(["a"]) == {}
    assert (await store.floors()).newest == 0
    with pytest.raises(Busy):
        await store.load("a")
    await store.close()


@pytest.mark.parametrize(
    ("point", "visible"), [("store.before_commit:5", 3), ("store.after_commit:5", 4)]
)
async def test_a_process_killed_at_a_commit_leaves_all_of_it_or_nothing(
    tmp_path: Path, point: str, visible: int
):
    path = tmp_path / "store.db"

    said = _lives_until_killed(path, {VARIABLE: point}, line="")

    assert said == ["0", "1", "2"]  # the first commit is that of opening
    await _holds(path, visible)


async def test_a_process_killed_at_any_moment_loses_nothing_it_said(tmp_path: Path):
    path = tmp_path / "store.db"

    said = _lives_until_killed(path, {}, line="7\n")

    store = await opened(path)
    last = await store.load(f"one-{said[-1]}")
    await store.close()
    assert last is not None


def _lives_until_killed(path: Path, environment: dict[str, str], *, line: str) -> list[str]:
    """Runs a coordinator that is killed by itself, or when it says a line; returns what it said."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)],
        env=os.environ | environment,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout
        said = []
        for each in child.stdout:
            said.append(each.strip())
            if each == line:
                child.kill()
    assert child.returncode == -signal.SIGKILL
    return said


async def _holds(path: Path, visible: int) -> None:
    """Checks that a store holds so many pairs of workflows, whole."""
    store = await opened(path)
    expected: dict[str, Workflow] = {}
    for number in range(visible):
        one, two = Walk(f"one-{number}", spec=three_tasks()), Walk(f"two-{number}")
        one.succeed()
        expected |= {walk.workflow.id: as_stored(walk.workflow) for walk in (one, two)}
    found = {stored.workflow.id: stored.workflow for stored in await store.load_open()}
    await store.close()
    assert found == expected


async def test_a_full_disk_is_an_error_that_leaves_nothing_visible(tmp_path: Path):
    store = await opened(tmp_path / "store.db")
    walk = Walk("a", spec=three_tasks())
    await store.commit([walk.change])
    before = await store.events(after=0, limit=1_000)
    _set_room(store, pages=0)

    with pytest.raises(StoreError, match="the database failed: database or disk is full"):
        await store.commit([Walk(f"more-{number}").change for number in range(200)])

    assert await store.events(after=0, limit=1_000) == before
    assert [stored.workflow.id for stored in await store.load_open()] == ["a"]
    _set_room(store, pages=1_000)
    await store.commit([walk.succeed(), Walk("more-0").change])
    assert len(await store.load_open()) == 2
    await store.close()


def _set_room(store: SqlStore, *, pages: int) -> None:
    """Lets the database grow by some pages only."""
    with store._database.writer.connect() as connection:
        used = connection.scalar(text("PRAGMA page_count"))
        connection.execute(text(f"PRAGMA max_page_count = {used + pages}"))


async def test_a_crash_in_a_transaction_leaves_nothing_and_the_next_life_goes_on(tmp_path: Path):
    class Killed(BaseException):
        pass

    def crash(name: str) -> None:
        if armed and name == "store.before_commit":
            raise Killed

    armed = False
    live = sqlite_lives(tmp_path / "store.db")
    store = live(crash)
    await store.open()
    armed = True
    with pytest.raises(Killed):
        await store.commit([Walk("a").change])
    await store.close()
    armed = False

    store = live(crash)
    await store.open()
    assert await store.load("a") is None
    await store.commit([Walk("a").change])
    await store.close()
