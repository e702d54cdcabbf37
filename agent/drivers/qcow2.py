"""Reads the head of a qcow2 file: its size, and what it would make a reader open.

A qcow2 file can name any other file as its backing or data file, and whoever wrote the image chose
that name. It is therefore read here, before qemu-img is let near the image.
Format: https://www.qemu.org/docs/master/interop/qcow2.html
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEAD_BYTES = 4096  # the fixed head and a backing name (at most 1023 bytes) fit in the first cluster

_MAGIC = b"QFI\xfb"
_FIXED = struct.Struct(">4sIQIIQ")  # magic, version, backing offset, its size, cluster bits, size
_INCOMPATIBLE = struct.Struct(">Q")
_INCOMPATIBLE_OFFSET = 72
_VERSION_3 = 3  # has feature flags
_EXTERNAL_DATA = 1 << 2
_BACKING_BYTES_MAX = 1023


@dataclass(frozen=True, slots=True, kw_only=True)
class Qcow2Head:
    """What matters of a qcow2 file's head."""

    virtual_size_bytes: int
    backing: str  # the name as written; empty for an image that stands alone
    external_data: bool


def read_head(head: bytes) -> Qcow2Head | None:
    """Returns the head, or None when it is not one of qcow2."""
    if len(head) < _INCOMPATIBLE_OFFSET + _INCOMPATIBLE.size:
        return None
    magic, version, offset, length, _bits, size = _FIXED.unpack_from(head)
    if magic != _MAGIC or version not in {2, _VERSION_3} or length > _BACKING_BYTES_MAX:
        return None
    if offset + length > len(head):
        return None
    flags = _INCOMPATIBLE.unpack_from(head, _INCOMPATIBLE_OFFSET)[0] if version == _VERSION_3 else 0
    return Qcow2Head(
        virtual_size_bytes=size,
        backing=head[offset : offset + length].decode(errors="replace") if offset else "",
        external_data=bool(flags & _EXTERNAL_DATA),
    )
