"""What a list of changes asks of the tables: pure, and the same for every database.

Several changes of one workflow become one write of its last state, with all of its history. Only
nodes that changed are written, and of a task's attempts only those that the history of the same
changes names: whatever moves an attempt says so there, so that a task which has been retried for
years costs no more per try than a fresh one. A group has a row only while something is to be told
of it, and images are held or waited for only while their workflow is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from coordinator.runtime.ports import (
    Change,
    Request,
    StoreConflictError,
    Submission,
    UsedIdError,
)
from coordinator.saga import history
from coordinator.saga.states import SETTLED
from coordinator.saga.workflow import Group, Workflow
from coordinator.store.rows import (
    attempt_row,
    evidence_rows,
    group_row,
    label_rows,
    lock_row,
    submission_row,
    task_row,
    workflow_row,
)
from coordinator.store.texts import Row
from coordinator.wire.history import event_to_proto

# Facts after which an attempt's record is another. RetryScheduled names one that is yet to come.
_ABOUT_ATTEMPT = (
    history.TaskMoved,
    history.AttemptStarted,
    history.AttemptAccepted,
    history.AttemptEnded,
    history.FenceMoved,
    history.ReportedLate,
)


@dataclass(slots=True, kw_only=True)
class Merged:
    """All changes of one workflow in a batch, as one."""

    workflow: Workflow
    version_before: int
    history: list[history.Entry]
    changed: set[int]
    submission: Submission | None

    @property
    def takes_images(self) -> bool:
        """Returns whether it holds images from now on that it did not hold before."""
        workflow = self.workflow
        is_new = self.submission is not None
        if workflow.settled or not workflow.locked or not workflow.locks:
            return False
        return is_new or any(isinstance(e.fact, history.LocksTaken) for e in self.history)

    @property
    def settles(self) -> bool:
        """Returns whether the workflow settles by it; what is heard later is written as well."""
        moves = (entry.fact for entry in self.history)
        return any(isinstance(m, history.WorkflowMoved) and m.after in SETTLED for m in moves)

    def follow(self, change: Change) -> None:
        """Adds a change that was decided on top."""
        if change.version_before != self.workflow.version:
            raise version_conflict(change.workflow.id, change.version_before, self.workflow.version)
        self.workflow = change.workflow
        self.history.extend(change.history)
        self.changed |= change.changed


@dataclass(slots=True, kw_only=True)
class Batch:
    """The rows of one transaction, by statement."""

    new_workflows: list[Row] = field(default_factory=list)
    new_submissions: list[Row] = field(default_factory=list)
    new_labels: list[Row] = field(default_factory=list)
    workflows: list[Row] = field(default_factory=list)
    new_tasks: list[Row] = field(default_factory=list)
    tasks: list[Row] = field(default_factory=list)
    placed: list[Row] = field(default_factory=list)  # tasks whose host is another
    old_groups: list[Row] = field(default_factory=list)
    groups: list[Row] = field(default_factory=list)
    old_locks: list[Row] = field(default_factory=list)
    new_locks: list[Row] = field(default_factory=list)
    locks: list[Row] = field(default_factory=list)
    new_attempts: list[Row] = field(default_factory=list)
    attempts: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    requests: list[Row] = field(default_factory=list)
    evidence: list[Row] = field(default_factory=list)
    next_intent: int = 0
    last_intent: int = 0  # instead, where intents are taken in advance


def merge(changes: Iterable[Change]) -> dict[str, Merged]:
    """Returns one change for each workflow, in the order of their first.

    Raises StoreConflictError when the changes contradict each other.
    """
    merged: dict[str, Merged] = {}
    requested: set[str] = set()
    for change in changes:
        if change.request is not None:
            if change.request.request_id in requested:
                raise request_conflict(change.request)
            requested.add(change.request.request_id)
        assert change.workflow.version == change.version_before + 1, change.workflow.id
        if earlier := merged.get(change.workflow.id):
            earlier.follow(change)
            continue
        assert (change.version_before == 0) == (change.submission is not None), change.workflow.id
        merged[change.workflow.id] = Merged(
            workflow=change.workflow,
            version_before=change.version_before,
            history=list(change.history),
            changed=set(change.changed),
            submission=change.submission,
        )
    return merged


def batch_of(
    merged: Iterable[Merged],
    changes: Sequence[Change],
    key_of: Callable[[str], int],
    session: int = 0,
) -> Batch:
    """Returns the rows to write; `key_of` knows the number of each workflow, old or new.

    The session is the one that owns them all; 0 where nobody else could.
    """
    batch = Batch()
    for each in merged:
        key = key_of(each.workflow.id)
        _add_workflow(batch, each, key, session)
        _add_groups(batch, each, key)
        _add_locks(batch, each, key)
        _add_attempts(batch, each, key)
        if each.settles:
            batch.evidence.extend(evidence_rows(each.workflow))
        for entry in each.history:
            event = event_to_proto(each.workflow.id, each.workflow.plan, entry)
            payload = event.SerializeToString()
            batch.events.append(
                {"workflow_key": key, "sequence": entry.sequence, "payload": payload}
            )
    for change in changes:
        if change.request is not None:
            batch.requests.append(
                {
                    "request_id": change.request.request_id,
                    "hash": change.request.hash,
                    "workflow_key": key_of(change.workflow.id),
                },
            )
    return batch


def _add_workflow(batch: Batch, each: Merged, key: int, session: int) -> None:
    """Adds the workflow's own row and those of its leaves."""
    workflow = each.workflow
    row = {**workflow_row(workflow, key), "session": session}
    if each.submission is None:
        batch.workflows.append({**row, "version_before": each.version_before})
        added = {e.task for e in each.history if isinstance(e.fact, history.TaskAdded)}
        for index in sorted(each.changed):
            if not isinstance(workflow.nodes[index], Group):
                rows = batch.new_tasks if index in added else batch.tasks
                rows.append(task_row(workflow, index, key))
        return
    batch.new_workflows.append(row)
    batch.new_submissions.append(submission_row(each.submission, workflow.about, key))
    batch.new_labels.extend(label_rows(workflow.about, key))
    batch.new_tasks.extend(task_row(workflow, index, key) for index, _ in workflow.tasks())


