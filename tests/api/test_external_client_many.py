"""Several parts of one kind, in every life and every attempt; and what had been done before."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from functools import partial

import pytest

from countermand.client.external import Handler, Owner, TaskFailed
from countermand.client.spec import parallel, policy, retry
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_spec_pb2 import Policy
from tests.api.calls import state
from tests.api.owners import serving, wait
from tests.api.vendors import external, opened, plan_of
from tests.endtoend.cluster import HANG_S, until

pytestmark = pytest.mark.slow

READ_ONLY = Effect.EFFECT_READ_ONLY
VOLUMES = ("a", "b", "c")
AGAIN = policy(retry=retry(2, delay=timedelta(milliseconds=100)))


HOSTS: dict[str, dict[str, str]] = {}  # owners need none


async def parts_of(run) -> dict[str, str]:
    """Returns the word for the state of each part, by its id."""
    return {
        task.name.rpartition("/")[2]: Task.State.Name(task.state).removeprefix("STATE_")
        for task in await run.tasks()
        if "." in task.name
    }


class Array:
    """What a vendor has copied: the volume, by the attempt that it was marked with."""

    def __init__(self) -> None:
        self.copied: dict[str, str] = {}

    async def delete(self, task):
        self.copied.pop(task.action, None)


# -- told apart -----------------------------------------------------------------------------------


async def test_each_part_of_a_kind_in_a_loop_is_a_part_of_its_own(client, owner, name):
    array = Array()

    async def job(task):
        for volume in VOLUMES:
            async with task.part("copy", reversible=True) as copying:
                assert not copying.done
                array.copied[copying.action] = volume

    run = await client.submit(plan_of(external("job", name, effect=READ_ONLY)), workflow_id=name)
    async with serving(owner, job=Handler(job), copy=Handler(compensate=array.delete)):
        assert state(await wait(run)) == "SUCCEEDED"
    assert list(await parts_of(run)) == ["job.copy", "job.copy-2", "job.copy-3"]
    assert tuple(array.copied.values()) == VOLUMES


async def test_parts_at_the_same_time_are_told_apart_by_the_order_of_their_beginning(
    client, owner, name
):
    found: dict[str, str] = {}

    async def job(task):
        async def copy(volume):
            async with task.part("copy") as copying:
                found[volume] = copying.name.rpartition("/")[2]

        await asyncio.gather(*map(copy, VOLUMES))

    run = await client.submit(plan_of(external("job", name, effect=READ_ONLY)), workflow_id=name)
    async with serving(owner, job=Handler(job)):
        assert state(await wait(run)) == "SUCCEEDED"
    assert found == {"a": "job.copy", "b": "job.copy-2", "c": "job.copy-3"}


async def test_the_parts_of_functions_on_threads_are_told_apart_alike(client, owner, name):
    def job(task):
        for _ in VOLUMES:
            with task.part("copy") as copying:
                assert not copying.done

    run = await client.submit(plan_of(external("job", name, effect=READ_ONLY)), workflow_id=name)
    async with serving(owner, job=Handler(job)):
        assert state(await wait(run)) == "SUCCEEDED"
    assert len(await parts_of(run)) == len(VOLUMES)


async def test_a_kind_that_reads_like_a_number_of_another_is_told_apart(client, owner, name):
    async def job(task):
        for kind in ("copy-2", "copy", "copy"):
            async with task.part(kind) as part:
                assert not part.done

    run = await client.submit(plan_of(external("job", name, effect=READ_ONLY)), workflow_id=name)
    async with serving(owner, job=Handler(job)):
        assert state(await wait(run)) == "SUCCEEDED"
    assert list(await parts_of(run)) == ["job.copy-2", "job.copy", "job.copy-3"]


async def test_an_id_that_is_said_twice_is_refused_with_what_to_do(client, owner, name):
    begun: list[str] = []

    async def job(task):
        for volume in VOLUMES:
            async with task.part("copy", task_id="my-copy"):
                begun.append(volume)

    run = await client.submit(plan_of(external("job", name, effect=READ_ONLY)), workflow_id=name)
    async with serving(owner, job=Handler(job)):
        failure = (await wait(run)).cause
    assert failure.reason == "PART_REPEATED"
    assert "my-copy" in failure.message
    assert "task_id" in failure.message
    assert begun == ["a"]


async def test_what_is_added_beside_others_says_its_id(owner):
    """A group is shared: there a kind tells nothing apart."""
    with pytest.raises(TypeError, match="task_id"):
        owner.add("workflows/w/tasks/open", "copy")
    with pytest.raises(TypeError, match="task_id"):
        await owner.add_for("other", "workflows/w/tasks/open", "copy")


# -- in later lives and attempts ------------------------------------------------------------------


async def test_a_next_life_finds_each_part_in_its_order(client, cluster, name):
    array, begun = Array(), asyncio.Event()
    lives: list[list[bool]] = []

    async def job(task):
        lives.append([])
        for volume in VOLUMES:
            async with task.part("copy", reversible=True) as copying:
                lives[-1].append(copying.done)
                if not copying.done:
                    array.copied[copying.action] = volume
                if len(lives) == 1 and volume == "b":
                    begun.set()
                    await asyncio.Event().wait()

    handlers = {"job": Handler(job), "copy": Handler(compensate=array.delete)}
    run = await client.submit(plan_of(external("job", name, effect=READ_ONLY)), workflow_id=name)
    async with Owner(cluster.coordinator.address, name) as first, serving(first, **handlers):
        await begun.wait()
    async with Owner(cluster.coordinator.address, name) as second, serving(second, **handlers):
        assert state(await wait(run)) == "SUCCEEDED"
    assert lives == [[False, False], [True, False, False]]
    assert tuple(array.copied.values()) == VOLUMES
    assert len(await parts_of(run)) == len(VOLUMES)


@pytest.mark.parametrize("said", [True, False], ids=["own ids", "counted"])
async def test_a_whole_that_is_tried_again_adds_all_of_its_parts_anew(client, owner, name, said):
    array, tries = Array(), []

    async def job(task):
        tries.append(set(array.copied.values()))
        for volume in VOLUMES:
            words = {"task_id": f"job-{volume}"} if said else {}
            async with task.part("copy", reversible=True, **words) as copying:
                array.copied[copying.action] = volume
        if len(tries) == 1:
            raise TaskFailed("BUSY", "Too many clones at once.", retriable=True)

    plan = plan_of(external("job", name, effect=READ_ONLY, policy=AGAIN))
    async with serving(owner, job=Handler(job), copy=Handler(compensate=array.delete)):
        run = await client.submit(plan, workflow_id=f"{name}-{said}".lower())
        assert state(await wait(run)) == "SUCCEEDED"
    assert tries == [set(), set()]
    assert tuple(array.copied.values()) == VOLUMES
    last = "job-c" if said else "job.copy-3"
    assert [made.split("/")[3] for made in array.copied][-1] == f"{last}.2"


# -- what had been done before --------------------------------------------------------------------


async def test_what_had_been_done_before_is_found_by_the_attempt_that_did_it(
    client, cluster, name, caplog
):
    made, found, begun = [], [], asyncio.Event()

    async def job(task):
        async with task.part("copy", reversible=True, arguments={"of": "a"}) as copying:
            if not copying.done:
                made.append((copying.action, copying.kind, dict(copying.arguments)))
                copying.outputs["volume"] = "v9"
            else:
                found.append((copying.action, copying.kind, dict(copying.arguments)))
                assert copying.outputs == {"volume": "v9"}
                copying.report(9, 9)  # there is nobody to tell
                copying.check()
        if not begun.is_set():
            begun.set()
            await asyncio.Event().wait()

    async def delete(_):
        raise AssertionError("nothing failed")

    handlers = {"job": Handler(job), "copy": Handler(compensate=delete)}
    run = await client.submit(plan_of(external("job", name, effect=READ_ONLY)), workflow_id=name)
    async with Owner(cluster.coordinator.address, name) as first, serving(first, **handlers):
        await begun.wait()
    async with Owner(cluster.coordinator.address, name) as second, serving(second, **handlers):
        assert state(await wait(run)) == "SUCCEEDED"
    assert found == made
    assert made[0][0] == f"workflows/{name}/tasks/job.copy/attempts/1"
    ours = [each for each in caplog.records if each.name.startswith("countermand")]
    assert not [each for each in ours if each.levelno >= logging.WARNING]


async def test_a_part_that_is_done_hears_that_its_whole_is_to_stop(client, cluster, name):
    begun, ended = asyncio.Event(), asyncio.Event()

    async def job(task):
        async with task.part("copy") as copying:
            if copying.done:
                await run.cancel("a test")
                await until(lambda: copying.stop_requested, "the stop")
                ended.set()
                copying.check()
        begun.set()
        await asyncio.Event().wait()

    run = await client.submit(plan_of(external("job", name)), workflow_id=name)

    async def block(owner):
        requests = owner.requests()
        async with owner.accept(await anext(requests), interrupt=False) as task:
            await job(task)

    async with Owner(cluster.coordinator.address, name) as first:
        working = asyncio.create_task(block(first))
        await begun.wait()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    async with Owner(cluster.coordinator.address, name) as second:
        with pytest.raises(Exception, match="is to be stopped"):
            await block(second)
    assert ended.is_set()
    assert state(await wait(run)) == "COMPENSATED"


async def test_a_workflow_of_ones_own_that_is_done_is_found_by_the_attempt_that_did_it(
    client, owner, name
):
    for is_again in (False, True):
        async with owner.workflow(name, "rebalance") as job:
            assert job.done is is_again
            assert job.attempt == f"workflows/{name}/tasks/main/attempts/1"
            async with job.part("move") as moving:
                assert moving.done is is_again


async def test_what_an_operator_has_skipped_is_done(client, owner, name):
    """Else its block would wait for a turn that never comes."""
    pause = policy(on_failure=Policy.ON_FAILURE_PAUSE)
    group = opened(parallel("open", external("first", name)))
    run = await client.submit(plan_of(group, policy=pause), workflow_id=name)

    async def replicate():
        async with owner.add(f"workflows/{name}/tasks/open", "copy", task_id="copy") as copying:
            if not copying.done:
                raise TaskFailed("ARRAY_FULL", "no room")
            return copying.attempt

    async def nothing(_):
        return None

    async with serving(owner, first=Handler(nothing)):
        with pytest.raises(TaskFailed, match="no room"):
            await replicate()
        await until(partial(is_paused, run), "the pause")
        await run.resume("copied by hand", skip=["copy"])
        async with asyncio.timeout(HANG_S):
            assert await replicate() == f"workflows/{name}/tasks/copy/attempts/1"
        assert state(await wait(run)) == "SUCCEEDED"


async def is_paused(run) -> bool:
    return state(await run.get()) == "PAUSED"
