"""What every verb owes: act, repeat, make up, repeat; and the same when the power is cut anywhere.

Each story is first run undisturbed, noting every crash point it passes; then once more for each of
them, with the power cut exactly there (S-V6, S-V7, S-Z5, S-Z9, S-Z14). Inside the test, so that
there can be hundreds; `test_processes` does it with real processes and SIGKILL.

Each driver tells each story that it has a verb for, on a file system of the kind it is made for.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent import crash_points
from agent.drivers import qemu
from agent.drivers.copying import CHUNK_BYTES
from agent.drivers.driver import Format
from agent.journal import InlineJournal
from agent.verbs.catalogue import name_of
from countermand.rpc import crash
from countermand.rpc.errors import Compensated
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.image_pb2 import IMAGE_FORMAT_QCOW2
from countermand.v1.verb_pb2 import (
    Action,
    CloneImage,
    CreateImage,
    CreateSnapshot,
    DeleteImage,
    DeleteSnapshot,
    ResizeImage,
    RevertImage,
    VerifyImage,
)
from tests.agent.requests import address, attempt_name, copy_action, noop_action
from tests.agent.rig import Gate, Rig
from tests.agent.storages import STORAGES, Place, Places, Storage

DO = attempt_name("do")
UNDO = attempt_name("do", 2)
CONTENT = os.urandom(CHUNK_BYTES) + bytes(CHUNK_BYTES) + os.urandom(512)
NEWER = os.urandom(512) + bytes(CHUNK_BYTES) + os.urandom(CHUNK_BYTES)  # since the snapshot
LATER = [NEWER, *(os.urandom(512) + NEWER[512:] for _ in range(2))]  # since each snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One action, and the images and snapshots that are there before and after it."""

    action: Action
    after: tuple[str, ...] = ("base", "made")
    compensable: bool = True
    needs_qemu: bool = False
    base: Format = Format.RAW
    snapshots: tuple[str, ...] = ()  # that the base has, oldest first, and newer content than each
    below: bool = False  # the base is an overlay on another image

    @property
    def before(self) -> list[str]:
        """Returns what is there before."""
        names = {"base", *(f"base@{snapshot_id}" for snapshot_id in self.snapshots)}
        return sorted({*names, "below"} if self.below else names)


def revert(**fields: Any) -> Action:
    """Returns a revert of the base to its old content."""
    target = address("fast/base")
    return Action(revert_image=RevertImage(target=target, snapshot_id="old", **fields))


def resize(size_bytes: int, **fields: Any) -> Action:
    """Returns a resize of the base."""
    target = address("fast/base")
    return Action(resize_image=ResizeImage(target=target, virtual_size_bytes=size_bytes, **fields))


def delete_snapshot(snapshot_id: str) -> Action:
    """Returns the end of a snapshot of the base."""
    target = address("fast/base")
    return Action(delete_snapshot=DeleteSnapshot(target=target, snapshot_id=snapshot_id))


