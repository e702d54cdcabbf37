"""Reads the head of a qcow2 file: its size, and what it would make a reader open; where it ends.

A qcow2 file can name any other file as its backing or data file, and whoever wrote the image chose
that name. It is therefore read here, before qemu-img is let near the image.
Format: https://www.qemu.org/docs/master/interop/qcow2.html
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass

HEAD_BYTES = 4096  # the fixed head and a backing name (at most 1023 bytes) fit in the first cluster

_MAGIC = b"QFI\xfb"
# Magic, version, backing offset, its size, cluster bits, size, encryption, first table's entries
# and offset.
_FIXED = struct.Struct(">4sIQIIQIIQ")
_INCOMPATIBLE = struct.Struct(">Q")
_INCOMPATIBLE_OFFSET = 72
_VERSION_3 = 3  # has feature flags
_EXTERNAL_DATA = 1 << 2
_BACKING_BYTES_MAX = 1023
_FIRST_TABLE_BYTES_MAX = 32 * 2**20  # no reader takes a larger one
_CLUSTER_BITS = range(9, 22)
_OFFSET = 0x00FFFFFFFFFFFE00  # the bits of an entry that are one
_ENTRY_BYTES = 8

# Reads so many bytes of a file from an offset on; fewer at its end.
Read = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Qcow2Head:
    """What matters of a qcow2 file's head."""

    virtual_size_bytes: int
    backing: str  # the name as written; empty for an image that stands alone
    external_data: bool
    cluster_bits: int
    table_begin: int  # the first table names those of the second level
    table_end: int


def read_head(head: bytes) -> Qcow2Head | None:
    """Returns the head, or None when it is not one of qcow2."""
    if len(head) < _INCOMPATIBLE_OFFSET + _INCOMPATIBLE.size:
        return None
    magic, version, offset, length, bits, size, _, entries, table = _FIXED.unpack_from(head)
    if magic != _MAGIC or version not in {2, _VERSION_3} or length > _BACKING_BYTES_MAX:
        return None
    if offset + length > len(head):
        return None
    flags = _INCOMPATIBLE.unpack_from(head, _INCOMPATIBLE_OFFSET)[0] if version == _VERSION_3 else 0
    return Qcow2Head(
        virtual_size_bytes=size,
        backing=head[offset : offset + length].decode(errors="replace") if offset else "",
        external_data=bool(flags & _EXTERNAL_DATA),
        cluster_bits=bits,
        table_begin=table,
        table_end=table + entries * _ENTRY_BYTES,
    )


def tables_end(head: Qcow2Head, size_bytes: int, read: Read) -> int:
    """Returns where the last of a file's tables ends, those of both levels; 0 if nobody can tell.

    They are never shorter than they say. What is missing of them reads as zeros, which stand for
    data that was never written; a reader that is lenient at the end of a file does not notice.
    """
    end, length = head.table_end, head.table_end - head.table_begin
    if end > size_bytes:
        return end
    if length > _FIRST_TABLE_BYTES_MAX or head.cluster_bits not in _CLUSTER_BITS:
        return 0
    table = read(head.table_begin, length)
    entries = array("Q", table[: len(table) // _ENTRY_BYTES * _ENTRY_BYTES])
    if sys.byteorder == "little":
        entries.byteswap()
    last = max((entry & _OFFSET for entry in entries), default=0)
    return max(end, last + (1 << head.cluster_bits)) if last else end
