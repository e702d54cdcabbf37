"""The `file` driver on real files: what it makes, what it refuses, what it leaves alone."""

from __future__ import annotations

import json
import os

import pytest

from agent.drivers.driver import Format
from countermand.v1.image_pb2 import IMAGE_FORMAT_QCOW2
from tests.agent.file_pool import (
    ACTION,
    CONTENT,
    COPY,
    MIB,
    SUCCEEDED,
    create_action,
    needs_qemu,
    refused,
)
from tests.agent.rig import NOW, Rig

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
