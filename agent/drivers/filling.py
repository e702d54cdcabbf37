"""The ways in which the folder of an attempt is filled: copied, shared, converted, laid over.

Each finds a source in a pool, writes one data file, flushes it, and returns the label for it. They
are told apart by the driver; publishing is the staging's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from agent import crash_points
from agent.drivers import copying, guest, qemu
from agent.drivers.content import FileContent
from agent.drivers.driver import Content, Format, Steps, Work
from agent.drivers.layout import Label, backing_name
from agent.drivers.staging import Staging
from countermand.rpc.errors import FieldUnsupported, VerbUnsupported

# Opens what is to be copied, in a layout.
Open = Callable[[Format], AbstractContextManager[Content]]


class Filling:
    """Fills folders of one pool."""

    def __init__(self, staging: Staging) -> None:
        """Works in the pool's staging folders."""
        self._staging = staging
        self._config = staging.config
        self._files = staging.files
        self._layout = staging.layout
        self._room = staging.room

    def duplicate(self, work: Work, name: str, folder: Path, label: Label) -> Steps[Label]:
        """Copies data as it is, or shares it where the file system can."""
        if shared := self.share(work, name, folder, label):
            return shared
        return (
            yield from self.copy_content(
                work,
                lambda layout: self.reading(name, layout),
                folder,
                label.format,
                label.virtual_size_bytes,
                layout=label.format,
                take_digest=False,
            )
        )

    @contextmanager
    def reading(self, name: str, layout: Format) -> Iterator[Content]:
        """Opens an image, or a snapshot by its name."""
        label = self._layout.label(name)
        path, found = self._layout.data(name, label)
        if layout is Format.RAW and label.format is Format.QCOW2:
            with self._guest(name, label) as content:
                yield content
            return
        if layout is not label.format:
            raise FieldUnsupported(field="the bytes of a raw image as qcow2")
        with self._staging.reading(path) as handle:
            yield FileContent(
                files=self._files,
                handle=handle,
                size_bytes=found.size_bytes,
                identity=found.identity,
            )

    @contextmanager
    def _guest(self, name: str, label: Label) -> Iterator[Content]:
        """Opens what a guest reads of a qcow2 image, its whole chain checked before."""
        chain: list[tuple[Path, Format]] = []
        identities = ["guest"]
        for each in (name, *self._layout.chain(name, label)):
            label = self._layout.label(each)
            path, found = self._layout.data(each, label)
            chain.append((path, label.format))
            identities.append(found.identity)
        with self._reading_as_guest(name, chain, identity=" ".join(identities)) as content:
            yield content

    @contextmanager
    def _reading_as_guest(
        self, name: str, chain: list[tuple[Path, Format]], *, identity: str = ""
    ) -> Iterator[Content]:
        if not guest.is_installed():
            raise VerbUnsupported(
                pool=self._config.pool_id, verb="read as a guest", why=guest.MISSING
            )
        with guest.serving(chain, image=name) as nbd:
            yield guest.GuestContent(nbd=nbd, identity=identity)

    def share(self, work: Work, name: str, folder: Path, label: Label) -> Label | None:
        """Makes a file that shares data; None, and no file, where the file system cannot."""
        path, found = self._layout.data(name, label)
        target = folder / f"data.{label.format}"
        if self._files.stat(target) is not None:
            return None  # an earlier life could not, and has begun to copy
        with self._staging.reading(path) as reader, self._staging.writing(target) as writer:
            shares = self._files.share(reader, writer)
            self._files.flush(writer)
        if not shares:
            self._files.remove_file(target)
            return None
        self._room.take(self._layout.account(folder), found.allocated_bytes)
        made = self._staging.label(work, label.format, label.virtual_size_bytes)
        return replace(made, shared=True)

    def copy_content(
        self,
        work: Work,
        opening: Open,
        folder: Path,
        image_format: Format,
        size_bytes: int,
        *,
        layout: Format,
        take_digest: bool,
    ) -> Steps[Label]:
        """Copies a content as it is, going on where an earlier life left off."""
        # The digest is of what a guest reads: of the bytes of a qcow2 file it is taken afterwards.
        digest = copying.Digest() if take_digest and layout is Format.RAW else None
        target = folder / f"data.{image_format}"
        # Of a file that is not there nothing is durable: an earlier life had published it already.
        note = work.note if self._files.stat(target) is not None else ""
        self._room.join_writers()
        try:
            with opening(layout) as content, self._staging.writing(target) as writer:
                # A durable offset in a file whose name a power cut may take back is worth nothing.
                self._files.flush_folder(folder)
                copy = copying.Copy(
                    files=self._files,
                    source=content,
                    target=writer,
                    offset=copying.Offset.after(note, source=content.identity),
                    room=self._room,
                    folder=self._layout.account(folder),
                    crash=work.crash,
                    digest=digest,
                    flush_bytes=self._config.flush_bytes,
                )
                written = yield from copy.run()
        finally:
            self._room.leave_writers()
        taken = str(digest or "")
        if take_digest and digest is None:
            taken = yield from self._digest(work.attempt, target, image_format)
        made = self._staging.label(work, image_format, size_bytes)
        return replace(made, written_bytes=written, digest=taken)

    def _digest(self, name: str, path: Path, image_format: Format) -> Steps[str]:
        """Takes the digest of what a guest reads of a file that stands alone."""
        with self._reading_as_guest(name, [(path, image_format)]) as content:
            return (yield from copying.digest_content(content))

    def convert(
        self,
        work: Work,
        origin: Filling,
        source_id: str,
        folder: Path,
        label: Label,
        *,
        image_format: Format,
        take_digest: bool,
    ) -> Steps[Label]:
        """Writes the content in another format, or a whole chain as one image."""
        self.need_qemu("copy_image")
        source, _ = origin._layout.data(source_id, label)
        target = folder / f"data.{image_format}"
        raw = next((path for path in (target, source) if path.suffix == ".raw"), None)
        self._staging.empty(folder)  # qemu-img cannot go on where it left off

        def each() -> int:
            work.crash(crash_points.IN_COPY)
            self._staging.settle(folder)
            self._room.take(self._layout.account(folder), 0)
            return self._layout.allocated_bytes(folder)

        yield from qemu.convert(
            source,
            label.format,
            target,
            image_format,
            size_bytes=label.virtual_size_bytes,
            each=each,
        )
        with self._staging.writing(target) as handle:
            self._files.flush(handle)
        digest = ""
        if take_digest and raw is not None:
            with self._staging.reading(raw) as handle:
                content = FileContent(
                    files=self._files,
                    handle=handle,
                    size_bytes=label.virtual_size_bytes,
                    identity="",
                )
                digest = yield from copying.digest_content(content)
        elif take_digest:
            digest = yield from self._digest(source_id, target, image_format)
        written = self._layout.allocated_bytes(folder)
        made = self._staging.label(work, image_format, label.virtual_size_bytes)
        return replace(made, written_bytes=written, digest=digest)

    def overlay(
        self, work: Work, source_id: str, image_id: str, folder: Path, label: Label
    ) -> Steps[Label]:
        """Makes a file that reads what it lacks from its source."""
        self.need_qemu("clone_image")
        target = folder / "data.qcow2"
        yield from qemu.create_overlay(
            target,
            image=image_id,
            backing=backing_name(source_id, label),
            backing_format=label.format,
            size_bytes=label.virtual_size_bytes,
        )
        with self._staging.writing(target) as handle:
            self._files.flush(handle)
        made = self._staging.label(work, Format.QCOW2, label.virtual_size_bytes)
        return replace(made, backing=source_id, shared=True)

    def need_qemu(self, verb: str) -> None:
        """Raises unless there is a qemu-img here."""
        if not qemu.is_installed():
            raise VerbUnsupported(pool=self._config.pool_id, verb=verb, why=qemu.MISSING)
