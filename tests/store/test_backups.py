"""Back-ups that are made while a coordinator commits, and put back: whole, and as of one moment."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from coordinator.runtime.ports import Store, WorkflowQuery
from coordinator.store.database import Database, postgres, sqlite
from coordinator.store.run import Threads
from coordinator.store.sql import SqlStore
from countermand.v1.event_pb2 import HistoryEvent
from tests.postgres import Server
from tests.store.conftest import begin
from tests.store.specs import three_tasks
from tests.store.walks import Walk


def opened(database: Database) -> SqlStore:
    return SqlStore(database, Threads(), new_id=lambda: "c")


async def while_it_commits(store: Store, *command: str) -> int:
    """Runs a command while two workflows at a time are committed; returns how many before it."""
    numbers = iter(range(10**6))

    async def commit() -> int:
        number = next(numbers)
        walks = [Walk(f"{name}-{number}", spec=three_tasks()) for name in ("one", "two")]
        await store.commit([walk.change for walk in walks])
        await store.commit([walk.succeed() for walk in walks])
        return number

    before = max([await commit() for _ in range(20)])
    making = asyncio.create_task(asyncio.to_thread(run, *command))
    while not making.done():
        await commit()
    await making
    await commit()
    return before + 1


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


async def is_whole(store: Store, before: int) -> None:
    """Checks that what was committed is there, pairs as pairs, and goes on."""
    await begin(store)
    found = {each.workflow.id: each.workflow for each in await store.load_open()}
    numbers = {name.partition("-")[2] for name in found}
    assert found.keys() == {f"{word}-{number}" for word in ("one", "two") for number in numbers}
    assert {f"{number}" for number in range(before)} <= numbers
    for number in numbers:
        assert found[f"one-{number}"].version == found[f"two-{number}"].version
    told = await store.events(after=0, limit=10**6)
    assert [each.position for each in told] == list(range(1, len(told) + 1))
    assert all(HistoryEvent.FromString(each.payload).sequence == each.sequence for each in told)
    await store.commit([Walk("after", spec=three_tasks()).change])
    newest = (await store.query(WorkflowQuery(limit=1))).workflows
    assert [each.id for each in newest] == ["after"]
    await store.close()


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="its command is not installed")
@pytest.mark.parametrize("how", [".backup '{}'", "VACUUM INTO '{}'"])
async def test_a_file_is_copied_while_it_is_served(how: str, tmp_path: Path):
    store = opened(sqlite(tmp_path / "coordinator.sqlite"))
    await store.open()
    backup = tmp_path / "backup.sqlite"
    file = str(tmp_path / "coordinator.sqlite")
    before = await while_it_commits(store, "sqlite3", file, how.format(backup))
    await store.close()
    await is_whole(opened(sqlite(backup)), before)


async def test_a_database_is_dumped_while_it_is_served(
    postgres_server: Server, postgres_url: str, tmp_path: Path
):
    """With its sequence, by which new workflows come after those that were there."""
    store = opened(postgres(postgres_url))
    await store.open()
    binaries, dump = postgres_server._bin, str(tmp_path / "dump")
    command = (f"{binaries}/pg_dump", "--format=custom", f"--file={dump}", postgres_url)
    before = await while_it_commits(store, *command)
    await store.close()

    url = postgres_server.new_database()
    run(f"{binaries}/pg_restore", "--no-owner", "--exit-on-error", f"--dbname={url}", dump)
    with closing(postgres(url)) as database, database.writer.begin() as connection:
        connection.execute(text("UPDATE sessions SET ended = true"))  # as `db restored` does
    await is_whole(opened(postgres(url)), before)
    postgres_server.drop(url)
