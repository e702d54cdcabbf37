"""Counts what is committed: one pass over the history of each decision, a few additions each.

What is open is counted as it moves, never by walking: with ten thousand open workflows a look costs
what it costs with one. After a restart it is counted anew from what was loaded; what is counted
since a beginning starts from zero, as Prometheus expects.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from itertools import product

from coordinator.metrics.needing import Needing
from coordinator.metrics.table import BATCH_BUCKETS, COMMIT_BUCKETS, DURATION_BUCKETS
from coordinator.saga.history import (
    AttemptEnded,
    Entry,
    LeftBehind,
    LocksTaken,
    TaskMoved,
    WorkflowMoved,
    WorkflowStarted,
)
from coordinator.saga.leftovers import leftovers
from coordinator.saga.spec import TaskSpec
from coordinator.saga.states import (
    OUTCOMES,
    UNSETTLED,
    AttemptKind,
    AttemptState,
    TaskState,
    WorkflowState,
)
from coordinator.saga.turn import Decision
from coordinator.saga.workflow import BYTES, Workflow
from coordinator.wire.catalogue import VERBS, field_of
from countermand.rpc.metrics import Histogram

EXTERNAL = "external"  # the verb of every external task: of kinds there may be any number
VERBS_SHOWN = (*VERBS, EXTERNAL)
OUTCOMES_SHOWN = (*sorted(OUTCOMES), AttemptState.UNKNOWN)
# Tasks that have something going on. What has not begun and what is over does not count.
MOVING = UNSETTLED | {TaskState.READY, TaskState.RETRY_WAIT}


class Counting:
    """What the metrics show of workflows, tasks, attempts and commits."""

    def __init__(self) -> None:
        """Begins with nothing."""
        self.workflows: Counter[WorkflowState] = Counter()  # settled ones since the beginning
        self.started = 0
        self.tasks: Counter[TaskState] = Counter()
        self.left = 0  # effects, since the beginning
        self.left_by: dict[str, None] = {}  # workflows that settled with leftovers
        # By verb, kind and outcome: zeros as well, or Prometheus would not see the first of each.
        # The many rows of durations come with their first: a quantile of one says nothing.
        self.attempts: Counter[tuple[str, str, str]] = Counter(
            dict.fromkeys(product(VERBS_SHOWN, AttemptKind, OUTCOMES_SHOWN), 0)
        )
        self.durations: defaultdict[tuple[str, str], Histogram] = defaultdict(
            lambda: Histogram(DURATION_BUCKETS)
        )
        self.done_bytes: Counter[str] = Counter(dict.fromkeys(VERBS_SHOWN, 0))
        self.commits = Histogram(COMMIT_BUCKETS)
        self.batches = Histogram(BATCH_BUCKETS)
        self.failures = 0
        self.needing = Needing()
        # Workflows that wait in line for their images, oldest first, and when they were submitted.
        self.in_line: dict[str, datetime] = {}

    # -- as the loop says it ----------------------------------------------------------------------

    def opened(self, workflow: Workflow) -> None:
        """Counts an open workflow as it was found."""
        self.workflows[workflow.state] += 1
        self.needing.opened(workflow)
        if _is_in_line(workflow):
            self.in_line[workflow.id] = workflow.create_time
        for _, task in workflow.tasks():
            self.tasks[task.state] += 1

    def committed(self, decisions: Sequence[Decision], took_s: float) -> None:
        """Counts one transaction."""
        self.commits.observe(took_s)
        self.batches.observe(len(decisions))
        for decision in decisions:
            self._decided(decision)

    def failed(self) -> None:
        """Counts a transaction that the store did not take."""
        self.failures += 1

    # -- one decision -----------------------------------------------------------------------------

    def _decided(self, decision: Decision) -> None:
        workflow = decision.workflow
        tasks, moved = self.tasks, False
        for entry in decision.history:
            fact = entry.fact
            if isinstance(fact, TaskMoved):
                tasks[fact.before] -= 1
                tasks[fact.after] += 1
            elif isinstance(fact, AttemptEnded):
                self._ended(workflow, entry, fact)
            elif isinstance(fact, WorkflowMoved):
                moved = True
                self.workflows[fact.before] -= 1
                self.workflows[fact.after] += 1
            elif isinstance(fact, WorkflowStarted):
                self.started += 1
                self.workflows[WorkflowState.RUNNING] += 1
                moved = not workflow.locked
            elif isinstance(fact, LocksTaken):
                moved = True
            elif isinstance(fact, LeftBehind):
                self.left += 1
        if moved:
            self._moved(workflow)
        if not workflow.settled:
            self.needing.changed(workflow, decision.changed)

    def _moved(self, workflow: Workflow) -> None:
        self.needing.moved(workflow)
        if _is_in_line(workflow):
            self.in_line[workflow.id] = workflow.create_time
        else:
            self.in_line.pop(workflow.id, None)
        if workflow.settled and next(leftovers(workflow), None) is not None:
            self.left_by[workflow.id] = None

    def _ended(self, workflow: Workflow, entry: Entry, ended: AttemptEnded) -> None:
        verb = verb_of(workflow.plan.task(entry.task))
        attempt = workflow.task(entry.task).attempts[ended.attempt - 1]
        self.attempts[verb, attempt.kind, ended.state] += 1
        if ended.state is AttemptState.UNKNOWN:
            return  # its end is still to come
        began = attempt.start_time or attempt.create_time
        took = entry.time - began
        self.durations[verb, attempt.kind].observe(max(took.total_seconds(), 0.0))
        if ended.done and ended.unit == BYTES:
            self.done_bytes[verb] += ended.done


def _is_in_line(workflow: Workflow) -> bool:
    """Returns whether a workflow waits for its images: others hold them."""
    gone = workflow.settled or workflow.state is WorkflowState.QUARANTINED
    return not (workflow.locked or gone)


def verb_of(spec: TaskSpec) -> str:
    """Returns the verb under which the attempts of a task are counted."""
    if spec.external is not None:
        return EXTERNAL
    return field_of(spec.verb)
