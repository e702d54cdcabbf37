"""What must hold of everything that a coordinator commits or sends, whatever happened before.

`Promises` sees each transaction before it is made and once it is; it knows what is committed, looks
at values only, and asserts. The invariants of single workflows are those of the saga's own tests;
here is what only a whole cluster shows, and what can be said without the saga's own reasoning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from coordinator.runtime.ports import Change, HostRecord
from coordinator.saga import history
from coordinator.saga.advance import Decision
from coordinator.saga.plan import ancestors
from coordinator.saga.spec import OnFailure, Value
from coordinator.saga.states import (
    AT_REST,
    BEING_COMPENSATED,
    GROUP_PASSED,
    AttemptKind,
    AttemptState,
    GroupState,
    TaskState,
    WorkflowState,
)
from coordinator.saga.turn import HOST_FIELD
from coordinator.saga.workflow import CLOSE, SKIP, Attempt, Group, Workflow
from countermand.rpc.names import AttemptName
from countermand.v1.agent_pb2 import ForgetRequest
from tests.saga import invariants

_MARKED = "mark-compensated"
_YET_TO_COME = (TaskState.PENDING, TaskState.READY)

# A host that was chosen before it was drained may still be taken for so long.
CHOSEN_BEFORE = timedelta(seconds=1)
HEARD_OF = timedelta(seconds=3)  # where another coordinator has drained it
CLOCKS_DIFFER = timedelta(milliseconds=1)  # by rounding


@dataclass(slots=True)
class Promises:
    """Everything that is committed, and what was promised on the way."""

    workflows: dict[str, Workflow] = field(default_factory=dict)  # as committed
    draining: dict[str, datetime] = field(default_factory=dict)  # since when
    hosts: dict[str, HostRecord] = field(default_factory=dict)  # as stored
    # Hosts with an older journal than was heard of, and those with another pool, with what was open
    # and had been there: until somebody accepts them.
    rewound: set[str] = field(default_factory=set)
    replaced: dict[str, frozenset[str]] = field(default_factory=dict)
    # What operators gave to tasks: every attempt from then on carries it.
    patches: dict[tuple[str, int], dict[str, Value]] = field(default_factory=dict)
    # Requests that were carried out, by their ids: in which version of which workflow.
    carried_out: dict[str, tuple[str, int]] = field(default_factory=dict)
    # Workflows in which people made up for what an owner did or may have done. Once it is tried
    # again, its record tells of that no more: the arrays do.
    marked: set[str] = field(default_factory=set)
    # Of several coordinators: since when the one that commits hears what others do.
    hears_since: datetime | None = None
    # Of a store that went back in time: whether agents may have what has this intent for late.
    is_forgiven: Callable[[int], bool] = lambda _: False

    # -- transactions ---------------------------------------------------------------------------

    def check(self, changes: Sequence[Change]) -> None:
        """Asserts that a transaction may be made."""
        after = dict(self.workflows)
        for change in changes:
            marked = change.workflow.id in self.marked or any(_marks(change))
            _decided_well(after.get(change.workflow.id), change, marked=marked)
            self._attempts_are_due(after.get(change.workflow.id), change)
            self._requests_are_new(change)
            self._nothing_expires(change)
            after[change.workflow.id] = change.workflow
        one_holder(after)

    def made(self, changes: Sequence[Change]) -> None:
        """Takes a transaction up."""
        for change in changes:
            workflow = change.workflow
            self.workflows[workflow.id] = workflow
            if any(_marks(change)):
                self.marked.add(workflow.id)
            for entry in change.history:
                if not isinstance(entry.fact, history.Intervened) or not entry.fact.request_id:
                    continue
                self.carried_out[entry.fact.request_id] = (workflow.id, workflow.version)
                if entry.fact.verb == "rerun":
                    given = self.patches.setdefault((workflow.id, entry.task), {})
                    given |= {each.field: each.value for each in entry.fact.changes}

    def host_kept(self, record: HostRecord, now: datetime) -> None:
        """Takes up what is stored of a host."""
        before = self.hosts.get(record.id)
        self.hosts[record.id] = record
        # Accepted twice with no new intent between, a host is told from what it was by its hold.
        let_go = before is not None and bool(before.held) and not record.held
        if let_go or (before is not None and before.accepted_intent != record.accepted_intent):
            self.rewound.discard(record.id)
            self.replaced.pop(record.id, None)
        if not record.draining:
            self.draining.pop(record.id, None)
        else:
            self.draining.setdefault(record.id, now)

    def _nothing_expires(self, change: Change) -> None:
        """Asserts of every attempt that was still wanted: no agent took it for a late one (Z28)."""
        for entry in change.history:
            fact = entry.fact
            if isinstance(fact, history.AttemptEnded) and fact.failure is not None:
                attempt = change.workflow.task(entry.task).attempts[fact.attempt - 1]
                is_late = fact.failure.reason == "EXPIRED" and not self.is_forgiven(attempt.intent)
                assert not is_late, f"Z28: {change.workflow.id} {fact}"

    def _requests_are_new(self, change: Change) -> None:
        """Asserts that no request is carried out a second time, nor recorded without its change."""
        for entry in change.history:
            # A policy's pause is in the history as well, and is nobody's request.
            if isinstance(entry.fact, history.Intervened) and entry.fact.request_id:
                request_id = entry.fact.request_id
                assert request_id not in self.carried_out, f"I2: {request_id} is done twice"
                assert change.request is not None, f"I8: {request_id} is not remembered"
                assert change.request.request_id == request_id, f"I8: {request_id}"

    def _attempts_are_due(self, before: Workflow | None, change: Change) -> None:
        """Asserts of each action that begins: its turn has come, here, with what it was given."""
        workflow = change.workflow
        given: dict[int, dict[str, Value]] = {}
        anew: set[int] = set()  # as good as new: what it waited for was in an earlier round
        for entry in change.history:
            fact = entry.fact
            if isinstance(fact, history.TaskMoved) and fact.after is TaskState.PENDING:
                anew.add(entry.task)
            if isinstance(fact, history.Intervened) and fact.verb == "rerun":
                given[entry.task] = {each.field: each.value for each in fact.changes}
            if not isinstance(fact, history.AttemptStarted) or fact.kind is not AttemptKind.ACTION:
                continue
            name = f"{workflow.id}/{workflow.plan.nodes[entry.task].name}"
            # The end actions of one that is cancelled in line do not wait for it.
            ends = workflow.plan.is_end_action(entry.task)
            assert workflow.locked or ends, f"I5: {name} begins before its workflow has its locks"
            attempt = workflow.task(entry.task).attempts[fact.attempt - 1]
            wanted = self.patches.get((workflow.id, entry.task), {}) | given.get(entry.task, {})
            carries(attempt, wanted, name)
            self._may_be_there(workflow, entry, attempt.host, name)
            if workflow.task(entry.task).state is TaskState.STARTING:
                its_turn_has_come(workflow, entry.task)
            if before is not None:
                known = invariants.grown(before, workflow)
                within_budget(known, entry.task)
                if entry.task not in anew:
                    not_before_its_time(known, entry)

    def _may_be_there(self, workflow: Workflow, entry: history.Entry, host: str, name: str) -> None:
        """Asserts that nobody chose a draining host, unless all that were named are."""
        since = self.draining.get(host)
        if since is None or entry.time <= since + CHOSEN_BEFORE:
            return
        if self.hears_since and entry.time <= max(since, self.hears_since) + HEARD_OF:
            return
        spec, task = workflow.plan.task(entry.task), workflow.task(entry.task)
        named = {spec.host, *spec.candidates} - {""}
        wanted = any(each.field == HOST_FIELD for each in task.patch)
        if wanted or (spec.host and not spec.candidates) or (named and named <= set(self.draining)):
            return
        raise AssertionError(f"S-D: {name} was sent to {host}, which is draining")

    # -- requests -------------------------------------------------------------------------------

    def check_sent(self, rpc: str, name: AttemptName, intent: int, epoch: int) -> None:
        """Asserts I5: a committed intent describes what leaves a coordinator.

        Of one that does not know yet that it is not in charge agents refuse what does not fit.
        """
        workflow = self.workflows.get(name.workflow_id)
        assert workflow is not None, f"I5: {rpc} for {name}: there is no such workflow"
        task = workflow.task(workflow.plan.by_name[name.task_id])
        assert name.number <= len(task.attempts), f"I5: {rpc} for {name} was never committed"
        attempt = task.attempts[name.number - 1]
        held = f"{rpc} for {name} goes to {attempt.host}"
        assert attempt.host not in self.rewound, f"S-Z11: {held}, whose journal went back"
        lost = name.workflow_id in self.replaced.get(attempt.host, ())
        assert not lost, f"S-Z10: {held}, whose pool is another one"
        assert attempt.intent == intent, f"I5: {name} goes out with another intent"
        is_stale = epoch < workflow.owner_epoch
        if rpc != "CancelAttempt" and attempt.kind is AttemptKind.ACTION and not is_stale:
            paused = workflow.state is WorkflowState.PAUSED
            assert not paused, f"S-A1: {rpc} for {name} leaves while {workflow.id} is PAUSED"

    def journal_restored(self, host: str, sequence: int) -> None:
        """Takes up that an agent begins again with an older journal."""
        known = self.hosts.get(host)
        if known is not None and sequence < known.heard_sequence:
            self.rewound.add(host)

    def pool_replaced(self, host: str) -> None:
        """Takes up that a host has lost its journal and its pool."""
        self.rewound.discard(host)  # the journal that went back is gone as well
        self.replaced[host] = frozenset(
            workflow.id
            for workflow in self.workflows.values()
            if not workflow.settled
            and any(a.host == host for _, task in workflow.tasks() for a in task.attempts)
        )

    def check_forgotten(self, request: ForgetRequest) -> None:
        """Asserts I12: only what is settled, durably, is forgotten."""
        for name in request.workflows:
            workflow = self.workflows[name.removeprefix("workflows/")]
            assert workflow.settled, f"I12: {name} is forgotten while it is {workflow.state}"


def _marks(change: Change) -> Iterator[bool]:
    """Yields of each decision in a change whether somebody made up for an owner's task by hand."""
    for entry in change.history:
        if isinstance(entry.fact, history.Intervened) and entry.fact.verb == _MARKED:
            yield change.workflow.plan.task(entry.task).external is not None


