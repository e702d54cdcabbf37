"""Agents killed with SIGKILL at every named crash point, and in the middle of things.

The agent finds in its journal and on its disk what it was doing; the coordinator asks and goes on:
the workflow ends as it would have ended (S-V6, S-V7, S-Z4, S-Z9, S-Z14).
"""

from __future__ import annotations

from itertools import count

import pytest
import pytest_asyncio

from agent import crash_points
from tests.endtoend.checks import assert_clean, labels
from tests.endtoend.cluster import Cluster, Service, running, until
from tests.endtoend.plans import HOSTS, PLANS, slow

pytestmark = pytest.mark.slow

# A copy passes `in_copy` at every piece: the first, and one behind it, tell the two cases apart.
TIMES_MAX = {crash_points.IN_COPY: 3}

# What the agent does for each plan: on `a` a copy and another, or a copy and its compensation; on
# `c` a copy and its compensation, and a copy that fails.
CASES = [
    *(("success", "a", point) for point in crash_points.OF_ACTIONS),
    *(("failure", host, point) for host in "ac" for point in crash_points.ALL),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("agents")
    async with running(lives, folder, HOSTS, evidence_kept=True) as cluster:
        yield cluster


async def submit(cluster: Cluster, workflow_id: str, plan: str) -> None:
    make, _ = PLANS[plan]
    async with cluster.client() as client:
        await client.submit(make(workflow_id), workflow_id=workflow_id)


async def check(cluster: Cluster, workflow_id: str, plan: str) -> None:
    await cluster.settled(workflow_id)
    assert_clean(cluster, workflow_id, PLANS[plan][1])


@pytest.mark.parametrize(("plan", "host", "crash_point"), CASES)
async def test_killed_at_each_passing_of_a_crash_point(cluster, plan, host, crash_point):
    agent = cluster.agents[host]
    place = crash_point.removeprefix("agent.").replace("_", "-")
    killed = 0
    for times in count(1):
        await again(cluster, agent, f"{crash_point}:{times}")
        workflow_id = f"{plan}-{host}-{place}-{times}"
        await submit(cluster, workflow_id, plan)
        if not await died(cluster, agent, workflow_id):
            await again(cluster, agent)  # it would still die, of another workflow
            await check(cluster, workflow_id, plan)
            break
        killed += 1
        await agent.died()
        await agent.start()
        await check(cluster, workflow_id, plan)
        if times == TIMES_MAX.get(crash_point):
            break
    print(f"{plan}, {host}, {crash_point}: killed {killed} times")
    assert killed, "it was never passed"


@pytest.mark.parametrize(
    "crash_point",
    [
        crash_points.BEFORE_JOURNAL,
        crash_points.AFTER_JOURNAL,
        crash_points.IN_COPY,
        crash_points.BEFORE_RECORD,
    ],
)
async def test_killed_where_a_cancelled_copy_passes(cluster, crash_point):
    agent = cluster.agents["b"]
    workflow_id = f"cancelled-{crash_point}".replace("_", "-")
    await again(cluster, agent, crash_point)
    async with cluster.client() as client:
        run = await client.submit(slow(workflow_id), workflow_id=workflow_id)
        await until(lambda: not agent.alive or writes(cluster, workflow_id), "death or data")
        await run.cancel("a test")
    await agent.died()
    await agent.start()
    assert (await cluster.settled(workflow_id)).cause.reason == "CANCELLED"
    assert_clean(cluster, workflow_id, "COMPENSATED")


async def again(cluster: Cluster, agent: Service, crash_point: str = "") -> None:
    """Starts an agent anew, and returns once the coordinator has found it again."""

    def found() -> int:
        events = [event for event in cluster.coordinator.events() if event["event"] == "host.ready"]
        return sum(event["host"] == agent.name for event in events)

    before = found()
    await agent.kill()
    await agent.start(crash_point)
    await until(lambda: found() > before, f"the coordinator's line to {agent.name}")


async def died(cluster: Cluster, agent: Service, workflow_id: str) -> bool:
    """Returns whether an agent died before a workflow settled."""
    async with cluster.client() as client:
        run = client.run(workflow_id)

        async def settled() -> bool:
            return not agent.alive or bool((await run.get()).HasField("end_time"))

        await until(settled, f"end of {workflow_id} or death of {agent.name}")
        return not agent.alive


def writes(cluster: Cluster, workflow_id: str) -> bool:
    """Returns whether the slow copy has written something."""
    return cluster.half_made_bytes("crawling", workflow_id) > 0


async def half_way(cluster: Cluster, workflow_id: str) -> None:
    """Starts a workflow, and returns once its slow copy has written something."""
    async with cluster.client() as client:
        await client.submit(slow(workflow_id), workflow_id=workflow_id)
    await until(lambda: writes(cluster, workflow_id), f"the slow copy of {workflow_id}")


async def test_killed_while_it_copies(cluster):
    """S-V6: the target is not visible, and the copy is done with or begun again."""
    workflow_id = "killed-while-copying"
    await half_way(cluster, workflow_id)
    await cluster.agents["b"].kill()
    assert f"crawling/{workflow_id}-slow" not in labels(cluster)
    await cluster.agents["b"].start()
    await cluster.settled(workflow_id)
    assert_clean(cluster, workflow_id, "SUCCEEDED")


@pytest.mark.parametrize("killed", ["b coordinator", "coordinator b", "coordinator a b c"])
async def test_killed_at_once(cluster, killed):
    """Whoever comes back first: the copy takes effect once."""
    workflow_id = f"killed-{killed}".replace(" ", "-")
    await half_way(cluster, workflow_id)
    services = {**cluster.agents, "coordinator": cluster.coordinator}
    for name in killed.split():
        services[name].kill_soon()
    for name in killed.split():
        await services[name].died()
    for name in killed.split():
        await services[name].start()
    await cluster.settled(workflow_id)
    assert_clean(cluster, workflow_id, "SUCCEEDED")
