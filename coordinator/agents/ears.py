"""Whom the lines to hosts tell what they hear, and whom they ask what is known."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import AuditEvent, HostRecord, Store
from coordinator.saga.events import AttemptEvent, HostChosen
from coordinator.saga.workflow import Workflow
from countermand.v1.attempt_pb2 import Progress

log = logging.getLogger(__name__)


class FindEvidence(Protocol):
    """Finds settled workflows that a host is to forget."""

    async def __call__(self, host_id: str, *, below: int, limit: int) -> list[str]:
        """Returns those all of whose intents on that host are below a number, the oldest first."""


class ChangeRecord(Protocol):
    """Changes the record of a host as it is stored now."""

    async def __call__(
        self,
        host_id: str,
        change: Callable[[HostRecord], HostRecord],
        event: AuditEvent | None = None,
    ) -> tuple[HostRecord, bool] | None:
        """Returns it as it is then, and whether it has changed; None if there is none."""


class Guards(Protocol):
    """Hears what cannot be unless the store went back in time."""

    async def compare(self, host_id: str, *, owner_epoch: int, intent: int) -> None:
        """Raises RecoveryRequired if a host has heard of more than was given."""

    def notice(self, why: str, *, own: str = "") -> None:
        """Hears of something else that proves it; or that an own workflow is another's by now."""

    def may_be_lost(self, intent: int) -> bool:
        """Returns whether an intent is from before it went back the last time."""

    def is_from_before(self, owner_epoch: int) -> bool:
        """Returns the same of an epoch."""


class Unguarded:
    """Takes the store to be the newest."""

    async def compare(self, host_id: str, *, owner_epoch: int, intent: int) -> None:
        """Finds nothing amiss."""

    def notice(self, why: str, *, own: str = "") -> None:  # noqa: ARG002 - whosesoever
        """Says it in the log."""
        log.error("store.behind", extra={"why": why})

    def may_be_lost(self, intent: int) -> bool:  # noqa: ARG002 - of none
        """Returns that it is not."""
        return False

    def is_from_before(self, owner_epoch: int) -> bool:  # noqa: ARG002 - of none
        """Returns that it is not."""
        return False


def nobodys(_: str) -> bool:
    """Returns that a workflow is no other session's."""
    return False


async def nowhere(_: Sequence[str]) -> Collection[str]:
    """Returns that nobody else has any open."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ears:
    """Whom a line tells what it hears, and asks what is committed."""

    event: Callable[[str, AttemptEvent | HostChosen], None]  # (workflow id, fact)
    progress: Callable[[str, str, Progress], None]  # (workflow id, attempt, how far)
    record: ChangeRecord
    workflow: Callable[[str], Workflow | None]  # an open workflow as committed
    # (host id) → open workflows that have, or may have, left something there, anybody's
    open_on: Callable[[str], Awaitable[Sequence[Workflow]]]
    unsent_intent: Callable[[], Awaitable[int]]  # above every intent that may have been sent
    low_watermark: Callable[[str], int]  # (host id) → below it nothing new will be sent there
    fence_low_watermark: Callable[[], int]  # below it no attempt of any host is fenced any more
    evidence: FindEvidence
    forgotten: Callable[[str, Sequence[str]], Awaitable[None]]  # (host id, workflow ids)
    # (workflow ids) → those that are known to have settled, even if they have been removed
    settled: Callable[[Sequence[str]], Awaitable[frozenset[str]]]
    owner_epoch: Callable[[], int]  # of this life of the coordinator
    # (workflow id) → whether it may be another session's, so that those who watch it here want to
    # hear of it although nothing is ordered from here
    elsewhere: Callable[[str], bool] = nobodys
    # (workflow ids) → those that are open, whosesoever
    open_anywhere: Callable[[Sequence[str]], Awaitable[Collection[str]]] = nowhere
    guard: Guards = field(default_factory=Unguarded)


def ears_of(
    loop: Loop,
    store: Store,
    progress: Callable[[str, str, Progress], None],
    guard: Guards | None = None,
) -> Ears:
    """Returns the ears of a coordinator."""

    async def open_anywhere(workflow_ids: Sequence[str]) -> Collection[str]:
        return await store.owners_of(workflow_ids) if store.shared else ()

    def elsewhere(workflow_id: str) -> bool:
        mine = loop.workflow(workflow_id) or loop.settled(workflow_id)
        return store.shared and mine is None

    return Ears(
        event=loop.hear,
        progress=progress,
        record=store.change_host,
        workflow=loop.workflow,
        open_on=loop.open_on,
        unsent_intent=loop.unsent_intent,
        low_watermark=loop.low_watermark,
        fence_low_watermark=loop.fence_low_watermark,
        evidence=store.evidence,
        forgotten=store.forgotten,
        settled=store.settled,
        owner_epoch=lambda: loop.owner_epoch,
        elsewhere=elsewhere,
        open_anywhere=open_anywhere,
        guard=guard or Unguarded(),
    )
