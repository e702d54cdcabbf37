"""The record of a running workflow: what is stored, and what `advance` is given and returns.

All values; a change is a new value. A workflow's nodes stand in the order of its plan: a `Task` for
each leaf, a `Group` for each group. Groups hold only counters, which are worked out again when a
workflow is loaded (`restore`), so that the tasks alone are the truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from coordinator.saga.spec import Plan, Value
from coordinator.saga.states import (
    OUTCOMES,
    SETTLED,
    AttemptKind,
    AttemptState,
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
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One numbered try of an action or a compensation on one host."""

    number: int  # from 1, in its task
    kind: AttemptKind
    state: AttemptState
    host: str
    intent: int  # the coordinator's own order of intents
    compensates: int = 0  # the number of the attempt that a compensation makes up for
    inbound: tuple[Inbound, ...] = ()
    output: Values = field(default_factory=no_values)
    failure: Failure | None = None
    done: int = 0  # work done when it ended, in bytes
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
    retry_time: datetime | None = None  # when the next attempt is due, while it waits for one
    compensation_due: bool = False  # everything after it is made up for: its turn has come
    made_up_for: bool = False  # nothing is left to make up for here, nor after it

    @property
    def last(self) -> Attempt:
        """Returns its newest attempt."""
        return self.attempts[-1]

    @property
    def action(self) -> Attempt | None:
        """Returns the newest attempt of its action."""
        kind = AttemptKind.ACTION
        return next((a for a in reversed(self.attempts) if a.kind is kind), None)

    @property
    def output(self) -> Values:
        """Returns what it left, unless that was made up for."""
        if self.state is not TaskState.SUCCEEDED:
            return NO_VALUES
        action = self.action
        return action.output if action else NO_VALUES

    def failures_in_a_row(self, kind: AttemptKind) -> int:
        """Returns how many attempts of a kind have failed since the last one that did not."""
        count = 0
        for attempt in reversed(self.attempts):
            if attempt.kind is not kind or attempt.state is not AttemptState.FAILED:
                break
            count += 1
        return count


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The counters of one group: `started` and `open` going forward, the others once it failed."""

    started: bool = False
    open: int  # members that are not at rest going forward
    compensation_due: bool = False
    not_made_up_for: int  # members that are not made up for
    made_up_for: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What was said of a workflow when it was submitted, and never changes."""

    kind: str
    labels: tuple[tuple[str, str], ...] = ()
    principal: str = ""
    traceparent: str = ""  # the engine's span
    tracestate: str = ""
    input: Values = field(default_factory=no_values)
    forked_from: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """One durable run of a plan."""

    id: str
    about: About
    plan: Plan
    nodes: tuple[Task | Group, ...]
    state: WorkflowState = WorkflowState.RUNNING
    version: int = 0  # grows by one with every decision
    sequence: int = 0  # of its last event
    owner_epoch: int
    cause: Failure | None = None
    create_time: datetime
    update_time: datetime
    end_time: datetime | None = None

    @property
    def settled(self) -> bool:
        """Returns whether it is in a final state."""
        return self.state in SETTLED

    def task(self, index: int) -> Task:
        """Returns the record of a leaf."""
        task = self.nodes[index]
        assert isinstance(task, Task), self.plan.nodes[index].name
        return task

    def tasks(self) -> Iterator[tuple[int, Task]]:
        """Yields the leaves with their indices, in the order of the tree."""
        return ((i, node) for i, node in enumerate(self.nodes) if isinstance(node, Task))


def fresh_nodes(plan: Plan) -> tuple[Task | Group, ...]:
    """Returns the records of a plan of which nothing has started."""
    return tuple(
        Task()
        if node.group is None
        else Group(open=len(node.members), not_made_up_for=len(node.members))
        for node in plan.nodes
    )
