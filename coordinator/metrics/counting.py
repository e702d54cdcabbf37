"""Counts what is committed: one pass over the history of each decision, a few additions each.

What is open is counted as it moves, never by walking: with ten thousand open workflows a look costs
what it costs with one. After a restart it is counted anew from what was loaded; what is counted
since a beginning starts from zero, as Prometheus expects.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import product

from coordinator.metrics.table import BATCH_BUCKETS, COMMIT_BUCKETS, DURATION_BUCKETS
from coordinator.saga.history import (
    AttemptEnded,
    Entry,
    LeftBehind,
    TaskMoved,
    WorkflowMoved,
    WorkflowStarted,
)
from coordinator.saga.leftovers import leftovers
from coordinator.saga.reports import OWNER_SILENT
from coordinator.saga.spec import TaskSpec, owner_of
from coordinator.saga.states import (
    OUTCOMES,
    SETTLED,
    UNSETTLED,
    AttemptKind,
    AttemptState,
    TaskState,
    WorkflowState,
)
from coordinator.saga.turn import Decision
from coordinator.saga.workflow import BYTES, Task, Workflow
from coordinator.wire.catalogue import VERBS, field_of
from countermand.rpc.metrics import Histogram

EXTERNAL = "external"  # the verb of every external task: of kinds there may be any number
VERBS_SHOWN = (*VERBS, EXTERNAL)
OUTCOMES_SHOWN = (*sorted(OUTCOMES), AttemptState.UNKNOWN)
# Tasks that have something going on. What has not begun and what is over does not count.
MOVING = UNSETTLED | {TaskState.READY, TaskState.RETRY_WAIT}
# Workflows in these wait for somebody, whatever their tasks are in.
WAITING_FOR_SOMEBODY = frozenset(
    {WorkflowState.PAUSED, WorkflowState.BLOCKED, WorkflowState.QUARANTINED}
)


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
        self.attempts: Counter[tuple[str, str, str]] = Counter(
            dict.fromkeys(product(VERBS_SHOWN, AttemptKind, OUTCOMES_SHOWN), 0)
        )
        self.durations: defaultdict[tuple[str, str], Histogram] = defaultdict(
            lambda: Histogram(DURATION_BUCKETS)
        )
        self.done_bytes: Counter[str] = Counter()  # by verb
        self.silent: Counter[str] = Counter()  # tasks that nobody reports on, by their owner
        self.commits = Histogram(COMMIT_BUCKETS)
        self.batches = Histogram(BATCH_BUCKETS)
        self.failures = 0
        # Tasks that need somebody: by workflow and index, with their owner where that is silent.
        self._needing: dict[str, dict[int, str]] = {}
        self._held: set[str] = set()  # workflows that wait for somebody by their own state

    @property
    def need_attention(self) -> int:
        """Returns how many open workflows wait for somebody."""
        return len(self._held) + sum(1 for each in self._needing if each not in self._held)

    @property
    def blocked_tasks(self) -> int:
        """Returns how many tasks of open workflows wait for somebody."""
        return sum(map(len, self._needing.values()))

    # -- as the loop says it ----------------------------------------------------------------------

    def opened(self, workflow: Workflow) -> None:
        """Counts an open workflow as it was found."""
        self.workflows[workflow.state] += 1
        self._hold(workflow)
        for index, task in workflow.tasks():
            self.tasks[task.state] += 1
            if task.needs_somebody:
                self._need(workflow.id, index, task)

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
            elif isinstance(fact, LeftBehind):
                self.left += 1
        if moved:
            self._hold(workflow)
        if not workflow.settled:
            self._note_needs(workflow, decision.changed)

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

    # -- who needs somebody -----------------------------------------------------------------------

    def _hold(self, workflow: Workflow) -> None:
        if workflow.state in WAITING_FOR_SOMEBODY:
            self._held.add(workflow.id)
            return
        self._held.discard(workflow.id)
        if workflow.state in SETTLED:
            if next(leftovers(workflow), None) is not None:
                self.left_by[workflow.id] = None
            for index in tuple(self._needing.get(workflow.id, ())):
                self._need_no_more(workflow.id, index)

    def _note_needs(self, workflow: Workflow, changed: frozenset[int]) -> None:
        """Looks at what has changed: nobody else begins, or ceases, to need somebody."""
        needing = self._needing.get(workflow.id, ())
        for index in changed:
            node = workflow.nodes[index]
            if type(node) is not Task:
                continue
            if index in needing:
                self._need_no_more(workflow.id, index)
            if node.needs_somebody:
                self._need(workflow.id, index, node)

    def _need(self, workflow_id: str, index: int, task: Task) -> None:
        owner = owner_of(task.last.host) if _is_silent(task) else ""
        self._needing.setdefault(workflow_id, {})[index] = owner
        if owner:
            self.silent[owner] += 1

    def _need_no_more(self, workflow_id: str, index: int) -> None:
        of_workflow = self._needing[workflow_id]
        if owner := of_workflow.pop(index):
            self.silent[owner] -= 1
            if not self.silent[owner]:
                del self.silent[owner]
        if not of_workflow:
            del self._needing[workflow_id]


def _is_silent(task: Task) -> bool:
    """Returns whether an owner that should say something does not."""
    why = task.compensation_failure
    blocked = task.state is TaskState.COMPENSATION_BLOCKED
    return bool(task.silent_owner) or bool(blocked and why and why.reason == OWNER_SILENT)


def verb_of(spec: TaskSpec) -> str:
    """Returns the verb under which the attempts of a task are counted."""
    if spec.external is not None:
        return EXTERNAL
    return field_of(spec.verb)
