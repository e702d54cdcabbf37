"""Random workflows in which owners take part: they report, are silent, add tasks, and end them.

Tasks are added to open groups, and as parts to tasks that are at work, parts of parts among them;
wholes fail and are tried again, with other parts.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from coordinator.saga import events
from coordinator.saga.plan import Node
from coordinator.saga.spec import (
    DEFAULT_POLICY,
    External,
    GroupKind,
    GroupSpec,
    NodeSpec,
    TaskSpec,
    Terms,
)
from coordinator.saga.states import AttemptKind, Effect, TaskState
from tests.saga.language import ASK, report
from tests.saga.random_workflows import REPORTS, RandomRun

OWNER = "owner:acme"
ENDS = ("ok", "fail", "cancelled")
MOSTLY_WELL = ("ok", "ok", "ok", "run", "fail")


class ExternalRun(RandomRun):
    """One workflow of one seed, about half of whose tasks are done by an owner."""

    def tree(self) -> tuple[GroupSpec, Terms]:
        """Returns a tree in which owners have a part; many of its parallel groups are open."""
        root, beside = super().tree()
        shared = _shared(self.random, root)
        assert isinstance(shared, GroupSpec)
        return shared, beside

    def chaos(self) -> events.Event:
        """Returns anything that may happen, wanted or not."""
        chance = self.random.random()
        if chance < 0.15 and (added := self.added()) is not None:
            return added
        if 0.15 <= chance < 0.25 and (said := self.said()) is not None:
            return said
        if 0.25 <= chance < 0.45 and (accepted := self.accepted()) is not None:
            return accepted
        return super().chaos()

    def accepted(self) -> events.AttemptAccepted | None:
        """Returns that an owner begins with something."""
        waiting = [
            (index, task.last.number)
            for index, task in self.workflow.tasks()
            if task.state is TaskState.STARTING and self.workflow.plan.task(index).external
        ]
        if not waiting:
            return None
        index, number = self.random.choice(waiting)
        return events.AttemptAccepted(task=index, number=number)

    def added(self) -> events.Event | None:
        """Returns that an owner wants a task added, where there may be a place."""
        plan, random = self.workflow.plan, self.random
        groups = [node for node in plan.nodes if node.rules.open]
        if groups and random.random() < 0.4:
            group = random.choice(groups)
            after = tuple(plan.nodes[m].name for m in group.forward if random.random() < 0.15)
            spec = replace(self.more(), after=after)
            return events.AddRequested(ask=ASK, spec=spec, parent=group.index)
        wholes = [
            index
            for index, task in self.workflow.tasks()
            if plan.task(index).external
            and (task.state in (TaskState.RUNNING, TaskState.UNKNOWN) or random.random() < 0.1)
        ]
        return self.part_of(random.choice(wholes)) if wholes else None

    def part_of(self, whole: int) -> events.AddRequested:
        """Returns that an owner wants a part added to a task."""
        parent = self.workflow.plan.nodes[whole].parent
        return events.AddRequested(ask=ASK, spec=self.more(), parent=parent, under=whole)

    def more(self) -> TaskSpec:
        """Returns a task as an owner adds it."""
        nodes, random = self.workflow.plan.nodes, self.random
        spec = replace(_like(nodes), name=f"added-{len(nodes)}", after=(), when=None)
        effects = (Effect.REVERSIBLE, Effect.REVERSIBLE, Effect.READ_ONLY)
        return replace(spec, effect=random.choice(effects))

    def answer(self, *, badly: float) -> None:
        """Answers everything outstanding; owners, as long as they do badly, do it in parts."""
        if badly:
            self.act()
        super().answer(badly=badly)

    def act(self) -> None:
        """Does what owners do with what they are to start: in parts, most of which go well."""
        for _ in range(self.random.choice((0, 2, 4))):
            if (accepted := self.accepted()) is None:
                return
            self.perform(accepted)
            index = accepted.task
            for _ in range(self.random.choice((0, 1, 2))):
                self.perform(self.part_of(index))
                part = len(self.workflow.nodes) - 1
                if self.workflow.task(part).attempts and self.random.random() < 0.7:
                    self.perform(report(self.random.choice(MOSTLY_WELL), part, 1))
            if self.random.random() < 0.4:
                number = self.workflow.task(index).last.number
                self.perform(report(self.random.choice(REPORTS), index, number))

    def said(self) -> events.Event | None:
        """Returns what is said of an owner that has something to do."""
        open_ = [
            (index, task.last)
            for index, task in self.workflow.tasks()
            if task.attempts and task.last.open and self.workflow.plan.task(index).external
        ]
        if not open_:
            return None
        index, last = self.random.choice(open_)
        if last.kind is AttemptKind.ACTION and self.random.random() < 0.6:
            said = report(self.random.choice(ENDS), index, last.number)
            assert isinstance(
                said,
                events.AttemptSucceeded | events.AttemptFailed | events.AttemptCancelled,
            )
            force = self.random.random() < 0.5
            return events.EndRequested(ask=ASK, said=said, force=force)
        return report("silent", index, last.number)


def _shared(random: Random, spec: NodeSpec) -> NodeSpec:
    if not isinstance(spec, GroupSpec):
        if random.random() < 0.5:
            return spec
        return replace(
            spec, host=OWNER, candidates=(), verb="acme/do", opposite=None, external=External()
        )
    rules = spec.rules
    if spec.kind is GroupKind.PARALLEL and not rules.fan_out and random.random() < 0.6:
        rules = replace(rules, open=DEFAULT_POLICY)
    members = tuple(_shared(random, member) for member in spec.members)
    recovery = tuple(_shared(random, member) for member in spec.recovery)
    return replace(spec, members=members, recovery=recovery, rules=rules)


def _like(nodes: tuple[Node, ...]) -> TaskSpec:
    """Returns an external task with the policies of some other one."""
    some = next(node.task for node in nodes if node.task is not None)
    return replace(
        some,
        host=OWNER,
        candidates=(),
        verb="acme/more",
        bindings=(),
        opposite=None,
        external=External(),
    )
