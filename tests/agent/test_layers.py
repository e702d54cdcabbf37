"""Layers of qcow2 images on real files: snapshots that move no data, merges that lose none."""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agent import crash_points
from agent.drivers import layering, layout, qemu, staging
from agent.drivers.driver import Format, Work
from agent.drivers.label import Label
from agent.drivers.layers import Layer, spare, without
from countermand.rpc.errors import AttemptCancelled
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.verb_pb2 import (
    Action,
    CloneImage,
    CreateSnapshot,
    DeleteImage,
    DeleteSnapshot,
    ResizeImage,
    RevertImage,
    VerifyImage,
)
from tests.agent.requests import address, attempt_name, copy_action
from tests.agent.rig import NOW, Gate, Rig
from tests.agent.test_conformance import content

pytestmark = pytest.mark.skipif(
    not qemu.is_installed(), reason="qemu-img is not installed: apt install qemu-utils"
)

SUCCEEDED, FAILED = Attempt.STATE_SUCCEEDED, Attempt.STATE_FAILED
BASE = address("fast/base")
PIECE = 64 * 1024
SIZE = 16 * PIECE


def create(snapshot_id: str) -> Action:
    return Action(create_snapshot=CreateSnapshot(target=BASE, snapshot_id=snapshot_id))


def delete(snapshot_id: str) -> Action:
    return Action(delete_snapshot=DeleteSnapshot(target=BASE, snapshot_id=snapshot_id))


def revert(snapshot_id: str, **fields: Any) -> Action:
    return Action(revert_image=RevertImage(target=BASE, snapshot_id=snapshot_id, **fields))


def clone(image: str) -> Action:
    return Action(clone_image=CloneImage(source=BASE, target=address(f"fast/{image}")))


async def done(rig: Rig, task: str, action: Action) -> Attempt:
    made = await rig.run(attempt_name(task), action)
    assert made.state == SUCCEEDED, made.failure
    assert rig.staged() == []
    return made


async def undone(rig: Rig, task: str, action: Action, *, number: int = 2) -> Attempt:
    made = await rig.make_up(attempt_name(task, number), attempt_name(task), action)
    assert rig.staged() == []
    return made


def put(rig: Rig, *values: int) -> None:
    """Brings a base in that begins with pieces of these values."""
    data = b"".join(bytes([value]) * PIECE for value in values)
    rig.put("base", content(Format.QCOW2, data.ljust(SIZE, b"\0")), image_format=Format.QCOW2)


def write(rig: Rig, piece: int, value: int, name: str = "base") -> None:
    """Writes one piece as a guest would."""
    command = f"write -P {value} {piece * PIECE} {PIECE}"
    arguments = ["qemu-io", "-f", "qcow2", "-c", command, str(rig.data(name))]
    subprocess.run(arguments, check=True, capture_output=True)


def read(rig: Rig, name: str = "base", pieces: int = 4) -> list[int]:
    """Returns the first pieces as a guest reads them, each of one value."""
    flat = rig.folder / "flat"
    arguments = ["-f", "qcow2", "-O", "raw", str(rig.data(name)), str(flat)]
    subprocess.run(["qemu-img", "convert", *arguments], check=True)
    data = flat.read_bytes()
    found = [set(data[at * PIECE : (at + 1) * PIECE]) for at in range(pieces)]
    return [value for [value] in found]


def files(rig: Rig, name: str = "base") -> list[Path]:
    return sorted((rig.folder / "fast/images" / name).glob("data.*"))


def inode(path: Path) -> int:
    return path.stat().st_ino


def snapshots(rig: Rig) -> list[str]:
    return sorted(one.snapshot_id for one in rig.pools["fast"].find("base").snapshots)


