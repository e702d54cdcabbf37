"""Where attempts work in a pool: filled under a private name, then published by one rename.

Whatever goes wrong before the rename is swept; after it the image is there, with its owner tag.
Removing is the same backwards: renamed out of sight first, purged after. What an image holds is
replaced by renaming its label, once the data file that the new one names lies beside the old.

Every effect is a rename out of an attempt's own folder, or into it: `fencing` puts a file in its
place, and none happens any more. Whatever changes an image in place must for that reason
write its new label into its own folder and take it from there through `replace` or `put_label`,
and do before that only what can be taken back by whoever does not find the label.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from agent import crash_points
from agent.drivers.driver import Format, Made, OutcomeUnknown, PoolConfig, Step, Steps, Work
from agent.drivers.failing import FULL
from agent.drivers.files import Files
from agent.drivers.label import AT, Label, data_names
from agent.drivers.layout import LABEL, LABEL_BYTES_MAX, MARK, Layout
from agent.drivers.refusing import Refusing
from agent.drivers.room import Room
from countermand.rpc import names
from countermand.rpc.errors import CountermandError

log = logging.getLogger(__name__)

_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}


# Fills an attempt's folder and returns the label to publish it with.
Fill = Callable[[Path], Steps[Label]]


class Staging:
    """The staging folders of one pool; used from several threads."""

    def __init__(
        self, config: PoolConfig, files: Files, identity: str, layout: Layout | None = None
    ) -> None:
        """Makes the pool's folders where they are missing, and counts what is in use.

        A driver whose data lies elsewhere brings a layout that purges it along.
        """
        self.config = config
        self.identity = identity
        self.files = files
        self.layout = layout or Layout(config.pool_id, config.path, files)
        refusing = Refusing(self.layout, identity)
        self.need_pool = refusing.need_pool
        self.expect = refusing.expect
        self.refuse_taken = refusing.refuse_taken
        self.refuse_read = refusing.refuse_read
        self.refuse_foreign = refusing.refuse_foreign
        self.in_use = refusing.in_use
        self.changed = refusing.changed
        self.fenced = refusing.fenced
        self.looking = refusing.looking
        self.working = refusing.working
        self.translating = refusing.translating
        self.error = refusing.error
        files.tune(config.path, sample=config.path / MARK if config.read_only else None)
        self.room = Room(
            quota_bytes=config.quota_bytes,
            bandwidth_bytes_per_s=config.bandwidth_bytes_per_s,
            storage_free=lambda: files.space(config.path).free_bytes,
        )
        # Held while a name appears or goes, so that no overlay appears on an image that goes, and
        # while an image's content is replaced.
        self._names = threading.Lock()
        if not config.read_only:
            self.layout.make()
        for name in files.list_folder(self.layout.images):
            self.settle(self.layout.images / name)
        for attempt in self.layout.attempts_staged():
            self.settle(self.layout.staged(attempt))

    def make(
        self, work: Work, image_id: str, fill: Fill, *, resumable: bool = False
    ) -> Steps[Made]:
        """Fills a staging folder and publishes it; sweeps it when that fails.

        A snapshot is made just so, under its own name.
        """
        folder = self.layout.staged(work.attempt)
        with self.working(work, image_id):
            try:
                with self.looking(work, image_id):
                    self.need_pool()
                    label = self.layout.owner(image_id)
                if label is not None and self.is_of(label, work, work.attempt):
                    # An earlier life did it and could not say so, perhaps not even flush it.
                    self._flush_names(image_id)
                    self.tidy(work.attempt)
                    return made(image_id, label)
                self.refuse_taken(image_id)
                yield Step()
                self.begin(work, resumable=resumable)
                label = yield from fill(folder)
                yield Step(last=True)
                self._publish(work, image_id, folder, label)
            except OutcomeUnknown:
                raise
            except Exception:
                self.discard(work.attempt)
                raise
            return made(image_id, label)

    def begin(self, work: Work, *, resumable: bool) -> Path:
        """Returns an attempt's folder, as an earlier life left it only if the work can go on."""
        folder = self.layout.staged(work.attempt)
        if not (resumable and work.note):
            self.discard(work.attempt)
        self._make_own(work.attempt)
        self.files.flush_folder(self.layout.staging)
        self.settle(folder)
        return folder

    def _make_own(self, attempt: str) -> None:
        """Makes an attempt's own folder and the one inside it; on a fence it fails."""
        self.files.make_folder(self.layout.own(attempt))
        self.make_staged(self.layout.staged(attempt))

    def make_staged(self, folder: Path) -> None:
        """Makes the folder that an attempt fills, and that is the image's afterwards."""
        self.files.make_folder(folder)

    def share(self, path: Path, target: Path) -> bool:
        """Makes a staged file that shares the data of another; False where none can."""
        with self.reading(path) as reader, self.writing(target) as writer:
            shares = self.files.share(reader, writer)
            self.files.flush(writer)
        if not shares:
            self.files.remove_file(target)
        return shares

    def _publish(self, work: Work, image_id: str, folder: Path, label: Label) -> None:
        target = self.layout.image(image_id)
        self.layout.write_label(folder, label)
        work.crash(crash_points.BEFORE_RENAME)
        with self._names:
            self.need_pool()
            if label.backing:  # it may have gone or been reverted since it was looked at
                self._need_backing(folder, label)
            if AT in image_id:
                self.layout.label(image_id.partition(AT)[0])  # likewise
            try:
                self._rename(image_id, folder, target, label=label)
            except OSError as error:
                if error.errno in _TAKEN:
                    self.refuse_taken(image_id)
                raise
        work.crash(crash_points.AFTER_RENAME)
        self._flush_names(image_id)
        self.room.move(self.layout.account(folder), self.layout.account(target))
        try:
            self.settle(target)
        except OSError:  # only the account is off, until the next start: the image is there
            log.exception("pool.account_failed", extra={"pool": self.config.pool_id})
        self.tidy(work.attempt)

    def _need_backing(self, folder: Path, label: Label) -> None:
        """Raises unless what is staged reads through its backing image as that is now."""
        if not self.layout.reads_through(folder / f"data.{label.format}", label.backing):
            raise self.changed(label.backing)

    def replace(
        self, work: Work, image_id: str, folder: Path, *, before: Label, label: Label
    ) -> None:
        """Puts what is staged in the place of what an image holds, if that is still the same.

        Of several hosts that do so at once the last one's rename counts; nothing is ever mixed.
        """
        image = self.layout.image(image_id)

        def bring() -> None:
            self.refuse_read(image_id)
            if label.backing and label.below is None:
                self._need_backing(folder, label)
            staged = folder / f"data.{label.format}"
            self.take_rights(staged, image / before.data_name)
            # No label names it, so nobody sees it until the next rename.
            self.files.rename(staged, image / label.data_name)
            self.files.flush_folder(image)
            work.crash(crash_points.IN_REVERT)

        self.put_label(work, image_id, folder, before=before, label=label, first=bring)

    def take_rights(self, path: Path, before: Path) -> None:
        """Lets those use a file who may use the one that it takes the place of."""
        if self.files.stat(before) is not None:
            self.files.take_rights(path, before)

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
        """Puts a label in the place of an image's, if that is still the same.

        What must be there by then `first` does: it is called with all names held, and again by
        whoever tries again.
        """
        if len(label.encode()) > LABEL_BYTES_MAX:
            raise self.layout.unsafe(image_id, "its label is full: delete snapshots of it")
        self.layout.write_label(folder, label)
        work.crash(crash_points.BEFORE_RENAME)
        with self.unchanged(image_id, before):
            first()
            target = self.layout.image(image_id) / LABEL
            self._rename(image_id, folder / LABEL, target, label=label)
        work.crash(crash_points.AFTER_RENAME)
        self.finish_replacing(work, image_id, label)

    @contextmanager
    def unchanged(self, image_id: str, label: Label) -> Iterator[None]:
        """Holds all names while an image has this label; raises if it has another."""
        with self._names:
            self.need_pool()
            if self.layout.label(image_id) != label:
                raise self.changed(image_id)
            yield

    def finish_replacing(self, work: Work, image_id: str, label: Label) -> None:
        """Makes sure that what replaced an image's content lasts; purges what was before."""
        try:
            self.files.flush_folder(self.layout.image(image_id))
        except OSError as error:
            raise OutcomeUnknown(self.error(error, image_id)) from error
        try:
            self.purge_data(image_id, label.replaced)
        except (OSError, CountermandError):  # nobody sees it; it takes room until the image goes
            log.exception("image.purge_failed", extra={"image": image_id})
        self.tidy(work.attempt)

    def purge_data(self, image_id: str, content: str) -> None:
        """Removes a data file of an image, unless its label names it."""
        with self._names:
            label = self.layout.owner(image_id)
            if label is None or content in label.contents:
                return
            folder = self.layout.image(image_id)
            for name in data_names(content):
                self.files.remove_file(folder / name)
            self.settle(folder)

    def _rename(
        self,
        image_id: str,
        source: Path,
        target: Path,
        *,
        label: Label | None = None,
    ) -> None:
        """Renames something; an OSError means for certain that it did not move.

        With a label, so that it is the image's from then on.
        """

        def has_moved() -> bool:
            gone = self.files.stat(source) is None
            # Or a fence has taken it away.
            return gone and (label is None or self.layout.owner(image_id) == label)

        self.certainly(image_id, partial(self.files.rename, source, target), has_moved)

    def certainly(
        self, image_id: str, effect: Callable[[], None], has_happened: Callable[[], bool]
    ) -> None:
        """Makes an effect that may fail and yet happen; an OSError says for certain it did not."""
        try:
            effect()
        except OSError as error:
            try:
                happened = has_happened()
            except (OSError, CountermandError):
                happened = True  # who can tell
            if happened:
                raise OutcomeUnknown(self.error(error, image_id)) from error
            raise

    def _flush_names(self, image_id: str) -> None:
        try:
            self.flush_folders()
        except OSError as error:
            # It can be seen, and may be gone after a power cut: neither outcome is certain.
            raise OutcomeUnknown(self.error(error, image_id)) from error

    def flush_folders(self) -> None:
        """Returns once every rename so far would survive a power cut."""
        self.files.flush_folder(self.layout.images)
        self.files.flush_folder(self.layout.staging)

    def take_away(self, image_id: str, *, attempt: str) -> None:
        """Renames an image out of sight, durably, into an attempt's folder to be purged."""
        self._take_into(image_id, self.layout.own(attempt), attempt)

    def take_back(self, image_id: str, *, made_by: str) -> None:
        """Renames what an attempt made out of sight, durably, to be purged.

        Into its own folder again, so that whoever tries next finds what is left of it; beside its
        fence, where one came too late to keep its effect out.
        """
        if not self.layout.is_fenced(made_by):
            self.take_away(image_id, attempt=made_by)
            return
        self._take_into(image_id, self.layout.aside(made_by), made_by)

    def _take_into(self, image_id: str, parent: Path, attempt: str) -> None:
        folder, staged = self.layout.image(image_id), parent / self.layout.staged(attempt).name
        with self._names:
            self.refuse_read(image_id)
            if snapshots := self.layout.snapshots(image_id):
                raise self.in_use(image_id, snapshots)
            self.refuse_foreign(image_id)
            target = self._place_for(staged, parent)
            try:
                self._rename(image_id, folder, target)
            except OSError:
                self.tidy(attempt)
                raise
        self.room.move(self.layout.account(folder), self.layout.account(staged))
        self._flush_names(image_id)

    def _place_for(self, staged: Path, parent: Path) -> Path:
        """Returns where something goes to be purged; where a pool is full no folder can be made.

        What gives room back must need none: it then goes into the place of its parent.
        """
        try:
            self.files.make_folder(parent)
        except OSError as error:
            if error.errno not in FULL:
                raise
            return parent
        return staged

    def tidy(self, attempt: str) -> None:
        """Removes what is left of an attempt's folder after its effect, if it can."""
        try:
            self.discard(attempt)
        except OSError:  # nobody sees it; the next start sweeps it
            log.exception("staging.tidy_failed", extra={"attempt": attempt})

    def purge(self, image_id: str, *, attempt: str) -> None:
        """Removes what was taken away: the image has gone, whatever happens here."""
        try:
            self.discard(attempt)
        except OSError as error:
            if self.layout.is_fenced(attempt):
                return  # whoever fenced it purges it
            raise OutcomeUnknown(self.error(error, image_id)) from error

    def label(self, work: Work, image_format: Format, size_bytes: int) -> Label:
        """Returns the label of what an attempt makes."""
        is_attempt = names.parse_attempt(work.attempt) is not None
        return Label(
            cluster_id=work.cluster_id,
            attempt=work.attempt if is_attempt else "",
            create_time=work.now().isoformat(),
            format=image_format,
            virtual_size_bytes=size_bytes,
            written_bytes=0,
        )

    def is_of(self, label: Label, work: Work, attempt: str) -> bool:
        """Returns whether exactly that attempt of the same cluster made an image."""
        return label.attempt == attempt and label.cluster_id == work.cluster_id

    def discard(self, attempt: str) -> None:
        """Removes what an attempt has half made; nothing is fine, and a fence stays."""
        self.layout.purge(self.layout.own(attempt))
        self.layout.purge(self.layout.aside(attempt))
        self.room.settle(self.layout.account(self.layout.staged(attempt)), 0)

    def empty(self, folder: Path) -> None:
        """Removes what an earlier life left in an attempt's folder."""
        for name in self.files.list_folder(folder):
            self.files.remove_file(folder / name)
        self.settle(folder)

    def settle(self, folder: Path) -> None:
        """Corrects the account by what a folder really takes."""
        self.room.settle(self.layout.account(folder), self.layout.allocated_bytes(folder))

    @contextmanager
    def reading(self, path: Path) -> Iterator[int]:
        """Opens a file to read."""
        handle = self.files.open_to_read(path)
        try:
            yield handle
        finally:
            self.files.close(handle)

    @contextmanager
    def writing(self, path: Path) -> Iterator[int]:
        """Opens a file to write, making it if it is not there."""
        handle = self.files.open_to_write(path)
        try:
            yield handle
        finally:
            self.files.close(handle)


def made(image_id: str, label: Label) -> Made:
    """Returns what a label says was made."""
    return Made(
        image_id=image_id,
        virtual_size_bytes=label.virtual_size_bytes,
        written_bytes=label.written_bytes,
        generation=label.generation,
        digest=label.digest,
        shared=label.shared,
    )
