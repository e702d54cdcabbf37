"""The `file` driver on real files: what it makes, what it refuses, what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from agent.drivers import qemu
from agent.drivers.copying import CHUNK_BYTES
from agent.drivers.driver import Format
from agent.drivers.room import WAIT_S_MAX, Bandwidth, Writer
from countermand.rpc.errors import FieldInvalid, ImageUnsafe, PoolReadOnly
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.image_pb2 import IMAGE_FORMAT_QCOW2, IMAGE_FORMAT_RAW
from countermand.v1.verb_pb2 import (
    Action,
    CloneImage,
    CreateImage,
    CreateSnapshot,
    DeleteImage,
    VerifyImage,
)
from tests.agent.digests import digest
from tests.agent.requests import address, attempt_name, copy_action
from tests.agent.rig import NOW, Gate, Rig

MIB = 2**20
COPY = attempt_name("copy")
UNDO = attempt_name("copy", 2)
ACTION = copy_action("fast/base", "fast/disk")
CONTENT = os.urandom(CHUNK_BYTES) + bytes(CHUNK_BYTES) + os.urandom(CHUNK_BYTES + 512)

SUCCEEDED = Attempt.STATE_SUCCEEDED
FAILED = Attempt.STATE_FAILED

needs_qemu = pytest.mark.skipif(
    not qemu.is_installed(), reason="qemu-img is not installed: apt install qemu-utils"
)


def clone_action(source: str, target: str, **fields) -> Action:
    return Action(clone_image=CloneImage(source=address(source), target=address(target), **fields))


def create_action(target: str, size_bytes: int, **fields) -> Action:
    create = CreateImage(target=address(target), virtual_size_bytes=size_bytes, **fields)
    return Action(create_image=create)


def delete_action(target: str) -> Action:
    return Action(delete_image=DeleteImage(target=address(target)))


def run(*arguments: object) -> None:
    subprocess.run(list(map(str, arguments)), check=True, capture_output=True)


async def refused(rig: Rig, action: Action, task: str = "copy") -> str:
    """Runs what must fail and leave nothing half-made; returns the reason."""
    failed = await rig.run(attempt_name(task), action)
    assert failed.state == FAILED, failed
    assert rig.staged() == []
    return failed.failure.reason


# -- create -------------------------------------------------------------------------------------


@pytest.mark.parametrize("preallocated", [False, True])
async def test_creates_a_raw_image(rig, preallocated):
    made = await rig.run(COPY, create_action("fast/new", 8 * MIB, preallocated=preallocated))
    assert made.state == SUCCEEDED, made
    found = rig.data("new").stat()
    assert found.st_size == 8 * MIB
    assert (found.st_blocks * 512 >= 8 * MIB) == preallocated
    label = json.loads((rig.data("new").parent / "image.json").read_text())
    assert (label["attempt"], label["cluster_id"], label["generation"]) == (COPY, "cluster-a", 1)
    assert label["create_time"] == NOW.isoformat()


@needs_qemu
async def test_creates_a_qcow2_image(rig):
    action = create_action("fast/new", 8 * MIB, format=IMAGE_FORMAT_QCOW2)
    made = await rig.run(COPY, action)
    assert made.output.create_image.virtual_size_bytes == 8 * MIB, made
    assert rig.pools["fast"].find("new").format is Format.QCOW2


# -- copy ---------------------------------------------------------------------------------------


async def test_a_copy_keeps_holes_and_leaves_zeros_out(rig):
    target = address("fast/base")
    empty = CreateImage(target=target, virtual_size_bytes=256 * MIB)
    assert (await rig.run(attempt_name("base"), Action(create_image=empty))).state == SUCCEEDED
    source = rig.data("base")
    with source.open("r+b") as file:
        file.write(b"a" * MIB)
        file.seek(64 * MIB)
        file.write(bytes(CHUNK_BYTES))  # zeros that take room
        file.seek(128 * MIB)
        file.write(b"b" * MIB)
    copied = await rig.run(COPY, copy_action("fast/base", "fast/disk", take_digest=True))
    assert copied.state == SUCCEEDED, copied
    found = rig.data("disk").stat()
    assert found.st_size == 256 * MIB
    assert copied.progress.done == copied.progress.total == 256 * MIB
    assert found.st_blocks * 512 <= source.stat().st_blocks * 512 - CHUNK_BYTES
    assert copied.output.copy_image.digest == digest(source.read_bytes())
    assert rig.data("disk").read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    "content",
    [b"", b"x", CONTENT, bytes(CHUNK_BYTES), b"x" * CHUNK_BYTES],
    ids=["empty", "one-byte", "odd-end", "all-zero", "one-chunk"],
)
async def test_a_copy_has_the_same_content(rig, content):
    rig.put("base", content)
    copied = await rig.run(COPY, copy_action("fast/base", "fast/disk", take_digest=True))
    assert copied.output.copy_image.digest == digest(content), copied
    assert rig.data("disk").read_bytes() == content


async def test_what_has_no_room_is_refused_before_its_first_byte(tmp_path):
    """S-Z26: it says what it needs and what is there; what else is in the pool is untouched."""
    rig = Rig(tmp_path, options={"templates": {}, "fast": {"quota_bytes": 3 * CHUNK_BYTES}})
    await rig.start()
    rig.put("base", os.urandom(2 * CHUNK_BYTES), pool_id="templates")
    first = await rig.run(attempt_name("a"), copy_action("templates/base", "fast/a"))
    assert first.state == SUCCEEDED, first
    before = rig.pools["fast"].room.used_bytes
    failed = await rig.run(attempt_name("b"), copy_action("templates/base", "fast/b"))
    assert (failed.state, failed.failure.reason) == (FAILED, "NO_SPACE")
    assert failed.failure.metadata["needed"] == "it needs 8.0 MiB, and 4.0 MiB are left"
    assert failed.progress.done == 0
    assert (rig.images(), rig.staged()) == (["a"], [])
    assert rig.pools["fast"].room.used_bytes == before
    await rig.restart()
    assert rig.pools["fast"].room.used_bytes == before
    await rig.runner.stop()


@pytest.mark.parametrize("end", ["cancelled", "interrupted"])
async def test_what_one_copy_counts_on_no_other_gets(tmp_path, end):
    """S-Z26: what is reserved is told, and is free again however the attempt ends."""
    rig = Rig(tmp_path, options={"templates": {}, "fast": {"quota_bytes": 5 * CHUNK_BYTES}})
    await rig.start()
    rig.put("base", os.urandom(3 * CHUNK_BYTES), pool_id="templates")
    gate = Gate()
    await rig.restart(gate=gate)
    await rig.accept(attempt_name("a"), copy_action("templates/base", "fast/a"))
    await gate.arrival(2)  # its first chunk is written
    found = rig.pools["fast"].report()
    assert found.reserved_bytes == 2 * CHUNK_BYTES
    assert found.free_bytes == 2 * CHUNK_BYTES
    if end == "cancelled":
        await rig.cancel(attempt_name("a"))
    else:
        rig.runner.running[attempt_name("a")].interrupt()
    gate.open()
    await rig.settled(attempt_name("a"))
    assert rig.pools["fast"].report().reserved_bytes == 0
    await rig.restart()
    if end == "interrupted":  # it goes on, and reserves only what is missing
        assert (await rig.settled(attempt_name("a"))).state == SUCCEEDED
        free = rig.pools["fast"].report().free_bytes
        assert 2 * CHUNK_BYTES - MIB < free < 2 * CHUNK_BYTES  # its label takes a block
    else:
        copied = await rig.run(attempt_name("b"), copy_action("templates/base", "fast/b"))
        assert copied.state == SUCCEEDED, copied
    await rig.runner.stop()


async def test_a_second_copy_is_refused_while_the_first_has_the_room(tmp_path):
    rig = Rig(tmp_path, options={"templates": {}, "fast": {"quota_bytes": 5 * CHUNK_BYTES}})
    await rig.start()
    rig.put("base", os.urandom(3 * CHUNK_BYTES), pool_id="templates")
    gate = Gate()
    await rig.restart(gate=gate)
    for name in "ab":
        await rig.accept(attempt_name(name), copy_action("templates/base", f"fast/{name}"))
    await gate.arrival(3)
    gate.open()
    settled = [await rig.settled(attempt_name(name)) for name in "ab"]
    assert sorted(attempt.failure.reason for attempt in settled) == ["", "NO_SPACE"]
    assert rig.staged() == []
    await rig.runner.stop()


@pytest.mark.parametrize("image_format", [IMAGE_FORMAT_RAW, IMAGE_FORMAT_QCOW2])
async def test_a_preallocated_image_that_has_no_room_is_refused(tmp_path, image_format):
    if image_format == IMAGE_FORMAT_QCOW2 and not qemu.is_installed():
        pytest.skip("qemu-img is not installed: apt install qemu-utils")
    rig = Rig(tmp_path, options={"fast": {"quota_bytes": 8 * MIB}})
    await rig.start()
    small = create_action("fast/small", MIB, preallocated=True, format=image_format)
    assert (await rig.run(attempt_name("small"), small)).state == SUCCEEDED
    large = create_action("fast/large", 9 * MIB, preallocated=True, format=image_format)
    assert (await rig.run(attempt_name("large"), large)).failure.reason == "NO_SPACE"
    thin = create_action("fast/thin", 9 * MIB, format=image_format)
    assert (await rig.run(attempt_name("thin"), thin)).state == SUCCEEDED
    await rig.runner.stop()


async def test_a_copy_shares_its_data_where_the_file_system_can(xfs_mount):
    """In no time, with a digest all the same; what is written to one is not seen in the other."""
    rig = Rig(xfs_mount, options={"fast": {}, "other": {}})
    await rig.start()
    source = rig.put("base", CONTENT)
    rig.pools["other"].room._storage_free = lambda: 0  # nothing is written
    action = copy_action("fast/base", "other/disk", take_digest=True)
    copied = await rig.run(COPY, action)
    assert copied.output.copy_image.digest == digest(CONTENT), copied
    assert copied.output.copy_image.written_bytes == 0
    target = rig.data("disk", "other")
    with source.open("r+b") as file:
        file.write(b"another")
    assert target.read_bytes() == CONTENT
    assert (await rig.make_up(UNDO, COPY, action)).state == SUCCEEDED
    assert (rig.images("other"), rig.staged("other")) == ([], [])
    await rig.runner.stop()


async def test_room_comes_back_when_a_copy_is_made_up_for(tmp_path):
    rig = Rig(tmp_path, options={"templates": {}, "fast": {"quota_bytes": 3 * CHUNK_BYTES}})
    await rig.start()
    rig.put("base", os.urandom(2 * CHUNK_BYTES), pool_id="templates")
    action = copy_action("templates/base", "fast/a")
    for number in (1, 3, 5):
        name = attempt_name("a", number)
        assert (await rig.run(name, action)).state == SUCCEEDED
        assert (await rig.make_up(attempt_name("a", number + 1), name, action)).state == SUCCEEDED
        assert rig.pools["fast"].room.used_bytes == 0
    await rig.runner.stop()


async def test_a_copy_goes_on_from_its_durable_offset(tmp_path):
    """S-V6: what was flushed is not copied again; the digest is of the whole all the same."""
    rig = Rig(tmp_path, options={"fast": {"flush_bytes": CHUNK_BYTES}})
    await rig.start()
    content = os.urandom(6 * CHUNK_BYTES)
    rig.put("base", content)
    gate = Gate()
    await rig.restart(gate=gate)
    await rig.accept(COPY, copy_action("fast/base", "fast/disk", take_digest=True))
    await gate.arrival(4)
    rig.runner.running[COPY].interrupt()
    gate.open()
    await rig.runner.stop()
    [staged] = (tmp_path / "fast/staging").iterdir()
    with (staged / "image/data.raw").open("r+b") as file:
        file.seek(3 * CHUNK_BYTES)
        file.write(b"what a power cut may leave beyond the durable offset")
        file.seek(0)
        file.write(b"not read again")
    await rig.start()
    copied = await rig.settled(COPY)
    assert copied.output.copy_image.written_bytes == len(content), copied
    assert copied.output.copy_image.digest == digest(content)
    found = rig.data("disk").read_bytes()
    assert found.startswith(b"not read again")
    assert found[CHUNK_BYTES:] == content[CHUNK_BYTES:]
    await rig.runner.stop()


async def test_a_copy_begins_again_when_its_source_has_changed(tmp_path):
    rig = Rig(tmp_path, options={"fast": {"flush_bytes": CHUNK_BYTES}})
    await rig.start()
    source = rig.put("base", os.urandom(3 * CHUNK_BYTES))
    gate = Gate()
    await rig.restart(gate=gate)
    await rig.accept(COPY, ACTION)
    await gate.arrival(3)
    rig.runner.running[COPY].interrupt()
    gate.open()
    await rig.runner.stop()
    source.write_bytes((b"changed" * CHUNK_BYTES)[: 3 * CHUNK_BYTES])
    await rig.start()
    assert (await rig.settled(COPY)).state == SUCCEEDED
    assert rig.data("disk").read_bytes() == source.read_bytes()
    await rig.runner.stop()


async def test_a_copy_waits_so_as_to_keep_to_its_bandwidth(tmp_path):
    waits: list[float] = []

    async def between(step):
        waits.append(step.wait_s)

    rig = Rig(tmp_path, options={"fast": {"bandwidth_bytes_per_s": 2 * CHUNK_BYTES}})
    await rig.start()
    rig.put("base", b"x" * 4 * CHUNK_BYTES)
    await rig.restart(gate=between)
    rig.pools["fast"].room.bandwidth.monotonic = lambda: sum(waits)
    assert (await rig.run(COPY, ACTION)).state == SUCCEEDED
    assert sum(waits) == pytest.approx(2.0)
    assert max(waits) <= 0.1  # the cancel flag is looked at after each
    await rig.runner.stop()


async def test_an_existing_target_is_refused_and_named(rig):
    """S-V23."""
    rig.put("base", CONTENT)
    kept = rig.put("disk", b"kept")
    assert await refused(rig, ACTION) == "IMAGE_EXISTS"
    assert kept.read_bytes() == b"kept"


async def test_a_target_that_appears_meanwhile_is_not_replaced(rig):
    rig.put("base", CONTENT)
    gate = Gate()
    await rig.restart(gate=gate)
    await rig.accept(COPY, ACTION)
    await gate.arrival(2)
    kept = rig.put("disk", b"kept")
    gate.open()
    failed = await rig.settled(COPY)
    assert (failed.state, failed.failure.reason) == (FAILED, "IMAGE_EXISTS")
    assert kept.read_bytes() == b"kept"
    assert rig.staged() == []


async def test_a_missing_source_is_named(rig):
    assert await refused(rig, ACTION) == "IMAGE_NOT_FOUND"


# -- what is not touched ------------------------------------------------------------------------


def link_data(rig: Rig) -> None:
    data = rig.data("base")
    data.rename(rig.folder / "elsewhere")
    data.symlink_to(rig.folder / "elsewhere")


def link_folder(rig: Rig) -> None:
    folder = rig.data("base").parent
    folder.rename(rig.folder / "elsewhere")
    folder.symlink_to(rig.folder / "elsewhere")


def hard_link(rig: Rig) -> None:
    os.link(rig.data("base"), rig.folder / "elsewhere")


def pipe(rig: Rig) -> None:
    data = rig.data("base")
    data.unlink()
    os.mkfifo(data)


def no_data(rig: Rig) -> None:
    rig.data("base").unlink()


def no_label(rig: Rig) -> None:
    (rig.data("base").parent / "image.json").unlink()


def bad_label(rig: Rig) -> None:
    (rig.data("base").parent / "image.json").write_text('{"format": "raw"}')


def says_qcow2(rig: Rig) -> None:
    data = rig.data("base")
    label = data.parent / "image.json"
    label.write_text(label.read_text().replace('"raw"', '"qcow2"'))
    data.rename(data.with_name("data.qcow2"))


def backing_outside(rig: Rig) -> None:
    says_qcow2(rig)
    head = bytearray(4096)
    head[:8] = b"QFI\xfb\x00\x00\x00\x03"
    head[8:16] = (200).to_bytes(8, "big")
    head[16:20] = (11).to_bytes(4, "big")
    head[200:211] = b"/etc/shadow"
    rig.data("base").write_bytes(head)


def data_outside(rig: Rig) -> None:
    says_qcow2(rig)
    head = bytearray(4096)
    head[:8] = b"QFI\xfb\x00\x00\x00\x03"
    head[72:80] = (4).to_bytes(8, "big")
    rig.data("base").write_bytes(head)


@pytest.mark.parametrize(
    "spoil",
    [
        link_data,
        link_folder,
        hard_link,
        pipe,
        no_data,
        no_label,
        bad_label,
        says_qcow2,
        backing_outside,
        data_outside,
    ],
)
async def test_what_is_not_a_plain_image_is_refused(rig, spoil):
    rig.put("base", CONTENT)
    spoil(rig)
    assert await refused(rig, ACTION) == "IMAGE_UNSAFE"
    assert rig.images() == ["base"]
    assert rig.pools["fast"].list_images(after="", count_max=9) == []


# -- clone --------------------------------------------------------------------------------------


async def test_a_raw_clone_shares_where_the_file_system_can_or_does_as_asked(rig):
    rig.put("base", CONTENT)
    cloned = await rig.run(attempt_name("a"), clone_action("fast/base", "fast/a"))
    if cloned.state == FAILED:  # no reflinks here
        assert cloned.failure.reason == "VERB_UNSUPPORTED"
        assert (rig.images(), rig.staged()) == (["base"], [])
        cloned = await rig.run(
            attempt_name("a", 2), clone_action("fast/base", "fast/a", copy_allowed=True)
        )
        assert not cloned.output.clone_image.shared
    assert cloned.state == SUCCEEDED, cloned
    assert rig.data("a").read_bytes() == CONTENT


@needs_qemu
async def test_a_qcow2_clone_reads_through_its_source(rig):
    """S-Z30: and while it does, its source stays."""
    base = create_action("fast/base", 8 * MIB, format=IMAGE_FORMAT_QCOW2)
    clone = clone_action("fast/base", "fast/a")
    await rig.run(attempt_name("base"), base)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", rig.data("base"))
    cloned = await rig.run(attempt_name("a"), clone)
    assert cloned.output.clone_image.shared, cloned
    assert rig.pools["fast"].find("a").chain == ("base",)
    make_up_for = attempt_name("base", 2)
    kept = await rig.make_up(make_up_for, attempt_name("base"), base)
    assert (kept.state, kept.failure.reason, kept.failure.retriable) == (
        FAILED,
        "IMAGE_IN_USE",
        True,
    )
    assert await refused(rig, delete_action("fast/base"), "del") == "IMAGE_IN_USE"

    flat = copy_action("fast/a", "fast/flat", flatten=True, format=IMAGE_FORMAT_RAW)
    flattened = await rig.run(attempt_name("flat"), flat)
    assert flattened.state == SUCCEEDED, flattened
    assert rig.data("flat").read_bytes() == b"\x07" * MIB + bytes(7 * MIB)
    chain = await rig.run(attempt_name("chain"), copy_action("fast/a", "fast/chain"))
    assert chain.failure.reason == "FIELD_INVALID", chain

    await rig.make_up(attempt_name("a", 2), attempt_name("a"), clone)
    gone = await rig.make_up(attempt_name("base", 3), attempt_name("base"), base)
    assert gone.state == SUCCEEDED, gone
    assert (rig.images(), rig.staged()) == (["flat"], [])


@needs_qemu
async def test_a_copy_changes_the_format_and_back(rig):
    rig.put("base", CONTENT)
    there = copy_action("fast/base", "fast/q", format=IMAGE_FORMAT_QCOW2, take_digest=True)
    back = copy_action("fast/q", "fast/disk", format=IMAGE_FORMAT_RAW, take_digest=True)
    same = copy_action("fast/q", "fast/q2")
    for task, action in (("there", there), ("back", back), ("same", same)):
        made = await rig.run(attempt_name(task), action)
        assert made.state == SUCCEEDED, made
        if action is not same:
            assert made.output.copy_image.digest == digest(CONTENT)
    assert rig.data("disk").read_bytes() == CONTENT
    run("qemu-img", "check", "-f", "qcow2", rig.data("q2"))
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", rig.data("q2"), rig.data("base"))


@needs_qemu
async def test_a_conversion_is_killed_by_cancel_and_by_a_full_pool(tmp_path):
    rig = Rig(tmp_path, options={"fast": {}, "small": {"quota_bytes": MIB}})
    await rig.start()
    rig.put("base", os.urandom(64 * MIB))
    convert = copy_action("fast/base", "small/disk", format=IMAGE_FORMAT_QCOW2)
    failed = await rig.run(COPY, convert)
    assert (failed.state, failed.failure.reason) == (FAILED, "NO_SPACE")
    assert rig.staged("small") == []
    gate = Gate()
    await rig.restart(gate=gate)
    name = attempt_name("copy", 2)
    await rig.accept(name, copy_action("fast/base", "fast/disk", format=IMAGE_FORMAT_QCOW2))
    await gate.arrival(2)
    await rig.cancel(name)
    gate.open()
    assert (await rig.settled(name)).state == Attempt.STATE_CANCELLED
    assert (rig.images(), rig.staged()) == (["base"], [])
    await rig.runner.stop()


@needs_qemu
def test_a_conversion_is_held_still_while_it_is_ahead_of_its_share(tmp_path):
    source, target = tmp_path / "data.raw", tmp_path / "data.qcow2"
    source.write_bytes(os.urandom(32 * MIB))
    steps = qemu.convert(
        source,
        Format.RAW,
        target,
        Format.QCOW2,
        size_bytes=32 * MIB,
        each=lambda: target.stat().st_blocks * 512 if target.exists() else 0,
        writer=Writer(Bandwidth(64 * MIB, lambda: 0.0)),
    )
    waits = [step.wait_s for step in steps if step.wait_s]
    assert waits
    assert max(waits) <= WAIT_S_MAX
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, target)


async def test_without_qemu_img_the_error_says_what_to_install(rig, monkeypatch):
    monkeypatch.setenv("PATH", "")
    rig.put("base", CONTENT)
    action = copy_action("fast/base", "fast/disk", format=IMAGE_FORMAT_QCOW2)
    failed = await rig.run(COPY, action)
    assert failed.failure.reason == "VERB_UNSUPPORTED"
    assert "qemu-utils" in failed.failure.message


# -- delete -------------------------------------------------------------------------------------


async def test_deletes_an_image_and_says_whether_it_was_there(rig):
    """S-V22."""
    rig.put("base", CONTENT)
    gone = await rig.run(attempt_name("a"), delete_action("fast/base"))
    assert (gone.state, gone.output.delete_image.existed) == (SUCCEEDED, True)
    again = await rig.run(attempt_name("b"), delete_action("fast/base"))
    assert (again.state, again.output.delete_image.existed) == (SUCCEEDED, False)
    assert (rig.images(), rig.staged()) == ([], [])
    assert rig.pools["fast"].room.used_bytes == 0


@pytest.mark.parametrize(
    "fields",
    [{"backing": "../../etc"}, {"backing": 7}, {"generation": "x"}, {"backing": "base"}],
    ids=["path", "number", "generation", "not the file's"],
)
@needs_qemu
async def test_a_label_that_lies_spoils_its_own_image_only(rig, fields):
    rig.put("base", b"x" * 512)
    made = create_action("fast/disk", 8 * MIB, format=IMAGE_FORMAT_QCOW2)
    assert (await rig.run(COPY, made)).state == SUCCEEDED
    path = rig.data("disk").parent / "image.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    pool = rig.pools["fast"]
    assert [found.image_id for found in pool.list_images(after="", count_max=9)] == ["base"]
    with pytest.raises(ImageUnsafe):
        pool.find("disk")


async def test_an_id_that_is_none_never_becomes_a_path(rig):
    with pytest.raises(FieldInvalid):
        rig.pools["fast"].find("../base")


@needs_qemu
async def test_a_tool_that_fails_names_the_image(rig, monkeypatch):
    monkeypatch.setattr(qemu, "TOOL", "false")
    failed = await rig.run(COPY, create_action("fast/new", 8 * MIB, format=IMAGE_FORMAT_QCOW2))
    assert (failed.failure.reason, failed.failure.metadata["image"]) == ("TOOL_FAILED", "new")


# -- verify -------------------------------------------------------------------------------------


def verify_action(target: str, **fields: str) -> Action:
    return Action(verify_image=VerifyImage(target=address(target), **fields))


async def test_verifies_a_digest_as_a_copy_takes_it(rig):
    rig.put("base", CONTENT)
    copied = await rig.run(COPY, copy_action("fast/base", "fast/disk", take_digest=True))
    taken = copied.output.copy_image.digest
    for task, fields in (("any", {}), ("same", {"digest": taken})):
        verified = await rig.run(attempt_name(task), verify_action("fast/disk", **fields))
        assert (verified.state, verified.output.verify_image.digest) == (SUCCEEDED, taken)
        assert verified.progress.done == verified.progress.total == len(CONTENT)
    rotten = b"rot" + CONTENT[3:]
    rig.data("disk").write_bytes(rotten)
    failed = await rig.run(attempt_name("rot"), verify_action("fast/disk", digest=taken))
    assert (failed.state, failed.failure.reason) == (FAILED, "DIGEST_MISMATCH")
    assert not failed.failure.retriable
    assert dict(failed.failure.metadata) == {
        "image": "disk",
        "pool": "fast",
        "found": digest(rotten),
        "expected": taken,
    }
    assert await refused(rig, verify_action("fast/none"), "none") == "IMAGE_NOT_FOUND"


@pytest.mark.parametrize("wrong", ["md5:00", "blake3-4m:00", f"blake3-4m:{'G' * 64}"])
async def test_a_digest_that_is_none_is_refused_at_once(rig, wrong):
    with pytest.raises(FieldInvalid, match=r"verify_image\.digest"):
        await rig.accept(COPY, verify_action("fast/base", digest=wrong))


async def test_verifies_what_it_may_only_read(tmp_path):
    rig = Rig(tmp_path)
    await rig.start()
    rig.put("base", CONTENT)
    rig.options = {"fast": {"read_only": True}}
    await rig.restart()
    verified = await rig.run(COPY, verify_action("fast/base"))
    assert verified.output.verify_image.digest == digest(CONTENT), verified
    snapshot = CreateSnapshot(target=address("fast/base"), snapshot_id="a")
    with pytest.raises(PoolReadOnly):
        await rig.accept(UNDO, Action(create_snapshot=snapshot))
    await rig.runner.stop()


@needs_qemu
async def test_verifies_a_chain_of_qcow2_images(rig):
    create = create_action("fast/base", 8 * MIB, format=IMAGE_FORMAT_QCOW2)
    await rig.run(attempt_name("base"), create)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", rig.data("base"))
    await rig.run(attempt_name("top"), clone_action("fast/base", "fast/top"))
    verified = await rig.run(attempt_name("a"), verify_action("fast/top"))
    assert verified.state == SUCCEEDED, verified
    taken = verified.output.verify_image.digest
    again = await rig.run(attempt_name("b"), verify_action("fast/top", digest=taken))
    assert (again.state, again.output.verify_image.digest) == (SUCCEEDED, taken)
    with rig.data("base").open("r+b") as file:  # its table of reference counts
        file.seek(65536)
        file.write(bytes(65536))
    failed = await rig.run(attempt_name("c"), verify_action("fast/top"))
    assert (failed.state, failed.failure.reason) == (FAILED, "IMAGE_DAMAGED")
    assert (failed.failure.metadata["image"], failed.failure.retriable) == ("base", False)


@needs_qemu
async def test_without_qemu_img_a_chain_is_verified_as_far_as_it_is_ours(rig, monkeypatch):
    create = create_action("fast/base", 8 * MIB, format=IMAGE_FORMAT_QCOW2)
    await rig.run(attempt_name("base"), create)
    monkeypatch.setenv("PATH", "")
    assert (await rig.run(attempt_name("a"), verify_action("fast/base"))).state == SUCCEEDED
