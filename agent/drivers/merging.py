"""Merges layers that no snapshot needs any more into whatever reads through them.

Forward only: the snapshot's name has gone before, in one rename of the image's label, and from then
on each step can be begun again by whoever comes next, of this attempt or another. What a guest
reads is the same at every moment:

    the tool runs          the layer takes over what its reader holds, or the reader what it lacks
    (the layer is renamed  into its reader's place, which reads as before, and through it no more)
    the label              is renamed without the layer
    the layer's file       is removed

Of a layer and its reader the tool copies the smaller one. Under a reader of the same size that is
usually what was written since the snapshot: `qemu-img commit` brings it down into the layer, whose
file then takes the reader's name, so that nobody who reads through that one has to be told. The
other way, `qemu-img rebase` brings what the reader lacks up into it; that is right for readers of
any size. With two readers or more either would make copies, so the layer waits until one is left.
"""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from agent import crash_points
from agent.drivers import qemu
from agent.drivers.driver import OutcomeUnknown, Step, Steps, T, Work
from agent.drivers.files import FileStat
from agent.drivers.layers import Layer, readers, spare, without
from agent.drivers.layout import Label, layer_name
from agent.drivers.staging import Staging
from countermand.rpc.errors import Conflict, CountermandError, ImageUnsafe, VerbUnsupported

# How long to wait between two looks at whether another has merged the layers of the same image.
_TURN_S = 0.05


class Merging:
    """The merges of one pool; those of one image take turns."""

    def __init__(self, staging: Staging) -> None:
        """Works in the pool's staging folders."""
        self._staging = staging
        self._files = staging.files
        self._layout = staging.layout
        self._busy: set[str] = set()

    def tidy(self, work: Work, image_id: str) -> Steps[None]:
        """Merges layers of an image that no snapshot needs; nothing stops it.

        Raises:
            OutcomeUnknown: It came to a halt, and is to be taken up again.
        """
        try:
            yield from onwards(self._tidy(work, image_id))
        except OSError as error:
            raise OutcomeUnknown(self._staging.error(error, image_id)) from error
        except CountermandError as error:
            raise OutcomeUnknown(error) from error

    def _tidy(self, work: Work, image_id: str) -> Steps[None]:
        while image_id in self._busy:
            yield Step(wait_s=_TURN_S)
        self._busy.add(image_id)
        try:
            while found := self._next(image_id):
                label, layer = found
                with suppress(Conflict):  # somebody has changed the image: look again
                    if readers(label.layers, label.below, layer.content):
                        yield from self._merge(work, image_id, label, layer)
                    self._drop(work, image_id, label, layer)
            self._staging.discard(work.attempt)  # an earlier life may not have come to it
        finally:
            self._busy.discard(image_id)

    def _next(self, image_id: str) -> tuple[Label, Layer] | None:
        """Returns an image's label and a layer that is to go, if any."""
        self._staging.need_pool()
        with suppress(ImageUnsafe):  # then it is not touched
            label = self._layout.owner(image_id)
            if label is None:
                return None
            self._staging.purge_data(image_id, label.replaced)  # whoever did may have died
            layer = spare(label.layers, label.below)
            return (label, layer) if layer is not None else None
        return None

    def _merge(self, work: Work, image_id: str, label: Label, layer: Layer) -> Steps[None]:
        """Merges a layer into its only reader."""
        name, reader = _reader(image_id, label, layer)
        if self._layout.reads(name, reader) != layer:
            return  # an earlier life has, and came no further
        if not qemu.is_installed():
            pool_id = self._staging.config.pool_id
            raise VerbUnsupported(pool=pool_id, verb="merging a snapshot", why=qemu.MISSING)
        image = self._layout.image(image_id)
        path, found = self._layout.data(name, reader)
        below, below_found = self._layout.data(layer_name(image_id, layer), label.of_layer(layer))

        def each() -> int:
            work.crash(crash_points.IN_MERGE)
            self._staging.settle(image)
            self._staging.room.take(self._layout.account(image), 0)  # raises if it is full
            return self._layout.allocated_bytes(image)

        work.crash(crash_points.IN_MERGE)
        size = reader.virtual_size_bytes
        if size == layer.virtual_size_bytes and _takes_less(found, below_found):
            yield from qemu.commit(path, image=image_id, size_bytes=size, each=each)
            self._flush(below)
            with self._staging.unchanged(image_id, label):
                self._files.rename(below, path)
                self._files.flush_folder(image)
        else:
            backing, backing_format = self._layout.backing_of(image_id, label.of_layer(layer))
            yield from qemu.rebase(
                path,
                image=image_id,
                backing=backing,
                backing_format=backing_format,
                size_bytes=size,
                each=each,
            )
            self._flush(path)
        work.crash(crash_points.AFTER_MERGE)

    def _drop(self, work: Work, image_id: str, label: Label, layer: Layer) -> None:
        """Takes a layer that nobody reads through out of the label, and its file away."""
        staging = self._staging
        folder = staging.begin(work, resumable=False)
        after = replace(
            label,
            below=layer.below if label.below == layer.content else label.below,
            layers=without(label.layers, layer),
            replaced=layer.content,
        )
        try:
            staging.put_label(work, image_id, folder, before=label, label=after, first=_nothing)
        except Conflict:
            staging.discard(work.attempt)
            raise

    def _flush(self, path: Path) -> None:
        with self._staging.writing(path) as handle:
            self._files.flush(handle)


def onwards(steps: Steps[T]) -> Steps[T]:
    """Does what nothing stops any more; a process that ends leaves it as it is."""
    with closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                value: T = end.value
                return value
            with suppress(CountermandError):  # asked to stop, and it is too late
                yield step


def _reader(image_id: str, label: Label, layer: Layer) -> tuple[str, Label]:
    """Returns the name and the label of the only one that reads through a layer."""
    for other in label.layers:
        if other.below == layer.content:
            return layer_name(image_id, other), label.of_layer(other)
    return image_id, label


def _takes_less(found: FileStat, other: FileStat) -> bool:
    return found.allocated_bytes <= other.allocated_bytes


def _nothing() -> None:
    """Has nothing to do before a label is renamed."""
