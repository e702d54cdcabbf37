"""What is in a pool and is no image: told, and removed only while it is still what it was."""

from __future__ import annotations

import errno
import os

import pytest

from agent.drivers.driver import OddityKind
from agent.lookers import Lookers
from agent.orphans import Orphans
from countermand.v1.agent_pb2 import Orphan
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.verb_pb2 import Action, CreateSnapshot, ResizeImage
from tests.agent.requests import CLUSTER, address, attempt_name, copy_action
from tests.agent.rig import NOW, Gate, Rig

MADE_BY = attempt_name("copy")


@pytest.fixture
async def rig(tmp_path):
    rig = Rig(tmp_path)
    await rig.start()
    rig.put("base", os.urandom(4096))
    yield rig
    await rig.runner.stop()


def orphans(rig: Rig) -> Orphans:
    return Orphans(
        lookers=Lookers(rig.pools, rig.runner.executor),
        running=rig.runner.running,
        now=lambda: NOW,
    )


async def remove(rig: Rig, *images: Orphan, staged: tuple[str, ...] = ()):
    return await orphans(rig).remove(
        rig.pools["fast"], cluster_id=CLUSTER, staged=staged, images=images
    )


async def test_a_pool_in_order_has_nothing_odd(rig):
    await rig.run(MADE_BY, copy_action("fast/base", "fast/made"))
    assert await orphans(rig).survey(rig.pools["fast"]) == []


async def test_everything_that_is_no_image_is_told_of(rig, tmp_path):
    pool = tmp_path / "fast"
    staged = pool / "staging" / MADE_BY.replace("/", "@")
    staged.mkdir()
    (staged / "data.raw").write_bytes(bytes(8192))
    (pool / "images" / "bad name!").mkdir()
    (pool / "images" / "empty").mkdir()
    (pool / "images" / "link").symlink_to("/etc")
    (pool / "images" / "base" / "notes.txt").write_text("whose?")
    (pool / "stranger").write_text("")
    (pool / "lost+found").mkdir()
    found = await orphans(rig).survey(rig.pools["fast"])
    assert [(oddity.kind, oddity.name, oddity.attempt) for oddity in found] == [
        (OddityKind.STAGED, f"staging/{MADE_BY.replace('/', '@')}", MADE_BY),
        (OddityKind.UNSAFE, "images/link", ""),
        (OddityKind.FOREIGN, "images/bad name!", ""),
        (OddityKind.FOREIGN, "images/base/notes.txt", ""),
        (OddityKind.FOREIGN, "images/empty", ""),
        (OddityKind.FOREIGN, "stranger", ""),
    ]
    assert found[0].allocated_bytes == 8192


async def test_an_image_goes_only_while_it_is_that_attempts(rig):
    await rig.run(MADE_BY, copy_action("fast/base", "fast/made"))
    kept = await remove(rig, Orphan(image_id="made", attempt=attempt_name("another")))
    assert [(name, error.reason) for name, error in kept.kept] == [("made", "CONFLICT")]
    assert rig.images() == ["base", "made"]
    gone = await remove(rig, Orphan(image_id="made", attempt=MADE_BY))
    assert (gone.removed, gone.kept, rig.images(), rig.staged()) == (1, [], ["base"], [])
    again = await remove(rig, Orphan(image_id="made", attempt=MADE_BY))
    assert (again.removed, again.kept) == (1, [])


async def test_an_image_that_somebody_has_changed_since_it_was_seen_is_kept(rig):
    await rig.run(MADE_BY, copy_action("fast/base", "fast/made"))
    seen = rig.pools["fast"].find("made").generation
    grow = ResizeImage(target=address("fast/made"), virtual_size_bytes=8192)
    await rig.run(attempt_name("grow"), Action(resize_image=grow))
    orphan = Orphan(image_id="made", attempt=MADE_BY, expected_generation=seen)
    kept = await remove(rig, orphan)
    assert [(name, error.reason) for name, error in kept.kept] == [("made", "CONFLICT")]
    assert rig.images() == ["base", "made"]
    orphan.expected_generation = rig.pools["fast"].find("made").generation
    assert (await remove(rig, orphan)).removed == 1
    assert (await remove(rig, orphan)).removed == 1  # absent is a success


async def test_an_image_that_others_read_through_or_work_on_is_kept(rig):
    await rig.run(MADE_BY, copy_action("fast/base", "fast/made"))
    create = CreateSnapshot(target=address("fast/made"), snapshot_id="s")
    done = await rig.run(attempt_name("snap"), Action(create_snapshot=create))
    assert done.state == Attempt.STATE_SUCCEEDED
    kept = await remove(rig, Orphan(image_id="made", attempt=MADE_BY))
    assert [error.reason for _, error in kept.kept] == ["IMAGE_IN_USE"]
    gone = await remove(rig, Orphan(image_id="made@s", attempt=attempt_name("snap")))
    assert (gone.removed, rig.images()) == (1, ["base", "made"])


async def test_what_an_open_attempt_works_on_is_kept(tmp_path):
    gate = Gate()
    rig = Rig(tmp_path)
    await rig.start(gate=gate)
    rig.put("base", os.urandom(4096))
    await rig.accept(MADE_BY, copy_action("fast/base", "fast/made"))
    await gate.arrival()
    kept = await remove(rig, Orphan(image_id="made", attempt=MADE_BY), staged=(MADE_BY,))
    assert [error.reason for _, error in kept.kept] == ["IMAGE_BUSY", "IMAGE_BUSY"]
    gate.open()
    assert (await rig.settled(MADE_BY)).state == Attempt.STATE_SUCCEEDED
    await rig.runner.stop()


async def test_what_was_left_half_made_goes(rig, tmp_path):
    staged = tmp_path / "fast" / "staging" / MADE_BY.replace("/", "@")
    staged.mkdir()
    (staged / "data.raw").write_bytes(bytes(8192))
    assert (await remove(rig, staged=(MADE_BY,))).removed == 1
    assert rig.staged() == []


async def test_what_a_failing_disk_does_not_let_go_is_told_of(rig, monkeypatch):
    def fails(_attempt: str) -> None:
        raise OSError(errno.EIO, "it fails")

    monkeypatch.setattr(rig.pools["fast"], "discard", fails)
    kept = await remove(rig, staged=(MADE_BY,))
    assert [(name, error.reason) for name, error in kept.kept] == [(MADE_BY, "STORAGE_FAILED")]
    assert kept.removed == 0
