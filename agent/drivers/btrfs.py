"""The `btrfs` driver: raw images, each a subvolume, so that clones and snapshots cost nothing.

A pool looks as one of the `file` driver does, and all that can be shared with that is. What differs
is here: the folder of an image is a subvolume, so

    a clone, a snapshot   is a snapshot of that subvolume, whatever its size, and exact even while
                          somebody writes to the image
    a revert, a resize    makes a subvolume with the new content and label aside, and exchanges the
                          names of the two: both change in one moment
    a copy, a new image   fills a subvolume, which one rename publishes as it would a folder

Images that are folders still, of a pool that the `file` driver served before, become subvolumes
when they are next changed. Needs no privileges: whoever runs the agent owns the folder of the pool.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from agent import crash_points
from agent.drivers import subvolumes
from agent.drivers.driver import Format, OutcomeUnknown, PoolConfig, Work
from agent.drivers.file import VERBS, FileDriver
from agent.drivers.files import FileKind, Files, RealFiles
from agent.drivers.folders import FolderType
from agent.drivers.label import Label
from agent.drivers.layout import Layout
from agent.drivers.plugins import ConfigInvalid, flag
from agent.drivers.staging import Staging
from countermand.rpc import names
from countermand.rpc.errors import CountermandError

TOLD_MAX = 3  # of images that keep a pool from being served

NO_COW = "nocow"
OPTIONS = {NO_COW: "new images are overwritten in place: faster under guests, without checksums"}


class SubvolumeStaging(Staging):
    """Stages images as subvolumes. The one part of the `file` driver that another takes over."""

    def __init__(self, config: PoolConfig, files: Files, identity: str) -> None:
        """Makes the pool's folders where they are missing, and counts what is in use."""
        super().__init__(config, files, identity)
        self._no_cow = flag(config, NO_COW)

    def make_staged(self, folder: Path) -> None:
        """Makes the subvolume that an attempt fills; one that exists is fine, and no link is."""
        found = self.files.stat(folder)
        if found is None:
            subvolumes.create(folder, no_cow=self._no_cow)
        elif found.kind is not FileKind.FOLDER:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))

    def share(self, path: Path, target: Path) -> bool:
        """Makes what is staged a snapshot of the image with this data file; it was empty so far."""
        self._hold(path.parent, target.parent)
        for name in self.files.list_folder(target.parent):
            if name != path.name:  # its label, and whatever may have been planted beside it
                self._remove(target.parent / name)
        (target.parent / path.name).rename(target)
        return True

    def _remove(self, path: Path) -> None:
        self.layout.purge(path)
        found = self.files.stat(path)
        if found is not None:
            self.files.remove_file(path)

    def _hold(self, image: Path, folder: Path) -> None:
        """Makes what is staged hold what an image does; nobody sees it yet."""
        self.layout.purge(folder)
        if subvolumes.is_subvolume(image):
            subvolumes.snapshot(image, folder)
            return
        self.make_staged(folder)
        for name in self.files.list_folder(image):
            if not super().share(image / name, folder / name):
                raise OSError(errno.EOPNOTSUPP, "no reflinks")  # as none without copy-on-write

    def replace(
        self, work: Work, image_id: str, folder: Path, *, before: Label, label: Label
    ) -> None:
        """Puts what is staged in the place of what an image holds, if that is still the same."""
        self.files.rename(folder / f"data.{label.format}", folder / label.data_name)
        self.layout.write_label(folder, label)
        work.crash(crash_points.BEFORE_RENAME)
        with self.unchanged(image_id, before):
            self.refuse_read(image_id)
            self.refuse_foreign(image_id)  # the whole of what the image was is purged
            self._exchange(image_id, folder, label)
        work.crash(crash_points.AFTER_RENAME)
        self.finish_replacing(work, image_id, label)

    def put_label(
        self,
        work: Work,
        image_id: str,
        folder: Path,
        *,
        before: Label,
        label: Label,
        first: Callable[[], None],
    ) -> None:
        """Puts a label in the place of an image's, with all that the image holds by then."""
        work.crash(crash_points.BEFORE_RENAME)
        with self.unchanged(image_id, before):
            first()
            self._hold(self.layout.image(image_id), folder)
            self.layout.write_label(folder, label)
            self._exchange(image_id, folder, label)
        work.crash(crash_points.AFTER_RENAME)
        self.finish_replacing(work, image_id, label)

    def _exchange(self, image_id: str, folder: Path, label: Label) -> None:
        """Exchanges a staged subvolume and an image; an OSError means for certain that it did not.

        What the image was before is then what is staged, and purged as that.
        """
        self.certainly(
            image_id,
            partial(subvolumes.exchange, folder, self.layout.image(image_id)),
            lambda: self.layout.label(image_id) == label,
        )

    def finish_replacing(self, work: Work, image_id: str, label: Label) -> None:
        """Makes sure that an exchange lasts; purges what the image was before."""
        try:
            self.flush_folders()
        except OSError as error:
            raise OutcomeUnknown(self.error(error, image_id)) from error
        super().finish_replacing(work, image_id, label)
        self.settle(self.layout.image(image_id))


def _check(pool: PoolConfig) -> None:
    flag(pool, NO_COW)
    if pool.shared:
        raise ConfigInvalid("shared: a btrfs is mounted by one host only; leave it out")


def _refuse_qcow2(pool: PoolConfig, layout: Layout) -> None:
    """Raises if a pool holds images that are not raw: the `file` driver has made them."""
    found: list[str] = []
    for name in filter(names.is_id, layout.files.list_folder(layout.images)):
        with suppress(CountermandError):  # the survey tells of those that cannot be read
            if layout.label(name).format is not Format.RAW:
                found.append(name)
    if found:
        told = ", ".join(found[:TOLD_MAX]) + (" …" if found[TOLD_MAX:] else "")
        raise ConfigInvalid(
            f"pool {pool.pool_id} at {pool.path} holds {len(found)} qcow2 images ({told}), and"
            " driver btrfs keeps raw ones: serve it with driver=file, and copy them to raw first"
        )


def _open(pool: PoolConfig, identity: str) -> FileDriver:
    if not subvolumes.is_btrfs(pool.path):
        raise ConfigInvalid(
            f"pool {pool.pool_id} at {pool.path}: driver btrfs needs a folder on btrfs; is it"
            " mounted? Any other file system is served by driver file"
        )
    _refuse_qcow2(pool, Layout(pool.pool_id, pool.path, RealFiles()))
    files = RealFiles(journals_beside=pool.journals_beside)
    staging = SubvolumeStaging(pool, files, identity)
    return FileDriver(pool, staging.files, staging=staging, formats=(Format.RAW,))


BTRFS = FolderType(verbs=VERBS, options=OPTIONS, checking=_check, opening=_open)
