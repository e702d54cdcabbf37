"""The client of owners: blocks that do a task, parts of it, and workflows of one's own."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from countermand.client.external import (
    Owner,
    TaskFailed,
    TaskStopped,
)
from countermand.client.spec import parallel, workflow_spec
from countermand.rpc.channel import open_channel
from countermand.rpc.errors import WorkflowNotFound
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_spec_pb2 import Policy
from tests.api.calls import state
from tests.api.owners import asked, cancelling, states
from tests.api.vendors import Vendor, awake, external, opened, plan_of
from tests.endtoend.cluster import until

pytestmark = pytest.mark.slow


HOSTS: dict[str, dict[str, str]] = {}  # owners need none


# -- the block ------------------------------------------------------------------------------------


async def test_a_block_ends_its_task_with_its_outputs(client, owner, name):
    use = external("use", name, bindings={"arguments.volume": "tasks.clone.output.volume"})
    clone = external("clone", name, outputs={"volume": "string", "size": "int64"})
    run = await client.submit(plan_of(clone, use), workflow_id=name)
    async with owner.accept(await asked(owner, "clone")) as task:
        assert (task.kind, task.resumed, task.action) == ("clone", False, task.attempt)
        task.outputs.update(volume="v9", size=5)
    async with owner.accept(await asked(owner, "use")) as task:
        assert dict(task.arguments) == {"volume": "v9"}
    assert state(await run.result()) == "SUCCEEDED"


async def test_progress_is_coalesced_and_its_last_word_is_always_sent(client, owner, name):
    run = await client.submit(plan_of(external("count", name)), workflow_id=name)
    async with owner.accept(await asked(owner, "count")) as task:
        for done in range(1000):
            task.report(done, 999, unit="files", message=f"file {done}")
            await asyncio.sleep(0)
    await run.result()
    ended = (await run.task("count")).attempts[0].progress
    assert (ended.done, ended.unit) == (999, "files")


class ArrayError(Exception):
    reason = "ARRAY_FULL"
    retriable = True


@pytest.mark.parametrize(
    ("error", "reason", "retriable"),
    [
        (ArrayError("no room"), "ARRAY_FULL", True),
        (TaskFailed("NO_LICENCE", "no room"), "NO_LICENCE", False),
        (FileNotFoundError("no room"), "FILE_NOT_FOUND_ERROR", False),
    ],
    ids=["its own reason", "said exactly", "any exception"],
)
async def test_an_exception_fails_its_task(client, owner, error, reason, retriable):
    plan = plan_of(external("x", owner.owner_id))
    run = await client.submit(plan, workflow_id=f"fails-by-{reason.lower().replace('_', '-')}")
    with pytest.raises(type(error), match="no room"):
        async with owner.accept(await asked(owner, "x")):
            raise error
    failure = (await run.wait()).cause
    assert (failure.reason, failure.message, failure.retriable) == (reason, "no room", retriable)


async def test_outputs_that_break_a_promise_are_cleaned_up_and_fail(client, owner, name):
    run = await client.submit(
        plan_of(external("clone", name, outputs={"volume": "string"})), workflow_id=name
    )
    made = ["volume"]

    async def clean_up(_):
        made.clear()

    with pytest.raises(Exception, match="volume"):
        async with owner.accept(await asked(owner, "clone"), clean_up=clean_up):
            pass
    assert not made
    assert (await run.wait()).cause.reason == "FIELD_INVALID"


async def test_heartbeats_keep_tasks_alive_beyond_their_timeout(client, cluster, owner, name):
    """Another one, of which nothing is heard, shows that the time was long enough."""
    soon = timedelta(seconds=1)
    kept = [external(f"t{n}", name, kind="kept", heartbeat_timeout=soon) for n in range(20)]
    silent = external("silent", f"{name}-2", heartbeat_timeout=soon)
    plan = workflow_spec("h", parallel("all", *kept, silent))
    run = await client.submit(plan, workflow_id=name)
    async with awake() as is_awake, AsyncExitStack() as stack:
        seen: set[str] = set()
        async for each in owner.requests():
            if each.attempt not in seen:
                seen.add(each.attempt)
                await stack.enter_async_context(owner.accept(each, interrupt=False))
            if len(seen) == len(kept):
                break
        async with open_channel(cluster.coordinator.address) as channel:
            vendor = Vendor(channel, f"{name}-2")
            await vendor.take(name, "silent")
            await until(lambda: has_state(run, "silent", Task.STATE_UNKNOWN), "silence")
        found = await states(run)
        assert {found[f"t{n}"] for n in range(20)} == {"RUNNING"} or not is_awake()
    lapsed = [
        event.task.rpartition("/")[2]
        async for event in run.events()
        if event.task_state_changed.after == Task.STATE_UNKNOWN
    ]
    assert lapsed == ["silent"] or not is_awake()
    await run.cancel("a test")


async def has_state(run, task_id: str, state: Task.State.ValueType) -> bool:
    found: Task = await run.task(task_id)
    return found.state == state


# -- parts, and workflows of one's own ------------------------------------------------------------


async def test_parts_read_like_code_and_are_shown_as_a_tree(client, owner, name):
    run = await client.submit(plan_of(external("job", name)), workflow_id=name)
    async with owner.accept(await asked(owner, "job")) as job:
        async with job.part("prepare", weight=1) as prepare:
            prepare.report(1, 1, unit="volumes")
        async with job.part("copy", weight=3, arguments={"from": "a"}) as copying:
            assert dict(copying.arguments) == {"from": "a"}
            copying.report(1, 2, unit="volumes")
    await run.result()
    tasks = {task.name.rpartition("/")[2]: task for task in await run.tasks()}
    assert tasks["job.copy"].weight == 3
    done = [name for name, word in (await states(run)).items() if word == "SUCCEEDED"]
    assert done == ["job", "job.prepare", "job.copy"]


async def test_a_part_that_fails_fails_the_whole(client, owner, name):
    run = await client.submit(plan_of(external("job", name)), workflow_id=name)

    async def work():
        async with owner.accept(await asked(owner, "job")) as job, job.part("copy"):
            raise TaskFailed("ARRAY_FULL", "no room")

    with pytest.raises(TaskFailed):
        await work()
    assert (await run.wait()).cause.reason == "ARRAY_FULL"


async def test_a_part_may_fail_where_that_is_ignored(client, owner, name):
    run = await client.submit(plan_of(external("job", name)), workflow_id=name)
    async with owner.accept(await asked(owner, "job")) as job:
        with pytest.raises(TaskFailed):
            async with job.part("hint", on_failure=Policy.ON_FAILURE_IGNORE):
                raise TaskFailed("ARRAY_FULL", "no room")
    await run.result()


async def test_a_stop_of_the_whole_stops_its_part(client, owner, name):
    run = await client.submit(plan_of(external("job", name)), workflow_id=name)

    async def work():
        async with (
            owner.accept(await asked(owner, "job")) as job,
            job.part("copy", reversible=True),
        ):
            await run.cancel("a test")
            await asyncio.Event().wait()

    with pytest.raises(TaskStopped):
        await work()
    assert state(await run.wait()) == "COMPENSATED"
    assert (await states(run))["job.copy"] == "CANCELLED"
    assert not cancelling()


async def test_a_stop_waits_until_a_part_has_been_ended(client, owner, name):
    run = await client.submit(plan_of(external("job", name)), workflow_id=name)

    async def work():
        async with owner.accept(await asked(owner, "job")) as job:
            async with job.part("copy"):
                asyncio.get_running_loop().call_soon(job.ask_stop)  # while the part is ended
            await asyncio.Event().wait()

    with pytest.raises(TaskStopped):
        await work()
    assert (await states(run))["job.copy"] == "SUCCEEDED"


async def test_the_next_life_of_a_job_finds_its_parts_as_they_were(client, cluster, name):
    run = await client.submit(plan_of(external("job", name)), workflow_id=name)
    done: list[str] = []

    async def live(until_part: str) -> None:
        async with (
            Owner(cluster.coordinator.address, name) as owner,
            owner.accept(await asked(owner, "job")) as job,
        ):
            for kind in ("one", "two", "three"):
                async with job.part(kind) as part:
                    if kind == until_part:
                        raise asyncio.CancelledError  # as when its process is told to go
                    if not part.done:
                        done.append(kind)

    with pytest.raises(asyncio.CancelledError):
        await live("two")
    await live("")
    await run.result()
    assert done == ["one", "two", "three"]


async def test_a_workflow_of_ones_own_reads_like_code(client, owner, name):
    async with owner.workflow(name, "rebalance", labels={"array": "a1"}) as job:
        async with job.part("move", weight=9) as moving:
            moving.report(3, 4, unit="volumes")
        job.report(1, 1, unit="arrays")
    workflow = await client.run(name).wait()
    assert (state(workflow), workflow.labels["array"]) == ("SUCCEEDED", "a1")
    async with owner.workflow(name, "rebalance", labels={"array": "a1"}) as job:
        assert job.done  # a repeat after a crash


async def test_a_workflow_of_ones_own_that_fails_closes_what_is_open(client, owner, name):
    async def work():
        async with owner.workflow(name, "rebalance") as job:
            token = job.request.capability_token
            await owner.add_for("other", f"workflows/{name}", "wait", token=token, task_id="wait")
            raise TaskFailed("ARRAY_FULL", "no room")

    with pytest.raises(TaskFailed):
        await work()
    workflow = await client.run(name).wait()
    assert (state(workflow), workflow.cause.reason) == ("FAILED", "ARRAY_FULL")
    assert (await states(client.run(name)))["wait"] == "CANCELLED"


async def test_a_workflow_of_ones_own_is_ended_from_outside(client, owner, name):
    begun: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work():
        async with owner.workflow(name, "rebalance") as job, job.part("move"):
            begun.set_result(job.request.capability_token)
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    token = await begun
    failure = TaskFailed("GIVEN_UP", "Too slow.")
    workflow = await owner.end_workflow(name, token, failure=failure, force=True)
    assert (state(workflow), workflow.cause.reason) == ("FAILED", "GIVEN_UP")
    with pytest.raises(TaskStopped):
        await working
    assert not working.cancelled()
    await owner.clear_workflow(name, token)
    with pytest.raises(WorkflowNotFound):
        await client.run(name).get()


async def test_a_task_is_added_to_an_open_group_of_an_engine(client, owner, name):
    group = opened(parallel("open", external("first", name)))
    run = await client.submit(plan_of(group), workflow_id=name)
    async with (
        owner.accept(await asked(owner, "first")),
        owner.add(f"workflows/{name}/tasks/open", "second", task_id="second", weight=2) as second,
    ):
        second.outputs["x"] = 1
    await run.result()
    assert (await states(run))["second"] == "SUCCEEDED"
