"""What is swept, at the start and every few minutes: what nobody works on any more (I11)."""

from __future__ import annotations

import os

import pytest

from agent import recovery
from countermand.v1.attempt_pb2 import Attempt
from tests.agent.requests import attempt_name, copy_action
from tests.agent.rig import Gate, Rig

COPY = attempt_name("copy")
UNDO = attempt_name("copy", 2)


def leave_half_made(rig: Rig, attempt: str) -> None:
    folder = rig.folder / "fast" / "staging" / attempt.replace("/", "@")
    folder.mkdir(exist_ok=True)
    (folder / "data.raw").write_bytes(bytes(512))


async def sweep(rig: Rig) -> list[str]:
    await recovery.sweep(rig.runner.journal, rig.pools, rig.runner.executor)
    return rig.staged()


async def started(tmp_path, *, gate: Gate | None = None, shared: bool = False) -> Rig:
    rig = Rig(tmp_path, options={"fast": {"shared": shared}})
    await rig.start(gate=gate)
    rig.put("base", os.urandom(4096))
    return rig


async def test_what_a_closed_attempt_left_goes(tmp_path):
    rig = await started(tmp_path)
    await rig.run(COPY, copy_action("fast/base", "fast/made"))
    leave_half_made(rig, COPY)
    assert await sweep(rig) == []
    await rig.runner.stop()


@pytest.mark.parametrize("shared", [False, True])
async def test_what_the_journal_does_not_know_stays_where_it_may_be_anothers(tmp_path, shared):
    rig = await started(tmp_path, shared=shared)
    leave_half_made(rig, COPY)
    assert len(await sweep(rig)) == int(shared)
    await rig.runner.stop()


async def test_what_an_open_attempt_works_in_stays(tmp_path):
    gate = Gate()
    rig = await started(tmp_path, gate=gate)
    await rig.accept(COPY, copy_action("fast/base", "fast/made"))
    await gate.arrival(3)
    assert len(await sweep(rig)) == 1
    gate.open()
    assert (await rig.settled(COPY)).state == Attempt.STATE_SUCCEEDED
    await rig.runner.stop()


async def test_what_is_being_made_up_for_stays(tmp_path):
    rig = await started(tmp_path)
    action = copy_action("fast/base", "fast/made")
    await rig.run(COPY, action)
    gate = Gate()
    await rig.restart(gate=gate)
    await rig.compensate(UNDO, COPY, action)
    await gate.arrival()
    leave_half_made(rig, COPY)
    assert len(await sweep(rig)) == 1
    rig.pools["fast"].discard(COPY)
    gate.open()
    assert (await rig.settled(UNDO)).state == Attempt.STATE_SUCCEEDED
    assert (rig.staged(), rig.images()) == ([], ["base"])
    await rig.runner.stop()


async def test_an_administrators_import_stays(tmp_path):
    rig = await started(tmp_path)
    leave_half_made(rig, "import/gold")
    assert len(await sweep(rig)) == 1
    await rig.runner.stop()


async def test_a_pool_that_cannot_be_listed_keeps_no_other_from_being_swept(tmp_path):
    rig = Rig(tmp_path, options={"aside": {}, "fast": {}})
    await rig.start()
    leave_half_made(rig, COPY)
    (tmp_path / "aside" / "staging").rmdir()
    (tmp_path / "aside" / "staging").write_text("no folder")
    assert await sweep(rig) == []
    await rig.runner.stop()


async def test_a_driver_with_a_defect_keeps_no_other_pool_from_being_swept(tmp_path, monkeypatch):
    rig = Rig(tmp_path, options={"aside": {}, "fast": {}})
    await rig.start()
    leave_half_made(rig, COPY)

    def defect() -> list[str]:
        raise RuntimeError

    monkeypatch.setattr(rig.pools["aside"], "staged", defect)
    assert await sweep(rig) == []
    await rig.runner.stop()
