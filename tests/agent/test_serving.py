"""Who may read what of this host, and what a reader gets: tickets, streams, and their other end."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from agent import frames, pulling, serving, tickets
from agent.drivers import copying
from agent.drivers.blocks import BlockReader
from agent.drivers.driver import Format, ProcessEnds
from agent.executors import ThreadExecutor
from agent.pulling import Pulling, RemoteContent
from agent.service import AgentService
from agent.tickets import TICKET_VALID
from countermand.rpc.errors import (
    AttemptCancelled,
    Busy,
    Conflict,
    CopyDamaged,
    Fenced,
    FieldInvalid,
    HostSilent,
    HostUnreachable,
    ImageNotFound,
    IncarnationChanged,
    PoolNotFound,
    StorageFailed,
    TicketInvalid,
    WrongCluster,
)
from countermand.rpc.server import Service, serve
from countermand.v1.agent_pb2 import (
    ContentData,
    InspectRequest,
    ReadImageRequest,
    ReadImageResponse,
    SourceAccess,
)
from countermand.v1.image_pb2 import IMAGE_FORMAT_QCOW2
from tests.agent.requests import address, attempt_name, noop_action

MIB = 2**20
OFFSETS = st.integers(0, 2**63 - 1)
DATA = st.binary(max_size=20)
# Data as it is in a message, its numbers longer than they need be, or too long.
NUMBERS = st.builds(
    lambda offset, size, data: b"\x08" + offset + b"\x00\x12" + size + bytes((len(data),)) + data,
    st.integers(0, 12).map(lambda count: b"\x80" * count),
    st.sampled_from([b"", b"\x80"]),
    DATA,
)
READER = attempt_name("reads")
CONTENT = os.urandom(MIB + 512) + bytes(3 * MIB) + os.urandom(2 * MIB) + bytes(2 * MIB)


@pytest.fixture
def service(rig):
    path = rig.put("base", CONTENT)
    with path.open("wb") as file:
        file.write(CONTENT[: MIB + 512])
        file.seek(4 * MIB + 512)
        file.write(CONTENT[4 * MIB + 512 : 6 * MIB + 512])
        file.truncate(len(CONTENT))
    return AgentService(rig.runner, now=lambda: rig.now, version="0")


async def ticket(rig, service, image="fast/base", **fields) -> bytes:
    answer = await service.ServeImage(rig.requests.serve(READER, image, **fields), None)
    assert answer.valid_for.ToTimedelta() == TICKET_VALID
    return bytes(answer.ticket)


async def read(service, request):
    return [message async for message in service.ReadImage(request, None)]


def data_of(messages) -> bytes:
    content = bytearray(messages[0].head.size_bytes)
    for message in messages:
        data = message.data
        content[data.offset : data.offset + len(data.data)] = data.data
    return bytes(content)


# -- tickets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "image", "fields"),
    [
        (WrongCluster, "fast/base", {"cluster_id": "other"}),
        (IncarnationChanged, "fast/base", {"expected_incarnation": "other"}),
        (Fenced, "fast/base", {"owner_epoch": 1}),
        (ImageNotFound, "fast/none", {}),
        (PoolNotFound, "slow/base", {}),
        (FieldInvalid, "fast/../base", {}),
    ],
)
async def test_only_who_is_in_charge_gets_one_and_for_an_image_that_is_there(
    rig, service, error, image, fields
):
    await rig.run(attempt_name("a"), noop_action(), owner_epoch=2)
    await ticket(rig, service, owner_epoch=2)
    with pytest.raises(error):
        await ticket(rig, service, image, **{"owner_epoch": 2, **fields})


async def test_a_ticket_is_good_for_a_while_and_over_a_restart(rig, service):
    given = await ticket(rig, service)
    await rig.restart()
    service = AgentService(rig.runner, now=lambda: rig.now, version="0")
    rig.now += TICKET_VALID - timedelta(seconds=1)
    assert len(await read(service, ReadImageRequest(ticket=given, head_only=True))) == 1
    rig.now += timedelta(seconds=1)
    with pytest.raises(TicketInvalid, match=tickets.EXPIRED):
        await read(service, ReadImageRequest(ticket=given))


async def test_nothing_else_opens_anything(rig, service, tmp_path):
    given = await ticket(rig, service)
    rig.put("other", CONTENT)
    for wrong in (
        b"",
        b"x" * 100,
        given[:-1],
        given + b" ",
        given[:32],
        given.replace(b'"base"', b'"other"'),
        bytes([given[0] ^ 1]) + given[1:],
    ):
        with pytest.raises(TicketInvalid, match=tickets.FORGED):
            await read(service, ReadImageRequest(ticket=wrong))
    key = await rig.runner.transact(tickets.key_of)
    elsewhere = tickets.Tickets(key, incarnation="another", now=lambda: rig.now)
    forged = elsewhere.issue(pool_id="fast", image_id="base", attempt=READER)
    with pytest.raises(TicketInvalid, match=tickets.FORGED):
        await read(service, ReadImageRequest(ticket=forged))


# -- streams ------------------------------------------------------------------------------------


async def test_a_stream_brings_the_head_then_where_data_is_then_the_data(rig, service):
    given = await ticket(rig, service)
    messages = await read(service, ReadImageRequest(ticket=given))
    assert [message.WhichOneof("part") for message in messages][:3] == ["head", "extents", "data"]
    head = messages[0].head
    assert (head.image.address, head.size_bytes) == (address("fast/base"), len(CONTENT))
    assert messages[1].extents.end == len(CONTENT)
    numbers = list(messages[1].extents.offsets_and_lengths)
    assert head.data_bytes == sum(numbers[1::2]) < 4 * MIB
    assert data_of(messages) == CONTENT
    assert max(len(message.data.data) for message in messages) <= serving.DATA_BYTES
    offsets = [message.data.offset for message in messages[2:]]
    assert offsets == sorted(offsets)


async def test_a_stream_goes_on_at_an_offset_of_the_same_content(rig, service):
    given = await ticket(rig, service)
    head = (await read(service, ReadImageRequest(ticket=given)))[0].head
    request = ReadImageRequest(ticket=given, offset=5 * MIB, identity=head.identity)
    messages = await read(service, request)
    assert messages[2].data.offset == 5 * MIB
    assert data_of(messages)[5 * MIB :] == CONTENT[5 * MIB :]
    with rig.data("base").open("r+b") as file:
        file.write(b"changed")
    with pytest.raises(Conflict):
        await read(service, request)


async def test_an_image_that_is_written_to_while_it_is_read_is_a_conflict(rig, service):
    stream = service.ReadImage(ReadImageRequest(ticket=await ticket(rig, service)), None)
    await anext(stream)
    with rig.data("base").open("r+b") as file:
        file.write(b"changed")
    with pytest.raises(Conflict):
        async for _message in stream:
            pass


async def test_the_bytes_of_a_file_are_for_those_of_its_own_format(rig, service):
    request = ReadImageRequest(ticket=await ticket(rig, service), layout=IMAGE_FORMAT_QCOW2)
    with pytest.raises(FieldInvalid):
        await read(service, request)


def test_what_is_added_while_it_is_read_is_not_told(rig):
    """A file that grows has data beyond its end."""
    path = rig.put("base", CONTENT)
    with rig.pools["fast"].reading("base", Format.RAW) as content:
        with path.open("ab") as file:
            file.write(b"more" * MIB)
        [*_, (_, end)] = serving._extents(content, 0)
        assert end == len(CONTENT)
        assert list(serving._extents(content, len(CONTENT))) == []


async def test_a_reader_holds_the_image_and_a_pool_has_so_many(rig, service):
    given = await ticket(rig, service)
    streams = [
        service.ReadImage(ReadImageRequest(ticket=given), None) for _ in range(serving.STREAMS_MAX)
    ]
    for stream in streams:
        await anext(stream)
    inspect = InspectRequest(address=address("fast/base"))
    assert list((await service.Inspect(inspect, None)).image.held_by) == [READER] * len(streams)
    with pytest.raises(Busy):
        await read(service, ReadImageRequest(ticket=given))
    for stream in streams:
        await stream.aclose()
    await asyncio.gather(*service._serving._ending)
    assert not (await service.Inspect(inspect, None)).image.held_by
    assert await read(service, ReadImageRequest(ticket=given))


class Unclosable:
    """A pool's driver whose storage goes while an image is read."""

    def __init__(self, driver) -> None:
        self._driver = driver

    def __getattr__(self, name):
        return getattr(self._driver, name)

    @contextmanager
    def reading(self, image_id, layout):
        try:
            with self._driver.reading(image_id, layout) as content:
                yield content
        finally:
            raise OSError(errno.EIO, "gone")


