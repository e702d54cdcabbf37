"""What is written down of each volume and snapshot: one record beside each image's label.

It holds all that a plug-in is asked with, before it is asked, and what it answered. A record that
cannot be read is never taken for none: there may be a volume that nothing else names. Whatever
would need it says so, and touches neither it nor anything else.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from agent.drivers.files import FileKind, Files
from countermand.rpc.errors import ImageUnsafe

RECORD = "volume.json"
RECORD_BYTES_MAX = 256 * 1024

# Of 128 that the interface allows: arrays that carry the name on allow fewer.
_READABLE_MAX = 20
_NOT_EVERYWHERE = re.compile(r"[^a-z0-9-]")


class Thing(StrEnum):
    """What a record stands for."""

    VOLUME = "VOLUME"
    SNAPSHOT = "SNAPSHOT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a plug-in is asked for, and what it answered."""

    thing: Thing
    name: str
    size_bytes: int = 0  # at least; of volumes
    source: str = ""  # the id of the volume that it is made from
    parameters: Mapping[str, str] = field(default_factory=dict)
    topology: Mapping[str, str] = field(default_factory=dict)  # from where it must be reached
    id: str = ""  # empty until the plug-in told it
    context: Mapping[str, str] = field(default_factory=dict)  # goes with every use of it
    capacity_bytes: int = 0
    nodes: tuple[str, ...] = ()  # may be writing to it: it is taken from them before it goes

    def encode(self) -> bytes:
        """Returns the file's content."""
        fields = asdict(self)
        if not self.nodes:  # so that an agent that knows none can read it
            del fields["nodes"]
        return json.dumps(fields, indent=1).encode()

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """Reads the file's content.

        Raises:
            ValueError: It is no record.
        """
        try:
            fields = json.loads(data)
            nodes = tuple(fields.pop("nodes", ()))
            record = cls(**{**fields, "thing": Thing(fields["thing"])}, nodes=nodes)
            words = (record.parameters, record.topology, record.context)
            texts = [record.name, record.source, record.id, *nodes]
            texts += [text for each in words for pair in each.items() for text in pair]
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(str(error)) from error
        sizes = (record.size_bytes, record.capacity_bytes)
        if not all(isinstance(text, str) for text in texts) or not all(
            isinstance(size, int) for size in sizes
        ):
            raise ValueError("a word of another kind")
        return record


def name_of(pool: str, cluster_id: str, attempt: str, image: str) -> str:
    """Returns the name under which an attempt asks for an image's volume, or a snapshot."""
    key = json.dumps([pool, cluster_id, attempt, image]).encode()
    readable = _NOT_EVERYWHERE.sub("-", image)[:_READABLE_MAX]
    return f"cm-{readable}-{hashlib.blake2b(key, digest_size=16).hexdigest()}"


class Records:
    """The records in the folders of one pool."""

    def __init__(self, pool_id: str, path: Path, files: Files) -> None:
        """Refers to a pool's folder; touches nothing."""
        self._pool_id = pool_id
        self._path = path
        self._files = files

    def read(self, folder: Path) -> Record | None:
        """Returns the record of a folder, if it has one.

        Raises:
            ImageUnsafe: It has one that cannot be read.
        """
        path = folder / RECORD
        found = self._files.stat(path)
        if found is None:
            return None
        if found.kind is not FileKind.FILE or found.size_bytes > RECORD_BYTES_MAX:
            raise self._damaged(folder)
        buffer = bytearray(found.size_bytes)
        handle = self._files.open_to_read(path)
        try:
            count = self._files.pread(handle, memoryview(buffer), 0)
        finally:
            self._files.close(handle)
        try:
            return Record.decode(bytes(buffer[:count]))
        except ValueError:
            raise self._damaged(folder) from None

    def place(self, folder: Path) -> str:
        """Returns where the record of a folder is, below the pool's labels."""
        return str((folder / RECORD).relative_to(self._path))

    def _damaged(self, folder: Path) -> ImageUnsafe:
        name = folder.name if folder.parent == self._path / "images" else folder.parent.name
        why = (
            f"its {self.place(folder)} cannot be read: bring it back, or remove its volume by other"
            " means, and its folder then"
        )
        return ImageUnsafe(image=name, pool=self._pool_id, why=why)

    def write(self, folder: Path, record: Record) -> None:
        """Writes the record of a folder durably; the one before stays until it is."""
        write_durably(self._files, folder / RECORD, record.encode())


def write_durably(files: Files, path: Path, data: bytes) -> None:
    """Puts a file in the place of the one before, which stays until this one lasts."""
    draft = path.with_name(f"{path.name}.new")
    handle = files.open_to_write(draft)
    try:
        files.truncate(handle, 0)
        files.pwrite(handle, memoryview(data), 0)
        files.flush(handle)
    finally:
        files.close(handle)
    files.rename(draft, path)
    files.flush_folder(path.parent)