def _decided_well(before: Workflow | None, change: Change, *, marked: bool) -> None:
    """Asserts what the saga's own tests know to ask of one decision."""
    workflow = change.workflow
    decision = Decision(workflow=workflow, history=change.history, changed=change.changed)
    assert workflow.state is not WorkflowState.QUARANTINED, f"I7: {told(workflow)}"
    if not marked:
        invariants.one_effect_at_a_time(workflow)
        invariants.nothing_is_stuck(workflow)
        invariants.attempts_are_numbered(workflow)
    invariants.the_verdict_is_true(workflow)
    invariants.compensation_goes_backwards(decision)
    invariants.restored_is_the_same(workflow)
    if workflow.state is WorkflowState.SUCCEEDED:
        assert passed(workflow, 0), f"I4: {told(workflow)}"
    if before is None:
        assert change.version_before == 0, f"I7: {workflow.id} was there before"
        return
    assert change.version_before == before.version, f"I7: {workflow.id} has another version"
    invariants.moves_are_in_the_tables(before, decision)
    invariants.versions_have_no_gaps(before, decision)
    invariants.settled_is_final(before, workflow)
    invariants.the_cause_comes_first(before, decision)
    invariants.nothing_starts_after_the_failure(before, decision)
    invariants.nothing_starts_while_it_is_held(before, decision)
    invariants.nothing_before_a_pivot_is_made_up_for(decision)
    invariants.closed_attempts_never_change(before, workflow)
    invariants.changes_are_named(before, decision)
    skipped_outputs_were_given(change)


