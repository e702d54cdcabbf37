"""Migrations end where the metadata says, and a schema from the future is left alone.

`data/store-r0001.sql` is a store that the first schema's own code has written, with workflows
wherever one could be then.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from click.testing import CliRunner
from sqlalchemy import Connection, create_engine, text

from coordinator.db import db
from coordinator.runtime.floors import NOBODYS
from coordinator.runtime.ports import (
    AuditEvent,
    Change,
    HostChange,
    StoredEntry,
    StoreError,
    StoreFencedError,
    UsedIdError,
    WorkflowQuery,
)
from coordinator.saga import events
from coordinator.saga.advance import advance
from coordinator.saga.commands import (
    Command,
    SendAction,
    SendCancel,
    SendCompensation,
    SetTimer,
)
from coordinator.saga.states import TaskState, WorkflowState
from coordinator.saga.workflow import Workflow
from coordinator.store import migrate as migrations
from coordinator.store.columns import metadata
from coordinator.store.database import FILE, postgres, sqlite
from coordinator.store.migrate import HEAD, SCRIPTS, migrate, stored_revision
from coordinator.store.run import Inline
from coordinator.store.sql import SqlStore
from countermand.v1.event_pb2 import HistoryEvent
from tests.postgres import Server
from tests.store.specs import three_tasks
from tests.store.walks import Walk, as_stored


def schema(connection: Connection) -> dict[str, tuple[list[str], str]]:
    """Returns what every table and index says: what Alembic does not compare is there too.

    Columns in any order: a later migration adds them at the end.
    """
    rows = connection.execute(
        text(
            "SELECT name, sql FROM sqlite_master"
            " WHERE name NOT LIKE 'alembic%' AND name NOT LIKE 'sqlite%'"
        )
    )
    return {row.name: definitions(row.sql) for row in rows}


def definitions(sql: str) -> tuple[list[str], str]:
    """Returns the parts of a definition, sorted, and what stands around them."""
    head, _, rest = sql.partition("(")
    body, _, tail = rest.rpartition(")")
    depth, parts = 0, [""]
    for character in body:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return sorted(part.strip() for part in parts), f"{head.strip()} {tail.strip()}"


def test_a_migrated_store_is_what_the_metadata_says(tmp_path: Path):
    database = sqlite(tmp_path / "store.db")
    with database.writer.begin() as connection:
        migrate(connection)
    fresh = create_engine("sqlite://")
    metadata.create_all(fresh)

    with database.reader.connect() as connection, fresh.connect() as expected:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert schema(connection) == schema(expected)
        assert stored_revision(connection) == HEAD
    database.close()
    fresh.dispose()


def test_the_newest_script_is_the_one_that_starts_look_for():
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))

    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


async def test_a_schema_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "store.db"
    store = SqlStore(sqlite(path), Inline(), new_id=lambda: "c")
    await store.open()
    await store.close()
    database = sqlite(path)
    with database.writer.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()

    store = SqlStore(sqlite(path), Inline(), new_id=lambda: "c")
    with pytest.raises(StoreError, match=r"schema is 9999, .* a newer one wrote it"):
        await store.open()
    with store._database.reader.connect() as connection:
        assert connection.scalar(text("SELECT owner_epoch FROM meta")) == 1
    await store.close()


def test_a_start_that_finds_its_schema_does_not_import_alembic(tmp_path: Path):
    start = (
        "import asyncio, sys; from pathlib import Path;"
        "from coordinator.store.database import sqlite;"
        "from coordinator.store.run import Inline; from coordinator.store.sql import SqlStore;"
        "store = SqlStore(sqlite(Path(sys.argv[1])), Inline(), new_id=lambda: 'c');"
        "print(asyncio.run(store.open()).owner_epoch, 'alembic' in sys.modules)"
    )
    path = str(tmp_path / "store.db")

    lives = [
        subprocess.run(
            [sys.executable, "-c", start, path],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for _ in range(2)
    ]

    assert lives == [["1", "True"], ["2", "False"]]


# -- versions side by side ------------------------------------------------------------------------

NEXT = """
\"\"\"A made-up one.\"\"\"

from alembic import op

revision, down_revision = "{revision}", "{before}"
{says}

def upgrade():
    op.execute("{sql}")
