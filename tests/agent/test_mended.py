"""Defects that were found by reading: each by the story that shows it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from agent import crash_points
from agent.drivers import layering, qemu
from agent.drivers.csi.node import remove_place
from agent.drivers.csi.options import read as read_options
from agent.drivers.driver import Format, PoolConfig
from agent.lookers import Lookers
from countermand.rpc.errors import CountermandError, FieldInvalid, ToolFailed
from countermand.v1.attempt_pb2 import AttemptHeader
from countermand.v1.verb_pb2 import (
    Action,
    CreateSnapshot,
    DeleteImage,
    DeleteSnapshot,
    VerifyImage,
)
from tests.agent.requests import address, attempt_name, copy_action, noop_action
from tests.agent.rig import Rig
from tests.agent.test_conformance import content

needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-img") is None, reason="qemu-img is not installed: apt install qemu-utils"
)
COPY = attempt_name("copy")
VERIFY = Action(verify_image=VerifyImage(target=address("fast/base")))


@needs_qemu
def test_a_growth_that_comes_late_never_shrinks(tmp_path):
    path = tmp_path / "data.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "256M"], check=True)
    with pytest.raises(ToolFailed):
        qemu.grow(path, image="disk", size_bytes=128 * 2**20)


@needs_qemu
def test_a_merge_that_comes_late_writes_into_no_other_file(tmp_path):
    names = ("bottom", "middle", "top")
    for below, name in zip((None, *names), names, strict=False):
        backing = ["-b", f"{below}.qcow2", "-F", "qcow2"] if below else []
        command = ["qemu-img", "create", "-q", "-f", "qcow2", *backing, f"{name}.qcow2"]
        subprocess.run([*command, *([] if below else ["1M"])], check=True, cwd=tmp_path)
    rebase = ["qemu-img", "rebase", "-q", "-f", "qcow2", "-b", "bottom.qcow2", "-F", "qcow2"]
    subprocess.run([*rebase, "top.qcow2"], check=True, cwd=tmp_path)  # the other host's merge
    steps = qemu.commit(
        tmp_path / "top.qcow2",
        tmp_path / "middle.qcow2",
        image="disk",
        size_bytes=2**20,
        each=lambda: 0,
    )
    with pytest.raises(ToolFailed):
        for _step in steps:
            pass


async def test_what_lies_beyond_the_end_of_an_image_is_read_by_nobody(tmp_path):
    rig = Rig(tmp_path)
    await rig.start()
    rig.put("base", b"x" * 4096)
    with rig.data("base").open("ab") as file:
        file.write(bytes(4096))
    with rig.pools["fast"].reading("base", Format.RAW) as content:
        assert content.size_bytes == 4096
    await rig.run(COPY, copy_action("fast/base", "fast/made"))
    assert rig.data("made").stat().st_size == 4096
    await rig.runner.stop()


@pytest.mark.parametrize("field", ["run_timeout", "stall_timeout"])
async def test_a_timeout_that_no_clock_can_tell_is_refused(tmp_path, field):
    rig = Rig(tmp_path)
    await rig.start()
    header: AttemptHeader = rig.requests.for_action(COPY, noop_action())
    getattr(header, field).FromTimedelta(timedelta(days=365 * 5000))
    with pytest.raises(FieldInvalid) as refused:
        await rig.runner.accept(header, noop_action())
    assert refused.value.violations[0].field == f"header.{field}"
    getattr(header, field).seconds = 2**62
    with pytest.raises(FieldInvalid):
        await rig.runner.accept(header, noop_action())
    await rig.runner.stop()


@pytest.mark.parametrize(("said", "zeroed"), [("", True), ("true", True), ("false", False)])
def test_whether_new_volumes_are_zeroed_is_taken_as_it_is_said(tmp_path, said, zeroed):
    options = {"labels": str(tmp_path), "zeroed": said}
    pool = PoolConfig(pool_id="array", driver="csi", path=tmp_path / "socket", options=options)
    assert read_options(pool).zeroed is zeroed


async def test_a_driver_whose_report_has_a_defect_is_told_of_as_failing(tmp_path, monkeypatch):
    rig = Rig(tmp_path)
    await rig.start()

    def defect() -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(rig.pools["fast"], "report", defect)
    found = await Lookers(rig.runner.pools, rig.runner.executor).report(rig.pools["fast"])
    assert isinstance(found.problem, CountermandError)
    await rig.runner.stop()


async def test_a_raw_image_that_lacks_its_end_is_not_passed_on(tmp_path):
    rig = Rig(tmp_path)
    await rig.start()
    rig.put("base", b"x" * 4096)
    with rig.data("base").open("r+b") as file:
        file.truncate(512)
    copied = await rig.run(COPY, copy_action("fast/base", "fast/made"))
    assert copied.failure.reason == "IMAGE_UNSAFE"
    verified = await rig.run(attempt_name("verify"), VERIFY)
    assert verified.failure.reason == "IMAGE_UNSAFE"
    assert rig.images() == ["base"]
    await rig.runner.stop()


async def test_an_image_that_somebody_else_made_larger_is_not_cut(tmp_path):
    rig = Rig(tmp_path)
    await rig.start()
    rig.put("base", b"x" * 4096)
    with rig.data("base").open("ab") as file:
        file.write(b"y" * 4096)
    copied = await rig.run(COPY, copy_action("fast/base", "fast/made"))
    assert copied.failure.reason == "IMAGE_UNSAFE"
    assert "beyond the size" in copied.failure.message
    await rig.runner.stop()


def test_what_is_still_mounted_where_a_volume_was_shown_is_not_emptied(tmp_path):
    place = tmp_path / "place"
    (place / "stage").mkdir(parents=True)
    (place / "stage" / "somebodys").write_text("data")
    (place / "note").write_text("ours")
    remove_place(place)
    assert sorted(path.name for path in place.rglob("*")) == ["somebodys", "stage"]
    (place / "stage" / "somebodys").unlink()
    remove_place(place)
    assert not place.exists()


@needs_qemu
@pytest.mark.parametrize(
    ("offset", "written"),
    [(40, b"\x00" * 6 + b"\x01\x23"), (36, bytes(4)), (48, b"\x77"), (65536, b"\x5a" * 196608)],
    ids=["table-elsewhere", "no-table", "counts-elsewhere", "noise"],
)
async def test_a_qcow2_image_that_cannot_even_be_opened_is_damaged(tmp_path, offset, written):
    rig = Rig(tmp_path)
    await rig.start()
    rig.put("base", content(Format.QCOW2, b"x" * 2**20), image_format=Format.QCOW2)
    with rig.data("base").open("r+b") as file:
        file.seek(offset)
        file.write(written)
    verified = await rig.run(attempt_name("verify"), VERIFY)
    assert verified.failure.reason == "IMAGE_DAMAGED", verified.failure
    assert str(tmp_path) not in verified.failure.message
    await rig.runner.stop()


@contextmanager
def _open_to_write(path: Path) -> Iterator[None]:
    """Holds an image as a guest does that runs."""
    command = ["qemu-io", "-f", "qcow2", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guest:
        assert guest.stdin is not None
        assert guest.stdout is not None
        guest.stdin.write(b"write 0 512\n")
        guest.stdin.flush()
        assert b"wrote 512" in guest.stdout.readline()
        yield
        guest.communicate(b"quit\n")


@needs_qemu
async def test_a_qcow2_image_that_somebody_writes_to_is_not_called_damaged(tmp_path):
    rig = Rig(tmp_path)
    await rig.start()
    path = rig.put("base", content(Format.QCOW2, b"x" * 2**20), image_format=Format.QCOW2)
    with _open_to_write(path):
        verified = await rig.run(attempt_name("verify"), VERIFY)
    assert verified.failure.reason == "IMAGE_IN_USE", verified.failure
    await rig.runner.stop()


@pytest.mark.parametrize("image_format", [Format.RAW, Format.QCOW2])
async def test_what_somebody_put_beside_an_image_does_not_go_with_it(tmp_path, image_format):
    rig = Rig(tmp_path)
    await rig.start()
    other = "qcow2" if image_format is Format.RAW else "raw"
    beside = tmp_path / "fast/images/base" / f"data.{other}"
    rig.put("base", content(image_format, b"x" * 4096), image_format=image_format)
    await rig.run(COPY, copy_action("fast/base", "fast/made"))
    for path in (beside, tmp_path / "fast/images/made/notes.txt"):
        path.write_text("somebody's")
    delete = Action(delete_image=DeleteImage(target=address("fast/base")))
    refused = await rig.run(attempt_name("delete"), delete)
    assert refused.failure.reason == "IMAGE_UNSAFE"
    assert beside.name in refused.failure.message
    kept = await rig.make_up(attempt_name("copy", 2), COPY, copy_action("fast/base", "fast/made"))
    assert kept.failure.reason == "IMAGE_UNSAFE"
    assert (rig.images(), rig.staged()) == (["base", "made"], [])
    for path in (beside, tmp_path / "fast/images/made/notes.txt"):
        path.rename(tmp_path / path.name)
    await rig.run(attempt_name("again"), delete)
    await rig.make_up(attempt_name("copy", 3), COPY, copy_action("fast/base", "fast/made"))
    assert rig.images() == []
    await rig.runner.stop()


@needs_qemu
async def test_a_snapshot_of_an_image_that_others_keep_changing_is_given_up_some_time(
    tmp_path, monkeypatch
):
    """Whoever asked asks again; nothing has changed, and nothing is left."""
    monkeypatch.setattr(layering, "TRIES_MAX", 3)
    rig = Rig(tmp_path)
    await rig.start()
    rig.put("base", content(Format.QCOW2, b"x" * 4096), image_format=Format.QCOW2)
    snapshot = CreateSnapshot(target=address("fast/base"), snapshot_id="old")
    await rig.run(attempt_name("old"), Action(create_snapshot=snapshot))
    changed: list[str] = []

    def change(name: str) -> None:
        if name == crash_points.BEFORE_RENAME:
            layout, image = rig.pools["fast"].layout, tmp_path / "fast/images/base"
            changed.append(name)
            label = layout.label("base")
            layout.write_label(image, replace(label, written_bytes=label.written_bytes + 1))

    rig.crash = change
    await rig.restart()
    delete = DeleteSnapshot(target=address("fast/base"), snapshot_id="old")
    failed = await rig.run(attempt_name("gone"), Action(delete_snapshot=delete))
    assert (failed.failure.reason, failed.failure.retriable) == ("CONFLICT", True)
    assert (len(changed), rig.staged()) == (3, [])
    assert [one.snapshot_id for one in rig.pools["fast"].find("base").snapshots] == ["old"]
    await rig.runner.stop()
