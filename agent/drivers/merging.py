"""Merges layers that no snapshot needs any more into whatever reads through them.

Forward only: the snapshot's name has gone before, in one rename of the image's label, and from then
on each step can be begun again by whoever comes next, of this attempt or another. What a guest
reads is the same at every moment. Of a layer and its reader a tool copies the smaller one:

`qemu-img commit` brings down what its reader holds, usually what was written since the snapshot.
Then the image's label names the layer in its reader's place, if the reader is what the image holds;
else, as others know the reader by name, the layer takes its name, and the label leaves the layer
out. Only what nobody writes to is replaced like that, so an agent that was held up takes nobody's
writes away; the label comes out of the attempt's own folder, and a fence is in its way.

`qemu-img rebase` brings what the reader lacks up into it, and the label leaves the layer out. That
is right for readers of any size.

With two readers or more either would make copies, so the layer waits until one is left. Of what a
fence has stopped, the rest is for whoever next has to do with the image's snapshots. What is
damaged is left as it is: what it lacks would be merged as zeros, and what is left of it be gone.
"""

from __future__ import annotations

import logging
import threading
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from agent import crash_points
from agent.drivers import qemu
from agent.drivers.driver import OutcomeUnknown, Step, Steps, T, Work
from agent.drivers.ends import Ends
from agent.drivers.label import Label, layer_name
from agent.drivers.layers import Layer, readers, spare, without
from agent.drivers.staging import Staging
from countermand.rpc.errors import (
    Conflict,
    CountermandError,
    ImageDamaged,
    ImageUnsafe,
    VerbUnsupported,
)

log = logging.getLogger(__name__)

# How long to wait between two looks at whether another has merged the layers of the same image.
_TURN_S = 0.05


class Merging:
    """The merges of one pool; those of one image take turns."""

    def __init__(self, staging: Staging) -> None:
        """Works in the pool's staging folders."""
        self._staging = staging
        self._files = staging.files
        self._layout = staging.layout
        self._ends = Ends(staging)
        self._busy: set[str] = set()
        self._turns = threading.Lock()

    def tidy(self, work: Work, image_id: str) -> Steps[None]:
        """Merges layers of an image that no snapshot needs; nothing stops it.

        Raises:
            OutcomeUnknown: It came to a halt, and is to be taken up again.
        """
        try:
            if not self._layout.is_fenced(work.attempt):
                yield from onwards(self._tidy(work, image_id))
        except (OSError, CountermandError) as error:
            if self._layout.is_fenced(work.attempt):
                return
            if isinstance(error, OSError):
                error = self._staging.error(error, image_id)
            raise OutcomeUnknown(error) from error

    def _tidy(self, work: Work, image_id: str) -> Steps[None]:
        while not self._takes_turn(image_id):
            yield Step(wait_s=_TURN_S)
        try:
            while found := self._next(image_id):
                label, layer = found
                with suppress(Conflict):  # somebody has changed the image: look again
                    yield from self._merge(work, image_id, label, layer)
            self._staging.discard(work.attempt)  # an earlier life may not have come to it
        except ImageDamaged as error:
            log.warning("image.damaged", extra=error.metadata)
            self._staging.discard(work.attempt)
        finally:
            self._busy.discard(image_id)

    def _takes_turn(self, image_id: str) -> bool:
        with self._turns:
            if image_id in self._busy:
                return False
            self._busy.add(image_id)
            return True

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
        """Merges a layer into its only reader, if it has one, and takes it out of the label."""
        if readers(label.layers, label.below, layer.content):
            name, reader = _reader(image_id, label, layer)
            if self._layout.reads(name, reader) == layer:  # else an earlier life has
                after = yield from self._move(work, image_id, label, layer)
                work.crash(crash_points.AFTER_MERGE)
                if after is not None:
                    self._put(work, image_id, label, after)
                    return
        after = replace(
            label,
            below=layer.below if label.below == layer.content else label.below,
            layers=without(label.layers, layer),
            replaced=layer.content,
        )
        self._put(work, image_id, label, after)

    def _move(self, work: Work, image_id: str, label: Label, layer: Layer) -> Steps[Label | None]:
        """Moves data up or down; returns the label that makes it count, if it does not yet."""
        if not qemu.is_installed():
            pool_id = self._staging.config.pool_id
            raise VerbUnsupported(pool=pool_id, verb="merging a snapshot", why=qemu.MISSING)
        name, reader = _reader(image_id, label, layer)
        path, found = self._layout.data(name, reader)
        of_layer = label.of_layer(layer)
        below_name = layer_name(image_id, layer)
        below, below_found = self._layout.data(below_name, of_layer)
        self._ends.need_whole(below_name, of_layer)
        self._ends.need_whole(name, reader)
        size = reader.virtual_size_bytes
        each = partial(self._look, work, image_id)
        work.crash(crash_points.IN_MERGE)
        if size != layer.virtual_size_bytes or found.allocated_bytes > below_found.allocated_bytes:
            backing, backing_format = self._layout.backing_of(image_id, of_layer)
            yield from qemu.rebase(
                path,
                image=image_id,
                backing=backing,
                backing_format=backing_format,
                size_bytes=size,
                each=each,
            )
            self._flush(path)
            return None
        each()  # the fence, before the tool has begun
        yield from qemu.commit(path, below, image=image_id, size_bytes=size, each=each)
        self._flush(below)
        self._staging.take_rights(below, path)
        if name == image_id and not self._layout.readers(image_id):
            return replace(
                label,
                content=layer.content,
                below=layer.below,
                layers=without(label.layers, layer),
                replaced=label.content,
            )
        with self._staging.unchanged(image_id, label):
            self._files.rename(below, path)
            self._files.flush_folder(self._layout.image(image_id))
        return None

    def _look(self, work: Work, image_id: str) -> int:
        """Is called while a tool runs, which it stops by raising; returns what there is now."""
        work.crash(crash_points.IN_MERGE)
        if self._layout.is_fenced(work.attempt):
            raise self._staging.fenced(work.attempt)
        image = self._layout.image(image_id)
        self._staging.settle(image)
        self._staging.room.take(self._layout.account(image), 0)  # raises if it is full
        return self._layout.allocated_bytes(image)

    def _put(self, work: Work, image_id: str, label: Label, after: Label) -> None:
        """Puts a label in the place of an image's."""
        folder = self._staging.begin(work, resumable=False)

        def first() -> None:
            if after.content != label.content and self._layout.readers(image_id):
                raise self._staging.changed(image_id)  # they read through the file it names now

        try:
            self._staging.put_label(work, image_id, folder, before=label, label=after, first=first)
        except Conflict:
            self._staging.discard(work.attempt)
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
