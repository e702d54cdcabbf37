"""Storage that fails at the worst moment: what is not certain is never called so."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
from contextlib import aclosing
from pathlib import Path

import pytest

from agent import runner
from agent.drivers.copying import CHUNK_BYTES
from agent.drivers.files import RealFiles
from countermand.rpc.errors import StorageFailed
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.verb_pb2 import Action, CreateSnapshot, DeleteImage, RevertImage
from tests.agent.requests import address, attempt_name, copy_action, noop_action
from tests.agent.rig import Gate, Rig

COPY = attempt_name("copy")
UNDO = attempt_name("copy", 2)
ACTION = copy_action("fast/base", "fast/disk")
STAGED = "image"  # in an attempt's own folder

DELETE = Action(delete_image=DeleteImage(target=address("fast/base")))

SUCCEEDED = Attempt.STATE_SUCCEEDED
FAILED = Attempt.STATE_FAILED
UNKNOWN = Attempt.STATE_UNKNOWN
RUNNING = Attempt.STATE_RUNNING
CANCELLED = Attempt.STATE_CANCELLED


async def until(condition) -> None:
    """Returns once something is so."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.001)


class FailingFiles(RealFiles):
    """A file system whose disk fails at chosen calls, on chosen names."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: dict[str, tuple[str, int]] = {}  # call → name, errno
        self.renamed: list[str] = []

    def fail(self, call: str, name: str, error: int = errno.EIO) -> None:
        self.failing[call] = (name, error)

    def _perhaps(self, call: str, path: Path) -> None:
        name, error = self.failing.get(call, ("", 0))
        if name == path.name:
            raise OSError(error, os.strerror(error))

    def flush_folder(self, path):
        self._perhaps("flush_folder", path)
        super().flush_folder(path)

    def open_to_write(self, path):
        self._perhaps("open_to_write", path)
        return super().open_to_write(path)

    def rename(self, source, target):
        self._perhaps("rename", target)
        if "lost_rename" in self.failing:
            self.renamed.append(source.name)
        self._perhaps("lost_rename", target)
        super().rename(source, target)
        self.renamed += [source.name, target.name]
        self._perhaps("after_rename", target)

    def remove_file(self, path):
        self._perhaps("remove_file", path)
        if "image.json" in self.renamed:
            self._perhaps("remove_after_revert", path)
        super().remove_file(path)

    def list_folder(self, path):
        if path.name in self.renamed:
            self._perhaps("list_renamed", path)
        return super().list_folder(path)

    def stat(self, path):
        self._perhaps("stat", path)
        if path.name in self.renamed:
            self._perhaps("stat_renamed", path)
        return super().stat(path)


@pytest.fixture
async def failing(tmp_path):
    """Yields an agent and its file system, which may be told to fail."""
    rig = Rig(tmp_path)
    files = rig.files = FailingFiles()
    await rig.start()
    rig.put("base", b"content")
    yield rig, files
    await rig.runner.stop()


@pytest.mark.parametrize("call", ["open_to_write", "rename"])
async def test_a_failure_before_the_image_is_seen_is_certain(failing, call):
    rig, files = failing
    files.fail(call, "data.raw" if call == "open_to_write" else "disk")
    failed = await rig.run(COPY, ACTION)
    assert (failed.state, failed.failure.reason) == (FAILED, "STORAGE_FAILED")
    assert failed.failure.metadata["error"] == "EIO"
    assert failed.failure.retriable
    assert (rig.images(), rig.staged()) == (["base"], [])


@pytest.mark.parametrize(("call", "name"), [("flush_folder", "images"), ("after_rename", "disk")])
async def test_a_failure_after_it_is_unknown_until_the_next_start(failing, call, name):
    """S-V5: neither outcome is certain, so neither is told."""
    rig, files = failing
    files.fail(call, name)
    lost = await rig.run(COPY, ACTION)
    assert (lost.state, lost.failure.reason) == (UNKNOWN, "STORAGE_FAILED")
    if call == "flush_folder":  # while the disk still fails, the next start knows no more
        await rig.restart()
        assert (await rig.settled(COPY)).state == UNKNOWN
    files.failing.clear()
    await rig.restart()
    assert (await rig.settled(COPY)).state == SUCCEEDED
    assert rig.images() == ["base", "disk"]


async def test_an_image_that_is_there_is_never_called_failed(failing):
    """I3, I4: after the rename and its flush only the account can still go wrong."""
    rig, files = failing
    files.fail("list_renamed", "disk")
    made = await rig.run(COPY, ACTION)
    assert made.state == SUCCEEDED, made
    assert rig.images() == ["base", "disk"]


async def test_a_rename_that_nobody_can_look_after_is_unknown(failing):
    rig, files = failing
    files.fail("after_rename", "disk")
    files.fail("stat_renamed", STAGED)
    assert (await rig.run(COPY, ACTION)).state == UNKNOWN
    assert rig.images() == ["base", "disk"]


async def test_what_an_earlier_life_did_is_unknown_while_it_cannot_be_looked_at(failing):
    """I4: the image is there; a disk that does not answer is no reason to call it failed."""
    rig, files = failing
    files.fail("after_rename", "disk")
    await rig.run(COPY, ACTION)
    files.failing.clear()
    files.fail("stat", "disk")
    await rig.restart()
    assert (await rig.settled(COPY)).state == UNKNOWN
    files.failing.clear()
    await rig.restart()
    assert (await rig.settled(COPY)).state == SUCCEEDED


REVERT = Action(
    revert_image=RevertImage(
        target=address("fast/base"), snapshot_id="old", safety_snapshot_id="safe"
    )
)


@pytest.fixture
async def changed(failing):
    """Yields the same with a snapshot of the base, and newer content."""
    rig, files = failing
    create = CreateSnapshot(target=address("fast/base"), snapshot_id="old")
    await rig.run(attempt_name("old"), Action(create_snapshot=create))
    rig.data("base").write_bytes(b"changed")
    return rig, files


@pytest.mark.parametrize(("call", "name"), [("rename", "image.json"), ("flush_folder", "base")])
async def test_a_revert_that_fails_before_it_is_seen_is_certain(changed, call, name):
    rig, files = changed
    files.fail(call, name)
    failed = await rig.run(COPY, REVERT)
    assert (failed.state, failed.failure.reason) == (FAILED, "STORAGE_FAILED")
    assert (rig.images(), rig.staged()) == (["base", "base@old"], [])
    assert rig.data("base").read_bytes() == b"changed"


async def test_a_revert_is_unknown_until_somebody_can_look(changed):
    rig, files = changed
    files.fail("after_rename", "image.json")
    assert (await rig.run(COPY, REVERT)).state == UNKNOWN
    files.failing.clear()
    await rig.restart()
    assert (await rig.settled(COPY)).output.revert_image.generation == 2
    assert rig.data("base").read_bytes() == b"content"
    assert rig.data("base@safe").read_bytes() == b"changed"


async def test_a_revert_that_cannot_be_swept_is_unknown(changed):
    """Its safety snapshot can be seen: that would be left behind."""
    rig, files = changed
    files.fail("rename", "image.json")
    files.fail("remove_file", "image.json")
    assert (await rig.run(COPY, REVERT)).state == UNKNOWN
    files.failing.clear()
    await rig.cancel(COPY)
    assert (await rig.settled(COPY)).state == CANCELLED
    assert (rig.images(), rig.staged()) == (["base", "base@old"], [])


async def test_what_cannot_be_purged_after_a_revert_goes_with_the_next(changed):
    rig, files = changed
    files.fail("remove_after_revert", "data.raw")
    assert (await rig.run(COPY, REVERT)).state == SUCCEEDED
    assert len(list((rig.folder / "fast/images/base").glob("data.*"))) == 2
    files.failing.clear()
    assert (await rig.make_up(UNDO, COPY, REVERT)).state == SUCCEEDED
    assert rig.data("base").read_bytes() == b"changed"


async def test_a_deletion_that_failed_and_yet_moved_is_unknown_and_goes_on(failing):
    rig, files = failing
    files.fail("after_rename", STAGED)
    assert (await rig.run(COPY, DELETE)).state == UNKNOWN
    files.failing.clear()
    await rig.restart()
    assert (await rig.settled(COPY)).output.delete_image.existed


async def test_an_unknown_outcome_can_be_made_up_for(failing):
    """S-Z1."""
    rig, files = failing
    files.fail("flush_folder", "images")
    await rig.run(COPY, ACTION)
    failed = await rig.make_up(UNDO, COPY, ACTION)
    assert (failed.state, failed.failure.reason) == (FAILED, "STORAGE_FAILED")
    files.failing.clear()
    assert (await rig.make_up(attempt_name("copy", 3), COPY, ACTION)).state == SUCCEEDED
    assert (await rig.get(COPY)).state == CANCELLED
    assert (rig.images(), rig.staged()) == (["base"], [])


async def test_an_unknown_outcome_is_looked_at_again_without_a_restart(failing, monkeypatch):
    """As often as it takes."""
    monkeypatch.setattr(runner, "LOOK_AGAIN_DELAY_S", 0.01)
    rig, files = failing
    files.fail("flush_folder", "images")
    states: list[Attempt.State.ValueType] = []
    async with aclosing(rig.runner.watchers.watch(None)) as batches:
        await rig.accept(COPY, ACTION)
        async for batch in batches:
            states += [rig.runner.tell(record).state for record in batch.changes]
            if states.count(UNKNOWN) == 2:
                files.failing.clear()
            if states[-1:] == [SUCCEEDED]:
                break
    assert states[:4] == [RUNNING, UNKNOWN, RUNNING, UNKNOWN]
    assert rig.images() == ["base", "disk"]


@pytest.mark.parametrize("made", [True, False], ids=["made", "not made"])
async def test_cancelling_an_unknown_outcome_finds_out_what_it_is(failing, made):
    rig, files = failing
    files.fail("after_rename" if made else "lost_rename", "disk")
    files.fail("stat_renamed", STAGED)
    assert (await rig.run(COPY, ACTION)).state == UNKNOWN
    files.failing.clear()
    assert (await rig.cancel(COPY)).state == Attempt.STATE_CANCELLING
    assert (await rig.settled(COPY)).state == (SUCCEEDED if made else CANCELLED)
    assert rig.images() == (["base", "disk"] if made else ["base"])
    assert rig.staged() == []


async def test_who_asked_an_unknown_outcome_to_stop_does_so_still(failing, monkeypatch):
    rig, files = failing
    files.fail("lost_rename", "disk")
    files.fail("stat_renamed", STAGED)
    await rig.run(COPY, ACTION)
    files.failing.clear()
    files.fail("stat", "disk")
    monkeypatch.setattr(runner, "LOOK_AGAIN_DELAY_S", 0.01)
    await rig.cancel(COPY)
    await rig.settled(COPY)
    assert (await rig.get(COPY)).state == UNKNOWN
    files.failing.clear()
    await until(lambda: not rig.runner.running and not rig.runner._looks)
    assert (await rig.get(COPY)).state == CANCELLED


async def test_what_was_made_up_for_is_not_looked_at_again(failing, monkeypatch):
    monkeypatch.setattr(runner, "LOOK_AGAIN_DELAY_S", 0.01)
    rig, files = failing
    files.fail("flush_folder", "images")
    await rig.run(COPY, ACTION)
    assert (await rig.make_up(UNDO, COPY, ACTION)).state == FAILED
    files.failing.clear()
    await until(lambda: not rig.runner._looks)
    lost = await rig.settled(COPY)
    assert (lost.state, lost.tombstoned) == (UNKNOWN, True)
    assert (await rig.cancel(COPY)).state == UNKNOWN  # what makes up for it finds out
    assert (await rig.make_up(attempt_name("copy", 3), COPY, ACTION)).state == SUCCEEDED
    assert (await rig.get(COPY)).state == CANCELLED


async def test_a_deletion_that_was_not_flushed_is_unknown_and_goes_on(failing):
    """S-V22: the image is out of sight; the next start purges it."""
    rig, files = failing
    files.fail("flush_folder", "images")
    lost = await rig.run(COPY, DELETE)
    assert (lost.state, lost.failure.reason) == (UNKNOWN, "STORAGE_FAILED")
    files.failing.clear()
    await rig.restart()
    gone = await rig.settled(COPY)
    assert (gone.state, gone.output.delete_image.existed) == (SUCCEEDED, True)
    assert (rig.images(), rig.staged()) == ([], [])


async def test_a_pool_taken_out_of_service_leaves_what_ran_in_it_unknown(failing):
    rig, _ = failing
    gate = Gate()
    await rig.restart(gate=gate)
    await rig.accept(COPY, ACTION)
    await gate.arrival()
    rig.runner.running[COPY].interrupt()
    gate.open()
    rig.options = {"other": {}}
    await rig.restart()
    lost = await rig.settled(COPY)
    assert (lost.state, lost.failure.reason) == (UNKNOWN, "POOL_NOT_FOUND")
    rig.options = {"fast": {}}
    await rig.restart()
    assert (await rig.settled(COPY)).state == SUCCEEDED


async def test_a_pool_that_cannot_be_swept_keeps_no_agent_from_starting(failing):
    rig, files = failing
    rig.options = {"fast": {}, "other": {}}
    await rig.restart()
    for pool_id in rig.options:
        folder = rig.folder / pool_id / "staging/workflows@w9@tasks@t@attempts@1"
        folder.mkdir()
        (folder / pool_id).write_bytes(b"x")
    await rig.runner.stop()
    files.fail("remove_file", "fast")
    await rig.start()
    assert (rig.staged("fast") != [], rig.staged("other")) == (True, [])
    assert (await rig.run(COPY, noop_action())).state == SUCCEEDED


# -- a journal whose disk is full ---------------------------------------------------------------


async def fill_journal(rig: Rig, *, full: bool) -> None:
    def query_only(tx):
        tx._connection.execute(f"PRAGMA query_only = {full}")

    await rig.runner.journal.transact(query_only)


async def test_a_journal_that_cannot_be_written_to_takes_no_orders(rig):
    """S-Z26: and the agent goes on answering."""
    await rig.run(attempt_name("a"), noop_action())
    await fill_journal(rig, full=True)
    with pytest.raises(StorageFailed, match="journal"):
        await rig.accept(COPY, noop_action())
    assert (await rig.get(attempt_name("a"))).state == SUCCEEDED
    await fill_journal(rig, full=False)
    assert (await rig.run(COPY, noop_action())).state == SUCCEEDED


@pytest.fixture
async def noting(tmp_path, monkeypatch):
    """Yields an agent that notes each chunk and waits at each step, and the gate."""
    monkeypatch.setattr(runner, "RECORD_DELAY_S", 0.01)
    rig = Rig(tmp_path, options={"fast": {"flush_bytes": CHUNK_BYTES}})
    await rig.start()
    rig.put("base", b"x" * CHUNK_BYTES * 3)
    gate = Gate()
    await rig.restart(gate=gate)
    yield rig, gate
    gate.open()
    await rig.runner.stop()


async def test_a_copy_goes_on_without_notes_while_the_journal_is_full(noting, caplog):
    """S-Z26: a note saves time after a crash; its loss is no reason to lose the attempt."""
    rig, gate = noting
    await rig.accept(COPY, ACTION)
    await gate.arrival()
    await fill_journal(rig, full=True)
    gate.open()
    await until(lambda: rig.images() == ["base", "disk"])
    await until(lambda: "journal.failed" in caplog.messages)
    await fill_journal(rig, full=False)
    assert (await rig.settled(COPY)).state == SUCCEEDED
    assert "attempt.note_skipped" in caplog.messages
    assert caplog.messages.count("journal.failed") == 1


async def test_a_deletion_waits_for_its_note(noting, caplog):
    """Without it a restart could not tell this image from the next one of its name."""
    rig, gate = noting
    gate.open()
    journal = rig.runner.journal
    accepted = rig.accept(COPY, DELETE)
    journal.on_commit = _filling_after(journal, rig)
    await accepted
    await until(lambda: "journal.failed" in caplog.messages)
    assert rig.images() == ["base"]
    await fill_journal(rig, full=False)
    assert (await rig.settled(COPY)).output.delete_image.existed
    assert rig.images() == []


def _filling_after(journal, rig):
    """Fills the journal's disk once something was committed."""
    told = journal.on_commit

    def tell(changed):
        told(changed)
        journal.on_commit = told
        journal._journal.transact(lambda tx: tx._connection.execute("PRAGMA query_only = 1"))

    return tell


