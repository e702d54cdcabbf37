"""What is true of the store on PostgreSQL alone: who writes, what is seen, restarts, crashes."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from coordinator.runtime.floors import NOBODYS, Floor
from coordinator.runtime.ports import (
    SESSION_LASTS,
    HostRecord,
    StoreConflictError,
    StoreError,
    StoreRefusedError,
)
from coordinator.store import counters, hosts, migrate, sessions, sql
from coordinator.store.database import Database, DatabaseInvalid, postgres
from coordinator.store.run import Inline, Run, Threads
from coordinator.store.sql import SqlStore
from coordinator.store.transactions import CommitUnknownError
from countermand.rpc.crash import Crash, never
from tests.postgres import NoPostgres, Server
from tests.proxy import Moment, Proxy
from tests.store.specs import three_tasks
from tests.store.walks import BEGIN, Walk, as_stored

T = TypeVar("T")


def made(url: str, *, crash: Crash = never, run: Run | None = None) -> SqlStore:
    return SqlStore(postgres(url), run or Inline(), new_id=lambda: "c", crash=crash)


async def opened(url: str, *, crash: Crash = never, run: Run | None = None) -> SqlStore:
    store = made(url, crash=crash, run=run)
    await store.open()
    return store


COMMIT = b"COMMIT\0"  # as a statement of its own


def through(proxy: Proxy, url: str) -> str:
    """Returns the URL of a database as it is reached through a proxy."""
    return f"postgresql://postgres@{proxy.address}/{url.partition('@/')[2].partition('?')[0]}"


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    database = postgres(postgres_url)
    yield database
    database.close()


# -- what it is made of ---------------------------------------------------------------------------


def test_texts_are_compared_by_their_bytes_and_predicates_are_as_they_were_written(
    database: Database,
):
    with database.reader.begin() as connection:
        other = connection.scalars(
            text(
                "SELECT table_name || '.' || column_name FROM information_schema.columns"
                " WHERE table_schema = 'public' AND data_type = 'text' AND collation_name <> 'C'"
            )
        ).all()
        need = connection.scalar(
            text("SELECT indexdef FROM pg_indexes WHERE indexname = 'tasks_need'")
        )

    assert other == []
    assert "'%\"STOPS_LATE\"%'" in str(need)


async def test_a_removed_workflow_takes_everything_of_it_along(postgres_url: str):
    store = await opened(postgres_url)
    walk = Walk("a", spec=three_tasks())
    await store.commit([walk.change, walk.succeed(), walk.succeed(), walk.succeed()])
    await store.clear("a")

    assert await store.load("a") is None
    assert await store.events(after=0, limit=10) == []
    assert await store.position() > 0
    await store.close()


# -- opening at the same time ----------------------------------------------------------------------


async def test_two_that_find_it_empty_both_open_it(postgres_server: Server):
    """The second waits for the tables that the first makes, fails, and finds them."""
    url, epochs = postgres_server.new_database(), []

    def open_second() -> None:
        epochs.append(asyncio.run(second.open()).owner_epoch)

    def crash(name: str) -> None:
        if name == "store.before_commit" and not other.ident:
            other.start()
            _until_somebody_waits(url)

    first, second = made(url, crash=crash), made(url)
    other = threading.Thread(target=open_second)
    epochs.append((await first.open()).owner_epoch)
    other.join()

    assert epochs == [1, 2]
    await first.commit([Walk("a").change])
    await second.commit([Walk("b").change])
    await first.close()
    await second.close()
    postgres_server.drop(url)


async def test_two_that_open_it_at_once_take_an_epoch_each(postgres_url: str):
    await (await _opened_and_closed(postgres_url))
    epochs = []

    def open_second() -> None:
        epochs.append(asyncio.run(second.open()).owner_epoch)

    def crash(name: str) -> None:
        if name == "store.before_commit" and not other.ident:
            other.start()
            _until_somebody_waits(postgres_url)

    first, second = made(postgres_url, crash=crash), made(postgres_url)
    other = threading.Thread(target=open_second)
    epochs.append((await first.open()).owner_epoch)
    other.join()

    assert epochs == [2, 3]
    await first.close()
    await second.close()


async def _opened_and_closed(url: str) -> Any:
    return (await opened(url)).close()


def _until_somebody_waits(url: str, what_for: str = "Lock") -> None:
    waits = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = %s"
    )
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute(waits, [what_for]).fetchone() == (0,):
            pass


def test_positions_are_given_in_the_order_of_commits_without_gaps(postgres_url: str):
    """While one has taken some, another waits for its end; what is rolled back leaves no gap."""
    one, two = postgres(postgres_url), postgres(postgres_url)
    take = counters.take(counters.EVENTS)
    wait = text("SELECT 1 FROM counters WHERE name = 'events' FOR UPDATE NOWAIT")

    with one.writer.connect() as first, two.writer.connect() as second:
        first.execute(take, {"taken": 3})
        with pytest.raises(DBAPIError, match="could not obtain lock"):
            second.execute(wait)
        second.rollback()
        assert counters.last_position(counters.EVENTS, second) == 0
        first.rollback()
        second.execute(take, {"taken": 2})
        second.commit()
        assert counters.last_position(counters.EVENTS, first) == 2

    one.close()
    two.close()


# -- what is seen ---------------------------------------------------------------------------------


async def test_one_read_sees_one_moment_and_writes_nothing(postgres_url: str):
    store = await opened(postgres_url)
    other = await opened(postgres_url)
    host = HostRecord(id="h", address="h:1", create_time=BEGIN)

    def look_twice(connection: Any) -> tuple[object, object]:
        before = hosts.all_hosts(connection)
        with other._database.writer.begin() as writing:
            hosts.put(host, None, writing)
        return before, hosts.all_hosts(connection)

    assert await store._read(look_twice) == ([], [])
    assert await store.hosts() == [host]
    with pytest.raises(StoreError, match="read-only transaction"):
        await store._read(lambda connection: hosts.remove("h", None, connection))
    await store.close()
    await other.close()


async def test_a_refusal_says_why_and_shows_no_row(postgres_url: str):
    store = await opened(postgres_url)
    host = HostRecord(id="h", address="secret", heard_sequence=2**63, create_time=BEGIN)
    with pytest.raises(StoreRefusedError, match="out of range") as refused:
        await store.put_host(host)

    def break_a_constraint(connection: Any) -> None:
        connection.execute(text("UPDATE meta SET next_intent = 0"))

    with pytest.raises(StoreRefusedError, match="intent_positive") as broken:
        store._transactions.write(break_a_constraint)
    assert "secret" not in f"{refused.value}"
    assert "DETAIL" not in f"{broken.value}"
    await store.close()


# -- a server that would not keep what it is given -------------------------------------------------


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0", "the database is in LATIN1"),
        ("TEMPLATE template0", "answers before it has written"),
    ],
)
async def test_what_would_lose_something_is_refused(postgres_server: Server, how: str, why: str):
    postgres_server.execute(f"CREATE DATABASE odd {how}")
    if "written" in why:
        postgres_server.execute("ALTER DATABASE odd SET synchronous_commit = off")
    url = postgres_server.url("odd")

    store = made(url)
    with pytest.raises(StoreError, match=why):
        await store.open()

    with store._database.reader.begin() as connection:
        assert migrate.is_empty(connection)
    await store.close()
    postgres_server.drop(url)


async def test_a_schema_of_a_newer_version_is_refused_and_left_alone(postgres_url: str):
    store = await opened(postgres_url)
    store._transactions.write(
        lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    )

    newer = made(postgres_url)
    with pytest.raises(StoreError, match=r"schema is 9999, .* a newer one wrote it"):
        await newer.open()
    with store._database.reader.begin() as connection:
        assert connection.scalar(text("SELECT owner_epoch FROM meta")) == 1
    await store.close()
    await newer.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunter2@x@host/db",
        "postgresql://u:hunter2/x@host/db",
        "postgresql://u:hunter2@host:port/db",
        "postgresql://u:hunter2@host/db?odd=1",
        "postgresql://u:hunter2@[host/db",
        "postgresql+psycopg://u:hunter2@host/db",
        "mysql://u:hunter2@host/db",
    ],
)
def test_a_url_that_is_none_is_refused_without_being_shown(url: str):
    with pytest.raises(DatabaseInvalid) as refused:
        postgres(url)
    assert "hunter2" not in f"{refused.value}"
    assert refused.value.__cause__ is None


async def test_nothing_that_is_shown_has_the_password(postgres_server: Server):
    with_password = postgres_server.url("absent").replace("postgres@", "postgres:hunter2@")
    database = postgres(with_password)
    store = SqlStore(database, Inline(), new_id=lambda: "c")
    with pytest.raises(StoreError, match='database "absent" does not exist') as failed:
        await store.open()
    assert "hunter2" not in f"{failed.value!r} {database!r} {database.writer!r}"
    await store.close()


# -- restarts and crashes -------------------------------------------------------------------------


# A transaction that asks for more than "local" is written, and then waits for a standby that there
# is not: its commit is there, and its client is never told.
SETTINGS = (
    *("wal_level=replica", "max_wal_senders=1"),
    *("synchronous_standby_names=nobody", "synchronous_commit=local"),
)


@pytest.fixture(scope="module")
def crashing() -> Iterator[Server]:
    """Yields a server to be killed."""
    try:
        server = Server(settings=SETTINGS)  # a killed process loses nothing that it has written
        server.start()
    except NoPostgres as error:
        pytest.skip(f"no PostgreSQL: {error}")
    yield server
    server.remove()


@pytest.fixture
def fragile(crashing: Server) -> Iterator[str]:
    """Yields an empty database on it."""
    url = crashing.new_database()
    yield url
    crashing.drop(url)


@pytest.mark.parametrize("how", [Server.stop, Server.kill])
async def test_a_server_that_was_started_again_is_found(
    crashing: Server, fragile: str, how: Callable[[Server], None]
):
    store = await opened(fragile)
    walk = Walk("a", spec=three_tasks())
    await store.commit([walk.change])
    then = as_stored(walk.workflow)
    assert (await store.load("a")) is not None
    how(crashing)

    with pytest.raises(StoreError, match="the database failed: connection"):
        await store.load("a")
    crashing.start()
    found = await store.load("a")
    assert found is not None
    assert found.workflow == then
    await store.close()


async def test_a_read_goes_on_after_its_connection_was_ended_on_purpose(
    postgres_server: Server, postgres_url: str
):
    """An administrator does that, and a server that is stopped tells everybody likewise."""
    store = await opened(postgres_url)
    assert await store.hosts() == []
    name = postgres_url.partition("@/")[2].partition("?")[0]
    of = f"FROM pg_stat_activity WHERE datname = '{name}'"
    postgres_server.execute(f"SELECT pg_terminate_backend(pid, 5000) {of}")
    assert await store.hosts() == []
    await store.close()


async def test_a_read_finds_a_server_again_by_itself_and_a_write_the_next_time(
    crashing: Server, fragile: str
):
    store = await opened(fragile)
    await store.hosts()
    crashing.kill()
    crashing.start()

    assert await store.hosts() == []
    change = Walk("a").change
    with pytest.raises(StoreError) as failed:
        await store.commit([change])
    assert type(failed.value) is StoreError  # before COMMIT: certainly nothing
    assert await store.load("a") is None
    await store.commit([change])
    assert await store.load("a") is not None
    await store.close()


async def test_a_server_that_is_lost_before_a_commit_arrives_has_committed_nothing(
    crashing: Server, fragile: str
):
    armed = False

    def crash(name: str) -> None:
        if armed and name == "store.before_commit":
            crashing.kill()

    store = await opened(fragile, crash=crash, run=Threads())
    change = Walk("a").change
    armed = True
    committing = asyncio.create_task(store.commit([change]))
    while crashing.running:  # noqa: ASYNC110  # what is waited for has no event of its own
        await asyncio.sleep(0.01)
    armed = False
    crashing.start()

    with pytest.raises(StoreError, match="went away before it had committed"):
        await committing
    assert await store.load("a") is None
    await store.commit([change])
    assert await store.load("a") is not None
    await store.close()


@pytest.mark.parametrize("moment", Moment)
async def test_a_commit_whose_answer_is_lost_is_looked_for(
    postgres_server: Server, postgres_url: str, moment: Moment
):
    """Z: the connection is cut at COMMIT, before it has arrived or after."""
    async with Proxy(postgres_server.socket) as proxy:
        store = await opened(through(proxy, postgres_url), run=Threads())
        walk = Walk("a", spec=three_tasks())
        await store.commit([walk.change])
        proxy.cut_at(COMMIT, moment)
        change = walk.succeed()
        if moment is Moment.AFTER:
            await store.commit([change])
        else:
            with pytest.raises(StoreError, match="went away before it had committed"):
                await store.commit([change])
            await store.commit([change])
        assert proxy.sprung.is_set()
        found = await store.load("a")
        assert found is not None
        assert found.workflow == as_stored(walk.workflow)
        await store.close()


@pytest.mark.parametrize("moment", Moment)
async def test_what_was_claimed_when_the_connection_was_cut_is_found(
    postgres_server: Server, postgres_url: str, moment: Moment
):
    gone = await opened(postgres_url)
    await gone.commit([Walk("a", spec=three_tasks()).change])
    async with Proxy(postgres_server.socket) as proxy:
        store = await opened(through(proxy, postgres_url), run=Threads())
        await gone.end_session()
        proxy.cut_at(COMMIT, moment)
        with pytest.raises(CommitUnknownError):
            await store.claim(10)
        claim = await store.claim(10)
        assert claim is not None
        assert [each.workflow.id for each in claim.workflows] == ["a"]
        assert await store.claim(10) is None
        await store.close()
    await gone.close()


async def test_what_was_begun_while_a_lost_claim_was_looked_for_is_not_taken_for_it(
    postgres_server: Server, postgres_url: str, monkeypatch: pytest.MonkeyPatch
):
    """It would be taken up once more, as it was a moment ago, and never be decided about again."""
    begun: list[Future[None]] = []
    loop, owned = asyncio.get_running_loop(), sessions.owned

    def slowly(session: int, connection: Connection) -> set[int]:
        begun.append(asyncio.run_coroutine_threadsafe(store.commit([Walk("new").change]), loop))
        with contextlib.suppress(TimeoutError):  # where it has to wait for us
            begun[0].result(timeout=0.5)
        return owned(session, connection)

    monkeypatch.setattr(sessions, "owned", slowly)
    async with Proxy(postgres_server.socket) as proxy:
        store = await opened(through(proxy, postgres_url), run=Threads())
        proxy.cut_at(COMMIT, Moment.BEFORE)
        with pytest.raises(CommitUnknownError):
            await store.claim(10)
        assert await store.claim(10) is None
        await asyncio.wrap_future(begun[0])
        await store.close()


class Unreadable(Inline):
    """Reads nothing while it is told so."""

    fails = False

    async def read(self, work: Callable[[], T]) -> T:
        """Runs what only reads, or fails."""
        if self.fails:
            raise StoreError("a test")
        return work()


async def test_nothing_is_forgotten_that_was_claimed_and_could_not_be_read_yet(postgres_url: str):
    gone, run = await opened(postgres_url), Unreadable()
    store, other = await opened(postgres_url, run=run), await opened(postgres_url)
    floor = Floor(next_intent=7, hosts={"a": 3}, fences=2)
    await gone.renew(SESSION_LASTS, floor)
    await gone.commit([Walk("a", spec=three_tasks()).change])
    await gone.end_session()
    run.fails = True
    with pytest.raises(StoreError, match="a test"):
        await store.claim(10)
    await store.renew(SESSION_LASTS, NOBODYS)
    assert await other.claim(10) is None  # nobody needs the ended session any more

    assert (await other.floors()).lowest == floor
    for each in (gone, store, other):
        await each.close()


@pytest.mark.parametrize("recovers", [False, True])
async def test_who_ends_all_sessions_takes_them_before_anything_that_their_owners_may_want(
    postgres_url: str, *, recovers: bool
):
    store = await opened(postgres_url, run=Threads())
    if recovers:
        await store.require_recovery("a test")
    with psycopg.connect(postgres_url) as writes:
        writes.execute("SELECT id FROM sessions FOR SHARE")
        ends = store.recover("admin", "a test") if recovers else store.require_recovery("a test")
        ending = asyncio.create_task(ends)
        await asyncio.to_thread(_until_somebody_waits, postgres_url)
        writes.execute("SELECT id FROM meta FOR UPDATE NOWAIT")
        writes.execute("SELECT name FROM counters FOR UPDATE NOWAIT")
        writes.commit()
        assert await ending
    await store.close()


async def test_large_workflows_are_claimed_together_and_read_one_after_the_other(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
):
    """A session could not be renewed while all of them were read."""
    monkeypatch.setattr(sql, "LOADED_TASKS_MAX", 7)  # of three tasks each
    gone, store = await opened(postgres_url), await opened(postgres_url)
    other, floor = await opened(postgres_url), Floor(next_intent=7, hosts={}, fences=7)
    await gone.renew(SESSION_LASTS, floor)
    await gone.commit([Walk(name, spec=three_tasks()).change for name in "abcde"])
    await gone.end_session()

    parts = []
    while claim := await store.claim(10):
        parts.append([each.workflow.id for each in claim.workflows])
        assert claim.floor == floor
        await store.renew(SESSION_LASTS, NOBODYS)
        assert await other.claim(10) is None
        assert ((await other.floors()).lowest == floor) is (len(parts) < 3)
    assert parts == [["a", "b"], ["c", "d"], ["e"]]
    for each in (gone, store, other):
        await each.close()


async def test_who_stands_still_in_a_transaction_holds_up_nobody_who_claims(postgres_url: str):
    """The server ends such a transaction after a while; its session is judged then."""
    gone = await opened(postgres_url)
    await gone.commit([Walk("a", spec=three_tasks()).change])
    store = await opened(postgres_url, run=Threads())
    with psycopg.connect(postgres_url) as still:
        of_gone = "WHERE id = (SELECT min(id) FROM sessions)"
        still.execute(f"UPDATE sessions SET expire_time_us = 0 {of_gone}".encode())
        still.commit()
        still.execute(f"SELECT id FROM sessions {of_gone} FOR SHARE".encode())
        assert await store.claim(10) is None
    claim = await store.claim(10)
    assert claim is not None
    assert [each.workflow.id for each in claim.workflows] == ["a"]
    await store.close()
    await gone.close()


async def test_who_stands_still_in_the_middle_of_what_it_says_is_ended_by_the_others(
    postgres_url: str,
):
    """The server waits for the rest for ever, and everybody for the row that counts positions."""
    lasts = timedelta(seconds=3)
    database = postgres(postgres_url, lasts)
    store = SqlStore(database, Threads(), new_id=lambda: "c", session_lasts=lasts)
    await store.open()
    frozen = psycopg.connect(postgres_url, application_name="countermand-coordinator")
    with suppress(psycopg.OperationalError), frozen, frozen.pipeline():
        frozen.execute("UPDATE counters SET last_position = last_position + 1")
        frozen.execute("SELECT 1")  # what is before it has left, and nothing says that this is all
        commit = asyncio.create_task(store.commit([Walk("a", spec=three_tasks()).change]))
        while not await store.end_standstills():
            assert not commit.done()
        await commit
    frozen.close()
    assert await store.position() == len(await store.events(after=0, limit=100))
    assert await store.end_standstills() == 0
    await store.close()


async def test_what_was_committed_before_a_crash_is_there(crashing: Server, fragile: str):
    async def crash() -> None:
        await asyncio.to_thread(crashing.kill)
        crashing.start()  # by a thread that stays: the server ends with it

    store = await opened(fragile, run=Threads())
    kept, lost, crashes = [], [], asyncio.create_task(crash())
    number = after = 0
    while after < 10:
        one, two = Walk(f"one-{number}", spec=three_tasks()), Walk(f"two-{number}")
        after += crashes.done()
        try:
            await store.commit([one.change, one.succeed(), two.change])
        except StoreConflictError:
            raise
        except StoreError:
            lost.append(number)
        else:
            kept.append(number)
        number += 1
    await crashes

    found = {each.workflow.id for each in await store.load_open()}
    pairs = {number: {f"one-{number}", f"two-{number}"} for number in (*kept, *lost)}
    assert lost
    assert all(pairs[number] <= found for number in kept)
    assert not any(pairs[number] & found for number in lost)
    told = await store.events(after=0, limit=100_000)
    assert [each.position for each in told] == list(range(1, len(told) + 1))
    await store.close()


# -- from an older store --------------------------------------------------------------------------

ANOTHER = """
from alembic import op

