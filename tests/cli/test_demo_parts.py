"""The parts of the demo, each by itself; the whole of it is tests/endtoend/test_demo.py."""

import asyncio
import io
import signal
import sys
from pathlib import Path

import pytest
from rich.console import Console

from countermand.cli.demo import images, proof, stage
from countermand.cli.demo.array import CONTROLLERS, EXTENT_BYTES, Volume
from countermand.cli.demo.board import Board
from countermand.cli.demo.processes import Processes, ProcessFailed
from countermand.cli.demo.tempo import FAST, NORMAL, Tempo
from countermand.cli.demo.tree import Tree, picture, shortened
from countermand.client.external import TaskFailed
from countermand.v1.attempt_pb2 import Attempt, Progress
from countermand.v1.event_pb2 import HistoryEvent, TaskAdded
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import AttemptProgress, WatchWorkflowResponse
from tests.cli.histories import MIB, Tale, compensated

READY = 'print(\'{"event": "x.ready", "address": "127.0.0.1:1"}\', flush=True)'
WAIT = "import time; time.sleep(600)"


def python(*lines: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(lines)]


# -- processes -----------------------------------------------------------------------------------


async def test_children_end_with_the_block_even_when_it_fails(tmp_path: Path) -> None:
    children = []

    async def demo() -> None:
        async with Processes(tmp_path) as processes:
            children.append(await processes.start("a", python(READY, WAIT)))
            children.append(await processes.start("b", python(READY, WAIT)))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await demo()
    assert [child.process.returncode for child in children] == [-signal.SIGTERM] * 2


async def test_a_killed_child_says_so(tmp_path: Path) -> None:
    async with Processes(tmp_path) as processes:
        child = await processes.start("a", python(READY, WAIT))
        assert child.address == "127.0.0.1:1"
        child.kill()
        assert await child.wait_killed()
        child.kill()  # has gone: nobody else is hit


async def test_a_child_that_does_not_get_ready_shows_its_log(tmp_path: Path) -> None:
    async with Processes(tmp_path) as processes:
        with pytest.raises(ProcessFailed, match=r"(?s)a ended with code 3 .* cannot listen"):
            await processes.start("a", python(_fails()))


def _fails() -> str:
    return "import sys; print('cannot listen', file=sys.stderr); sys.exit(3)"


async def test_a_cancelled_demo_still_ends_its_children(tmp_path: Path) -> None:
    started = asyncio.Event()
    children = []

    async def demo() -> None:
        async with Processes(tmp_path) as processes:
            children.append(await processes.start("a", python(READY, WAIT)))
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(demo())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not children[0].is_alive


# -- images and proof ----------------------------------------------------------------------------


def test_an_image_is_large_to_a_guest_and_holds_its_data_scattered(tmp_path: Path) -> None:
    path = images.make(images.Disk("disk-1", 256, 3), tmp_path, "raw")
    status = path.stat()
    assert status.st_size == 256 * images.MIB
    assert 3 * images.MIB <= status.st_blocks * 512 < 4 * images.MIB


@pytest.mark.parametrize("tempo", [NORMAL, FAST])
def test_sizes_decide_who_is_first(tempo: Tempo) -> None:
    first, second, third = (disk.data_mib for disk in tempo.disks)
    assert first * 1.5 < tempo.room_left_mib < second / 1.5
    assert tempo.room_left_mib < third
    assert all(disk.virtual_mib >= 256 for disk in tempo.disks)


def test_listings_differ_by_what_came_went_or_changed(tmp_path: Path) -> None:
    for name, content in (("kept", b"1"), ("gone", b"2"), ("changed", b"3")):
        (tmp_path / name).write_bytes(content)
    before = proof.take({"fast": tmp_path})
    assert before == proof.take({"fast": tmp_path})
    (tmp_path / "gone").unlink()
    (tmp_path / "changed").write_bytes(b"4")
    (tmp_path / "new").mkdir()
    after = proof.take({"fast": tmp_path})
    assert before.differences(after) == [
        "gone: fast/gone",
        "new: fast/new",
        "changed: fast/changed",
    ]
    assert before.digest != after.digest


def test_a_copy_that_differs_is_named(tmp_path: Path) -> None:
    source, same, other = (tmp_path / name for name in ("source", "same", "other"))
    source.write_bytes(b"x" * 100)
    same.write_bytes(b"x" * 100)
    other.write_bytes(b"x" * 99 + b"y")
    assert proof.unequal([(source, same), (source, other)]) == ["other"]


# -- the board -----------------------------------------------------------------------------------


def test_a_pipe_hears_the_story_in_order() -> None:
    workflow, events = compensated().told()
    board = Board(workflow.tasks)
    said = [words for event in events for words in board.apply(WatchWorkflowResponse(event=event))]
    assert said[-7:] == [
        "copy-disk-2 on host-b: ⊘ stopped at 131 MiB",
        "copy-disk-1 on host-a: delete the copy",
        "a coordinator took over, epoch 2",
        "copy-disk-1 on host-a: ↺ done",
        "create-data-disk on host-a: delete the image",
        "create-data-disk on host-a: ↺ done",
        "workflow: compensated",
    ]
    assert board.actions["hand-over"].words == "never started"


