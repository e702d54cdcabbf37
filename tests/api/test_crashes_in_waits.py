"""The coordinator killed with SIGKILL where workflows wait: for hosts, for slots, for images.

Whatever the point: both workflows end as they would have ended, and each effect happens once.
"""

from __future__ import annotations

import pytest
import pytest_asyncio

from coordinator.runtime.crash_points import (
    CRASH_POINTS_OF_WAITS,
    HOST_CHOSEN,
    LOCKS_PASSED_ON,
    WAITS_FOR_SLOT,
)
from countermand.client.spec import parallel, sequence, workflow_spec
from countermand.rpc.errors import CountermandError
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.api.calls import BASE
from tests.endtoend.cluster import Cluster, copy

pytestmark = pytest.mark.slow

PASSED = {HOST_CHOSEN: (1, 2, 4), LOCKS_PASSED_ON: (1,), WAITS_FOR_SLOT: (1, 2)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    cluster = Cluster(lives, tmp_path_factory.mktemp("waits"), {"a": {"p": ""}})
    await cluster.add_template("base")
    await cluster.start()
    await cluster.coordinator.stop()
    cluster.coordinator.arguments = ("--window", "1")
    yield cluster
    await cluster.end()


def makes(name: str) -> WorkflowSpec:
    """Returns a plan that makes an image, and beside it two more."""
    copies = (copy(f"copy-{part}", "", BASE, f"p/{name}-{part}") for part in ("x", "y", "z"))
    return workflow_spec("makes", sequence("all", parallel("copies", *copies)))


def reads(name: str) -> WorkflowSpec:
    """Returns a plan that copies what the other one makes: it waits until that has settled."""
    return workflow_spec("reads", sequence("all", copy("again", "", f"p/{name}-x", f"p/{name}-w")))


async def submit(cluster: Cluster, name: str) -> bool:
    """Submits both and waits for them; returns whether the coordinator lived to tell."""
    try:
        async with cluster.client() as client:
            await client.submit(makes(name), workflow_id=name)
            run = await client.submit(reads(name), workflow_id=f"{name}-reads")
            await run.wait()
    except CountermandError:
        await cluster.coordinator.died()
        return False
    return True


@pytest.mark.parametrize(
    ("crash_point", "times"), [(point, n) for point in CRASH_POINTS_OF_WAITS for n in PASSED[point]]
)
async def test_killed_where_something_waits(cluster, crash_point, times) -> None:
    name = f"{crash_point.removeprefix('coordinator.')}-{times}".replace("_", "-")
    await cluster.coordinator.start(f"{crash_point}:{times}")
    assert not await submit(cluster, name), "it passed by unharmed"
    await cluster.coordinator.start()
    assert await submit(cluster, name)
    for workflow_id in (name, f"{name}-reads"):
        settled = await cluster.settled(workflow_id)
        assert settled.state == WorkflowState.WORKFLOW_STATE_SUCCEEDED
    await cluster.coordinator.stop()
    images = {path.name for path in (cluster.pool("p") / "images").iterdir()}
    assert {image for image in images if image.startswith(name)} == {
        f"{name}-{part}" for part in ("x", "y", "z", "w")
    }
    assert list((cluster.pool("p") / "staging").iterdir()) == []
