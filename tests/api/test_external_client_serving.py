"""The client of owners as a loop that serves what waits, also on threads."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta
from inspect import ismethod, signature

import pytest

from countermand.client.external import (
    AcceptedTask,
    BlockingOwner,
    BlockingTask,
    Handler,
    Owner,
    TaskFailed,
    TaskStopped,
)
from countermand.client.external.added import Words
from countermand.client.external.task import Terms
from countermand.client.spec import parallel, workflow_spec
from countermand.rpc.channel import open_channel
from countermand.rpc.errors import WorkflowNotFound
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.external_task_pb2 import ExternalRequest, ListExternalTasksRequest
from countermand.v1.external_task_pb2_grpc import ExternalTaskServiceStub
from countermand.v1.workflow_spec_pb2 import Policy
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.api.calls import state
from tests.api.owners import serving, states
from tests.api.vendors import external, opened, plan_of
from tests.endtoend.cluster import HANG_S, until

pytestmark = pytest.mark.slow


HOSTS: dict[str, dict[str, str]] = {}  # owners need none


# -- serving --------------------------------------------------------------------------------------


async def test_what_waits_is_served_and_made_up_for(client, owner, name):
    made: set[str] = set()

    async def clone(task):
        made.add(task.action)
        return {"volume": task.action}

    async def delete(task):
        assert task.left["volume"] == task.action
        made.discard(task.action)

    async def fail(_):
        raise TaskFailed("NO_LICENCE", "The licence is over.")

    plan = plan_of(
        external("clone", name, outputs={"volume": "string"}),
        external("attach", name, effect=Effect.EFFECT_READ_ONLY),
    )
    async with serving(owner, clone=Handler(clone, delete), attach=Handler(fail)):
        run = await client.submit(plan, workflow_id=name)
        workflow = await run.wait(timedelta(seconds=HANG_S))
    assert (state(workflow), workflow.cause.reason) == ("COMPENSATED", "NO_LICENCE")
    assert not made


async def test_work_that_fails_is_cleaned_up_before_that_is_said(client, owner, name):
    made: list[str] = []
    tries = 0

    async def clone(task):
        made.append(task.action)
        raise OSError("no room")

    async def delete(task):
        nonlocal tries
        tries += 1
        assert (await states(run))["clone"] == "RUNNING"
        if tries == 1:
            raise OSError("not yet")
        made.remove(task.action)

    run = await client.submit(plan_of(external("clone", name)), workflow_id=name)
    async with serving(owner, clone=Handler(clone, delete)):
        assert (await run.wait(timedelta(seconds=HANG_S))).cause.reason == "OS_ERROR"
    assert (made, tries) == ([], 2)


async def test_a_compensation_that_fails_is_asked_for_again(client, owner, name):
    tries: list[str] = []

    async def nothing(_):
        return None

    async def delete(task):
        tries.append(task.attempt)
        if len(tries) == 1:
            raise TaskFailed("BUSY", "in use", retriable=True)

    async def fail(_):
        raise TaskFailed("NO", "no")

    plan = plan_of(external("clone", name), external("fail", name))
    async with serving(owner, clone=Handler(nothing, delete), fail=Handler(fail)):
        run = await client.submit(plan, workflow_id=name)
        assert state(await run.wait(timedelta(seconds=HANG_S))) == "COMPENSATED"
    assert len(set(tries)) == 2


async def test_what_an_earlier_life_began_is_stopped_and_cleaned_up(client, cluster, name):
    made: list[str] = []
    begun = asyncio.Event()

    async def clone(task):
        made.append(task.action)
        begun.set()
        await asyncio.Event().wait()

    async def delete(task):
        made.remove(task.action)

    run = await client.submit(plan_of(external("clone", name)), workflow_id=name)
    async with (
        Owner(cluster.coordinator.address, name) as first,
        serving(first, clone=Handler(clone, delete)),
    ):
        await begun.wait()
    assert made
    await run.cancel("a test")
    assert (await states(run))["clone"] == "CANCELLING"
    async with (
        Owner(cluster.coordinator.address, name) as second,
        serving(second, clone=Handler(clone, delete)),
    ):
        assert state(await run.wait(timedelta(seconds=HANG_S))) == "COMPENSATED"
    assert not made
    assert (await states(run))["clone"] == "CANCELLED"


async def test_no_more_are_begun_at_once_than_said(client, owner, name):
    at_once, most = 0, 0
    enough = asyncio.Event()

    async def work(_):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        if at_once == 2:
            enough.set()
        await enough.wait()
        at_once -= 1

    members = [external(f"t{number}", name, kind="work") for number in range(6)]
    run = await client.submit(workflow_spec("h", parallel("all", *members)), workflow_id=name)
    task = asyncio.create_task(owner.serve({"work": Handler(work)}, concurrency_max=2))
    await run.result(timedelta(seconds=HANG_S))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert most == 2


async def test_a_refused_owner_hears_of_it(cluster):
    async with Owner(cluster.coordinator.address, "NO VENDOR") as owner:
        with pytest.raises(Exception, match="owner_id"):
            await owner.serve({})


# -- threads --------------------------------------------------------------------------------------


async def test_functions_are_served_on_threads_and_stop_where_they_look(client, owner, name):
    begun, made = threading.Event(), []

    def clone(task):
        made.append(task.action)
        begun.set()
        while True:
            task.report(1, 2)
            time.sleep(0.01)

    def delete(task):
        made.remove(task.action)

    run = await client.submit(plan_of(external("clone", name)), workflow_id=name)
    async with serving(owner, clone=Handler(clone, delete)):
        await until(begun.is_set, "the beginning")
        await run.cancel("a test")
        assert state(await run.wait(timedelta(seconds=HANG_S))) == "COMPENSATED"
    assert not made
    assert (await states(run))["clone"] == "CANCELLED"


async def test_a_program_of_threads_has_the_same(client, cluster, name):
    plan = plan_of(external("one", name), external("two", name), external("three", name))
    run = await client.submit(plan, workflow_id=name)

    def vendor():
        with BlockingOwner(cluster.coordinator.address, name) as owner:
            for request in owner.requests():
                if request.task_kind == "three":
                    with pytest.raises(TaskFailed), owner.accept(request):
                        raise TaskFailed("NO_LICENCE", "The licence is over.")
                    break
                if request.kind == request.KIND_START:
                    with owner.accept(request) as task:
                        with task.part("half") as part:
                            part.report(1, 1)
                        task.outputs["volume"] = task.action
            with owner.workflow(f"{name}-own", "rebalance") as job:
                job.report(1, 1)

    await asyncio.to_thread(vendor)
    assert state(await client.run(f"{name}-own").wait()) == "SUCCEEDED"
    assert (await run.task("three")).failure.reason == "NO_LICENCE"
    assert (await run.get()).state == WorkflowState.WORKFLOW_STATE_COMPENSATING


def words_of(thing: object) -> dict[str, list[str]]:
    """Returns what an object has for its users, with the words that each method takes."""
    return {
        name: list(signature(said).parameters) if ismethod(said) else []
        for name in dir(thing)
        if not name.startswith("_")
        for said in (getattr(thing, name),)
    }


async def test_programs_of_threads_have_all_that_others_have():
    """But for what makes no sense there: nothing interrupts a thread."""
    with BlockingOwner("127.0.0.1:1", "acme") as blocking:
        ours = words_of(blocking._owner)
        for said in ours.values():
            if "interrupt" in said:
                said.remove("interrupt")
        assert words_of(blocking) == ours

        task = AcceptedTask(blocking._owner._ties, ExternalRequest(), Terms())
        ours = words_of(task)
        for event in ("stopping", "ask_stop", "close", "leave", "is_left"):
            del ours[event]  # for asyncio, or the client's own
        assert words_of(BlockingTask(task, asyncio.get_running_loop())) == ours


async def test_programs_of_threads_clean_up_and_end_workflows_of_their_own(client, cluster, name):
    cleaned: list[str] = []
    tokens: list[str] = []
    group = opened(parallel("open", external("held", f"{name}-2")))
    run = await client.submit(plan_of(group), workflow_id=name)

    def clean(task: BlockingTask) -> None:
        cleaned.append(task.kind)

    def add(owner: BlockingOwner) -> None:
        words: Words = {"reversible": True, "on_failure": Policy.ON_FAILURE_IGNORE}
        copy: Words = {**words, "task_id": "copy"}
        place = f"workflows/{name}/tasks/open"
        with (
            owner.add(place, "copy", clean_up=clean, **copy) as copying,
            copying.part("half", clean_up=clean, **words),
        ):
            raise TaskFailed("ARRAY_FULL", "no room")

    def rebalance(owner: BlockingOwner) -> None:
        policy = Policy(on_failure=Policy.ON_FAILURE_STOP)
        with owner.workflow(f"{name}-own", "rebalance", policy=policy) as job:
            token = job.request.capability_token
            owner.add_for(f"{name}-2", f"workflows/{name}-own", "wait", token=token, task_id="wait")
            owner.end_workflow(f"{name}-own", token, force=True)
            tokens.append(token)
            while True:
                job.check()
                time.sleep(0.01)

    def vendor() -> None:
        with BlockingOwner(cluster.coordinator.address, name) as owner:
            with pytest.raises(TaskFailed, match="no room"):
                add(owner)
            with pytest.raises(TaskStopped):
                rebalance(owner)
            owner.clear_workflow(f"{name}-own", *tokens)

    await asyncio.to_thread(vendor)
    assert cleaned == ["half", "copy"]
    with pytest.raises(WorkflowNotFound):
        await client.run(f"{name}-own").get()
    await run.cancel("a test")


async def test_all_that_waits_is_known_when_a_coordinator_answers_again(client, cluster, name):
    """S-V29: else an owner would be told that what it works on is over."""
    for number in range(40):
        await client.submit(plan_of(external("x", name)), workflow_id=f"{name}-{number}")
    await cluster.coordinator.kill()
    starting = asyncio.create_task(cluster.coordinator.start())
    async with open_channel(cluster.coordinator.address) as channel:
        stub = ExternalTaskServiceStub(channel)
        answer = await stub.ListExternalTasks(
            ListExternalTasksRequest(owner_id=name), wait_for_ready=True
        )
    await starting
    for number in range(40):
        await client.run(f"{name}-{number}").cancel("a test")
    assert len(answer.requests) == 40