async def test_a_snapshot_moves_no_data(rig):
    put(rig, 1, 2)
    before = inode(rig.data("base"))
    made = await done(rig, "old", create("old"))
    assert made.output.create_snapshot.generation == 1
    assert inode(rig.data("base@old")) == before != inode(rig.data("base"))
    write(rig, 0, 7)
    assert (read(rig), read(rig, "base@old")) == ([7, 2, 0, 0], [1, 2, 0, 0])
    found = rig.pools["fast"].find("base")
    assert (found.generation, found.chain) == (1, ("base@old",))
    assert [(one.snapshot_id, one.attempt) for one in found.snapshots] == [
        ("old", attempt_name("old"))
    ]
    [listed] = rig.pools["fast"].list_images(after="", count_max=9)
    assert listed == found
    assert rig.pools["fast"].survey() == []


async def test_what_a_guest_wrote_since_a_snapshot_outlives_it(rig):
    """What makes up for a snapshot is a merge: of the little that was written since."""
    put(rig, 1, 2, 3)
    before = inode(rig.data("base"))
    await done(rig, "old", create("old"))
    write(rig, 1, 7)
    for number in (2, 3):
        assert (await undone(rig, "old", create("old"), number=number)).state == SUCCEEDED
        assert (read(rig), snapshots(rig)) == ([1, 7, 3, 0], [])
        assert [inode(path) for path in files(rig)] == [before]
    assert rig.pools["fast"].room.used_bytes == rig.pools["fast"].layout.allocated_bytes(
        rig.folder / "fast/images/base"
    )


async def test_what_is_less_is_moved(rig):
    """Of a snapshot that held little, that little is brought up."""
    put(rig, 1)
    await done(rig, "old", create("old"))
    for piece in range(1, 12):
        write(rig, piece, 7)
    kept = inode(rig.data("base"))
    gone = await done(rig, "gone", delete("old"))
    assert gone.output.delete_snapshot.existed
    assert [inode(path) for path in files(rig)] == [kept]
    assert read(rig) == [1, 7, 7, 7]


async def test_a_snapshot_between_others_is_merged_into_the_next(rig):
    put(rig, 1, 1, 1)
    for number, snapshot_id in enumerate(("a", "b", "c")):
        await done(rig, snapshot_id, create(snapshot_id))
        write(rig, number, 7 + number)
    await done(rig, "gone", delete("b"))
    assert snapshots(rig) == ["a", "c"]
    assert read(rig, "base@a") == [1, 1, 1, 0]
    assert read(rig, "base@c") == [7, 8, 1, 0]
    assert read(rig) == [7, 8, 9, 0]
    await done(rig, "first", delete("a"))
    await done(rig, "last", delete("c"))
    assert (read(rig), len(files(rig))) == ([7, 8, 9, 0], 1)
    await done(rig, "image", Action(delete_image=DeleteImage(target=BASE)))
    assert rig.pools["fast"].room.used_bytes == 0


async def test_a_snapshot_of_another_size_is_merged(rig):
    put(rig, 1, 2)
    await done(rig, "old", create("old"))
    resize = ResizeImage(target=BASE, virtual_size_bytes=2 * SIZE)
    await done(rig, "grow", Action(resize_image=resize))
    write(rig, 20, 7)
    await done(rig, "gone", delete("old"))
    assert len(files(rig)) == 1
    assert read(rig, pieces=21) == [1, 2, *[0] * 18, 7]


async def test_what_was_cut_off_does_not_come_back_with_a_merge(rig):
    """The layer below still has it."""
    put(rig, 1, 2, 3, 4)
    await done(rig, "old", create("old"))
    for number, size in enumerate((2 * PIECE, SIZE)):
        resize = ResizeImage(target=BASE, virtual_size_bytes=size, shrink_allowed=True)
        await done(rig, f"resize-{number}", Action(resize_image=resize))
    assert read(rig) == [1, 2, 0, 0]
    await done(rig, "gone", delete("old"))
    assert (read(rig), len(files(rig))) == ([1, 2, 0, 0], 1)