def test_progress_has_a_pace_and_is_told_by_quarters() -> None:
    workflow, events = compensated().told()
    board = Board(workflow.tasks)
    name = f"{workflow.name}/tasks/copy-disk-1/attempts/1"
    for event in events:
        list(board.apply(WatchWorkflowResponse(event=event)))
        if event.HasField("attempt_started") and event.task.endswith("copy-disk-1"):
            break
    said: list[str] = []
    for done in (10, 30, 40, 60):
        progress = Progress(done=done * MIB, total=100 * MIB, rate=20 * MIB)
        update = AttemptProgress(attempt=name, progress=progress)
        said += board.apply(WatchWorkflowResponse(progress=update))
    assert said == [
        "copy-disk-1 on host-a: 30% at 20.0 MiB/s",
        "copy-disk-1 on host-a: 60% at 20.0 MiB/s",
    ]
    assert board.actions["copy-disk-1"].pace == "20.0 MiB/s, 2.0 s left"


def test_an_attempt_that_has_ended_makes_no_progress() -> None:
    workflow, events = compensated().told()
    board = Board(workflow.tasks)
    for event in events:
        list(board.apply(WatchWorkflowResponse(event=event)))
    name = f"{workflow.name}/tasks/copy-disk-3/attempts/1"
    late = AttemptProgress(attempt=name, progress=Progress(done=84, total=100, rate=42))

    assert list(board.apply(WatchWorkflowResponse(progress=late))) == []


# -- the tree, and the vendor's volumes ----------------------------------------------------------


def clone_half_way() -> Tale:
    tale = Tale("vm-1")
    tale.plant("seed", host="host-a").state = Task.STATE_SUCCEEDED
    clone = tale.plant("clone", kind=Task.KIND_EXTERNAL, verb="clone", owner_id="acme")
    clone.progress.CopyFrom(Progress(done=50, total=100, unit="percent"))
    east = tale.plant("clone.east", parent="clone", kind=Task.KIND_EXTERNAL, owner_id="acme")
    east.progress.CopyFrom(Progress(done=24, total=48, unit="extents"))
    clone.state = east.state = Task.STATE_RUNNING
    tale.plant("check", host="host-a")
    tale.workflow.progress.CopyFrom(Progress(done=40, total=100, unit="percent"))
    return tale


@pytest.mark.parametrize("width", [100, 62])
def test_a_tree_shows_whose_work_it_is_and_how_far_as_wide_as_there_is_room(width: int) -> None:
    tale, console = clone_half_way(), Console(width=width, record=True, file=io.StringIO())
    console.print(picture(Tree(tale.workflow, list(tale.tasks.values())), console))
    lines = console.export_text().splitlines()
    assert [line.split()[:3] for line in lines[:4]] == [
        ["✓", "seed", "host-a"],
        ["▸", "clone", "acme"],
        ["▸", "clone.east", "acme"],
        ["·", "check", "host-a"],
    ]
    assert lines[2].startswith("    ▸ clone.east")
    assert lines[2].endswith(" 50%, 24 of 48 extents")
    assert lines[4].endswith(" 40% of all, by weight")
    assert max(map(len, lines)) <= width


def test_a_pipe_hears_what_a_vendor_adds_before_it_is_read() -> None:
    tale, tree = clone_half_way(), Tree()
    assert list(tree.look(tale.workflow, [tale.tasks["clone"]])) == ["vm-1 as a whole: 40%"]
    name = f"{tale.workflow.name}/tasks/clone.west"
    added = TaskAdded(parent=tale.tasks["clone"].name, owner_id="acme")
    said = tree.apply(WatchWorkflowResponse(event=HistoryEvent(task=name, task_added=added)))
    assert list(said) == ["clone.west: acme adds it under clone"]
    event = HistoryEvent(task=name)
    event.attempt_ended.attempt, event.attempt_ended.state = 1, Attempt.STATE_SUCCEEDED
    event.attempt_ended.progress.CopyFrom(Progress(done=24, total=24, unit="extents"))
    said = tree.apply(WatchWorkflowResponse(event=event))
    assert list(said) == ["clone.west by acme: ✓ done, 24 extents"]
    late = AttemptProgress(attempt=f"{name}/attempts/1", progress=Progress(done=12, total=24))
    assert list(tree.apply(WatchWorkflowResponse(progress=late))) == []


def test_a_digest_in_a_sentence_is_told_by_its_first_digits() -> None:
    assert shortened(f"blake3-4m:{'0a' * 32}, not 12 of 48") == "blake3-4m:0a0a0a0a…, not 12 of 48"


def test_a_volume_is_made_once_by_one_attempt_and_goes_on_where_it_was(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(EXTENT_BYTES) + b"x" * EXTENT_BYTES)
    volume = Volume(tmp_path / "volume")
    for _life in range(2):
        volume.make(2 * EXTENT_BYTES, "attempt-1", tmp_path / "work")
        with pytest.raises(TaskFailed):
            volume.make(2 * EXTENT_BYTES, "attempt-2", tmp_path / "work")
        for extent in range(2):
            volume.clone_extent(source, extent)
    assert volume.content.read_bytes() == source.read_bytes()
    assert volume.content.stat().st_blocks * 512 < 2 * EXTENT_BYTES  # the hole is one still
    volume.note(CONTROLLERS[0], 1)
    assert (volume.done(CONTROLLERS[0]), volume.is_half_done) == (1, True)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "volume"}
    volume.flip_bit()
    assert volume.content.read_bytes() != source.read_bytes()


def test_a_command_to_type_is_one_that_the_shell_finds(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    monkeypatch.setattr("shutil.which", lambda _name: None)
    assert stage.typed("demo") == f"{tmp_path}/.venv/bin/countermand demo"
    monkeypatch.chdir(tmp_path)
    assert stage.typed("demo") == ".venv/bin/countermand demo"
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert stage.typed("demo", "--keep") == "countermand demo --keep"
