"""How a pool of the `file` driver looks on disk, and what is safe in it.

    pool.json                      which pool this is: an empty mount point must not pass for it
    images/<image id>/data.raw     the content, or data.qcow2; data.<content>.raw after a revert
    images/<image id>/image.json   the label: owner tag, generation, format, size, digest, backing
    images/<image>@<snapshot>/     a snapshot: the same two files, under a name no image can have;
                                   of a qcow2 image it is a layer instead, one more data file
                                   beside the image's, and all of it that its label says
    staging/<attempt>/image/       the same two files while an attempt works on them, "/" as "@"
    staging/<attempt>              a file: its fence; the attempt can neither work nor show anything
    staging/<attempt>@aside/       what was in the place of a fence, until it is purged

An image is one folder, so that one rename shows its data and its owner tag together, or takes them
away together. Its label says which data file is meant, so that one rename of a label replaces both.
What an attempt shows comes out of a folder inside its own, never is its own: where a fence stands
no such path can be walked, and no rename by name can take the fence itself for an image.
Anything that is not exactly this shape is refused and never touched.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from agent.drivers.driver import Format
from agent.drivers.files import FileKind, Files, FileStat
from agent.drivers.label import AT, Label, layer_name, snapshot_name
from agent.drivers.layers import Layer, named, with_content
from agent.drivers.qcow2 import HEAD_BYTES, Qcow2Head, read_head, tables_end
from countermand.rpc import names
from countermand.rpc.errors import (
    CountermandError,
    FieldInvalid,
    ImageNotFound,
    ImageUnsafe,
    SnapshotNotFound,
    Violation,
)

MARK = "pool.json"
LABEL = "image.json"
LABEL_BYTES_MAX = 256 * 1024  # about 400 layers: what is longer is no label, and none is made so
CHAIN_MAX = 64  # a longer chain is a loop, or as slow as one
GENERATION_MAX = 2**63 - 1  # of the contract's int64
ASIDE = f"{AT}aside"  # after an attempt's name in staging; no attempt is called so

# What drivers keep in an image's folder, named by its label or left there by a crash.
_OURS = {
    form: re.compile(rf"image\.json|volume\.json(\.new)?|data(\.[0-9a-f]{{16}})?\.{form}").fullmatch
    for form in Format
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What is kept in a pool's folder, the same for every host that reaches it."""

    pool_id: str
    identity: str

    def encode(self) -> bytes:
        """Returns the file's content."""
        return json.dumps(asdict(self), indent=1).encode()

    def command(self, path: Path) -> str:
        """Returns what a shell writes the same content with, in one line."""
        content = json.dumps(asdict(self))
        return f"printf '%s\\n' {shlex.quote(content)} > {shlex.quote(str(path))}"

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


def snapshots_among(listed: list[str]) -> Iterator[tuple[str, str]]:
    """Yields (image id, name) of each snapshot in a listing of the folder of images."""
    for name in listed:
        image_id, at, snapshot_id = name.partition(AT)
        if at and names.is_id(image_id) and names.is_id(snapshot_id):
            yield image_id, name


def attempt_of(staged: str) -> str:
    """Returns whose a name in staging is."""
    return staged.removesuffix(ASIDE).replace(AT, "/")


def backing_name(below: str, label: Label) -> str:
    """Returns the name by which a qcow2 file reads through an image of the same pool."""
    return f"../{below}/{label.data_name}"


