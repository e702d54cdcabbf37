"""What holds in every workflow after every decision, whatever happened before.

Each function states one promise of the saga and names the invariant of the contract behind it. They
look at values only, so a table, a random walk and the simulator can all ask them. `check` asks all.
"""

from __future__ import annotations

from dataclasses import replace

from coordinator.saga import history
from coordinator.saga.advance import Decision, advance, restore
from coordinator.saga.commands import Command, SendAction, SendCompensation, SetTimer, outstanding
from coordinator.saga.events import Event, Now, OwnerChanged
from coordinator.saga.spec import comes_before
from coordinator.saga.states import (
    EFFECT_FREE,
    IN_FLIGHT,
    SETTLED,
    TASK_TABLE,
    WORKFLOW_TABLE,
    AttemptKind,
    AttemptState,
    Effect,
    TaskState,
    WorkflowState,
)
from coordinator.saga.workflow import Task, Workflow

TASK_MOVES = {(before, after) for (before, _), after in TASK_TABLE.items()}
WORKFLOW_MOVES = {(before, after) for (before, _), after in WORKFLOW_TABLE.items()}
# Where a task may rest when nothing is left to make up for; PENDING would start later.
MADE_UP_FOR = EFFECT_FREE - {TaskState.PENDING}


def check(before: Workflow | None, event: Event | None, now: Now, decision: Decision) -> None:
    """Asks every invariant about one decision; without a `before` it is the first."""
    workflow = decision.workflow
    one_effect_at_a_time(workflow)
    the_verdict_is_true(workflow)
    commands_are_committed(decision)
    nothing_is_stuck(workflow)
    attempts_are_numbered(workflow)
    restored_is_the_same(workflow)
    compensation_goes_backwards(decision)
    if before is None:
        return
    assert event is not None
    moves_are_in_the_tables(before, decision)
    versions_have_no_gaps(before, decision)
    settled_is_final(before, workflow)
    the_cause_comes_first(before, decision)
    nothing_starts_after_the_failure(before, decision)
    closed_attempts_never_change(before, workflow)
    changes_are_named(before, decision)
    intents_are_counted(before, now, decision)
    decisions_are_pure(before, event, now, decision)
    if isinstance(event, OwnerChanged):
        a_new_owner_finds_everything(before, decision)


def one_effect_at_a_time(workflow: Workflow) -> None:
    """I2: of a task at most one action is in effect or under way, and it is made up for once."""
    for index, task in workflow.tasks():
        name = workflow.plan.nodes[index].name
        kinds = [attempt.kind for attempt in task.attempts]
        assert kinds == sorted(kinds), f"{name}: an action after a compensation"
        actions = [a for a in task.attempts if a.kind is AttemptKind.ACTION]
        standing = [a for a in actions if a.open or a.state is AttemptState.SUCCEEDED]
        assert len(standing) <= 1, f"{name}: {standing}"
        made_up = [
            a
            for a in task.attempts
            if a.kind is AttemptKind.COMPENSATION and a.state is AttemptState.SUCCEEDED
        ]
        assert len(made_up) <= 1, f"{name}: compensated twice"
        assert not made_up or task.state is TaskState.COMPENSATED, f"{name}: {task.state}"


def the_verdict_is_true(workflow: Workflow) -> None:
    """I4: SUCCEEDED means all took effect, COMPENSATED that nothing is left of it."""
    states = {index: task.state for index, task in workflow.tasks()}
    if workflow.state is WorkflowState.SUCCEEDED:
        assert set(states.values()) <= {TaskState.SUCCEEDED, TaskState.SKIPPED}, states
        assert workflow.cause is None
    if workflow.state is WorkflowState.COMPENSATED:
        for index, state in states.items():
            harmless = (
                state is TaskState.SUCCEEDED
                and workflow.plan.task(index).effect is Effect.READ_ONLY
            )
            assert state in MADE_UP_FOR or harmless, (workflow.plan.nodes[index].name, state)
        assert workflow.cause is not None
    blocked = TaskState.COMPENSATION_BLOCKED in states.values()
    assert blocked == (workflow.state is WorkflowState.BLOCKED), (workflow.state, states)
    assert (workflow.end_time is not None) == workflow.settled


