"""Qcow2 files that lack a part or are open elsewhere: nothing of them is passed on, or lost."""

from __future__ import annotations

import os
import stat
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.drivers import guest, qemu
from agent.drivers.driver import Format
from countermand.rpc.errors import CountermandError
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.image_pb2 import IMAGE_FORMAT_QCOW2, IMAGE_FORMAT_RAW
from countermand.v1.verb_pb2 import (
    Action,
    CloneImage,
    CreateSnapshot,
    DeleteImage,
    DeleteSnapshot,
    RevertImage,
    VerifyImage,
)
from tests.agent.requests import address, attempt_name, copy_action
from tests.agent.rig import Rig
from tests.agent.test_conformance import content

pytestmark = pytest.mark.skipif(
    not (qemu.is_installed() and guest.is_installed()),
    reason="qemu-img or qemu-nbd is not installed: apt install qemu-utils",
)

SUCCEEDED, FAILED = Attempt.STATE_SUCCEEDED, Attempt.STATE_FAILED
SIZE = 4 * 2**20
BASE, MADE = address("fast/base"), address("fast/made")


def create(snapshot_id: str) -> Action:
    return Action(create_snapshot=CreateSnapshot(target=BASE, snapshot_id=snapshot_id))


def delete(snapshot_id: str) -> Action:
    return Action(delete_snapshot=DeleteSnapshot(target=BASE, snapshot_id=snapshot_id))


def revert(snapshot_id: str, safety: str = "") -> Action:
    return Action(
        revert_image=RevertImage(target=BASE, snapshot_id=snapshot_id, safety_snapshot_id=safety)
    )


# Each passes on what the image holds, or stands in for it.
PASSING_ON = {
    "copy": copy_action("fast/base", "fast/made"),
    "digest": copy_action("fast/base", "fast/made", take_digest=True),
    "to-raw": copy_action("fast/base", "fast/made", format=IMAGE_FORMAT_RAW),
    "to-qcow2": copy_action("fast/base", "fast/made", format=IMAGE_FORMAT_QCOW2),
    "clone": Action(clone_image=CloneImage(source=BASE, target=MADE, copy_allowed=True)),
    "snapshot": create("new"),
    "verify": Action(verify_image=VerifyImage(target=BASE)),
}


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def first_table(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[40:48], "big")


def cut_at_a_table(path: Path) -> None:
    """All that is left reads as an image that nobody has ever written to."""
    os.truncate(path, first_table(path))


def cut_in_a_table(path: Path) -> None:
    """The tool allows for a last cluster that is not all there."""
    begin = first_table(path)
    table = path.read_bytes()[begin : begin + 8]
    os.truncate(path, (int.from_bytes(table, "big") & (2**56 - 2**9)) + 1)


def corrupt(path: Path) -> None:
    """Fills the first table of the second level with noise."""
    with path.open("r+b") as file:
        file.seek(first_table(path))
        file.seek(int.from_bytes(file.read(8), "big") & (2**56 - 2**9))
        file.write(b"\x5a" * 4096)


DAMAGES = pytest.mark.parametrize("damage", [truncated, cut_at_a_table, cut_in_a_table, corrupt])


@contextmanager
def opened(path: Path):
    """Holds an image open to write, as a guest does."""
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(b"read 0 512\n")
            process.stdin.flush()
            assert process.stdout.readline()  # it has the lock by then
            yield
        finally:
            process.kill()


def write(path: Path, at: int, value: int) -> None:
    command = f"write -P {value} {at} 64k"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, path], check=True, capture_output=True)


async def done(rig: Rig, task: str, action: Action) -> Attempt:
    made = await rig.run(attempt_name(task), action)
    assert made.state == SUCCEEDED, made.failure
    return made


async def refused(rig: Rig, task: str, action: Action, reason: str) -> None:
    """Asks for something that fails, by reason of the base, and leaves nothing."""
    before = rig.images()
    told = await rig.run(attempt_name(task), action)
    assert (told.state, told.failure.reason) == (FAILED, reason), (task, told.failure)
    assert told.failure.metadata["image"].partition("@")[0] == "base", (task, told.failure)
    assert (rig.images(), rig.staged()) == (before, []), task