SNAPSHOT = Action(create_snapshot=CreateSnapshot(target=address("fast/base"), snapshot_id="made"))
CASES = {
    "create": Case(
        action=Action(create_image=CreateImage(target=address("fast/made"), virtual_size_bytes=512))
    ),
    "create-qcow2": Case(
        action=Action(
            create_image=CreateImage(
                target=address("fast/made"), virtual_size_bytes=512, format=IMAGE_FORMAT_QCOW2
            )
        ),
        needs_qemu=True,
    ),
    "copy": Case(action=copy_action("fast/base", "fast/made", take_digest=True)),
    "convert": Case(
        action=copy_action("fast/base", "fast/made", format=IMAGE_FORMAT_QCOW2), needs_qemu=True
    ),
    "clone": Case(
        action=Action(
            clone_image=CloneImage(
                source=address("fast/base"), target=address("fast/made"), copy_allowed=True
            )
        )
    ),
    "delete": Case(
        action=Action(delete_image=DeleteImage(target=address("fast/base"))),
        after=(),
        compensable=False,
    ),
    "create-snapshot": Case(action=SNAPSHOT, after=("base", "base@made")),
    "create-snapshot-qcow2": Case(action=SNAPSHOT, after=("base", "base@made"), base=Format.QCOW2),
    "delete-snapshot": Case(
        action=delete_snapshot("old"),
        after=("base",),
        compensable=False,
        snapshots=("old",),
    ),
    # What was written since is more than what it held, so it is brought up into the base.
    "delete-snapshot-qcow2": Case(
        action=delete_snapshot("old"),
        after=("base",),
        compensable=False,
        base=Format.QCOW2,
        snapshots=("old",),
        needs_qemu=True,
    ),
    # Here it is less, and is brought down, under the name of another snapshot.
    "delete-snapshot-in-a-chain": Case(
        action=delete_snapshot("old"),
        after=("base", "base@new", "base@older", "below"),
        compensable=False,
        base=Format.QCOW2,
        below=True,
        snapshots=("older", "old", "new"),
        needs_qemu=True,
    ),
    "create-snapshot-in-a-chain": Case(
        action=SNAPSHOT,
        after=("base", "base@made", "base@old", "below"),
        base=Format.QCOW2,
        below=True,
        snapshots=("old",),
        needs_qemu=True,
    ),
    "grow": Case(action=resize(4 * CHUNK_BYTES), after=("base",)),
    "grow-qcow2": Case(
        action=resize(4 * CHUNK_BYTES), after=("base",), base=Format.QCOW2, needs_qemu=True
    ),
    "shrink": Case(
        action=resize(CHUNK_BYTES, shrink_allowed=True), after=("base",), compensable=False
    ),
    "shrink-qcow2": Case(
        action=resize(CHUNK_BYTES, shrink_allowed=True),
        after=("base", "base@old"),
        compensable=False,
        base=Format.QCOW2,
        snapshots=("old",),
        needs_qemu=True,
    ),
    "revert": Case(
        action=revert(), after=("base", "base@old"), compensable=False, snapshots=("old",)
    ),
    "revert-safely": Case(
        action=revert(safety_snapshot_id="safe"),
        after=("base", "base@old", "base@safe"),
        snapshots=("old",),
    ),
    "revert-safely-qcow2": Case(
        action=revert(safety_snapshot_id="safe"),
        after=("base", "base@old", "base@safe"),
        base=Format.QCOW2,
        snapshots=("old",),
    ),
    "revert-qcow2": Case(
        action=revert(),
        after=("base", "base@old", "below"),
        compensable=False,
        base=Format.QCOW2,
        below=True,
        snapshots=("old",),
        needs_qemu=True,
    ),
    "verify": Case(
        action=Action(verify_image=VerifyImage(target=address("fast/base"))), after=("base",)
    ),
    "verify-qcow2": Case(
        action=Action(verify_image=VerifyImage(target=address("fast/base"))),
        after=("base",),
        needs_qemu=True,
        base=Format.QCOW2,
    ),
    "noop": Case(action=noop_action(), after=("base",)),
}


# Passed once more at every look at a tool.
POLLED = {crash_points.IN_COPY, crash_points.IN_MERGE}


class PowerCutError(BaseException):
    """Passes everything that catches errors, as a power cut would."""


class Power:
    """Counts the crash points that are passed, and cuts the power at one of them."""

    def __init__(self, at: tuple[str, int] | None = None) -> None:
        self.passed: Counter[str] = Counter()
        self._at = at
        self.cut = asyncio.Event()

    def __call__(self, name: str) -> None:
        self.passed[name] += 1
        if self.cut.is_set() or (name, self.passed[name]) == self._at:
            self.cut.set()  # nothing works after it either
            raise PowerCutError(name)

    def places(self, case: Case) -> list[tuple[str, int]]:
        """Returns every place that was passed; how often a tool is looked at is left to chance."""
        times = dict(self.passed)
        has_tools = case.needs_qemu or case.base is Format.QCOW2
        for name in POLLED & times.keys() if has_tools else ():
            times[name] = min(times[name], 2)  # before it, and while it runs
        return [(name, time + 1) for name in times for time in range(times[name])]


async def start(place: Place, power: crash.Crash, *, gate: Gate | None = None) -> Rig:
    options = {**place.config(place.folder / "fast"), "flush_bytes": CHUNK_BYTES}
    rig = Rig(place.folder, options={"fast": options}, crash_at=power, locate=place.locate)
    await rig.start(gate=gate)
    return rig


async def lose(rig: Rig) -> None:
    """Forgets an agent whose power was cut: nothing more of it runs."""
    assert isinstance(rig.runner.journal, InlineJournal)
    rig.runner.journal._journal.close()
    for task in list(rig.runner._tasks):
        task.cancel()
    with contextlib.suppress(PowerCutError):
        await asyncio.gather(*rig.runner._tasks, return_exceptions=True)


async def until_cut(rig: Rig, power: Power, *steps: Callable[[Rig], Awaitable[None]]) -> None:
    """Does one step after the other until the power is cut."""
    for step in steps:
        with contextlib.suppress(PowerCutError):
            await step(rig)
        if power.cut.is_set():
            break
    assert power.cut.is_set()
    await lose(rig)


