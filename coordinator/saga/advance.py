"""The saga: `advance(workflow, event, now) -> Decision`. Pure and total.

A turn takes one event, moves the task it is about by the tables of `states.py`, and then runs the
rules of the workflow to a fixed point: what may start now, what is to be made up for now, whether
the workflow is at an end. Going forward and making up for it are the same walk over the tree in
opposite directions:

    begin(node)         when those it comes after have passed
    passed(node)        tells its group and those that come after it
    make_up_for(node)   when those that come after it are made up for
    is_made_up_for(node)  tells its group and those it comes after

A turn costs in proportion to what it changes, but for one copy of the workflow's tuple of nodes.
Nothing here reads a clock, draws a number or waits: `now` brings what the world adds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

from coordinator.saga import events, history
from coordinator.saga.commands import (
    Command,
    SendAction,
    SendCancel,
    SendCompensation,
    SetTimer,
    outstanding,
)
from coordinator.saga.events import Event, Now
from coordinator.saga.spec import OnSiblingFailure, Plan, Retry, Value
from coordinator.saga.states import (
    BEING_COMPENSATED,
    COMPENSABLE,
    EFFECT_FREE,
    IN_FLIGHT,
    LATE,
    OUTCOMES,
    PASSED,
    SETTLED,
    TASK_TABLE,
    WORKFLOW_TABLE,
    AttemptKind,
    AttemptState,
    Effect,
    TaskChange,
    TaskState,
    WorkflowChange,
    WorkflowState,
)
from coordinator.saga.workflow import (
    About,
    Attempt,
    Failure,
    Group,
    Inbound,
    Task,
    Workflow,
    fresh_nodes,
)

IRREVERSIBLE = frozenset({Effect.PIVOT, Effect.FORWARD_ONLY})


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a request of somebody changed nothing."""

    state: WorkflowState
    allowed: tuple[WorkflowState, ...]
    because: str = ""
    outdated: bool = False  # the asker saw another version


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What an event makes of a workflow; to be committed whole before a command is delivered."""

    workflow: Workflow
    commands: tuple[Command, ...] = ()
    history: tuple[history.Entry, ...] = ()
    changed: frozenset[int] = frozenset()  # the leaves whose record differs
    intents: int = 0  # places taken in the coordinator's order of intents
    refusal: Refusal | None = None

    @property
    def empty(self) -> bool:
        """Returns whether there is nothing to commit."""
        return not self.history and not self.changed


def start(*, workflow_id: str, about: About, plan: Plan, owner_epoch: int, now: Now) -> Decision:
    """Returns a new workflow whose first tasks are about to start."""
    workflow = Workflow(
        id=workflow_id,
        about=about,
        plan=plan,
        nodes=fresh_nodes(plan),
        owner_epoch=owner_epoch,
        create_time=now.time,
        update_time=now.time,
    )
    turn = _Turn(workflow, now)
    turn.note(
        history.WorkflowStarted(
            kind=about.kind, principal=about.principal, traceparent=about.traceparent
        ),
    )
    turn.later(turn.begin, 0)
    return turn.decision()


def advance(workflow: Workflow, event: Event, now: Now) -> Decision:
    """Returns what one event makes of a workflow."""
    turn = _Turn(workflow, now)
    match event:
        case events.RetryDue():
            turn.retry(event)
        case events.CancelRequested():
            turn.cancel(event)
        case events.OwnerChanged():
            turn.take_over(event)
        case _:
            turn.hear(event)
    return turn.decision()


def quarantine(workflow: Workflow, now: Now) -> Decision:
    """Returns a workflow that is held because `advance` could not process its record."""
    turn = _Turn(workflow, now)
    if (workflow.state, WorkflowChange.QUARANTINE) in WORKFLOW_TABLE:  # else: nothing moves it
        turn.move_workflow(WorkflowChange.QUARANTINE)
    return turn.decision()


def restore(workflow: Workflow) -> Workflow:
    """Returns a loaded workflow with its counters worked out again from its tasks.

    The walk is the one of `advance`, over tasks that are already where it would bring them; what it
    says besides (history, commands) was said when it happened.
    """
    bare = replace(
        workflow,
        nodes=tuple(
            replace(node, compensation_due=False, made_up_for=False)
            if isinstance(node, Task)
            else fresh
            for node, fresh in zip(workflow.nodes, fresh_nodes(workflow.plan), strict=True)
        ),
    )
    turn = _Turn(bare, Now(time=workflow.update_time, jitter=0.0, intent=0), restoring=True)
    turn.later(turn.begin if workflow.cause is None else turn.make_up_for, 0)
    turn.run()
    return replace(workflow, nodes=tuple(turn.nodes))


class _Turn:
    """One turn of the saga: a workflow being rewritten."""

    def __init__(self, workflow: Workflow, now: Now, *, restoring: bool = False) -> None:
        self.before = workflow
        self.plan = workflow.plan
        self.now = now
        self.restoring = restoring
        self.told: set[int] = set()  # when restoring: the nodes that have been through `passed`
        self.nodes = list(workflow.nodes)
        self.state = workflow.state
        self.cause = workflow.cause
        self.owner_epoch = workflow.owner_epoch
        self.entries: list[history.Entry] = []
        self.commands: list[Command] = []
        self.changed: set[int] = set()
        self.intents = 0
        self.refusal: Refusal | None = None
        self.todo: deque[tuple[Callable[[int], None], int]] = deque()

    # -- writing down ---------------------------------------------------------------------------

    def task(self, index: int) -> Task:
        task = self.nodes[index]
        assert isinstance(task, Task), self.plan.nodes[index].name
        return task

    def group(self, index: int) -> Group:
        group = self.nodes[index]
        assert isinstance(group, Group), self.plan.nodes[index].name
        return group

    def put(self, index: int, task: Task) -> None:
        self.nodes[index] = task
        self.changed.add(index)

    def put_attempt(self, index: int, attempt: Attempt) -> None:
        """Replaces the attempt of the same number."""
        task = self.task(index)
        attempts = (*task.attempts[: attempt.number - 1], attempt, *task.attempts[attempt.number :])
        self.put(index, replace(task, attempts=attempts))

    def note(self, fact: history.Fact, task: int = -1) -> None:
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

    def move_workflow(self, change: WorkflowChange) -> None:
        target = WORKFLOW_TABLE[self.state, change]
        self.note(history.WorkflowMoved(before=self.state, after=target, cause=self.cause))
        self.state = target

    def later(self, step: Callable[[int], None], index: int) -> None:
        self.todo.append((step, index))

    def run(self) -> None:
        while self.todo:
            step, index = self.todo.popleft()
            step(index)

    def decision(self) -> Decision:
        """Runs the rules to a fixed point and returns what has become of the workflow."""
        self.run()
        if not self.entries and not self.changed:
            return Decision(
                workflow=self.before, commands=tuple(self.commands), refusal=self.refusal
            )
        time = self.now.time
        ended = self.before.end_time or (time if self.state in SETTLED else None)
        workflow = replace(
            self.before,
            nodes=tuple(self.nodes),
            state=self.state,
            cause=self.cause,
            owner_epoch=self.owner_epoch,
            version=self.before.version + 1,
            sequence=self.before.sequence + len(self.entries),
            update_time=time,
            end_time=ended,
        )
        return Decision(
            workflow=workflow,
            commands=tuple(self.commands),
            history=tuple(self.entries),
            changed=frozenset(self.changed),
            intents=self.intents,
        )

    # -- going forward --------------------------------------------------------------------------

    def begin(self, index: int) -> None:
        """Starts a node: those it comes after have passed."""
        node = self.plan.nodes[index]
        if node.task is not None:
            if self.restoring:
                if self.task(index).state in PASSED:
                    self.later(self.passed, index)
                return
            self.move(index, TaskChange.START)
            self.send_action(index)
            return
        self.nodes[index] = replace(self.group(index), started=True)
        for member in node.members:
            if not self.plan.nodes[member].after:
                self.later(self.begin, member)

    def passed(self, index: int) -> None:
        """Tells those that come after a node, and its group, that it is at rest."""
        node = self.plan.nodes[index]
        self.told.add(index)
        for follower in node.before:
            if all(self.has_passed(earlier) for earlier in self.plan.nodes[follower].after):
                self.later(self.begin, follower)
        if node.parent < 0:
            if not self.restoring:
                self.move_workflow(WorkflowChange.COMPLETE)
            return
        group = self.group(node.parent)
        self.nodes[node.parent] = replace(group, open=group.open - 1)
        if group.open == 1:
            self.later(self.passed, node.parent)

    def has_passed(self, index: int) -> bool:
        if self.restoring:  # many pass in one turn: the last one begins what follows, once
            return index in self.told
        node = self.nodes[index]
        return node.open == 0 if isinstance(node, Group) else node.state in PASSED

    def send_action(self, index: int) -> None:
        """Commits the intent of a task's next attempt."""
        spec = self.plan.task(index)
        inbound = tuple(
            Inbound(field=b.field, value=self.value_of(b.task, b.path), origin=b.origin)
            for b in spec.bindings
        )
        number = self.new_attempt(index, AttemptKind.ACTION, spec.host, inbound=inbound)
        self.commands.append(SendAction(task=index, number=number, host=spec.host))

    def value_of(self, task: str, path: str) -> Value:
        if not task:
            return self.before.about.input.get(path)
        return self.task(self.plan.by_name[task]).output.get(path)

    def new_attempt(
        self,
        index: int,
        kind: AttemptKind,
        host: str,
        *,
        compensates: int = 0,
        inbound: tuple[Inbound, ...] = (),
    ) -> int:
        task = self.task(index)
        attempt = Attempt(
            number=len(task.attempts) + 1,
            kind=kind,
            state=AttemptState.STARTING,
            host=host,
            intent=self.now.intent + self.intents,
            compensates=compensates,
            inbound=inbound,
            create_time=self.now.time,
        )
        self.intents += 1
        self.put(index, replace(task, attempts=(*task.attempts, attempt), retry_time=None))
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

    # -- what is heard of attempts --------------------------------------------------------------

    def hear(self, event: events.AttemptEvent) -> None:
        """Takes up what is said of one attempt."""
        task = self.task(event.task)
        if not 1 <= event.number <= len(task.attempts):
            return  # no such attempt: what is said of it concerns nobody here
        attempt = task.attempts[event.number - 1]
        if event.number != len(task.attempts) or not attempt.open:
            self.hear_late(event, attempt)
        elif attempt.kind is AttemptKind.ACTION:
            self.hear_of_action(event)
        else:
            self.hear_of_compensation(event)

    def hear_late(self, event: events.AttemptEvent, attempt: Attempt) -> None:
        """Records an outcome that differs from what is known; nothing else comes of it."""
        state = _SAID.get(type(event))
        if state is None or state not in OUTCOMES or state is attempt.state:
            return
        self.note(history.ReportedLate(attempt=event.number, state=state), event.task)
        if attempt.open:  # it was UNKNOWN and has been compensated since: now it is known
            self.put_attempt(event.task, replace(attempt, state=state, end_time=self.now.time))

    def hear_of_action(self, event: events.AttemptEvent) -> None:
        index = event.task
        match event:
            case events.AttemptAccepted():
                if self.move(index, TaskChange.ACCEPTED):
                    attempt = self.task(index).last
                    started = attempt.start_time or self.now.time
                    found = replace(
                        attempt, state=AttemptState.RUNNING, start_time=started, failure=None
                    )
                    self.put_attempt(index, found)
            case events.AttemptSucceeded():
                self.end_attempt(index, AttemptState.SUCCEEDED, event)
                self.move(index, TaskChange.SUCCEEDED)
                self.at_rest(index)
            case events.AttemptFailed():
                self.action_failed(event)
            case events.AttemptCancelled():
                if self.task(index).state is not TaskState.CANCELLING:
                    self.action_failed(_stopped_by_others(event))
                    return
                self.end_attempt(index, AttemptState.CANCELLED, event)
                self.move(index, TaskChange.CANCELLED)
                self.at_rest(index)
            case events.AttemptLost():
                if self.move(index, TaskChange.LOST, event.failure):
                    self.attempt_unknown(index, event.failure)
            case events.AttemptMissing():
                if self.move(index, TaskChange.MISSING):
                    self.attempt_unknown(index, None)
                    assert self.task(index).compensation_due, (
                        "what is cancelled has nothing after it"
                    )
                    self.later(self.compensate, index)
            case _:
                assert_never(event)

    def at_rest(self, index: int) -> None:
        """Goes on from a task that has come to rest, in the direction the workflow goes."""
        if self.state is WorkflowState.RUNNING:
            self.later(self.passed, index)
        elif self.task(index).compensation_due:
            self.later(self.make_up_for, index)

    def action_failed(self, event: events.AttemptFailed) -> None:
        index = event.task
        self.end_attempt(index, AttemptState.FAILED, event, event.failure)
        task = self.task(index)
        self.put(index, replace(task, failure=event.failure))
        retry = self.plan.task(index).policy.retry
        if self.state is WorkflowState.RUNNING and _may_retry(task, retry, event.failure):
            self.move(index, TaskChange.RETRIABLE, event.failure)
            self.schedule_retry(index, AttemptKind.ACTION, retry, event.failure)
            return
        self.move(index, TaskChange.FAILED, event.failure)
        if self.state is WorkflowState.RUNNING:
            self.fail(event.failure)
        else:
            self.at_rest(index)

    def hear_of_compensation(self, event: events.AttemptEvent) -> None:
        index = event.task
        match event:
            case events.AttemptSucceeded():
                self.end_attempt(index, AttemptState.SUCCEEDED, event)
                self.put(index, replace(self.task(index), compensation_failure=None))
                self.move(index, TaskChange.COMPENSATED)
                self.unblock()
                self.later(self.make_up_for, index)
            case events.AttemptFailed():
                self.compensation_failed(event)
            case events.AttemptCancelled():
                self.compensation_failed(_stopped_by_others(event))
            case events.AttemptLost():
                if self.task(index).last.state is not AttemptState.UNKNOWN:
                    self.attempt_unknown(index, event.failure)
            case events.AttemptAccepted() | events.AttemptMissing():
                pass  # the intent stands and is seen to until its outcome is known
            case _:
                assert_never(event)

    def compensation_failed(self, event: events.AttemptFailed) -> None:
        """Schedules the next try, for ever; over the budget it also asks for an operator."""
        index = event.task
        self.end_attempt(index, AttemptState.FAILED, event, event.failure)
        task = self.task(index)
        self.put(index, replace(task, compensation_failure=event.failure))
        retry = self.plan.task(index).policy.compensation_retry
        spent = task.failures_in_a_row(AttemptKind.COMPENSATION) >= retry.attempts_max
        blocked = task.state is TaskState.COMPENSATION_BLOCKED
        if spent or blocked or not event.failure.retriable:
            self.move(index, TaskChange.OVER_BUDGET, event.failure)
            if self.state is WorkflowState.COMPENSATING:
                self.move_workflow(WorkflowChange.BLOCK)
        else:
            self.move(index, TaskChange.COMPENSATION_FAILED, event.failure)
        self.schedule_retry(index, AttemptKind.COMPENSATION, retry, event.failure)

    def unblock(self) -> None:
        blocked = TaskState.COMPENSATION_BLOCKED
        if self.state is WorkflowState.BLOCKED and not any(
            isinstance(node, Task) and node.state is blocked for node in self.nodes
        ):
            self.move_workflow(WorkflowChange.UNBLOCK)

    def end_attempt(
        self,
        index: int,
        state: AttemptState,
        event: events.AttemptSucceeded | events.AttemptFailed | events.AttemptCancelled,
        failure: Failure | None = None,
    ) -> None:
        """Records the outcome of a task's current attempt."""
        attempt = replace(
            self.task(index).last,
            state=state,
            failure=failure,
            done=event.done,
            end_time=self.now.time,
        )
        if isinstance(event, events.AttemptSucceeded):
            attempt = replace(attempt, output=event.output)
        self.put_attempt(index, attempt)
        self.note(
            history.AttemptEnded(
                attempt=attempt.number, state=state, failure=failure, done=event.done
            ),
            index,
        )

    def attempt_unknown(self, index: int, failure: Failure | None) -> None:
        unknown = AttemptState.UNKNOWN
        attempt = replace(self.task(index).last, state=unknown, failure=failure)
        self.put_attempt(index, attempt)
        self.note(
            history.AttemptEnded(attempt=attempt.number, state=unknown, failure=failure), index
        )

    def schedule_retry(self, index: int, kind: AttemptKind, retry: Retry, failure: Failure) -> None:
        task = self.task(index)
        delay = retry.wait(max(1, task.failures_in_a_row(kind)), self.now.jitter)
        due = self.now.time + delay
        number = len(task.attempts) + 1
        self.put(index, replace(task, retry_time=due))
        self.note(history.RetryScheduled(attempt=number, delay=delay, failure=failure), index)
        self.commands.append(SetTimer(task=index, number=number, time=due))

    def retry(self, event: events.RetryDue) -> None:
        """Starts the attempt whose wait is over, unless that is no longer wanted."""
        task = self.task(event.task)
        if task.retry_time is None or event.number != len(task.attempts) + 1:
            return  # a stale timer fires into nothing
        if task.state is TaskState.RETRY_WAIT:
            self.move(event.task, TaskChange.RETRY)
            self.send_action(event.task)
        else:
            assert task.state in BEING_COMPENSATED, task.state
            self.send_compensation(event.task)

    # -- making up for it -----------------------------------------------------------------------

    def fail(self, cause: Failure) -> None:
        """Turns round: stores the cause, stops what goes forward, and begins to make up for it."""
        self.cause = cause
        self.move_workflow(WorkflowChange.FAIL)
        for index, fresh in enumerate(fresh_nodes(self.plan)):
            if isinstance(fresh, Group):  # from here on only the way back counts
                self.nodes[index] = fresh
        for node in self.plan.leaves:
            task = self.task(node.index)
            assert node.task is not None, node.name
            if task.state is TaskState.PENDING:
                self.move(node.index, TaskChange.STOP)
            elif task.state is TaskState.RETRY_WAIT:
                self.put(node.index, replace(task, retry_time=None))
                self.move(node.index, TaskChange.STOP, task.failure)
            elif (
                task.state in IN_FLIGHT
                and node.task.policy.on_sibling_failure is OnSiblingFailure.CANCEL
            ):
                self.stop(node.index)
        self.later(self.make_up_for, 0)

    def stop(self, index: int) -> None:
        self.move(index, TaskChange.STOP)
        attempt = replace(self.task(index).last, state=AttemptState.CANCELLING)
        self.put_attempt(index, attempt)
        self.commands.append(SendCancel(task=index, number=attempt.number, host=attempt.host))

    def make_up_for(self, index: int) -> None:
        """Makes up for a node: everything that comes after it is made up for."""
        node = self.plan.nodes[index]
        if node.task is None:
            self.nodes[index] = replace(self.group(index), compensation_due=True)
            for member in node.members:
                if not self.plan.nodes[member].before:
                    self.later(self.make_up_for, member)
            return
        task = replace(self.task(index), compensation_due=True)
        self.nodes[index] = task  # a mark that restore finds again: not a change to be stored
        nothing_to_make_up_for = task.state in EFFECT_FREE or (
            task.state is TaskState.SUCCEEDED and node.task.effect is Effect.READ_ONLY
        )
        if nothing_to_make_up_for:
            self.later(self.is_made_up_for, index)
        elif task.state is TaskState.SUCCEEDED:
            self.compensate(index)
        # else: it is in flight, or being compensated; its turn comes when that has ended. That
        # goes for UNKNOWN too: it was lost, is awaited, and is still asked about.

    def compensate(self, index: int) -> None:
        """Begins to make up for a task that has, or may have, an effect."""
        assert not self.restoring, "a due compensation is committed with what made it due"
        assert self.plan.task(index).effect not in IRREVERSIBLE, self.plan.nodes[index].name
        assert self.task(index).state in COMPENSABLE, self.task(index).state
        self.move(index, TaskChange.COMPENSATE)
        self.send_compensation(index)

    def is_made_up_for(self, index: int) -> None:
        """Tells those that a node comes after, and its group, that it is made up for."""
        node = self.plan.nodes[index]
        # Marked only now: of several in one turn the last one tells those before them, once.
        self.nodes[index] = replace(self.nodes[index], made_up_for=True)
        for earlier in node.after:
            if all(self.nodes[later].made_up_for for later in self.plan.nodes[earlier].before):
                self.later(self.make_up_for, earlier)
        if node.parent < 0:
            if not self.restoring:
                self.move_workflow(WorkflowChange.COMPENSATION_COMPLETE)
            return
        group = self.group(node.parent)
        self.nodes[node.parent] = replace(group, not_made_up_for=group.not_made_up_for - 1)
        if group.not_made_up_for == 1:
            self.later(self.is_made_up_for, node.parent)

    def send_compensation(self, index: int) -> None:
        """Commits the intent of a task's next compensation, on the host that the action ran on."""
        action = self.task(index).action
        assert action is not None, self.plan.nodes[index].name
        kind = AttemptKind.COMPENSATION
        number = self.new_attempt(index, kind, action.host, compensates=action.number)
        self.commands.append(SendCompensation(task=index, number=number, host=action.host))

    # -- requests -------------------------------------------------------------------------------

    def cancel(self, event: events.CancelRequested) -> None:
        """Turns the workflow round because somebody wants it, if it still can be."""
        allowed = (WorkflowState.RUNNING,)
        if event.version not in (0, self.before.version):
            self.refusal = Refusal(state=self.state, allowed=allowed, outdated=True)
            return
        if self.state is not WorkflowState.RUNNING:
            self.refusal = Refusal(state=self.state, allowed=allowed)
            return
        if name := self.past_return():
            because = f"{name} cannot be made up for and may have taken effect"
            self.refusal = Refusal(state=self.state, allowed=allowed, because=because)
            return
        self.note(
            history.Intervened(
                verb="cancel",
                principal=event.principal,
                reason=event.reason,
                request_id=event.request_id,
            ),
        )
        self.fail(event.failure)
        for node in self.plan.leaves:  # those that would await a sibling are asked to stop as well
            if self.task(node.index).state in IN_FLIGHT - {TaskState.CANCELLING}:
                self.stop(node.index)

    def past_return(self) -> str:
        """Returns the name of a task without an opposite that may have taken effect, or nothing."""
        for node in self.plan.leaves:
            assert node.task is not None, node.name
            state = self.task(node.index).state
            harmless = state in EFFECT_FREE or state is TaskState.RETRY_WAIT  # failed, certainly
            if node.task.effect in IRREVERSIBLE and not harmless:
                return node.name
        return ""

    def take_over(self, event: events.OwnerChanged) -> None:
        """Puts the workflow under a new epoch and finds again everything that is to be done."""
        assert event.owner_epoch > self.owner_epoch, (event.owner_epoch, self.owner_epoch)
        self.owner_epoch = event.owner_epoch
        self.note(history.OwnerMoved(owner_epoch=event.owner_epoch))
        self.commands.extend(outstanding(self.before))


# Changes that the intent of another attempt follows in the same turn.
_BEGINS_ATTEMPT = frozenset({TaskChange.START, TaskChange.RETRY, TaskChange.COMPENSATE})

_SAID: dict[type[events.AttemptEvent], AttemptState] = {
    events.AttemptSucceeded: AttemptState.SUCCEEDED,
    events.AttemptFailed: AttemptState.FAILED,
    events.AttemptCancelled: AttemptState.CANCELLED,
}


def _may_retry(task: Task, retry: Retry, failure: Failure) -> bool:
    """Returns whether the policy allows another attempt after this failure."""
    if task.failures_in_a_row(AttemptKind.ACTION) >= retry.attempts_max:
        return False
    return failure.reason in retry.reasons if retry.reasons else failure.retriable


def _stopped_by_others(
    event: events.AttemptCancelled,
) -> events.AttemptFailed:
    """Returns the failure of an attempt that stopped although the saga had not asked for it."""
    failure = Failure(
        reason="CANCELLED",
        message="It was stopped on its host by somebody else; nothing is left behind.",
        retriable=True,
    )
    return events.AttemptFailed(
        task=event.task, number=event.number, failure=failure, done=event.done
    )
