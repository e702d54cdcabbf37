"""Snapshots of the `file` driver, and the way back to one.

Of a qcow2 image a snapshot is a layer (`layering`). Of a raw one it is a full copy kept beside its
image, sharing data where the file system can; it is made as an image is: staged, flushed, and
published by one rename, under a name that no image can have, with an owner tag of its own. Its
label's generation is that of the content.

A revert replaces what an image holds by what a snapshot does; the image stays its maker's, and its
label names the reverts that stand, so that what makes up for one knows it from all others. They are
made up for newest first, as any workflow does.

Who reads through other images keeps doing so: a snapshot of an overlay is an overlay on the same
images, which stay as they are for as long as anything reads through them.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from agent import crash_points
from agent.drivers.driver import Format, Made, OutcomeUnknown, SnapshotGone, Step, Steps, Work
from agent.drivers.label import (
    CHANGES_MAX,
    Change,
    Label,
    change_of,
    content_of,
    snapshot_name,
    with_change,
)
from agent.drivers.layering import Duplicate, Layering
from agent.drivers.removing import Removing
from agent.drivers.staging import Staging, made
from countermand.rpc.errors import ImageNotFound, ImageUnsafe


class Snapshots:
    """The snapshots of one pool."""

    def __init__(self, staging: Staging, duplicate: Duplicate, removing: Removing) -> None:
        """Works in the pool's staging folders."""
        self._staging = staging
        self._layout = staging.layout
        self._duplicate = duplicate
        self._removing = removing
        self._layering = Layering(staging, duplicate)

    def create(
        self, work: Work, image_id: str, snapshot_id: str, *, expected_generation: int = 0
    ) -> Steps[Made]:
        """Remembers an image's present content."""
        if self._is_layered(self.image_of(work, image_id)):
            return (
                yield from self._layering.create(
                    work, image_id, snapshot_id, expected_generation=expected_generation
                )
            )

        def fill(folder: Path) -> Steps[Label]:
            label = self._layout.label(image_id)
            self._staging.expect(image_id, label, expected_generation)
            _, found = self._layout.data(image_id, label)
            self._layout.chain(image_id, label)
            copy = yield from self._duplicate(work, image_id, folder, label)
            now = self._layout.label(image_id)
            if now != label or self._layout.data(image_id, now)[1].identity != found.identity:
                raise self._staging.changed(image_id)  # the copy may be of neither content
            return replace(
                copy, generation=label.generation, digest=label.digest, backing=label.backing
            )

        name = snapshot_name(image_id, snapshot_id)
        return (yield from self._staging.make(work, name, fill, resumable=True))

    def delete(
        self, work: Work, image_id: str, snapshot_id: str, *, expected_generation: int = 0
    ) -> Steps[SnapshotGone]:
        """Forgets a snapshot; one that is a folder of its own is removed as an image is."""
        staging, name = self._staging, snapshot_name(image_id, snapshot_id)
        label = self.image_of(work, image_id)
        with staging.working(work, image_id), staging.looking(work, image_id):
            is_folder = self._layout.files.stat(self._layout.image(name)) is not None
            if label is not None and self._layout.owner(name) is not None:  # else it has gone
                staging.expect(image_id, label, expected_generation)
        if self._is_layered(label) and not is_folder:
            existed = yield from self._layering.delete(work, image_id, snapshot_id)
        else:
            existed = yield from self._removing.delete(work, name)
        return SnapshotGone(existed=existed, generation=label.generation if label else 0)

    def make_up_for_create(
        self, work: Work, image_id: str, snapshot_id: str, *, made_by: str
    ) -> Steps[bool]:
        """Forgets the snapshot that exactly that attempt made; returns whether any."""
        staging, name = self._staging, snapshot_name(image_id, snapshot_id)
        with staging.translating(image_id):
            staging.need_pool()
            label = self._layout.owner(image_id)
            is_folder = self._layout.files.stat(self._layout.image(name)) is not None
        if self._is_layered(label) and not is_folder:
            return (
                yield from self._layering.make_up_for_create(
                    work, image_id, snapshot_id, made_by=made_by
                )
            )
        return (yield from self._removing.make_up_for(work, name, made_by=made_by))

    def _is_layered(self, label: Label | None) -> bool:
        """Returns whether an image's snapshots are layers of it."""
        return label is not None and label.format is Format.QCOW2

    def image_of(self, work: Work, image_id: str) -> Label | None:
        """Returns the label of an image whose snapshot is to go; None if there is none to read."""
        with self._staging.translating(image_id), self._staging.looking(work, image_id):
            with suppress(ImageNotFound, ImageUnsafe):
                return self._layout.label(image_id)
            return None

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
        with self._staging.working(work, image_id):
            try:
                return (
                    yield from self._revert(
                        work,
                        image_id,
                        snapshot_id,
                        safety_id=safety_id,
                        expected_generation=expected_generation,
                    )
                )
            except OutcomeUnknown:
                raise
            except Exception:
                self._sweep(work, image_id, safety_id)
                raise

    def _revert(
        self,
        work: Work,
        image_id: str,
        snapshot_id: str,
        *,
        safety_id: str,
        expected_generation: int,
    ) -> Steps[Made]:
        staging, name = self._staging, snapshot_name(image_id, snapshot_id)
        with staging.looking(work, image_id):
            staging.need_pool()
            label = self._layout.label(image_id)
        if change := change_of(label, work.cluster_id, work.attempt):
            # An earlier life did it and could not say so, perhaps not even flush it.
            staging.finish_replacing(work, image_id, label)
            yield from self._layering.tidy(work, image_id)
            return replace(made(image_id, label), generation=change.generation)
        staging.expect(image_id, label, expected_generation)
        staging.refuse_read(image_id)
        self._layout.label(name)
        if self._is_layered(label):
            yield Step()
            return (
                yield from self._layering.revert(
                    work, image_id, name, label=label, safety_id=safety_id
                )
            )
        if safety_id:
            safety = yield from self.create(work, image_id, safety_id)
            label = self._layout.label(image_id)
            if label.generation != safety.generation:
                raise staging.changed(image_id)  # the snapshot would save another content
        change = Change(work.cluster_id, work.attempt, self._layout.after(label.generation))
        after = with_change(label, change)
        return (yield from self._put_back(work, image_id, name, before=label, after=after))

    def make_up_for_revert(
        self, work: Work, image_id: str, *, safety_id: str, made_by: str
    ) -> Steps[None]:
        """Puts an image back to what it held before exactly that attempt, and forgets that."""
        staging, name = self._staging, snapshot_name(image_id, safety_id)
        with staging.translating(image_id):
            staging.need_pool()
            staging.discard(made_by)
            staging.purge_data(image_id, content_of(made_by))
            work.crash(crash_points.IN_COMPENSATION)
            yield Step()
            label = self._layout.owner(image_id)
            safety = self._owned(work, name, made_by)
            if label is not None and self._must_restore(work, image_id, label, safety, made_by):
                if safety is None:
                    self._layout.label(name)  # raises, unless it is another's
                    raise staging.changed(image_id)
                yield from self._restore(work, image_id, safety_id, label)
                safety = self._owned(work, name, made_by)
            if self._is_layered(label):
                yield from self._layering.tidy(work, image_id)
            if safety is None:
                staging.need_pool()  # it may have gone since
                staging.flush_folders()  # an earlier life may not have come to it
                return
            staging.take_back(name, made_by=made_by)
            work.crash(crash_points.IN_COMPENSATION)
            staging.purge(name, attempt=made_by)

    def _must_restore(
        self, work: Work, image_id: str, label: Label, safety: Label | None, made_by: str
    ) -> bool:
        """Returns whether a revert took effect, and nothing has made up for it yet."""
        change = change_of(label, work.cluster_id, made_by)
        if change is not None and change == label.changes[-1]:
            return True
        if change is not None:  # another changed the image since: that is not ours to lose
            raise self._staging.changed(image_id)
        undone = label.made_up_for
        if undone is not None and (undone.cluster_id, undone.attempt) == (work.cluster_id, made_by):
            # By an earlier life, which perhaps did not come to flush it.
            self._staging.finish_replacing(work, image_id, label)
        elif safety is not None and len(label.changes) == CHANGES_MAX:
            raise self._staging.changed(image_id)  # it may be among those that are forgotten
        return False

    def _restore(self, work: Work, image_id: str, safety_id: str, label: Label) -> Steps[None]:
        """Puts back what the last revert replaced."""
        name = snapshot_name(image_id, safety_id)
        after = replace(label, changes=label.changes[:-1], made_up_for=label.changes[-1])
        try:
            if self._layout.layer(name) is not None:
                yield from self._layering.restore(work, image_id, safety_id, label)
            else:
                yield from self._put_back(work, image_id, name, before=label, after=after)
        except OutcomeUnknown:
            raise
        except Exception:
            self._sweep(work, image_id, "")
            raise

    def _put_back(
        self, work: Work, image_id: str, name: str, *, before: Label, after: Label
    ) -> Steps[Made]:
        """Puts a copy of a snapshot in the place of what an image holds."""
        # Whoever replaced that may have died before he could purge it.
        self._staging.purge_data(image_id, before.replaced)
        folder = self._staging.begin(work, resumable=True)
        snapshot = self._layout.label(name)
        self._layout.chain(name, snapshot)
        yield from self._duplicate(work, name, folder, snapshot)
        label = replace(
            after,
            format=snapshot.format,
            virtual_size_bytes=snapshot.virtual_size_bytes,
            digest=snapshot.digest,
            backing=snapshot.backing,
            below=None,
            generation=self._layout.after(before.generation),
            content=content_of(work.attempt),
            replaced=before.content,
        )
        yield Step(last=True)
        self._staging.replace(work, image_id, folder, before=before, label=label)
        return made(image_id, label)

    def _sweep(self, work: Work, image_id: str, safety_id: str) -> None:
        """Removes what a revert that is not to be has made; nothing is fine."""
        staging = self._staging
        try:
            staging.discard(work.attempt)
            with suppress(ImageUnsafe):
                staging.purge_data(image_id, content_of(work.attempt))
            if safety_id:
                name = snapshot_name(image_id, safety_id)
                is_layer = self._layout.layer(name) is not None  # comes with the revert, or not
                if not is_layer and self._owned(work, name, work.attempt) is not None:
                    staging.take_back(name, made_by=work.attempt)
                    staging.purge(name, attempt=work.attempt)
        except OSError as error:
            raise OutcomeUnknown(staging.error(error, image_id)) from error

    def _owned(self, work: Work, name: str, made_by: str) -> Label | None:
        """Returns the label of a snapshot that exactly that attempt made."""
        label = self._layout.owner(name)
        return label if label is not None and self._staging.is_of(label, work, made_by) else None