async def test_a_place_is_given_back_though_the_storage_is_gone(rig, service):
    given = await ticket(rig, service)
    rig.pools["fast"] = Unclosable(rig.pools["fast"])
    stream = service.ReadImage(ReadImageRequest(ticket=given), None)
    await anext(stream)
    await stream.aclose()
    await service._serving.stop()
    assert not service._serving.readers


class Stuck:
    """A pool's driver that looks at an image, and then hangs."""

    def __init__(self, driver) -> None:
        self._driver = driver
        self.free = threading.Event()
        self.asked = threading.Semaphore(0)

    def __getattr__(self, name):
        return getattr(self._driver, name)

    def reading(self, image_id, layout):
        self.asked.release()
        self.free.wait()
        return self._driver.reading(image_id, layout)


async def test_a_pool_that_hangs_is_not_said_to_be_busy(rig, service):
    """Who waits for his turn there would wait for ever."""
    given = await ticket(rig, service)
    executor = ThreadExecutor(serving.STREAMS_MAX, name="serve")
    stuck = rig.pools["fast"] = Stuck(rig.pools["fast"])
    hung = AgentService(rig.runner, now=lambda: rig.now, version="0", servers=executor)
    request = ReadImageRequest(ticket=given)
    waiting = [asyncio.create_task(read(hung, request)) for _ in range(serving.STREAMS_MAX)]
    for _ in waiting:
        await asyncio.to_thread(stuck.asked.acquire)
    with pytest.raises(Busy):
        await read(hung, request)
    rig.now += serving.HANGS_AFTER
    with pytest.raises(StorageFailed):
        await read(hung, request)
    stuck.free.set()
    assert all(map(data_of, await asyncio.gather(*waiting)))
    await hung._serving.stop()
    executor.close()


