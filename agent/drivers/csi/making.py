"""The ways in which images and snapshots come to be behind a plug-in.

Each has its volume made, fills it as long as it is shown on this host, and returns the label with
which the staging shows it as an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc

from agent.drivers import copying
from agent.drivers.csi.device import Padded, size_of, wipe
from agent.drivers.csi.plugin import Answer, Kind, NotSettled
from agent.drivers.csi.pool import CsiPool
from agent.drivers.csi.records import Record, Thing
from agent.drivers.driver import Content, Format, Made, OutcomeUnknown, Source, Steps, Work
from agent.drivers.filling import copy_digested, reading_outside
from agent.drivers.label import Label, snapshot_name

Fill = Callable[[Path], Steps[Label]]


class Making:
    """Makes images and snapshots of one pool."""

    def __init__(self, pool: CsiPool) -> None:
        """Works in the pool's staging folders."""
        self._pool = pool

    def create(
        self,
        work: Work,
        image_id: str,
        *,
        image_format: Format,
        size_bytes: int,
        preallocated: bool,  # noqa: ARG002 - when the room is taken is the plug-in's business
    ) -> Steps[Made]:
        """Makes an empty image, which reads as zeros."""
        self._pool.need_raw("create_image", image_format)

        def fill(folder: Path) -> Steps[Label]:
            record = yield from self._volume(work, folder, image_id, size_bytes=size_bytes)
            if not self._pool.options.zeroed:
                with self._writing(folder, record, image_id) as handle:
                    yield from wipe(handle, 0, size_of(handle))
                    self._pool.node.files.flush(handle)
            return self._label(work, record)

        return (yield from self._make(work, image_id, fill))

    def copy(
        self,
        work: Work,
        source: Source,
        image_id: str,
        *,
        image_format: Format | None,
        take_digest: bool,
    ) -> Steps[Made]:
        """Copies what a guest reads of an image, of this pool or of any other."""

        def fill(folder: Path) -> Steps[Label]:
            found = source.find()
            self._pool.need_raw("copy_image", image_format or found.format)
            note = self._good_note(work, folder)
            record = yield from self._volume(
                work, folder, image_id, size_bytes=found.virtual_size_bytes
            )
            with source.reading(Format.RAW) as content:
                return (
                    yield from self._fill(
                        work, folder, record, image_id, content, note=note, take_digest=take_digest
                    )
                )

        return (yield from self._make(work, image_id, fill))

    def import_file(
        self, work: Work, path: Path, image_id: str, *, image_format: Format
    ) -> Steps[Made]:
        """Brings in a file of an administrator's; the only place where a path is named."""
        self._pool.need_raw("import", image_format)

        def fill(folder: Path) -> Steps[Label]:
            with reading_outside(self._pool.staging, path, image_id) as content:
                record = yield from self._volume(
                    work, folder, image_id, size_bytes=content.size_bytes
                )
                return (
                    yield from self._fill(
                        work, folder, record, image_id, content, note="", take_digest=False
                    )
                )

        return (yield from self._make(work, image_id, fill))

    def clone(
        self,
        work: Work,
        source_id: str,
        image_id: str,
        *,
        copy_allowed: bool,  # noqa: ARG002 - a plug-in that clones does not ask
    ) -> Steps[Made]:
        """Makes an image from another; what they share, if anything, the plug-in does not say."""

        def fill(folder: Path) -> Steps[Label]:
            label, source = self._pool.image(source_id)
            record = yield from self._volume(
                work, folder, image_id, size_bytes=label.virtual_size_bytes, source=source.id
            )
            return self._label(work, record)

        return (yield from self._make(work, image_id, fill))

    def create_snapshot(
        self, work: Work, image_id: str, snapshot_id: str, *, expected_generation: int = 0
    ) -> Steps[Made]:
        """Remembers an image's present content; the generation is that of the content."""
        name = snapshot_name(image_id, snapshot_id)

        def fill(folder: Path) -> Steps[Label]:
            label, source = self._pool.image(image_id)
            self._pool.staging.expect(image_id, label, expected_generation)
            wanted = Record(
                thing=Thing.SNAPSHOT, name=self._pool.name(work, name), source=source.id
            )
            yield from self._pool.volumes.make(work, folder, wanted, image=name)
            made = self._pool.staging.label(work, Format.RAW, label.virtual_size_bytes)
            return replace(made, generation=label.generation)

        return (yield from self._make(work, name, fill))

    def _make(self, work: Work, name: str, fill: Fill) -> Steps[Made]:
        """Fills a staging folder and shows it; what is not settled is not called so."""
        try:
            return (yield from self._pool.staging.make(work, name, fill, resumable=True))
        except NotSettled as error:
            if error.kind in {Kind.BROKEN, Kind.REFUSED}:
                # It will not say, perhaps never: the record stays in staging, where it is seen, and
                # every sweep asks for it again. An attempt that never ended would help nobody.
                raise error.as_failed() from error
            raise OutcomeUnknown(error) from error

    def _volume(
        self, work: Work, folder: Path, image_id: str, *, size_bytes: int, source: str = ""
    ) -> Steps[Record]:
        """Has an image's volume made, or finds the one that an earlier life had made."""
        wanted = Record(
            thing=Thing.VOLUME,
            name=self._pool.name(work, image_id),
            size_bytes=size_bytes,
            source=source,
            parameters=self._pool.options.parameters,
            topology=self._pool.abilities.topology,
        )
        record = yield from self._pool.volumes.make(work, folder, wanted, image=image_id)
        if record.capacity_bytes < record.size_bytes:
            why = f"it made {record.capacity_bytes} bytes for {record.size_bytes}"
            answer = Answer(grpc.StatusCode.OUT_OF_RANGE, why)
            raise self._pool.plugin.failed(answer, image_id)
        return record

    def _good_note(self, work: Work, folder: Path) -> str:
        """Returns the note of an earlier life, if the volume is the one that it speaks of."""
        record = self._pool.records.read(folder)
        return work.note if record is not None and record.id else ""

    def _fill(
        self,
        work: Work,
        folder: Path,
        record: Record,
        image_id: str,
        content: Content,
        *,
        note: str,
        take_digest: bool,
    ) -> Steps[Label]:
        """Copies a content into a volume, which may be larger: the rest reads as zeros."""
        with self._writing(folder, record, image_id) as handle:
            size = size_of(handle)
            if size < content.size_bytes:
                why = f"it made {size} bytes for {content.size_bytes}"
                raise self._pool.plugin.failed(Answer(grpc.StatusCode.OUT_OF_RANGE, why), image_id)
            copy = copying.Copy(
                files=self._pool.node.files,
                # All that a guest sees of it is copied, and digested.
                source=Padded(content=content, size_bytes=size),
                target=handle,
                offset=copying.Offset.after(note, source=content.identity),
                room=self._pool.staging.room,
                folder=self._pool.layout.account(folder),
                crash=work.crash,
                flush_bytes=self._pool.config.flush_bytes,
            )
            if work.note or not self._pool.options.zeroed:  # an earlier life may have written to it
                yield from wipe(handle, copy.offset.begin, size)
            label = replace(self._label(work, record), virtual_size_bytes=size)
            if take_digest:
                return (yield from copy_digested(self._pool.staging, copy, folder, label))
            return replace(label, written_bytes=(yield from copy.run()))

    def _label(self, work: Work, record: Record) -> Label:
        return self._pool.staging.label(work, Format.RAW, record.capacity_bytes)

    @contextmanager
    def _writing(self, folder: Path, record: Record, image_id: str) -> Iterator[int]:
        """Shows a volume to be written to; where others may fence it, they know by whom."""
        here = self._pool.abilities.node_id
        if self._pool.config.shared and here not in record.nodes:
            nodes = (*record.nodes, here)
            self._pool.records.write(folder, replace(record, nodes=nodes))
        with self._pool.node.device(
            record.id, record.context, image=image_id, to_write=True
        ) as handle:
            yield handle
        # Whoever uses the image later is none of those who may be cut off.
        if self._pool.config.shared:
            self._pool.records.write(folder, replace(record, nodes=()))
