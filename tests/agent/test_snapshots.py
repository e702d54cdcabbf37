"""Snapshots on real files: what they hold, what they keep from going, and the way back to them."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from agent import crash_points
from agent.drivers import qemu
from agent.drivers.copying import CHUNK_BYTES
from agent.drivers.driver import Format, PoolConfig, Work
from agent.drivers.file import FileDriver
from agent.drivers.files import RealFiles
from agent.drivers.label import Label
from agent.drivers.refusing import Refusing
from countermand.rpc import crash
from countermand.rpc.errors import FieldInvalid, ImageUnsafe
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.image_pb2 import IMAGE_FORMAT_QCOW2
from countermand.v1.verb_pb2 import (
    Action,
    CloneImage,
    CreateImage,
    CreateSnapshot,
    DeleteImage,
    DeleteSnapshot,
    RevertImage,
)
from tests.agent.requests import address, attempt_name, copy_action
from tests.agent.rig import NOW, Gate, Rig
from tests.agent.test_conformance import Power, lose

SUCCEEDED = Attempt.STATE_SUCCEEDED
FAILED = Attempt.STATE_FAILED
BASE = address("fast/base")
OLD, NEW = b"old" * 512_000, b"new" * 512_000
BETWEEN = b"between".ljust(len(OLD), b".")

needs_qemu = pytest.mark.skipif(
    not qemu.is_installed(), reason="qemu-img is not installed: apt install qemu-utils"
)


def snapshot(snapshot_id: str, image: str = "fast/base") -> Action:
    target = address(image)
    return Action(create_snapshot=CreateSnapshot(target=target, snapshot_id=snapshot_id))


def delete_snapshot(snapshot_id: str, image: str = "fast/base") -> Action:
    target = address(image)
    return Action(delete_snapshot=DeleteSnapshot(target=target, snapshot_id=snapshot_id))


def revert(snapshot_id: str, image: str = "fast/base", **fields: Any) -> Action:
    target = address(image)
    return Action(revert_image=RevertImage(target=target, snapshot_id=snapshot_id, **fields))


async def done(rig: Rig, task: str, action: Action) -> Attempt:
    """Runs what must succeed."""
    made = await rig.run(attempt_name(task), action)
    assert made.state == SUCCEEDED, made
    assert rig.staged() == []
    return made


async def refused(rig: Rig, task: str, action: Action) -> str:
    """Runs what must fail and leave nothing; returns the reason."""
    before = rig.images()
    failed = await rig.run(attempt_name(task), action)
    assert failed.state == FAILED, failed
    assert (rig.images(), rig.staged()) == (before, [])
    return failed.failure.reason


async def with_snapshot(rig: Rig) -> None:
    """Puts a base with the snapshot `old`, and newer content."""
    path = rig.put("base", OLD)
    await done(rig, "old", snapshot("old"))
    path.write_bytes(NEW)


async def test_a_snapshot_is_no_image_and_is_told_of_with_its_image(rig):
    await with_snapshot(rig)
    made = await done(rig, "newer", snapshot("newer"))
    assert made.output.create_snapshot.snapshot_id == "newer"
    assert made.output.create_snapshot.generation == 1
    pool = rig.pools["fast"]
    [listed] = pool.list_images(after="", count_max=9)
    assert listed == pool.find("base")
    assert [(one.snapshot_id, one.attempt, one.cluster_id) for one in listed.snapshots] == [
        ("newer", attempt_name("newer"), "cluster-a"),
        ("old", attempt_name("old"), "cluster-a"),
    ]
    assert rig.data("base@old").read_bytes() == OLD
    assert rig.data("base@newer").read_bytes() == NEW


async def test_a_snapshot_shares_data_where_the_file_system_can(rig, monkeypatch):
    def share(files, source, target):
        os.sendfile(target, source, 0, os.fstat(source).st_size)
        return True

    monkeypatch.setattr(RealFiles, "share", share)
    await with_snapshot(rig)
    await done(rig, "back", revert("old", safety_snapshot_id="safe"))
    assert rig.data("base").read_bytes() == OLD
    assert rig.data("base@safe").read_bytes() == NEW


async def test_a_snapshot_keeps_its_image(rig):
    """An image with snapshots is in use by them."""
    create = Action(create_image=CreateImage(target=BASE, virtual_size_bytes=512))
    await done(rig, "base", create)
    await done(rig, "old", snapshot("old"))
    delete = Action(delete_image=DeleteImage(target=BASE))
    failed = await rig.run(attempt_name("delete"), delete)
    assert (failed.failure.reason, failed.failure.metadata["holder"], failed.failure.retriable) == (
        "IMAGE_IN_USE",
        "snapshot old of image base",
        True,
    )
    kept = await rig.make_up(attempt_name("base", 2), attempt_name("base"), create)
    assert kept.failure.reason == "IMAGE_IN_USE"
    gone = await done(rig, "gone", delete_snapshot("old"))
    assert (gone.output.delete_snapshot.existed, gone.output.delete_snapshot.generation) == (
        True,
        1,
    )
    await done(rig, "deleted", delete)
    assert rig.images() == []
    assert rig.pools["fast"].room.used_bytes == 0


async def test_a_snapshot_that_is_absent_is_deleted(rig):
    rig.put("base", OLD)
    for image in ("fast/base", "fast/none"):
        gone = await done(rig, f"gone-{image[5:]}", delete_snapshot("old", image))
        assert not gone.output.delete_snapshot.existed


async def test_what_is_not_there_or_taken_is_refused(rig):
    await with_snapshot(rig)
    assert await refused(rig, "a", snapshot("old")) == "SNAPSHOT_EXISTS"
    assert await refused(rig, "b", snapshot("old", "fast/none")) == "IMAGE_NOT_FOUND"
    assert await refused(rig, "c", revert("none")) == "SNAPSHOT_NOT_FOUND"
    assert await refused(rig, "d", revert("none", safety_snapshot_id="safe")) == (
        "SNAPSHOT_NOT_FOUND"
    )
    assert await refused(rig, "e", revert("old", "fast/none")) == "IMAGE_NOT_FOUND"
    await done(rig, "safe", snapshot("safe"))
    assert await refused(rig, "f", revert("old", safety_snapshot_id="safe")) == "SNAPSHOT_EXISTS"
    assert rig.data("base").read_bytes() == NEW


@pytest.mark.parametrize(
    ("action", "field"),
    [
        (snapshot("../up"), "create_snapshot.snapshot_id"),
        (delete_snapshot("a@b"), "delete_snapshot.snapshot_id"),
        (revert(""), "revert_image.snapshot_id"),
        (revert("old", safety_snapshot_id="UP"), "revert_image.safety_snapshot_id"),
        (revert("old", safety_snapshot_id="old"), "revert_image.safety_snapshot_id"),
    ],
    ids=["path", "snapshot of a snapshot", "none", "upper case", "the same"],
)
async def test_an_id_that_is_none_is_refused_at_once(rig, action, field):
    with pytest.raises(FieldInvalid) as invalid:
        await rig.accept(attempt_name("a"), action)
    assert [violation.field for violation in invalid.value.violations] == [field]


async def test_a_revert_moves_the_generation_on_and_back_is_forward_too(rig):
    await with_snapshot(rig)
    action = revert("old", safety_snapshot_id="safe")
    back = await done(rig, "back", action)
    assert back.output.revert_image.generation == 2
    assert back.output.revert_image.safety_snapshot_id == "safe"
    assert rig.data("base").read_bytes() == OLD
    undone = await rig.make_up(attempt_name("back", 2), attempt_name("back"), action)
    assert undone.state == SUCCEEDED, undone
    found = rig.pools["fast"].find("base")
    assert (found.generation, found.virtual_size_bytes, found.attempt) == (3, len(NEW), "")
    assert rig.data("base").read_bytes() == NEW
    assert rig.images() == ["base", "base@old"]
    copied = await done(rig, "copy", copy_action("fast/base", "fast/copy"))
    assert copied.output.copy_image.generation == 1
    assert rig.data("copy").read_bytes() == NEW
    assert rig.data("copy").name == "data.raw"


async def test_an_image_that_is_reverted_while_somebody_looks_is_not_unsafe(rig, monkeypatch):
    await with_snapshot(rig)
    pool = rig.pools["fast"]
    stale, label = [pool.layout.label("base")], pool.layout.label
    await done(rig, "back", revert("old"))
    monkeypatch.setattr(pool.layout, "label", lambda name: stale.pop() if stale else label(name))
    assert pool.find("base").generation == 2


async def test_what_a_label_says_of_the_content_comes_back_with_it(rig):
    rig.put("gold", OLD)
    copied = await done(rig, "copy", copy_action("fast/gold", "fast/base", take_digest=True))
    await done(rig, "old", snapshot("old"))
    await done(rig, "back", revert("old"))
    found = rig.pools["fast"].find("base")
    assert (found.digest, found.attempt) == (copied.output.copy_image.digest, attempt_name("copy"))
    undone = await rig.make_up(
        attempt_name("copy", 2),
        attempt_name("copy"),
        copy_action("fast/gold", "fast/base", take_digest=True),
    )
    assert undone.failure.reason == "IMAGE_IN_USE"  # by its snapshot; not another's image
    await done(rig, "gone", delete_snapshot("old"))
    await rig.make_up(
        attempt_name("copy", 3),
        attempt_name("copy"),
        copy_action("fast/gold", "fast/base", take_digest=True),
    )
    assert rig.images() == ["gold"]


async def test_reverts_are_made_up_for_newest_first(rig):
    await with_snapshot(rig)
    first, second = (revert("old", safety_snapshot_id=safe) for safe in ("one", "two"))
    await done(rig, "first", first)
    rig.data("base").write_bytes(BETWEEN)
    await done(rig, "second", second)
    early = await rig.make_up(attempt_name("first", 2), attempt_name("first"), first)
    assert (early.state, early.failure.reason, early.failure.retriable) == (
        FAILED,
        "CONFLICT",
        True,
    )
    assert rig.data("base").read_bytes() == OLD
    undone = await rig.make_up(attempt_name("second", 2), attempt_name("second"), second)
    assert undone.state == SUCCEEDED, undone
    assert rig.data("base").read_bytes() == BETWEEN
    undone = await rig.make_up(attempt_name("first", 3), attempt_name("first"), first)
    assert undone.state == SUCCEEDED, undone
    assert rig.data("base").read_bytes() == NEW
    again = await rig.make_up(attempt_name("second", 3), attempt_name("second"), second)
    assert again.state == SUCCEEDED
    assert rig.data("base").read_bytes() == NEW
    assert rig.images() == ["base", "base@old"]


async def test_a_revert_whose_safety_snapshot_was_deleted_cannot_be_made_up_for(rig):
    await with_snapshot(rig)
    action = revert("old", safety_snapshot_id="safe")
    await done(rig, "back", action)
    await done(rig, "gone", delete_snapshot("safe"))
    undone = await rig.make_up(attempt_name("back", 2), attempt_name("back"), action)
    assert (undone.state, undone.failure.reason) == (FAILED, "SNAPSHOT_NOT_FOUND")
    assert rig.data("base").read_bytes() == OLD


async def test_reverts_that_were_forgotten_are_not_called_undone(rig, monkeypatch):
    monkeypatch.setattr("agent.drivers.snapshots.CHANGES_MAX", 1)
    await with_snapshot(rig)
    action = revert("old", safety_snapshot_id="safe")
    await done(rig, "back", action)
    await done(rig, "again", revert("old"))
    undone = await rig.make_up(attempt_name("back", 2), attempt_name("back"), action)
    assert (undone.state, undone.failure.reason) == (FAILED, "CONFLICT")


async def test_a_revert_that_never_ran_is_made_up_for(rig):
    await with_snapshot(rig)
    for number, action in enumerate((revert("old"), revert("old", safety_snapshot_id="safe"))):
        name = attempt_name(f"never-{number}")
        undone = await rig.make_up(attempt_name(f"never-{number}", 2), name, action)
        assert undone.state == SUCCEEDED, undone
    assert rig.data("base").read_bytes() == NEW


async def test_an_image_that_changes_while_it_is_copied_has_no_snapshot(rig, monkeypatch):
    path = rig.put("base", OLD)
    share = RealFiles.share

    def changing(files, source, target):
        path.write_bytes(NEW)
        return share(files, source, target)

    monkeypatch.setattr(RealFiles, "share", changing)
    assert await refused(rig, "torn", snapshot("torn")) == "CONFLICT"


@needs_qemu
async def test_a_snapshot_of_an_overlay_reads_through_the_same_images(rig):
    """They stay as they are for it."""
    below = address("fast/q")
    base = CreateImage(target=below, virtual_size_bytes=2**20, format=IMAGE_FORMAT_QCOW2)
    await done(rig, "q", Action(create_image=base))
    clone = CloneImage(source=address("fast/q"), target=address("fast/top"))
    await done(rig, "top", Action(clone_image=clone))
    write(rig, 1)
    await done(rig, "old", snapshot("old", "fast/top"))
    write(rig, 2)
    await done(rig, "q-old", snapshot("old", "fast/q"))
    assert await refused(rig, "q-back", revert("old", "fast/q")) == "IMAGE_IN_USE"
    await done(rig, "back", revert("old", "fast/top", safety_snapshot_id="safe"))
    assert rig.pools["fast"].find("top").chain == ("top@old", "q")
    assert read(rig) == b"\x01" * 512
    again = CloneImage(source=address("fast/top"), target=address("fast/more"))
    await done(rig, "more", Action(clone_image=again))
    assert rig.pools["fast"].find("more").chain == ("top", "top@old", "q")
    await done(rig, "flat", copy_action("fast/more", "fast/flat", flatten=True))
    gone = Action(delete_image=DeleteImage(target=address("fast/q")))
    failed = await rig.run(attempt_name("gone"), gone)
    assert failed.failure.metadata["holder"] == "top"  # and its snapshots by way of it


def write(rig: Rig, value: int) -> None:
    """Writes as a guest of `top` would."""
    command = f"write -P {value} 0 512"
    arguments = ["qemu-io", "-f", "qcow2", "-c", command, str(rig.data("top"))]
    subprocess.run(arguments, check=True, capture_output=True)


def read(rig: Rig) -> bytes:
    """Reads as a guest of `top` would."""
    target = rig.folder / "read.raw"
    arguments = ["qemu-img", "convert", "-O", "raw", str(rig.data("top")), str(target)]
    subprocess.run(arguments, check=True)
    return target.read_bytes()[:512]


@pytest.mark.parametrize(
    "fields", [{"content": "../../etc"}, {"content": 7}, {"changes": ["x"]}, {"made_up_for": [1]}]
)
def test_a_label_that_lies_about_reverts_cannot_be_read(fields):
    label = Label(
        cluster_id="",
        attempt="",
        create_time="2030-01-01T00:00:00+00:00",
        format=Format.RAW,
        virtual_size_bytes=1,
        written_bytes=1,
    )
    plain = label.encode()
    assert b"content" not in plain
    assert Label.decode(plain) == label
    lying = plain.rstrip(b"}\n ") + b", " + json.dumps(fields).encode().lstrip(b"{")
    with pytest.raises(ValueError, match=r".*"):
        Label.decode(lying)


async def test_an_unsafe_snapshot_spoils_only_itself(rig):
    await with_snapshot(rig)
    (rig.data("base@old").parent / "image.json").write_text("no label")
    pool = rig.pools["fast"]
    assert pool.find("base").snapshots == ()
    assert await refused(rig, "back", revert("old")) == "IMAGE_UNSAFE"
    with pytest.raises(ImageUnsafe):
        pool.layout.label("base@old")


async def test_a_copy_whose_image_went_before_it_could_say_so_begins_anew(tmp_path):
    """The durable offset of a file that was published already is worth nothing."""
    power = Power((crash_points.BEFORE_RECORD, 1))
    rig = Rig(tmp_path, options={"fast": {"flush_bytes": CHUNK_BYTES}}, crash_at=power)
    await rig.start()
    content = os.urandom(3 * CHUNK_BYTES)
    rig.put("base", content)
    await rig.run(attempt_name("copy"), copy_action("fast/base", "fast/copy"))
    await lose(rig)
    rig.pools["fast"].layout.purge(rig.folder / "fast/images/copy")
    rig = Rig(tmp_path, options=rig.options)
    await rig.start()
    assert (await rig.settled(attempt_name("copy"))).state == SUCCEEDED
    assert rig.data("copy").read_bytes() == content
    await rig.runner.stop()


@needs_qemu
async def test_a_clone_that_is_made_during_a_revert_does_not_appear(tmp_path):
    """It would read through a file that is no longer there."""
    rig = Rig(tmp_path)
    await rig.start()
    base = CreateImage(target=BASE, virtual_size_bytes=2**20, format=IMAGE_FORMAT_QCOW2)
    await done(rig, "base", Action(create_image=base))
    await done(rig, "old", snapshot("old"))
    gate = Gate()
    await rig.restart(gate=gate)
    clone = CloneImage(source=BASE, target=address("fast/top"))
    await rig.accept(attempt_name("top"), Action(clone_image=clone))
    await gate.arrival()
    while not list((tmp_path / "fast/staging").glob("*/*/data.qcow2")):
        gate.permit()
        await gate.arrival()
    driver = FileDriver(PoolConfig(pool_id="fast", path=tmp_path / "fast"), RealFiles())
    work = Work(
        attempt=attempt_name("back"),
        cluster_id="cluster-a",
        note="",
        now=lambda: NOW,
        crash=crash.never,
    )
    for _step in driver.revert(work, "base", "old", safety_id=""):
        pass
    gate.open()
    failed = await rig.settled(attempt_name("top"))
    assert (failed.state, failed.failure.reason) == (FAILED, "CONFLICT")
    assert (rig.images(), rig.staged()) == (["base", "base@old"], [])
    await rig.runner.stop()


@pytest.mark.parametrize(
    ("holders", "said"),
    [
        (["base@s1", "c"], "snapshot s1 of image base, c"),
        (["a", "b", "c", "d"], "a, b, c and 1 more"),
        ([f"base@s{n}" for n in range(23)], "snapshot s2 of image base and 20 more"),
    ],
)
def test_of_many_holders_the_first_are_named_and_the_rest_counted(rig, holders, said):
    layout = rig.pools["fast"].layout
    error = Refusing(layout, "").in_use("base", holders)

    assert error.metadata["holder"].endswith(said)
    assert len(error.metadata["holder"]) < 100