async def test_a_long_stream_renews_its_ticket(rig, service):
    stream = service.ReadImage(ReadImageRequest(ticket=await ticket(rig, service)), None)
    await anext(stream)
    rig.now += TICKET_VALID
    renewed = [message.renewed_ticket async for message in stream if message.renewed_ticket]
    assert await read(service, ReadImageRequest(ticket=renewed[0], head_only=True))


@pytest.mark.parametrize("offset", [0, 1, 127, 128, 2**32 + 5, 2**50])
@pytest.mark.parametrize("length", [1, 127, 128, 16384, MIB])
def test_a_frame_is_a_message_of_the_contract(offset, length):
    data = os.urandom(length)
    message = ReadImageResponse(data=ContentData(offset=offset, data=data))
    frame = frames.frame_of(offset, memoryview(data))
    assert ReadImageResponse.FromString(frame) == message
    assert frames.received(frame) == frames.Piece(offset, memoryview(data))
    written = message.SerializeToString()  # which leaves out an offset of 0
    assert piece(frames.received(written)) == frames.Piece(offset, memoryview(data))
    message.renewed_ticket = b"ticket"
    assert piece(frames.received(message.SerializeToString())) == piece(message)


def piece(received: frames.Received) -> frames.Piece | None:
    return received if isinstance(received, frames.Piece) else frames.piece_of(received)


# Fields of our messages and of others, whole, cut off, or not as anybody would write them.
FIELDS = st.one_of(
    st.binary(max_size=12),
    st.builds(lambda offset, data: frames.frame_of(offset, memoryview(data)), OFFSETS, DATA),
    st.builds(
        lambda offset, data: ReadImageResponse(
            data=ContentData(offset=offset, data=data), renewed_ticket=data
        ).SerializeToString(),
        st.integers(-(2**63), 2**63 - 1),
        DATA,
    ),
    st.builds(lambda size, data: bytes((0x1A, size)) + data, st.integers(0, 127), DATA),
    st.builds(lambda inside: bytes((0x1A, len(inside))) + inside, NUMBERS),
)


@given(st.lists(FIELDS, max_size=3).map(b"".join), st.integers(0, 40))
@example(b"\x1a\x00", 0)
@example(b"\x1a\x02\x08\x80", 0)
@example(b"\x1a\x0e\x08" + b"\x80" * 11 + b"\x00\x12\x00", 0)
@example(b"\x1a\x0d\x08" + b"\xff" * 9 + b"\x01\x12\x00", 0)
def test_whatever_comes_is_what_the_contract_says_it_is(frame, cut):
    frame = frame[: len(frame) - cut] if cut else frame
    try:
        message = ReadImageResponse.FromString(frame)
    except DecodeError:
        with pytest.raises(DecodeError):
            frames.received(frame)
        return
    found = frames.received(frame)
    if isinstance(found, frames.Piece):
        found = ReadImageResponse(data=ContentData(offset=found.offset, data=bytes(found.data)))
    assert found == message


# -- the other end ------------------------------------------------------------------------------


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