def one_holder(workflows: dict[str, Workflow]) -> None:
    """Asserts that nobody holds an image beside somebody who holds it for himself alone."""
    holders: dict[tuple[str, str], list[tuple[str, bool]]] = {}
    for workflow in workflows.values():
        if workflow.settled or not workflow.locked:
            continue
        for lock in workflow.locks:
            held = holders.setdefault((lock.pool, lock.image), [])
            held.append((workflow.id, lock.exclusive))
    for image, held in holders.items():
        alone = len(held) == 1 or not any(exclusive for _, exclusive in held)
        assert alone, f"locks: {image} is held by {held}"


def passed(workflow: Workflow, index: int) -> bool:
    """Returns whether what comes after a node may begin, worked out from the tasks alone."""
    node, record = workflow.plan.nodes[index], workflow.nodes[index]
    if isinstance(record, Group):
        if record.state in GROUP_PASSED:
            return True
        members = [passed(workflow, member) for member in node.forward]
        return record.state is GroupState.FORWARD and sum(members) >= (
            node.rules.min_success or len(members)
        )
    if record.state in (TaskState.SUCCEEDED, TaskState.SKIPPED):
        return record.due_time is None
    if record.decided is not None and record.decided.verb == CLOSE:
        return record.state in AT_REST
    ignored = workflow.plan.task(index).policy.on_failure is OnFailure.IGNORE
    return record.state is TaskState.FAILED and ignored and not record.needs_decision