@functools.cache
def content(image_format: Format, raw: bytes) -> bytes:
    """Returns the bytes of an image that a guest would read so."""
    if image_format is Format.RAW:
        return raw
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "raw", Path(folder) / "qcow2"
        source.write_bytes(raw)
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", source, target], check=True)
        return target.read_bytes()


async def prepared(place: Place, case: Case) -> dict[str, str]:
    """Makes what is there before; returns its digests."""
    rig = await start(place, crash.never)
    first = "below" if case.below else "base"
    rig.put(first, content(case.base, CONTENT), image_format=case.base)
    if case.below:
        clone = CloneImage(source=address("fast/below"), target=address("fast/base"))
        await prepare(rig, "clone", Action(clone_image=clone))
    for snapshot_id, newer in zip(case.snapshots, LATER, strict=False):
        create = CreateSnapshot(target=address("fast/base"), snapshot_id=snapshot_id)
        await prepare(rig, snapshot_id, Action(create_snapshot=create))
        write(rig, newer)
    await rig.runner.stop()
    assert rig.images() == case.before
    return digests(rig)


async def prepare(rig: Rig, task: str, action: Action) -> None:
    made = await rig.run(attempt_name(task), action)
    assert made.state == Attempt.STATE_SUCCEEDED, made


def write(rig: Rig, newer: bytes) -> None:
    """Writes to the base as a guest would: all of it, and after that only the beginning."""
    path = rig.data("base")
    if path.suffix == ".raw":
        path.write_bytes(newer)
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(newer if newer is NEWER else newer[:512])
        file.flush()
        if newer is NEWER:
            arguments = ["qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2", file.name, path]
        else:
            arguments = ["qemu-io", "-f", "qcow2", "-c", f"write -s {file.name} 0 512", path]
        subprocess.run([str(each) for each in arguments], check=True, capture_output=True)


def digests(rig: Rig) -> dict[str, str]:
    """Returns what a guest reads of images and snapshots; nothing else may lie beside them."""
    return {name: hashlib.sha256(read(rig, name)).hexdigest() for name in rig.images()}


def read(rig: Rig, name: str) -> bytes:
    path = rig.data(name)
    if path.suffix != ".qcow2":
        return path.read_bytes()
    layout = rig.pools["fast"].layout
    label = layout.label(name)
    meant = layout.label(path.parent.name).data_names
    assert {entry.name for entry in path.parent.iterdir()} == {"image.json", *meant}, name
    with tempfile.TemporaryDirectory() as folder:
        flat = Path(folder) / "flat"
        arguments = ["-f", "qcow2", "-O", "raw", str(path), str(flat)]
        subprocess.run(["qemu-img", "convert", *arguments], check=True)
        assert flat.stat().st_size == label.virtual_size_bytes, name
        return flat.read_bytes()


def agree(rig: Rig, case: Case, attempt: Attempt) -> None:
    """Makes sure that listing, inspecting and the journal say the same of what was made."""
    driver = rig.pools["fast"]
    listed = driver.list_images(after="", count_max=99)
    names = [image.image_id for image in listed]
    names += [f"{image.image_id}@{one.snapshot_id}" for image in listed for one in image.snapshots]
    assert sorted(names) == sorted(case.after)
    assert listed == [driver.find(image.image_id) for image in listed]
    if "made" in case.after:
        assert driver.find("made").attempt == DO
    output = getattr(attempt.output, name_of(case.action), None)
    target = getattr(getattr(case.action, name_of(case.action)), "target", None)
    if output is None or "generation" not in output.DESCRIPTOR.fields_by_name:
        return
    if target is not None and target.image_id in names:
        assert driver.find(target.image_id).generation == output.generation


async def act(rig: Rig, case: Case) -> None:
    await rig.run(DO, case.action)


async def make_up(rig: Rig, case: Case) -> None:
    await rig.make_up(UNDO, DO, case.action)


def can_tell(storage: Storage, case: Case) -> bool:
    """Returns whether a case is one that a storage's driver has the verb and the format for."""
    needs_raw_only = not case.needs_qemu and case.base is Format.RAW
    return storage.tells(name_of(case.action)) and (storage.has_qcow2 or needs_raw_only)


STORIES = {
    f"{name}-{case}": (storage, CASES[case])
    for name, storage in STORAGES.items()
    for case in CASES
    if can_tell(storage, CASES[case])
}


