"""Histories made by hand, for drawings: the same moments on every run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from countermand.rpc import names
from countermand.v1.attempt_pb2 import Attempt, Progress
from countermand.v1.event_pb2 import (
    AttemptEnded,
    AttemptStarted,
    HistoryEvent,
    Intervention,
    OwnerChanged,
    RetryScheduled,
    TaskStateChanged,
    WorkflowStarted,
    WorkflowStateChanged,
)
from countermand.v1.failure_pb2 import Failure
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState

NOON = datetime(2026, 3, 2, 12, 0, 0, tzinfo=UTC)
MIB = 1024 * 1024
BEING_MADE_UP_FOR = {Task.STATE_COMPENSATING, Task.STATE_COMPENSATION_BLOCKED}


class Tale:
    """Writes a history line by line, and the workflow that it leads to."""

    def __init__(self, workflow_id: str, kind: str = "add-vm-from-template") -> None:
        self.id = workflow_id
        self.events: list[HistoryEvent] = []
        self.workflow = Workflow(
            name=names.workflow_name(workflow_id),
            kind=kind,
            state=WorkflowState.WORKFLOW_STATE_RUNNING,
        )
        self.tasks: dict[str, Task] = {}

    def plant(self, task_id: str, *, parent: str = "", host: str = "", **fields) -> Task:
        """Adds a task to the tree: a copy unless told otherwise."""
        given: dict[str, Any] = {
            "kind": Task.KIND_VERB,
            "verb": "copy_image",
            "opposite": "delete the copy",
        }
        task = Task(
            name=names.task_name(self.id, task_id),
            parent=names.task_name(self.id, parent) if parent else "",
            state=Task.STATE_PENDING,
            host_id=host,
            **(given | fields),
        )
        self.tasks[task_id] = task
        return task

    def group(self, task_id: str, *, parent: str = "", kind: int = Task.KIND_PARALLEL) -> Task:
        return self.plant(task_id, parent=parent, kind=kind, verb="", opposite="")

    def say(self, at_s: float, task_id: str = "", **event) -> None:
        line = HistoryEvent(
            workflow=self.workflow.name,
            sequence=len(self.events) + 1,
            task=names.task_name(self.id, task_id) if task_id else "",
            **event,
        )
        line.time.FromDatetime(NOON + timedelta(seconds=at_s))
        self.events.append(line)

    def begin(self, at_s: float = 0.0) -> None:
        self.say(at_s, workflow_started=WorkflowStarted(kind=self.workflow.kind))

    def moves(self, at_s, state, cause: Failure | None = None) -> None:
        change = WorkflowStateChanged(before=self.workflow.state, after=state, cause=cause)
        self.workflow.state = state
        if cause:
            self.workflow.cause.CopyFrom(cause)
        self.say(at_s, workflow_state_changed=change)

    def task(self, at_s, task_id, state, waits_for="", n=0) -> None:
        change = TaskStateChanged(
            before=self.tasks[task_id].state, after=state, waits_for=waits_for, attempt=n
        )
        self.tasks[task_id].state = state
        self.say(at_s, task_id, task_state_changed=change)

    def starts(self, at_s: float, task_id: str, n: int = 1, run_s: float | None = None) -> None:
        self.task(at_s, task_id, Task.STATE_STARTING, n=n)
        task = self.tasks[task_id]
        started = AttemptStarted(
            attempt=n, kind=Attempt.KIND_ACTION, host_id=task.host_id, owner_id=task.owner_id
        )
        self.say(at_s, task_id, attempt_started=started)
        if run_s is not None:
            self.task(run_s, task_id, Task.STATE_RUNNING, n=n)

    def ends(
        self,
        at_s: float,
        task_id: str,
        outcome: str,
        *,
        n: int = 1,
        done: int = 0,
        unit: str = "bytes",
        failure: Failure | None = None,
        to: int | None = None,
    ) -> None:
        state = Attempt.State.Value(f"STATE_{outcome}")
        ended = AttemptEnded(
            attempt=n, state=state, failure=failure, progress=Progress(done=done, unit=unit)
        )
        self.say(at_s, task_id, attempt_ended=ended)
        after = to if to is not None else Task.State.Value(f"STATE_{outcome}")
        self.task(at_s, task_id, after, n=n)

    def makes_up(self, at_s: float, task_id: str, n: int = 2, compensates: int = 1) -> None:
        if self.tasks[task_id].state not in BEING_MADE_UP_FOR:
            self.task(at_s, task_id, Task.STATE_COMPENSATING, n=n)
        started = AttemptStarted(
            attempt=n,
            kind=Attempt.KIND_COMPENSATION,
            compensates=compensates,
            host_id=self.tasks[task_id].host_id,
            owner_id=self.tasks[task_id].owner_id,
        )
        self.say(at_s, task_id, attempt_started=started)

    def retry(self, at_s: float, task_id: str, n: int, failure: Failure, to: int) -> None:
        self.task(at_s, task_id, to, n=n - 1)
        self.say(at_s, task_id, retry_scheduled=RetryScheduled(attempt=n, failure=failure))

    def restart(self, at_s: float, epoch: int = 2) -> None:
        self.say(at_s, owner_changed=OwnerChanged(owner_epoch=epoch))

    def told(self) -> tuple[Workflow, list[HistoryEvent]]:
        """Returns the workflow and its history, in order of time however it was written."""
        self.events.sort(key=lambda event: event.time.ToNanoseconds())
        for sequence, event in enumerate(self.events, 1):
            event.sequence = sequence
        del self.workflow.tasks[:]
        self.workflow.tasks.extend(self.tasks.values())
        return self.workflow, self.events


def no_space(workflow_id: str, task_id: str, host: str) -> Failure:
    return Failure(
        reason="NO_SPACE",
        message=(
            "Pool fast is full: the copy needs 152 MiB, 86 MiB are left. "
            "Free space in it, or choose a larger pool."
        ),
        attempt=names.attempt_name(workflow_id, task_id, 1),
        host_id=host,
    )


def _three_copies(workflow_id: str) -> Tale:
    tale = Tale(workflow_id)
    tale.group("root", kind=Task.KIND_SEQUENCE)
    tale.group("disks", parent="root")
    for number, host in enumerate(("host-a", "host-b", "host-c"), 1):
        tale.plant(f"copy-disk-{number}", parent="disks", host=host)
    tale.begin()
    return tale


def succeeded() -> Tale:
    """Three copies in parallel, then a check of each."""
    tale = _three_copies("vm-1")
    tale.task(0.02, "disks", Task.STATE_RUNNING)
    for number, (wait_s, end_s, done) in enumerate(
        ((0.09, 3.4, 118 * MIB), (0.11, 4.6, 161 * MIB), (0.4, 4.3, 139 * MIB)), 1
    ):
        tale.starts(0.02, f"copy-disk-{number}", run_s=wait_s)
        tale.ends(end_s, f"copy-disk-{number}", "SUCCEEDED", done=done)
    tale.task(4.6, "disks", Task.STATE_SUCCEEDED)
    tale.moves(4.62, WorkflowState.WORKFLOW_STATE_SUCCEEDED)
    return tale


def compensated() -> Tale:
    """One pool fills up; a sibling has finished, one is stopped; the coordinator is killed."""
    tale = Tale("vm-2")
    tale.group("root", kind=Task.KIND_SEQUENCE)
    tale.plant(
        "create-data-disk",
        parent="root",
        host="host-a",
        verb="create_image",
        opposite="delete the image",
    )
    tale.group("disks", parent="root")
    for number, host in enumerate(("host-a", "host-b", "host-c"), 1):
        tale.plant(f"copy-disk-{number}", parent="disks", host=host)
    tale.plant("hand-over", parent="root", host="host-a", verb="noop", opposite="")
    tale.begin()
    tale.starts(0.02, "create-data-disk", run_s=0.1)
    tale.ends(0.6, "create-data-disk", "SUCCEEDED")
    for number, run_s in enumerate((0.7, 0.74, 1.1), 1):
        tale.starts(0.62, f"copy-disk-{number}", run_s=run_s)
    tale.ends(3.3, "copy-disk-1", "SUCCEEDED", done=118 * MIB)
    cause = no_space("vm-2", "copy-disk-3", "host-c")
    tale.ends(4.1, "copy-disk-3", "FAILED", done=86 * MIB, failure=cause)
    tale.moves(4.1, WorkflowState.WORKFLOW_STATE_COMPENSATING, cause)
    tale.task(4.1, "hand-over", Task.STATE_CANCELLED)
    tale.task(4.1, "copy-disk-2", Task.STATE_CANCELLING, n=1)
    tale.ends(4.45, "copy-disk-2", "CANCELLED", done=131 * MIB)
    tale.makes_up(4.46, "copy-disk-1")
    tale.restart(5.9)
    tale.ends(6.05, "copy-disk-1", "SUCCEEDED", n=2, to=Task.STATE_COMPENSATED)
    tale.makes_up(6.06, "create-data-disk")
    tale.ends(6.4, "create-data-disk", "SUCCEEDED", n=2, to=Task.STATE_COMPENSATED)
    tale.moves(6.42, WorkflowState.WORKFLOW_STATE_COMPENSATED)
    return tale


def cancelled() -> Tale:
    """Somebody stops it while one copy runs; the other, finished, is made up for."""
    tale = _three_copies("vm-4")
    tale.starts(0.02, "copy-disk-1", run_s=0.1)
    tale.starts(0.02, "copy-disk-2", run_s=0.1)
    tale.ends(2.1, "copy-disk-1", "SUCCEEDED", done=118 * MIB)
    cause = Failure(reason="CANCELLED", message="Cancelled by local: wrong template. Ask Ann.")
    tale.say(3.0, intervention=Intervention(verb="cancel", principal="local", reason="wrong"))
    tale.moves(3.0, WorkflowState.WORKFLOW_STATE_COMPENSATING, cause)
    tale.task(3.0, "copy-disk-3", Task.STATE_CANCELLED)
    tale.task(3.0, "copy-disk-2", Task.STATE_CANCELLING, n=1)
    tale.ends(3.2, "copy-disk-2", "CANCELLED", done=90 * MIB)
    tale.makes_up(3.22, "copy-disk-1")
    tale.ends(3.5, "copy-disk-1", "SUCCEEDED", n=2, to=Task.STATE_COMPENSATED)
    tale.moves(3.52, WorkflowState.WORKFLOW_STATE_COMPENSATED)
    return tale


def blocked(tries: int = 8) -> Tale:
    """What one copy left cannot be deleted: tried again and again, further and further apart."""
    tale = _three_copies("vm-5")
    for number in (1, 2, 3):
        tale.starts(0.02, f"copy-disk-{number}", run_s=0.1)
    tale.ends(3.0, "copy-disk-1", "SUCCEEDED", done=118 * MIB)
    cause = no_space("vm-5", "copy-disk-3", "host-c")
    tale.ends(4.1, "copy-disk-3", "FAILED", done=86 * MIB, failure=cause)
    tale.moves(4.1, WorkflowState.WORKFLOW_STATE_COMPENSATING, cause)
    tale.task(4.1, "copy-disk-2", Task.STATE_CANCELLING, n=1)
    tale.ends(4.3, "copy-disk-2", "CANCELLED", done=131 * MIB)
    why = Failure(reason="STORAGE_FAILED", message="Pool fast answered EIO.", retriable=True)
    at_s = 4.31
    for attempt in range(2, 2 + tries):
        is_blocked = attempt >= 6
        tale.makes_up(at_s, "copy-disk-1", n=attempt)
        state = Task.STATE_COMPENSATION_BLOCKED if is_blocked else Task.STATE_COMPENSATING
        tale.ends(at_s + 0.02, "copy-disk-1", "FAILED", n=attempt, failure=why, to=state)
        if attempt == 6:
            tale.moves(at_s + 0.02, WorkflowState.WORKFLOW_STATE_BLOCKED)
        scheduled = RetryScheduled(attempt=attempt + 1, failure=why)
        tale.say(at_s + 0.02, "copy-disk-1", retry_scheduled=scheduled)
        at_s += min(2.0 ** (attempt - 2), 30.0)
    tale.workflow.needs.add(
        task=names.task_name("vm-5", "copy-disk-1"),
        reason="COMPENSATION_BLOCKED",
        message="Its compensation has failed 5 times in a row: Pool fast answered EIO. It is tried "
        "again, slowly: mend the cause on the host.",
    )
    return tale


def paused() -> Tale:
    """A copy fails and holds the workflow; somebody runs it again and goes on without another."""
    tale = _three_copies("vm-6")
    tale.tasks["disks"].round = 2
    for number in (1, 2):
        tale.starts(0.02, f"copy-disk-{number}", run_s=0.1)
    tale.ends(2.0, "copy-disk-1", "SUCCEEDED", done=118 * MIB)
    cause = no_space("vm-6", "copy-disk-2", "host-b")
    tale.ends(3.0, "copy-disk-2", "FAILED", done=86 * MIB, failure=cause)
    tale.moves(3.0, WorkflowState.WORKFLOW_STATE_PAUSING)
    tale.moves(3.01, WorkflowState.WORKFLOW_STATE_PAUSED)
    asked = Intervention(verb="resume", principal="ann", reason="space freed")
    tale.say(6.0, intervention=asked)
    for task_id, verb in (("copy-disk-2", "rerun"), ("copy-disk-3", "skip")):
        again = Intervention(verb=verb, principal="ann", reason="space freed")
        tale.say(6.0, task_id, intervention=again)
    tale.moves(6.0, WorkflowState.WORKFLOW_STATE_RUNNING)
    tale.task(6.0, "copy-disk-3", Task.STATE_SKIPPED)
    tale.starts(6.01, "copy-disk-2", n=2, run_s=6.1)
    tale.ends(8.0, "copy-disk-2", "SUCCEEDED", n=2, done=130 * MIB)
    tale.moves(8.02, WorkflowState.WORKFLOW_STATE_SUCCEEDED)
    return tale


def hybrid() -> Tale:
    """A vendor clones what a host has copied; the engine finds no room, and all is made up for."""
    tale = Tale("vm-43", kind="rapid-clone")
    owned: dict[str, Any] = {"kind": Task.KIND_EXTERNAL}
    acme = owned | {"owner_id": "acme", "opposite": "asking acme"}
    tale.plant("coalesce", host="host-a")
    tale.plant("clone", verb="acme/clone-volume", **acme)
    tale.plant("shelf-1", parent="clone", verb="acme/copy-shelf", **acme)
    tale.plant("shelf-2", parent="clone", verb="acme/copy-shelf", **acme)
    tale.plant("create-vm", verb="engine/create-vm", owner_id="engine", **owned)
    tale.begin()
    tale.starts(0.0, "coalesce", run_s=0.1)
    tale.ends(1.4, "coalesce", "SUCCEEDED", done=158 * MIB)
    tale.starts(1.4, "clone", run_s=2.0)
    tale.starts(2.2, "shelf-1", run_s=2.3)
    tale.starts(2.2, "shelf-2")
    tale.ends(4.0, "shelf-1", "SUCCEEDED", done=100, unit="percent")
    tale.ends(4.4, "shelf-2", "CANCELLED")
    tale.ends(4.4, "clone", "SUCCEEDED", done=40, unit="volumes")
    tale.starts(4.4, "create-vm", run_s=4.9)
    full = Failure(reason="NO_HOST", message="No host has room. Free memory on one.")
    full.attempt = names.attempt_name("vm-43", "create-vm", 1)
    tale.ends(5.5, "create-vm", "FAILED", failure=full)
    tale.moves(5.5, WorkflowState.WORKFLOW_STATE_COMPENSATING, cause=full)
    tale.makes_up(5.5, "clone")
    tale.ends(6.6, "clone", "SUCCEEDED", n=2, to=Task.STATE_COMPENSATED)
    tale.makes_up(6.6, "coalesce")
    tale.ends(6.9, "coalesce", "SUCCEEDED", n=2, to=Task.STATE_COMPENSATED)
    tale.moves(6.9, WorkflowState.WORKFLOW_STATE_COMPENSATED)
    return tale
