"""Programs of threads that somebody ends: their work is left to the next life."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from asyncio.subprocess import PIPE
from datetime import timedelta

import pytest

from countermand.client.external import BlockingOwner, Handler, TaskFailed
from countermand.client.spec import policy
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_spec_pb2 import Policy
from tests.api.calls import state
from tests.api.owners import serving
from tests.api.vendors import beside, external, plan_of
from tests.endtoend.cluster import HANG_S, until

pytestmark = pytest.mark.slow

PROGRAM = """
import sys, time
from countermand.client.external import BlockingOwner, Handler, TaskFailed
from countermand.client.spec import policy

def job(task):
    with task.part("half") as half:
        print("begun", flush=True)
        while True:
            half.report(1)
            time.sleep(0.01)

with BlockingOwner(sys.argv[1], sys.argv[2]) as owner:
    owner.serve({"job": Handler(job)})
"""


HOSTS: dict[str, dict[str, str]] = {}  # owners need none


async def submitted(client, name):
    return await client.submit(
        plan_of(external("job", name, effect=Effect.EFFECT_READ_ONLY)), workflow_id=name
    )


async def states(run) -> list[str]:
    return [
        Task.State.Name((await run.task(task)).state).removeprefix("STATE_")
        for task in ("job", "job.half")
    ]


async def finished(owner, run) -> str:
    """Returns how a next life ends it all."""

    async def job(task):
        async with task.part("half") as half:
            assert half.resumed

    async with serving(owner, job=Handler(job)):
        return state(await run.wait(timedelta(seconds=HANG_S)))


async def test_a_program_at_work_ends_by_its_interrupt_and_by_nothing_else(
    client, cluster, owner, name
):
    run = await submitted(client, name)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, cluster.coordinator.address, name, stdout=PIPE, stderr=PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(HANG_S):
            _, complaints = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = complaints.decode()
    assert said.rstrip().endswith("KeyboardInterrupt"), said
    assert said.count("Traceback") == 1, said
    assert await states(run) == ["RUNNING", "RUNNING"]
    assert await finished(owner, run) == "SUCCEEDED"


async def test_a_block_that_is_left_ends_what_another_thread_serves_in_it(
    client, cluster, owner, name
):
    run = await submitted(client, name)
    begun, ended = threading.Event(), threading.Event()

    def job(task):
        with task.part("half") as half:
            begun.set()
            while True:
                half.check()
                time.sleep(0.01)

    def serve(blocking):
        try:
            blocking.serve({"job": Handler(job)})
        finally:
            ended.set()

    def vendor():
        with BlockingOwner(cluster.coordinator.address, name) as blocking:
            threading.Thread(target=serve, args=(blocking,), daemon=True).start()
            assert begun.wait(HANG_S)
        assert ended.wait(HANG_S)

    await asyncio.to_thread(vendor)
    assert await states(run) == ["RUNNING", "RUNNING"]
    assert await finished(owner, run) == "SUCCEEDED"


async def test_a_loop_that_is_ended_leaves_the_parts_of_its_threads_to_the_next_life(
    client, owner, name
):
    run = await submitted(client, name)
    begun = threading.Event()

    def job(task):
        with task.part("half") as half:
            begun.set()
            while True:
                half.report(1)
                time.sleep(0.01)

    async with serving(owner, job=Handler(job)):
        await until(begun.is_set, "the part")
    assert await states(run) == ["RUNNING", "RUNNING"]
    assert await finished(owner, run) == "SUCCEEDED"


async def test_as_many_threads_as_there_are_can_all_clean_up_at_once(client, owner, name):
    """Each needs one more for that, while it waits."""
    many = min(32, (os.cpu_count() or 1) + 4)  # as asyncio has by default
    all_begun = threading.Barrier(many)
    cleaned: set[str] = set()

    def job(task):
        with task.part("half", reversible=True):
            all_begun.wait(HANG_S)
            raise TaskFailed("ARRAY_FULL", "no room")

    def delete(task):
        cleaned.add(task.action)

    ignored = policy(on_failure=Policy.ON_FAILURE_IGNORE)
    members = [
        external(f"t{number}", name, kind="job", effect=Effect.EFFECT_READ_ONLY, policy=ignored)
        for number in range(many)
    ]
    run = await client.submit(beside(*members), workflow_id=name)
    handlers = {"job": Handler(job), "half": Handler(compensate=delete)}
    serve = asyncio.create_task(owner.serve(handlers, concurrency_max=many))
    try:
        await run.wait(timedelta(seconds=HANG_S))
    finally:
        serve.cancel()
        await asyncio.gather(serve, return_exceptions=True)
    assert len(cleaned) == many
