"""The coordinator killed with SIGKILL at every named crash point, and started again.

Whatever the point and however often it was passed before: the workflow ends as it would have ended,
each effect happens once, and nothing is left (S-V3, S-V4, S-V7, S-V14, S-V15, S-V18, S-H2, S-H3,
S-Z5, S-Z6).
"""

from __future__ import annotations

from itertools import count

import pytest
import pytest_asyncio

from coordinator.runtime import crash_points
from coordinator.runtime.crash_points import CRASH_POINTS
from countermand.rpc.errors import CountermandError
from tests.endtoend.checks import (
    assert_clean,
    assert_made_up_for_before,
    assert_ran_once,
    recorded,
)
from tests.endtoend.cluster import Cluster, running
from tests.endtoend.plans import HOSTS, PLANS

pytestmark = pytest.mark.slow

# Inside the transaction: the same moments as coordinator.before_commit and .after_commit but for
# the write itself, so a few are enough: opening the store, the start, an outcome.
STORE_POINTS = ("store.before_commit", "store.after_commit")
STORE_TIMES = (1, 2, 4)

# Where a first coordinator dies, so that a second one has something to take over.
HALF_WAY = {
    "success": f"{crash_points.AFTER_SEND}:2",
    "failure": f"{crash_points.AFTER_COMPENSATION_COMMIT}:1",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("crashes")
    async with running(lives, folder, HOSTS, evidence_kept=True) as cluster:
        await cluster.coordinator.stop()
        yield cluster


async def dies(cluster: Cluster, workflow_id: str, plan: str, crash_point: str) -> bool:
    """Runs a workflow on a coordinator that is to die; returns whether it did."""
    make, _ = PLANS[plan]
    if not await cluster.coordinator.try_start(crash_point):
        await cluster.coordinator.died()
        return True
    told = False
    try:
        async with cluster.client() as client:
            run = await client.submit(make(workflow_id), workflow_id=workflow_id)
            told = True
            await run.wait()
    except CountermandError:
        await cluster.coordinator.died()
        if told:  # I8: what a client was told is never lost
            recorded(cluster, workflow_id)
        return True
    return False


async def finish(cluster: Cluster, workflow_id: str, plan: str) -> None:
    """Starts the coordinator as it should be, and checks how the workflow ends."""
    make, _ = PLANS[plan]
    await cluster.coordinator.start()
    async with cluster.client() as client:
        # Submitted again: the same workflow, or the first that is heard of it.
        await client.submit(make(workflow_id), workflow_id=workflow_id)
    await cluster.settled(workflow_id)
    await cluster.coordinator.stop()
    check(cluster, workflow_id, plan)


def check(cluster: Cluster, workflow_id: str, plan: str) -> None:
    workflow = assert_clean(cluster, workflow_id, PLANS[plan][1])
    if plan == "success":
        assert_ran_once(cluster, workflow_id)
    else:
        assert workflow.tasks["fails"] == "FAILED"
        assert not any("/tasks/never/" in attempt for attempt in workflow.attempts)  # S-V15
        assert_made_up_for_before(workflow, "done", "first")


@pytest.mark.parametrize("crash_point", CRASH_POINTS)
@pytest.mark.parametrize("plan", PLANS)
async def test_killed_at_each_passing_of_a_crash_point(cluster, plan, crash_point):
    place = crash_point.removeprefix("coordinator.").replace("_", "-")
    for times in count(1):
        workflow_id = f"{plan}-{place}-{times}"
        if not await dies(cluster, workflow_id, plan, f"{crash_point}:{times}"):
            await cluster.coordinator.stop()
            check(cluster, workflow_id, plan)
            break
        await finish(cluster, workflow_id, plan)
    print(f"{plan}, {crash_point}: killed {times - 1} times")
    assert times > 1 or (plan, place) == ("success", "after-compensation-commit")


@pytest.mark.parametrize("times", STORE_TIMES)
@pytest.mark.parametrize("crash_point", STORE_POINTS)
@pytest.mark.parametrize("plan", PLANS)
async def test_killed_inside_a_transaction(cluster, plan, crash_point, times):
    workflow_id = f"{plan}-{crash_point}-{times}".replace("_", "-")
    assert await dies(cluster, workflow_id, plan, f"{crash_point}:{times}")
    await finish(cluster, workflow_id, plan)


@pytest.mark.parametrize("crash_point", CRASH_POINTS)
@pytest.mark.parametrize("plan", PLANS)
async def test_killed_again_while_it_takes_over(cluster, plan, crash_point):
    workflow_id = f"{plan}-again-{crash_point}".replace("_", "-")
    assert await dies(cluster, workflow_id, plan, HALF_WAY[plan])
    await dies(cluster, workflow_id, plan, crash_point)
    if cluster.coordinator.alive:
        await cluster.coordinator.stop()
    await finish(cluster, workflow_id, plan)
