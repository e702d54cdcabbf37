"""One turn of the saga: a workflow being rewritten by one event.

A `Turn` is the book that the rules write in: the nodes as they now stand, what was noted, what is
to be delivered, and the steps of the walk still to be taken. It decides nothing. Whoever changes a
task says so here, so that the counters of the workflow and the list of what must be stored are kept
in one place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum, auto

from coordinator.saga import history
from coordinator.saga.commands import (
    Command,
    Recall,
    SendAction,
    SendCancel,
    SetTimer,
    Timer,
    outstanding,
)
from coordinator.saga.events import Now
from coordinator.saga.parts import is_held, settled
from coordinator.saga.pieces import draft, sealed
from coordinator.saga.resume import Requirement
from coordinator.saga.spec import Binding, TaskSpec, Value
from coordinator.saga.states import (
    BEING_COMPENSATED,
    GROUP_TABLE,
    HOLDING,
    IN_FLIGHT,
    LATE,
    SETTLED,
    TASK_TABLE,
    WORKFLOW_TABLE,
    AttemptKind,
    AttemptState,
    GroupChange,
    GroupState,
    TaskChange,
    TaskState,
    WorkflowChange,
    WorkflowState,
)
from coordinator.saga.workflow import (
    Attempt,
    Decided,
    Failure,
    Group,
    Inbound,
    Task,
    Workflow,
    fresh_group,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a request of somebody changed nothing."""

    state: WorkflowState
    allowed: tuple[WorkflowState, ...]
    because: str = ""
    outdated: bool = False  # the asker saw another version
    violations: tuple[Requirement, ...] = ()  # what a resume lacks or gets wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What an event makes of a workflow; to be committed whole before a command is delivered."""

    workflow: Workflow
    commands: tuple[Command, ...] = ()
    history: tuple[history.Entry, ...] = ()
    changed: frozenset[int] = frozenset()  # the nodes whose stored record differs
    intents: int = 0  # places taken in the coordinator's order of intents
    refusal: Refusal | None = None

    @property
    def empty(self) -> bool:
        """Returns whether there is nothing to commit."""
        return not self.history and not self.changed


class Step(Enum):
    """One step of the walk over the tree, forward or back."""

    BEGIN = auto()  # those it comes after have passed
    PASSED = auto()  # it tells its group and those that come after it
    DROPPED = auto()  # it failed, and its group goes on with the others
    RESTED = auto()  # it goes forward no more: its group may be at rest as well
    MAKE_UP_FOR = auto()  # those that come after it are made up for
    MADE_UP_FOR = auto()  # it tells its group and those it comes after
    CONCLUDE = auto()  # the root has nothing left to do


Steps = Mapping[Step, Callable[["Turn", int], None]]


def is_busy(task: Task) -> bool:
    """Returns whether a leaf has an attempt at work, as far as anybody knows."""
    if task.state in BEING_COMPENSATED:
        return task.due_time is None
    return task.state in IN_FLIGHT


def is_blocked(task: Task) -> bool:
    """Returns whether a leaf needs an operator although nobody paused the workflow for it."""
    if task.state is TaskState.COMPENSATION_BLOCKED:
        return True
    return task.needs_decision and task.state is not TaskState.FAILED