@pytest.fixture
def base(rig: Rig) -> Rig:
    rig.put("base", content(Format.QCOW2, b"x" * SIZE), image_format=Format.QCOW2)
    return rig


@DAMAGES
async def test_what_lacks_a_part_is_passed_on_by_nobody(base, damage):
    damage(base.data("base"))
    for task, action in PASSING_ON.items():
        await refused(base, task, action, "IMAGE_DAMAGED")
    for layout in Format:  # as it is served to other hosts
        with pytest.raises(CountermandError) as told, base.pools["fast"].reading("base", layout):
            pass
        assert told.value.reason == "IMAGE_DAMAGED"


@DAMAGES
async def test_what_a_clone_reads_through_must_be_whole_as_well(base, damage):
    await done(base, "clone", PASSING_ON["clone"])
    damage(base.data("base"))
    for image_format in (IMAGE_FORMAT_RAW, IMAGE_FORMAT_QCOW2):
        flat = copy_action("fast/made", "fast/flat", format=image_format, flatten=True)
        await refused(base, f"flat-{image_format}", flat, "IMAGE_DAMAGED")


async def test_a_snapshot_that_lacks_a_part_is_not_gone_back_to(base):
    snapshot = base.data("base")
    await done(base, "old", create("old"))
    truncated(snapshot)
    await refused(base, "revert", revert("old"), "IMAGE_DAMAGED")


async def test_what_lacks_a_part_may_be_put_back_to_a_snapshot(base):
    await done(base, "old", create("old"))
    write(base.data("base"), 0, 7)
    truncated(base.data("base"))
    await refused(base, "safe", revert("old", "safe"), "IMAGE_DAMAGED")
    await done(base, "revert", revert("old"))
    await done(base, "verify", PASSING_ON["verify"])


async def test_what_lacks_a_part_is_merged_into_nothing_and_can_be_deleted(base):
    snapshot = base.data("base")
    await done(base, "old", create("old"))
    for at in range(0, SIZE, 2**16):  # more than is left: what it lacks would be read from there
        write(base.data("base"), at, 7)
    truncated(snapshot)
    held = snapshot.read_bytes()
    await done(base, "delete", delete("old"))
    assert snapshot.read_bytes() == held
    await done(base, "gone", Action(delete_image=DeleteImage(target=BASE)))
    assert base.images() == []


async def test_what_a_guest_holds_open_is_left_to_it(base):
    with opened(base.data("base")):
        for task, action in PASSING_ON.items():
            await refused(base, f"{task}-1", action, "IMAGE_IN_USE")
    await done(base, "old", create("old"))
    with opened(base.data("base")):
        for task, action in (
            *PASSING_ON.items(),
            ("revert", revert("old")),
            ("safely", revert("old", "safe")),
            ("delete", delete("old")),
        ):
            await refused(base, task, action, "IMAGE_IN_USE")
    await done(base, "deleted", delete("old"))


async def test_whoever_may_use_an_image_may_after_a_snapshot_and_a_way_back(base):
    """A hypervisor has another user than the agent."""

    def rights(path: Path) -> tuple[int, int]:
        return stat.S_IMODE(path.stat().st_mode), path.stat().st_uid

    owner = 1000 if os.geteuid() == 0 else os.geteuid()
    os.chown(base.data("base"), owner, -1)
    base.data("base").chmod(0o666)
    for task, action in (
        ("old", create("old")),
        ("new", create("new")),
        ("revert", revert("old")),
        ("gone", delete("new")),
        ("all", delete("old")),
    ):
        write(base.data("base"), 0, 7)
        await done(base, task, action)
        assert rights(base.data("base")) == (0o666, owner), task


async def test_what_qemu_makes_is_as_open_as_any_other_image(base):
    before = os.umask(0o022)
    try:
        await done(base, "clone", PASSING_ON["clone"])
        await done(base, "raw", copy_action("fast/base", "fast/raw", format=IMAGE_FORMAT_RAW))
    finally:
        os.umask(before)
    for name in ("base", "made", "raw"):
        assert stat.S_IMODE(base.data(name).stat().st_mode) == 0o640, name