revision, down_revision = "{revision}", {before}


def upgrade():
    op.execute("CREATE TABLE made_by_{revision} (id integer)")
"""


def test_of_two_that_would_migrate_an_older_store_the_second_finds_it_done(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With a revision that does not exist yet: none of those that do was ever on PostgreSQL."""
    shutil.copytree(migrate.SCRIPTS, tmp_path / "scripts")
    script = ANOTHER.format(revision="9998", before=f"{migrate.HEAD!r}")
    (tmp_path / "scripts/versions/r9998.py").write_text(script, encoding="utf-8")
    monkeypatch.setattr(migrate, "SCRIPTS", tmp_path / "scripts")
    monkeypatch.setattr(migrate, "HEAD", "9998")

    def migrate_second() -> None:
        with two.writer.begin() as connection:
            migrate.migrate(connection)

    one, two = postgres(postgres_url), postgres(postgres_url)
    other = threading.Thread(target=migrate_second)
    with one.writer.begin() as connection:
        migrate.migrate(connection)
        other.start()
        _until_somebody_waits(postgres_url)
    other.join()

    with two.reader.begin() as connection:
        assert migrate.stored_revision(connection) == "9998"
        assert connection.scalar(text("SELECT count(*) FROM made_by_9998")) == 0
    one.close()
    two.close()
