"""Random workflows in a random world: one seed is one story, the same every time.

First chaos: reports of any kind about any attempt, doubled, late and contradicting, stale timers,
requests to cancel, coordinators that die. Then the world comes to reason and answers what is
outstanding, well or badly, until it only answers well: by then the workflow must settle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from random import Random

from coordinator.saga import events
from coordinator.saga.advance import Decision, advance, restore, start
from coordinator.saga.commands import SendCancel, SetTimer, Timer, outstanding
from coordinator.saga.spec import (
    Binding,
    GroupKind,
    GroupSpec,
    NodeSpec,
    OnSiblingFailure,
    Policy,
    Retry,
    TaskSpec,
    comes_before,
    compile_plan,
    problems,
)
from coordinator.saga.states import Effect
from coordinator.saga.workflow import About, Workflow
from tests.saga import invariants
from tests.saga.language import ASK, EPOCH, failure, report

CHAOS_EVENTS_MAX = 30
ROUNDS_MAX = 60  # of a world that answers everything; the longest budget needs far fewer
REPORTS = ("run", "ok", "fail", "retriable", "cancelled", "lost", "missing")


def random_tree(random: Random) -> GroupSpec:
    """Returns a sound tree of up to a dozen tasks, now and then with an irreversible last one."""
    names = (f"t{number}" for number in range(1_000))
    root = _random_group(random, names, depth=1)
    if random.random() < 0.25:
        pivot = replace(_random_task(random, "pivot"), effect=Effect.PIVOT)
        members = (root, pivot)
        root = GroupSpec(name="whole", kind=GroupKind.SEQUENCE, members=members)
    if random.random() < 0.5:
        root = _bound(random, root)
    assert not problems(root), problems(root)
    return root


def _random_group(random: Random, names: Iterator[str], depth: int) -> GroupSpec:
    kind = random.choice(tuple(GroupKind))
    members: list[NodeSpec] = []
    for _ in range(random.choice((1, 2, 2, 3, 3, 4))):
        after: tuple[str, ...] = ()
        if kind is GroupKind.PARALLEL:
            after = tuple(member.name for member in members if random.random() < 0.35)
        member: NodeSpec
        if depth < 4 and random.random() < 0.3:
            member = _random_group(random, names, depth + 1)
        else:
            member = _random_task(random, next(names))
        members.append(replace(member, after=after))
    return GroupSpec(name=f"g-{next(names)}", kind=kind, members=tuple(members))


def _random_task(random: Random, name: str) -> TaskSpec:
    policy = Policy(
        retry=Retry(attempts_max=random.choice((1, 1, 2, 3))),
        compensation_retry=Retry(attempts_max=random.choice((1, 2, 5))),
        on_sibling_failure=random.choice(tuple(OnSiblingFailure)),
    )
    effect = random.choice((Effect.REVERSIBLE, Effect.REVERSIBLE, Effect.READ_ONLY))
    host = f"host-{random.randrange(3)}"
    return TaskSpec(name=name, host=host, verb="copy", effect=effect, policy=policy)


def _bound(random: Random, root: GroupSpec) -> GroupSpec:
    """Returns a tree with one task bound to another that comes before it, if there is one."""
    plan = compile_plan(root)
    leaves = list(plan.leaves)
    source, target = random.choice(leaves), random.choice(leaves)
    if not comes_before(plan, source.index, target.index):
        return root
    binding = Binding(field="source.image_id", task=source.name, path="image")

    def rebuilt(spec: NodeSpec) -> NodeSpec:
        if isinstance(spec, GroupSpec):
            return replace(spec, members=tuple(rebuilt(member) for member in spec.members))
        return replace(spec, bindings=(binding,)) if spec.name == target.name else spec

    bound = rebuilt(root)
    assert isinstance(bound, GroupSpec)
    return bound


class RandomRun:
    """One workflow of one seed, with every decision checked."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.time = EPOCH
        self.intent = 1
        self.decisions = 0
        now = self.now()
        decision = start(
            workflow_id=f"seed-{seed}",
            about=About(kind="random"),
            plan=compile_plan(random_tree(self.random)),
            owner_epoch=1,
            now=now,
        )
        invariants.check(None, None, now, decision)
        self.workflow: Workflow = decision.workflow
        self.intent += decision.intents

    def now(self) -> events.Now:
        """Returns the next moment."""
        self.time += timedelta(seconds=1)
        return events.Now(time=self.time, jitter=self.random.random(), intent=self.intent)

    def perform(self, event: events.Event) -> Decision:
        """Gives the core one event and checks what it makes of it."""
        now = self.now()
        decision = advance(self.workflow, event, now)
        invariants.check(self.workflow, event, now, decision)
        self.workflow = decision.workflow
        self.intent += decision.intents
        self.decisions += 1
        return decision

    def play(self) -> None:
        """Goes through chaos, comes to reason, and settles."""
        for _ in range(self.random.randrange(CHAOS_EVENTS_MAX)):
            self.perform(self.chaos())
        for patience in range(ROUNDS_MAX):
            if self.workflow.settled:
                break
            self.answer(badly=0.5 if patience < 3 else 0.0)
        assert self.workflow.settled, self.workflow.state
        for _ in range(2):
            self.perform(self.chaos())

    def chaos(self) -> events.Event:
        """Returns anything that may happen, wanted or not."""
        random = self.random
        chance = random.random()
        if chance < 0.03:
            cause = failure("CANCELLED")
            return events.CancelRequested(ask=ASK, failure=cause)
        if chance < 0.08:
            return self.new_owner()
        if chance < 0.2:
            index, task = random.choice(list(self.workflow.tasks()))
            number = len(task.attempts) + random.choice((0, 1, 1, 1, 2))
            return events.TimerFired(timer=Timer.DUE, task=index, number=number)
        sent = [
            (index, attempt)
            for index, task in self.workflow.tasks()
            for attempt in task.attempts
        ]  # fmt: skip
        # Mostly about what is open: about closed attempts everything is late.
        lively = [(index, attempt) for index, attempt in sent if attempt.open]
        index, attempt = random.choice(lively if lively and random.random() < 0.8 else sent)
        step = random.choices(REPORTS, (2, 6, 1, 2, 1, 2, 1))[0]
        return report(step, index, attempt.number, {"image": f"{index}.{attempt.number}"})

    def new_owner(self) -> events.OwnerChanged:
        """Kills the coordinator, whose successor reads the workflow back."""
        self.workflow = restore(self.workflow)
        return events.OwnerChanged(owner_epoch=self.workflow.owner_epoch + 1)

    def answer(self, *, badly: float) -> None:
        """Answers everything outstanding once, in any order."""
        commands = list(outstanding(self.workflow))
        self.random.shuffle(commands)
        for command in commands:
            if command not in set(outstanding(self.workflow)):
                continue  # an answer before it has made this one late
            if isinstance(command, SetTimer):
                fired = events.TimerFired(
                    timer=command.timer, task=command.task, number=command.number
                )
                self.perform(fired)
                continue
            good = "cancelled" if isinstance(command, SendCancel) else "ok"
            bad = ("ok", "fail", "lost", "missing", "retriable")
            step = self.random.choice(bad) if self.random.random() < badly else good
            self.perform(report(step, command.task, command.number))