@pytest.fixture(params=STORIES)
def story(request):
    storage, case = STORIES[request.param]
    if (case.needs_qemu or case.base is Format.QCOW2) and not qemu.is_installed():
        pytest.skip("qemu-img is not installed: apt install qemu-utils")
    return storage, case


@pytest.fixture
def case(story):
    return story[1]


@pytest.fixture
def places(story, request, tmp_path) -> Places:
    storage: Storage = story[0]
    return storage.places(request, tmp_path)


async def test_acts_once_and_is_made_up_for_once(case, places):
    with places() as place:
        before = await prepared(place, case)
        rig = await start(place, crash.never)
        first = await rig.run(DO, case.action)
        assert first.state == Attempt.STATE_SUCCEEDED, first
        assert (rig.images(), rig.staged()) == (list(case.after), [])
        agree(rig, case, first)
        assert (await rig.run(DO, case.action)).output == first.output
        undone = await rig.make_up(UNDO, DO, case.action)
        if case.compensable:
            assert undone.state == Attempt.STATE_SUCCEEDED, undone
            again = await rig.make_up(attempt_name("do", 3), DO, case.action)
            assert again.state == undone.state
            assert digests(rig) == before
        else:
            assert undone.failure.reason == "VERB_UNSUPPORTED"
        assert rig.staged() == []
        await rig.runner.stop()


async def test_succeeds_wherever_the_power_was_cut(case, places):
    power = Power()
    with places() as place:
        await prepared(place, case)
        rig = await start(place, power)
        calm = await rig.run(DO, case.action)
        await rig.runner.stop()
        after = digests(rig)
    assert power.places(case)
    for at in power.places(case):
        with places() as place:
            await prepared(place, case)
            power = Power(at)
            await until_cut(await start(place, power), power, lambda rig: act(rig, case))
            rig = await start(place, crash.never)
            again = await rig.run(DO, case.action)
            assert again.state == Attempt.STATE_SUCCEEDED, (at, again)
            assert (rig.images(), rig.staged()) == (list(case.after), []), at
            agree(rig, case, again)
            for output in (calm.output.copy_image, again.output.copy_image):
                if case.needs_qemu:  # counted in the file system's blocks, which vary by one
                    output.ClearField("written_bytes")
            assert again.output == calm.output, at
            assert digests(rig) == after, at
            await rig.runner.stop()


async def test_can_be_made_up_for_wherever_the_power_was_cut(case, places):
    if not case.compensable:
        return
    power = Power()
    with places() as place:
        await prepared(place, case)
        rig = await start(place, power)
        await act(rig, case)
        await make_up(rig, case)
        await rig.runner.stop()
    assert set(crash_points.OF_COMPENSATIONS) - set(power.passed) <= {crash_points.IN_COMPENSATION}
    for at in power.places(case):
        with places() as place:
            before = await prepared(place, case)
            power = Power(at)
            rig = await start(place, power)
            await until_cut(rig, power, lambda rig: act(rig, case), lambda rig: make_up(rig, case))
            rig = await start(place, crash.never)
            undone = await rig.make_up(UNDO, DO, case.action)
            assert undone.state == Attempt.STATE_SUCCEEDED, (at, undone)
            with contextlib.suppress(Compensated):
                assert (await rig.run(DO, case.action)).tombstoned, at
            assert (digests(rig), rig.staged()) == (before, []), at
            await rig.runner.stop()


async def test_can_be_cancelled_at_every_step(case, places):
    """S-V19, S-Z15: stopped with nothing left, or done with all of it; both say the same."""
    states = []
    for steps in range(1, 24):
        with places() as place:
            before = await prepared(place, case)
            gate = Gate()
            rig = await start(place, crash.never, gate=gate)
            await rig.accept(DO, case.action)
            held = asyncio.ensure_future(gate.arrival(steps))
            ended = asyncio.ensure_future(rig.settled(DO))
            await asyncio.wait([held, ended], return_when=asyncio.FIRST_COMPLETED)
            await rig.cancel(DO)
            gate.open()
            state = (await ended).state
            states.append(state)
            held.cancel()
            expected = list(case.after) if state == Attempt.STATE_SUCCEEDED else case.before
            assert (rig.images(), rig.staged()) == (expected, []), steps
            if state != Attempt.STATE_SUCCEEDED:
                assert digests(rig) == before, steps
            await rig.runner.stop()
        if state == Attempt.STATE_SUCCEEDED:
            break
    assert states[-1] == Attempt.STATE_SUCCEEDED
    assert set(states[:-1]) <= {Attempt.STATE_CANCELLED}
