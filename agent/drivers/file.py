"""The `file` driver: raw and qcow2 images in folders of a local or shared file system.

Everything is made under a private staging name that contains the attempt, flushed, then renamed
into place together with its owner tag. See `layout` for how a pool looks on disk.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

from agent import crash_points
from agent.drivers import copying, fencing, qemu
from agent.drivers.blocks import data_bytes
from agent.drivers.content import FileContent
from agent.drivers.driver import (
    Content,
    Format,
    ImageFound,
    LocalSource,
    Made,
    Oddity,
    PoolConfig,
    PoolFound,
    Resized,
    SnapshotFound,
    SnapshotGone,
    Source,
    Step,
    Steps,
    Work,
)
from agent.drivers.files import FileKind, Files, RealFiles
from agent.drivers.filling import Filling
from agent.drivers.folders import FolderType
from agent.drivers.layout import AT, Label, snapshots_among
from agent.drivers.resizing import Resizing
from agent.drivers.snapshots import Snapshots
from agent.drivers.staging import Staging
from agent.drivers.surveying import survey
from countermand.rpc import names
from countermand.rpc.errors import (
    CountermandError,
    DigestMismatch,
    FieldInvalid,
    ImageNotFound,
    ImageUnsafe,
    SnapshotNotFound,
    VerbUnsupported,
    Violation,
)

log = logging.getLogger(__name__)

VERBS = frozenset(
    {
        "create_image",
        "copy_image",
        "clone_image",
        "delete_image",
        "resize_image",
        "create_snapshot",
        "delete_snapshot",
        "revert_image",
        "verify_image",
        "noop",
    }
)


class FileDriver:
    """Serves one pool; every method may be called from any thread."""

    def __init__(
        self,
        config: PoolConfig,
        files: Files,
        identity: str = "",
        *,
        staging: Staging | None = None,
        formats: tuple[Format, ...] = tuple(Format),
    ) -> None:
        """Makes the pool's folders where they are missing, and counts what is in use.

        With an identity, the pool's folder is believed only while it carries that identity. Another
        driver brings a staging of its own.
        """
        self.config = config
        self.verbs = VERBS
        self._formats = formats
        self._staging = staging or Staging(config, files, identity)
        self.files = files
        self.layout = self._staging.layout
        self.room = self._staging.room
        self.filling = Filling(self._staging)
        self._resizing = Resizing(self._staging)
        self._snapshots = Snapshots(self._staging, self.filling.duplicate)

    # -- verbs ----------------------------------------------------------------------------------

    def create(
        self,
        work: Work,
        image_id: str,
        *,
        image_format: Format,
        size_bytes: int,
        preallocated: bool,
    ) -> Steps[Made]:
        """Makes an empty image."""
        self._need_format(image_format, "create_image")

        def fill(folder: Path) -> Steps[Label]:
            path = folder / f"data.{image_format}"
            needed = size_bytes if preallocated else 0
            if image_format is Format.QCOW2:
                self.filling.need_qemu("create_image")
                needed = qemu.overlay_bytes(size_bytes)
                if preallocated:
                    needed = yield from qemu.preallocated_bytes(size_bytes)
            with self.filling.reserving(folder, needed):
                if image_format is Format.QCOW2:
                    yield from qemu.create(
                        path, image=image_id, size_bytes=size_bytes, preallocated=preallocated
                    )
                with self._staging.writing(path) as handle:
                    if image_format is Format.RAW and preallocated:
                        self.files.allocate(handle, size_bytes)
                    elif image_format is Format.RAW:
                        self.files.truncate(handle, size_bytes)
                    self.files.flush(handle)
                self._staging.settle(folder)
            return self._staging.label(work, image_format, size_bytes)

        return (yield from self._staging.make(work, image_id, fill))

    def copy(
        self,
        work: Work,
        source: Source,
        image_id: str,
        *,
        image_format: Format | None,
        flatten: bool,
        take_digest: bool,
    ) -> Steps[Made]:
        """Copies an image's data in full, from this pool or from any other."""

        def fill(folder: Path) -> Steps[Label]:
            found = source.find()
            below = [name for name in found.chain if AT not in name]  # its snapshots are its own
            if below and not flatten:
                why = f"{source.name} reads through {below[0]}: set it to copy the chain"
                raise FieldInvalid(Violation("copy_image.flatten", why))
            wanted = image_format or found.format
            self._need_format(wanted, "copy_image")
            if found.chain or wanted is not found.format:
                return (
                    yield from self._convert(work, source, folder, wanted, take_digest=take_digest)
                )
            return (
                yield from self.filling.copy_content(
                    work,
                    source.reading,
                    folder,
                    found.format,
                    found.virtual_size_bytes,
                    layout=found.format,
                    take_digest=take_digest,
                )
            )

        return (yield from self._staging.make(work, image_id, fill, resumable=True))

    def _need_format(self, wanted: Format, verb: str) -> None:
        """Raises unless images of a format can be here."""
        if wanted not in self._formats:
            held = " or ".join(self._formats)
            raise FieldInvalid(
                Violation(f"{verb}.format", f"must be {held} in pool {self.config.pool_id}")
            )

    def _convert(
        self, work: Work, source: Source, folder: Path, wanted: Format, *, take_digest: bool
    ) -> Steps[Label]:
        """Writes a content in another format, or a whole chain as one image."""
        if not (isinstance(source, LocalSource) and isinstance(source.driver, FileDriver)):
            return (
                yield from self.filling.pull(
                    work,
                    source.reading,
                    folder,
                    source.find().virtual_size_bytes,
                    image_format=wanted,
                    take_digest=take_digest,
                )
            )
        origin = source.driver
        label = origin.layout.label(source.image_id)
        return (
            yield from self.filling.convert(
                work,
                origin.filling,
                source.image_id,
                folder,
                label,
                image_format=wanted,
                take_digest=take_digest,
            )
        )

    def clone(
        self, work: Work, source_id: str, image_id: str, *, copy_allowed: bool
    ) -> Steps[Made]:
        """Makes an image that shares its source's data until written."""

        def fill(folder: Path) -> Steps[Label]:
            label = self.layout.label(source_id)
            self.layout.data(source_id, label)
            is_deep = self.layout.is_deep(source_id, label)
            if label.format is Format.RAW:
                if shared := self.filling.share(work, source_id, folder, label):
                    return shared
            elif not is_deep:
                return (yield from self.filling.overlay(work, source_id, image_id, folder, label))
            if not copy_allowed:
                lacking = "its file system has no reflinks"
                why = f"{source_id} reads through too many images already" if is_deep else lacking
                why = f"{why}; set copy_allowed to copy instead"
                raise VerbUnsupported(pool=self.config.pool_id, verb="clone_image", why=why)
            return (yield from self._copy_whole(work, source_id, folder, label))

        return (yield from self._staging.make(work, image_id, fill, resumable=copy_allowed))

    def _copy_whole(self, work: Work, source_id: str, folder: Path, label: Label) -> Steps[Label]:
        """Copies an image of this pool in its format, so that it reads through no other."""
        if label.format is Format.RAW:
            return (yield from self.filling.duplicate(work, source_id, folder, label))
        return (
            yield from self.filling.convert(
                work,
                self.filling,
                source_id,
                folder,
                label,
                image_format=label.format,
                take_digest=False,
            )
        )

    def delete(
        self,
        work: Work,
        image_id: str,
        *,
        expected_generation: int = 0,
    ) -> Steps[bool]:
        """Removes an image, or a snapshot by its name; returns whether it was there."""
        with self._staging.working(work, image_id):
            try:
                with self._staging.looking(work, image_id):
                    self._staging.need_pool()
                    self._staging.discard(work.attempt)
                    label = self.layout.label(image_id)
            except (ImageNotFound, SnapshotNotFound):
                with self._staging.looking(work, image_id):
                    self._staging.need_pool()  # it may have gone since
                if work.note:  # an earlier life may not have come to flush it
                    with self._staging.looking(work, image_id):
                        self._staging.flush_folders()
                return bool(work.note)
            life = f"{label.attempt} {label.create_time}"
            if work.note and work.note != life:
                return True  # another image has the name by now: ours has gone
            self._staging.expect(image_id, label, expected_generation)
            yield Step(note=life, note_needed=True)
            yield Step(last=True)
            self._staging.take_away(image_id, attempt=work.attempt)
            self._staging.purge(image_id, attempt=work.attempt)
            return True

    def make_up_for(self, work: Work, image_id: str, *, made_by: str) -> Steps[bool]:
        """Removes what exactly that attempt made, half-made things too; returns whether any."""
        with self._staging.translating(image_id):
            self._staging.need_pool()
            begun = made_by in self.layout.attempts_staged()
            self._staging.discard(made_by)
            work.crash(crash_points.IN_COMPENSATION)
            yield Step()
            label = self.layout.owner(image_id)
            if label is None or not self._staging.is_of(label, work, made_by):
                self._staging.need_pool()  # it may have gone since
                self._staging.flush_folders()  # an earlier life may not have come to it
                return begun  # somebody else's image, or none
            self._staging.take_back(image_id, made_by=made_by)
            work.crash(crash_points.IN_COMPENSATION)
            self._staging.purge(image_id, attempt=made_by)
            return True

    def create_snapshot(
        self,
        work: Work,
        image_id: str,
        snapshot_id: str,
        *,
        expected_generation: int = 0,
    ) -> Steps[Made]:
        """Remembers an image's present content; the generation is that of the content."""
        return (
            yield from self._snapshots.create(
                work, image_id, snapshot_id, expected_generation=expected_generation
            )
        )

    def delete_snapshot(
        self,
        work: Work,
        image_id: str,
        snapshot_id: str,
        *,
        expected_generation: int = 0,
    ) -> Steps[SnapshotGone]:
        """Removes a snapshot."""
        return (
            yield from self._snapshots.delete(
                work,
                image_id,
                snapshot_id,
                expected_generation=expected_generation,
                remove=self.delete,
            )
        )

    def make_up_for_snapshot(
        self, work: Work, image_id: str, snapshot_id: str, *, made_by: str
    ) -> Steps[bool]:
        """Removes the snapshot that exactly that attempt made; returns whether any."""
        remove = partial(self.make_up_for, made_by=made_by)
        return (
            yield from self._snapshots.make_up_for_create(
                work, image_id, snapshot_id, made_by=made_by, remove=remove
            )
        )

    def revert(
        self,
        work: Work,
        image_id: str,
        snapshot_id: str,
        *,
        safety_id: str,
        expected_generation: int = 0,
    ) -> Steps[Made]:
        """Puts an image back to a snapshot; with a safety id, remembers first what it holds."""
        return (
            yield from self._snapshots.revert(
                work,
                image_id,
                snapshot_id,
                safety_id=safety_id,
                expected_generation=expected_generation,
            )
        )

    def make_up_for_revert(
        self, work: Work, image_id: str, *, safety_id: str, made_by: str
    ) -> Steps[None]:
        """Puts an image back to what it held before exactly that attempt, and forgets that."""
        yield from self._snapshots.make_up_for_revert(
            work, image_id, safety_id=safety_id, made_by=made_by
        )

    def resize(
        self,
        work: Work,
        image_id: str,
        *,
        size_bytes: int,
        shrink_allowed: bool,
        expected_generation: int = 0,
    ) -> Steps[Resized]:
        """Changes an image's virtual size."""
        return (
            yield from self._resizing.resize(
                work,
                image_id,
                size_bytes=size_bytes,
                shrink_allowed=shrink_allowed,
                expected_generation=expected_generation,
            )
        )

    def make_up_for_resize(self, work: Work, image_id: str, *, made_by: str) -> Steps[None]:
        """Shrinks an image back that exactly that attempt has grown, if nothing was written."""
        yield from self._resizing.make_up_for(work, image_id, made_by=made_by)

    def verify(self, image_id: str, *, digest: str) -> Steps[str]:
        """Checks that an image is whole, and that its digest is this one; returns the digest.

        Of a qcow2 image its chain is checked, by qemu-img where there is one each of its files, and
        the digest is that of what a guest reads of it.
        """
        with self._staging.translating(image_id):
            label = self._label(image_id)
            self.layout.data(image_id, label)
            chain = self.layout.chain(image_id, label)
            yield Step()
            # From the bottom: what is wrong there would be told of all that read through it.
            for below in (*reversed(chain), image_id) if qemu.is_installed() else ():
                each = self.layout.label(below)
                if each.format is Format.QCOW2:
                    path, _ = self.layout.data(below, each)
                    yield from qemu.check(path, image=below, pool=self.config.pool_id)
            if label.format is Format.QCOW2 and not digest and not qemu.is_installed():
                return ""
            with self.reading(image_id, Format.RAW) as content:
                found = yield from copying.digest_content(content)
            if digest and found != digest:
                raise DigestMismatch(
                    image=image_id, pool=self.config.pool_id, found=found, expected=digest
                )
            return found

    # -- making an image ------------------------------------------------------------------------

    def import_file(
        self, work: Work, path: Path, image_id: str, *, image_format: Format
    ) -> Steps[Made]:
        """Brings in a file of an administrator's; the only place where a path is named."""
        self._need_format(image_format, "import")

        def fill(folder: Path) -> Steps[Label]:
            found = self.files.stat(path)
            if found is None or found.kind is not FileKind.FILE:
                raise self.layout.unsafe(image_id, f"{path.name} is no plain file")
            target = folder / f"data.{image_format}"
            with self._staging.reading(path) as reader, self._staging.writing(target) as writer:
                content = FileContent(
                    files=self.files,
                    handle=reader,
                    size_bytes=found.size_bytes,
                    identity=found.identity,
                )
                copy = copying.Copy(
                    files=self.files,
                    source=content,
                    target=writer,
                    offset=copying.Offset(source=found.identity),
                    room=self.room,
                    folder=self.layout.account(folder),
                    crash=work.crash,
                )
                with self.filling.reserving(folder, data_bytes(content)):
                    written = yield from copy.run()
            size = self.layout.virtual_size(target, image_format, image_id)
            return replace(self._staging.label(work, image_format, size), written_bytes=written)

        return (yield from self._staging.make(work, image_id, fill))

    # -- looking --------------------------------------------------------------------------------

    def find(self, image_id: str) -> ImageFound:
        """Looks at one image."""
        with self._staging.translating(image_id):
            return self._found(image_id, self.layout.snapshots(image_id))

    def _label(self, image_id: str) -> Label:
        """Returns an image's label; where the pool is not, nothing is said to be missing."""
        try:
            return self.layout.label(image_id)
        except ImageNotFound:
            self._staging.need_pool()
            raise

    def _found(self, image_id: str, snapshots: list[str]) -> ImageFound:
        label = self._label(image_id)
        try:
            self.layout.data(image_id, label)
        except ImageUnsafe:
            now = self._label(image_id)
            if now == label:
                raise
            label = now  # it was changed while we looked
            self.layout.data(image_id, label)
        return ImageFound(
            image_id=image_id,
            format=label.format,
            virtual_size_bytes=label.virtual_size_bytes,
            allocated_bytes=self.layout.allocated_bytes(self.layout.image(image_id)),
            generation=label.generation,
            cluster_id=label.cluster_id,
            attempt=label.attempt,
            create_time=datetime.fromisoformat(label.create_time),
            digest=label.digest,
            moved_by=label.moved_by,
            chain=self.layout.chain(image_id, label),
            snapshots=self._snapshots_found(
                sorted({*snapshots, *self.layout.layers_named(image_id, label)})
            ),
        )

    def _snapshots_found(self, snapshots: list[str]) -> tuple[SnapshotFound, ...]:
        """Returns the snapshots of these names, oldest first; one that is unsafe is logged."""
        found: list[SnapshotFound] = []
        for name in snapshots:
            try:
                label = self.layout.label(name)
            except SnapshotNotFound:
                continue  # it went while we looked
            except ImageUnsafe as error:
                log.warning("image.unsafe", extra=error.metadata)
                continue
            found.append(
                SnapshotFound(
                    snapshot_id=name.partition(AT)[2],
                    cluster_id=label.cluster_id,
                    attempt=label.attempt,
                    create_time=datetime.fromisoformat(label.create_time),
                )
            )
        return tuple(sorted(found, key=lambda snapshot: snapshot.create_time))

    def list_images(self, *, after: str, count_max: int) -> list[ImageFound]:
        """Returns images in order of their ids; what is not a plain image is logged instead."""
        found: list[ImageFound] = []
        with self._staging.translating("any image"):
            self._staging.need_pool()
        listed = self.files.list_folder(self.layout.images)
        snapshots: dict[str, list[str]] = {}
        for image_id, name in snapshots_among(listed):
            snapshots.setdefault(image_id, []).append(name)
        for name in listed:
            if name <= after or not names.is_id(name):
                continue
            if len(found) == count_max:
                break
            try:
                with self._staging.translating(name):
                    found.append(self._found(name, snapshots.get(name, [])))
            except ImageNotFound:
                continue  # it went while we looked
            except ImageUnsafe as error:
                log.warning("image.unsafe", extra=error.metadata)
        return found

    @contextmanager
    def reading(self, image_id: str, layout: Format) -> Iterator[Content]:
        """Opens an image: RAW is what a guest reads, QCOW2 the bytes of its file."""
        with self._staging.translating(image_id), self.filling.reading(image_id, layout) as content:
            yield content

    def report(self) -> PoolFound:
        """Returns the pool's room and abilities."""
        problem: CountermandError | None = None
        try:
            self._staging.need_pool()
        except OSError as error:
            problem = self._staging.error(error, "any image")
        space = self.files.space(self.layout.path)
        formats = self._formats if qemu.is_installed() else (Format.RAW,)
        return PoolFound(
            capacity_bytes=self.config.quota_bytes or space.capacity_bytes,
            used_bytes=self.room.used_bytes,
            free_bytes=self.room.free_bytes(),
            reserved_bytes=self.room.reserved_bytes,
            problem=problem,
            formats=formats,
            verbs=self.verbs,
        )

    def staged(self) -> list[str]:
        """Returns the attempts that have something half-made in this pool."""
        return self.layout.attempts_staged()

    def discard(self, attempt: str) -> None:
        """Removes what an attempt has half made; nothing is fine."""
        self._staging.discard(attempt)

    def fence(self, attempt: str) -> None:
        """Returns once no effect of an attempt can begin or become visible; some may be there."""
        with self._staging.translating("any image"):
            fencing.fence(self._staging, attempt)

    def remove_fence(self, attempt: str) -> None:
        """Removes the fence of an attempt; nothing is fine."""
        with self._staging.translating("any image"):
            fencing.remove_fence(self._staging, attempt)

    def survey(self) -> list[Oddity]:
        """Returns what is in the pool and is no image, in order of kind and name."""
        with self._staging.translating("any image"):
            self._staging.need_pool()
            return survey(self.layout)


FILE = FolderType(
    verbs=VERBS, opening=lambda pool, identity: FileDriver(pool, RealFiles(), identity)
)