@pytest.mark.parametrize("action", [ACTION, DELETE], ids=["outcome", "note"])
async def test_a_full_journal_does_not_keep_the_agent_from_stopping(noting, caplog, action):
    """The next start finds out what could not be recorded."""
    rig, gate = noting
    gate.open()
    journal = rig.runner.journal
    accepted = rig.accept(COPY, action)
    journal.on_commit = _filling_after(journal, rig)
    await accepted
    await until(lambda: "journal.failed" in caplog.messages)
    async with asyncio.timeout(30):
        await rig.runner.stop()
    await rig.start()
    assert (await rig.settled(COPY)).state == SUCCEEDED


async def test_who_is_stopped_while_it_waits_for_a_slot_leaves_no_error_in_the_log(
    tmp_path, caplog
):
    rig = Rig(tmp_path, limits=runner.Limits(attempts_max=1))
    gate = Gate()
    await rig.start(gate=gate)
    rig.put("base", b"content")
    await rig.accept(COPY, ACTION)
    await gate.arrival()
    waiting = attempt_name("waiting")
    await rig.accept(waiting, copy_action("fast/base", "fast/other"))
    await rig.cancel(waiting)
    assert (await rig.settled(waiting)).state == CANCELLED
    gate.open()
    await rig.runner.stop()
    gc.collect()  # asyncio tells of errors that nobody heard of when they go
    assert [one.message for one in caplog.records if one.name == "asyncio"] == []
