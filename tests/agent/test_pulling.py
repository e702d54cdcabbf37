"""The other end of a stream: an image that another host serves reads like one of a pool here."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from agent import frames, pulling, serving
from agent.drivers import copying
from agent.drivers.blocks import BlockReader
from agent.drivers.driver import Format, ProcessEnds
from agent.pulling import Pulling, RemoteContent
from agent.tickets import TICKET_VALID
from countermand.rpc.errors import (
    AttemptCancelled,
    CopyDamaged,
    HostSilent,
    HostUnreachable,
    TicketInvalid,
)
from countermand.rpc.server import Service, serve
from countermand.v1.agent_pb2 import (
    ReadImageRequest,
    ReadImageResponse,
    SourceAccess,
)
from tests.agent.requests import address
from tests.agent.served import (
    CONTENT,
    MIB,
    READER,
    ticket,
)


def never() -> None:
    """Lets the work go on."""


@asynccontextmanager
async def pulled(rig, service, check=never, way: bytes | None = None):
    """Yields a source over gRPC, and what it is reached by."""
    name = "countermand.v1.AgentService"
    add = Service(name, frames.add_to_server, service)
    server = await serve(listen="127.0.0.1:0", services=[add])
    pulling = Pulling()
    given = await ticket(rig, service) if way is None else way
    pulling.offer(READER, SourceAccess(address=server.address, ticket=given))
    try:
        yield pulling.source(READER, address("fast/base"), check), pulling, server
    finally:
        await server.stop(0)


def read_parts(content: RemoteContent, *parts: tuple[int, int]) -> list[bytes]:
    found = []
    for begin, end in parts:
        buffer = bytearray(end - begin)
        count = content.pread(memoryview(buffer), begin)
        found.append(bytes(buffer[:count]))
    return found


async def test_a_remote_content_reads_like_one_of_a_pool_here(rig, service, monkeypatch):
    monkeypatch.setattr(pulling, "SKIPPED_BYTES_MAX", MIB)
    parts = [
        (0, 512),
        (512, 3 * MIB),
        (3 * MIB, 5 * MIB),
        (0, len(CONTENT)),  # back to the beginning
        (MIB, MIB + 100),
        (5 * MIB + 7, 6 * MIB),  # past what is not worth skipping
        (len(CONTENT) - 10, len(CONTENT) + 10),
    ]

    def work(source) -> None:
        found = source.find()
        assert (found.image_id, found.format) == ("base", Format.RAW)
        with source.reading(Format.RAW) as content:
            assert content.size_bytes == len(CONTENT)
            assert content.next_data(3 * MIB)[0] in range(3 * MIB, 4 * MIB + 513)
            assert content.next_data(len(CONTENT)) is None
            assert read_parts(content, *parts) == [CONTENT[begin:end] for begin, end in parts]

    async with pulled(rig, service) as (source, _, _):
        await asyncio.to_thread(work, source)


async def test_a_ticket_that_is_too_late_waits_for_the_next_one(rig, service):
    given = await ticket(rig, service)
    rig.now += TICKET_VALID
    asked = threading.Event()
    async with pulled(rig, service, asked.set, given) as (source, pulling, server):
        finding = asyncio.create_task(asyncio.to_thread(source.find))
        await asyncio.to_thread(asked.wait)
        fresh = await ticket(rig, service)
        pulling.offer(READER, SourceAccess(address=server.address, ticket=fresh))
        assert (await finding).image_id == "base"


@pytest.mark.parametrize("way", [b"forged", b"late", b"none"])
async def test_a_ticket_that_stays_bad_fails_the_attempt_for_the_next_one(
    rig, service, way, monkeypatch
):
    monkeypatch.setattr(pulling, "PATIENCE_S", 0.2)
    given = {b"forged": b"x" * 64, b"late": await ticket(rig, service), b"none": b""}[way]
    rig.now += TICKET_VALID
    async with pulled(rig, service, way=given) as (source, _, _):
        with pytest.raises(TicketInvalid) as raised:
            await asyncio.to_thread(source.find)
    assert raised.value.retriable


async def test_a_source_that_stays_away_fails_the_attempt_for_the_next_one(
    rig, service, monkeypatch
):
    monkeypatch.setattr(pulling, "PATIENCE_S", 0.2)
    async with pulled(rig, service) as (source, _, server):
        await server.stop(0)
        with pytest.raises(HostUnreachable) as raised:
            await asyncio.to_thread(source.find)
    assert raised.value.retriable


class Through:
    """A service whose frames pass through a test."""

    def __init__(self, service, frames_of) -> None:
        self._service = service
        self._frames_of = frames_of

    def __getattr__(self, name):
        return getattr(self._service, name)

    async def read_frames(self, request, context):
        async for frame in self._frames_of(self._service.read_frames(request, context), request):
            yield frame


def read_all(source) -> bytes:
    with source.reading(Format.RAW) as content:
        return read_parts(content, (0, len(CONTENT)))[0]


async def test_a_ticket_beside_data_hides_none_of_it(rig, service):
    async def beside(sent, request):
        async for frame in sent:
            message = ReadImageResponse.FromString(frame)
            message.renewed_ticket = request.ticket
            yield message.SerializeToString()

    async with pulled(rig, Through(service, beside)) as (source, _, _):
        assert await asyncio.to_thread(read_all, source) == CONTENT


async def test_a_source_that_falls_silent_is_called_again(rig, service, monkeypatch):
    """It takes calls, and keeps the line open: nothing else would tell."""
    monkeypatch.setattr(pulling, "SILENCE_S", 0.3)
    offsets = []

    async def silent_at_first(sent, request):
        offsets.append(request.offset)
        count = 0
        async for frame in sent:
            yield frame
            count += 1
            if len(offsets) == 1 and count == 4:  # the head, where data is, and two pieces
                await asyncio.Event().wait()

    async with pulled(rig, Through(service, silent_at_first)) as (source, _, _):
        assert await asyncio.to_thread(read_all, source) == CONTENT
    assert len(offsets) == 2
    assert offsets[1] > 0


@pytest.mark.parametrize("frame_count", [0, 1, 2])
async def test_a_source_that_stays_silent_fails_the_attempt_for_the_next_one(
    rig, service, frame_count, monkeypatch
):
    monkeypatch.setattr(pulling, "SILENCE_S", 0.1)
    monkeypatch.setattr(pulling, "PATIENCE_S", 0.2)

    async def silent(sent, _):
        count = 0
        async for frame in sent:
            if count == frame_count:
                await asyncio.Event().wait()
            count += 1
            yield frame

    async with pulled(rig, Through(service, silent)) as (source, _, _):
        with pytest.raises(HostSilent) as raised:
            await asyncio.to_thread(read_all, source)
    assert raised.value.retriable


def copied(source) -> tuple[bytes, str]:
    """Returns what a copy reads of a source, and its digest."""
    with source.reading(Format.RAW) as content:
        found = bytearray(content.size_bytes)
        for filled in BlockReader(content, take_leaves=True).read():
            for begin, end in filled.data:
                found[begin:end] = filled.piece((begin, end))
        return bytes(found), steps_end(copying.digest_content(content))


def steps_end(steps):
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


LARGE = os.urandom(5 * MIB) + bytes(8 * MIB) + os.urandom(2 * MIB + 512)


@pytest.mark.parametrize("cut", [None, 1, 3, 4, 6, 7, 8, 9])
async def test_each_block_is_compared_with_what_its_host_has_read(rig, service, cut):
    """The line may break anywhere, between the data of a block and its leaf as well."""
    rig.put("large", LARGE)
    way = await ticket(rig, service, "fast/large")
    leaves: list[int | None] = []  # None: it broke

    async def breaking(sent, request):
        is_first, count = not leaves, 0
        async for frame in sent:
            if is_first and count == cut:
                leaves.append(None)
                raise HostUnreachable(address="here")
            count += 1
            message = ReadImageResponse.FromString(frame)
            if message.HasField("leaf"):
                leaves.append(message.leaf.offset)
            yield frame

    async with pulled(rig, Through(service, breaking), way=way) as (_, pulling, _):
        source = pulling.source(READER, address("fast/large"), never, take_digest=True)
        found, digest = await asyncio.to_thread(copied, source)
    assert found == LARGE
    with rig.pools["fast"].reading("large", Format.RAW) as content:
        assert digest == steps_end(copying.digest_content(content))
    assert set(leaves) >= {0, 4 * MIB, 12 * MIB}


@pytest.mark.parametrize("damage", ["data", "leaf", "no leaf"])
async def test_what_was_damaged_on_its_way_is_no_copy(rig, service, damage):
    async def damaging(sent, _):
        async for frame in sent:
            message = ReadImageResponse.FromString(frame)
            if message.HasField("data") and damage == "data":
                data = message.data.data
                message.data.data = bytes([data[0] ^ 1]) + data[1:]
            if message.HasField("leaf") and damage == "leaf":
                message.leaf.leaf = bytes(32)
            if not (message.HasField("leaf") and damage == "no leaf"):
                yield message.SerializeToString()

    async with pulled(rig, Through(service, damaging)) as (_, pulling, _):
        source = pulling.source(READER, address("fast/base"), never, take_digest=True)
        with pytest.raises(CopyDamaged) as raised:
            await asyncio.to_thread(copied, source)
    assert raised.value.retriable


@pytest.mark.parametrize("stop", [AttemptCancelled(), ProcessEnds()])
async def test_who_waits_for_a_source_hears_that_it_is_to_stop(rig, service, stop):
    waiting = threading.Event()
    stopped = threading.Event()

    def check() -> None:
        waiting.set()
        if stopped.is_set():
            raise stop

    async with pulled(rig, service, check) as (source, _, server):
        await server.stop(0)

        def find() -> BaseException | None:
            try:
                source.find()
            except BaseException as error:  # noqa: BLE001 - ProcessEnds is none for futures
                return error
            return None

        finding = asyncio.create_task(asyncio.to_thread(find))
        await asyncio.to_thread(waiting.wait)
        stopped.set()
        assert await finding is stop


async def test_a_busy_pool_is_waited_for_however_long(rig, service, monkeypatch):
    monkeypatch.setattr(pulling, "PATIENCE_S", 0)
    monkeypatch.setattr(serving, "RETRY_DELAY", timedelta(milliseconds=50))
    monkeypatch.setattr(serving, "STREAMS_MAX", 1)
    given = await ticket(rig, service)
    first = service.ReadImage(ReadImageRequest(ticket=given), None)
    await anext(first)
    refused = asyncio.Event()
    loop = asyncio.get_running_loop()
    begin = service._serving._begin

    def counted(*arguments):
        loop.call_soon_threadsafe(refused.set)
        return begin(*arguments)

    monkeypatch.setattr(service._serving, "_begin", counted)
    async with pulled(rig, service) as (source, _, _):
        finding = asyncio.create_task(asyncio.to_thread(source.find))
        await refused.wait()
        await first.aclose()
        assert (await finding).image_id == "base"