async def test_a_way_back_moves_no_data_either(rig):
    put(rig, 1, 2)
    await done(rig, "old", create("old"))
    write(rig, 0, 7)
    held = inode(rig.data("base"))
    back = revert("old", safety_snapshot_id="safe")
    await done(rig, "back", back)
    assert (read(rig), read(rig, "base@safe")) == ([1, 2, 0, 0], [7, 2, 0, 0])
    write(rig, 1, 8)
    assert (await undone(rig, "back", back)).state == SUCCEEDED
    assert (read(rig), inode(rig.data("base"))) == ([7, 2, 0, 0], held)
    assert (snapshots(rig), len(files(rig))) == (["old"], 2)


async def test_a_safety_snapshot_that_others_read_through_stays_as_it_is(rig):
    put(rig, 1, 2)
    await done(rig, "old", create("old"))
    write(rig, 0, 7)
    back = revert("old", safety_snapshot_id="safe")
    await done(rig, "back", back)
    first = revert("safe", safety_snapshot_id="first")
    await done(rig, "there", first)
    await done(rig, "more", create("more"))  # on the safety snapshot
    write(rig, 2, 9)
    assert (await undone(rig, "there", first)).state == SUCCEEDED
    assert (await undone(rig, "back", back)).state == SUCCEEDED
    assert (read(rig), snapshots(rig)) == ([7, 2, 0, 0], ["more", "old"])
    assert read(rig, "base@more") == [7, 2, 0, 0]
    write(rig, 3, 5)
    assert read(rig, "base@more") == [7, 2, 0, 0]
    await done(rig, "gone", delete("more"))
    await done(rig, "gone-too", delete("old"))
    assert (read(rig), len(files(rig))) == ([7, 2, 0, 5], 1)


async def test_what_two_read_through_stays_until_one_is_left(rig):
    put(rig, 1, 2)
    await done(rig, "old", create("old"))
    write(rig, 0, 7)
    await done(rig, "back", revert("old", safety_snapshot_id="safe"))
    write(rig, 1, 8)
    await done(rig, "gone", delete("old"))
    assert (snapshots(rig), len(files(rig))) == (["safe"], 3)
    assert rig.pools["fast"].find("base").chain == ("base@@",)
    failed = await rig.run(attempt_name("again"), revert("old"))
    assert (failed.state, failed.failure.reason) == (FAILED, "SNAPSHOT_NOT_FOUND")
    await done(rig, "verified", Action(verify_image=VerifyImage(target=BASE)))
    assert (read(rig), read(rig, "base@safe")) == ([1, 8, 0, 0], [7, 2, 0, 0])
    await done(rig, "last", delete("safe"))
    assert (read(rig), len(files(rig))) == ([1, 8, 0, 0], 1)


async def test_a_revert_without_safety_leaves_nothing_of_what_it_replaced(rig):
    put(rig, 1)
    await done(rig, "old", create("old"))
    await done(rig, "new", create("new"))
    write(rig, 0, 7)
    await done(rig, "back", revert("old"))
    await done(rig, "gone", delete("new"))
    assert (read(rig), len(files(rig))) == ([1, 0, 0, 0], 2)


async def test_an_image_that_others_read_through_stays_where_it_is(rig):
    """Its snapshot is a copy, and goes as one."""
    put(rig, 1, 2)
    await done(rig, "first", create("first"))
    write(rig, 0, 7)
    await done(rig, "top", clone("top"))
    before = inode(rig.data("base"))
    await done(rig, "copy", create("copy"))
    assert inode(rig.data("base")) == before != inode(rig.data("base@copy"))
    assert read(rig, "base@copy") == read(rig, "top") == [7, 2, 0, 0]
    await done(rig, "gone", delete("first"))  # two read through it
    assert (read(rig, "base@copy"), read(rig, "top")) == ([7, 2, 0, 0], [7, 2, 0, 0])
    assert (await undone(rig, "copy", create("copy"))).state == SUCCEEDED
    assert (len(files(rig)), read(rig), read(rig, "top")) == (1, [7, 2, 0, 0], [7, 2, 0, 0])
    assert rig.pools["fast"].find("top").chain == ("base",)


