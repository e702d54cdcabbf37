"""Resizes of the `file` driver: in place, with the label as the truth.

What grows does so before its label says it, what shrinks only after; and the label is renamed out
of the attempt's own folder, so that a fence keeps it from coming. Data that is longer than its
label says is therefore a resize that was cut short: the attempt itself cuts it off when it fails,
and so does what makes up for it. It reads as zeros, since nobody was told of it; what does not is
nobody's to cut off, and such an image is not resized.

A cut is no rename: whoever is held up just before it would cut off what another host has grown
since. So where several hosts reach an image a growth locks its end from before its data grows until
its label says so, and a cut holds that lock alone, so that the label it has read is still the truth
when it cuts. A lock ends with its process. Where a growth is under way elsewhere, or the storage
keeps no locks, zeros stay where they are, and nobody reads them.

Growing is made up for by shrinking back, as long as the new part reads as zeros. Like reverts,
resizes are made up for newest first: an image that another has changed since is a conflict.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from enum import Enum, auto
from functools import partial
from pathlib import Path

from agent import crash_points
from agent.drivers import qemu
from agent.drivers.driver import Format, OutcomeUnknown, Resized, Step, Steps, Work
from agent.drivers.ends import Ends
from agent.drivers.label import Change, Label, change_of, with_change
from agent.drivers.layout import MARK
from agent.drivers.staging import Staging
from countermand.rpc.errors import (
    Conflict,
    CountermandError,
    FieldInvalid,
    ImageBusy,
    ImageUnsafe,
    VerbUnsupported,
    Violation,
)

_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class _End(Enum):
    """Whose the end of an image is, between its data and its label."""

    OURS = auto()
    TAKEN = auto()  # another host is at work on it, or held up there
    UNLOCKED = auto()  # the storage keeps no locks: nobody can tell


class Resizing:
    """The resizes of one pool."""

    def __init__(self, staging: Staging) -> None:
        """Works in the pool's staging folders."""
        self._staging = staging
        self._files = staging.files
        self._layout = staging.layout
        self._ends = Ends(staging)

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
        staging = self._staging
        with staging.working(work, image_id), self._taking_back(work, image_id):
            with staging.looking(work, image_id):
                staging.need_pool()
                label = self._layout.label(image_id)
            if change := change_of(label, work.cluster_id, work.attempt):
                # An earlier life did it and could not say so, perhaps not even to the end.
                staging.finish_replacing(work, image_id, label)
                return self._done(work, image_id, label, change)
            staging.expect(image_id, label, expected_generation)
            staging.refuse_read(image_id)
            self._layout.data(image_id, label)
            self._layout.chain(image_id, label)
            before = label.virtual_size_bytes
            if size_bytes == before:
                return Resized(
                    previous_size_bytes=before,
                    virtual_size_bytes=before,
                    generation=label.generation,
                )
            if size_bytes < before and not shrink_allowed:
                why = f"it has {before} bytes: set it to lose those beyond {size_bytes}"
                raise FieldInvalid(Violation("resize_image.shrink_allowed", why))
            self._need_tool(label)
            yield Step()
            folder = staging.begin(work, resumable=False)
            after = with_change(
                replace(label, virtual_size_bytes=size_bytes, digest=""),
                Change(
                    work.cluster_id,
                    work.attempt,
                    self._layout.after(label.generation),
                    size_bytes=before,
                    digest=label.digest,
                ),
            )
            yield Step(last=True)
            first = partial(self._grow, work, image_id, label, size_bytes)
            with self._growing(image_id):
                staging.put_label(work, image_id, folder, before=label, label=after, first=first)
            return self._done(work, image_id, after, after.changes[-1])

    def make_up_for(self, work: Work, image_id: str, *, made_by: str) -> Steps[None]:
        """Shrinks an image back that exactly that attempt has grown, if nothing was written."""
        staging = self._staging
        with staging.working(work, image_id):
            staging.need_pool()
            staging.discard(made_by)
            staging.discard(work.attempt)  # of an earlier life
            work.crash(crash_points.IN_COMPENSATION)
            yield Step()
            label = self._layout.owner(image_id)
            if label is None:
                staging.need_pool()  # it may have gone since
                return
            change = change_of(label, work.cluster_id, made_by)
            if change is not None:
                yield from self._shrink_back(work, image_id, label, change)
            # It never came to its label; or an earlier life shrank back, and came no further.
            self._trim(image_id)

    def _shrink_back(self, work: Work, image_id: str, label: Label, change: Change) -> Steps[None]:
        staging = self._staging
        if change != label.changes[-1]:  # another changed the image since
            raise staging.changed(image_id)
        try:
            folder = staging.begin(work, resumable=False)
            self._need_unused(image_id, label, change.size_bytes)
            after = replace(
                label,
                virtual_size_bytes=change.size_bytes,
                digest=change.digest,
                generation=self._layout.after(label.generation),
                changes=label.changes[:-1],
                made_up_for=change,
            )
            yield Step(last=True)
            first = partial(staging.refuse_read, image_id)
            staging.put_label(work, image_id, folder, before=label, label=after, first=first)
        except OutcomeUnknown:
            raise
        except Exception:
            staging.discard(work.attempt)
            raise
        work.crash(crash_points.IN_RESIZE)

    def _grow(self, work: Work, image_id: str, label: Label, size_bytes: int) -> None:
        """Makes the data as long as its next label says, if that is longer."""
        self._staging.refuse_read(image_id)
        path, _ = self._layout.data(image_id, label)
        if size_bytes > label.virtual_size_bytes:
            self._ends.need(image_id, label)
            if label.format is Format.RAW:
                with self._staging.writing(path) as handle:
                    self._need_no_fence(work)
                    self._files.extend(handle, size_bytes)
                    self._files.flush(handle)
            else:
                self._need_no_fence(work)
                qemu.grow(path, image=image_id, size_bytes=size_bytes)
                self._flush(path)
        work.crash(crash_points.IN_RESIZE)

    def _need_no_fence(self, work: Work) -> None:
        """Raises if an attempt is fenced: what it grew now, nobody would take back."""
        if self._layout.is_fenced(work.attempt):
            raise self._staging.fenced(work.attempt)

    def _done(self, work: Work, image_id: str, label: Label, change: Change) -> Resized:
        """Sees to it that the data is as long as the label says, which counts already."""
        size_bytes = label.virtual_size_bytes
        if label.changes[-1] == change and size_bytes < change.size_bytes:
            work.crash(crash_points.IN_RESIZE)
            try:
                with self._cutting(image_id) as end:
                    if end is _End.TAKEN:
                        raise self._busy(image_id)
                    # Without locks as well: it was allowed to, and no other host may end it.
                    self._fit(image_id, label)
            except (OSError, CountermandError) as error:
                if isinstance(error, OSError):
                    error = self._staging.error(error, image_id)
                raise OutcomeUnknown(error) from error
        return Resized(
            previous_size_bytes=change.size_bytes,
            virtual_size_bytes=size_bytes,
            generation=change.generation,
        )

    def _fit(self, image_id: str, label: Label) -> None:
        """Cuts off what is beyond the end that a label names."""
        with self._staging.unchanged(image_id, label):
            path, found = self._layout.data(image_id, label)
            size_bytes = label.virtual_size_bytes
            if label.format is Format.QCOW2:
                if self._layout.size(image_id, label) > size_bytes:
                    self._need_tool(label)
                    qemu.shrink(path, image=image_id, size_bytes=size_bytes)
                    self._flush(path)
            elif found.size_bytes > size_bytes:
                with self._staging.writing(path) as handle:
                    self._files.truncate(handle, size_bytes)
                    self._files.flush(handle)
            self._staging.settle(self._layout.image(image_id))

    @contextmanager
    def _taking_back(self, work: Work, image_id: str) -> Iterator[None]:
        """Cuts off what an attempt has grown that comes to nothing."""
        try:
            yield
        except OutcomeUnknown:
            raise
        except Exception:
            staging = self._staging
            try:
                staging.discard(work.attempt)
                with suppress(ImageUnsafe):  # then it was not touched either
                    label = self._layout.owner(image_id)
                    if label and not change_of(label, work.cluster_id, work.attempt):
                        self._trim(image_id)
            except (OSError, CountermandError) as error:
                if isinstance(error, OSError):
                    error = staging.error(error, image_id)
                raise OutcomeUnknown(error) from error
            raise

    def _trim(self, image_id: str) -> None:
        """Cuts off what is beyond the end that an image's label names, if it reads as zeros."""
        with self._cutting(image_id) as end:
            label = self._layout.owner(image_id)
            if label is None or end is not _End.OURS:
                return
            size_bytes = label.virtual_size_bytes
            is_longer = self._layout.size(image_id, label) > size_bytes
            if is_longer and not self._ends.holds_data(image_id, label, size_bytes):
                self._fit(image_id, label)

    @contextmanager
    def _growing(self, image_id: str) -> Iterator[None]:
        """Keeps other hosts from cutting while an image grows."""
        with self._locking(image_id, alone=False) as end:
            if end is _End.TAKEN:
                raise self._busy(image_id)
            yield

    def _cutting(self, image_id: str) -> AbstractContextManager[_End]:
        """Keeps other hosts from growing an image while its end is cut off, if that can be."""
        return self._locking(image_id, alone=True)

    @contextmanager
    def _locking(self, image_id: str, *, alone: bool) -> Iterator[_End]:
        """Locks the end of an image, which stands for its label as well, against other hosts."""
        if not self._staging.config.shared:
            yield _End.OURS
            return
        # A place in the only file that is never replaced; two images at one place harm nobody.
        place = int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=7).digest())
        try:
            handle = self._files.lock(self._layout.path / MARK, place, alone=alone)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            yield _End.UNLOCKED
            return
        if handle is None:
            yield _End.TAKEN
            return
        try:
            yield _End.OURS
        finally:
            self._files.close(handle)

    def _busy(self, image_id: str) -> ImageBusy:
        holder = "another host, which has not come to an end of changing its size"
        return ImageBusy(image=image_id, pool=self._staging.config.pool_id, holder=holder)

    def _need_unused(self, image_id: str, label: Label, begin: int) -> None:
        """Raises if anything was written beyond an offset."""
        if self._ends.holds_data(image_id, label, begin):
            pool_id = self._staging.config.pool_id
            raise Conflict(name=f"the new part of image {image_id} in pool {pool_id}")

    def _need_tool(self, label: Label) -> None:
        if label.format is Format.QCOW2 and not qemu.is_installed():
            pool_id = self._staging.config.pool_id
            raise VerbUnsupported(pool=pool_id, verb="resize_image", why=qemu.MISSING)

    def _flush(self, path: Path) -> None:
        with self._staging.writing(path) as handle:
            self._files.flush(handle)
