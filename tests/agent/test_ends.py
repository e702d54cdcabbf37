"""Images whose data ends elsewhere than their label says: nothing of them is lost unseen."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from agent.drivers import qemu
from agent.drivers.driver import Format
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.image_pb2 import IMAGE_FORMAT_QCOW2, IMAGE_FORMAT_RAW
from countermand.v1.verb_pb2 import (
    Action,
    CloneImage,
    CreateSnapshot,
    ResizeImage,
    RevertImage,
    VerifyImage,
)
from tests.agent.requests import address, attempt_name, copy_action
from tests.agent.rig import Rig
from tests.agent.test_conformance import content

SIZE, MORE, LESS = 2**20, 2 * 2**20, 2**19
BASE, MADE = address("fast/base"), address("fast/made")
VERIFY = Action(verify_image=VerifyImage(target=BASE))

# Each passes on what the image holds, or stands in for it.
PASSING_ON = {
    "copy": copy_action("fast/base", "fast/made"),
    "copy-as-qcow2": copy_action("fast/base", "fast/made", format=IMAGE_FORMAT_QCOW2),
    "copy-as-raw": copy_action("fast/base", "fast/made", format=IMAGE_FORMAT_RAW),
    "clone": Action(clone_image=CloneImage(source=BASE, target=MADE, copy_allowed=True)),
    "snapshot": Action(create_snapshot=CreateSnapshot(target=BASE, snapshot_id="new")),
    "revert": Action(
        revert_image=RevertImage(target=BASE, snapshot_id="old", safety_snapshot_id="safe")
    ),
    "verify": VERIFY,
}


@pytest.fixture(params=[Format.RAW, Format.QCOW2])
async def grown(request, rig):
    """An image with a snapshot, `old`; then the test's word changes its end."""
    if request.param is Format.QCOW2 and not qemu.is_installed():
        pytest.skip("qemu-img is not installed: apt install qemu-utils")
    rig.put("base", content(request.param, b"x" * SIZE), image_format=request.param)
    old = Action(create_snapshot=CreateSnapshot(target=BASE, snapshot_id="old"))
    made = await rig.run(attempt_name("old"), old)
    assert made.state == Attempt.STATE_SUCCEEDED, made.failure
    return request.param


def outside(rig: Rig, image_format: Format, size_bytes: int, *, value: int = 0) -> None:
    """Changes an image's end, and writes there, as somebody does who does not ask us."""
    path = str(rig.data("base"))
    shrink = ["--shrink"] if size_bytes < SIZE else []
    _tool("qemu-img", "resize", "-q", "-f", image_format, *shrink, path, str(size_bytes))
    if value:
        command = f"write -P {value} {size_bytes - 65536} 65536"
        _tool("qemu-io", "-f", image_format, "-c", command, path)


def held(data: Path) -> bytes:
    return data.read_bytes()


def _tool(*arguments: Any) -> None:
    subprocess.run(arguments, check=True, capture_output=True)


async def refused(rig: Rig, data: Path, said: str) -> None:
    """Asks for everything that would pass the image on; nothing does, and nothing changes."""
    before = (rig.images(), held(data))
    for verb, action in PASSING_ON.items():
        told = await rig.run(attempt_name(verb), action)
        assert (told.state, told.failure.reason) == (Attempt.STATE_FAILED, "IMAGE_UNSAFE"), verb
        assert said in told.failure.message, verb
    assert (rig.images(), held(data)) == before
    assert rig.staged() == []


async def test_what_somebody_else_made_larger_is_passed_on_by_nobody(rig, grown):
    data = rig.data("base")
    outside(rig, grown, MORE, value=7)
    await refused(rig, data, "import its file as a new image")


async def test_what_somebody_else_made_smaller_is_passed_on_by_nobody(rig, grown):
    data = rig.data("base")
    outside(rig, grown, LESS)
    await refused(rig, data, "shorter than its label says")


async def test_zeros_beyond_an_end_are_nobodys(rig, grown):
    """A resize that was cut short leaves them."""
    outside(rig, grown, MORE)
    for verb in ("copy", "snapshot", "verify"):
        made = await rig.run(attempt_name(verb), PASSING_ON[verb])
        assert made.state == Attempt.STATE_SUCCEEDED, made.failure


async def test_what_a_clone_reads_through_is_looked_at_as_well(rig):
    """Its own part begins where the other image ended once."""
    if not qemu.is_installed():
        pytest.skip("qemu-img is not installed: apt install qemu-utils")
    rig.put("base", content(Format.QCOW2, b"x" * SIZE), image_format=Format.QCOW2)
    await rig.run(attempt_name("clone"), PASSING_ON["clone"])
    grow = Action(resize_image=ResizeImage(target=MADE, virtual_size_bytes=MORE))
    assert (await rig.run(attempt_name("grow"), grow)).state == Attempt.STATE_SUCCEEDED
    outside(rig, Format.QCOW2, MORE, value=7)
    verify = Action(verify_image=VerifyImage(target=MADE))
    told = await rig.run(attempt_name("verify"), verify)
    assert told.failure.reason == "IMAGE_UNSAFE"
