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

from coordinator.saga import events, resume
from coordinator.saga.advance import Decision, advance, restore, start
from coordinator.saga.commands import (
    ChooseHost,
    Recall,
    SendCancel,
    SendFence,
    SetTimer,
    Timer,
    outstanding,
)
from coordinator.saga.history import WorkflowMoved
from coordinator.saga.plan import comes_before, compile_plan
from coordinator.saga.problems import problems
from coordinator.saga.spec import (
    NO_WAIT,
    Binding,
    Condition,
    GroupKind,
    GroupRules,
    GroupSpec,
    NodeSpec,
    OnFailure,
    OnSiblingFailure,
    Opposite,
    Policy,
    Retry,
    TaskSpec,
    Terms,
)
from coordinator.saga.states import Effect, WorkflowState
from coordinator.saga.workflow import About, Workflow
from tests.saga import invariants
from tests.saga.language import ASK, EPOCH, OTHER, failure, report

TRIES_MAX = 200  # of drawing a sound tree
CHAOS_EVENTS_MAX = 30
ROUNDS_MAX = 300  # of a world that answers everything; rounds in rounds need some
REPORTS = ("run", "ok", "fail", "retriable", "cancelled", "lost", "missing")


def random_tree(random: Random) -> tuple[GroupSpec, Terms]:
    """Returns a sound tree of up to a dozen tasks, and what stands beside it."""
    for _ in range(TRIES_MAX):
        names = (f"t{number}" for number in range(1_000))
        root = _random_group(random, names, depth=1)
        if random.random() < 0.25:
            pivot = replace(_random_task(random, "pivot"), effect=Effect.PIVOT)
            members: tuple[NodeSpec, ...] = (root, pivot)
            if random.random() < 0.6:
                effect = random.choice((Effect.FORWARD_ONLY, Effect.REVERSIBLE))
                members += (replace(_random_task(random, "after"), effect=effect),)
            root = GroupSpec(name="whole", kind=GroupKind.SEQUENCE, members=members)
        if random.random() < 0.5:
            root = _bound(random, root)
        beside = Terms(
            on_success=_end_actions(random, "s"),
            on_failure=_end_actions(random, "f"),
            timeout=timedelta(seconds=40) if random.random() < 0.1 else None,
        )
        if not problems(root, beside):
            return root, beside
    raise AssertionError("no sound tree in so many tries")


def _end_actions(random: Random, prefix: str) -> tuple[NodeSpec, ...]:
    count = random.choice((0, 0, 0, 1, 2))
    return tuple(_random_task(random, f"{prefix}{number}") for number in range(count))


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
    rules = _random_rules(random, kind, len(members))
    recovery: tuple[NodeSpec, ...] = ()
    if rules.on_failure is OnFailure.RECOVER:
        recovery = (_random_task(random, next(names)),)
    group = GroupSpec(
        name=f"g-{next(names)}", kind=kind, members=tuple(members), recovery=recovery, rules=rules
    )
    if depth > 1:
        group = replace(group, when=_condition(random))
    return group if rules.on_failure is None else inheriting(group, rules.on_failure)


def _random_rules(random: Random, kind: GroupKind, count: int) -> GroupRules:
    if random.random() < 0.5:
        return GroupRules()
    parallel = kind is GroupKind.PARALLEL
    says = (None, None, OnFailure.COMPENSATE_GROUP, OnFailure.RECOVER, OnFailure.PAUSE)
    return GroupRules(
        min_success=random.choice((0, random.randint(1, count))) if parallel else 0,
        concurrency_max=random.choice((0, 1, 2)) if parallel else 0,
        rounds_max=random.choice((1, 1, 2)),
        on_failure=random.choice(says),
        fan_out=parallel and random.random() < 0.3,
    )


def inheriting(group: GroupSpec, policy: OnFailure) -> GroupSpec:
    """Returns a group whose tasks inherit a policy where they say nothing themselves."""

    def inherit(member: NodeSpec) -> NodeSpec:
        if isinstance(member, GroupSpec):
            return inheriting(member, member.rules.on_failure or policy)
        if member.policy.on_failure is not OnFailure.COMPENSATE:
            return member
        return replace(member, policy=replace(member.policy, on_failure=policy))

    return replace(
        group,
        members=tuple(map(inherit, group.members)),
        recovery=tuple(map(inherit, group.recovery)),
    )


def _condition(random: Random) -> Condition | None:
    if random.random() < 0.9:
        return None
    return Condition(task="", path=random.choice(("yes", "no")))


