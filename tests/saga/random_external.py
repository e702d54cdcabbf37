"""Random workflows in which owners take part: they report, are silent, add tasks, and end them."""

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
from coordinator.saga.states import AttemptKind, Effect
from tests.saga.language import ASK, report
from tests.saga.random_workflows import RandomRun

OWNER = "owner:acme"
ENDS = ("ok", "fail", "cancelled")


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
        if chance < 0.12 and (added := self.added()) is not None:
            return added
        if 0.12 <= chance < 0.25 and (said := self.said()) is not None:
            return said
        return super().chaos()

    def added(self) -> events.Event | None:
        """Returns that an owner wants a task added, where there may be a place."""
        plan, random = self.workflow.plan, self.random
        groups = [node for node in plan.nodes if node.rules.open]
        tree = plan.nodes[: plan.nodes[0].end]
        wholes = [node for node in tree if node.task and node.task.external]
        spec = replace(_like(plan.nodes), name=f"added-{len(plan.nodes)}", after=(), when=None)
        spec = replace(spec, effect=random.choice((Effect.REVERSIBLE, Effect.READ_ONLY)))
        if groups and random.random() < 0.6:
            group = random.choice(groups)
            after = tuple(plan.nodes[m].name for m in group.forward if random.random() < 0.15)
            return events.AddRequested(ask=ASK, spec=replace(spec, after=after), parent=group.index)
        if wholes:
            whole = random.choice(wholes)
            return events.AddRequested(ask=ASK, spec=spec, parent=whole.parent, under=whole.index)
        return None

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
    """Returns an external task as an owner adds it."""
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
