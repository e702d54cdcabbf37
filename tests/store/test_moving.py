"""A store that moves from SQLite to PostgreSQL: all of it, once; whoever opens it goes on."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from coordinator.db import db
from coordinator.runtime.ports import HostRecord, StoreError, WorkflowQuery
from coordinator.store.database import FILE, postgres, sqlite
from coordinator.store.migrate import HEAD
from coordinator.store.moving import Move, Moved
from coordinator.store.run import Inline
from coordinator.store.sql import SqlStore
from tests.postgres import Server
from tests.store import test_random as randomly
from tests.store.conftest import begin, memory_lives, postgres_lives, sqlite_lives
from tests.store.specs import three_tasks
from tests.store.test_external import begun
from tests.store.test_migrate import played
from tests.store.test_webhooks import ONE
from tests.store.walks import BEGIN, Walk, as_stored


@pytest.fixture
def empty_url(postgres_server: Server):
    """Yields the URL of a database with nothing in it."""
    url = postgres_server.new_database()
    yield url
    postgres_server.drop(url)


def quiet(_rows: int, _total: int) -> None:
    """Shows nothing."""


def moved(path: Path, url: str, **how: object) -> Moved:
    with closing(sqlite(path)) as old, closing(postgres(url)) as new:
        return Move(old, new, **{"tell": quiet, **how}).run()  # type: ignore[arg-type]


def on_sqlite(path: Path) -> SqlStore:
    return SqlStore(sqlite(path), Inline(), new_id=lambda: "c")


def on_postgres(url: str) -> SqlStore:
    return SqlStore(postgres(url), Inline(), new_id=lambda: "another")


async def filled(path: Path) -> list[Walk]:
    """Leaves a store with something open, something settled, a vendor's own and a webhook."""
    store = on_sqlite(path)
    await store.open()
    walks = [Walk("open", spec=three_tasks()), Walk("done", spec=three_tasks()), begun()]
    await store.commit([walk.change for walk in walks])
    await store.commit([walks[1].succeed(), walks[1].succeed(), walks[1].succeed()])
    await store.put_webhook(ONE)
    await store.put_host(HostRecord(id="h", address="h:1", create_time=BEGIN))
    await store.close()
    return walks


@pytest.mark.parametrize("seed", range(4))
async def test_what_was_moved_answers_like_what_was_not_and_goes_on_like_it(
    seed: int, tmp_path: Path, empty_url: str
):
    """Against the model, which was never moved: before, just after, and for some time on."""
    random = Random(f"moved {seed}")
    twins = randomly.Twins([memory_lives(), sqlite_lives(tmp_path / FILE)])
    await twins.reopen()
    walks: list[Walk] = []
    names = (f"w-{number}" for number in range(1_000))

    async def live() -> None:
        for _ in range(40):
            await twins.ask("commit", randomly._batch(random, walks, names, seed))
            await randomly._administer(random, twins)
            await randomly._compare(random, twins, walks)
            if random.random() < 0.05:
                await randomly._expire(random, twins, walks)

    await live()
    for store in twins.stores:
        await store.close()
    told = moved(tmp_path / FILE, empty_url)
    twins.lives = [twins.lives[0], postgres_lives(empty_url)]
    await twins.reopen()

    await randomly._whole(twins)
    assert told.open_workflows == len(await twins.stores[0].load_open()) > 0
    await live()
    await twins.reopen()
    await randomly._whole(twins)
    for store in twins.stores:
        await store.close()


async def test_the_first_that_opens_it_claims_what_is_open_under_a_new_epoch(
    tmp_path: Path, empty_url: str
):
    walks = await filled(tmp_path / FILE)
    told = moved(tmp_path / FILE, empty_url)
    assert (told.open_workflows, told.rows["workflows"], told.rows["webhooks"]) == (2, 3, 1)

    store = on_postgres(empty_url)
    opening = await store.open()
    assert (opening.cluster_id, opening.owner_epoch) == ("c", 2)
    assert opening.next_intent >= max(walk.intent for walk in walks)
    claim = await store.claim(10)
    assert claim is not None
    assert claim.owner_epoch > 1
    assert claim.floor.next_intent == claim.floor.fences == 1  # what is under way may be sent again
    found = {each.workflow.id: each.workflow for each in claim.workflows}
    assert found == {walk.workflow.id: as_stored(walk.workflow) for walk in (walks[0], walks[2])}

    settled = await played(store, found["open"], claim.owner_epoch)
    assert settled.settled
    await store.commit([Walk("new").change])
    newest = (await store.query(WorkflowQuery(limit=1))).workflows
    assert [each.id for each in newest] == ["new"]  # keys go on above the highest
    assert await store.claim(10) is None
    with store._database.reader.begin() as connection:  # who owns nothing any more is forgotten
        assert connection.scalar(text("SELECT count(*) FROM sessions")) == 1
    await store.close()


