"""Storage that somebody has planted things in: typed failures, nothing left, nothing escaped.

Whatever is planted, a canary outside the pool is neither read nor changed, no other image suffers,
and what was planted is not taken for ours and removed.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from agent.drivers import qemu
from agent.drivers.driver import Format
from countermand.rpc.errors import CountermandError
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.image_pb2 import IMAGE_FORMAT_QCOW2, IMAGE_FORMAT_RAW
from countermand.v1.verb_pb2 import (
    Action,
    CloneImage,
    CreateImage,
    CreateSnapshot,
    DeleteImage,
    ResizeImage,
    RevertImage,
    VerifyImage,
)
from tests.agent.hostile import HEADERS, PLANTED, SECRET, Canary, claims_size, qcow2
from tests.agent.requests import address, attempt_name, copy_action
from tests.agent.rig import Rig

BASE, MADE = address("fast/base"), address("fast/made")
SUCCEEDED, FAILED = Attempt.STATE_SUCCEEDED, Attempt.STATE_FAILED

# Everything that is ever done with an image that is there.
ACTIONS = {
    "copy": copy_action("fast/base", "fast/made"),
    "flatten": copy_action("fast/base", "fast/made", flatten=True),
    "digest": copy_action("fast/base", "fast/made", take_digest=True),
    "to-raw": copy_action("fast/base", "fast/made", format=IMAGE_FORMAT_RAW, flatten=True),
    "to-qcow2": copy_action("fast/base", "fast/made", format=IMAGE_FORMAT_QCOW2, flatten=True),
    "clone": Action(clone_image=CloneImage(source=BASE, target=MADE, copy_allowed=True)),
    "snapshot": Action(create_snapshot=CreateSnapshot(target=BASE, snapshot_id="new")),
    "revert": Action(revert_image=RevertImage(target=BASE, snapshot_id="new")),
    "grow": Action(resize_image=ResizeImage(target=BASE, virtual_size_bytes=2**21)),
    "verify": Action(verify_image=VerifyImage(target=BASE)),
}
DELETE = Action(delete_image=DeleteImage(target=BASE))
CREATE = Action(create_image=CreateImage(target=BASE, virtual_size_bytes=512))

needs_qemu = pytest.mark.skipif(
    not qemu.is_installed(), reason="qemu-img is not installed: apt install qemu-utils"
)


@pytest.fixture
def canary(tmp_path):
    """Yields a canary that is proven to notice a reader."""
    canary = Canary.at(tmp_path / "canary")
    canary.file.read_bytes()
    if not canary.sings:
        pytest.skip("access times are not kept here (noatime): nobody would notice a reader")
    canary.set()
    return canary


@pytest.fixture
async def rig(tmp_path):
    (tmp_path / "host").mkdir()
    rig = Rig(tmp_path / "host")
    await rig.start()
    rig.put("plain", b"untouched".ljust(512, b"."))
    yield rig
    await rig.runner.stop()


async def tried_everything(rig: Rig, canary: Canary, *, harmless: tuple[str, ...] = ()) -> None:
    """Does with the base what can be done: it fails, reads nothing outside, and leaves nothing."""
    listed = rig.images()
    for number, (task, action) in enumerate(ACTIONS.items(), 1):
        ended = await rig.run(attempt_name(task), action)
        assert not canary.sings, task
        if task in harmless and ended.state == SUCCEEDED:
            await rig.make_up(attempt_name(task, number + 1), attempt_name(task), action)
        else:
            assert ended.state == FAILED, (task, ended)
            assert ended.failure.reason in {
                "FIELD_UNSUPPORTED",
                "IMAGE_DAMAGED",
                "IMAGE_NOT_FOUND",
                "IMAGE_UNSAFE",
                "SNAPSHOT_NOT_FOUND",
                "VERB_UNSUPPORTED",
            }, (task, ended.failure)
        assert (rig.images(), rig.staged()) == (listed, []), task
    for look in (lambda: rig.pools["fast"].find("base"), lambda: _read(rig, "base")):
        with pytest.raises(CountermandError) as refused:
            look()
        assert refused.value.reason in {"IMAGE_UNSAFE", "IMAGE_NOT_FOUND", "FIELD_UNSUPPORTED"}
    assert [one.image_id for one in rig.pools["fast"].list_images(after="", count_max=9)] == [
        "plain"
    ]
    assert not canary.sings


def _read(rig: Rig, image_id: str) -> None:
    with rig.pools["fast"].reading(image_id, Format.RAW):
        pass


@pytest.mark.parametrize("what", PLANTED)
async def test_what_is_planted_in_an_image_is_not_read_through(rig, canary, what):
    rig.put("base", b"content".ljust(2**20, b"."))
    image = rig.folder / "fast/images/base"
    PLANTED[what](image, canary)
    await tried_everything(rig, canary)
    planted = await rig.run(attempt_name("create"), CREATE)
    assert planted.state == FAILED, planted
    assert planted.failure.reason in {"IMAGE_EXISTS", "IMAGE_UNSAFE"}
    undone = await rig.make_up(attempt_name("create", 2), attempt_name("create"), CREATE)
    assert undone.state in {SUCCEEDED, FAILED}
    deleted = await rig.run(attempt_name("delete"), DELETE)
    if what.startswith("the data"):  # the image is ours, and goes with what is in its folder
        assert not image.exists(), deleted
    else:  # nothing says that it is ours to remove
        assert deleted.failure.reason == "IMAGE_UNSAFE", deleted
        assert image.is_symlink() or image.exists()
    assert not canary.sings
    assert rig.data("plain").read_bytes().startswith(b"untouched")


@needs_qemu
@pytest.mark.parametrize("what", HEADERS)
async def test_a_qcow2_header_that_points_elsewhere_is_not_followed(rig, canary, what, tmp_path):
    qcow2(tmp_path / "image.qcow2")
    rig.put("base", (tmp_path / "image.qcow2").read_bytes(), image_format=Format.QCOW2)
    rig.data("base").unlink()
    HEADERS[what](rig.folder / "fast/images/base/data.qcow2", canary)
    canary.set()
    await tried_everything(rig, canary)
    deleted = await rig.run(attempt_name("delete"), DELETE)
    assert deleted.state in {SUCCEEDED, FAILED}
    assert not canary.sings


@needs_qemu
async def test_a_raw_image_that_looks_like_qcow2_stays_what_it_is(rig, canary, tmp_path):
    """Guests write what they like: a format is never guessed from content."""
    qcow2(tmp_path / "trap", "-b", str(canary.file), "-F", "raw")
    trap = (tmp_path / "trap").read_bytes().ljust(2**20, b"\0")
    rig.put("base", trap)
    canary.set()
    for task in ("copy", "flatten", "digest", "to-raw", "to-qcow2"):
        name = attempt_name(task)
        made = await rig.run(name, ACTIONS[task])
        assert made.state == SUCCEEDED, made
        assert not canary.sings, task
        if task == "to-qcow2":
            back = tmp_path / "back.raw"
            convert = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", rig.data("made"), back]
            subprocess.run(convert, check=True)  # noqa: ASYNC221 - nobody else is here
            assert back.read_bytes() == trap
        else:
            assert rig.data("made").read_bytes() == trap
        await rig.make_up(attempt_name(task, 2), name, ACTIONS[task])
    assert not canary.sings


@needs_qemu
@pytest.mark.parametrize("size_bytes", [0, 513, 2**19])
async def test_a_qcow2_header_that_claims_less_than_its_label_is_refused(
    rig, canary, size_bytes, tmp_path
):
    """A copy of it would be shorter than it says of itself. More is there during a resize."""
    qcow2(tmp_path / "image.qcow2")
    rig.put("base", (tmp_path / "image.qcow2").read_bytes(), image_format=Format.QCOW2)
    claims_size(rig.data("base"), size_bytes)
    await tried_everything(rig, canary)


@needs_qemu
@pytest.mark.parametrize("size_bytes", [2**40, 2**63 - 512])
async def test_a_qcow2_header_that_claims_too_much_takes_no_room(rig, canary, size_bytes, tmp_path):
    """Whoever would read it fails: what it claims cannot be."""
    qcow2(tmp_path / "image.qcow2")
    rig.put("base", (tmp_path / "image.qcow2").read_bytes(), image_format=Format.QCOW2)
    claims_size(rig.data("base"), size_bytes)
    for task in ("digest", "to-raw", "verify"):
        ended = await rig.run(attempt_name(task), ACTIONS[task])
        assert (ended.state, ended.failure.reason) == (FAILED, "IMAGE_DAMAGED"), (task, ended)
        assert (rig.images(), rig.staged()) == (["base", "plain"], []), task
    assert rig.pools["fast"].report().used_bytes < 2**22


@pytest.mark.parametrize("what", ["a link to a folder", "a link to a file", "a pipe", "a file"])
async def test_what_is_planted_in_the_staging_is_not_written_through(rig, canary, what):
    """An attempt's name is known before it comes: somebody may have been there first."""
    rig.put("base", b"content".ljust(2**20, b"."))
    task, action = "copy", ACTIONS["copy"]
    staged = rig.folder / "fast/staging" / attempt_name(task).replace("/", "@")
    match what:
        case "a link to a folder":
            staged.symlink_to(canary.image)
        case "a link to a file":
            staged.symlink_to(canary.file)
        case "a pipe":
            os.mkfifo(staged)
        case _:
            staged.write_bytes(SECRET)
    ended = await rig.run(attempt_name(task), action)
    assert not canary.sings
    assert ended.state in {SUCCEEDED, FAILED}, ended
    undone = await rig.make_up(attempt_name(task, 2), attempt_name(task), action)
    assert undone.state in {SUCCEEDED, FAILED}
    assert not canary.sings
    assert rig.images() == ["base", "plain"]
    await rig.restart()  # and its sweep
    assert not canary.sings
