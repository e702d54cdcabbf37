"""How images go from a pool of the `file` driver: out of sight first, purged after."""

from __future__ import annotations

from agent import crash_points
from agent.drivers.driver import Step, Steps, Work
from agent.drivers.staging import Staging
from countermand.rpc.errors import ImageNotFound, SnapshotNotFound


class Removing:
    """Removes images, and snapshots that are folders of their own, by their names."""

    def __init__(self, staging: Staging) -> None:
        """Works in the pool's staging folders."""
        self._staging = staging
        self._layout = staging.layout

    def delete(
        self,
        work: Work,
        image_id: str,
        *,
        expected_generation: int = 0,
    ) -> Steps[bool]:
        """Removes an image, or a snapshot by its name; returns whether it was there."""
        with self._staging.working(work, image_id):
            try:
                with self._staging.looking(work, image_id):
                    self._staging.need_pool()
                    self._staging.discard(work.attempt)
                    label = self._layout.label(image_id)
            except (ImageNotFound, SnapshotNotFound):
                with self._staging.looking(work, image_id):
                    self._staging.need_pool()  # it may have gone since
                if work.note:  # an earlier life may not have come to flush it
                    with self._staging.looking(work, image_id):
                        self._staging.flush_folders()
                return bool(work.note)
            life = f"{label.attempt} {label.create_time}"
            if work.note and work.note != life:
                return True  # another image has the name by now: ours has gone
            self._staging.expect(image_id, label, expected_generation)
            yield Step(note=life, note_needed=True)
            yield Step(last=True)
            self._staging.take_away(image_id, attempt=work.attempt)
            self._staging.purge(image_id, attempt=work.attempt)
            return True

    def make_up_for(self, work: Work, image_id: str, *, made_by: str) -> Steps[bool]:
        """Removes what exactly that attempt made, half-made things too; returns whether any."""
        with self._staging.translating(image_id):
            self._staging.need_pool()
            begun = made_by in self._layout.attempts_staged()
            self._staging.discard(made_by)
            work.crash(crash_points.IN_COMPENSATION)
            yield Step()
            label = self._layout.owner(image_id)
            if label is None or not self._staging.is_of(label, work, made_by):
                self._staging.need_pool()  # it may have gone since
                self._staging.flush_folders()  # an earlier life may not have come to it
                return begun  # somebody else's image, or none
            self._staging.take_back(image_id, made_by=made_by)
            work.crash(crash_points.IN_COMPENSATION)
            self._staging.purge(image_id, attempt=made_by)
            return True