class Layout:
    """The folders of one pool."""

    def __init__(
        self, pool_id: str, path: Path, files: Files, *, generation_max: int = GENERATION_MAX
    ) -> None:
        """Refers to a pool's folder; nothing is touched."""
        self.pool_id = pool_id
        self.generation_max = generation_max
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

    def image(self, name: str) -> Path:
        """Returns the folder of an image, or of a snapshot by its name.

        Raises:
            FieldInvalid: That can be neither's name; no path is ever made of it.
        """
        if not all(map(names.is_id, name.split(AT, maxsplit=1))):
            raise FieldInvalid(Violation("image_id", names.ID_RULE))
        return self.images / name

    def own(self, attempt: str) -> Path:
        """Returns an attempt's own name in staging; no id contains an "@", and none is too long.

        A folder while it works, its fence once it may not.
        """
        return self.staging / attempt.replace("/", AT)

    def staged(self, attempt: str) -> Path:
        """Returns the folder that an attempt fills, or takes something away into."""
        return self.own(attempt) / "image"

    def aside(self, attempt: str) -> Path:
        """Returns where the folder goes that was in the place of an attempt's fence."""
        return self.staging / f"{self.own(attempt).name}{ASIDE}"

    def is_fenced(self, attempt: str) -> bool:
        """Returns whether a fence stands in an attempt's place."""
        found = self.files.stat(self.own(attempt))
        return found is not None and found.kind is FileKind.FILE

    def attempts_staged(self) -> list[str]:
        """Returns the attempts that have something half-made; a fence is nothing of theirs."""
        found: dict[str, None] = {}
        for name in self.files.list_folder(self.staging):
            stat = self.files.stat(self.staging / name)
            if stat is not None and stat.kind is not FileKind.FILE:
                found[attempt_of(name)] = None
        return list(found)

    def after(self, generation: int) -> int:
        """Returns the generation that follows one: they go round, and 0 is none.

        So they are only ever compared for equality.
        """
        return generation + 1 if generation < self.generation_max else 1

    def account(self, folder: Path) -> str:
        """Returns the name of a folder in the pool's account."""
        return str(folder.relative_to(self.path))

    def allocated_bytes(self, folder: Path) -> int:
        """Returns what a folder's files take."""
        total = 0
        for name in self.files.list_folder(folder):
            found = self.files.stat(folder / name)
            if found is not None and found.kind is FileKind.FOLDER:
                total += self.allocated_bytes(folder / name)
            total += found.allocated_bytes if found is not None else 0
        return total

    def purge(self, folder: Path) -> None:
        """Removes a folder and all that is in it; an absent one is fine, a file stays."""
        found = self.files.stat(folder)
        if found is None or found.kind is not FileKind.FOLDER:
            return
        for name in self.files.list_folder(folder):
            found = self.files.stat(folder / name)
            if found is not None and found.kind is FileKind.FOLDER:
                self.purge(folder / name)
            else:
                self.files.remove_file(folder / name)
        self.files.remove_folder(folder)

    def foreign(self, name: str) -> list[str]:
        """Returns what lies in the folder of an image, or a snapshot, and nobody of ours made."""
        ours = _OURS[self.label(name).format]
        return [file for file in self.files.list_folder(self.image(name)) if not ours(file)]

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
        if layer := self.layer(image_id):
            return layer
        found = self.files.stat(self.image(image_id))
        if found is None or found.kind is not FileKind.FOLDER:
            return None  # we only ever make folders
        if not self.files.list_folder(self.image(image_id)):
            return None  # a rename takes an empty folder's place
        return self.label(image_id)

    def label(self, image_id: str) -> Label:
        """Reads the label of an image, or of a snapshot by its name.

        Raises:
            ImageNotFound: There is no such image.
            SnapshotNotFound: There is no such snapshot.
            ImageUnsafe: What is there is not a plain image of ours.
        """
        if layer := self.layer(image_id):
            return layer
        folder = self.image(image_id)
        found = self.files.stat(folder)
        if found is None:
            raise self._missing(image_id)
        if found.kind is not FileKind.FOLDER:
            raise self.unsafe(image_id, f"its folder is a {found.kind.lower()}")
        size = self._plain(image_id, folder / LABEL).size_bytes
        if size > LABEL_BYTES_MAX:
            raise self.unsafe(image_id, "its label is too long")
        try:
            return Label.decode(self._read(folder / LABEL, size))
        except ValueError:
            raise self.unsafe(image_id, "its label cannot be read") from None

    def layer(self, name: str) -> Label | None:
        """Returns what would be the label of a layer; None of a name that is no layer's."""
        image_id, at, snapshot_id = name.partition(AT)
        if not at:
            return None
        try:
            label = self.label(image_id)
        except (ImageNotFound, ImageUnsafe):
            return None
        if snapshot_id.startswith(AT):
            layer = with_content(label.layers, snapshot_id.removeprefix(AT))
        else:
            layer = named(label.layers, snapshot_id)
        return label.of_layer(layer) if layer else None

    def data(self, image_id: str, label: Label) -> tuple[Path, FileStat]:
        """Returns where an image's data is, having made sure that it is plain.

        Raises:
            ImageUnsafe: It is a link, a device, has other names, leads out of the pool, or lacks a
                part of what its label says.
        """
        path = self._home(image_id, label) / label.data_name
        found = self._plain(image_id, path)
        if label.format is Format.QCOW2:
            self._next_below(image_id, label, path, found.size_bytes)
        elif found.size_bytes < label.virtual_size_bytes:  # more is there during a resize
            raise self.unsafe(image_id, "it is shorter than its label says")
        return path, found

    def missing_bytes(self, image_id: str, label: Label) -> int:
        """Returns how much a qcow2 file is shorter than the tables in it say."""
        path, found = self.data(image_id, label)
        head, size = self._head(image_id, path, found.size_bytes), found.size_bytes
        return max(0, tables_end(head, size, partial(self._read_at, path)) - size)

    def size(self, image_id: str, label: Label) -> int:
        """Returns the size that a guest sees, whatever the label says."""
        path, found = self.data(image_id, label)
        if label.format is Format.RAW:
            return found.size_bytes
        return self._head(image_id, path, found.size_bytes).virtual_size_bytes

    def below(self, image_id: str, label: Label) -> tuple[Layer, ...]:
        """Returns the layers that an image's data reads through, nearest first, each checked."""
        found: list[Layer] = []
        while label.below is not None:
            path = self._home(image_id, label) / label.data_name
            layer = self._next_below(image_id, label, path, self._plain(image_id, path).size_bytes)
            if layer is None:
                break
            if len(found) == CHAIN_MAX or layer in found:
                raise self.unsafe(
                    image_id, "its layers are a loop or too many: delete snapshots of it"
                )
            found.append(layer)
            label = label.of_layer(layer)
            self.data(image_id, label)
        return tuple(found)

    def reads(self, name: str, label: Label) -> Layer | None:
        """Returns the layer that a qcow2 file reads through now, whatever its label says yet."""
        path = self._home(name, label) / label.data_name
        return self._next_below(name, label, path, self._plain(name, path).size_bytes)

    def backing_of(self, image_id: str, label: Label) -> tuple[str, Format]:
        """Returns what a qcow2 file is to read through, as its head names it; nothing is empty."""
        if layer := with_content(label.layers, label.below):
            return backing_name(image_id, label.of_layer(layer)), Format.QCOW2
        if label.backing:
            below = self._backing(image_id, label.backing)
            return backing_name(label.backing, below), below.format
        return "", Format.RAW

    def _home(self, name: str, label: Label) -> Path:
        """Returns the folder with the data of an image or a snapshot; a layer is in its image's."""
        image_id, _, snapshot_id = name.partition(AT)
        if label.layers and (
            snapshot_id.startswith(AT) or self.files.stat(self.image(name)) is None
        ):
            return self.image(image_id)
        return self.image(name)

    def _next_below(self, image_id: str, label: Label, path: Path, size_bytes: int) -> Layer | None:
        """Returns the layer that a qcow2 file reads through, by what its head says.

        A layer without a name may have been merged into the file, and its label not say so yet.
        """
        head = self._head(image_id, path, size_bytes)
        if head.virtual_size_bytes < label.virtual_size_bytes:  # more is there during a resize
            raise self.unsafe(image_id, "it is shorter than its label says")
        home = image_id.partition(AT)[0]
        layer = with_content(label.layers, label.below)
        for _ in label.layers:
            if layer is None or head.backing == backing_name(home, label.of_layer(layer)):
                break
            if layer.snapshot_id:
                raise self.unsafe(image_id, "its backing file is not the one of its label")
            layer = with_content(label.layers, layer.below)
        else:
            if layer is not None:
                raise self.unsafe(image_id, "its layers are a loop")
        if layer is None:
            below = self._backing(image_id, label.backing) if label.backing else None
            if head.backing != (backing_name(label.backing, below) if below else ""):
                raise self.unsafe(image_id, "its backing file is not the one of its label")
        return layer

    def reads_through(self, path: Path, below: str) -> bool:
        """Returns whether a qcow2 file names the data of another image as it is now."""
        head = read_head(self._read(path, HEAD_BYTES))
        return head is not None and head.backing == backing_name(below, self.label(below))

    def virtual_size(self, path: Path, image_format: Format, image_id: str) -> int:
        """Returns the size a guest would see of a file that has no label yet.

        Raises:
            ImageUnsafe: It is not of that format, or leads to other files.
        """
        size = self._plain(image_id, path).size_bytes
        if image_format is Format.RAW:
            return size
        head = self._head(image_id, path, size)
        if head.backing:
            raise self.unsafe(image_id, f"it reads through another file, {head.backing}")
        return head.virtual_size_bytes

    def _head(self, image_id: str, path: Path, size_bytes: int) -> Qcow2Head:
        """Returns the head of a qcow2 file."""
        head = read_head(self._read(path, min(HEAD_BYTES, size_bytes)))
        if head is None:
            raise self.unsafe(image_id, "it is not in the format qcow2")
        if head.external_data:
            raise self.unsafe(image_id, "its data is in another file")
        return head

    def _backing(self, image_id: str, backing: str) -> Label:
        try:
            return self.label(backing)
        except ImageNotFound:
            raise self.unsafe(image_id, f"its backing image {backing} is missing") from None

    def chain(self, image_id: str, label: Label) -> tuple[str, ...]:
        """Returns what an image reads through, nearest first: images, and layers by their names.

        Each of them is checked.
        """
        home = image_id.partition(AT)[0]
        below = [layer_name(home, layer) for layer in self.below(image_id, label)]
        images = 0
        backing = label.backing
        while backing:
            if images == CHAIN_MAX or backing in below or backing == image_id:
                raise self.unsafe(image_id, "its chain of backing images is a loop or too long")
            images += 1
            below.append(backing)
            label = self._backing(image_id, backing)
            self.data(backing, label)
            below += [layer_name(backing, layer) for layer in self.below(backing, label)]
            backing = label.backing
        return tuple(below)

    def is_deep(self, image_id: str, label: Label) -> bool:
        """Returns whether an image reads through so many files that nothing may read through it."""
        return len(self.chain(image_id, label)) >= CHAIN_MAX

    def readers(self, image_id: str) -> list[str]:
        """Returns the images that read through this one, and the names of such snapshots."""
        found: list[str] = []
        for other in self.files.list_folder(self.images):
            if other == image_id or not all(map(names.is_id, other.split(AT, maxsplit=1))):
                continue
            try:
                label = self.label(other)
            except (ImageNotFound, SnapshotNotFound, ImageUnsafe):
                continue  # it may not be ours; then it does not depend on ours either
            if label.backing == image_id:
                found.append(other)
        return found

    def snapshots(self, image_id: str) -> list[str]:
        """Returns the names of an image's snapshots."""
        found = snapshots_among(self.files.list_folder(self.images))
        folders = [name for image, name in found if image == image_id]
        label = None if AT in image_id else self.owner(image_id)
        return sorted({*folders, *(self.layers_named(image_id, label) if label else ())})

    def layers_named(self, image_id: str, label: Label) -> list[str]:
        """Returns the names of the snapshots that are layers of an image."""
        kept = [layer.snapshot_id for layer in label.layers if layer.snapshot_id]
        return [snapshot_name(image_id, snapshot_id) for snapshot_id in kept]

    def unsafe(self, image_id: str, why: str) -> ImageUnsafe:
        """Returns the error that says why an image is not touched."""
        return ImageUnsafe(image=image_id, pool=self.pool_id, why=why)

    def _missing(self, name: str) -> CountermandError:
        """Returns the error that says what is not there."""
        image_id, at, snapshot_id = name.partition(AT)
        if at:
            return SnapshotNotFound(image=image_id, pool=self.pool_id, snapshot=snapshot_id)
        return ImageNotFound(image=image_id, pool=self.pool_id)

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
        return self._read_at(path, 0, size_bytes)

    def _read_at(self, path: Path, offset: int, size_bytes: int) -> bytes:
        buffer = bytearray(size_bytes)
        handle = self.files.open_to_read(path)
        try:
            count = self.files.pread(handle, memoryview(buffer), offset)
        finally:
            self.files.close(handle)
        return bytes(buffer[:count])
