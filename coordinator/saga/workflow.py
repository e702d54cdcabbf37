"""The record of a running workflow: what is stored, and what `advance` is given and returns.

All values; a change is a new value. A workflow's nodes stand in the order of its plan: a `Task` for
each leaf, a `Group` for each group. Of a group only what became of it is stored; its counters are
worked out again from the tasks when a workflow is loaded (`restore`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from coordinator.saga.plan import Plan
from coordinator.saga.spec import Lock, Value, owner_of, united
from coordinator.saga.states import (
    HOLDING,
    OUTCOMES,
    SETTLED,
    AttemptKind,
    AttemptState,
    GroupChange,
    GroupState,
    TaskState,
    WorkflowState,
)

Values = Mapping[str, Value]
NO_VALUES: Values = MappingProxyType({})


def no_values() -> Values:
    """Returns the values of nothing."""
    return NO_VALUES


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why something did not do what was asked."""

    reason: str
    message: str
    metadata: tuple[tuple[str, str], ...] = ()
    retriable: bool = False
    attempt: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """One value that came into an attempt from elsewhere."""

    field: str
    value: Value
    origin: str  # the path of a binding, or PATCH
    principal: str = ""  # of a patch: who
    time: datetime | None = None  # of a patch: when
    previous: Value = None  # of a patch: what it replaced


STOPS_LATE = "STOPS_LATE"  # an owner was asked to stop, gives signs of life, and does not end it
BYTES = "bytes"  # the unit of work, unless an external task says otherwise
PATCH = "patch"  # the origin of a value that an operator gave
SKIP = "skip"  # the verb of a decision to go on without a task, also before its turn has come
CLOSE = "close"  # the verb of a decision to close what is open in something that ends
BY_POLICY = "policy"  # the principal of a pause that nobody asked for
PAUSE_BEFORE = "pause-before"  # the verb of a pause that holds a task whose turn has come


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What somebody last decided about a task, or why a workflow is held."""

    verb: str  # "pause", "rerun", "skip", "abandon", …; of a policy's pause: its name
    principal: str
    reason: str
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One numbered try of an action or a compensation on one host."""

    number: int  # from 1, in its task
    kind: AttemptKind
    state: AttemptState
    host: str
    intent: int  # the coordinator's own order of intents
    fence_host: str = ""  # of an action: the host that is asked to settle it in its host's place
    compensates: int = 0  # the number of the attempt that a compensation makes up for
    overriding: bool = False  # of a compensation: another verb than the action's own opposite
    replacement: bytes = b""  # ... that an operator put there; empty: it is the spec's
    inbound: tuple[Inbound, ...] = ()
    output: Values = field(default_factory=no_values)
    failure: Failure | None = None
    done: int = 0  # work done when it ended, in the unit
    unit: str = BYTES
    create_time: datetime
    start_time: datetime | None = None
    end_time: datetime | None = None

    @property
    def open(self) -> bool:
        """Returns whether its outcome is still to come."""
        return self.state not in OUTCOMES


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One leaf of a running workflow."""

    state: TaskState = TaskState.PENDING
    attempts: tuple[Attempt, ...] = ()
    failure: Failure | None = None  # of its last action
    compensation_failure: Failure | None = None  # of its last compensation
    due_time: datetime | None = None  # when its wait is over, while it waits for a time
    start_deadline: datetime | None = None  # when it must be in the agent's journal
    # It cannot go on without an operator: its failure is open, or it is past a pivot and over its
    # budget.
    needs_decision: bool = False
    tried: int = 0  # attempts made before it was last run anew: the budget counts from there
    too_late: Failure | None = None  # why its attempt is being stopped, when that is a failure
    patch: tuple[Inbound, ...] = ()  # values that an operator gave, for every further attempt
    given: Values = field(default_factory=no_values)  # outputs that an operator gave
    replacement: bytes = b""  # the action that an operator put in the place of its compensation
    decided: Decided | None = None  # the last decision of somebody about it
    # Marks of the walk back, found again when it is restored.
    compensation_due: bool = False  # everything after it is made up for: its turn has come
    made_up_for: bool = False  # nothing is left to make up for here, nor after it

    @property
    def touched(self) -> bool:
        """Returns whether its turn has come, or it was decided about."""
        paused = self.decided is not None and self.decided.verb == PAUSE_BEFORE
        return paused or self.state is not TaskState.PENDING

    @property
    def last(self) -> Attempt:
        """Returns its newest attempt."""
        return self.attempts[-1]

    @property
    def silent_owner(self) -> str:
        """Returns whose silence it is that nobody knows how it stands; empty: nobody's."""
        return owner_of(self.last.host) if self.state is TaskState.UNKNOWN else ""

    @property
    def needs_somebody(self) -> bool:
        """Returns whether an operator is looked for; a silent owner may never come back."""
        blocked = self.state is TaskState.COMPENSATION_BLOCKED
        return self.needs_decision or blocked or self.stops_late or bool(self.silent_owner)

    @property
    def stops_late(self) -> bool:
        """Returns whether its owner was asked to stop long ago, and says that it is at work."""
        why = self.failure if self.state is TaskState.CANCELLING else None
        return why is not None and why.reason == STOPS_LATE

    @property
    def action(self) -> Attempt | None:
        """Returns the newest attempt of its action."""
        for attempt in reversed(self.attempts):  # nearly always the first that is looked at
            if attempt.kind is AttemptKind.ACTION:
                return attempt
        return None

    @property
    def output(self) -> Values:
        """Returns what it left, unless that was made up for; or what an operator gave instead."""
        if self.state is TaskState.SKIPPED:
            return self.given
        if self.state is not TaskState.SUCCEEDED:
            return NO_VALUES
        action = self.action
        return action.output if action else NO_VALUES

    def failures_in_a_row(self, kind: AttemptKind) -> int:
        """Returns how many attempts of a kind have failed since the last one that did not.

        Those before it was last run anew do not count. An action that was too late and had to be
        fenced has failed as well: the compensations that fenced it lie between it and the next.
        """
        count = 0
        for attempt in reversed(self.attempts[self.tried :]):
            if attempt.state is AttemptState.CANCELLED:
                continue  # it was taken back: that is no outcome of the work
            if attempt.kind is kind and attempt.state is not AttemptState.SUCCEEDED:
                count += 1
            elif attempt.kind is kind or kind is AttemptKind.COMPENSATION:
                break
        return count


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One group: what became of it, which is stored, and counters, which are worked out."""

    state: GroupState = GroupState.FORWARD
    round: int = 1
    # What follows once it is made up for, while it is: CLOSE, DROP or AGAIN.
    then: GroupChange | None = None
    failure: Failure | None = None  # why it is made up for, or being recovered
    # Counters of the walk forward.
    passed_empty: bool = False  # it has no members, and its turn has come
    to_pass: int  # members that must still pass before it does
    open: int  # members that are not at rest
    failed: int = 0  # members that failed and are tolerated
    at_work: int = 0  # members begun and not at rest, where their number is bounded
    waiting: tuple[int, ...] = ()  # members that wait for a place among those
    # Counters of the walk back.
    compensation_due: bool = False
    not_made_up_for: int  # members that are not made up for
    made_up_for: bool = False

    @property
    def remarkable(self) -> bool:
        """Returns whether it has anything to be stored."""
        return self.state is not GroupState.FORWARD or self.round > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What was said of a workflow when it was submitted, and never changes."""

    kind: str
    labels: tuple[tuple[str, str], ...] = ()
    principal: str = ""
    traceparent: str = ""  # the engine's span
    tracestate: str = ""
    sampled: bool = True  # whether a trace of it is sent anywhere
    input: Values = field(default_factory=no_values)
    forked_from: str = ""
    owner: str = ""  # the vendor that started it as its own; empty: it is an engine's