async def test_layers_that_lie_too_deep_are_copied(rig, monkeypatch):
    monkeypatch.setattr(layering, "LAYERS_MAX", 1)
    put(rig, 1)
    await done(rig, "a", create("a"))
    await done(rig, "b", create("b"))
    label = rig.pools["fast"].layout.label("base")
    assert len(rig.pools["fast"].layout.below("base", label)) == 1
    assert read(rig, "base@b") == [1, 0, 0, 0]


@pytest.mark.parametrize("safe", [True, False], ids=["safe", "unsafe"])
async def test_ways_back_without_end_make_no_image_too_deep(rig, monkeypatch, safe):
    """What reads through too many files could not be read any more, nor gone back from."""
    monkeypatch.setattr(layering, "LAYERS_MAX", 2)
    monkeypatch.setattr(layout, "CHAIN_MAX", 3)
    put(rig, 1)
    for number in range(4):
        await done(rig, f"new-{number}", create(f"new-{number}"))
        write(rig, 1, 10 + number)
        safety = {"safety_snapshot_id": f"safe-{number}"} if safe else {}
        await done(rig, f"back-{number}", revert(f"new-{number}", **safety))
        write(rig, 2, 20 + number)
        assert len(rig.pools["fast"].find("base").chain) <= 2
    assert read(rig, "base") == [1, 0, 23, 0]
    assert read(rig, "base@new-3") == [1, 0, 22, 0]
    await done(rig, "verified", Action(verify_image=VerifyImage(target=BASE)))
    if safe:
        assert read(rig, "base@safe-3") == [1, 13, 22, 0]
        back = revert("new-3", safety_snapshot_id="safe-3")
        assert (await undone(rig, "back-3", back)).state == SUCCEEDED
        assert read(rig) == [1, 13, 22, 0]
    for name in snapshots(rig):
        await done(rig, f"gone-{name}", delete(name))
    assert len(files(rig)) == 1


async def test_what_is_put_back_lies_no_deeper_either(rig, monkeypatch):
    """A safety snapshot that others read through stays, and what goes on from it is a copy."""
    monkeypatch.setattr(layering, "LAYERS_MAX", 1)
    put(rig, 1, 2)
    await done(rig, "old", create("old"))
    write(rig, 0, 7)
    back = revert("old", safety_snapshot_id="safe")
    await done(rig, "back", back)
    monkeypatch.setattr(layering, "LAYERS_MAX", 2)
    there = revert("safe", safety_snapshot_id="first")
    await done(rig, "there", there)
    await done(rig, "more", create("more"))
    assert (await undone(rig, "there", there)).state == SUCCEEDED
    monkeypatch.setattr(layering, "LAYERS_MAX", 1)
    assert (await undone(rig, "back", back)).state == SUCCEEDED
    assert read(rig) == [7, 2, 0, 0]
    assert rig.pools["fast"].find("base").chain == ("base@old",)


async def test_an_image_that_lies_too_deep_comes_back_when_snapshots_go(rig, monkeypatch):
    """As those that an older version has made."""
    put(rig, 1)
    for number in range(4):
        await done(rig, f"new-{number}", create(f"new-{number}"))
        write(rig, 1, 10 + number)
    monkeypatch.setattr(layout, "CHAIN_MAX", 2)
    failed = await rig.run(attempt_name("lost"), Action(verify_image=VerifyImage(target=BASE)))
    assert failed.failure.reason == "IMAGE_UNSAFE"
    assert "delete snapshots of it" in failed.failure.message
    for number in (1, 2):
        await done(rig, f"gone-{number}", delete(f"new-{number}"))
    assert read(rig) == [1, 13, 0, 0]
    await done(rig, "verified", Action(verify_image=VerifyImage(target=BASE)))


