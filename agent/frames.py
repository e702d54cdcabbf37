"""ReadImage's messages as they are on the wire: data in them is copied once, and not four times.

A `ContentData` of a megabyte costs the protobuf library as much as its encryption does. Its few
bytes of framing are therefore written and read here; they are the contract's, as any client sees.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol, TypeAlias, cast

import grpc
import grpc.aio

from countermand.v1.agent_pb2 import DESCRIPTOR, ReadImageRequest, ReadImageResponse
from countermand.v1.agent_pb2_grpc import (
    AgentServiceServicer,
    add_AgentServiceServicer_to_server,
)

_SERVICE = DESCRIPTOR.services_by_name["AgentService"].full_name
_METHOD = "ReadImage"

# Field 3 of ReadImageResponse, and fields 1 and 2 of ContentData in it: a number and its wire type.
_PART_DATA = 3 << 3 | 2
_OFFSET = 1 << 3 | 0
_DATA = 2 << 3 | 2
# A number is written in sevens, the lowest first.
_SEVEN_BITS = 0x7F
_MORE = 0x80
# Beyond it a number on the wire stands for a negative one.
_OFFSET_MAX = 2**63 - 1


class Piece(NamedTuple):
    """A piece of data, as it was received."""

    offset: int
    data: memoryview


Frame: TypeAlias = bytes
Received: TypeAlias = ReadImageResponse | Piece


class Serves(Protocol):
    """What a servicer has besides the generated methods."""

    def read_frames(self, request: ReadImageRequest, context: object) -> AsyncIterator[Frame]:
        """Streams the messages of ReadImage, serialized."""
        ...


def frame_of(offset: int, data: memoryview) -> Frame:
    """Returns the message with a piece of data."""
    return b"".join((_before(offset, len(data)), data))


def received(frame: bytes) -> Received:
    """Returns what a message brings; data alone as a piece, if it is written as we do.

    Raises:
        DecodeError: It is none.
    """
    if piece := _piece(frame):
        return piece
    return ReadImageResponse.FromString(frame)


def piece_of(message: ReadImageResponse) -> Piece | None:
    """Returns the data in a message, which may bring more, and that another library may write."""
    if not message.HasField("data"):
        return None
    return Piece(message.data.offset, memoryview(message.data.data))


def _before(offset: int, length: int) -> bytes:
    """Returns what comes before a piece of data."""
    inside = bytes((_OFFSET, *_varint(offset), _DATA, *_varint(length)))
    return bytes((_PART_DATA, *_varint(len(inside) + length))) + inside


def _piece(frame: bytes) -> Piece | None:
    """Returns the data of a message that `frame_of` may have made, and of no other."""
    try:
        at, _ = _read_varint(frame, 1)
        at, offset = _read_varint(frame, at + 1)
        at, length = _read_varint(frame, at + 1)
    except IndexError:
        return None
    if at + length != len(frame) or offset > _OFFSET_MAX:
        return None
    if not frame.startswith(_before(offset, length)):  # it only looks like one
        return None
    return Piece(offset, memoryview(frame)[at:])


def add_to_server(servicer: Serves, server: grpc.aio.Server) -> None:
    """Adds an agent's service, with frames for ReadImage: the last handler of a call serves."""
    handler = grpc.unary_stream_rpc_method_handler(
        servicer.read_frames,
        request_deserializer=ReadImageRequest.FromString,
        response_serializer=_as_it_is,
    )
    add_AgentServiceServicer_to_server(cast("AgentServiceServicer", servicer), server)
    # A generic handler would come after the registered ones, and never be called.
    server.add_registered_method_handlers(_SERVICE, {_METHOD: handler})


def reader_of(
    channel: grpc.Channel,
) -> grpc.UnaryStreamMultiCallable[ReadImageRequest, Received]:
    """Returns the call of ReadImage on a channel."""
    return channel.unary_stream(
        f"/{_SERVICE}/{_METHOD}",
        request_serializer=ReadImageRequest.SerializeToString,
        response_deserializer=received,
    )


def _as_it_is(frame: Frame) -> bytes:
    return frame


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > _SEVEN_BITS:
        written.append(number & _SEVEN_BITS | _MORE)
        number >>= 7
    written.append(number)
    return bytes(written)


def _read_varint(frame: bytes, at: int) -> tuple[int, int]:
    """Returns where a number ends, and the number."""
    number = shift = 0
    while frame[at] & _MORE:
        number |= (frame[at] & _SEVEN_BITS) << shift
        shift += 7
        at += 1
    return at + 1, number | frame[at] << shift