class Retention(StrEnum):
    """When a workflow may be removed, once it is settled."""

    IN_TIME = "IN_TIME"  # once the retention time is over
    KEPT = "KEPT"  # only when somebody says so
    AT_ONCE = "AT_ONCE"  # with the first sweep after all who read the history have read it


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """One durable run of a plan."""

    id: str
    about: About
    plan: Plan
    nodes: Sequence[Task | Group]  # never changed in place: a tuple, or pieces
    state: WorkflowState = WorkflowState.RUNNING
    version: int = 0  # grows by one with every decision
    sequence: int = 0  # of its last event
    owner_epoch: int
    cause: Failure | None = None
    verdict: WorkflowState | None = None  # how it will be settled, while its end actions run
    locked: bool = True  # it holds the locks of its terms; False: it waits in line for them
    more_locks: tuple[Lock, ...] = ()  # of images that it was given since, held as well
    pause: Decided | None = None  # why it is held
    compensation_held: bool = False  # the pause holds compensations, too
    input_patches: tuple[Inbound, ...] = ()  # of the input, by path
    retention: Retention = Retention.IN_TIME
    create_time: datetime
    update_time: datetime
    end_time: datetime | None = None
    # Counters, worked out when it is loaded.
    busy: int = 0  # leaves that have something going on by themselves
    blocked: int = 0  # leaves that need an operator although nobody paused them

    @property
    def locks(self) -> tuple[Lock, ...]:
        """Returns every image that it holds or waits for until it is settled."""
        locks = self.plan.terms.locks
        return united(locks, self.more_locks) if self.more_locks else locks

    @property
    def settled(self) -> bool:
        """Returns whether it is in a final state."""
        return self.state in SETTLED

    @property
    def holding(self) -> bool:
        """Returns whether it is paused, or about to be."""
        return self.state in HOLDING

    def task(self, index: int) -> Task:
        """Returns the record of a leaf."""
        task = self.nodes[index]
        assert isinstance(task, Task), self.plan.nodes[index].name
        return task

    def tasks(self) -> Iterator[tuple[int, Task]]:
        """Yields the leaves with their indices, in the order of the tree."""
        return ((i, node) for i, node in enumerate(self.nodes) if isinstance(node, Task))


def fresh_group(plan: Plan, index: int) -> Group:
    """Returns the record of a group of which nothing has started."""
    node = plan.nodes[index]
    return Group(to_pass=node.need, open=len(node.forward), not_made_up_for=len(node.members))


def has_been_on(workflow: Workflow, host_id: str) -> bool:
    """Returns whether a workflow has, or may have, left something on a host."""
    return any(
        host_id in (attempt.host, attempt.fence_host)
        for _, task in workflow.tasks()
        for attempt in task.attempts
    )


def fresh_nodes(plan: Plan) -> tuple[Task | Group, ...]:
    """Returns the records of a plan of which nothing has started."""
    return tuple(
        Task() if node.group is None else fresh_group(plan, node.index) for node in plan.nodes
    )
