"""Copies of the `file` driver: what is read and written, and what is left when one ends early."""

from __future__ import annotations

import os

import pytest

from agent.drivers import qemu
from agent.drivers.copying import CHUNK_BYTES
from countermand.v1.image_pb2 import IMAGE_FORMAT_QCOW2, IMAGE_FORMAT_RAW
from countermand.v1.verb_pb2 import (
    Action,
    CreateImage,
)
from tests.agent.digests import digest
from tests.agent.file_pool import (
    ACTION,
    CONTENT,
    COPY,
    FAILED,
    MIB,
    SUCCEEDED,
    UNDO,
    create_action,
    refused,
)
from tests.agent.requests import address, attempt_name, copy_action
from tests.agent.rig import Gate, Rig


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
