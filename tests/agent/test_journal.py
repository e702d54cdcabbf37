"""The journal on a real file: what is promised is there after a crash, and stays in order."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from agent.attempts import AttemptRecord, Kind, State
from agent.journal import (
    InlineJournal,
    Journal,
    JournalDied,
    ThreadJournal,
    Transaction,
    open_connection,
)

NOW = datetime(2030, 1, 1, 12, 30, 0, 250, tzinfo=UTC)


def name(task: str, number: int = 1, workflow: str = "w1") -> str:
    return f"workflows/{workflow}/tasks/{task}/attempts/{number}"


def record(attempt: str, **fields) -> AttemptRecord:
    values = {
        "name": attempt,
        "kind": Kind.ACTION,
        "request": b"action",
        "request_hash": b"hash",
        "state": State.SUCCEEDED,
        "owner_epoch": 1,
        "intent_sequence": 10,
        "create_time": NOW,
    }
    return AttemptRecord(**{**values, **fields})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.sqlite"


def open_journal(path, new_id=lambda: "life-1") -> Journal:
    return Journal(open_connection(path), new_id=new_id)


def open_thread(path, fatal=lambda: None) -> ThreadJournal:
    return ThreadJournal(lambda: open_journal(path), fatal=fatal)


def put(*records: AttemptRecord):
    return lambda tx: [tx.put(one) for one in records]


def test_a_record_comes_back_whole(path):
    full = record(
        name("copy"),
        compensates=name("other"),
        output=b"output",
        failure=b"failure",
        note="note",
        done_bytes=3,
        total_bytes=4,
        tombstoned=True,
        received=False,
        run_timeout=timedelta(seconds=1.5),
        stall_timeout=timedelta(seconds=2.5),
        traceparent="parent",
        tracestate="state",
        start_time=NOW,
        end_time=NOW,
    )
    journal = open_journal(path)
    journal.transact(put(full))
    journal.close()
    found, _ = open_journal(path).transact(lambda tx: tx.get(full.name))
    assert found == replace(full, sequence=1)


def test_a_journal_of_an_earlier_version_is_gone_on_with(path):
    journal = open_journal(path)
    journal.transact(put(record(name("copy"))))
    journal.close()
    with closing(open_connection(path)) as connection:
        connection.execute("ALTER TABLE attempts DROP COLUMN stall_timeout_us")
    again = open_journal(path, new_id=lambda: "life-2")
    assert again.incarnation == "life-1"
    found, _ = again.transact(lambda tx: tx.get(name("copy")))
    assert found == replace(record(name("copy")), sequence=1)


def test_the_incarnation_is_that_of_the_file(path):
    """S-Z10: a new file is a new life."""
    open_journal(path).close()
    assert open_journal(path, new_id=lambda: "life-2").incarnation == "life-1"


def test_a_crash_before_the_commit_leaves_nothing(path):
    journal = open_journal(path)

    def die(tx):
        tx.put(record(name("copy")))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        journal.transact(die)
    journal.close()
    again = open_journal(path)
    assert again.transact(lambda tx: (tx.get(name("copy")), tx.sequence)) == ((None, 0), [])


def test_one_that_raises_undoes_only_itself(path):
    journal = open_journal(path)

    def refuse(tx):
        tx.put(record(name("b")))
        raise ValueError

    results, changed = journal.transact_many(
        [put(record(name("a"))), refuse, put(record(name("c")))]
    )
    assert [type(error) for _, error in results] == [type(None), ValueError, type(None)]
    assert [(one.name, one.sequence) for one in changed] == [(name("a"), 1), (name("c"), 2)]
    assert journal.transact(lambda tx: tx.get(name("b")))[0] is None


def test_changes_show_each_attempt_once_as_it_is_now(path):
    journal = open_journal(path)
    journal.transact(put(record(name("a"), state=State.RUNNING), record(name("b"))))
    journal.transact(put(record(name("a"))))
    changes, _ = journal.transact(lambda tx: tx.changes(1, 10))
    assert [(one.name, one.state, one.sequence) for one in changes] == [
        (name("b"), State.SUCCEEDED, 2),
        (name("a"), State.SUCCEEDED, 3),
    ]


def test_the_sequence_never_goes_back_even_when_all_is_forgotten(path):
    """S-Z11: a journal that goes back is a journal that was restored."""
    journal = open_journal(path)
    journal.transact(put(record(name("a"))))
    assert journal.transact(lambda tx: tx.forget(["workflows/w1"], 11))[0].attempts == 1
    journal.close()
    assert open_journal(path).sequence == 1


@pytest.mark.parametrize(
    ("kept", "fields"),
    [
        (False, {}),
        (True, {"intent_sequence": 20}),  # a late request could still come
        (True, {"state": State.RUNNING}),
        (True, {"name": name("a", workflow="w2")}),  # nobody said that its workflow is settled
        (False, {"received": False, "state": State.UNKNOWN, "tombstoned": True}),
        (True, {"state": State.UNKNOWN}),  # the agent looks again: only then is it known
    ],
    ids=["settled", "above the watermark", "open", "of another workflow", "tombstone", "unknown"],
)
def test_forgets_only_what_can_never_come_again(path, kept, fields):
    """S-Z28."""
    journal = open_journal(path)
    one = record(**{"attempt": fields.pop("name", name("a")), **fields})
    journal.transact(put(one))
    journal.transact(lambda tx: tx.forget(["workflows/w1"], 20))
    assert (journal.transact(lambda tx: tx.get(one.name))[0] is not None) == kept


def test_the_tombstones_of_an_open_workflow_stay_whatever_the_watermark(path):
    """S-Z28: evidence goes with its workflow only."""
    journal = open_journal(path)
    one = record(name("a"), received=False, tombstoned=True, state=State.UNKNOWN)
    journal.transact(put(one))
    assert journal.transact(lambda tx: tx.forget([], 999))[0].attempts == 0
    assert journal.transact(lambda tx: tx.get(one.name))[0] is not None


def test_a_late_forget_takes_nothing_of_a_later_workflow_of_that_name(path):
    """Its own watermark counts, and not a higher one that has been heard of since."""
    journal = open_journal(path)
    journal.transact(lambda tx: tx.forget([], 50))
    journal.transact(put(record(name("a"), intent_sequence=20)))
    assert journal.transact(lambda tx: tx.forget(["workflows/w1"], 20))[0].attempts == 0
    assert journal.transact(lambda tx: int(tx.meta("low_watermark")))[0] == 50


def test_what_was_at_work_when_it_was_to_be_forgotten_goes_once_it_has_ended(path):
    journal = open_journal(path)
    journal.transact(put(record(name("a"), state=State.RUNNING)))
    remember = partial(Transaction.remember_owner, owner_epoch=3, cluster_id="c")
    journal.transact(lambda tx: remember(tx, workflow="workflows/w1"))
    named = ["workflows/w1", "workflows/w2"]
    first, _ = journal.transact(lambda tx: tx.forget(named, 20))
    assert (first.attempts, first.kept) == (0, ("workflows/w1",))
    journal.transact(put(record(name("a"))))
    assert journal.transact(lambda tx: tx.highest_epoch("workflows/w1"))[0] == 3
    again, _ = journal.transact(lambda tx: tx.forget(named, 20))
    assert (again.attempts, again.kept) == (1, ())
    assert journal.transact(lambda tx: tx.highest_epoch("workflows/w1"))[0] == 0


def test_forgets_in_bounded_pieces(path):
    """Nobody waits behind a workflow of thousands of attempts."""
    journal = open_journal(path)
    journal.transact(put(*(record(name("t", n + 1)) for n in range(7))))
    drop = partial(Transaction.forget, workflows=["workflows/w1"], low_watermark=20, rows_max=3)
    pieces = [journal.transact(drop)[0] for _ in range(3)]
    assert [(piece.attempts, piece.done) for piece in pieces] == [(3, False), (3, False), (1, True)]
    assert not any(piece.kept for piece in pieces)


def test_the_room_of_what_was_forgotten_is_used_again(path):
    """The file grows with what is kept, and not with what has ever been done."""
    journal = open_journal(path)
    pages: list[int] = []
    for round_ in range(6):
        workflow, rows = f"w{round_}", range(400)
        journal.transact(
            put(*(record(name("t", n + 1, workflow=workflow), request=bytes(500)) for n in rows))
        )
        named = [f"workflows/{workflow}"]
        journal.transact(partial(Transaction.forget, workflows=named, low_watermark=20))
        pages.append(journal._connection.execute("PRAGMA page_count").fetchone()[0])
    assert pages[-1] <= pages[0] * 1.1, pages


def test_epochs_never_decrease(path):
    """S-Z7."""
    journal = open_journal(path)
    for epoch in (3, 2):
        journal.transact(
            partial(
                Transaction.remember_owner,
                workflow="workflows/w1",
                owner_epoch=epoch,
                cluster_id="a",
            )
        )
    assert journal.transact(lambda tx: tx.highest_epoch("workflows/w1"))[0] == 3


def test_pages_are_in_order_of_names_and_by_prefix(path):
    journal = open_journal(path)
    names = [name("a"), name("b"), name("a", workflow="w10"), name("a", workflow="w2")]
    journal.transact(put(*(record(one) for one in reversed(names))))
    page, _ = journal.transact(
        lambda tx: tx.page("workflows/w1/", after=name("a"), count_max=9, open_only=False)
    )
    assert [one.name for one in page] == [name("b")]
    page, _ = journal.transact(lambda tx: tx.page("", after="", count_max=2, open_only=False))
    assert [one.name for one in page] == sorted(names)[:2]


async def test_the_thread_commits_in_groups_and_answers_in_order(path):
    journal = open_thread(path)
    committed: list[list[str]] = []
    journal.on_commit = lambda changed: committed.append([one.name for one in changed])
    answered: list[int] = []

    async def ask(number: int) -> None:
        await journal.transact(put(record(name("t", number + 1))))
        answered.append(number)

    await asyncio.gather(*(ask(number) for number in range(500)))
    await journal.close()
    assert answered == list(range(500))
    assert [one for batch in committed for one in batch] == [name("t", n + 1) for n in range(500)]
    assert len(committed) < 500  # they were committed in groups


async def test_the_thread_hands_errors_to_whoever_asked(path):
    journal = open_thread(path)

    def refuse(_tx):
        raise ValueError

    asked = [journal.transact(refuse), journal.transact(put(record(name("a"))))]
    refused, written = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(refused, ValueError)
    assert isinstance(written, list)
    assert written[0].sequence == 1
    await journal.close()


async def test_nobody_waits_for_a_thread_that_died(path, caplog):
    """It dies of a bug only; then the process must."""
    died = asyncio.Event()
    loop = asyncio.get_running_loop()
    journal = open_thread(path, fatal=lambda: loop.call_soon_threadsafe(died.set))

    def die(_tx):
        raise KeyboardInterrupt

    asked = [journal.transact(die), journal.transact(put(record(name("a"))))]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [JournalDied] * 2
    await died.wait()
    with pytest.raises(JournalDied):
        await journal.transact(put(record(name("b"))))
    assert "journal.died" in caplog.messages
    await journal.close()


async def test_a_file_that_is_no_journal_is_an_error_at_once(path):
    path.write_bytes(b"not a database, but long enough to look like a file" * 10)
    with pytest.raises(sqlite3.DatabaseError):
        open_thread(path)


async def test_the_inline_journal_says_the_same(path):
    journal = InlineJournal(open_journal(path))
    committed: list[AttemptRecord] = []
    journal.on_commit = committed.extend
    [written] = await journal.transact(put(record(name("a"))))
    assert committed == [written]
    await journal.close()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777], ids=oct)
def test_nobody_else_may_read_it(path, umask):
    """It holds the key of the tickets; one of an earlier version is closed to others as well."""
    before = os.umask(umask)
    try:
        for mode in (None, 0o644):
            if mode:
                path.chmod(mode)
            journal = open_journal(path)
            journal.transact(put(record(name("a"))))
            files = sorted(path.parent.glob(f"{path.name}*"))
            assert [file.name.removeprefix(path.name) for file in files] == ["", "-shm", "-wal"]
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
            journal.close()
    finally:
        os.umask(before)


def test_what_a_killed_agent_of_an_earlier_version_left_is_closed_to_others(path):
    first = open_journal(path)
    first.transact(put(record(name("a"))))
    for file in path.parent.glob(f"{path.name}*"):
        file.chmod(0o644)
    open_journal(path)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.glob(f"{path.name}*")}
    assert modes == {0o600}