"""
EXPANDS = "ALTER TABLE workflows ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue'"
CONTRACTS = "ALTER TABLE workflows DROP COLUMN colour"
Becomes = Callable[[str], None]


@pytest.fixture
def becomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Becomes:
    """Returns what makes this process a version with another head: one expands, one contracts."""
    scripts = tmp_path / "scripts"
    shutil.copytree(SCRIPTS, scripts)
    for revision, before, says, sql in (
        ("9997", HEAD, f'serves_from = "{HEAD}"', EXPANDS),
        ("9998", "9997", "", CONTRACTS),
    ):
        script = NEXT.format(revision=revision, before=before, says=says, sql=sql)
        (scripts / f"versions/r{revision}.py").write_text(script.lstrip(), encoding="utf-8")
    monkeypatch.setattr(migrations, "SCRIPTS", scripts)
    return lambda head: monkeypatch.setattr(migrations, "HEAD", head)


def made(url: str) -> SqlStore:
    return SqlStore(postgres(url), Inline(), new_id=lambda: "c")


async def test_an_older_version_and_a_newer_one_serve_an_expanded_store_side_by_side(
    postgres_url: str, becomes: Becomes
):
    older, newer, later = made(postgres_url), made(postgres_url), made(postgres_url)
    await older.open()
    first = Walk("first", spec=three_tasks())
    await older.commit([first.change])
    becomes("9997")
    await newer.open()
    second = Walk("second", spec=three_tasks())
    await newer.commit([second.change])

    await older.commit([first.succeed()])
    await newer.commit([second.succeed()])
    becomes(HEAD)
    await later.open()  # it was only started again, and finds what it does not know
    await later.commit([Walk("third", spec=three_tasks()).change])
    await older.end_session()
    claim = await later.claim(10)
    assert claim is not None
    assert [each.workflow.id for each in claim.workflows] == ["first"]
    with later._database.reader.begin() as connection:
        assert stored_revision(connection) == "9997"
        colours = connection.scalars(text("SELECT colour FROM workflows")).all()
    assert colours == ["blue"] * 3
    for store in (older, newer, later):
        await store.close()


async def test_what_older_versions_need_is_not_taken_away_while_they_serve(
    postgres_url: str, becomes: Becomes
):
    older = SqlStore(postgres(postgres_url), Inline(), new_id=lambda: "c", name="here:7700")
    await older.open()
    becomes("9998")
    newer = made(postgres_url)
    with pytest.raises(StoreError, match=r"takes away .* here:7700 \(session 1\). Stop them"):
        await newer.open()
    walk = Walk("a", spec=three_tasks())
    await older.commit([walk.change])

    await older.end_session()
    await newer.open()
    claim = await newer.claim(10)
    assert claim is not None
    assert [each.workflow for each in claim.workflows] == [as_stored(walk.workflow)]
    becomes(HEAD)
    late = made(postgres_url)
    with pytest.raises(StoreError, match=r"schema is 9998, .* a newer one wrote it"):
        await late.open()
    for store in (older, newer, late):
        await store.close()


async def test_an_older_version_that_has_lapsed_does_not_come_back_to_what_was_taken_away(
    postgres_url: str, becomes: Becomes
):
    older = made(postgres_url)
    await older.open()
    with older._database.writer.begin() as connection:
        connection.execute(text("UPDATE sessions SET expire_time_us = 1"))
    becomes("9998")
    newer = made(postgres_url)
    await newer.open()

    with pytest.raises(StoreFencedError):
        await older.renew(timedelta(seconds=15), NOBODYS)
    await older.close()
    await newer.close()


async def test_whoever_uses_a_table_goes_first_and_the_migration_tries_again(
    postgres_url: str, becomes: Becomes
):
    """Else all commits would wait behind it, and a deadlock might end one of them."""
    older, newer = made(postgres_url), made(postgres_url)
    await older.open()
    becomes("9997")
    opening = threading.Thread(target=lambda: asyncio.run(newer.open()))
    gave_up = text(
        "SELECT xact_rollback + deadlocks, (SELECT count(*) FROM pg_stat_activity WHERE"
        " datname = current_database() AND wait_event_type = 'Lock')"
        " FROM pg_stat_database WHERE datname = current_database()"
    )
    with older._database.writer.begin() as using, older._database.reader.connect() as looking:
        using.execute(text("LOCK TABLE workflows IN ROW EXCLUSIVE MODE"))
        opening.start()
        waits = [False]
        while waits[-3:] != [True, False, True]:  # it waited, gave up, and waits once more
            waiting = bool(looking.execute(gave_up).one()[1])
            looking.rollback()
            waits += [waiting] if waiting != waits[-1] else []
    opening.join()

    with older._database.reader.begin() as connection:
        assert stored_revision(connection) == "9997"
    await older.commit([Walk("a").change])
    await older.close()
    await newer.close()


async def test_an_older_version_serves_an_expanded_file_and_no_other(
    tmp_path: Path, becomes: Becomes
):
    """Going back by a version, where nobody else is."""
    for head, fits in (("9997", True), ("9998", False)):
        path = tmp_path / f"{head}.db"
        becomes(head)
        store = SqlStore(sqlite(path), Inline(), new_id=lambda: "c")
        await store.open()
        await store.close()
        becomes(HEAD)
        store = SqlStore(sqlite(path), Inline(), new_id=lambda: "c")
        if fits:
            assert (await store.open()).owner_epoch == 2
            await store.commit([Walk("a").change])
        else:
            with pytest.raises(StoreError, match=f"{head}, which this version does not know"):
                await store.open()
        await store.close()


def test_revisions_are_numbers_in_a_row_and_none_leaves_one_standing_that_another_did_not():
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    found = list(ScriptDirectory.from_config(config).walk_revisions())
    names = sorted(each.revision for each in found)

    assert names == [f"{number:04}" for number in range(1, len(found) + 1)]
    for each in found:
        assert str(each.down_revision or "") < each.revision
        assert getattr(each.module, "serves_from", each.revision) in names


# -- the commands ---------------------------------------------------------------------------------


def said(*words: str, code: int = 0) -> str:
    found = CliRunner().invoke(db, words)
    assert found.exit_code == code, found.output
    return found.output


async def test_it_is_said_who_has_it_open_and_what_an_upgrade_would_do(
    postgres_url: str, becomes: Becomes
):
    where = ("--database", postgres_url)
    older = SqlStore(postgres(postgres_url), Inline(), new_id=lambda: "c", name="here:7700")
    await older.open()
    await older.commit([Walk("a", spec=three_tasks()).change])
    current = said("current", *where)
    assert f"schema   {HEAD}" in current
    assert "session  1  alive  here:7700  " in current
    assert current.endswith("1 open\n")

    becomes("9997")
    check = said("check", *where)
    assert "would make 9997  A made-up one." in check
    assert f"coordinators of schema {HEAD} and newer can serve it" in check
    assert said("upgrade", *where) == f"upgraded from {HEAD} to 9997\n"
    assert said("upgrade", *where) == "is at 9997\n"

    becomes("9998")
    assert "no: schema 9998 takes away" in said("check", *where, code=1)
    assert "here:7700 (session 1)" in said("upgrade", *where, code=1)
    told = json.loads(said("check", *where, "-o", "json", code=1))
    assert (told["serves"], [step["revision"] for step in told["upgrade"]]) == (False, ["9998"])
    assert told["serves_from"] == "9998"
    await older.end_session()
    assert said("upgrade", *where) == "upgraded from 9997 to 9998\n"
    becomes(HEAD)
    assert "a newer one wrote it" in said("upgrade", *where, code=1)
    assert "schema   9998" in said("current", *where)
    await older.close()


async def test_a_file_is_upgraded_when_nobody_serves_it(tmp_path: Path):
    where = ("--data", str(tmp_path))
    assert "there is no store in" in said("upgrade", *where, code=1)
    with closing(sqlite3.connect(tmp_path / FILE)) as older:
        older.executescript(OLDER.read_text(encoding="utf-8"))
    assert "would make 0002" in said("check", *where)
    assert said("upgrade", *where) == f"upgraded from 0001 to {HEAD}\n"

    store = SqlStore(sqlite(tmp_path / FILE), Inline(), new_id=lambda: "c")
    await store.open()
    assert "another coordinator (pid" in said("upgrade", *where, code=1)
    assert f"schema   {HEAD}" in said("current", *where)
    assert "yes: this version can serve it" in said("check", *where)
    await store.close()


def test_an_empty_database_gets_its_tables(postgres_server: Server):
    url = postgres_server.new_database()
    assert "schema   none" in said("current", "--database", url)
    assert "yes" in said("check", "--database", url)
    assert said("upgrade", "--database", url) == f"upgraded from nothing to {HEAD}\n"
    postgres_server.drop(url)
    assert "does not exist" in said("current", "--database", url, code=1)
    assert "say once where the store is" in said("current", code=2)


async def test_what_was_put_back_goes_on_above_what_was_given_since(
    postgres_url: str, tmp_path: Path
):
    """Whoever still serves the database, or has served it, stops."""
    on_server = SqlStore(postgres(postgres_url), Inline(), new_id=lambda: "c")
    in_file = SqlStore(sqlite(tmp_path / FILE), Inline(), new_id=lambda: "c")
    for store, where in (
        (on_server, ("--database", postgres_url)),
        (in_file, ("--data", str(tmp_path))),
    ):
        before = await store.open()
        await store.commit([Walk("a", spec=three_tasks()).change])
        if not store.shared:
            await store.close()
        if store.shared:
            assert "coordinators have it open" in said("restored", *where, code=1)
        yes = ("--yes",) if store.shared else ()
        told = json.loads(said("restored", *where, *yes, "-o", "json"))
        assert told["owner_epoch"] > before.owner_epoch + 2**20
        assert told["next_intent"] > before.next_intent + 2**40
        if store.shared:
            with pytest.raises(StoreFencedError):
                await store.renew(timedelta(seconds=15), NOBODYS)
            await store.close()
        database = postgres(postgres_url) if store.shared else sqlite(tmp_path / FILE)
        again = SqlStore(database, Inline(), new_id=lambda: "c")
        opening = await again.open()
        while await again.claim(10):
            pass
        assert opening.owner_epoch > told["owner_epoch"]
        assert opening.next_intent >= told["next_intent"]
        assert [each.workflow.id for each in await again.load_open()] == ["a"]
        await again.close()


def test_what_is_no_store_was_not_put_back(postgres_server: Server, postgres_url: str):
    empty = postgres_server.new_database()
    assert "db upgrade" in said("restored", "--database", empty, code=1)
    assert "no coordinator has ever opened it" in said(
        "restored", "--database", postgres_url, code=1
    )
    postgres_server.drop(empty)


def test_whoever_looks_for_it_in_the_other_command_is_told_where_it_is():
    start = "from countermand.cli.main import main; main()"
    told = subprocess.run(
        [sys.executable, "-c", start, "db", "upgrade"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 2
    assert "countermand-coordinator db upgrade" in told.stderr


# -- from an older store --------------------------------------------------------------------------

OLDER = Path(__file__).parent / "data" / "store-r0001.sql"
OPEN_STATES = {
    "running": WorkflowState.RUNNING,
    "waiting": WorkflowState.RUNNING,
    "making-up": WorkflowState.COMPENSATING,
    "blocked": WorkflowState.BLOCKED,
    "held": WorkflowState.QUARANTINED,
}


@pytest.fixture
async def upgraded(tmp_path: Path) -> AsyncIterator[SqlStore]:
    """Returns the older store, opened by this version."""
    path = tmp_path / "store.db"
    with closing(sqlite3.connect(path)) as older:
        older.executescript(OLDER.read_text(encoding="utf-8"))
    store = SqlStore(sqlite(path), Inline(), new_id=lambda: "another")
    opening = await store.open()
    assert (opening.cluster_id, opening.owner_epoch) == ("cluster-1", 2)
    yield store
    await store.close()


async def test_open_workflows_of_an_older_store_are_found_where_they_were(upgraded: SqlStore):
    found = {each.workflow.id: each.workflow for each in await upgraded.load_open()}

    assert {workflow_id: workflow.state for workflow_id, workflow in found.items()} == OPEN_STATES
    waits = found["waiting"].task(found["waiting"].plan.by_name["copy-0"])
    assert waits.state is TaskState.RETRY_WAIT
    assert waits.due_time == datetime(2026, 3, 1, 9, 0, 52, 501110, tzinfo=UTC)
    assert found["running"].about.input == {"vm.name": "vm-7", "vm.cpus": 4, "é": "ü\u2028"}
    assert found["running"].about.labels == (("vm", "7"),)
    assert not found["blocked"].pause
    assert found["blocked"].blocked == 1


async def test_workflows_of_an_older_store_go_on_and_settle(upgraded: SqlStore):
    """S-Z27: an upgrade with work in flight."""
    told = {name: await _history(upgraded, name) for name in OPEN_STATES}
    settled = {}
    for stored in await upgraded.load_open():
        if stored.workflow.state is not WorkflowState.QUARANTINED:
            workflow = await played(upgraded, stored.workflow)
            settled[workflow.id] = workflow.state
            entries = await _history(upgraded, workflow.id)
            assert [e.sequence for e in entries] == list(range(1, workflow.sequence + 1))
            assert entries[: len(told[workflow.id])] == told[workflow.id]

    assert settled == {
        "running": WorkflowState.SUCCEEDED,
        "waiting": WorkflowState.SUCCEEDED,
        "making-up": WorkflowState.COMPENSATED,
        "blocked": WorkflowState.COMPENSATED,
    }
    assert [each.workflow.id for each in await upgraded.load_open()] == ["held"]


async def test_settled_workflows_of_an_older_store_are_read_and_listed(upgraded: SqlStore):
    done, made_up_for = await upgraded.load("done"), await upgraded.load("made-up-for")
    settled = frozenset({WorkflowState.SUCCEEDED, WorkflowState.COMPENSATED})
    page = await upgraded.query(WorkflowQuery(states=settled, labels=(("vm", "7"),)))

    assert done
    assert made_up_for
    tell = done.workflow.task(done.workflow.plan.by_name["tell"])
    assert [(i.field, i.value) for i in tell.last.inbound] == [("failure_message", "blake2b:00ff")]
    first, second = page.workflows
    assert (first.id, first.about.forked_from, first.about.principal) == (
        *("made-up-for", "done", "engine"),
    )
    assert first.cause == made_up_for.workflow.cause
    assert first.counts == {
        TaskState.SUCCEEDED: 1,
        TaskState.COMPENSATED: 1,
        TaskState.CANCELLED: 3,
    }
    assert (second.id, second.done) == ("done", 3 * 2**31)


async def test_agents_are_told_to_forget_what_settled_in_an_older_store(upgraded: SqlStore):
    """S-Z28: nobody has told them before."""
    hosts = {stored: await upgraded.load(stored) for stored in ("done", "made-up-for")}
    on = {a.host for w in hosts.values() if w for _, t in w.workflow.tasks() for a in t.attempts}

    found = {host: await upgraded.evidence(host, below=10_000, limit=9) for host in on}
    assert {workflow for each in found.values() for workflow in each} == {"done", "made-up-for"}
    for host, workflows in found.items():
        for name in workflows:
            stored = hosts[name]
            assert stored
            assert host in {a.host for _, t in stored.workflow.tasks() for a in t.attempts}


async def test_ids_that_an_older_store_still_knew_of_are_not_given_again(tmp_path: Path):
    """Of what retention had removed, the ids that hosts were still to be told about."""
    database = sqlite(tmp_path / "store.db")
    with database.writer.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(SCRIPTS))
        command.upgrade(config, "0004")
        connection.exec_driver_sql("INSERT INTO evidence VALUES ('a', 'h-1', 7), ('a', 'h-2', 8)")
    database.close()
    store = SqlStore(sqlite(tmp_path / "store.db"), Inline(), new_id=lambda: "c")
    await store.open()

    assert await store.settled(["a", "b"]) == {"a"}
    with pytest.raises(UsedIdError):
        await store.commit([Walk("a").change])
    await store.close()


async def test_what_an_older_store_knew_was_done_to_hosts_is_still_known(tmp_path: Path):
    database = sqlite(tmp_path / "store.db")
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    with database.writer.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0010")
        for change, finding in (("ADDED", ""), ("REPAIRED", "hosts/a/findings/x")):
            connection.execute(
                text(
                    "INSERT INTO host_events (host_id, change, time_us, principal, reason, finding)"
                    " VALUES ('a', :change, 7, 'ann', 'é', :finding)"
                ),
                {"change": change, "finding": finding},
            )
    database.close()

    store = SqlStore(sqlite(tmp_path / "store.db"), Inline(), new_id=lambda: "c")
    await store.open()
    await store.note_audit([_noted("hosts/a", HostChange.DRAINED)])
    found = await store.audit("hosts/a", before=2**62, limit=9)
    await store.close()
    assert [(each.position, each.change.name, each.detail) for each in found] == [
        (3, "DRAINED", ""),
        (2, "REPAIRED", "hosts/a/findings/x"),
        (1, "ADDED", ""),
    ]
    assert {each.reason for each in found} == {"é"}


async def test_positions_that_an_older_store_gave_stay_and_are_not_given_again(tmp_path: Path):
    """Neither those of what has been removed since: SQLite remembered them, and retention did."""
    path = tmp_path / "store.db"
    database = sqlite(path)
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    with database.writer.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0013")
        connection.exec_driver_sql("INSERT INTO meta VALUES (1, 'cluster-1', 3, 7, 40, 'key')")
        connection.exec_driver_sql("INSERT INTO sqlite_sequence VALUES ('events', 41)")
        for _ in range(3):
            connection.exec_driver_sql(
                "INSERT INTO audit (subject, change, time_us, principal, reason, detail)"
                " VALUES ('hosts/a', 'ADDED', 7, 'ann', '', '')"
            )
        connection.exec_driver_sql("DELETE FROM audit WHERE position <> 2")
    database.close()

    store = SqlStore(sqlite(path), Inline(), new_id=lambda: "another")
    opening = await store.open()
    assert await store.position() == 41
    await store.commit([Walk("a").change])
    await store.note_audit([_noted("hosts/a", HostChange.DRAINED)])
    told = await store.events(after=0, limit=1_000)
    audited = await store.audit("hosts/a", before=2**62, limit=9)
    await store.close()

    said = (opening.cluster_id, opening.owner_epoch, opening.token_key)
    assert said == ("cluster-1", 4, "key")
    assert opening.next_intent > 7
    assert [each.position for each in told] == list(range(42, 42 + len(told)))
    assert [each.position for each in audited] == [4, 2]
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert file.execute("SELECT * FROM sqlite_sequence").fetchall() == []


def _noted(subject: str, change: HostChange) -> AuditEvent:
    time = datetime(2026, 1, 1, tzinfo=UTC)
    return AuditEvent(subject=subject, change=change, time=time, principal="ann", reason="é")


async def test_ids_of_workflows_that_an_older_store_has_are_theirs(upgraded: SqlStore):
    """Retention takes them later, as any others."""
    assert await upgraded.settled(["done", "made-up-for"]) == {"done", "made-up-for"}
    ever = datetime(2100, 1, 1, tzinfo=UTC)
    assert await upgraded.expire(before=ever, limit=10) == 2
    assert await upgraded.settled(["done", "made-up-for"]) == {"done", "made-up-for"}


async def _history(store: SqlStore, workflow_id: str) -> list[StoredEntry]:
    entries = await store.history(workflow_id, after=0, limit=1_000)
    assert all(HistoryEvent.FromString(e.payload).sequence == e.sequence for e in entries)
    return entries


async def played(store: SqlStore, workflow: Workflow, epoch: int = 2) -> Workflow:
    """Lets everything that is out succeed, under a new owner, until the workflow is settled."""
    time, intent = datetime(2026, 4, 1, tzinfo=UTC), 1_000
    due: list[events.Event] = [events.OwnerChanged(owner_epoch=epoch)]
    while not workflow.settled:
        assert due, workflow
        time += timedelta(seconds=1)
        decision = advance(workflow, due.pop(0), events.Now(time=time, jitter=0.5, intent=intent))
        intent += decision.intents
        due += [_answer(command) for command in decision.commands]
        if not decision.empty:
            change = Change(
                workflow=decision.workflow,
                version_before=workflow.version,
                history=decision.history,
                changed=decision.changed,
            )
            await store.commit([change])
        workflow = decision.workflow
    return workflow


def _answer(command: Command) -> events.Event:
    match command:
        case SetTimer():
            return events.TimerFired(timer=command.timer, task=command.task, number=command.number)
        case SendCancel():
            return events.AttemptCancelled(task=command.task, number=command.number)
        case SendAction() | SendCompensation():
            output = {"digest": "blake2b:00ff"}
            return events.AttemptSucceeded(task=command.task, number=command.number, output=output)
        case _:
            raise AssertionError(command)
