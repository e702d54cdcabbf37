"""Copies across hosts: two real agents, of which either may die in the middle (S-V6, S-Z5)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent import crash_points
from agent.drivers import guest, qemu
from countermand.rpc.channel import open_channel
from countermand.rpc.errors import CountermandError
from countermand.rpc.status import error_from_rpc
from countermand.v1.agent_pb2 import (
    CloneImageRequest,
    GetAttemptRequest,
    InspectRequest,
    ReadImageRequest,
    SourceAccess,
    WatchAttemptsRequest,
)
from countermand.v1.agent_pb2_grpc import AgentServiceStub
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.image_pb2 import IMAGE_FORMAT_QCOW2, IMAGE_FORMAT_RAW
from countermand.v1.verb_pb2 import Action, CloneImage
from tests.agent.processes import Agent, Host
from tests.agent.requests import address, attempt_name, copy_action
from tests.tls import Authority, needs_openssl

MIB = 2**20
COPY = attempt_name("copy")
UNDO = attempt_name("copy", 2)
ACTION = copy_action("there/base", "here/disk", take_digest=True, source_host_id="source")
SIZE = 24 * MIB
DATA = (0, 1, 6, 7, 8, 13, 20)  # the MiB that hold data

needs_qemu = pytest.mark.skipif(
    not (guest.is_installed() and qemu.is_installed()),
    reason="qemu-nbd or qemu-img is not installed: apt install qemu-utils",
)


def write_raw(path: Path, data: Sequence[int]) -> Path:
    with path.open("wb") as file:
        for offset in data:
            file.seek(offset * MIB)
            file.write(os.urandom(MIB))
        file.truncate(max(SIZE, (data[-1] + 1) * MIB))
    return path


def bring_in(host: Host, path: Path, image: str, image_format: str = "raw") -> None:
    pool = f"--pool=there={host.pool('there')}"
    arguments = ["import", pool, f"--image={image}", f"--format={image_format}", str(path)]
    subprocess.run([sys.executable, "-m", "agent", *arguments], check=True, capture_output=True)


class Pair:
    """A host that serves and one that pulls."""

    def __init__(
        self, folder: Path, *, here: str = ",flush=4MiB", data: Sequence[int] = DATA
    ) -> None:
        self.folder = folder
        for name in ("source", "target"):
            (folder / name).mkdir(parents=True)
        self.source = Host(folder / "source", {"there": ""}, host_id="source")
        self.target = Host(folder / "target", {"here": here}, host_id="target")
        self.raw = write_raw(folder / "base.raw", data)
        self.source.make_pools()
        bring_in(self.source, self.raw, "base")

    def bring_in_packed(self) -> None:
        """Brings in the same as a compressed qcow2 image."""
        packed = self.folder / "packed.qcow2"
        convert = ["qemu-img", "convert", "-c", "-O", "qcow2", str(self.raw), str(packed)]
        subprocess.run(convert, check=True)
        bring_in(self.source, packed, "packed", "qcow2")

    async def start(self) -> tuple[Agent, Agent]:
        return await self.source.start(), await self.target.start()

    async def clean_up(self) -> None:
        for host in (self.source, self.target):
            await host.clean_up()

    def content(self, path: Path | None = None) -> bytes:
        """Returns what a guest reads of the copy, or of a file."""
        path = path or self.target.data("here", "disk")
        if path.suffix == ".raw":
            return path.read_bytes()
        flat = self.folder / "flat"
        convert = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(path), str(flat)]
        subprocess.run(convert, check=True)
        return flat.read_bytes()


@pytest.fixture
async def pair(tmp_path):
    pair = Pair(tmp_path)
    yield pair
    await pair.clean_up()


async def access(source: Agent, image: str = "there/base", name: str = COPY) -> SourceAccess:
    """Returns a way to the source, as a coordinator would ask for it."""
    async with source.stub() as stub:
        served = await stub.ServeImage(source.requests.serve(name, image))
    assert served.valid_for.seconds > 0
    return SourceAccess(address=source.address, ticket=served.ticket)


async def send(
    target: Agent, action: Action = ACTION, way: SourceAccess | None = None, name: str = COPY
) -> Attempt:
    async with target.stub() as stub:
        request = target.requests.copy(name, action, source_access=way)
        return (await stub.CopyImage(request)).attempt


async def refused(call) -> CountermandError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return error_from_rpc(raised.value)


async def progressed(target: Agent, done_bytes: int) -> None:
    """Returns once the copy is so far."""
    async with target.stub() as stub:
        watch = stub.WatchAttempts(WatchAttemptsRequest(after_sequence=0))
        async for message in watch:
            if any(update.attempt.progress.done >= done_bytes for update in message.updates):
                watch.cancel()
                return


@needs_openssl
async def test_an_image_is_pulled_over_mutual_tls(pair, tmp_path):
    authority = Authority(tmp_path / "tls")
    pair.source.certificate = authority.certificate("source")
    pair.target.certificate = authority.certificate("target")
    source, target = await pair.start()
    await send(target, way=await access(source))
    copied = await target.settle(COPY)
    assert copied.state == Attempt.STATE_SUCCEEDED, copied
    assert pair.content() == pair.raw.read_bytes()
    assert copied.output.copy_image.written_bytes == len(DATA) * MIB
    assert pair.target.data("here", "disk").stat().st_blocks * 512 <= len(DATA) * MIB + 65536
    async with source.stub() as stub:
        taken = await stub.Inspect(InspectRequest(address=address("there/base"), take_digest=True))
    assert copied.output.copy_image.digest == taken.image.digest
    for credentials in (None, Authority(tmp_path / "other").certificate("who").read()):
        async with open_channel(source.address, credentials=credentials) as channel:
            stranger = AgentServiceStub(channel)
            call = stranger.GetAttempt(GetAttemptRequest(name=COPY), timeout=5)
            assert (await refused(call)).code in {
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            }
    way = await access(source)
    async with source.stub() as stub:  # who is being served keeps it from nothing
        stream = stub.ReadImage(ReadImageRequest(ticket=way.ticket))
        assert (await stream.read()).HasField("head")
        await source.stop()
    await target.stop()


FORMATS: dict[str, tuple[str, dict[str, Any], str]] = {
    "raw-as-qcow2": ("there/base", {"format": IMAGE_FORMAT_QCOW2}, ".qcow2"),
    "qcow2-as-it-is": ("there/packed", {}, ".qcow2"),
    "qcow2-as-raw": ("there/packed", {"format": IMAGE_FORMAT_RAW}, ".raw"),
    "chain-as-qcow2": ("there/top", {"flatten": True}, ".qcow2"),
    "chain-as-raw": ("there/top", {"flatten": True, "format": IMAGE_FORMAT_RAW}, ".raw"),
}


@needs_qemu
async def test_in_any_format_a_guest_reads_the_same(pair):
    pair.bring_in_packed()
    source, target = await pair.start()
    async with source.stub() as stub:
        await clone(stub, source, "there/packed", "there/top")
        taken = await stub.Inspect(InspectRequest(address=address("there/base"), take_digest=True))
    for case, (image, fields, suffix) in FORMATS.items():
        name = attempt_name(case)
        action = copy_action(
            image, f"here/{case}", take_digest=True, source_host_id="source", **fields
        )
        await send(target, action, await access(source, image, name), name)
        copied = await target.settle(name)
        assert copied.state == Attempt.STATE_SUCCEEDED, copied
        data = pair.target.data("here", case)
        assert (data.suffix, pair.content(data)) == (suffix, pair.raw.read_bytes()), case
        assert copied.output.copy_image.digest == taken.image.digest, case
    chained = copy_action("there/top", "here/no", source_host_id="source")
    name = attempt_name("no")
    await send(target, chained, await access(source, "there/top", name), name)
    assert (await target.settle(name)).failure.reason == "FIELD_INVALID"
    assert pair.target.staged() == []


async def test_a_target_that_is_killed_goes_on_where_it_was(pair):
    """Nobody asks again: it finds the way to its source in its journal."""
    source = await pair.source.start()
    target = await pair.target.start(crash_point=f"{crash_points.IN_COPY}:5")
    await send(target, way=await access(source))
    await target.died()
    target = await pair.target.start()
    copied = await target.settle(COPY)
    assert copied.state == Attempt.STATE_SUCCEEDED, copied
    assert pair.content() == pair.raw.read_bytes()
    assert copied.output.copy_image.written_bytes == len(DATA) * MIB
    async with target.stub() as stub:
        await stub.Compensate(target.requests.compensate(UNDO, COPY, ACTION))
        assert (await target.settle(UNDO)).state == Attempt.STATE_SUCCEEDED
    assert (pair.target.images("here"), pair.target.staged()) == ([], [])


async def test_a_source_that_is_killed_is_read_on_when_it_is_back(tmp_path):
    pair = Pair(tmp_path, here=",bandwidth=32MiB", data=range(64))
    source, target = await pair.start()
    await send(target, way=await access(source))
    await progressed(target, 8 * MIB)
    source.process.kill()
    await source.process.wait()
    await pair.source.start()
    copied = await target.settle(COPY)
    assert copied.state == Attempt.STATE_SUCCEEDED, copied
    assert pair.content() == pair.raw.read_bytes()
    assert copied.output.copy_image.written_bytes == 64 * MIB
    await pair.clean_up()


async def test_a_copy_whose_source_is_away_can_be_cancelled(pair):
    source, target = await pair.start()
    way = await access(source)
    source.process.kill()
    await source.process.wait()
    await send(target, way=way)
    async with target.stub() as stub:
        await stub.CancelAttempt(target.requests.cancel(COPY))
    assert (await target.settle(COPY)).state == Attempt.STATE_CANCELLED
    assert (pair.target.images("here"), pair.target.staged()) == ([], [])
    # So can one that waits when its agent is told to stop, and is started again.
    name = attempt_name("copy", 3)
    await send(target, ACTION, way, name)
    await target.stop()
    target = await pair.target.start()
    async with target.stub() as stub:
        await stub.CancelAttempt(target.requests.cancel(name))
    assert (await target.settle(name)).state == Attempt.STATE_CANCELLED
    assert (pair.target.images("here"), pair.target.staged()) == ([], [])


async def clone(stub, agent: Agent, source: str, target: str) -> None:
    verb = CloneImage(source=address(source), target=address(target))
    name = attempt_name("clone")
    header = agent.requests.for_action(name, Action(clone_image=verb))
    await stub.CloneImage(CloneImageRequest(header=header, clone_image=verb))
    assert (await agent.settle(name)).state == Attempt.STATE_SUCCEEDED
