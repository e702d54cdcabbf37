"""Journals of real agents that are lost, alone or with a pool, or put back older; and forgetting.

S-V5, S-Z10, S-Z11, S-Z28: what can be settled by asking again is; what cannot holds the host, and
is told, until somebody puts it right or accepts it.
"""

from __future__ import annotations

import shutil
from uuid import uuid4

import pytest_asyncio

from countermand.client.spec import sequence, task, workflow_spec
from countermand.rpc.channel import open_channel
from countermand.v1.agent_pb2 import ListAttemptsRequest
from countermand.v1.agent_pb2_grpc import AgentServiceStub
from countermand.v1.host_pb2 import Host
from countermand.v1.verb_pb2 import Noop
from tests.endtoend.checks import assert_clean, labels, recorded
from tests.endtoend.cluster import Cluster, running, until
from tests.endtoend.plans import slow
from tests.endtoend.test_agent_crashes import half_way

HOSTS = {"a": {"pool-a": ""}, "b": {"crawling": "bandwidth=512KiB"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("journals")
    async with running(lives, folder, HOSTS) as cluster:
        yield cluster


async def found(cluster: Cluster, host: str) -> Host:
    async with cluster.client() as client:
        return await client.hosts.get(host)


async def is_in(cluster: Cluster, host: str, state: Host.State.ValueType) -> Host:
    """Returns a host once it is in a state."""

    async def there() -> bool:
        return (await found(cluster, host)).state == state

    await until(there, f"{host} is {Host.State.Name(state)}")
    return await found(cluster, host)


async def test_agents_forget_what_has_settled_and_only_that(cluster: Cluster) -> None:
    """S-Z28: within seconds, and nothing of what is still open."""
    await half_way(cluster, "open")
    async with cluster.client() as client:
        spec = workflow_spec("quick", sequence("all", task("only", host="b", action=Noop())))
        await client.submit(spec, workflow_id="quick")
    await cluster.settled("quick")

    async def known() -> set[str]:
        async with open_channel(cluster.agents["b"].address) as channel:
            answer = await AgentServiceStub(channel).ListAttempts(ListAttemptsRequest())
        return {attempt.name.split("/")[1] for attempt in answer.attempts}

    seen = await known()
    if recorded(cluster, "open").state == "RUNNING":  # as it is, but on the slowest machine
        assert "open" in seen
    await cluster.settled("open")

    async def nothing() -> bool:
        return not await known()

    await until(nothing, "the agent forgets")
    assert_clean(cluster, "open", "SUCCEEDED")


async def test_a_lost_journal_is_reconciled_with_the_storage(cluster: Cluster) -> None:
    """S-Z10: the images are there, the state is wiped; the copy is done once, by itself."""
    await half_way(cluster, "lost")
    before = await found(cluster, "b")
    await cluster.agents["b"].kill()
    shutil.rmtree(cluster.agents["b"].data)
    await cluster.agents["b"].start()
    await cluster.settled("lost")
    after = await is_in(cluster, "b", Host.STATE_READY)
    assert before.incarnation != after.incarnation
    assert_clean(cluster, "lost", "SUCCEEDED")


async def test_a_pool_lost_with_the_journal_holds_the_host_until_it_is_accepted(
    cluster: Cluster,
) -> None:
    """S-Z10, "and both": nothing is sent and nothing concluded before somebody has looked."""
    await half_way(cluster, "both")
    agent = cluster.agents["b"]
    await agent.kill()
    shutil.rmtree(agent.data)
    crawling = cluster.pool("crawling")
    shutil.rmtree(crawling)
    crawling.mkdir()
    await agent.start()
    held = await is_in(cluster, "b", Host.STATE_QUARANTINED)
    assert held.problem.reason == "JOURNAL_LOST"
    assert "its pool crawling is another one than before" in held.problem.message
    async with cluster.client() as client:
        run = client.run("both")
        await run.cancel("its pool is gone")
        assert not (await run.get()).HasField("end_time")
        assert not any(crawling.glob("*/*")), "something was made while nobody had looked"
        await client.hosts.accept("b", "the pool was replaced")
        await client.hosts.accept("b", "a repeat changes nothing")
    assert (await cluster.settled("both")).cause.reason == "CANCELLED"
    assert_clean(cluster, "both", "COMPENSATED")
    await is_in(cluster, "b", Host.STATE_READY)


async def test_an_older_journal_holds_the_host_until_it_is_accepted(cluster: Cluster) -> None:
    """S-Z11: also when the coordinator was started anew in between."""
    agent = cluster.agents["a"]
    await agent.stop()
    copy = cluster.folder / f"copy-{uuid4()}"
    shutil.copytree(agent.data, copy)
    await agent.start()
    await is_in(cluster, "a", Host.STATE_READY)
    async with cluster.client() as client:
        spec = workflow_spec("since", sequence("all", task("only", host="a", action=Noop())))
        await client.submit(spec, workflow_id="since")
    await cluster.settled("since")
    await agent.stop()
    shutil.rmtree(agent.data)
    copy.rename(agent.data)
    await agent.start()
    held = await is_in(cluster, "a", Host.STATE_QUARANTINED)
    assert held.problem.reason == "JOURNAL_REWOUND"
    await cluster.coordinator.stop()
    await cluster.coordinator.start()
    await is_in(cluster, "a", Host.STATE_QUARANTINED)
    async with cluster.client() as client:
        await client.submit(slow("waits"), workflow_id="waits")
        assert "pool-a/waits-first" not in labels(cluster)

        async def accepted() -> bool:
            return (await client.hosts.accept("a", "a drill")).state == Host.STATE_READY

        await until(accepted, "the accepted host")
    await cluster.settled("waits")
    assert_clean(cluster, "waits", "SUCCEEDED")