async def test_the_old_one_is_kept_and_served_no_more(tmp_path: Path, empty_url: str):
    await filled(tmp_path / FILE)
    place = moved(tmp_path / FILE, empty_url).place

    store = on_sqlite(tmp_path / FILE)
    with pytest.raises(StoreError, match=r"this store was moved to test_.* serve that one") as told:
        await store.open()
    assert place in f"{told.value}"
    await store.close()
    with closing(sqlite3.connect(tmp_path / FILE)) as file:
        assert file.execute("SELECT count(*) FROM workflows").fetchone() == (3,)
        # What the how-to says for whoever wants to go back at once.
        file.executescript(
            "UPDATE alembic_version SET version_num = (SELECT revision FROM moved);"
            " DROP TABLE moved"
        )
    store = on_sqlite(tmp_path / FILE)
    await store.open()
    assert {each.workflow.id for each in await store.load_open()} == {"open", "own"}
    await store.close()


class Killed(BaseException):
    """The process has died."""


@pytest.mark.parametrize("where", ["store.before_commit", "store.after_commit"])
async def test_a_move_that_was_cut_off_is_given_again(where: str, tmp_path: Path, empty_url: str):
    """Killed at either side of the commit: nothing is served twice, and the next finds out."""
    await filled(tmp_path / FILE)

    def crash(name: str) -> None:
        if name == where:
            raise Killed

    with suppress(Killed):
        moved(tmp_path / FILE, empty_url, crash=crash)
    store = on_sqlite(tmp_path / FILE)
    with pytest.raises(StoreError, match="give the same command again: it finds out"):
        await store.open()
    await store.close()

    again = moved(tmp_path / FILE, empty_url)
    assert again.before == (where == "store.after_commit")
    assert moved(tmp_path / FILE, empty_url).before
    new = on_postgres(empty_url)
    await begin(new)
    assert {each.workflow.id for each in await new.load_open()} == {"open", "own"}
    await new.close()


async def test_what_is_not_read_as_it_was_written_is_not_moved(
    tmp_path: Path, postgres_server: Server, empty_url: str
):
    """A database that changes a row by itself: everything is undone, and the old one served."""
    name = empty_url.partition("@/")[2].partition("?")[0]
    postgres_server.execute(
        """
        CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.address = 'elsewhere'; RETURN NEW; END $$;
        CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS
        $$ BEGIN IF to_regclass('hosts') IS NOT NULL THEN
          CREATE OR REPLACE TRIGGER spoils BEFORE INSERT ON hosts
          FOR EACH ROW EXECUTE FUNCTION spoil(); END IF; END $$;
        CREATE EVENT TRIGGER watches ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
        EXECUTE FUNCTION watch();
        """,
        name,
    )
    await filled(tmp_path / FILE)
    with pytest.raises(StoreError, match="hosts is not as written"):
        moved(tmp_path / FILE, empty_url)

    store = on_sqlite(tmp_path / FILE)
    assert (await store.open()).owner_epoch == 2
    await store.close()
    with closing(postgres(empty_url)) as database, database.reader.begin() as connection:
        assert connection.scalar(text("SELECT to_regclass('meta')")) is None


# -- the command ----------------------------------------------------------------------------------


def run(*words: str) -> Result:
    return CliRunner().invoke(db, words)


def refused(*words: str) -> str:
    found = run(*words)
    assert found.exit_code in (1, 2), found.output
    assert isinstance(found.exception, SystemExit)
    return found.output


async def test_a_move_says_what_it_moved(tmp_path: Path, empty_url: str):
    await filled(tmp_path / FILE)
    where = ("--data", str(tmp_path), "--database", empty_url)
    told = run("move", *where).output
    assert "3 workflows" in told
    assert "2 workflows are open" in told
    assert "is kept, and will not be served again" in told
    assert "before: nothing was left to do" in run("move", *where).output
    again = json.loads(run("move", *where, "-o", "json").output)
    assert again["moved_before"]
    assert refused("check", "--data", str(tmp_path)).startswith("no: this store was moved to")
    current = json.loads(run("current", "--database", empty_url, "-o", "json").output)
    [session] = current["sessions"]
    assert (session["name"], session["state"]) == ("moved from SQLite", "ENDED")
    assert session["open_workflows"] == 2


async def test_what_cannot_be_moved_is_refused_and_left(
    tmp_path: Path, empty_url: str, postgres_url: str
):
    where = ("move", "--data", str(tmp_path), "--database")
    assert "there is no store in" in refused(*where, empty_url)
    assert "--data FOLDER --database URL" in refused("move", "--data", str(tmp_path))
    (tmp_path / FILE).touch()
    assert "no coordinator has ever opened it" in refused(*where, empty_url)

    store = on_sqlite(tmp_path / FILE)
    await store.open()
    assert "another coordinator (pid" in refused(*where, empty_url)
    await store.close()
    assert "is not empty: make another one" in refused(*where, postgres_url)
    assert "does not exist" in refused(*where, empty_url.replace("test_", "absent_"))

    with closing(sqlite3.connect(tmp_path / FILE)) as file:
        file.execute("UPDATE alembic_version SET version_num = '0014'")
        file.commit()
    assert f"its schema is 0014, and this version's {HEAD}" in refused(*where, empty_url)


async def test_moving_shows_how_far_it_has_come(tmp_path: Path, empty_url: str):
    await filled(tmp_path / FILE)
    told: list[tuple[int, int]] = []
    moved(tmp_path / FILE, empty_url, tell=lambda *said: told.append(said))
    assert {total for _, total in told} == {sum(rows for rows, _ in told)}