def commands_are_committed(decision: Decision) -> None:
    """I5: every command names an attempt that the decided workflow holds open, on its host."""
    workflow = decision.workflow
    for command in decision.commands:
        task = workflow.task(command.task)
        if isinstance(command, SetTimer):
            assert command.number == len(task.attempts) + 1, command
            assert command.time == task.retry_time, command
            continue
        assert command.number == len(task.attempts), command
        assert task.last.open, (command, task.last)
        assert command.host == task.last.host, command
        compensates = isinstance(command, SendCompensation)
        assert compensates == (task.last.kind is AttemptKind.COMPENSATION), command
    assert set(decision.commands) <= set(outstanding(workflow)), decision.commands


def nothing_is_stuck(workflow: Workflow) -> None:
    """Liveness: what is open is asked for, and what is not settled waits for something."""
    found = list(outstanding(workflow))
    if workflow.state is WorkflowState.QUARANTINED:
        assert not found, found  # it waits for an operator, and does no harm meanwhile
        return
    assert bool(found) != workflow.settled, (workflow.state, found)
    assert len({(c.task, c.number) for c in found}) == len(found), found
    for index, task in workflow.tasks():
        for command in found if not workflow.settled else ():
            if command.task == index:
                _names_what_is_open(command, task)
        if workflow.settled:
            assert task.retry_time is None, task
            assert task.state not in IN_FLIGHT, task
            continue
        waits = task.retry_time is not None or (bool(task.attempts) and task.last.open)
        assert waits == any(c.task == index for c in found), (index, task)


def _names_what_is_open(command: Command, task: Task) -> None:
    if isinstance(command, SetTimer):
        assert (command.number, command.time) == (len(task.attempts) + 1, task.retry_time)
    else:
        assert command.number == len(task.attempts), (command, task)
    if isinstance(command, SendAction):
        assert task.state in IN_FLIGHT, (command, task)


def attempts_are_numbered(workflow: Workflow) -> None:
    """Attempts count from 1, and all but the last are closed, or unknown and made up for."""
    for index, task in workflow.tasks():
        numbers = [attempt.number for attempt in task.attempts]
        assert numbers == list(range(1, len(numbers) + 1)), (index, numbers)
        for attempt, following in zip(task.attempts, task.attempts[1:], strict=False):
            if attempt.open:
                assert attempt.state is AttemptState.UNKNOWN, attempt
                assert following.compensates == attempt.number, (attempt, following)
        for attempt in task.attempts:
            assert (attempt.end_time is None) == attempt.open, attempt
        intents = [attempt.intent for attempt in task.attempts]
        assert intents == sorted(set(intents)), intents


def restored_is_the_same(workflow: Workflow) -> None:
    """I8: a workflow read back from its tasks alone is the one that was stored."""
    again = restore(workflow)
    for node, one, other in zip(workflow.plan.nodes, workflow.nodes, again.nodes, strict=True):
        assert one == other, f"{node.name}: kept {one}, restored {other}"
    assert again == workflow


def compensation_goes_backwards(decision: Decision) -> None:
    """I9: a compensation starts only when all that comes after its task is made up for."""
    workflow = decision.workflow
    for entry in decision.history:
        fact = entry.fact
        if not isinstance(fact, history.AttemptStarted) or fact.kind is AttemptKind.ACTION:
            continue
        spec = workflow.plan.task(entry.task)
        assert spec.effect not in {Effect.PIVOT, Effect.FORWARD_ONLY}, spec.name
        action = workflow.task(entry.task).attempts[fact.compensates - 1]
        assert action.kind is AttemptKind.ACTION
        # Once begun it goes on, even if the unknown outcome turns out later to be without effect.
        begins = fact.attempt == action.number + 1
        may_have_effect = action.state in {AttemptState.SUCCEEDED, AttemptState.UNKNOWN}
        assert may_have_effect or not begins, action
        for later, task in workflow.tasks():
            if comes_before(workflow.plan, entry.task, later):
                harmless = (
                    task.state is TaskState.SUCCEEDED
                    and workflow.plan.task(later).effect is Effect.READ_ONLY
                )
                name = workflow.plan.nodes[later].name
                assert task.state in MADE_UP_FOR or harmless, (
                    f"{spec.name} is made up for while {name}, after it, is {task.state}"
                )


