"""How images and snapshots behind a plug-in go: out of sight first, then out of the plug-in.

What the plug-in keeps, since others need it, comes back into sight.
"""

from __future__ import annotations

from agent import crash_points
from agent.drivers import fencing
from agent.drivers.csi.plugin import NotSettled
from agent.drivers.csi.pool import CsiPool
from agent.drivers.csi.records import Record
from agent.drivers.driver import OutcomeUnknown, SnapshotGone, Step, Steps, Work
from agent.drivers.label import snapshot_name
from countermand.rpc.errors import ImageInUse, ImageNotFound, ImageUnsafe, SnapshotNotFound


class Removing:
    """Removes images, snapshots, and what is half-made, of one pool."""

    def __init__(self, pool: CsiPool) -> None:
        """Works in the pool's staging folders."""
        self._pool = pool

    def delete(self, work: Work, image_id: str, *, expected_generation: int = 0) -> Steps[bool]:
        """Removes an image, or a snapshot by its name; returns whether it was there."""
        with self._pool.staging.working(work, image_id):
            with self._pool.staging.looking(work, image_id):
                self._pool.staging.need_pool()
                if (
                    work.note
                    and self._pool.files.stat(self._pool.layout.staged(work.attempt)) is not None
                ):
                    self._purge(work, image_id)  # an earlier life took it away
                    return True
            try:
                with self._pool.staging.looking(work, image_id):
                    label, record = self._pool.image(image_id)
            except (ImageNotFound, SnapshotNotFound):
                with self._pool.staging.looking(work, image_id):
                    self._pool.staging.need_pool()  # it may have gone since
                    if work.note:  # an earlier life may not have come to flush it
                        self._pool.staging.flush_folders()
                return bool(work.note)
            life = f"{label.attempt} {label.create_time}"
            if work.note and work.note != life:
                return True  # another image has the name by now: ours has gone
            self._pool.staging.expect(image_id, label, expected_generation)
            self._refuse_needed(image_id, record)
            yield Step(note=life, note_needed=True)
            yield Step(last=True)
            self._pool.staging.take_away(image_id, attempt=work.attempt)
            work.crash(crash_points.AFTER_RENAME)
            self._purge(work, image_id)
            return True

    def _purge(self, work: Work, image_id: str) -> None:
        """Has the plug-in remove what was taken away; puts it back if others need it."""
        try:
            self._pool.staging.purge(image_id, attempt=work.attempt)
        except NotSettled as error:
            raise OutcomeUnknown(error) from error
        except ImageInUse:
            folder, image = (
                self._pool.layout.staged(work.attempt),
                self._pool.layout.image(image_id),
            )
            try:
                self._pool.files.rename(folder, image)
                self._pool.staging.flush_folders()
            except OSError as error:  # somebody has made another of that name
                raise OutcomeUnknown(self._pool.staging.error(error, image_id)) from error
            self._pool.staging.tidy(work.attempt)
            raise

    def _refuse_needed(self, image_id: str, record: Record) -> None:
        """Raises while something is being made from an image: it could not be asked for again."""
        for attempt in self._pool.layout.attempts_staged():
            try:
                staged = self._pool.records.read(self._pool.layout.staged(attempt))
            except ImageUnsafe:
                continue  # it cannot be asked for again in any case
            if staged is not None and record.id and staged.source == record.id:
                raise ImageInUse(image=image_id, pool=self._pool.config.pool_id, holder=attempt)

    def delete_snapshot(
        self, work: Work, image_id: str, snapshot_id: str, *, expected_generation: int = 0
    ) -> Steps[SnapshotGone]:
        """Removes a snapshot."""
        name = snapshot_name(image_id, snapshot_id)
        with self._pool.staging.working(work, image_id), self._pool.staging.looking(work, image_id):
            label = self._pool.layout.owner(image_id)
            if label is not None and self._pool.layout.owner(name) is not None:  # else it has gone
                self._pool.staging.expect(image_id, label, expected_generation)
        existed = yield from self.delete(work, name)
        return SnapshotGone(existed=existed, generation=label.generation if label else 0)

    def make_up_for(self, work: Work, image_id: str, *, made_by: str) -> Steps[bool]:
        """Removes what exactly that attempt made, half-made things too; returns whether any."""
        with self._pool.staging.translating(image_id):
            self._pool.staging.need_pool()
            begun = made_by in self._pool.layout.attempts_staged()
            self._pool.staging.discard(made_by)
            work.crash(crash_points.IN_COMPENSATION)
            yield Step()
            label = self._pool.layout.owner(image_id)
            if label is None or not self._pool.staging.is_of(label, work, made_by):
                self._pool.staging.need_pool()  # it may have gone since
                self._pool.staging.flush_folders()  # an earlier life may not have come to it
                return begun  # somebody else's image, or none
            self._refuse_needed(image_id, self._pool.image(image_id)[1])
            self._pool.staging.take_back(image_id, made_by=made_by)
            work.crash(crash_points.IN_COMPENSATION)
            self._pool.staging.purge(image_id, attempt=made_by)
            return True

    def make_up_for_snapshot(
        self, work: Work, image_id: str, snapshot_id: str, *, made_by: str
    ) -> Steps[bool]:
        """Removes the snapshot that exactly that attempt made; returns whether any."""
        name = snapshot_name(image_id, snapshot_id)
        return (yield from self.make_up_for(work, name, made_by=made_by))

    def staged(self) -> list[str]:
        """Returns the attempts that have something half-made in this pool."""
        self._pool.node.sweep()  # whoever sweeps asks this first
        return self._pool.layout.attempts_staged()

    def discard(self, attempt: str) -> None:
        """Removes what an attempt has half made; nothing is fine."""
        self._pool.staging.discard(attempt)

    def fence(self, attempt: str) -> None:
        """Returns once no effect of an attempt can begin or become visible; some may be there."""
        with self._pool.staging.translating("its images"):
            # Before it is kept out of anything: where it cannot be cut off, it may as well go on.
            # What it begins from here on is refused by whoever purges it.
            folder = self._pool.layout.staged(attempt)
            record = self._pool.records.read(folder)
            if record is not None:
                place = self._pool.records.place(folder)
                self._pool.node.need_to_reach(record.nodes, image=record.name, place=place)
            fencing.fence(self._pool.staging, attempt)

    def remove_fence(self, attempt: str) -> None:
        """Removes the fence of an attempt; nothing is fine."""
        with self._pool.staging.translating("its images"):
            fencing.remove_fence(self._pool.staging, attempt)
