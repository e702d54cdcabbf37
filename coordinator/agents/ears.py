"""Whom the lines to hosts tell what they hear, and whom they ask what is known."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import AuditEvent, Delivery, HostRecord, Store
from coordinator.saga.events import AttemptEvent, HostChosen
from coordinator.saga.workflow import Workflow
from countermand.v1.attempt_pb2 import Progress


class FindEvidence(Protocol):
    """Finds settled workflows that a host is to forget."""

    async def __call__(self, host_id: str, *, below: int, limit: int) -> list[str]:
        """Returns those all of whose intents on that host are below a number, the oldest first."""


class KeepRecord(Protocol):
    """Keeps the record of a host that has changed."""

    async def __call__(self, host: HostRecord, event: AuditEvent | None = None) -> None:
        """Makes it durable, with what was done to it, if anything was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ears:
    """Whom a line tells what it hears, and asks what is committed."""

    event: Callable[[str, AttemptEvent | HostChosen], None]  # (workflow id, fact)
    progress: Callable[[str, str, Progress], None]  # (workflow id, attempt, how far)
    record: KeepRecord
    workflow: Callable[[str], Workflow | None]  # an open workflow as committed
    # (host id) → what open workflows still ask of it
    in_flight: Callable[[str], Iterable[tuple[Workflow, Delivery]]]
    has_been_on: Callable[[str], bool]  # (host id) → whether an open workflow was there
    next_intent: Callable[[], int]  # above every intent that may have been sent
    low_watermark: Callable[[str], int]  # (host id) → below it nothing new will be sent there
    fence_low_watermark: Callable[[], int]  # below it no attempt of any host is fenced any more
    evidence: FindEvidence
    forgotten: Callable[[str, Sequence[str]], Awaitable[None]]  # (host id, workflow ids)
    # (workflow ids) → those that are known to have settled, even if they have been removed
    settled: Callable[[Sequence[str]], Awaitable[frozenset[str]]]
    owner_epoch: Callable[[], int]  # of this life of the coordinator


def ears_of(loop: Loop, store: Store, progress: Callable[[str, str, Progress], None]) -> Ears:
    """Returns the ears of a coordinator."""
    return Ears(
        event=loop.hear,
        progress=progress,
        record=store.put_host,
        workflow=loop.workflow,
        in_flight=loop.in_flight,
        has_been_on=loop.has_been_on,
        next_intent=lambda: loop.next_intent,
        low_watermark=loop.low_watermark,
        fence_low_watermark=loop.fence_low_watermark,
        evidence=store.evidence,
        forgotten=store.forgotten,
        settled=store.settled,
        owner_epoch=lambda: loop.owner_epoch,
    )