class Turn:
    """A workflow being rewritten."""

    def __init__(self, workflow: Workflow, now: Now, steps: Steps) -> None:
        """Opens the book at a workflow as it stands."""
        self.before = workflow
        self.plan = workflow.plan
        self.now = now
        self.nodes = draft(workflow.nodes)
        self.state = workflow.state
        self.cause = workflow.cause
        self.verdict = workflow.verdict
        self.locked = workflow.locked
        self.more_locks = workflow.more_locks
        self.pause = workflow.pause
        self.compensation_held = workflow.compensation_held
        self.input_patches = workflow.input_patches
        self.retention = workflow.retention
        self.owner_epoch = workflow.owner_epoch
        self.busy = workflow.busy
        self.blocked = workflow.blocked
        self.entries: list[history.Entry] = []
        self.commands: list[Command] = []
        self.changed: set[int] = set()
        self.intents = 0
        self.refusal: Refusal | None = None
        self._steps = steps
        self._todo: deque[tuple[Step, int]] = deque()
        # While it walks over what has already happened, to find its counters again:
        self.restoring = False
        self.told: set[int] = set()  # nodes that have passed
        self.dropped: set[int] = set()  # members that failed, and are done without
        self.untold: set[int] = set()  # nodes that have passed, and have not told so yet
        self.ripe: list[int] = []  # nodes whose turn has come and that have not begun
        self.due: list[int] = []  # tasks whose compensation is due, and has not begun
        self.recovered: list[int] = []  # groups whose recovery has succeeded
        self.finished = False  # the walk reached its end
        # Whether everything outstanding is to be delivered again: nobody looked while it was held.
        self.anew = False

    # -- reading --------------------------------------------------------------------------------

    @property
    def holding(self) -> bool:
        """Returns whether nothing new may go forward."""
        return self.state in HOLDING

    @property
    def going_back(self) -> bool:
        """Returns whether the whole workflow is being made up for."""
        return self.cause is not None and self.verdict is None

    def task(self, index: int) -> Task:
        """Returns a leaf as it now stands."""
        task = self.nodes[index]
        assert isinstance(task, Task), self.plan.nodes[index].name
        return task

    def group(self, index: int) -> Group:
        """Returns a group as it now stands."""
        group = self.nodes[index]
        assert isinstance(group, Group), self.plan.nodes[index].name
        return group

    def is_touched(self, index: int) -> bool:
        """Returns whether anything below a node has ever begun, or been decided.

        A group without tasks passes as soon as it is looked at. Parts may be of an earlier round;
        but where a task is to be run anew, and waits for its parts, its groups have begun.
        """
        below = [each for each in self.plan.below(index) if self.plan.nodes[each].under < 0]
        nodes = [self.nodes[each] for each in below]
        tasks = (each.touched for each in nodes if isinstance(each, Task))
        if next(tasks, True) or any(tasks):
            return True
        if any(each.remarkable for each in nodes if isinstance(each, Group)):
            return True
        return any(each != index and not settled(self, each) for each in below)

    def inbound(self, bindings: tuple[Binding, ...]) -> tuple[Inbound, ...]:
        """Returns the values of bindings as they now are; None where there is none."""
        return tuple(self._value(binding) for binding in bindings)

    def _value(self, binding: Binding) -> Inbound:
        value: Value
        if binding.of_failure:
            value = self._of_failure(binding.path)
        elif binding.task:
            value = self.task(self.plan.by_name[binding.task]).output.get(binding.path)
        else:
            for patch in reversed(self.input_patches):
                if patch.field == binding.path:
                    return replace(patch, field=binding.field, origin=binding.origin)
            value = self.before.about.input.get(binding.path)
        return Inbound(field=binding.field, value=value, origin=binding.origin)

    def _of_failure(self, path: str) -> str | None:
        if path == "compensated.tasks":
            names = (
                self.plan.nodes[i].name
                for i, node in enumerate(self.nodes)
                if isinstance(node, Task) and node.state is TaskState.COMPENSATED
            )
            return ",".join(names)
        failure = self.cause or next(
            (n.failure for n in self.nodes if isinstance(n, Group) and n.failure), None
        )
        if failure is None:
            return None
        task = failure.attempt.partition("/tasks/")[2].partition("/")[0]
        known = {"reason": failure.reason, "message": failure.message, "task": task}
        return known.get(path.removeprefix("failure."))

    # -- writing down ---------------------------------------------------------------------------

    def add(self, spec: TaskSpec, *, parent: int, under: int = -1) -> int:
        """Adds a leaf of which nothing has started, and returns its index."""
        self.plan = self.plan.with_task(spec, parent=parent, under=under)
        index = len(self.nodes)
        self.nodes.append(Task())
        self.changed.add(index)
        if under >= 0:
            return index  # its whole stands for it
        group, all_needed = self.group(parent), not self.plan.nodes[parent].rules.min_success
        self.nodes[parent] = replace(
            group,
            to_pass=group.to_pass + all_needed,
            open=group.open + 1,
            not_made_up_for=group.not_made_up_for + 1,
        )
        return index

    def put(self, index: int, task: Task) -> None:
        """Replaces a leaf; it will be stored."""
        old = self.task(index)
        self.busy += is_busy(task) - is_busy(old)
        self.blocked += is_blocked(task) - is_blocked(old)
        self.nodes[index] = task
        self.changed.add(index)

    def put_attempt(self, index: int, attempt: Attempt) -> None:
        """Replaces the attempt of the same number."""
        task = self.task(index)
        attempts = (*task.attempts[: attempt.number - 1], attempt, *task.attempts[attempt.number :])
        self.put(index, replace(task, attempts=attempts))

    def forget(self, scope: int) -> None:
        """Sets the counters and marks of a node, and of all below it, as if nothing had begun."""
        for index in self.plan.below(scope):
            old = self.nodes[index]
            if isinstance(old, Group):
                self.nodes[index] = replace(
                    fresh_group(self.plan, index),
                    state=old.state,
                    round=old.round,
                    then=old.then,
                    failure=old.failure,
                )
            elif old.compensation_due or old.made_up_for:
                self.nodes[index] = replace(old, compensation_due=False, made_up_for=False)

    def note(self, fact: history.Fact, task: int = -1) -> None:
        """Adds a fact to the history."""
        sequence = self.before.sequence + len(self.entries) + 1
        self.entries.append(
            history.Entry(sequence=sequence, time=self.now.time, task=task, fact=fact),
        )

    def move(self, index: int, change: TaskChange, failure: Failure | None = None) -> bool:
        """Moves a task by its table; returns False if the change comes too late to matter."""
        task = self.task(index)
        target = TASK_TABLE.get((task.state, change))
        if target is None:
            # A pair that is neither in the table nor late can only come from a defect of ours.
            assert (task.state, change) in LATE, (self.plan.nodes[index].name, task.state, change)
            return False
        if target is not task.state:
            self.put(index, replace(task, state=target))
            number = len(task.attempts) + (change in _BEGINS_ATTEMPT)
            self.note(
                history.TaskMoved(before=task.state, after=target, attempt=number, failure=failure),
                index,
            )
        return True

    def move_group(
        self, index: int, change: GroupChange, *, failure: Failure | None = None
    ) -> Group:
        """Moves a group by its table, and returns it."""
        group = self.group(index)
        target = GROUP_TABLE[group.state, change]
        again = change is GroupChange.AGAIN and group.state is GroupState.COMPENSATING
        moved = replace(group, state=target, then=None, round=group.round + again, failure=failure)
        self.nodes[index] = moved
        self.changed.add(index)
        self.note(
            history.GroupMoved(
                before=group.state, after=target, round=moved.round, failure=failure
            ),
            index,
        )
        return moved

    def move_workflow(self, change: WorkflowChange) -> None:
        """Moves the workflow by its table."""
        target = WORKFLOW_TABLE[self.state, change]
        self.note(history.WorkflowMoved(before=self.state, after=target, cause=self.cause))
        self.state = target

    def hold(self, why: Decided) -> None:
        """Lets nothing new go forward; a workflow that is held already stays as it is."""
        if self.holding:
            return
        self.pause = why
        self.move_workflow(WorkflowChange.PAUSE)
        for index, task in enumerate(self.nodes):
            may_wait = isinstance(task, Task) and task.state in _MAY_WAIT_FOR_SLOT
            if may_wait and is_held(self, index):
                last = self.task(index).last
                self.commands.append(Recall(task=index, number=last.number, host=last.host))

    def timer(self, timer: Timer, index: int, number: int, time: datetime) -> None:
        """Asks to be told when a time has come."""
        self.commands.append(SetTimer(timer=timer, task=index, number=number, time=time))

    def new_attempt(
        self,
        index: int,
        kind: AttemptKind,
        host: str,
        *,
        compensates: int = 0,
        overriding: bool = False,
        replacement: bytes = b"",
        inbound: tuple[Inbound, ...] = (),
    ) -> int:
        """Commits an intent, and returns the number of its attempt."""
        task = self.task(index)
        attempt = Attempt(
            number=len(task.attempts) + 1,
            kind=kind,
            state=AttemptState.STARTING,
            host=host,
            intent=self.now.intent + self.intents,
            compensates=compensates,
            overriding=overriding,
            replacement=replacement,
            inbound=inbound,
            create_time=self.now.time,
        )
        self.intents += 1
        self.put(index, replace(task, attempts=(*task.attempts, attempt), due_time=None))
        self.note(
            history.AttemptStarted(
                attempt=attempt.number,
                kind=kind,
                host=host,
                owner_epoch=self.owner_epoch,
                compensates=compensates,
            ),
            index,
        )
        return attempt.number

    # -- walking --------------------------------------------------------------------------------

    def later(self, step: Step, index: int) -> None:
        """Takes a step once those before it are taken."""
        self._todo.append((step, index))

    def run(self) -> None:
        """Takes steps until none is left."""
        while self._todo:
            step, index = self._todo.popleft()
            self._steps[step](self, index)

    def decision(self) -> Decision:
        """Returns what has become of the workflow."""
        if not self.entries and not self.changed:
            return Decision(
                workflow=self.before, commands=tuple(self.commands), refusal=self.refusal
            )
        time = self.now.time
        ended = self.before.end_time or (time if self.state in SETTLED else None)
        workflow = replace(
            self.before,
            plan=self.plan,
            nodes=sealed(self.nodes),
            state=self.state,
            cause=self.cause,
            verdict=self.verdict,
            locked=self.locked,
            more_locks=self.more_locks,
            pause=self.pause,
            compensation_held=self.compensation_held,
            input_patches=self.input_patches,
            retention=self.retention,
            owner_epoch=self.owner_epoch,
            version=self.before.version + 1,
            sequence=self.before.sequence + len(self.entries),
            update_time=time,
            end_time=ended,
            busy=self.busy,
            blocked=self.blocked,
        )
        if self.anew:
            said = set(self.commands)
            self.commands.extend(each for each in outstanding(workflow) if each not in said)
        return Decision(
            workflow=workflow,
            commands=self._deliverable(),
            history=tuple(self.entries),
            changed=frozenset(self.changed),
            intents=self.intents,
        )

    def _deliverable(self) -> tuple[Command, ...]:
        """Returns the commands, without those that later ones of the same turn have overtaken.

        That is an action stopped by the turn that started it, and a stop of what has ended since.
        """
        stopped = {(c.task, c.number) for c in self.commands if isinstance(c, SendCancel)}
        if not stopped:
            return tuple(self.commands)
        return tuple(
            c
            for c in self.commands
            if not (isinstance(c, SendAction) and (c.task, c.number) in stopped)
            and not (isinstance(c, SendCancel) and not self._is_open(c))
        )

    def _is_open(self, command: SendCancel) -> bool:
        return self.task(command.task).attempts[command.number - 1].open


# Leaves whose action may still stand in the line before its host.
_MAY_WAIT_FOR_SLOT = frozenset({TaskState.STARTING, TaskState.UNKNOWN})
# Changes that the intent of another attempt follows in the same turn.
_BEGINS_ATTEMPT = frozenset({TaskChange.START, TaskChange.RETRY, TaskChange.COMPENSATE})


def patched(inbound: tuple[Inbound, ...], patch: tuple[Inbound, ...]) -> tuple[Inbound, ...]:
    """Returns what comes into an attempt once an operator's values have replaced others."""
    if not patch:
        return inbound
    values = {each.field: each for each in inbound}
    for each in patch:
        if each.field != HOST_FIELD:
            values[each.field] = each
    return tuple(values.values())


HOST_FIELD = "host_id"  # of a patch: not of the action, the host that an operator chose


def bound_host(spec: TaskSpec, task: Task) -> str:
    """Returns the host that a task's next attempt is bound to; empty: one is chosen for it."""
    return patched_host(task) or ("" if spec.candidates else spec.host)


def patched_host(task: Task) -> str:
    """Returns the host that an operator chose for a task, if any."""
    for each in reversed(task.patch):
        if each.field == HOST_FIELD:
            return str(each.value)
    return ""
