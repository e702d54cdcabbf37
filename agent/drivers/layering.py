"""Snapshots of qcow2 images: what the image holds becomes a layer, and it goes on in an overlay.

Each effect is one rename of the image's label, which names the image's data file and its layers:
the file that is new to it lies beside the others before, under the attempt's own token, and what
is named no more is removed after. So a snapshot and the way back to one take no time to speak of.

Where others read through the image itself, its data file must stay where it is; there, and where
there is no qemu-img or the layers lie too deep, a snapshot is a full copy of that file, or shares
its data by reflink. It is a layer all the same, that nothing reads through. So is the way back to a
layer that lies too deep: what the image goes on in is a copy, however often it goes back and forth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from agent import crash_points
from agent.drivers import qemu
from agent.drivers.driver import Format, Made, OutcomeUnknown, Step, Steps, Work
from agent.drivers.ends import Ends
from agent.drivers.label import AT, Change, Label, content_of, snapshot_name, with_change
from agent.drivers.layers import Layer, named, readers
from agent.drivers.merging import Merging
from agent.drivers.staging import Staging, made
from countermand.rpc.errors import Conflict, ImageUnsafe, VerbUnsupported

# Copies the data of an image or snapshot as it is into a folder, and returns a label for the copy.
Duplicate = Callable[[Work, str, Path, Label], Steps[Label]]

# Every layer is one more file to look into for each block that is read.
LAYERS_MAX = 32

# Each try loses only to somebody who changes the same image at the same moment.
TRIES_MAX = 100


class Layering:
    """The layers of one pool's qcow2 images."""

    def __init__(self, staging: Staging, duplicate: Duplicate) -> None:
        """Works in the pool's staging folders."""
        self._staging = staging
        self._files = staging.files
        self._layout = staging.layout
        self._duplicate = duplicate
        self._ends = Ends(staging)
        self._merging = Merging(staging)

    def create(
        self, work: Work, image_id: str, snapshot_id: str, *, expected_generation: int
    ) -> Steps[Made]:
        """Remembers an image's present content."""
        staging, name = self._staging, snapshot_name(image_id, snapshot_id)
        with staging.working(work, image_id), self._sweeping(work, image_id):
            with staging.looking(work, image_id):
                staging.need_pool()
                label = self._layout.label(image_id)
                snapshot = self._layout.owner(name)
            if snapshot is not None and staging.is_of(snapshot, work, work.attempt):
                # An earlier life did it and could not say so, perhaps not even flush it.
                staging.finish_replacing(work, image_id, label)
                return made(name, snapshot)
            staging.expect(image_id, label, expected_generation)
            staging.refuse_taken(name)
            self._layout.chain(image_id, label)
            self._ends.need(image_id, label)
            yield Step()
            folder = staging.begin(work, resumable=True)
            layer = _layer(work, label, snapshot_id)
            overlaid = self._can_overlay(image_id, image_id, label)
            if overlaid:
                yield from self._overlay(image_id, folder, label.of_layer(layer))
                after = replace(
                    label,
                    content=content_of(work.attempt),
                    below=label.content,
                    layers=(*label.layers, layer),
                    replaced=label.content,
                )
            else:
                yield from self._copy(work, image_id, folder, label)
                copy = layer._replace(content=content_of(work.attempt))
                after = replace(label, layers=(*label.layers, copy))
            yield Step(last=True)
            if overlaid:
                staging.replace(work, image_id, folder, before=label, label=after)
            else:
                first = partial(self._bring, work, image_id, folder)
                staging.put_label(work, image_id, folder, before=label, label=after, first=first)
            return made(name, label.of_layer(layer))

    def delete(self, work: Work, image_id: str, snapshot_id: str) -> Steps[bool]:
        """Forgets a snapshot, and merges what it held; returns whether it was there."""
        staging = self._staging
        with staging.working(work, image_id):
            with staging.looking(work, image_id):
                staging.need_pool()
                staging.discard(work.attempt)
                label = self._layout.owner(image_id)
            layer = named(label.layers, snapshot_id) if label is not None else None
            if label is not None and layer is not None and work.note in {"", _life(layer)}:
                self._ends.need_unused(image_id, label)  # it is merged with what it reads
                yield Step(note=_life(layer), note_needed=True)
                yield Step(last=True)
                self._forget(work, image_id, layer)
                yield from self._merging.tidy(work, image_id)
                return True
            # Ours has gone, or there was none; an earlier life may not have come to merge it.
            yield from self._merging.tidy(work, image_id)
            return bool(work.note)

    def make_up_for_create(
        self, work: Work, image_id: str, snapshot_id: str, *, made_by: str
    ) -> Steps[bool]:
        """Forgets the snapshot that exactly that attempt made, and keeps what was written since."""
        staging = self._staging
        with staging.translating(image_id):
            staging.need_pool()
            begun = made_by in self._layout.attempts_staged()
            staging.discard(made_by)
            staging.purge_data(image_id, content_of(made_by))
            work.crash(crash_points.IN_COMPENSATION)
            yield Step()
            label = self._layout.owner(image_id)
            layer = named(label.layers, snapshot_id) if label is not None else None
            owner = (layer.cluster_id, layer.attempt) if layer is not None else None
            ours = owner == (work.cluster_id, made_by)
            if ours and layer is not None:
                self._forget(work, image_id, layer)
                work.crash(crash_points.IN_COMPENSATION)
            yield from self._merging.tidy(work, image_id)
            staging.need_pool()  # it may have gone since
            staging.flush_folders()  # an earlier life may not have come to it
            return ours or begun

    def revert(
        self, work: Work, image_id: str, name: str, *, label: Label, safety_id: str
    ) -> Steps[Made]:
        """Puts an image back to a snapshot; what it holds becomes a layer if it is to be safe.

        Sweeping is the caller's.
        """
        staging = self._staging
        if safety_id:
            staging.refuse_taken(snapshot_name(image_id, safety_id))
            self._ends.need(image_id, label)
        else:  # what it holds goes, and need not be whole
            self._ends.need_unused(image_id, label)
        staging.purge_data(image_id, label.replaced)
        folder = staging.begin(work, resumable=True)
        snapshot = self._layout.label(name)
        self._ends.need_chain(name, snapshot)
        if self._layout.layer(name) is not None:
            below = yield from self._go_on(work, image_id, name, folder, snapshot)
        else:  # a folder of its own, as older versions made them
            below = None
            yield from self._copy(work, name, folder, snapshot)
        safety = (_layer(work, label, safety_id),) if safety_id else ()
        after = replace(
            with_change(label, self._change(work, label)),
            virtual_size_bytes=snapshot.virtual_size_bytes,
            digest=snapshot.digest,
            backing=snapshot.backing,
            content=content_of(work.attempt),
            replaced=label.content,
            below=below,
            layers=(*label.layers, *safety),
        )
        yield Step(last=True)
        staging.replace(work, image_id, folder, before=label, label=after)
        yield from self._merging.tidy(work, image_id)
        return made(image_id, after)

    def restore(self, work: Work, image_id: str, safety_id: str, label: Label) -> Steps[None]:
        """Puts back what the last revert replaced, and forgets its safety snapshot, at once."""
        staging = self._staging
        layer = named(label.layers, safety_id)
        assert layer is not None, safety_id
        staging.purge_data(image_id, label.replaced)
        folder = staging.begin(work, resumable=True)
        after = replace(
            label,
            virtual_size_bytes=layer.virtual_size_bytes,
            digest=layer.digest,
            generation=self._layout.after(label.generation),
            changes=label.changes[:-1],
            made_up_for=label.changes[-1],
            replaced=label.content,
        )
        others = tuple(other for other in label.layers if other is not layer)
        if readers(label.layers, label.below, layer.content):  # it must stay as it is
            name = snapshot_name(image_id, safety_id)
            below = yield from self._go_on(work, image_id, name, folder, label.of_layer(layer))
            after = replace(
                after,
                content=content_of(work.attempt),
                below=below,
                layers=(*others, layer._replace(snapshot_id="")),
            )
            yield Step(last=True)
            staging.replace(work, image_id, folder, before=label, label=after)
        else:
            after = replace(after, content=layer.content, below=layer.below, layers=others)
            yield Step(last=True)
            first = partial(staging.refuse_read, image_id)
            staging.put_label(work, image_id, folder, before=label, label=after, first=first)

    def tidy(self, work: Work, image_id: str) -> Steps[None]:
        """Merges what no snapshot needs any more."""
        yield from self._merging.tidy(work, image_id)

    def _change(self, work: Work, label: Label) -> Change:
        return Change(work.cluster_id, work.attempt, self._layout.after(label.generation))

    def _can_overlay(self, image_id: str, name: str, label: Label) -> bool:
        """Returns whether an image may go on in a file that reads through it, or a layer of it."""
        return (
            qemu.is_installed()
            and not self._layout.readers(image_id)
            and len(self._layout.chain(name, label)) < LAYERS_MAX
        )

    def _go_on(
        self, work: Work, image_id: str, name: str, folder: Path, layer: Label
    ) -> Steps[str | None]:
        """Makes a file that holds what a layer does; returns the token of what it reads through.

        It reads through the layer; where that lies too deep it is a copy, and lies no deeper.
        """
        if self._can_overlay(image_id, name, layer):
            yield from self._overlay(image_id, folder, layer)
            return layer.content
        yield from self._copy(work, name, folder, layer)
        return layer.below

    def _copy(self, work: Work, name: str, folder: Path, label: Label) -> Steps[None]:
        """Copies the data of an image or snapshot, which nobody may change meanwhile."""
        _, found = self._layout.data(name, label)
        yield from self._duplicate(work, name, folder, label)
        if self._layout.data(name, label)[1].identity != found.identity:
            raise self._staging.changed(name.partition(AT)[0])

    def _overlay(self, image_id: str, folder: Path, below: Label) -> Steps[None]:
        """Makes an empty file that reads through a layer, or what is to be one."""
        if not qemu.is_installed():
            pool_id = self._staging.config.pool_id
            raise VerbUnsupported(pool=pool_id, verb="an overlay", why=qemu.MISSING)
        target = folder / "data.qcow2"
        yield from qemu.create_overlay(
            target,
            image=image_id,
            backing=f"../{image_id}/{below.data_name}",
            backing_format=Format.QCOW2,
            size_bytes=below.virtual_size_bytes,
        )
        with self._staging.writing(target) as handle:
            self._files.flush(handle)

    def _bring(self, work: Work, image_id: str, folder: Path) -> None:
        """Puts a staged data file beside the others; no label names it yet."""
        image = self._layout.image(image_id)
        name = f"data.{content_of(work.attempt)}.{Format.QCOW2}"
        staging = self._staging
        staging.take_rights(folder / "data.qcow2", image / self._layout.label(image_id).data_name)
        self._files.rename(folder / "data.qcow2", image / name)
        self._files.flush_folder(image)
        work.crash(crash_points.IN_REVERT)

    def _forget(self, work: Work, image_id: str, layer: Layer) -> None:
        """Takes a snapshot's name away: from here on there is only forward.

        Others of the same image may change it meanwhile: what counts is only this layer.
        """
        tries = (
            self._try_to_forget(work, image_id, _life(layer), layer.snapshot_id)
            for _ in range(TRIES_MAX)
        )
        try:
            forgotten = any(tries)
        except OutcomeUnknown:
            raise
        except Exception:
            self._staging.discard(work.attempt)
            raise
        if not forgotten:  # whoever asked asks again, later
            self._staging.discard(work.attempt)
            raise self._staging.changed(image_id)

    def _try_to_forget(self, work: Work, image_id: str, life: str, snapshot_id: str) -> bool:
        label = self._layout.label(image_id)
        layer = named(label.layers, snapshot_id)
        if layer is None or _life(layer) != life:
            return True
        nameless = layer._replace(snapshot_id="")
        layers = tuple(nameless if other is layer else other for other in label.layers)
        after = replace(label, layers=layers)
        folder = self._staging.begin(work, resumable=False)
        try:
            self._staging.put_label(
                work, image_id, folder, before=label, label=after, first=lambda: None
            )
        except Conflict:
            return False
        return True

    @contextmanager
    def _sweeping(self, work: Work, image_id: str) -> Iterator[None]:
        """Removes what a snapshot that is not to be has made."""
        try:
            yield
        except OutcomeUnknown:
            raise
        except Exception:
            try:
                self._staging.discard(work.attempt)
                with suppress(ImageUnsafe):
                    self._staging.purge_data(image_id, content_of(work.attempt))
            except OSError as error:
                raise OutcomeUnknown(self._staging.error(error, image_id)) from error
            raise


def _life(layer: Layer) -> str:
    """Tells a snapshot from any other that had its name or will have it."""
    return f"{layer.attempt} {layer.create_time}"


def _layer(work: Work, label: Label, snapshot_id: str) -> Layer:
    """Returns what an image holds as a layer, kept by an attempt under a snapshot's id."""
    return Layer(
        content=label.content,
        below=label.below,
        snapshot_id=snapshot_id,
        cluster_id=work.cluster_id,
        attempt=work.attempt,
        create_time=work.now().isoformat(),
        generation=label.generation,
        virtual_size_bytes=label.virtual_size_bytes,
        digest=label.digest,
    )
