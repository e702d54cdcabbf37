"""A real agent process, started as an administrator would, killed and started again (S-V6, S-V7).

Killed well into its work: `test_killed` has the first passing of every crash point of every verb.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

import grpc
import pytest

from agent import crash_points
from countermand.v1.agent_pb2 import (
    CreateSnapshotRequest,
    GetHostRequest,
    RevertImageRequest,
)
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.verb_pb2 import Action, CreateSnapshot, RevertImage
from tests.agent.digests import digest
from tests.agent.processes import Host
from tests.agent.requests import address, attempt_name, copy_action

MIB = 2**20
COPY = attempt_name("copy")
UNDO = attempt_name("copy", 2)
ACTION = copy_action("templates/base", "fast/disk", take_digest=True)


@pytest.fixture
async def host(tmp_path):
    host = Host(tmp_path, {"templates": ",read_only", "fast": ",flush=4MiB"})
    host.make_pools()
    source = tmp_path / "base.img"
    with source.open("wb") as file:
        for offset in (0, 5, 9, 18):
            file.seek(offset * MIB)
            file.write(os.urandom(MIB))
        file.truncate(20 * MIB)
    importing = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent", "import", f"--pool=templates={host.pool('templates')}"),
        *("--image=base", "--format=raw", str(source)),
    )
    assert await importing.wait() == 0
    yield host
    await host.clean_up()


async def test_copies_and_makes_up_for_it(host):
    agent = await host.start()
    async with agent.stub() as stub:
        await stub.CopyImage(agent.requests.copy(COPY, ACTION))
        copied = await agent.settle(COPY)
        assert copied.state == Attempt.STATE_SUCCEEDED, copied
        assert copied.output.copy_image.digest == digest(host.data("fast", "disk").read_bytes())
        assert host.data("fast", "disk").read_bytes() == host.data("templates", "base").read_bytes()
        await stub.Compensate(agent.requests.compensate(UNDO, COPY, ACTION))
        undone = await agent.settle(UNDO)
    assert undone.state == Attempt.STATE_SUCCEEDED, undone
    assert (host.images("fast"), host.staged()) == ([], [])
    await agent.stop()


async def send(call, request) -> None:
    """Sends a request to an agent that may die of it."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        await call(request)


@pytest.mark.parametrize("crash_point", ["agent.in_copy:3"])
async def test_a_copy_killed_anywhere_succeeds_once_when_asked_again(host, crash_point):
    agent = await host.start(crash_point=crash_point)
    async with agent.stub() as stub:
        await send(stub.CopyImage, agent.requests.copy(COPY, ACTION))
        await agent.died()
    agent = await host.start()
    async with agent.stub() as stub:
        await stub.CopyImage(agent.requests.copy(COPY, ACTION))
        copied = await agent.settle(COPY)
        again = await stub.CopyImage(agent.requests.copy(COPY, ACTION))
    assert copied.state == again.attempt.state == Attempt.STATE_SUCCEEDED, copied
    assert copied.output == again.attempt.output
    assert copied.output.copy_image.digest == digest(host.data("templates", "base").read_bytes())
    assert host.data("fast", "disk").read_bytes() == host.data("templates", "base").read_bytes()
    assert (host.images("fast"), host.staged()) == (["disk"], [])
    await agent.stop()


@pytest.mark.parametrize(
    "crash_point",
    [
        "agent.in_copy:3",
    ],
)
async def test_a_copy_killed_anywhere_can_be_made_up_for(host, crash_point):
    """The late repeat of the action is refused, or shows a stopped attempt (S-Z2, S-Z3)."""
    agent = await host.start(crash_point=crash_point)
    async with agent.stub() as stub:
        await send(stub.CopyImage, agent.requests.copy(COPY, ACTION))
        await agent.died()
    agent = await host.start()
    async with agent.stub() as stub:
        await stub.Compensate(agent.requests.compensate(UNDO, COPY, ACTION))
        undone = await agent.settle(UNDO)
        assert undone.state == Attempt.STATE_SUCCEEDED, undone
        await send(stub.CopyImage, agent.requests.copy(COPY, ACTION))
        await agent.settle(COPY)
    assert (host.images("fast"), host.staged()) == ([], [])
    await agent.stop()


