"""Who may read what of this host, and what a reader gets: tickets and streams."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from contextlib import contextmanager
from datetime import timedelta

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from agent import frames, serving, tickets
from agent.drivers.driver import Format
from agent.executors import ThreadExecutor
from agent.service import AgentService
from agent.tickets import TICKET_VALID
from countermand.rpc.errors import (
    Busy,
    Conflict,
    Fenced,
    FieldInvalid,
    ImageNotFound,
    IncarnationChanged,
    PoolNotFound,
    StorageFailed,
    TicketInvalid,
    WrongCluster,
)
from countermand.v1.agent_pb2 import (
    ContentData,
    InspectRequest,
    ReadImageRequest,
    ReadImageResponse,
)
from countermand.v1.image_pb2 import IMAGE_FORMAT_QCOW2
from tests.agent.requests import address, attempt_name, noop_action
from tests.agent.served import (
    CONTENT,
    MIB,
    READER,
    data_of,
    read,
    ticket,
)

OFFSETS = st.integers(0, 2**63 - 1)
DATA = st.binary(max_size=20)
# Data as it is in a message, its numbers longer than they need be, or too long.
NUMBERS = st.builds(
    lambda offset, size, data: b"\x08" + offset + b"\x00\x12" + size + bytes((len(data),)) + data,
    st.integers(0, 12).map(lambda count: b"\x80" * count),
    st.sampled_from([b"", b"\x80"]),
    DATA,
)


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
