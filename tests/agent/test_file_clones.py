"""Clones of the `file` driver, what deletes an image, and what a verification finds."""

from __future__ import annotations

import json
import os

import pytest

from agent.drivers import qemu
from agent.drivers.driver import Format
from agent.drivers.room import WAIT_S_MAX, Bandwidth, Writer
from countermand.rpc.errors import FieldInvalid, ImageUnsafe, PoolReadOnly
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.image_pb2 import IMAGE_FORMAT_QCOW2, IMAGE_FORMAT_RAW
from countermand.v1.verb_pb2 import (
    Action,
    CreateSnapshot,
    VerifyImage,
)
from tests.agent.digests import digest
from tests.agent.file_pool import (
    CONTENT,
    COPY,
    FAILED,
    MIB,
    SUCCEEDED,
    UNDO,
    clone_action,
    create_action,
    delete_action,
    needs_qemu,
    refused,
    run,
)
from tests.agent.requests import address, attempt_name, copy_action
from tests.agent.rig import Gate, Rig

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
