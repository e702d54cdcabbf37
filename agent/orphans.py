"""Surveys pools, and removes from them what belongs to nothing any more, for whoever compares.

Removing is what makes up for an attempt, told to the driver once more: it takes away what exactly
that attempt made, and nothing else. What an open attempt of this host works on is kept.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from agent.drivers.driver import (
    Driver,
    Fences,
    Oddity,
    OutcomeUnknown,
    Snapshots,
    Steps,
    Surveys,
    Work,
)
from agent.lookers import CallGuard, Lookers
from agent.running import Running
from agent.verbs import catalogue
from agent.wire import action_of
from countermand.rpc import crash
from countermand.rpc.errors import (
    Conflict,
    CountermandError,
    ImageBusy,
    ImageNotFound,
    SnapshotNotFound,
    StorageFailed,
    VerbUnsupported,
)
from countermand.v1.agent_pb2 import Orphan

AT = "@"  # between an image's id and its snapshot's


@dataclass(slots=True)
class Removal:
    """What became of a request to remove."""

    removed: int = 0
    kept: list[tuple[str, CountermandError]] = field(default_factory=list)


class Orphans:
    """Looks after the pools of one agent, beside its attempts."""

    def __init__(
        self,
        *,
        lookers: Lookers,
        running: Mapping[str, Running],
        now: Callable[[], datetime],
    ) -> None:
        """Sees what is running as it changes."""
        self._lookers = lookers
        self._running = running
        self._now = now

    async def survey(self, driver: Driver) -> Sequence[Oddity]:
        """Returns what is in a pool and is no image; nothing where its driver cannot tell."""
        if not isinstance(driver, Surveys):
            return ()
        return await self._lookers.look(driver, driver.survey)

    def in_use(self, attempt: str) -> bool:
        """Returns whether an open attempt of this host works in the staging of one."""
        return any(
            attempt in {running.record.name, running.record.compensates}
            for running in self._running.values()
        )

    async def remove(
        self, driver: Driver, *, cluster_id: str, staged: Sequence[str], images: Sequence[Orphan]
    ) -> Removal:
        """Removes what is still as it was seen."""
        removal = Removal()
        for attempt in staged:
            if self.in_use(attempt):
                removal.kept.append((attempt, self._busy(driver, attempt, attempt)))
                continue
            # Whoever begins meanwhile finds its staging gone, fails, and leaves nothing.
            try:
                await self._lookers.look(driver, partial(_remove_staged, driver, attempt))
            except (OSError, CountermandError) as error:
                removal.kept.append((attempt, _said(driver, attempt, error)))
            else:
                removal.removed += 1
        for orphan in images:
            if holder := self._holder(driver, orphan.image_id):
                busy = self._busy(driver, orphan.image_id, holder)
                removal.kept.append((orphan.image_id, busy))
                continue
            work = Work(
                attempt=orphan.attempt,
                cluster_id=cluster_id,
                note="",
                now=self._now,
                crash=crash.never,
            )
            try:
                await self._lookers.drive(driver, _remove_image(driver, work, orphan), CallGuard())
            except (OSError, CountermandError) as error:
                removal.kept.append((orphan.image_id, _said(driver, orphan.image_id, error)))
            except OutcomeUnknown as unknown:
                removal.kept.append((orphan.image_id, unknown.cause))
            else:
                removal.removed += 1
        return removal

    def _holder(self, driver: Driver, name: str) -> str:
        """Returns an open attempt that names an image; empty if none does."""
        image_id = name.partition(AT)[0]
        for running in self._running.values():
            for _, address in catalogue.addresses(action_of(running.record)):
                if (address.pool_id, address.image_id) == (driver.config.pool_id, image_id):
                    return running.record.name
        return ""

    def _busy(self, driver: Driver, name: str, holder: str) -> ImageBusy:
        return ImageBusy(image=name, pool=driver.config.pool_id, holder=holder)


def _said(driver: Driver, name: str, error: Exception) -> CountermandError:
    """Returns our error for one of the storage's."""
    if isinstance(error, CountermandError):
        return error
    told = errno.errorcode.get(getattr(error, "errno", None) or 0, str(error))
    return StorageFailed(pool=driver.config.pool_id, error=told, image=name)


def _remove_staged(driver: Driver, attempt: str) -> None:
    driver.discard(attempt)
    if isinstance(driver, Fences):
        driver.remove_fence(attempt)


def _remove_image(driver: Driver, work: Work, orphan: Orphan) -> Steps[None]:
    image_id, at, snapshot_id = orphan.image_id.partition(AT)
    if orphan.expected_generation and not _is_as_seen(driver, image_id, orphan):
        raise Conflict(name=f"the generation of {orphan.image_id} in pool {driver.config.pool_id}")
    if not at:
        gone = yield from driver.make_up_for(work, image_id, made_by=orphan.attempt)
    elif isinstance(driver, Snapshots):
        gone = yield from driver.make_up_for_snapshot(
            work, image_id, snapshot_id, made_by=orphan.attempt
        )
    else:
        why = "its driver knows no snapshots"
        raise VerbUnsupported(pool=driver.config.pool_id, verb="delete_snapshot", why=why)
    if not gone and _is_there(driver, image_id, snapshot_id):
        name = f"the owner of {orphan.image_id} in pool {driver.config.pool_id}"
        raise Conflict(name=name)


def _is_as_seen(driver: Driver, image_id: str, orphan: Orphan) -> bool:
    """Returns whether nobody has changed an image since it was seen, or it is gone."""
    try:
        found = driver.find(image_id)
    except ImageNotFound:
        return True
    return found.generation == orphan.expected_generation


def _is_there(driver: Driver, image_id: str, snapshot_id: str) -> bool:
    try:
        found = driver.find(image_id)
    except (ImageNotFound, SnapshotNotFound):
        return False
    return not snapshot_id or snapshot_id in {s.snapshot_id for s in found.snapshots}
