"""What is asked of the owners of external tasks, as the services see it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from coordinator.runtime.ports import ProgressRecord
from coordinator.saga.spec import TaskSpec, owner_of
from coordinator.saga.states import BEING_COMPENSATED, UNSETTLED, AttemptState, TaskState
from coordinator.saga.workflow import Attempt, Workflow

Key = tuple[str, int, int]  # an attempt: workflow id, index of its task, number

# Nothing was heard for too long: of work under way, of what is to be made up for.
SILENT = frozenset({TaskState.UNKNOWN, TaskState.COMPENSATION_BLOCKED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """One attempt that waits for its owner, as committed."""

    workflow_id: str
    index: int  # of its task
    owner: str
    name: str
    spec: TaskSpec
    state: TaskState
    attempt: Attempt

    @property
    def key(self) -> Key:
        """Returns the attempt as progress is kept by it."""
        return self.workflow_id, self.index, self.attempt.number

    @property
    def accepted(self) -> bool:
        """Returns whether its owner has taken it on, and may be at work."""
        return self.attempt.start_time is not None

    @property
    def silent(self) -> bool:
        """Returns whether nothing was heard of it for too long."""
        return self.state in SILENT

    @property
    def checklist(self) -> str:
        """Returns by what people make up for it, if that is what is asked: of its owner nothing."""
        external = self.spec.external
        return external.checklist if external and self.state in BEING_COMPENSATED else ""


def waits_for(workflow: Workflow, index: int) -> str:
    """Returns the owner whom the last attempt of a task waits for; empty if it waits for none."""
    task = workflow.task(index)
    if workflow.settled or not task.attempts or task.state not in UNSETTLED:
        return ""
    return owner_of(task.last.host) if task.last.open else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one owner stands."""

    owner: str
    waiting: int
    unaccepted: int
    silent: int
    oldest_time: datetime | None  # of what waits, when it was asked for
    watching: bool


class Owners(Protocol):
    """What waits for the owners of external tasks."""

    def waiting(self, name: str) -> Waiting | None:
        """Returns an attempt that waits for its owner."""

    def page(self, owner: str, *, after: int, limit: int) -> Sequence[Waiting]:
        """Returns what waits for an owner, the oldest first, from after an intent on."""

    def count(self, owner: str) -> int:
        """Returns how much waits for an owner."""

    def standings(self, *, after: str, limit: int) -> Sequence[Standing]:
        """Returns how owners stand, in order of their ids, from after one on."""

    def watch(self, owner: str) -> AsyncGenerator[Sequence[str]]:
        """Yields names: first of everything that waits, then of what changes; or none for long.

        Whoever reads it closes it, or it would be told of changes for as long as we live.
        """

    def heard(self, name: str) -> AttemptState | None:
        """Hears a sign of life of an attempt; returns where it is, None if it waits for nobody."""

    def progress(self, key: Key) -> ProgressRecord | None:
        """Returns the last progress that was reported of an attempt."""

    async def report(self, record: ProgressRecord) -> ProgressRecord:
        """Keeps a report, and returns what is known once that is durable.

        Raises:
            StoreError: It could not be written.
        """