@pytest.mark.parametrize("crash_point", ["agent.in_compensation:2"])
async def test_a_compensation_killed_anywhere_goes_on_by_itself(host, crash_point):
    """S-Z14: journalled and safe to repeat; nobody needs to ask again."""
    agent = await host.start(crash_point=crash_point)
    async with agent.stub() as stub:
        await stub.CopyImage(agent.requests.copy(COPY, ACTION))
        await agent.settle(COPY)
        await send(stub.Compensate, agent.requests.compensate(UNDO, COPY, ACTION))
        await agent.died()
    agent = await host.start()
    undone = await agent.settle(UNDO)
    assert undone.state == Attempt.STATE_SUCCEEDED, undone
    assert (host.images("fast"), host.staged()) == ([], [])
    await agent.stop()


REVERT = Action(
    revert_image=RevertImage(
        target=address("fast/disk"), snapshot_id="old", safety_snapshot_id="safe"
    )
)
BACK = attempt_name("back")


async def with_snapshot(host) -> tuple[str, str]:
    """Makes an image with a snapshot and newer content; returns the digests of old and new."""
    agent = await host.start()
    async with agent.stub() as stub:
        await stub.CopyImage(agent.requests.copy(COPY, ACTION))
        await agent.settle(COPY)
        create = CreateSnapshot(target=address("fast/disk"), snapshot_id="old")
        name = attempt_name("old")
        header = agent.requests.for_action(name, Action(create_snapshot=create))
        await stub.CreateSnapshot(CreateSnapshotRequest(header=header, create_snapshot=create))
        made = await agent.settle(name)
    assert made.state == Attempt.STATE_SUCCEEDED, made
    await agent.stop()
    path = host.data("fast", "disk")
    old = digest(path.read_bytes())
    path.write_bytes(os.urandom(20 * MIB))
    return old, digest(path.read_bytes())


@pytest.mark.parametrize(
    "crash_point",
    [
        "agent.in_copy:9",
        f"{crash_points.AFTER_RENAME}:2",
    ],
)
async def test_a_revert_killed_anywhere_ends_whole_or_is_made_up_for(host, crash_point):
    old, new = await with_snapshot(host)
    agent = await host.start(crash_point=crash_point)
    async with agent.stub() as stub:
        header = agent.requests.for_action(BACK, REVERT)
        request = RevertImageRequest(header=header, revert_image=REVERT.revert_image)
        await send(stub.RevertImage, request)
        await agent.died()
    agent = await host.start()
    async with agent.stub() as stub:
        back = await agent.settle(BACK)
        assert back.output.revert_image.generation == 2, back
        assert digest(host.data("fast", "disk").read_bytes()) == old
        assert host.images("fast") == ["disk", "disk@old", "disk@safe"]
        undo = attempt_name("back", 2)
        await stub.Compensate(agent.requests.compensate(undo, BACK, REVERT))
        undone = await agent.settle(undo)
    assert undone.state == Attempt.STATE_SUCCEEDED, undone
    assert digest(host.data("fast", "disk").read_bytes()) == new
    assert (host.images("fast"), host.staged()) == (["disk", "disk@old"], [])
    await agent.stop()


async def test_the_host_describes_itself(host):
    agent = await host.start()
    async with agent.stub() as stub:
        report = (await stub.GetHost(GetHostRequest())).host
    assert [pool.pool_id for pool in report.pools] == ["templates", "fast"]
    assert [pool.read_only for pool in report.pools] == [True, False]
    assert report.incarnation == agent.requests.incarnation
    await agent.stop()
