"""The ways in which images come to be in a pool of the `file` driver.

Each fills an attempt's folder and returns the label with which the staging shows it as an image.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from agent.drivers import copying, qemu
from agent.drivers.blocks import data_bytes
from agent.drivers.driver import Format, LocalSource, Made, Source, Steps, Work
from agent.drivers.filling import Filling, reading_outside
from agent.drivers.label import Label
from agent.drivers.staging import Staging
from countermand.rpc.errors import FieldInvalid, VerbUnsupported, Violation


class Making:
    """Makes the images of one pool."""

    def __init__(self, staging: Staging, filling: Filling, formats: tuple[Format, ...]) -> None:
        """Works in the pool's staging folders; images of no other formats are made."""
        self._staging = staging
        self._layout = staging.layout
        self._filling = filling
        self._formats = formats
        self._pool_id = staging.config.pool_id

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
                self._filling.need_qemu("create_image")
                needed = qemu.overlay_bytes(size_bytes)
                if preallocated:
                    needed = yield from qemu.preallocated_bytes(size_bytes)
            with self._filling.reserving(folder, needed):
                if image_format is Format.QCOW2:
                    yield from qemu.create(
                        path, image=image_id, size_bytes=size_bytes, preallocated=preallocated
                    )
                with self._staging.writing(path) as handle:
                    if image_format is Format.RAW and preallocated:
                        self._staging.files.allocate(handle, size_bytes)
                    elif image_format is Format.RAW:
                        self._staging.files.truncate(handle, size_bytes)
                    self._staging.files.flush(handle)
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
        take_digest: bool,
    ) -> Steps[Made]:
        """Copies an image's data in full, from this pool or from any other."""

        def fill(folder: Path) -> Steps[Label]:
            found = source.find()
            wanted = image_format or found.format
            self._need_format(wanted, "copy_image")
            if found.chain or wanted is not found.format:
                return (
                    yield from self._convert(work, source, folder, wanted, take_digest=take_digest)
                )
            return (
                yield from self._filling.copy_content(
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
            why = f"must be {held} in pool {self._pool_id}"
            raise FieldInvalid(Violation(f"{verb}.format", why))

    def _convert(
        self, work: Work, source: Source, folder: Path, wanted: Format, *, take_digest: bool
    ) -> Steps[Label]:
        """Writes a content in another format, or a whole chain as one image."""
        local = source if isinstance(source, LocalSource) else None
        origin = getattr(local.driver, "filling", None) if local else None
        if local and isinstance(origin, Filling):
            return (
                yield from self._filling.convert(
                    work,
                    origin,
                    local.image_id,
                    folder,
                    image_format=wanted,
                    take_digest=take_digest,
                )
            )
        return (
            yield from self._filling.pull(
                work,
                source.reading,
                folder,
                source.find().virtual_size_bytes,
                image_format=wanted,
                take_digest=take_digest,
            )
        )

    def clone(
        self, work: Work, source_id: str, image_id: str, *, copy_allowed: bool
    ) -> Steps[Made]:
        """Makes an image that shares its source's data until written."""

        def fill(folder: Path) -> Steps[Label]:
            label = self._layout.label(source_id)
            self._layout.data(source_id, label)
            is_deep = self._layout.is_deep(source_id, label)
            if label.format is Format.RAW:
                if shared := self._filling.share(work, source_id, folder, label):
                    return shared
            elif not is_deep:
                return (yield from self._filling.overlay(work, source_id, image_id, folder, label))
            if not copy_allowed:
                lacking = "its file system has no reflinks"
                why = f"{source_id} reads through too many images already" if is_deep else lacking
                why = f"{why}; set copy_allowed to copy instead"
                raise VerbUnsupported(pool=self._pool_id, verb="clone_image", why=why)
            return (yield from self._copy_whole(work, source_id, folder, label))

        return (yield from self._staging.make(work, image_id, fill, resumable=copy_allowed))

    def _copy_whole(self, work: Work, source_id: str, folder: Path, label: Label) -> Steps[Label]:
        """Copies an image of this pool in its format, so that it reads through no other."""
        if label.format is Format.RAW:
            return (yield from self._filling.duplicate(work, source_id, folder, label))
        return (
            yield from self._filling.convert(
                work,
                self._filling,
                source_id,
                folder,
                image_format=label.format,
                take_digest=False,
            )
        )

    def import_file(
        self, work: Work, path: Path, image_id: str, *, image_format: Format
    ) -> Steps[Made]:
        """Brings in a file of an administrator's; the only place where a path is named."""
        self._need_format(image_format, "import")

        def fill(folder: Path) -> Steps[Label]:
            target = folder / f"data.{image_format}"
            with (
                reading_outside(self._staging, path, image_id) as content,
                self._staging.writing(target) as writer,
            ):
                copy = copying.Copy(
                    files=self._staging.files,
                    source=content,
                    target=writer,
                    offset=copying.Offset(source=content.identity),
                    room=self._staging.room,
                    folder=self._layout.account(folder),
                    crash=work.crash,
                )
                with self._filling.reserving(folder, data_bytes(content)):
                    written = yield from copy.run()
            size = self._layout.virtual_size(target, image_format, image_id)
            return replace(self._staging.label(work, image_format, size), written_bytes=written)

        return (yield from self._staging.make(work, image_id, fill))
