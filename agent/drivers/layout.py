"""How a pool of the `file` driver looks on disk, and what is safe in it.

    pool.json                      which pool this is: an empty mount point must not pass for it
    images/<image id>/data.raw     the content, or data.qcow2
    images/<image id>/image.json   the label: owner tag, generation, format, size, digest, backing
    staging/<attempt>/             the same two files while an attempt works on them, "/" as "@"

An image is one folder, so that one rename shows its data and its owner tag together, or takes them
away together. Anything that is not exactly this shape is refused and never touched.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from agent.drivers.driver import Format
from agent.drivers.files import FileKind, Files, FileStat
from agent.drivers.qcow2 import HEAD_BYTES, read_head
from countermand.rpc import names
from countermand.rpc.errors import FieldInvalid, ImageNotFound, ImageUnsafe, Violation

MARK = "pool.json"
LABEL = "image.json"
LABEL_BYTES_MAX = 64 * 1024
CHAIN_MAX = 64  # a longer chain is a loop, or as slow as one


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What is kept beside an image's data."""

    cluster_id: str
    attempt: str  # that made it; empty of an import
    create_time: str  # ISO 8601
    format: Format
    virtual_size_bytes: int
    written_bytes: int
    generation: int = 1
    digest: str = ""
    backing: str = ""  # the image that a qcow2 overlay reads through
    shared: bool = False

    def encode(self) -> bytes:
        """Returns the file's content."""
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def decode(cls, data: bytes) -> Label:
        """Reads the file's content.

        Raises:
            ValueError: It is not a label.
        """
        try:
            fields = json.loads(data)
            label = cls(**{**fields, "format": Format(fields["format"])})
            datetime.fromisoformat(label.create_time)
            if label.backing and not names.is_id(label.backing):
                raise ValueError(label.backing)
            sizes = (label.virtual_size_bytes, label.written_bytes, label.generation)
            if not all(isinstance(size, int) for size in sizes):
                raise ValueError(sizes)
        except (KeyError, TypeError) as error:
            raise ValueError(str(error)) from error
        return label


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What is kept in a pool's folder, the same for every host that reaches it."""

    pool_id: str
    identity: str

    def encode(self) -> bytes:
        """Returns the file's content."""
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def decode(cls, data: bytes) -> Mark:
        """Reads the file's content.

        Raises:
            ValueError: It is not a mark.
        """
        match json.loads(data):
            case {"pool_id": str(pool_id), "identity": str(identity)} if identity:
                return cls(pool_id=pool_id, identity=identity)
        raise ValueError(f"it is no {MARK}")