def _random_task(random: Random, name: str) -> TaskSpec:
    some = timedelta(seconds=5)
    policy = Policy(
        retry=Retry(attempts_max=random.choice((1, 1, 2, 3))),
        compensation_retry=Retry(attempts_max=random.choice((1, 2, 5))),
        on_failure=random.choices(
            (OnFailure.COMPENSATE, OnFailure.PAUSE, OnFailure.IGNORE, OnFailure.STOP),
            (12, 3, 2, 1),
        )[0],
        on_sibling_failure=random.choice(tuple(OnSiblingFailure)),
        start_timeout=some if random.random() < 0.15 else None,
        wait_before=some if random.random() < 0.1 else NO_WAIT,
        wait_after=some if random.random() < 0.1 else NO_WAIT,
        pause_before=random.random() < 0.05,
        pause_on_success=random.random() < 0.05,
    )
    effect = random.choice((Effect.REVERSIBLE, Effect.REVERSIBLE, Effect.READ_ONLY))
    host = f"host-{random.randrange(3)}"
    chosen = random.random()
    own = (Binding(field="image", task=name, path="image"),)
    return TaskSpec(
        name=name,
        host="" if chosen < 0.15 else host,
        candidates=("host-0", "host-1") if chosen < 0.1 else (),
        when=_condition(random),
        verb="copy",
        effect=effect,
        opposite=Opposite(verb="erase", action=b"", bindings=own)
        if effect is Effect.REVERSIBLE and random.random() < 0.1
        else None,
        policy=policy,
    )


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
        self.recalls: list[Recall] = []
        self.heard: set[tuple[int, int]] = set()  # attempts that were sent: something was said
        now = self.now()
        root, beside = self.tree()
        decision = start(
            workflow_id=f"seed-{seed}",
            about=About(kind="random", input={"yes": True, "no": False}),
            plan=compile_plan(root, beside),
            owner_epoch=1,
            now=now,
            locked=self.random.random() < 0.9,
        )
        invariants.check(None, None, now, decision)
        self.workflow: Workflow = decision.workflow
        self.intent += decision.intents

    def tree(self) -> tuple[GroupSpec, Terms]:
        """Returns what is to be done."""
        return random_tree(self.random)

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
        if isinstance(event, events.AttemptEvent) and not isinstance(event, events.AttemptLost):
            self.heard.add((event.task, event.number))
        self.recalls += [c for c in decision.commands if isinstance(c, Recall)]
        return decision

    def recalled(self) -> events.Event | None:
        """Returns that an action was taken back, if one was to be and has never been sent."""
        while self.recalls:
            recall = self.recalls.pop()
            if (recall.task, recall.number) in self.heard or self.random.random() < 0.5:
                continue
            return events.AttemptRecalled(task=recall.task, number=recall.number)
        return None

    def play(self) -> None:
        """Goes through chaos, comes to reason, and settles."""
        for _ in range(self.random.randrange(CHAOS_EVENTS_MAX)):
            self.perform(self.chaos())
        for patience in range(ROUNDS_MAX):
            if self.workflow.settled:
                break
            self.answer(badly=0.5 if patience < 3 else 0.0)
            self.operate()
        assert self.workflow.settled, self.workflow.state
        for _ in range(2):
            self.perform(self.chaos())

    def chaos(self) -> events.Event:
        """Returns anything that may happen, wanted or not."""
        random = self.random
        if (recalled := self.recalled()) is not None:
            return recalled
        chance = random.random()
        if chance < 0.02:
            return events.CancelRequested(ask=ASK, failure=failure("CANCELLED"))
        if chance < 0.06:
            return self.new_owner()
        if chance < 0.2:
            return self.asked()
        if chance < 0.32:
            return self.fired()
        if chance < 0.36:
            return events.LocksGranted()
        sent = [
            (index, attempt)
            for index, task in self.workflow.tasks()
            for attempt in task.attempts
        ]  # fmt: skip
        if not sent or chance < 0.4:
            index, task = random.choice(list(self.workflow.tasks()))
            number = len(task.attempts) + random.choice((0, 1, 1))
            return events.HostChosen(task=index, number=number, host="host-2")
        # Mostly about what is open: about closed attempts everything is late.
        lively = [(index, attempt) for index, attempt in sent if attempt.open]
        index, attempt = random.choice(lively if lively and random.random() < 0.8 else sent)
        step = random.choices(REPORTS, (2, 6, 1, 2, 1, 2, 1))[0]
        return report(step, index, attempt.number, {"image": f"{index}.{attempt.number}"})

    def fired(self) -> events.Event:
        """Returns a timer, wanted or stale."""
        timers = [c for c in outstanding(self.workflow) if isinstance(c, SetTimer)]
        if timers and self.random.random() < 0.6:
            timer = self.random.choice(timers)
            self.time = max(self.time, timer.time)
            return events.TimerFired(timer=timer.timer, task=timer.task, number=timer.number)
        index, task = self.random.choice(list(self.workflow.tasks()))
        number = len(task.attempts) + self.random.choice((0, 1, 1, 1, 2))
        kind = self.random.choice((Timer.DUE, Timer.START))
        return events.TimerFired(timer=kind, task=index, number=number)

    def asked(self) -> events.Event:
        """Returns what people may ask for, sensible or not."""
        random = self.random
        kind = random.random()
        if kind < 0.25:
            return events.PauseRequested(ask=ASK, hold_compensation=random.random() < 0.5)
        if kind < 0.65:
            return self.resumed() if random.random() < 0.6 else self.anyhow()
        indices = [index for index, _ in self.workflow.tasks()]
        if kind < 0.8:
            return events.FenceRequested(ask=ASK, task=random.choice(indices), host=OTHER)
        return events.CompensationDecided(
            ask=ASK,
            task=random.choice(indices),
            verb=random.choice(tuple(events.CompensationVerb)),
            replacement=b"other",
        )

    def anyhow(self) -> events.ResumeRequested:
        """Returns a resume with choices about anything."""
        random = self.random
        choices: list[events.Choice] = []
        for _ in range(random.choice((0, 1, 1, 2))):
            index = random.randrange(len(self.workflow.nodes))
            choices.append(
                random.choice(
                    (
                        events.Rerun(task=index, patch={"image": "patched"}),
                        events.Rerun(task=index, reset=True),
                        events.Rerun(task=index, items=(random.randrange(3),)),
                        events.Skip(task=index, output={"image": "given"}),
                        events.GiveUp(task=index),
                    )
                )
            )
        return events.ResumeRequested(ask=ASK, choices=tuple(choices), input={"yes": 1})

    def resumed(self) -> events.ResumeRequested:
        """Returns a resume with just what is needed."""
        needs = resume.requirements(self.workflow)
        choices: list[events.Choice] = []
        for need in needs:
            if need.kind is resume.Kind.DECISION:
                output = {
                    each.key: "given"
                    for each in needs
                    if each.kind is resume.Kind.OUTPUT and each.task == need.task
                }
                skip = events.Skip(task=need.task, output=output)
                again = events.Rerun(task=need.task)
                is_part = self.workflow.plan.nodes[need.task].under >= 0
                choices.append(skip if is_part else self.random.choice((again, skip)))
        return events.ResumeRequested(ask=ASK, choices=tuple(choices))

    def operate(self) -> None:
        """Does what the workflow needs of people: meeting its requirements is enough, always."""
        if not self.workflow.locked:
            self.perform(events.LocksGranted())
        if self.workflow.state is WorkflowState.PAUSED:
            decision = self.perform(self.resumed())
            assert decision.refusal is None, decision.refusal
            states = [e.fact.after for e in decision.history if isinstance(e.fact, WorkflowMoved)]
            assert states[0] in (WorkflowState.RUNNING, WorkflowState.COMPENSATING), states

    def new_owner(self) -> events.OwnerChanged:
        """Kills the coordinator, whose successor reads the workflow back."""
        self.workflow = restore(self.workflow)
        self.recalls.clear()  # whatever stood in line may be out, for all that anybody knows
        hold = ASK if self.random.random() < 0.1 else None  # with a store that went back in time
        return events.OwnerChanged(owner_epoch=self.workflow.owner_epoch + 1, hold=hold)

    def answer(self, *, badly: float) -> None:
        """Answers everything outstanding once, in any order."""
        while (recalled := self.recalled()) is not None:
            self.perform(recalled)
        commands = list(outstanding(self.workflow))
        self.random.shuffle(commands)
        for command in commands:
            if command not in set(outstanding(self.workflow)):
                continue  # an answer before it has made this one late
            if isinstance(command, ChooseHost):
                host = (command.candidates or ("host-0", "host-1"))[0]
                chosen = events.HostChosen(task=command.task, number=command.number, host=host)
                self.perform(chosen)
                continue
            if isinstance(command, SetTimer):
                if command.timer is not Timer.DUE and self.random.random() < 0.8:
                    continue
                self.time = max(self.time, command.time)
                fired = events.TimerFired(
                    timer=command.timer, task=command.task, number=command.number
                )
                self.perform(fired)
                continue
            good = "cancelled" if isinstance(command, SendCancel) else "ok"
            bad: tuple[str, ...] = ("ok", "fail", "lost", "missing", "retriable")
            if isinstance(command, SendFence):
                bad = ("ok", "fenced", "lost", "refused")
            step = self.random.choice(bad) if self.random.random() < badly else good
            self.perform(report(step, command.task, command.number))
