"""Images that a workflow changes in place, and that are as they were once it has failed.

What it did to one image is made up for newest first; the agent is killed in the middle of that,
between an image's data and its label.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from agent import crash_points
from agent.drivers import qemu
from countermand.client.spec import image, sequence, task, workflow_spec
from countermand.v1.image_pb2 import IMAGE_FORMAT_QCOW2
from countermand.v1.verb_pb2 import CopyImage, CreateSnapshot, Noop, ResizeImage
from countermand.v1.workflow_pb2 import Workflow
from countermand.v1.workflow_spec_pb2 import Node, WorkflowSpec
from tests.endtoend.checks import assert_made_up_for_before, check_journals, recorded, staged
from tests.endtoend.cluster import MIB, TEMPLATES, Cluster, copy, running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not qemu.is_installed(), reason="qemu-img is not installed: apt install qemu-utils"
    ),
]

BASE = f"{TEMPLATES}/base"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("changed")
    async with running(lives, folder, {"a": {"pool-a": ""}}, evidence_kept=True) as cluster:
        yield cluster


def resize(name: str, address: str, size_mib: int, **fields: Any) -> Node:
    action = ResizeImage(target=image(address), virtual_size_bytes=size_mib * MIB, **fields)
    return task(name, host="a", action=action)


def made(raw: str, qcow2: str) -> WorkflowSpec:
    """Returns two copies of the base, one in each format."""
    converted = CopyImage(source=image(BASE), target=image(qcow2), format=IMAGE_FORMAT_QCOW2)
    return workflow_spec(
        "made",
        sequence("all", copy("raw", "a", BASE, raw), task("qcow2", host="a", action=converted)),
    )


def changed(raw: str, qcow2: str) -> WorkflowSpec:
    """Returns changes of both images, and then a failure."""
    snapshot = CreateSnapshot(target=image(qcow2), snapshot_id="before")
    return workflow_spec(
        "changed",
        sequence(
            "all",
            task("snapshot", host="a", action=snapshot),
            resize("grow", qcow2, 12),
            resize("more", qcow2, 16),
            resize("raw", raw, 12),
            task("fails", host="a", action=Noop(failure_message="as asked")),
        ),
    )


def label(cluster: Cluster, address: str) -> dict[str, Any]:
    pool_id, _, image_id = address.partition("/")
    found = (cluster.pool(pool_id) / "images" / image_id / "image.json").read_text()
    fields: dict[str, Any] = json.loads(found)
    return fields


def read(cluster: Cluster, address: str, folder: Path) -> bytes:
    """Returns what a guest would read; of an image there is one data file and its label."""
    pool_id, _, image_id = address.partition("/")
    images = cluster.pool(pool_id) / "images"
    [path] = (images / image_id).glob("data.*")
    assert not list(images.glob(f"{image_id}@*"))
    flat = folder / "flat"
    subprocess.run(
        ["qemu-img", "convert", "-f", path.suffix[1:], "-O", "raw", path, flat], check=True
    )
    return flat.read_bytes()


async def settled(cluster: Cluster, workflow_id: str, spec: WorkflowSpec) -> Workflow:
    async with cluster.client() as client:
        await client.submit(spec, workflow_id=workflow_id)
    return await cluster.settled(workflow_id)


@pytest.mark.parametrize(
    "crash_point",
    [
        "",
        f"{crash_points.IN_RESIZE}:1",  # grown, and its label does not say so
        f"{crash_points.IN_RESIZE}:5",  # one label says that it is shrunk back, and it is not
        f"{crash_points.IN_MERGE}:2",  # qemu-img runs
        crash_points.AFTER_MERGE,
    ],
)
async def test_what_failed_later_leaves_images_as_they_were(cluster, tmp_path, crash_point):
    """S-V32: one image's changes are made up for newest first, each of them once."""
    name = crash_point.removeprefix("agent.").replace("_", "-").replace(":", "-") or "calm"
    raw, qcow2 = f"pool-a/{name}-raw", f"pool-a/{name}-qcow2"
    first = await settled(cluster, f"made-{name}", made(raw, qcow2))
    assert recorded(cluster, f"made-{name}").state == "SUCCEEDED", first
    agent = cluster.agents["a"]
    if crash_point:
        await agent.stop()
        await agent.start(crash_point)
    async with cluster.client() as client:
        await client.submit(changed(raw, qcow2), workflow_id=name)
    if crash_point:
        await agent.died()
        await agent.start()
    await cluster.settled(name)
    workflow = recorded(cluster, name)
    assert workflow.tasks == {
        "snapshot": "COMPENSATED",
        "grow": "COMPENSATED",
        "more": "COMPENSATED",
        "raw": "COMPENSATED",
        "fails": "FAILED",
    }
    check_journals(cluster, name, workflow)
    for later, earlier in (("more", "grow"), ("grow", "snapshot")):
        assert_made_up_for_before(workflow, later, earlier)
    expected = cluster.data_of(BASE).read_bytes()
    for address, generation in ((raw, 3), (qcow2, 5)):
        assert read(cluster, address, tmp_path) == expected, address
        found = label(cluster, address)
        assert (found["virtual_size_bytes"], found["generation"]) == (8 * MIB, generation)
        assert not found.keys() & {"changes", "layers", "below"}, found
    assert staged(cluster) == []


async def test_an_image_that_grew_stays_so_when_all_went_well(cluster):
    """And shrinking is the pivot: what fails after it goes on, and nothing is made up for."""
    target = "pool-a/grown"
    spec = workflow_spec(
        "grown", sequence("all", copy("copy", "a", BASE, target), resize("grow", target, 9))
    )
    workflow = await settled(cluster, "grown", spec)
    outputs = recorded(cluster, "grown")
    assert outputs.state == "SUCCEEDED", workflow
    assert cluster.data_of(target).stat().st_size == 9 * MIB
    spec = workflow_spec(
        "shrunk", sequence("all", resize("shrink", target, 1, shrink_allowed=True))
    )
    await settled(cluster, "shrunk", spec)
    assert recorded(cluster, "shrunk").state == "SUCCEEDED"
    assert cluster.data_of(target).stat().st_size == MIB
    assert label(cluster, target)["generation"] == 3
