"""Blocks beside a loop that serves: who begins a part, and who makes up for it."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

import pytest

from countermand.client.external import Handler, Owner, TaskFailed
from countermand.client.spec import parallel, policy, retry
from countermand.rpc.names import task_name
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.task_pb2 import Task
from tests.api.calls import state
from tests.api.owners import serving, wait
from tests.api.vendors import external, opened, plan_of, vendor_at
from tests.endtoend.cluster import HANG_S, until

pytestmark = pytest.mark.slow


HOSTS: dict[str, dict[str, str]] = {}  # owners need none


class Array:
    """What a vendor has made, and what it was asked to do."""

    def __init__(self) -> None:
        self.made: set[str] = set()
        self.served: list[str] = []

    async def job(self, task):
        async with task.part("copy", reversible=True) as copying:
            if not copying.done:
                self.made.add(copying.action)

    async def failing_job(self, task):
        await self.job(task)
        raise TaskFailed("ARRAY_FULL", "no room")

    async def copy(self, task):
        self.served.append(task.attempt)

    async def delete(self, task):
        self.made.discard(task.action)


async def look(_):
    raise TaskFailed("NO_LICENCE", "The licence is over.")


# -- made up for ----------------------------------------------------------------------------------


async def test_a_part_is_made_up_for_by_the_handler_of_its_kind(client, owner, name):
    """Also where its kind is never served from the beginning: blocks do that."""
    array = Array()
    later = external("look", name, effect=Effect.EFFECT_READ_ONLY)
    plan = plan_of(external("job", name, effect=Effect.EFFECT_READ_ONLY), later)
    handlers = {"copy": Handler(compensate=array.delete), "job": Handler(array.job)}
    async with serving(owner, **handlers, look=Handler(look)):
        run = await client.submit(plan, workflow_id=name)
        workflow = await wait(run)
    assert (state(workflow), workflow.cause.reason) == ("COMPENSATED", "NO_LICENCE")
    assert not array.made
    assert (await run.task("job.copy")).state == Task.STATE_COMPENSATED


async def test_a_part_is_made_up_for_when_its_whole_fails(client, owner, name):
    array = Array()
    plan = plan_of(external("job", name, effect=Effect.EFFECT_READ_ONLY))
    handlers = {"copy": Handler(compensate=array.delete), "job": Handler(array.failing_job)}
    async with serving(owner, **handlers):
        run = await client.submit(plan, workflow_id=name)
        workflow = await wait(run)
    assert (state(workflow), workflow.cause.reason) == ("COMPENSATED", "ARRAY_FULL")
    assert not array.made


async def test_a_whole_that_is_tried_again_adds_its_parts_anew(client, owner, name):
    """What the first attempt's part had done is made up for before."""
    array, tries = Array(), []

    async def job(task):
        tries.append(set(array.made))
        await array.job(task)
        if len(tries) == 1:
            raise TaskFailed("BUSY", "Too many clones at once.", retriable=True)

    again = policy(retry=retry(2, delay=timedelta(milliseconds=100)))
    plan = plan_of(external("job", name, effect=Effect.EFFECT_READ_ONLY, policy=again))
    async with serving(owner, job=Handler(job), copy=Handler(compensate=array.delete)):
        run = await client.submit(plan, workflow_id=name)
        assert state(await wait(run)) == "SUCCEEDED"
    assert tries == [set(), set()]
    [made] = array.made
    assert made.startswith(f"workflows/{name}/tasks/job.copy.2/")


async def test_a_part_that_nobody_would_make_up_for_is_not_begun(client, owner, name):
    array = Array()
    plan = plan_of(external("job", name, effect=Effect.EFFECT_READ_ONLY))
    async with serving(owner, job=Handler(array.job)):
        run = await client.submit(plan, workflow_id=name)
        workflow = await wait(run)
    assert workflow.cause.reason == "NO_COMPENSATION"
    assert "Handler(compensate=" in workflow.cause.message
    assert not array.made
    assert [task.name.rpartition("/")[2] for task in await run.tasks()] == ["job"]


async def test_a_part_that_fails_is_cleaned_up_by_the_handler_of_its_kind(client, owner, name):
    array = Array()

    async def job(task):
        async with task.part("copy", reversible=True) as copying:
            array.made.add(copying.action)
            raise TaskFailed("ARRAY_FULL", "no room")

    plan = plan_of(external("job", name, effect=Effect.EFFECT_READ_ONLY))
    async with serving(owner, job=Handler(job), copy=Handler(compensate=array.delete)):
        run = await client.submit(plan, workflow_id=name)
        await wait(run)
    assert not array.made
    assert (await run.task("job.copy")).state == Task.STATE_FAILED


