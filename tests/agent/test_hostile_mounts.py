"""File systems that run full, turn read-only, go away or refuse to be changed under an agent.

On small real ones: typed failures, nothing left, and work goes on once the cause has gone (S-Z13,
S-Z26).
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent import crash_points, runner
from agent.drivers import qemu
from agent.drivers.copying import CHUNK_BYTES
from countermand.rpc.errors import PoolFailing, StorageFailed
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.image_pb2 import IMAGE_FORMAT_QCOW2
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
from tests.agent.requests import address, attempt_name, copy_action, noop_action
from tests.agent.rig import Rig

MIB = 2**20

# linux/fs.h
GET_FLAGS, SET_FLAGS = 0x80086601, 0x40086602
IMMUTABLE = 0x10

BASE, MADE = address("fast/base"), address("fast/made")
SUCCEEDED, FAILED, UNKNOWN = (
    Attempt.STATE_SUCCEEDED,
    Attempt.STATE_FAILED,
    Attempt.STATE_UNKNOWN,
)

COPY = copy_action("fast/base", "fast/made")
CREATE = Action(create_image=CreateImage(target=MADE, virtual_size_bytes=512))
DELETE = Action(delete_image=DeleteImage(target=address("fast/spare")))
SNAPSHOT = Action(create_snapshot=CreateSnapshot(target=BASE, snapshot_id="new"))
WRITERS = {
    "create": CREATE,
    "create preallocated": Action(
        create_image=CreateImage(target=MADE, virtual_size_bytes=4 * MIB, preallocated=True)
    ),
    "copy": COPY,
    "convert": copy_action("fast/base", "fast/made", format=IMAGE_FORMAT_QCOW2),
    "clone": Action(clone_image=CloneImage(source=BASE, target=MADE, copy_allowed=True)),
    "snapshot": SNAPSHOT,
    "revert": Action(
        revert_image=RevertImage(target=BASE, snapshot_id="old", safety_snapshot_id="safe")
    ),
    "grow": Action(resize_image=ResizeImage(target=BASE, virtual_size_bytes=2**30)),
    "delete": DELETE,
}
BIG = ("copy", "clone", "convert", "create preallocated", "revert", "snapshot")
DO, UNDO = attempt_name("do"), attempt_name("do", 2)


def fill(folder: Path) -> Path:
    """Takes all the room there is; returns the file that has it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (MIB, 4096, 512):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return filler


