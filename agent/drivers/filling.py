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
from agent.drivers.blocks import data_bytes
from agent.drivers.content import FileContent
from agent.drivers.digest import Leaves
from agent.drivers.driver import Content, Format, Steps, Work
from agent.drivers.ends import Ends
from agent.drivers.files import FileKind, FileStat
from agent.drivers.label import Label
from agent.drivers.layout import backing_name
from agent.drivers.room import Shortage
from agent.drivers.staging import Staging
from countermand.rpc.errors import FieldUnsupported, NoSpace, VerbUnsupported

# The leaves of a digest that is being taken, in an attempt's folder; gone before it is published.
_LEAVES = "leaves"

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
        self._ends = Ends(staging)

    def duplicate(self, work: Work, name: str, folder: Path, label: Label) -> Steps[Label]:
        """Copies data as it is, shared where the file system can."""
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
        self._ends.need(name, label)
        if layout is Format.RAW:  # a resize that was cut short may have left zeros beyond
            found = replace(found, size_bytes=min(found.size_bytes, label.virtual_size_bytes))
        with self._reading_file(path, found) as content:
            yield content

    @contextmanager
    def _reading_file(self, path: Path, found: FileStat) -> Iterator[FileContent]:
        """Opens the bytes of a file."""
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
        self._ends.need_chain(name, label)
        chain: list[tuple[Path, Format]] = []
        identities = ["guest"]
        for each in (name, *self._layout.chain(name, label)):
            label_of_each = self._layout.label(each)
            path, found = self._layout.data(each, label_of_each)
            chain.append((path, label_of_each.format))
            identities.append(found.identity)
        with self._reading_as_guest(name, chain, identity=" ".join(identities)) as content:
            # A resize that was cut short may have left zeros beyond.
            content.size_bytes = min(content.size_bytes, label.virtual_size_bytes)
            yield content

    @contextmanager
    def _reading_as_guest(
        self, name: str, chain: list[tuple[Path, Format]], *, identity: str = ""
    ) -> Iterator[guest.GuestContent]:
        if not guest.is_installed():
            raise VerbUnsupported(
                pool=self._config.pool_id, verb="read as a guest", why=guest.MISSING
            )
        with guest.serving(chain, image=name) as nbd:
            yield guest.GuestContent(nbd=nbd, size_bytes=nbd.size_bytes, identity=identity)

    def share(self, work: Work, name: str, folder: Path, label: Label) -> Label | None:
        """Makes a file that shares data; None, and no file, where the file system cannot."""
        path, found = self._layout.data(name, label)
        self._ends.need(name, label)
        target = folder / f"data.{label.format}"
        if self._files.stat(target) is not None:
            return None  # an earlier life could not, and has begun to copy
        if not self._staging.share(path, target):
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
        """Copies a content as it is, going on where an earlier life left off.

        Shares its data instead where both are files of one file system that can.
        """
        target = folder / f"data.{image_format}"
        # Of a file that is not there nothing is durable: an earlier life had published it already.
        note = work.note if self._files.stat(target) is not None else ""
        made = self._staging.label(work, image_format, size_bytes)
        with opening(layout) as content, self._staging.writing(target) as writer:
            copy = copying.Copy(
                files=self._files,
                source=content,
                target=writer,
                offset=copying.Offset.after(note, source=content.identity),
                room=self._room,
                folder=self._layout.account(folder),
                crash=work.crash,
                flush_bytes=self._config.flush_bytes,
            )
            self._files.truncate(writer, copy.offset.begin)  # what lies beyond may be anything
            # A durable offset in a file whose name a power cut may take back is worth nothing.
            self._files.flush_folder(folder)
            self._staging.settle(folder)
            data = data_bytes(content)
            if not note and self._shares(copy, data):
                made = replace(made, shared=True)
            else:
                with self.reserving(folder, data):
                    if take_digest and layout is Format.RAW:
                        return (yield from copy_digested(self._staging, copy, folder, made))
                    made = replace(made, written_bytes=(yield from copy.run()))
        if take_digest:  # of what a guest reads, which the bytes of a qcow2 file are not
            digest = yield from self._digest(work.attempt, target, image_format)
            made = replace(made, digest=digest)
        return made

    def _shares(self, copy: copying.Copy, size_bytes: int) -> bool:
        """Makes an empty file share a content's data; False where that is not to be had."""
        content = copy.source
        if not (
            isinstance(content, FileContent) and self._files.share(content.handle, copy.target)
        ):
            return False
        self._room.take(copy.folder, size_bytes)
        self._files.flush(copy.target)
        return True

    @contextmanager
    def reserving(self, folder: Path, size_bytes: int) -> Iterator[None]:
        """Reserves room for what a folder is going to hold, while it is being written.

        Raises:
            NoSpace: There is less left.
        """
        account = self._layout.account(folder)
        try:
            self._room.reserve(account, size_bytes)
        except Shortage as error:
            needed, left = map(_mib, (error.needed_bytes, error.left_bytes))
            needed = f"it needs {needed}, and {left} are left"
            raise NoSpace(pool=self._config.pool_id, needed=needed) from error
        try:
            yield
        finally:
            self._room.release(account)

    def _digest(self, name: str, path: Path, image_format: Format) -> Steps[str]:
        """Takes the digest of what a guest reads of a file that stands alone."""
        reading: AbstractContextManager[Content]
        if image_format is Format.RAW:
            found = self._files.stat(path)
            assert found is not None, path
            reading = self._reading_file(path, found)
        else:
            reading = self._reading_as_guest(name, [(path, image_format)])
        with reading as content:
            return (yield from copying.digest_content(content))

    def convert(
        self,
        work: Work,
        origin: Filling,
        source_id: str,
        folder: Path,
        *,
        image_format: Format,
        take_digest: bool,
    ) -> Steps[Label]:
        """Writes the content in another format, or a whole chain as one image."""
        label = origin._layout.label(source_id)
        source, _ = origin._layout.data(source_id, label)
        origin._ends.need_chain(source_id, label)
        self._staging.empty(folder)  # qemu-img cannot go on where it left off
        target = yield from self._write_as(
            work, source, label.format, folder, image_format, label.virtual_size_bytes
        )
        digest = ""
        if take_digest:
            # Of what is raw, if one of them is: it is read as it is.
            path = source if label.format is Format.RAW else target
            digest = yield from self._digest(source_id, path, Format(path.suffix[1:]))
        written = self._layout.allocated_bytes(folder)
        made = self._staging.label(work, image_format, label.virtual_size_bytes)
        return replace(made, written_bytes=written, digest=digest)

    def pull(
        self,
        work: Work,
        opening: Open,
        folder: Path,
        size_bytes: int,
        *,
        image_format: Format,
        take_digest: bool,
    ) -> Steps[Label]:
        """Writes what a guest reads of an image elsewhere, in any format.

        For qcow2 it is brought here as raw first: that goes on where an earlier life left off, and
        qemu-img lays clusters out better than their writing in turn would. It takes twice the room.
        """
        label = yield from self.copy_content(
            work,
            opening,
            folder,
            Format.RAW,
            size_bytes,
            layout=Format.RAW,
            take_digest=take_digest,
        )
        if image_format is Format.RAW:
            return label
        raw = folder / label.data_name
        self._files.remove_file(folder / f"data.{image_format}")  # of an earlier life
        yield from self._write_as(work, raw, Format.RAW, folder, image_format, size_bytes)
        self._files.remove_file(raw)
        self._files.flush_folder(folder)
        self._staging.settle(folder)
        written = self._layout.allocated_bytes(folder)
        return replace(label, format=image_format, written_bytes=written)

    def _write_as(  # noqa: PLR0917 - a file and its format, twice
        self,
        work: Work,
        source: Path,
        source_format: Format,
        folder: Path,
        image_format: Format,
        size_bytes: int,
    ) -> Steps[Path]:
        """Writes a file's content into a folder in another format, durably; returns the file."""
        self.need_qemu("copy_image")
        target = folder / f"data.{image_format}"

        def each() -> int:
            work.crash(crash_points.IN_COPY)
            self._staging.settle(folder)
            self._room.take(self._layout.account(folder), 0)
            return self._layout.allocated_bytes(folder)

        needed = yield from qemu.measure(source, source_format, image_format, size_bytes=size_bytes)
        with self.reserving(folder, needed):
            yield from qemu.convert(
                source,
                source_format,
                target,
                image_format,
                size_bytes=size_bytes,
                each=each,
                writer=self._room.writing(),
            )
        with self._staging.writing(target) as handle:
            self._files.flush(handle)
        return target

    def overlay(
        self, work: Work, source_id: str, image_id: str, folder: Path, label: Label
    ) -> Steps[Label]:
        """Makes a file that reads what it lacks from its source."""
        self.need_qemu("clone_image")
        self._ends.need_chain(source_id, label)
        target = folder / "data.qcow2"
        with self.reserving(folder, qemu.overlay_bytes(label.virtual_size_bytes)):
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


def copy_digested(staging: Staging, copy: copying.Copy, folder: Path, label: Label) -> Steps[Label]:
    """Copies a content with its digest; what is known of that lies in the attempt's folder."""
    path = folder / _LEAVES
    with staging.writing(path) as handle:
        staging.files.flush_folder(folder)
        copy.leaves = Leaves(staging.files, handle)
        written = yield from copy.run()
    staging.files.remove_file(path)
    digest = copy.leaves.digest.of(copy.source.size_bytes)
    return replace(label, written_bytes=written, digest=digest)


@contextmanager
def reading_outside(staging: Staging, path: Path, image_id: str) -> Iterator[FileContent]:
    """Opens a file of an administrator's that is to become an image.

    Raises:
        ImageUnsafe: It is no plain file.
    """
    found = staging.files.stat(path)
    if found is None or found.kind is not FileKind.FILE:
        raise staging.layout.unsafe(image_id, f"{path.name} is no plain file")
    with staging.reading(path) as handle:
        yield FileContent(
            files=staging.files,
            handle=handle,
            size_bytes=found.size_bytes,
            identity=found.identity,
        )


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB"