async def test_a_part_of_a_life_that_was_killed_is_cleaned_up_by_the_next(client, cluster, name):
    array, begun = Array(), asyncio.Event()

    async def job(task):
        async with task.part("copy", reversible=True) as copying:
            array.made.add(copying.action)
            begun.set()
            await asyncio.Event().wait()

    handlers = {"job": Handler(job, array.delete), "copy": Handler(compensate=array.delete)}
    run = await client.submit(plan_of(external("job", name)), workflow_id=name)
    async with Owner(cluster.coordinator.address, name) as first, serving(first, **handlers):
        await begun.wait()
    assert array.made
    await run.cancel("a test")
    async with Owner(cluster.coordinator.address, name) as second, serving(second, **handlers):
        assert state(await wait(run)) == "COMPENSATED"
    assert not array.made
    assert (await run.task("job.copy")).state == Task.STATE_CANCELLED


async def test_parts_of_functions_on_threads_are_made_up_for_alike(client, owner, name):
    array, begun = Array(), threading.Event()

    def job(task):
        with task.part("copy", reversible=True) as copying:
            array.made.add(copying.action)
        with task.part("move", reversible=True) as moving:
            array.made.add(moving.action)
            begun.set()
            while True:
                moving.report(1)
                time.sleep(0.01)

    def delete(task):
        array.made.discard(task.action)

    kinds = {kind: Handler(compensate=delete) for kind in ("copy", "move")}
    async with serving(owner, job=Handler(job, delete), **kinds):
        run = await client.submit(plan_of(external("job", name)), workflow_id=name)
        await until(begun.is_set, "the second part")
        await run.cancel("a test")
        assert state(await wait(run)) == "COMPENSATED"
    assert not array.made
    assert (await run.task("job.copy")).state == Task.STATE_COMPENSATED
    assert (await run.task("job.move")).state == Task.STATE_CANCELLED


async def test_a_part_that_people_make_up_for_needs_no_handler(client, owner, name):
    async def job(task):
        async with task.part("copy", operator_checklist="Remove the copy."):
            pass

    plan = plan_of(external("job", name, effect=Effect.EFFECT_READ_ONLY))
    async with serving(owner, job=Handler(job)):
        run = await client.submit(plan, workflow_id=name)
        assert state(await wait(run)) == "SUCCEEDED"


# -- begun ----------------------------------------------------------------------------------------


async def test_a_part_is_begun_by_its_block_and_not_served(client, owner, name):
    array = Array()
    plan = plan_of(external("job", name), external("copy", name))
    handlers = {"copy": Handler(array.copy, array.delete), "job": Handler(array.job, array.delete)}
    async with serving(owner, **handlers):
        run = await client.submit(plan, workflow_id=name)
        assert state(await wait(run)) == "SUCCEEDED"
    assert [attempt.split("/")[3] for attempt in array.served] == ["copy"]
    assert len(array.made) == 1


async def test_a_part_waits_for_its_block_in_the_next_life_too(client, cluster, name):
    """A task of the same kind, asked for later, shows that its turn to be served had come."""
    array, begun, go_on = Array(), asyncio.Event(), asyncio.Event()

    async def first(task):
        async with task.part("copy", reversible=True):
            begun.set()
            await asyncio.Event().wait()

    async def second(task):
        await go_on.wait()
        async with task.part("copy", reversible=True) as copying:
            assert copying.resumed

    @asynccontextmanager
    async def life(job):
        handlers = {"copy": Handler(array.copy, array.delete), "job": Handler(job, array.delete)}
        async with Owner(cluster.coordinator.address, name) as owner, serving(owner, **handlers):
            yield

    run = await client.submit(plan_of(external("job", name)), workflow_id=name)
    async with life(first):
        await begun.wait()
    other = await client.submit(plan_of(external("copy", name)), workflow_id=f"{name}-2")
    async with life(second):
        await wait(other)
        go_on.set()
        assert state(await wait(run)) == "SUCCEEDED"
    assert [attempt.split("/")[1] for attempt in array.served] == [f"{name}-2"]


async def test_what_waits_for_a_block_is_not_given_to_a_loop(client, cluster, name):
    run = await client.submit(plan_of(external("job", name)), workflow_id=name)
    async with Owner(cluster.coordinator.address, name) as first:
        async for asked in first.requests():
            if asked.task_kind == "job":
                break
        job = first.accept(asked, interrupt=False)
        part = (await job.__aenter__()).part("copy")
        await part.__aenter__()  # and then it is killed
    async with Owner(cluster.coordinator.address, name) as second:
        given = []
        async with asyncio.timeout(HANG_S):
            async for asked in second.requests():
                given.append(asked.task_kind)
                if asked.task_kind == "last":
                    break
                await client.submit(plan_of(external("last", name)), workflow_id=f"{name}-2")
    assert given == ["job", "last"]
    await run.cancel("a test")
    await client.run(f"{name}-2").cancel("a test")


