"""The client of owners against a coordinator in its own process, which is killed now and then."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import AsyncExitStack
from datetime import timedelta
from inspect import ismethod, signature

import pytest
import pytest_asyncio

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
from countermand.client.spec import parallel, sequence, workflow_spec
from countermand.rpc.channel import open_channel
from countermand.rpc.errors import WorkflowNotFound
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.external_task_pb2 import ExternalRequest, ListExternalTasksRequest
from countermand.v1.external_task_pb2_grpc import ExternalTaskServiceStub
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_spec_pb2 import Policy
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.api.calls import state
from tests.api.owners import serving
from tests.api.vendors import Vendor, external, opened
from tests.endtoend.cluster import HANG_S, Cluster, until

pytestmark = pytest.mark.slow


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    cluster = Cluster(lives, tmp_path_factory.mktemp("owners"), {})
    await cluster.coordinator.start()
    yield cluster
    await cluster.end()


async def asked(owner: Owner, kind: str):
    """Returns the first request of a kind."""
    async with asyncio.timeout(HANG_S):
        async for each in owner.requests():
            if each.task_kind == kind:
                return each
    raise AssertionError(kind)


def _cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


def spec(*members):
    return workflow_spec("hybrid", sequence("all", *members))


async def states(run) -> dict[str, str]:
    """Returns the word for the state of each task."""
    return {
        task.name.rpartition("/")[2]: Task.State.Name(task.state).removeprefix("STATE_")
        for task in await run.tasks()
    }


# -- the block ------------------------------------------------------------------------------------


async def test_a_block_ends_its_task_with_its_outputs(client, owner, name):
    use = external("use", name, bindings={"arguments.volume": "tasks.clone.output.volume"})
    clone = external("clone", name, outputs={"volume": "string", "size": "int64"})
    run = await client.submit(spec(clone, use), workflow_id=name)
    async with owner.accept(await asked(owner, "clone")) as task:
        assert (task.kind, task.resumed, task.action) == ("clone", False, task.attempt)
        task.outputs.update(volume="v9", size=5)
    async with owner.accept(await asked(owner, "use")) as task:
        assert dict(task.arguments) == {"volume": "v9"}
    assert state(await run.result()) == "SUCCEEDED"


async def test_progress_is_coalesced_and_its_last_word_is_always_sent(client, owner, name):
    run = await client.submit(spec(external("count", name)), workflow_id=name)
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
    plan = spec(external("x", owner.owner_id))
    run = await client.submit(plan, workflow_id=f"fails-by-{reason.lower().replace('_', '-')}")
    with pytest.raises(type(error), match="no room"):
        async with owner.accept(await asked(owner, "x")):
            raise error
    failure = (await run.wait()).cause
    assert (failure.reason, failure.message, failure.retriable) == (reason, "no room", retriable)


async def test_outputs_that_break_a_promise_are_cleaned_up_and_fail(client, owner, name):
    run = await client.submit(
        spec(external("clone", name, outputs={"volume": "string"})), workflow_id=name
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
    async with AsyncExitStack() as stack:
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
        assert {found[f"t{n}"] for n in range(20)} == {"RUNNING"}
    lapsed = [
        event.task.rpartition("/")[2]
        async for event in run.events()
        if event.task_state_changed.after == Task.STATE_UNKNOWN
    ]
    assert lapsed == ["silent"]
    await run.cancel("a test")


async def has_state(run, task_id: str, state: Task.State.ValueType) -> bool:
    found: Task = await run.task(task_id)
    return found.state == state


# -- stopping -------------------------------------------------------------------------------------


async def test_a_block_that_is_to_stop_is_interrupted_and_ends_as_cancelled(client, owner, name):
    run = await client.submit(spec(external("slow", name)), workflow_id=name)
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
    assert not _cancelling()


async def test_what_is_read_only_is_interrupted_too_when_nobody_waits_for_it(client, owner, name):
    look = external("look", name, effect=Effect.EFFECT_READ_ONLY)
    run = await client.submit(spec(look), workflow_id=name)

    async def work():
        async with owner.accept(await asked(owner, "look")):
            await run.cancel("a test")
            await asyncio.Event().wait()

    with pytest.raises(TaskStopped):
        await work()
    assert state(await run.wait()) == "COMPENSATED"


async def test_a_block_may_look_for_a_stop_itself(client, owner, name):
    run = await client.submit(spec(external("slow", name)), workflow_id=name)
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
    run = await client.submit(spec(external("slow", name)), workflow_id=name)
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
    run = await client.submit(spec(external("slow", owner.owner_id)), workflow_id=name)
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
    run = await client.submit(spec(external("slow", name)), workflow_id=name)
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


# -- parts, and workflows of one's own ------------------------------------------------------------


async def test_parts_read_like_code_and_are_shown_as_a_tree(client, owner, name):
    run = await client.submit(spec(external("job", name)), workflow_id=name)
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
    run = await client.submit(spec(external("job", name)), workflow_id=name)

    async def work():
        async with owner.accept(await asked(owner, "job")) as job, job.part("copy"):
            raise TaskFailed("ARRAY_FULL", "no room")

    with pytest.raises(TaskFailed):
        await work()
    assert (await run.wait()).cause.reason == "ARRAY_FULL"


async def test_a_part_may_fail_where_that_is_ignored(client, owner, name):
    run = await client.submit(spec(external("job", name)), workflow_id=name)
    async with owner.accept(await asked(owner, "job")) as job:
        with pytest.raises(TaskFailed):
            async with job.part("hint", on_failure=Policy.ON_FAILURE_IGNORE):
                raise TaskFailed("ARRAY_FULL", "no room")
    await run.result()


async def test_a_stop_of_the_whole_stops_its_part(client, owner, name):
    run = await client.submit(spec(external("job", name)), workflow_id=name)

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
    assert not _cancelling()


async def test_a_stop_waits_until_a_part_has_been_ended(client, owner, name):
    run = await client.submit(spec(external("job", name)), workflow_id=name)

    async def work():
        async with owner.accept(await asked(owner, "job")) as job:
            async with job.part("copy"):
                asyncio.get_running_loop().call_soon(job.ask_stop)  # while the part is ended
            await asyncio.Event().wait()

    with pytest.raises(TaskStopped):
        await work()
    assert (await states(run))["job.copy"] == "SUCCEEDED"


async def test_the_next_life_of_a_job_finds_its_parts_as_they_were(client, cluster, name):
    run = await client.submit(spec(external("job", name)), workflow_id=name)
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
    run = await client.submit(spec(group), workflow_id=name)
    async with (
        owner.accept(await asked(owner, "first")),
        owner.add(f"workflows/{name}/tasks/open", "second", task_id="second", weight=2) as second,
    ):
        second.outputs["x"] = 1
    await run.result()
    assert (await states(run))["second"] == "SUCCEEDED"


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

    plan = spec(
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

    run = await client.submit(spec(external("clone", name)), workflow_id=name)
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

    plan = spec(external("clone", name), external("fail", name))
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

    run = await client.submit(spec(external("clone", name)), workflow_id=name)
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

    run = await client.submit(spec(external("clone", name)), workflow_id=name)
    async with serving(owner, clone=Handler(clone, delete)):
        await until(begun.is_set, "the beginning")
        await run.cancel("a test")
        assert state(await run.wait(timedelta(seconds=HANG_S))) == "COMPENSATED"
    assert not made
    assert (await states(run))["clone"] == "CANCELLED"


async def test_a_program_of_threads_has_the_same(client, cluster, name):
    plan = spec(external("one", name), external("two", name), external("three", name))
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
    run = await client.submit(spec(group), workflow_id=name)

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
        await client.submit(spec(external("x", name)), workflow_id=f"{name}-{number}")
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