class Layout:
    """The folders of one pool."""

    def __init__(self, pool_id: str, path: Path, files: Files) -> None:
        """Refers to a pool's folder; nothing is touched."""
        self.pool_id = pool_id
        self.files = files
        self.path = path
        self.images = path / "images"
        self.staging = path / "staging"

    def make(self) -> None:
        """Makes the two folders; the pool's own is the administrator's to make, or to mount."""
        for folder in (self.images, self.staging):
            self.files.make_folder(folder)
        self.files.flush_folder(self.path)

    def mark(self) -> Mark | None:
        """Returns which pool is at this path now; None when nothing says so.

        Raises:
            ValueError: What is there is not a mark of ours.
        """
        found = self.files.stat(self.path / MARK)
        if found is None:
            return None
        if found.kind is not FileKind.FILE or found.size_bytes > LABEL_BYTES_MAX:
            raise ValueError(f"it is no {MARK}")
        return Mark.decode(self._read(self.path / MARK, found.size_bytes))

    def image(self, image_id: str) -> Path:
        """Returns an image's folder.

        Raises:
            FieldInvalid: That can be no image's id; no path is ever made of it.
        """
        if not names.is_id(image_id):
            raise FieldInvalid(Violation("image_id", names.ID_RULE))
        return self.images / image_id

    def staged(self, attempt: str) -> Path:
        """Returns an attempt's own folder; no id contains an "@", and no name is too long."""
        return self.staging / attempt.replace("/", "@")

    def account(self, folder: Path) -> str:
        """Returns the name of a folder in the pool's account."""
        return str(folder.relative_to(self.path))

    def allocated_bytes(self, folder: Path) -> int:
        """Returns what a folder's files take."""
        found = [self.files.stat(folder / name) for name in self.files.list_folder(folder)]
        return sum(stat.allocated_bytes for stat in found if stat is not None)

    def purge(self, folder: Path) -> None:
        """Removes a folder of files; an absent one is fine."""
        if self.files.stat(folder) is None:
            return
        for name in self.files.list_folder(folder):
            self.files.remove_file(folder / name)
        self.files.remove_folder(folder)

    def write_label(self, folder: Path, label: Label) -> None:
        """Writes the label, durably with the folder's names."""
        handle = self.files.open_to_write(folder / LABEL)
        try:
            self.files.truncate(handle, 0)
            self.files.pwrite(handle, memoryview(label.encode()), 0)
            self.files.flush(handle)
        finally:
            self.files.close(handle)
        self.files.flush_folder(folder)

    def owner(self, image_id: str) -> Label | None:
        """Returns the label of whatever has an image's name; None when nothing of ours has."""
        found = self.files.stat(self.image(image_id))
        if found is None or found.kind is not FileKind.FOLDER:
            return None  # we only ever make folders
        if not self.files.list_folder(self.image(image_id)):
            return None  # a rename takes an empty folder's place
        return self.label(image_id)

    def label(self, image_id: str) -> Label:
        """Reads an image's label.

        Raises:
            ImageNotFound: There is no such image.
            ImageUnsafe: What is there is not a plain image of ours.
        """
        folder = self.image(image_id)
        found = self.files.stat(folder)
        if found is None:
            raise ImageNotFound(image=image_id, pool=self.pool_id)
        if found.kind is not FileKind.FOLDER:
            raise self.unsafe(image_id, f"its folder is a {found.kind.lower()}")
        size = self._plain(image_id, folder / LABEL).size_bytes
        if size > LABEL_BYTES_MAX:
            raise self.unsafe(image_id, "its label is too long")
        try:
            return Label.decode(self._read(folder / LABEL, size))
        except ValueError:
            raise self.unsafe(image_id, "its label cannot be read") from None

    def data(self, image_id: str, label: Label) -> tuple[Path, FileStat]:
        """Returns where an image's data is, having made sure that it is plain.

        Raises:
            ImageUnsafe: It is a link, a device, has other names, or leads out of the pool.
        """
        path = self.image(image_id) / f"data.{label.format}"
        found = self._plain(image_id, path)
        if label.format is Format.QCOW2:
            head = read_head(self._read(path, min(HEAD_BYTES, found.size_bytes)))
            if head is None:
                raise self.unsafe(image_id, "it is not in the format that its label says")
            if head.external_data:
                raise self.unsafe(image_id, "its data is in another file")
            expected = ""
            if label.backing:
                below = self._backing(image_id, label.backing)
                expected = f"../{label.backing}/data.{below.format}"
            if head.backing != expected:
                raise self.unsafe(image_id, "its backing file is not the one of its label")
        return path, found

    def virtual_size(self, path: Path, image_format: Format, image_id: str) -> int:
        """Returns the size a guest would see of a file that has no label yet.

        Raises:
            ImageUnsafe: It is not of that format, or leads to other files.
        """
        size = self._plain(image_id, path).size_bytes
        if image_format is Format.RAW:
            return size
        head = read_head(self._read(path, min(HEAD_BYTES, size)))
        if head is None:
            raise self.unsafe(image_id, "it is not in the format qcow2")
        if head.external_data:
            raise self.unsafe(image_id, "its data is in another file")
        if head.backing:
            raise self.unsafe(image_id, f"it reads through another file, {head.backing}")
        return head.virtual_size_bytes

    def _backing(self, image_id: str, backing: str) -> Label:
        try:
            return self.label(backing)
        except ImageNotFound:
            raise self.unsafe(image_id, f"its backing image {backing} is missing") from None

    def chain(self, image_id: str, label: Label) -> tuple[str, ...]:
        """Returns the images below one, nearest first, each of them checked."""
        below: list[str] = []
        backing = label.backing
        while backing:
            if len(below) == CHAIN_MAX or backing in below or backing == image_id:
                raise self.unsafe(image_id, "its chain of backing images is a loop or too long")
            below.append(backing)
            label = self._backing(image_id, backing)
            self.data(backing, label)
            backing = label.backing
        return tuple(below)

    def dependants(self, image_id: str) -> list[str]:
        """Returns the images that read through this one."""
        found: list[str] = []
        for other in self.files.list_folder(self.images):
            if other == image_id or not names.is_id(other):
                continue
            try:
                label = self.label(other)
            except (ImageNotFound, ImageUnsafe):
                continue  # it may not be ours; then it does not depend on ours either
            if label.backing == image_id:
                found.append(other)
        return found

    def unsafe(self, image_id: str, why: str) -> ImageUnsafe:
        """Returns the error that says why an image is not touched."""
        return ImageUnsafe(image=image_id, pool=self.pool_id, why=why)

    def _plain(self, image_id: str, path: Path) -> FileStat:
        found = self.files.stat(path)
        if found is None:
            raise self.unsafe(image_id, f"{path.name} is missing")
        if found.kind is not FileKind.FILE:
            raise self.unsafe(image_id, f"{path.name} is a {found.kind.lower()}")
        if found.links > 1:
            raise self.unsafe(image_id, f"{path.name} has {found.links} hard links")
        return found

    def _read(self, path: Path, size_bytes: int) -> bytes:
        buffer = bytearray(size_bytes)
        handle = self.files.open_to_read(path)
        try:
            count = self.files.pread(handle, memoryview(buffer), 0)
        finally:
            self.files.close(handle)
        return bytes(buffer[:count])
