"""A decision costs in proportion to what it changes, however large the workflow.

Work is counted, not timed: steps of the walk, records to store, entries of history, commands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from coordinator.saga import failing
from coordinator.saga import turn as core
from coordinator.saga.advance import Decision, advance, start
from coordinator.saga.commands import SendCancel
from coordinator.saga.events import Event, Now
from coordinator.saga.plan import compile_plan
from coordinator.saga.problems import problems
from coordinator.saga.spec import Binding, GroupKind, GroupRules, GroupSpec, TaskSpec
from coordinator.saga.states import Effect, WorkflowState
from coordinator.saga.workflow import About, Group, Task, Workflow
from tests.saga.language import EPOCH, report

SIZES = [
    pytest.param(10, id="10"),
    pytest.param(1_000, id="1000"),
    pytest.param(10_000, id="10000", marks=pytest.mark.slow),
]
# What one report about one task may cost, whatever the size.
CHANGED_MAX = 2  # it, and the one that follows
ENTRIES_MAX = 5
STEPS_MAX = 4  # of the walk: it, its group, what follows


class Run:
    """A workflow whose events are counted."""

    def __init__(self, root: GroupSpec, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        later = core.Turn.later

        def counted(turn, step, index):
            self.steps += 1
            later(turn, step, index)

        monkeypatch.setattr(core.Turn, "later", counted)
        self.intent = 1
        about = About(kind="scale")
        decision = start(
            workflow_id="w", about=about, plan=compile_plan(root), owner_epoch=1, now=self.now()
        )
        self.workflow: Workflow = decision.workflow
        self.first = self.take(decision)

    def now(self) -> Now:
        """Returns the next moment."""
        return Now(time=EPOCH + timedelta(seconds=self.intent), jitter=0.0, intent=self.intent)

    def take(self, decision: Decision) -> Decision:
        """Commits a decision."""
        self.workflow = decision.workflow
        self.intent += decision.intents
        return decision

    def perform(self, event: Event) -> Decision:
        """Gives the core one event."""
        return self.take(advance(self.workflow, event, self.now()))

    def small(self, event: Event) -> Decision:
        """Gives the core one event about one task, whose cost is bounded."""
        self.steps = 0
        decision = self.perform(event)
        assert len(decision.changed) <= CHANGED_MAX
        assert len(decision.history) <= ENTRIES_MAX
        assert len(decision.commands) <= 1
        assert self.steps <= STEPS_MAX
        return decision


def members(size: int) -> Iterator[TaskSpec]:
    """Yields as many tasks."""
    return (TaskSpec(name=f"t{n}", host="h", verb="copy") for n in range(size))


def group(kind: GroupKind, size: int) -> GroupSpec:
    """Returns a group of as many tasks."""
    return GroupSpec(name="root", kind=kind, members=tuple(members(size)))


@pytest.mark.parametrize("size", SIZES)
def test_parallel_tasks_complete(size: int, monkeypatch: pytest.MonkeyPatch):
    run = Run(group(GroupKind.PARALLEL, size), monkeypatch)
    assert len(run.first.commands) == size
    for command in run.first.commands:
        run.small(report("ok", command.task, command.number))
    assert run.workflow.state is WorkflowState.SUCCEEDED


@pytest.mark.parametrize("size", SIZES)
def test_parallel_tasks_are_made_up_for(size: int, monkeypatch: pytest.MonkeyPatch):
    """S-V1: half have finished, one fails, the others are cancelled."""
    run = Run(group(GroupKind.PARALLEL, size), monkeypatch)
    half = size // 2
    for command in run.first.commands[:half]:
        run.small(report("ok", command.task, command.number))
    failed = run.first.commands[half]
    run.steps = 0
    turn = run.perform(report("fail", failed.task, failed.number))
    assert len(turn.commands) == size - 1
    assert len(turn.history) <= 2 * size + 2
    assert run.steps <= 2 * size + 2
    for command in turn.commands:
        step = "cancelled" if isinstance(command, SendCancel) else "ok"
        run.small(report(step, command.task, command.number))
    assert run.workflow.state is WorkflowState.COMPENSATED


def test_a_quorum_of_tasks_looks_at_no_other_when_one_fails(monkeypatch: pytest.MonkeyPatch):
    size, looked = 1_000, list[Task | Group]()
    is_going = failing._is_going

    def counted(member: Task | Group) -> bool:
        looked.append(member)
        return is_going(member)

    monkeypatch.setattr(failing, "_is_going", counted)
    root = replace(group(GroupKind.PARALLEL, size), rules=GroupRules(min_success=1))
    run = Run(root, monkeypatch)
    for command in run.first.commands[1:]:
        run.small(report("fail", command.task, command.number))
    run.perform(report("ok", run.first.commands[0].task, 1))
    assert run.workflow.state is WorkflowState.SUCCEEDED
    assert not looked


@pytest.mark.parametrize("size", SIZES)
def test_a_chain_completes_and_is_made_up_for(size: int, monkeypatch: pytest.MonkeyPatch):
    """S-V15."""
    run = Run(group(GroupKind.SEQUENCE, size), monkeypatch)
    (command,) = run.first.commands
    for _ in range(size - 1):
        (command,) = run.small(report("ok", command.task, command.number)).commands
    commands = run.small(report("fail", command.task, command.number)).commands
    while commands:
        (command,) = commands
        commands = run.small(report("ok", command.task, command.number)).commands
    assert run.workflow.state is WorkflowState.COMPENSATED


def test_a_large_spec_is_checked_without_going_round_in_squares():
    """S-Z29: each of these held the coordinator up while its check was quadratic or worse."""
    size = 9_000
    chain = tuple(
        TaskSpec(name=f"t{n}", host="h", verb="copy", after=(f"t{n - 1}",) if n else ())
        for n in range(size)
    )
    assert problems(GroupSpec(name="root", kind=GroupKind.PARALLEL, members=chain)) == ()
    first = (Binding(field="x", task="t0", path="x"),)
    bound = tuple(
        TaskSpec(name=f"t{n}", host="h", verb="copy", bindings=first if n else ())
        for n in range(size)
    )
    assert problems(GroupSpec(name="root", kind=GroupKind.SEQUENCE, members=bound)) == ()
    pivots = tuple(
        TaskSpec(name=f"t{n}", host="h", verb="resize", effect=Effect.PIVOT) for n in range(size)
    )
    found = problems(GroupSpec(name="root", kind=GroupKind.SEQUENCE, members=pivots))
    assert len(found) == size - 1
