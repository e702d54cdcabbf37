"""Which open workflows wait for somebody, and since when; which owners are silent.

Kept as it moves. Since when is known to the moment for what was seen to begin; of what was open as
the coordinator began it is read from the record, as well as that tells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from coordinator.saga.reports import OWNER_SILENT
from coordinator.saga.spec import owner_of
from coordinator.saga.states import SETTLED, AttemptState, TaskState, WorkflowState
from coordinator.saga.workflow import Task, Workflow

# Workflows in these wait for somebody, whatever their tasks are in.
WAITING_FOR_SOMEBODY = frozenset(
    {WorkflowState.PAUSED, WorkflowState.BLOCKED, WorkflowState.QUARANTINED}
)


class _Need(NamedTuple):
    """What one task waits for."""

    owner: str  # whose silence it is; empty: nobody's
    since: datetime


class Needing:
    """Workflows and tasks that wait for somebody."""

    def __init__(self) -> None:
        """Begins with none."""
        self.silent: Counter[str] = Counter()  # tasks that nobody reports on, by their owner
        self._held: dict[str, datetime] = {}  # workflows that wait by their own state
        self._tasks: dict[str, dict[int, _Need]] = {}  # by workflow and index

    @property
    def workflows(self) -> int:
        """Returns how many open workflows wait for somebody."""
        return len(self._held) + sum(1 for each in self._tasks if each not in self._held)

    @property
    def tasks(self) -> int:
        """Returns how many tasks of open workflows wait for somebody."""
        return sum(map(len, self._tasks.values()))

    @property
    def since(self) -> datetime | None:
        """Returns since when the one waits that has waited longest; None if nobody does."""
        return min(self._times(), default=None)

    def _times(self) -> Iterator[datetime]:
        yield from self._held.values()
        for needs in self._tasks.values():
            for need in needs.values():
                yield need.since

    def opened(self, workflow: Workflow) -> None:
        """Notes what an open workflow waits for, as it was found."""
        pause = workflow.pause if workflow.state is WorkflowState.PAUSED else None
        self._hold(workflow, pause.time if pause else workflow.update_time)
        for index, task in workflow.tasks():
            if task.needs_somebody:
                since = _fails_since(task) or workflow.update_time
                self._need(workflow.id, index, _Need(_silent_owner(task), since))

    def moved(self, workflow: Workflow) -> None:
        """Notes that a workflow's state has changed."""
        self._hold(workflow, workflow.update_time)
        if workflow.state in SETTLED:
            for index in tuple(self._tasks.get(workflow.id, ())):
                self._need_no_more(workflow.id, index)

    def changed(self, workflow: Workflow, changed: frozenset[int]) -> None:
        """Looks at what has changed: nobody else begins, or ceases, to need somebody."""
        needing = self._tasks.get(workflow.id, {})
        for index in changed:
            node = workflow.nodes[index]
            if type(node) is not Task:
                continue
            since = workflow.update_time
            if index in needing:
                since = needing[index].since  # it has not become newer by another failure
                self._need_no_more(workflow.id, index)
            if node.needs_somebody:
                self._need(workflow.id, index, _Need(_silent_owner(node), since))

    def _hold(self, workflow: Workflow, since: datetime) -> None:
        if workflow.state in WAITING_FOR_SOMEBODY:
            self._held[workflow.id] = since
        else:
            self._held.pop(workflow.id, None)

    def _need(self, workflow_id: str, index: int, need: _Need) -> None:
        self._tasks.setdefault(workflow_id, {})[index] = need
        if need.owner:
            self.silent[need.owner] += 1

    def _need_no_more(self, workflow_id: str, index: int) -> None:
        of_workflow = self._tasks[workflow_id]
        if owner := of_workflow.pop(index).owner:
            self.silent[owner] -= 1
            if not self.silent[owner]:
                del self.silent[owner]
        if not of_workflow:
            del self._tasks[workflow_id]


def _silent_owner(task: Task) -> str:
    """Returns which owner should say something and does not."""
    why = task.compensation_failure
    blocked = task.state is TaskState.COMPENSATION_BLOCKED
    silent = task.silent_owner or (blocked and why and why.reason == OWNER_SILENT)
    return owner_of(task.last.host) if silent else ""


def _fails_since(task: Task) -> datetime | None:
    """Returns when the first attempt ended of those that have failed in a row, if any has."""
    since: datetime | None = None
    for attempt in reversed(task.attempts):
        if attempt.open and since is None:
            continue  # it is tried again, or waited for
        if attempt.state is not AttemptState.FAILED or attempt.kind is not task.last.kind:
            break
        since = attempt.end_time
    return since