def _add_groups(batch: Batch, each: Merged, key: int) -> None:
    """Adds groups of which something is to be told; those of which nothing is lose their row."""
    is_new = each.submission is not None
    nodes = each.workflow.nodes
    for index in range(len(nodes)) if is_new else sorted(each.changed):
        group = nodes[index]
        if not isinstance(group, Group):
            continue
        if not is_new:
            batch.old_groups.append({"workflow_key": key, "node_index": index})
        if group.remarkable:
            batch.groups.append(group_row(group, index, key))


def _add_locks(batch: Batch, each: Merged, key: int) -> None:
    """Adds images that a workflow asked for, was granted, or releases by being settled.

    Of one that was given further images, some of which it may have shared before, all are written.
    """
    workflow = each.workflow
    locks = workflow.locks
    if workflow.settled:
        if each.submission is None and locks:
            batch.old_locks.append({"workflow_key": key})
    elif each.submission is not None:
        batch.new_locks.extend(lock_row(lock, key, held=workflow.locked) for lock in locks)
    elif any(isinstance(entry.fact, history.LocksTaken) for entry in each.history):
        taken = [lock_row(lock, key, held=True) for lock in locks]
        if workflow.more_locks:
            batch.old_locks.append({"workflow_key": key})
            batch.new_locks.extend(taken)
        else:
            batch.locks.extend(taken)


def _add_attempts(batch: Batch, each: Merged, key: int) -> None:
    """Adds the attempts that are new or differ."""
    started: set[tuple[int, int]] = set()
    named: dict[tuple[int, int], None] = {}  # a set that keeps its order
    for entry in each.history:
        fact = entry.fact
        if isinstance(fact, _ABOUT_ATTEMPT) and fact.attempt and entry.task in each.changed:
            named[entry.task, fact.attempt] = None
            if isinstance(fact, history.AttemptStarted):
                started.add((entry.task, fact.attempt))
    for index, number in named:
        attempts = each.workflow.task(index).attempts
        row = attempt_row(attempts[number - 1], index, key)
        if (index, number) in started:
            batch.new_attempts.append(row)
            batch.next_intent = max(batch.next_intent, attempts[number - 1].intent + 1)
        else:
            batch.attempts.append(row)
    if each.submission is None:  # of a new workflow the task's own row says it
        _add_placed(batch, each.workflow, key, started)


def _add_placed(batch: Batch, workflow: Workflow, key: int, started: set[tuple[int, int]]) -> None:
    """Adds tasks that went to another host than they were known to be on.

    Most go where their spec says. Apart from the other columns of a task, because lists have an
    index on it, which would be written with every step.
    """
    moved = {
        index
        for index, number in started
        if _host_before(workflow, index, number) != workflow.task(index).attempts[number - 1].host
    }
    batch.placed.extend(
        {"workflow_key": key, "task_index": index, "host": workflow.task(index).last.host}
        for index in sorted(moved)
    )


def _host_before(workflow: Workflow, index: int, number: int) -> str:
    if number == 1:
        return workflow.plan.task(index).host
    return workflow.task(index).attempts[number - 2].host


def version_conflict(workflow_id: str, said: int, found: int) -> StoreConflictError:
    """Returns the error about a workflow that is not as the caller knew it."""
    if not said:
        return StoreConflictError(f"workflow id {workflow_id!r} is taken")
    return StoreConflictError(f"workflow {workflow_id!r} is at version {found}, not {said}")


def used_conflict(workflow_id: str) -> UsedIdError:
    """Returns the error about the id of a workflow that has been removed."""
    return UsedIdError(f"workflow id {workflow_id!r} was used before")


def request_conflict(request: Request) -> StoreConflictError:
    """Returns the error about a request that has been answered before."""
    return StoreConflictError(f"request id {request.request_id!r} is taken")