async def test_a_clone_that_would_lie_too_deep_is_refused_or_copied(rig, monkeypatch):
    monkeypatch.setattr(layout, "CHAIN_MAX", 1)
    put(rig, 1, 2)
    await done(rig, "top", clone("top"))
    deeper = CloneImage(source=address("fast/top"), target=address("fast/deeper"))
    failed = await rig.run(attempt_name("no"), Action(clone_image=deeper))
    assert (failed.state, failed.failure.reason) == (FAILED, "VERB_UNSUPPORTED")
    assert "copy_allowed" in failed.failure.message
    assert rig.images() == ["base", "top"]
    deeper.copy_allowed = True
    await done(rig, "deeper", Action(clone_image=deeper))
    assert rig.pools["fast"].find("deeper").chain == ()
    assert read(rig, "deeper") == [1, 2, 0, 0]


async def test_a_label_that_is_full_takes_no_more_snapshots(rig, monkeypatch):
    """One that is too long could not be read any more."""
    put(rig, 1)
    await done(rig, "a", create("a"))
    length = len(rig.pools["fast"].layout.label("base").encode())
    for module in (layout, staging):
        monkeypatch.setattr(module, "LABEL_BYTES_MAX", length)
    failed = await rig.run(attempt_name("b"), create("b"))
    assert (failed.state, failed.failure.reason) == (FAILED, "IMAGE_UNSAFE")
    assert "delete snapshots" in failed.failure.message
    assert (snapshots(rig), len(files(rig)), rig.staged()) == (["a"], 2, [])
    await done(rig, "gone", delete("a"))
    assert read(rig) == [1, 0, 0, 0]


async def test_a_copy_of_an_image_with_snapshots_stands_alone(rig):
    put(rig, 1)
    await done(rig, "old", create("old"))
    write(rig, 1, 7)
    await done(rig, "copy", copy_action("fast/base", "fast/copy"))
    found = rig.pools["fast"].find("copy")
    assert (found.format, found.chain, found.snapshots) == (Format.QCOW2, (), ())
    assert read(rig, "copy") == [1, 7, 0, 0]
    await done(rig, "top", clone("top"))
    assert rig.pools["fast"].find("top").chain == ("base", "base@old")
    failed = await rig.run(attempt_name("deep"), copy_action("fast/top", "fast/deep"))
    assert (failed.state, failed.failure.reason) == (FAILED, "FIELD_INVALID")


class Merge:
    """The end of a snapshot, driven by hand."""

    def __init__(self, rig: Rig, snapshot_id: str) -> None:
        self.is_merging = False
        work = Work(
            attempt=attempt_name(f"gone-{snapshot_id}"),
            cluster_id="cluster-a",
            note="",
            now=lambda: NOW,
            crash=self._crash,
        )
        self.steps = rig.pools["fast"].delete_snapshot(work, "base", snapshot_id)

    def _crash(self, name: str) -> None:
        self.is_merging = self.is_merging or name == crash_points.IN_MERGE

    def begin(self) -> None:
        """Goes on until a tool is at work."""
        while not self.is_merging:
            next(self.steps)

    def end(self) -> None:
        for _step in self.steps:
            pass


async def with_snapshots(rig: Rig) -> None:
    put(rig, 1, 2)
    for snapshot_id in ("a", "b"):
        await done(rig, snapshot_id, create(snapshot_id))
        write(rig, 2, 7)


async def test_merges_of_one_image_take_turns(rig):
    await with_snapshots(rig)
    first, second = Merge(rig, "a"), Merge(rig, "b")
    first.begin()
    waits = [next(second.steps).wait_s for _ in range(4)]
    assert waits[:2] == [0, 0]  # until its snapshot is gone as well
    assert all(waits[2:])
    first.end()
    second.end()
    assert (read(rig), len(files(rig)), rig.staged()) == ([1, 2, 7, 0], 1, [])
    assert not second.is_merging  # the first has done its work


