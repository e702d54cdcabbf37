"""The client of owners where work is to stop, or the coordinator is killed meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from countermand.client.external import (
    Owner,
    TaskStopped,
)
from countermand.v1.annotation_pb2 import Effect
from tests.api.calls import state
from tests.api.owners import asked, cancelling, states
from tests.api.vendors import external, plan_of

pytestmark = pytest.mark.slow


HOSTS: dict[str, dict[str, str]] = {}  # owners need none


# -- stopping -------------------------------------------------------------------------------------


async def test_a_block_that_is_to_stop_is_interrupted_and_ends_as_cancelled(client, owner, name):
    run = await client.submit(plan_of(external("slow", name)), workflow_id=name)
    told: list[str] = []

    async def work():
        async with owner.accept(await asked(owner, "slow")):
            try:
                await run.cancel("a test")
                await asyncio.Event().wait()
            finally:
                told.append((await states(run))["slow"])  # not CANCELLED before it has stopped

    with pytest.raises(TaskStopped):
        await work()
    assert told == ["CANCELLING"]
    assert state(await run.wait()) == "COMPENSATED"
    assert (await states(run))["slow"] == "CANCELLED"
    assert not cancelling()


async def test_what_is_read_only_is_interrupted_too_when_nobody_waits_for_it(client, owner, name):
    look = external("look", name, effect=Effect.EFFECT_READ_ONLY)
    run = await client.submit(plan_of(look), workflow_id=name)

    async def work():
        async with owner.accept(await asked(owner, "look")):
            await run.cancel("a test")
            await asyncio.Event().wait()

    with pytest.raises(TaskStopped):
        await work()
    assert state(await run.wait()) == "COMPENSATED"


async def test_a_block_may_look_for_a_stop_itself(client, owner, name):
    run = await client.submit(plan_of(external("slow", name)), workflow_id=name)
    request = await asked(owner, "slow")

    async def work():
        async with owner.accept(request, interrupt=False) as task:
            task.check()
            await run.cancel("a test")
            await task.stopping.wait()
            task.check()

    with pytest.raises(TaskStopped):
        await work()
    assert (await states(run))["slow"] == "CANCELLED"


async def test_a_process_that_goes_says_nothing_and_its_next_life_goes_on(client, cluster, name):
    run = await client.submit(plan_of(external("slow", name)), workflow_id=name)
    begun = asyncio.Event()

    def open_owner():
        return Owner(cluster.coordinator.address, name)

    async def first_life():
        async with open_owner() as owner, owner.accept(await asked(owner, "slow")):
            begun.set()
            await asyncio.Event().wait()

    life = asyncio.create_task(first_life())
    await begun.wait()
    life.cancel()
    with pytest.raises(asyncio.CancelledError):
        await life
    assert (await states(run))["slow"] == "RUNNING"
    async with open_owner() as owner, owner.accept(await asked(owner, "slow")) as task:
        assert task.resumed
    await run.result()


# -- restarts of the coordinator ------------------------------------------------------------------


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_a_coordinator_that_goes_within_a_block_loses_nothing(client, cluster, owner, how):
    """S-V29, S-B14: what is ended over and over is ended once."""
    name = f"{how}-within-a-block"
    run = await client.submit(plan_of(external("slow", owner.owner_id)), workflow_id=name)
    async with owner.accept(await asked(owner, "slow")) as task:
        await getattr(cluster.coordinator, how)()
        task.report(1, 2, unit="files", message="while it is away")
        task.outputs["volume"] = "v9"
        restart = asyncio.create_task(cluster.coordinator.start())
    await restart
    await run.result()
    [attempt] = (await run.task("slow")).attempts
    assert attempt.output.external["volume"] == "v9"
    assert attempt.progress.done == 1
    ended = [e async for e in run.events() if e.HasField("attempt_ended")]
    assert len(ended) == 1


async def test_a_stop_reaches_a_block_over_a_restart(client, cluster, owner, name):
    run = await client.submit(plan_of(external("slow", name)), workflow_id=name)
    begun = asyncio.Event()

    async def work():
        async with owner.accept(await asked(owner, "slow")):
            begun.set()
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await begun.wait()
    cluster.coordinator.freeze()  # nothing comes of what it may still say
    cancel = asyncio.create_task(run.cancel("a test"))
    await cluster.coordinator.kill()
    await cluster.coordinator.start()
    await cancel
    with pytest.raises(TaskStopped):
        await working
    assert state(await run.wait()) == "COMPENSATED"