def its_turn_has_come(workflow: Workflow, index: int) -> None:
    """Asserts that everything before a task, and before each group around it, has passed."""
    if workflow.plan.is_end_action(index):
        assert workflow.verdict is not None, f"{workflow.plan.nodes[index].name} begins too early"
        return
    for above in ancestors(workflow.plan, index):
        node = workflow.plan.nodes[above]
        for earlier in node.after:
            rested = node.recovers or passed(workflow, earlier)
            name, other = workflow.plan.nodes[index].name, workflow.plan.nodes[earlier].name
            assert rested, f"order: {workflow.id}/{name} begins before {other} has passed"
        bound = node.rules.concurrency_max
        # Parts of tasks take no place.
        members = [each for each in node.forward if workflow.plan.nodes[each].under < 0]
        working = sum(_at_work(workflow, member) for member in members)
        assert not bound or working <= bound, f"order: {working} at work in {node.name}"


def _at_work(workflow: Workflow, index: int) -> bool:
    """Returns whether an action of a member is out."""
    return any(
        attempt.open and attempt.kind is AttemptKind.ACTION
        for leaf in workflow.plan.leaves_of(index)
        for attempt in workflow.task(leaf.index).attempts[-1:]
    )


def carries(attempt: Attempt, given: dict[str, Value], name: str) -> None:
    """Asserts that an attempt has every value that operators gave to its task."""
    inbound = {each.field: each.value for each in attempt.inbound}
    inbound[HOST_FIELD] = attempt.host
    for key, value in given.items():
        assert inbound.get(key) == value, f"S-R: {name} begins without the patch of {key}"


def within_budget(before: Workflow, index: int) -> None:
    """Asserts that a further attempt by policy is one that the policy has."""
    task = before.task(index)
    if task.state is not TaskState.RETRY_WAIT or task.needs_decision:
        return
    failed = 0
    for attempt in reversed(task.attempts[task.tried :]):
        if attempt.kind is AttemptKind.ACTION:
            if attempt.state is AttemptState.SUCCEEDED:
                break
            failed += attempt.state is not AttemptState.CANCELLED  # taken back: no try at all
    most = before.plan.task(index).policy.retry.attempts_max
    name = before.plan.nodes[index].name
    assert failed < most, f"S-P: {name} is tried again after {failed} of {most}"


def not_before_its_time(before: Workflow, entry: history.Entry) -> None:
    """Asserts that a wait is over when an attempt begins, unless an operator has cut it short."""
    task = before.task(entry.task)
    # What it waited for in its compensation is over when somebody marks that done.
    made_up_for = task.state in BEING_COMPENSATED
    if task.due_time is not None and not task.needs_decision and not made_up_for:
        early = task.due_time - entry.time
        name = before.plan.nodes[entry.task].name
        assert early < CLOCKS_DIFFER, f"S-P: {name} begins {early} before its time"


def skipped_outputs_were_given(change: Change) -> None:
    """Asserts that nothing is skipped without what others, that are yet to come, are bound to."""
    workflow = change.workflow
    for entry in change.history:
        fact = entry.fact
        if not isinstance(fact, history.Intervened) or fact.verb != SKIP:
            continue
        name, given = workflow.plan.nodes[entry.task].name, workflow.task(entry.task).given
        for leaf in workflow.plan.leaves:
            task, spec = workflow.task(leaf.index), workflow.plan.task(leaf.index)
            skipped = task.decided is not None and task.decided.verb == SKIP
            if task.state not in _YET_TO_COME or skipped:
                continue
            patched = {each.field for each in task.patch}
            for each in spec.bindings:
                bound = each.task == name and each.field not in patched
                lacks = bound and each.path not in given
                assert not lacks, f"S-R12: {name} was skipped without {each.path}"


def made_up_for(workflow: Workflow, index: int) -> Iterator[int]:
    """Yields the numbers of a task's attempts that are made up for."""
    for attempt in workflow.task(index).attempts:
        if attempt.kind is AttemptKind.COMPENSATION and attempt.state is AttemptState.SUCCEEDED:
            yield attempt.compensates


def told(workflow: Workflow) -> str:
    """Returns how a workflow stands, in words."""
    tasks = ", ".join(
        f"{workflow.plan.nodes[index].name}: {task.state}" for index, task in workflow.tasks()
    )
    return f"{workflow.id} is {workflow.state} ({tasks})"