async def test_a_merge_that_has_begun_is_not_stopped(rig):
    """S-V19: who asks too late is told what it came to."""
    await with_snapshots(rig)
    merge = Merge(rig, "a")
    merge.begin()
    with suppress(StopIteration):
        while True:
            merge.steps.throw(AttemptCancelled())
    assert (read(rig), snapshots(rig), rig.staged()) == ([1, 2, 7, 0], ["b"], [])
    assert len(files(rig)) == 2


async def test_what_is_still_running_is_stopped_before_it_is_made_up_for(tmp_path):
    """S-V32: both are never at work at once; nothing of the first is seen after."""
    gate = Gate()
    rig = Rig(tmp_path)
    await rig.start()
    put(rig, 1)
    await rig.restart(gate=gate)
    await rig.accept(attempt_name("old"), create("old"))
    await gate.arrival()
    await rig.compensate(attempt_name("old", 2), attempt_name("old"), create("old"))
    gate.open()
    assert (await rig.settled(attempt_name("old", 2))).state == SUCCEEDED
    assert (await rig.get(attempt_name("old"))).state == Attempt.STATE_CANCELLED
    assert (read(rig), snapshots(rig), len(files(rig))) == ([1, 0, 0, 0], [], 1)
    await rig.runner.stop()


async def test_a_file_that_reads_through_another_than_its_layer_is_not_touched(rig):
    put(rig, 1)
    await done(rig, "a", create("a"))
    await done(rig, "b", create("b"))
    bottom = rig.data("base@a")
    name_below(rig.data("base"), f"../base/{bottom.name}")
    failed = await rig.run(attempt_name("c"), create("c"))
    assert (failed.state, failed.failure.reason) == (FAILED, "IMAGE_UNSAFE")
    assert rig.pools["fast"].list_images(after="", count_max=9) == []


def name_below(path: Path, backing: str) -> None:
    """Writes a head, as whoever may write to an image can."""
    arguments = ["-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, str(path)]
    subprocess.run(["qemu-img", "rebase", *arguments], check=True)


def layer(token: str, below: str | None, snapshot_id: str = "") -> Layer:
    return Layer(
        content=token,
        below=below,
        snapshot_id=snapshot_id,
        cluster_id="c",
        attempt="a",
        create_time="2030-01-01T00:00:00+00:00",
        generation=1,
        virtual_size_bytes=512,
    )


def test_a_layer_goes_once_one_at_most_reads_through_it():
    bottom, one, two = layer("b", None), layer("1", "b", "one"), layer("2", "b", "two")
    assert spare((bottom, one, two), top="1") is None
    assert spare((bottom, one), top="1") == bottom
    assert without((bottom, one), bottom) == (one._replace(below=None),)
    alone = layer("x", "b")
    assert spare((bottom, alone, one), top="1") == alone
    assert spare((one,), top="1") is None


T = "0123456789abcdef"


@pytest.mark.parametrize(
    "fields",
    [
        {"below": "../../etc"},
        {"below": T},
        {"layers": [["../x", None, "s", "c", "a", "2030-01-01T00:00:00", 1, 512]]},
        {"layers": [[T, None, "../s", "c", "a", "2030-01-01T00:00:00", 1, 512]]},
        {"layers": [[T, None, "s", "c", "a", "soon", 1, 512]]},
        {"layers": [[T, None, "s", "c", "a", "2030-01-01T00:00:00", "1", 512]]},
        {"layers": [[T, "", "s", "c", "a", "2030-01-01T00:00:00", 1, 512]]},
        {"layers": [7]},
    ],
    ids=["path", "unknown", "token", "snapshot", "time", "number", "through itself", "none"],
)
def test_a_label_that_lies_about_layers_cannot_be_read(fields):
    label = Label(
        cluster_id="",
        attempt="",
        create_time="2030-01-01T00:00:00+00:00",
        format=Format.QCOW2,
        virtual_size_bytes=512,
        written_bytes=512,
    )
    plain = json.loads(label.encode())
    assert not plain.keys() & {"below", "layers"}
    with pytest.raises(ValueError, match=r".*"):
        Label.decode(json.dumps({**plain, **fields}).encode())