@contextlib.contextmanager
def mount_option(folder: Path, option: str, back: str) -> Iterator[None]:
    """Remounts with an option for a while."""
    subprocess.run(["mount", "-o", f"remount,{option}", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", f"remount,{back}", folder], check=True)


@contextlib.contextmanager
def immutable(path: Path) -> Iterator[None]:
    """Keeps everybody, root included, from changing something for a while, as chattr +i does.

    Wherever it is renamed to meanwhile.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            _set_immutable(handle, on=True)
        except OSError as error:
            pytest.skip(f"nothing can be made immutable here: {error.strerror}")
        try:
            yield
        finally:
            _set_immutable(handle, on=False)
    finally:
        os.close(handle)


def _set_immutable(handle: int, *, on: bool) -> None:
    flags = array.array("l", [0])
    fcntl.ioctl(handle, GET_FLAGS, flags)
    flags[0] = flags[0] | IMMUTABLE if on else flags[0] & ~IMMUTABLE
    fcntl.ioctl(handle, SET_FLAGS, flags)


@pytest.fixture
async def rig(mount, tmp_path):
    """Yields an agent whose pool is a small ext4 of its own, with one image and its snapshot."""
    (tmp_path / "host").mkdir()
    mount("ext4", name="host/fast", size_bytes=32 * MIB)
    rig = Rig(tmp_path / "host")
    await rig.start()
    rig.put("base", os.urandom(CHUNK_BYTES))
    rig.put("spare", b"x" * 512)
    create = CreateSnapshot(target=BASE, snapshot_id="old")
    made = await rig.run(attempt_name("old"), Action(create_snapshot=create))
    assert made.state == SUCCEEDED, made
    yield rig
    await rig.runner.stop()


def _needs(what: str) -> None:
    if what == "convert" and not qemu.is_installed():
        pytest.skip("qemu-img is not installed: apt install qemu-utils")


# -- a pool that is full ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "when"),
    [(what, crash_points.AFTER_JOURNAL) for what in BIG]
    + [(what, crash_points.IN_COPY) for what in BIG if what != "create preallocated"],
)
async def test_a_pool_that_runs_full_fails_in_the_middle_and_leaves_nothing(rig, what, when):
    """Somebody else takes the room: before the work looks, or while it writes."""
    _needs(what)
    action, before = WRITERS[what], rig.images()
    filler: list[Path] = []

    def full(name: str) -> None:
        if name == when and not filler:
            filler.append(fill(rig.folder / "fast"))

    rig.crash = full
    await rig.restart()
    ended = await rig.run(DO, action)
    if not filler or (what == "convert" and ended.state == SUCCEEDED):
        pytest.skip(f"{what} was done before it could run full")
    assert (ended.state, ended.failure.reason) == (FAILED, "NO_SPACE"), ended
    assert (rig.images(), rig.staged()) == (before, [])
    filler[0].unlink()
    rig.crash = lambda _name: None
    await rig.restart()
    again = await rig.run(attempt_name("again"), action)
    assert again.state == SUCCEEDED, again


async def test_a_full_pool_still_makes_up_for_what_was_done_and_deletes(rig):
    """What gives room back needs none."""
    assert (await rig.run(DO, COPY)).state == SUCCEEDED
    filler = fill(rig.folder / "fast")
    undone = await rig.make_up(UNDO, DO, COPY)
    assert undone.state == SUCCEEDED, undone
    assert (rig.images(), rig.staged()) == (["base", "base@old", "spare"], [])
    filler.unlink()


# -- a journal whose disk is full ---------------------------------------------------------------


async def test_a_full_journal_refuses_before_it_writes_and_goes_on_when_there_is_room(
    mount, tmp_path
):
    """S-Z26: refused, still answering, and of what was refused nothing is known."""
    host = mount("tmpfs", name="host", size_bytes=4 * MIB)
    rig = Rig(host)
    await rig.start()
    await rig.run(attempt_name("before"), noop_action())
    filler = fill(host)
    refused = ""
    for number in range(1, 5000):  # what the journal's file still has room for is taken first
        name = attempt_name("filling", number)
        try:
            await rig.accept(name, noop_action())
        except StorageFailed:
            refused = name
            break
    assert refused, "the journal never ran full"
    assert (await rig.get(attempt_name("before"))).state == SUCCEEDED
    assert await rig.runner.journal.transact(lambda tx: tx.get(refused)) is None
    filler.unlink()
    assert (await rig.run(refused, noop_action())).state == SUCCEEDED
    for running in list(rig.runner.running):
        await rig.settled(running)
    await rig.restart()
    assert (await rig.get(refused)).state == SUCCEEDED
    await rig.runner.stop()


# -- a pool that turns read-only ----------------------------------------------------------------


@pytest.mark.parametrize("what", WRITERS)
async def test_a_pool_that_turns_read_only_refuses_writers_and_serves_readers(rig, what):
    """As ext4 does by itself when its disk fails."""
    _needs(what)
    action, before = WRITERS[what], rig.images()
    with mount_option(rig.folder / "fast", "ro", "rw"):
        ended = await rig.run(DO, action)
        assert ended.state in {FAILED, UNKNOWN}, ended
        assert (ended.failure.reason, ended.failure.metadata["error"]) == (
            "STORAGE_FAILED",
            "EROFS",
        )
        assert rig.images() == before
        verify = await rig.run(
            attempt_name("verify"), Action(verify_image=VerifyImage(target=BASE))
        )
        assert verify.state == SUCCEEDED, verify
        assert rig.pools["fast"].find("base").image_id == "base"
    await rig.restart()
    assert (await rig.settled(DO)).state in {SUCCEEDED, FAILED}
    assert rig.staged() == []


async def test_a_compensation_waits_until_a_pool_can_be_written_to(rig):
    """S-Z13: each try fails and says so; the one after the cause has gone succeeds."""
    assert (await rig.run(DO, COPY)).state == SUCCEEDED
    with mount_option(rig.folder / "fast", "ro", "rw"):
        for number in (2, 3):
            undone = await rig.make_up(attempt_name("do", number), DO, COPY)
            assert (undone.state, undone.failure.reason) == (FAILED, "STORAGE_FAILED"), undone
            assert undone.failure.retriable
        assert "made" in rig.images()
    undone = await rig.make_up(attempt_name("do", 4), DO, COPY)
    assert undone.state == SUCCEEDED, undone
    assert (rig.images(), rig.staged()) == (["base", "base@old", "spare"], [])


# -- what cannot be changed ---------------------------------------------------------------------


def _images(rig: Rig) -> Path:
    return rig.folder / "fast/images"


@pytest.mark.parametrize("what", ["create", "copy", "snapshot", "delete"])
async def test_nothing_appears_or_goes_in_a_folder_that_is_immutable(rig, what):
    action, before = WRITERS[what], rig.images()
    with immutable(_images(rig)):
        ended = await rig.run(DO, action)
        assert ended.state == FAILED, ended
        assert ended.failure.reason == "STORAGE_FAILED"
        assert ended.failure.metadata["error"] in {"EPERM", "EACCES"}
        assert (rig.images(), rig.staged()) == (before, [])
    again = await rig.run(attempt_name("again"), action)
    assert again.state == SUCCEEDED, again


@pytest.mark.parametrize(
    "where",
    [_images, lambda rig: _images(rig) / "made", lambda rig: rig.data("made")],
    ids=["the pool's images", "the image's folder", "the image's data"],
)
async def test_a_compensation_of_something_immutable_is_tried_until_it_can_be_done(rig, where):
    """S-Z13: chattr +i on the target, then chattr -i."""
    assert (await rig.run(DO, COPY)).state == SUCCEEDED
    with immutable(where(rig)):
        for number in (2, 3):
            undone = await rig.make_up(attempt_name("do", number), DO, COPY)
            assert (undone.state, undone.failure.reason) == (FAILED, "STORAGE_FAILED"), undone
            assert undone.failure.retriable
    undone = await rig.make_up(attempt_name("do", 4), DO, COPY)
    assert undone.state == SUCCEEDED, undone
    assert (rig.images(), rig.staged()) == (["base", "base@old", "spare"], [])


async def test_a_deletion_that_cannot_be_purged_is_not_called_done(rig, monkeypatch):
    """Out of sight is not gone: it is looked at again, and ends when it can."""
    monkeypatch.setattr(runner, "LOOK_AGAIN_DELAY_S", 0.01)
    assert (await rig.run(DO, COPY)).state == SUCCEEDED
    delete = Action(delete_image=DeleteImage(target=MADE))
    name = attempt_name("delete")
    with immutable(rig.data("made")):
        lost = await rig.run(name, delete)
        assert lost.state != SUCCEEDED, lost
        assert "made" not in rig.images()
    await rig.restart()
    gone = await rig.settled(name)
    assert (gone.state, gone.output.delete_image.existed) == (SUCCEEDED, True)
    assert rig.staged() == []


# -- a pool that goes away ----------------------------------------------------------------------


def bind(what: Path, where: Path) -> None:
    subprocess.run(["mount", "--bind", what, where], check=True)


def unbind(where: Path) -> None:
    subprocess.run(["umount", "-l", where], check=True)


@pytest.fixture
async def bound(tmp_path):
    """Yields an agent whose pool is mounted, and what mounts and unmounts it."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder, real = tmp_path / "host/fast", tmp_path / "real"
    folder.mkdir(parents=True)
    real.mkdir()

    def mount(*, there: bool) -> None:
        if there:
            bind(real, folder)
        else:
            unbind(folder)

    mount(there=True)
    rig = Rig(tmp_path / "host")
    await rig.start()
    rig.put("base", os.urandom(CHUNK_BYTES))
    yield rig, mount
    await rig.runner.stop()
    mount(there=False)


Mounting = Callable[..., None]


async def test_a_pool_that_is_unmounted_under_an_agent_is_missed_and_found_again(bound):
    """S-Z13: an empty mount point is no empty pool; nothing is written below it."""
    rig, mount = bound
    assert (await rig.run(DO, COPY)).state == SUCCEEDED
    mount(there=False)
    try:
        tries = {"create": CREATE, "copy": COPY, "delete": DELETE, "snapshot": SNAPSHOT}
        for task, action in tries.items():
            ended = await rig.run(attempt_name(task), action)
            assert (ended.state, ended.failure.reason) == (UNKNOWN, "POOL_FAILING"), ended
        with pytest.raises(PoolFailing):
            rig.pools["fast"].find("base")
        with pytest.raises(PoolFailing):
            rig.pools["fast"].list_images(after="", count_max=10)
        undone = await rig.make_up(UNDO, DO, COPY)
        assert (undone.state, undone.failure.reason) == (FAILED, "POOL_FAILING"), undone
        assert list((rig.folder / "fast").iterdir()) == []
    finally:
        mount(there=True)
    undone = await rig.make_up(attempt_name("do", 3), DO, COPY)
    assert undone.state == SUCCEEDED, undone
    assert (rig.images(), rig.staged()) == (["base"], [])


async def test_a_pool_whose_folder_is_replaced_is_not_taken_for_the_same(rig, tmp_path, mount):
    """Another storage at its path, with a mark of its own."""
    assert (await rig.run(DO, COPY)).state == SUCCEEDED
    other = mount("tmpfs", name="other")
    mark = (rig.folder / "fast/pool.json").read_text()
    (other / "images").mkdir()
    (other / "staging").mkdir()
    identity = rig.pools["fast"].layout.mark().identity
    (other / "pool.json").write_text(mark.replace(identity, "another"))
    bind(other, rig.folder / "fast")
    try:
        for task, action in {"copy": COPY, "delete": DELETE}.items():
            ended = await rig.run(attempt_name(task), action)
            assert (ended.state, ended.failure.reason) == (UNKNOWN, "POOL_FAILING"), ended
        undone = await rig.make_up(UNDO, DO, COPY)
        assert (undone.state, undone.failure.reason) == (FAILED, "POOL_FAILING"), undone
        assert list((other / "images").iterdir()) == []
    finally:
        unbind(rig.folder / "fast")
    undone = await rig.make_up(attempt_name("do", 3), DO, COPY)
    assert undone.state == SUCCEEDED, undone


async def test_a_pool_that_is_mounted_read_only_under_an_agent_says_so(tmp_path, mount):
    """As after errors=remount-ro: nothing new is sent to it, and work waits until it is mended."""
    folder = mount("tmpfs", name="host/fast")
    rig = Rig(tmp_path / "host")
    await rig.start()
    rig.put("base", os.urandom(CHUNK_BYTES))
    driver = rig.pools["fast"]
    assert driver.report().problem is None
    remount(folder, "ro")
    try:
        told = driver.report()
        assert told.problem.reason == "STORAGE_FAILED"
        assert "EROFS (it is mounted read-only)" in told.problem.message
        assert told.verbs == driver.verbs
        made = await rig.run(DO, COPY)
        assert (made.state, made.failure.metadata["error"]) == (FAILED, "EROFS"), made
        rig.options["fast"]["read_only"] = True
        await rig.restart()  # as is meant
        assert rig.pools["fast"].report().problem is None
    finally:
        remount(folder, "rw")
    del rig.options["fast"]["read_only"]
    await rig.restart()
    assert rig.pools["fast"].report().problem is None
    await rig.runner.stop()


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)
