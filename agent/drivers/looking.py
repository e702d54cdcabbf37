"""Looks at what a pool of the `file` driver holds; changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from agent.drivers import copying, qemu
from agent.drivers.driver import Content, Format, ImageFound, Oddity, SnapshotFound, Step, Steps
from agent.drivers.filling import Filling
from agent.drivers.label import AT, Label
from agent.drivers.listing import list_images
from agent.drivers.staging import Staging
from agent.drivers.surveying import survey
from countermand.rpc.errors import DigestMismatch, ImageNotFound, ImageUnsafe, SnapshotNotFound

log = logging.getLogger(__name__)


class Looking:
    """Finds, lists, reads, verifies and surveys the images of one pool."""

    def __init__(self, staging: Staging, filling: Filling) -> None:
        """Touches nothing."""
        self._staging = staging
        self._files = staging.files
        self._layout = staging.layout
        self._filling = filling

    def find(self, image_id: str) -> ImageFound:
        """Looks at one image."""
        with self._staging.translating(image_id):
            return self._found(image_id, self._layout.snapshots(image_id))

    def list_images(self, *, after: str, count_max: int) -> list[ImageFound]:
        """Returns images in order of their ids; what is not a plain image is logged instead."""
        return list_images(self._staging, self._found, after=after, count_max=count_max)

    @contextmanager
    def reading(self, image_id: str, layout: Format) -> Iterator[Content]:
        """Opens an image: RAW is what a guest reads, QCOW2 the bytes of its file."""
        with (
            self._staging.translating(image_id),
            self._filling.reading(image_id, layout) as content,
        ):
            yield content

    def verify(self, image_id: str, *, digest: str) -> Steps[str]:
        """Checks that an image is whole, and that its digest is this one; returns the digest.

        Of a qcow2 image its chain is checked, by qemu-img where there is one each of its files, and
        the digest is that of what a guest reads of it.
        """
        with self._staging.translating(image_id):
            label = self._label(image_id)
            self._layout.data(image_id, label)
            chain = self._layout.chain(image_id, label)
            yield Step()
            # From the bottom: what is wrong there would be told of all that read through it.
            for below in (*reversed(chain), image_id) if qemu.is_installed() else ():
                each = self._layout.label(below)
                if each.format is Format.QCOW2:
                    path, _ = self._layout.data(below, each)
                    yield from qemu.check(path, image=below, pool=self._staging.config.pool_id)
            if label.format is Format.QCOW2 and not digest and not qemu.is_installed():
                return ""
            with self.reading(image_id, Format.RAW) as content:
                found = yield from copying.digest_content(content)
            if digest and found != digest:
                raise DigestMismatch(
                    image=image_id, pool=self._staging.config.pool_id, found=found, expected=digest
                )
            return found

    def survey(self) -> list[Oddity]:
        """Returns what is in the pool and is no image, in order of kind and name."""
        with self._staging.translating("its images"):
            self._staging.need_pool()
            return survey(self._layout)

    def _label(self, image_id: str) -> Label:
        """Returns an image's label; where the pool is not, nothing is said to be missing."""
        try:
            return self._layout.label(image_id)
        except ImageNotFound:
            self._staging.need_pool()
            raise

    def _found(self, image_id: str, snapshots: list[str]) -> ImageFound:
        label = self._label(image_id)
        try:
            self._layout.data(image_id, label)
        except ImageUnsafe:
            now = self._label(image_id)
            if now == label:
                raise
            label = now  # it was changed while we looked
            self._layout.data(image_id, label)
        return ImageFound(
            image_id=image_id,
            format=label.format,
            virtual_size_bytes=label.virtual_size_bytes,
            allocated_bytes=self._layout.allocated_bytes(self._layout.image(image_id)),
            generation=label.generation,
            cluster_id=label.cluster_id,
            attempt=label.attempt,
            create_time=datetime.fromisoformat(label.create_time),
            digest=label.digest,
            moved_by=label.moved_by,
            chain=self._layout.chain(image_id, label),
            snapshots=self._snapshots_found(
                sorted({*snapshots, *self._layout.layers_named(image_id, label)})
            ),
        )

    def _snapshots_found(self, snapshots: list[str]) -> tuple[SnapshotFound, ...]:
        """Returns the snapshots of these names, oldest first; one that is unsafe is logged."""
        found: list[SnapshotFound] = []
        for name in snapshots:
            try:
                label = self._layout.label(name)
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
