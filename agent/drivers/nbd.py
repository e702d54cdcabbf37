"""Speaks NBD to a server on a unix socket: reads, and asks where data is.

Only what `guest` needs of the protocol: fixed newstyle, one export, one request at a time. Our own,
since libnbd's Python binding comes with no package index, and nothing else there is kept up.
The protocol: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import suppress

# A request may ask for 32 MiB at most; more than a chunk is never asked for here.
REQUEST_BYTES_MAX = 16 * 1024 * 1024
# Of a request that carries no data: any multiple of a block below 4 GiB.
SPAN_BYTES_MAX = 1 << 31
# Of an answer with no data: an error's text, or a few thousand extents.
ANSWER_BYTES_MAX = 1 << 20

_INIT = b"NBDMAGIC"
_OPTION = 0x49484156454F5054  # "IHAVEOPT"
_OPTION_REPLY = 0x3E889045565A9
_REQUEST = 0x25609513
_SIMPLE = 0x67446698
_STRUCTURED = 0x668E33EF

_FIXED_NEWSTYLE = 1 << 0
_NO_ZEROES = 1 << 1

_OPT_GO = 7
_OPT_STRUCTURED_REPLY = 8
_OPT_SET_META_CONTEXT = 10
_REP_ACK = 1
_REP_INFO = 3
_REP_META_CONTEXT = 4
_REP_ERROR = 1 << 31
_INFO_EXPORT = 0

_CMD_READ = 0
_CMD_DISC = 2
_CMD_BLOCK_STATUS = 7

_CHUNK_DONE = 1 << 0
_CHUNK_NONE = 0
_CHUNK_DATA = 1
_CHUNK_HOLE = 2
_CHUNK_STATUS = 5
_CHUNK_ERROR = 1 << 15

_CONTEXT = b"base:allocation"
_STATE_ZERO = 1 << 1  # it reads as zeros, whether or not it takes room


class NbdError(OSError):
    """The server refused something, or does not speak as it should."""


class Nbd:
    """One connection to one export; used by one thread at a time."""

    def __init__(self, connection: socket.socket) -> None:
        """Shakes hands.

        Raises:
            OSError: Nobody answers, or the export cannot be had.
        """
        self._socket = connection
        self.size_bytes = 0
        self._handle = 0
        self._shake()

    def read(self, buffer: memoryview, offset: int) -> None:
        """Fills the whole buffer from an offset."""
        for begin in range(0, len(buffer), REQUEST_BYTES_MAX):
            part = buffer[begin : begin + REQUEST_BYTES_MAX]
            self._ask(_CMD_READ, offset + begin, len(part))
            self._answer(part, offset + begin)

    def extents(self, offset: int) -> list[tuple[int, int, bool]]:
        """Returns what lies from an offset on, as (begin, end, reads as zeros), some of it."""
        if offset >= self.size_bytes:
            return []
        self._ask(_CMD_BLOCK_STATUS, offset, min(SPAN_BYTES_MAX, self.size_bytes - offset))
        told = self._answer()
        found: list[tuple[int, int, bool]] = []
        for length, state in struct.iter_unpack(">II", told[4:]):  # behind the context's number
            found.append((offset, offset + length, bool(state & _STATE_ZERO)))
            offset += length
        if not found:
            raise _broken("it tells no extents")
        return found

    def close(self) -> None:
        """Says goodbye, and does not wait for an answer: there is none."""
        with suppress(OSError):  # it may have gone before us
            self._ask(_CMD_DISC, 0, 0)
        self._socket.close()

    # -- handshake --------------------------------------------------------------------------------

    def _shake(self) -> None:
        magic, option, flags = struct.unpack(">8sQH", self._receive(18))
        if magic != _INIT or option != _OPTION or not flags & _FIXED_NEWSTYLE:
            raise _broken("it is no NBD server of this century")
        self._socket.sendall(struct.pack(">I", _FIXED_NEWSTYLE | (flags & _NO_ZEROES)))
        self._negotiate(_OPT_STRUCTURED_REPLY, b"")
        # The default export's name is empty; one query.
        query = struct.pack(">III", 0, 1, len(_CONTEXT)) + _CONTEXT
        if not self._negotiate(_OPT_SET_META_CONTEXT, query):
            raise _broken("it does not tell where data is")
        self._negotiate(_OPT_GO, struct.pack(">IH", 0, 0))
        if not self.size_bytes:
            # An image without a byte is none that we make.
            raise _broken("its export is empty")

    def _negotiate(self, option: int, data: bytes) -> bool:
        """Asks for an option; returns whether a context came with it."""
        self._socket.sendall(struct.pack(">QII", _OPTION, option, len(data)) + data)
        context = False
        while True:
            magic, of, kind, length = struct.unpack(">QIII", self._receive(20))
            if magic != _OPTION_REPLY or of != option or length > ANSWER_BYTES_MAX:
                raise _broken("its answer to an option makes no sense")
            said = self._receive(length)
            if kind & _REP_ERROR:
                raise _broken(said.decode(errors="replace") or f"it refuses option {option}")
            context = context or kind == _REP_META_CONTEXT
            if kind == _REP_INFO and struct.unpack_from(">H", said)[0] == _INFO_EXPORT:
                self.size_bytes = struct.unpack_from(">Q", said, 2)[0]
            if kind == _REP_ACK:
                return context

    # -- requests ---------------------------------------------------------------------------------

    def _ask(self, command: int, offset: int, length: int) -> None:
        self._handle += 1
        request = struct.pack(">IHHQQI", _REQUEST, 0, command, self._handle, offset, length)
        self._socket.sendall(request)

    def _answer(self, buffer: memoryview | None = None, offset: int = 0) -> bytes:
        """Takes the answer to the last request; returns what it told besides data."""
        told, failed = b"", 0
        while True:
            (magic,) = struct.unpack(">I", self._receive(4))
            if magic == _SIMPLE:  # only of what carries no data
                code, handle = struct.unpack(">IQ", self._receive(12))
                self._check(handle)
                _raise_for(code)
                return told
            if magic != _STRUCTURED:
                raise _broken("its answer has no beginning")
            flags, kind, handle, length = struct.unpack(">HHQI", self._receive(16))
            self._check(handle)
            if kind == _CHUNK_DATA and buffer is not None:
                begin = struct.unpack(">Q", self._receive(8))[0] - offset
                self._fill(_part(buffer, begin, length - 8))
            elif kind == _CHUNK_HOLE and buffer is not None:
                begin, size = struct.unpack(">QI", self._receive(12))
                _part(buffer, begin - offset, size)[:] = bytes(size)
            elif length > ANSWER_BYTES_MAX:
                raise _broken("its answer is too long")
            else:
                said = self._receive(length)
                if kind & _CHUNK_ERROR:
                    failed = failed or struct.unpack_from(">I", said)[0]
                elif kind == _CHUNK_STATUS:
                    told = said
                elif kind != _CHUNK_NONE:
                    raise _broken(f"its answer has a part of kind {kind}")
            if flags & _CHUNK_DONE:
                _raise_for(failed)
                return told

    def _check(self, handle: int) -> None:
        if handle != self._handle:
            raise _broken("it answers what was not asked")

    def _receive(self, length: int) -> bytes:
        data = bytearray(length)
        self._fill(memoryview(data))
        return bytes(data)

    def _fill(self, view: memoryview) -> None:
        while view:
            count = self._socket.recv_into(view)
            if not count:
                raise _broken("it has hung up")
            view = view[count:]


def _part(buffer: memoryview, begin: int, length: int) -> memoryview:
    if begin < 0 or length < 0 or begin + length > len(buffer):
        raise _broken("its data is not what was asked for")
    return buffer[begin : begin + length]


def _raise_for(code: int) -> None:
    if code:  # NBD has the numbers of Linux
        raise NbdError(code, os.strerror(code))


def _broken(why: str) -> NbdError:
    return NbdError(errno.EIO, f"{os.strerror(errno.EIO)}: the NBD server: {why}")