def moves_are_in_the_tables(before: Workflow, decision: Decision) -> None:
    """I7: the history leads from the state before to the state after by rows of the tables."""
    states = {index: task.state for index, task in before.tasks()}
    state = before.state
    for entry in decision.history:
        fact = entry.fact
        if isinstance(fact, history.TaskMoved):
            assert states[entry.task] is fact.before, entry
            assert (fact.before, fact.after) in TASK_MOVES, entry
            states[entry.task] = fact.after
        elif isinstance(fact, history.WorkflowMoved):
            assert state is fact.before, entry
            assert (fact.before, fact.after) in WORKFLOW_MOVES, entry
            state = fact.after
    assert states == {index: task.state for index, task in decision.workflow.tasks()}
    assert state is decision.workflow.state


def versions_have_no_gaps(before: Workflow, decision: Decision) -> None:
    """I7: the version grows by one with each decision that says something, the history by one."""
    workflow = decision.workflow
    if decision.empty:
        assert workflow == before
        assert not decision.commands or decision.refusal is None
        return
    assert decision.refusal is None
    assert workflow.version == before.version + 1
    numbers = [entry.sequence for entry in decision.history]
    assert numbers == list(range(before.sequence + 1, workflow.sequence + 1))


def settled_is_final(before: Workflow, workflow: Workflow) -> None:
    """I7: nothing moves a settled workflow or one of its tasks, nor the time when it ended."""
    if before.state not in SETTLED:
        return
    assert workflow.state is before.state
    assert workflow.end_time == before.end_time
    for (index, was), (_, now) in zip(before.tasks(), workflow.tasks(), strict=True):
        assert was.state is now.state, index
        assert len(was.attempts) == len(now.attempts), index


def the_cause_comes_first(before: Workflow, decision: Decision) -> None:
    """The cause of failure is stored before the first compensation, and never changes."""
    workflow = decision.workflow
    assert before.cause is None or workflow.cause is before.cause
    turned = before.cause is not None
    for entry in decision.history:
        if isinstance(entry.fact, history.WorkflowMoved) and entry.fact.cause is not None:
            turned = True
        if isinstance(entry.fact, history.AttemptStarted):
            assert turned or entry.fact.kind is AttemptKind.ACTION, entry


def nothing_starts_after_the_failure(before: Workflow, decision: Decision) -> None:
    """No attempt of an action starts once the workflow has failed."""
    failed = before.cause is not None
    for entry in decision.history:
        if isinstance(entry.fact, history.WorkflowMoved) and entry.fact.cause is not None:
            failed = True
        if isinstance(entry.fact, history.AttemptStarted):
            assert not failed or entry.fact.kind is AttemptKind.COMPENSATION, entry


def closed_attempts_never_change(before: Workflow, workflow: Workflow) -> None:
    """An attempt whose outcome is recorded stays as it is, and none disappears."""
    for (index, was), (_, now) in zip(before.tasks(), workflow.tasks(), strict=True):
        if was is now:
            continue
        assert len(now.attempts) >= len(was.attempts), index
        for attempt, later in zip(was.attempts, now.attempts, strict=False):
            assert attempt.open or attempt == later, (attempt, later)
            assert attempt.inbound == later.inbound, (attempt, later)


def changes_are_named(before: Workflow, decision: Decision) -> None:
    """Every leaf whose record differs is among those to be stored."""
    for (index, was), (_, now) in zip(before.tasks(), decision.workflow.tasks(), strict=True):
        if was is now or index in decision.changed:
            continue
        assert replace(was, compensation_due=False, made_up_for=False) == replace(
            now, compensation_due=False, made_up_for=False
        ), index


def intents_are_counted(before: Workflow, now: Now, decision: Decision) -> None:
    """Each new attempt takes the next place in the coordinator's order of intents."""
    places = [
        attempt.intent
        for (_, was), (_, task) in zip(before.tasks(), decision.workflow.tasks(), strict=True)
        for attempt in task.attempts[len(was.attempts) :]
    ]
    assert sorted(places) == list(range(now.intent, now.intent + decision.intents)), places


def decisions_are_pure(before: Workflow, event: Event, now: Now, decision: Decision) -> None:
    """I14: the same workflow and event make the same decision."""
    assert advance(before, event, now) == decision


def a_new_owner_finds_everything(before: Workflow, decision: Decision) -> None:
    """S-H1: a new owner is given all that is outstanding, and nothing else changes."""
    assert set(decision.commands) == set(outstanding(before))
    assert decision.workflow.nodes == before.nodes
