"""Resizes on real files: growing and shrinking back, what forbids it, and who finishes one."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from agent import crash_points
from agent.drivers import qemu
from agent.drivers.driver import Format
from countermand.rpc import crash
from countermand.rpc.errors import FieldInvalid
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.verb_pb2 import Action, CloneImage, CreateSnapshot, ResizeImage, RevertImage
from tests.agent.requests import address, attempt_name, copy_action
from tests.agent.rig import Rig
from tests.agent.test_conformance import Power, content, lose

SUCCEEDED, FAILED = Attempt.STATE_SUCCEEDED, Attempt.STATE_FAILED
BASE = address("fast/base")
SIZE, MORE, MOST = 3 * 2**20 + 512, 6 * 2**20, 9 * 2**20
BYTES = b"\x07" * SIZE


@pytest.fixture(params=[Format.RAW, Format.QCOW2])
def base(request):
    if request.param is Format.QCOW2 and not qemu.is_installed():
        pytest.skip("qemu-img is not installed: apt install qemu-utils")
    return request.param


def resize(size_bytes: int, **fields: Any) -> Action:
    return Action(resize_image=ResizeImage(target=BASE, virtual_size_bytes=size_bytes, **fields))


def put(rig: Rig, base: Format) -> None:
    rig.put("base", content(base, BYTES), image_format=base)


async def done(rig: Rig, task: str, action: Action) -> Attempt:
    made = await rig.run(attempt_name(task), action)
    assert made.state == SUCCEEDED, made.failure
    assert rig.staged() == []
    return made


async def undone(rig: Rig, task: str, action: Action, *, number: int = 2) -> Attempt:
    made = await rig.make_up(attempt_name(task, number), attempt_name(task), action)
    assert rig.staged() == []
    return made


def size(rig: Rig) -> int:
    """Returns what a guest would see, which the label must say too."""
    path, label = rig.data("base"), rig.pools["fast"].layout.label("base")
    told = ["qemu-img", "info", "-f", label.format, "--output=json", str(path)]
    if label.format is Format.RAW:
        seen = path.stat().st_size
    else:
        answer = subprocess.run(told, check=True, capture_output=True, text=True).stdout
        seen = int(answer.split('"virtual-size": ')[1].split(",")[0])
    assert seen == label.virtual_size_bytes
    return seen


def read(rig: Rig) -> bytes:
    path, label = rig.data("base"), rig.pools["fast"].layout.label("base")
    if label.format is Format.RAW:
        return path.read_bytes()
    flat = rig.folder / "flat"
    subprocess.run(["qemu-img", "convert", "-O", "raw", path, flat], check=True)
    return flat.read_bytes()


def write(rig: Rig, offset: int, value: int, length: int = 512) -> None:
    """Writes as a guest would."""
    path, label = rig.data("base"), rig.pools["fast"].layout.label("base")
    if label.format is Format.RAW:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(bytes([value]) * length)
        return
    command = f"write -P {value} {offset} {length}"
    arguments = ["qemu-io", "-f", "qcow2", "-c", command, str(path)]
    subprocess.run(arguments, check=True, capture_output=True)


async def test_an_image_grows_and_shrinks_back(rig, base):
    put(rig, base)
    grown = await done(rig, "grow", resize(MORE))
    told = grown.output.resize_image
    assert (told.previous_size_bytes, told.virtual_size_bytes, told.generation) == (SIZE, MORE, 2)
    assert read(rig) == BYTES + bytes(MORE - SIZE)
    write(rig, 512, 9)  # the old part may be used
    back = await undone(rig, "grow", resize(MORE))
    assert back.state == SUCCEEDED, back.failure
    assert size(rig) == SIZE
    assert rig.pools["fast"].find("base").generation == 3
    assert read(rig) == BYTES[:512] + b"\x09" * 512 + BYTES[1024:]
    again = await undone(rig, "grow", resize(MORE), number=3)
    assert (again.state, size(rig)) == (SUCCEEDED, SIZE)


async def test_the_size_it_has_is_a_success_and_nothing_to_make_up_for(rig, base):
    put(rig, base)
    same = await done(rig, "same", resize(SIZE))
    told = same.output.resize_image
    assert (told.previous_size_bytes, told.virtual_size_bytes, told.generation) == (SIZE, SIZE, 1)
    assert (await undone(rig, "same", resize(SIZE))).state == SUCCEEDED
    assert (size(rig), rig.pools["fast"].find("base").generation) == (SIZE, 1)


async def test_shrinking_must_be_allowed_and_has_no_opposite(rig, base):
    put(rig, base)
    refused = await rig.run(attempt_name("shrink"), resize(2**20))
    assert (refused.state, refused.failure.reason) == (FAILED, "FIELD_INVALID")
    assert "shrink_allowed" in refused.failure.message
    assert size(rig) == SIZE
    action = resize(2**20, shrink_allowed=True)
    shrunk = await done(rig, "again", action)
    assert shrunk.output.resize_image.generation == 2
    assert size(rig) == 2**20
    assert read(rig) == BYTES[: 2**20]
    failed = await undone(rig, "again", action)
    assert (failed.state, failed.failure.reason) == (FAILED, "VERB_UNSUPPORTED")
    # What was cut off does not come back.
    await done(rig, "grow", resize(SIZE))
    assert read(rig) == BYTES[: 2**20] + bytes(SIZE - 2**20)


@pytest.mark.parametrize("offset", [SIZE, SIZE + 4096, MORE - 512], ids=["first", "near", "last"])
async def test_what_was_written_in_the_new_part_is_kept(rig, base, offset):
    put(rig, base)
    await done(rig, "grow", resize(MORE))
    write(rig, offset, 5)
    kept = await undone(rig, "grow", resize(MORE))
    assert (kept.state, kept.failure.reason, kept.failure.retriable) == (FAILED, "CONFLICT", True)
    assert size(rig) == MORE
    assert read(rig)[offset : offset + 512] == b"\x05" * 512
    write(rig, offset, 0)
    if base is Format.RAW:  # where zeros are as good as nothing
        assert (await undone(rig, "grow", resize(MORE), number=3)).state == SUCCEEDED


async def test_changes_are_made_up_for_newest_first(rig, base):
    """S-V32: whatever they are; twice is once; and what another did since is not lost."""
    put(rig, base)
    grow, more = resize(MORE), resize(MOST)
    back = Action(
        revert_image=RevertImage(target=BASE, snapshot_id="old", safety_snapshot_id="safe")
    )
    await done(rig, "old", Action(create_snapshot=CreateSnapshot(target=BASE, snapshot_id="old")))
    await done(rig, "grow", grow)
    await done(rig, "back", back)
    assert size(rig) == SIZE
    await done(rig, "more", more)
    for early in ("grow", "back"):
        refused = await undone(rig, early, {"grow": grow, "back": back}[early])
        assert (refused.state, refused.failure.reason) == (FAILED, "CONFLICT"), early
    sizes = []
    for number, (task, action) in enumerate(
        [("more", more), ("more", more), ("back", back), ("back", back), ("grow", grow)]
    ):
        made_up = await undone(rig, task, action, number=3 + number)
        assert made_up.state == SUCCEEDED, (task, made_up)
        sizes.append(size(rig))
    assert sizes == [SIZE, SIZE, MORE, MORE, SIZE]
    assert read(rig) == BYTES
    assert [one.snapshot_id for one in rig.pools["fast"].find("base").snapshots] == ["old"]


async def test_an_image_that_others_read_through_keeps_its_size(rig):
    if not qemu.is_installed():
        pytest.skip("qemu-img is not installed: apt install qemu-utils")
    put(rig, Format.QCOW2)
    clone = CloneImage(source=BASE, target=address("fast/top"))
    await done(rig, "top", Action(clone_image=clone))
    refused = await rig.run(attempt_name("grow"), resize(MORE))
    assert (refused.state, refused.failure.reason) == (FAILED, "IMAGE_IN_USE")
    assert size(rig) == SIZE


@pytest.mark.parametrize("size_bytes", [0, 513, 2**51])
async def test_a_size_that_is_none_is_refused_at_once(rig, size_bytes):
    with pytest.raises(FieldInvalid) as invalid:
        await rig.accept(attempt_name("a"), resize(size_bytes))
    assert [one.field for one in invalid.value.violations] == ["resize_image.virtual_size_bytes"]


async def test_another_generation_than_expected_is_refused(rig, base):
    put(rig, base)
    refused = await rig.run(attempt_name("grow"), resize(MORE, expected_generation=7))
    assert (refused.state, refused.failure.reason) == (FAILED, "GENERATION_MISMATCH")
    assert size(rig) == SIZE
    await done(rig, "again", resize(MORE, expected_generation=1))


async def test_a_digest_is_of_a_size_and_comes_back_with_it(rig):
    rig.put("gold", BYTES)
    copy = copy_action("fast/gold", "fast/base", take_digest=True)
    digest = (await done(rig, "copy", copy)).output.copy_image.digest
    await done(rig, "grow", resize(MORE))
    assert rig.pools["fast"].find("base").digest == ""
    await undone(rig, "grow", resize(MORE))
    assert rig.pools["fast"].find("base").digest == digest != ""


async def test_what_a_lost_resize_has_grown_is_nobodys(tmp_path, base):
    """Its journal is lost as well: its data is longer than its label says, and that is all."""
    rig = Rig(tmp_path, crash_at=Power((crash_points.IN_RESIZE, 1)))
    await rig.start()
    put(rig, base)
    await rig.run(attempt_name("grow"), resize(MORE))
    await lose(rig)
    (tmp_path / "journal.sqlite").unlink()
    rig = Rig(tmp_path, crash_at=crash.never)
    await rig.start()
    found = rig.pools["fast"].find("base")
    assert (found.virtual_size_bytes, found.generation, rig.staged()) == (SIZE, 1, [])
    await done(rig, "copy", copy_action("fast/base", "fast/copy"))
    if base is Format.RAW:
        assert rig.data("copy").read_bytes().rstrip(b"\0") == BYTES  # and zeros do no harm
    assert (await undone(rig, "grow", resize(MORE))).state == SUCCEEDED
    assert size(rig) == SIZE
    await rig.runner.stop()
