"""Requests that come after their compensation, to a real agent: refused, and nothing ever shows.

S-V2, S-V5, S-Z8, S-Z28, S-Z31. The kernel watches the pool's folders all the time.
"""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from countermand.rpc.status import error_from_rpc
from countermand.v1.agent_pb2 import ForgetRequest, GetHostRequest, Heard
from countermand.v1.attempt_pb2 import Attempt
from tests.agent.inotify import Watched, watching
from tests.agent.processes import Agent, Host
from tests.agent.requests import CLUSTER, attempt_name
from tests.agent.test_processes import ACTION, COPY, UNDO, host  # noqa: F401  # a fixture

AGAIN = attempt_name("copy", 3)
FORGET = ForgetRequest(cluster_id=CLUSTER, workflows=["workflows/w1"], low_watermark=9)


@pytest.fixture
def pool(host: Host) -> Iterator[Watched]:  # noqa: F811
    """Watches the pool, as the agent will find it."""
    folders = [host.pool("fast") / name for name in ("images", "staging")]
    for folder in folders:
        folder.mkdir()
    with watching(*folders) as watched:
        yield watched


async def refusal(agent: Agent, name: str, intent: int) -> str:
    """Returns why an agent does not take a copy."""
    async with agent.stub() as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.CopyImage(agent.requests.copy(name, ACTION, intent_sequence=intent))
    return error_from_rpc(refused.value).reason


async def copied(agent: Agent, name: str, intent: int) -> None:
    async with agent.stub() as stub:
        await stub.CopyImage(agent.requests.copy(name, ACTION, intent_sequence=intent))
    assert (await agent.settle(name)).state == Attempt.STATE_SUCCEEDED


async def made_up_for(agent: Agent, name: str, of: str, intent: int) -> None:
    async with agent.stub() as stub:
        request = agent.requests.compensate(name, of, ACTION, intent_sequence=intent)
        await stub.Compensate(request)
    assert (await agent.settle(name)).state == Attempt.STATE_SUCCEEDED


async def forgotten(agent: Agent) -> int:
    async with agent.stub() as stub:
        return (await stub.Forget(FORGET)).forgotten


async def again(host: Host, agent: Agent) -> Agent:  # noqa: F811
    """Kills an agent and starts it on what it left: it has heard of no less."""
    before = await heard(agent)
    agent.process.kill()
    await agent.died()
    agent = await host.start()
    assert await heard(agent) == before
    return agent


async def heard(agent: Agent) -> Heard:
    """Returns the highest that an agent has heard of."""
    async with agent.stub() as stub:
        return (await stub.GetHost(GetHostRequest())).host.heard


async def test_an_action_that_comes_after_its_compensation_never_shows(host, pool):  # noqa: F811
    """It was never received: after a restart and after Forget it is refused just so."""
    agent = await host.start()
    await made_up_for(agent, UNDO, COPY, intent=2)
    assert await refusal(agent, COPY, intent=1) == "COMPENSATED"
    agent = await again(host, agent)
    assert await refusal(agent, COPY, intent=1) == "COMPENSATED"
    assert await forgotten(agent) == 2
    assert await refusal(agent, COPY, intent=1) == "EXPIRED"
    agent = await again(host, agent)
    assert await refusal(agent, COPY, intent=1) == "EXPIRED"
    assert pool.appeared() == []
    await agent.stop()


async def test_a_repeat_of_what_was_made_up_for_shows_nothing_more(host, pool):  # noqa: F811
    """Once there, once away; a repeat joins what is known, and is refused once that has gone."""
    agent = await host.start()
    await copied(agent, COPY, intent=1)
    await made_up_for(agent, UNDO, COPY, intent=2)
    assert [name for name in pool.appeared() if name.startswith("images/")] == ["images/disk"]
    await copied(agent, COPY, intent=1)  # as it was recorded: it is not done again
    agent = await again(host, agent)
    await copied(agent, COPY, intent=1)
    assert await forgotten(agent) == 2
    assert await refusal(agent, COPY, intent=1) == "EXPIRED"
    assert await refusal(agent, UNDO, intent=2) == "EXPIRED"  # by another verb, late as well
    agent = await again(host, agent)
    assert await refusal(agent, COPY, intent=1) == "EXPIRED"
    assert pool.appeared() == []
    assert (host.images("fast"), host.staged()) == ([], [])
    await agent.stop()


async def test_a_rerun_does_not_let_the_old_action_in(host, pool):  # noqa: F811
    """S-Z31: the new attempt has its image; the old one, released at last, changes nothing."""
    agent = await host.start()
    await made_up_for(agent, UNDO, COPY, intent=2)
    await copied(agent, AGAIN, intent=3)
    assert [name for name in pool.appeared() if name.startswith("images/")] == ["images/disk"]
    inode = host.data("fast", "disk").stat().st_ino
    assert await refusal(agent, COPY, intent=1) == "COMPENSATED"
    agent = await again(host, agent)
    assert await refusal(agent, COPY, intent=1) == "COMPENSATED"
    assert await forgotten(agent) == 3
    for late, intent in ((COPY, 1), (AGAIN, 3)):
        assert await refusal(agent, late, intent) == "EXPIRED"
    assert pool.appeared() == []
    assert host.data("fast", "disk").stat().st_ino == inode
    assert (host.images("fast"), host.staged()) == (["disk"], [])
    await agent.stop()