async def test_a_part_that_another_owner_does_is_served(client, cluster, owner, name):
    array = Array()

    async def job(task):
        token = task.request.capability_token
        await owner.add_for(f"{name}-2", task.name, "copy", token=token, task_id="copy")
        await until(lambda: array.served, "the part")

    async with (
        Owner(cluster.coordinator.address, f"{name}-2") as other,
        serving(other, copy=Handler(array.copy)),
        serving(owner, job=Handler(job)),
    ):
        plan = plan_of(external("job", name, effect=Effect.EFFECT_READ_ONLY))
        run = await client.submit(plan, workflow_id=name)
        await until(lambda: array.served, "the part")
        await wait(run)


async def test_a_block_does_not_add_what_is_served(client, owner, name):
    """Both would begin it."""
    array = Array()
    group = opened(parallel("open", external("first", name)))
    await client.submit(plan_of(group), workflow_id=name)
    async with serving(owner, copy=Handler(array.copy)):
        await until(lambda: owner._ties.served, "the loop")
        with pytest.raises(TaskFailed, match="without `start`"):
            async with owner.add(f"workflows/{name}/tasks/open", "copy", task_id="copy"):
                pass
        with pytest.raises(TaskFailed, match="without `start`"):
            async with owner.workflow(f"{name}-own", "copy"):
                pass


def test_a_handler_does_something():
    with pytest.raises(ValueError, match="start"):
        Handler()


# -- what is said of the work ---------------------------------------------------------------------


async def test_an_output_that_breaks_a_promise_is_refused_by_its_name(client, owner, name):
    promised = {"volume": "string", "size": "int64", "ratio": "double", "thin": "bool"}
    run = await client.submit(plan_of(external("clone", name, outputs=promised)), workflow_id=name)
    made = ["volume"]

    async def clone(_):
        return {"volume": 9, "size": 1.5, "ratio": 2}

    async def delete(_):
        made.clear()

    async with serving(owner, clone=Handler(clone, delete)):
        failure = (await wait(run)).cause
    assert failure.reason == "FIELD_INVALID"
    for said in ("output.volume", "output.size", "output.thin: was promised, as bool"):
        assert said in failure.message
    assert "ratio" not in failure.message
    assert not made


async def test_a_unit_once_said_stays_until_another_is_said(client, owner, name):
    seen: list[str] = []

    async def count(task):
        for done, unit in ((1, "volumes"), (2, ""), (1, "disks"), (2, "")):
            task.report(done, 9, unit=unit)
            await until(partial(has_reported, run, done), "the report")
            seen.append((await run.task("count")).progress.unit)

    run = await client.submit(plan_of(external("count", name)), workflow_id=name)
    async with serving(owner, count=Handler(count)):
        await wait(run)
    assert seen == ["volumes", "volumes", "disks", "disks"]
    assert (await run.task("count")).attempts[0].progress.unit == "disks"


async def has_reported(run, done: int) -> bool:
    found: Task = await run.task("count")
    return found.progress.done == done


# -- without our client ---------------------------------------------------------------------------


async def test_what_is_asked_says_what_was_promised_and_what_it_is_a_part_of(client, cluster, name):
    promised = {"volume": "string", "size": "int64"}
    plan = plan_of(external("job", name, outputs=promised))
    run = await client.submit(plan, workflow_id=name)
    async with (
        vendor_at(cluster.coordinator.address, name) as vendor,
        vendor_at(cluster.coordinator.address, f"{name}-2") as other,
    ):
        asked = await vendor.asked(name, "job")
        assert (dict(asked.outputs), asked.part_of) == (promised, "")
        await vendor.accept(asked.attempt)
        await vendor.adds(task_name(name, "job"), "own")
        await vendor.adds(task_name(name, "job"), "foreign", owner_id=other.owner)
        assert (await vendor.asked(name, "own")).part_of == task_name(name, "job")
        assert (await other.asked(name, "foreign")).part_of == ""
    await run.cancel("a test")


async def test_a_report_without_a_unit_keeps_the_unit_that_was_said(client, cluster, name):
    run = await client.submit(plan_of(external("count", name)), workflow_id=name)
    async with vendor_at(cluster.coordinator.address, name) as vendor:
        attempt = await vendor.take(name, "count")
        said = [
            (await vendor.report(attempt, done, 9, unit=unit)).progress
            for done, unit in ((1, ""), (5, "volumes"), (6, ""), (1, "disks"), (2, ""))
        ]
    units = [(each.done, each.unit) for each in said]
    assert units == [(1, "parts"), (5, "volumes"), (6, "volumes"), (1, "disks"), (2, "disks")]
    await run.cancel("a test")
