"""The plan of a workflow: the flat form of its tree, that `advance` walks.

`compile_plan` numbers the nodes of a tree in its order; each knows its members and what it comes
after. Recovery tasks are a last member that is begun on its own, end actions are trees of their own
behind the root's. Tasks that are added to a running workflow come last of all: no number changes.
One that is added under another task is no member of a group: its whole stands for it (`parts.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from coordinator.saga.spec import (
    IRREVERSIBLE,
    NO_RULES,
    NO_TERMS,
    Condition,
    GroupKind,
    GroupRules,
    GroupSpec,
    NodeSpec,
    TaskSpec,
    Terms,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One numbered node of a plan."""

    index: int
    end: int  # one beyond the last node below it
    name: str
    parent: int  # -1 for the root and for groups of end actions
    members: tuple[int, ...] = ()  # recovery included, as the last
    after: tuple[int, ...] = ()  # siblings it waits for
    before: tuple[int, ...] = ()  # siblings that wait for it
    group: GroupKind | None = None  # None for a leaf
    task: TaskSpec | None = None  # None for a group
    when: Condition | None = None
    rules: GroupRules = NO_RULES
    recovery: int = -1  # the group of its recovery tasks
    recovers: bool = False  # it is such a group itself
    under: int = -1  # of a part: the external task that it was added under

    @property
    def forward(self) -> tuple[int, ...]:
        """Returns the members that are begun by themselves."""
        return self.members[:-1] if self.recovery >= 0 else self.members

    @property
    def need(self) -> int:
        """Returns how many members must pass."""
        return self.rules.min_success or len(self.forward)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A tree in the order of its nodes: the root first, then end actions, then what was added."""

    nodes: tuple[Node, ...]
    planned: int  # nodes that the spec has; the others were added
    by_name: Mapping[str, int] = field(repr=False)
    terms: Terms = NO_TERMS
    on_success: int = -1  # the group of end actions
    on_failure: int = -1
    irreversible: tuple[int, ...] = ()  # leaves that cannot be made up for
    parts: Mapping[int, tuple[int, ...]] = field(default_factory=dict)  # by their whole

    @property
    def leaves(self) -> Iterator[Node]:
        """Yields the tasks in the order of the tree, end actions included."""
        return (node for node in self.nodes if node.task is not None)

    def leaves_of(self, index: int) -> Iterator[Node]:
        """Yields the tasks below a node, or the node itself if it is one."""
        return (self.nodes[i] for i in self.below(index) if self.nodes[i].task is not None)

    def below(self, index: int) -> Sequence[int]:
        """Returns a node and everything below it."""
        inside = range(index, self.nodes[index].end)
        if len(self.nodes) == self.planned:
            return inside
        added = range(self.planned, len(self.nodes))
        return (*inside, *(each for each in added if self.nodes[each].parent in inside))

    def work_of(self, scope: int) -> Iterator[int]:
        """Yields everything below a group, but for its recovery tasks."""
        recovery = self.nodes[scope].recovery
        apart = self.below(recovery) if recovery >= 0 else ()
        return (each for each in self.below(scope) if each != scope and each not in apart)

    def task(self, index: int) -> TaskSpec:
        """Returns the spec of a leaf."""
        task = self.nodes[index].task
        assert task is not None, self.nodes[index].name
        return task

    def is_end_action(self, index: int) -> bool:
        """Returns whether a node is not of the tree itself."""
        return self.nodes[0].end <= index < self.planned

    def with_task(self, spec: TaskSpec, *, parent: int, under: int = -1) -> Plan:
        """Returns the plan with a further member of a group, or a part of a task."""
        growth = Growth(self)
        growth.add(spec, parent=parent, under=under)
        return growth.plan()


class Growth:
    """A plan while tasks are added to it.

    What each addition makes longer is a list until all are known: a workflow may be loaded with
    ten thousand of them.
    """

    def __init__(self, plan: Plan) -> None:
        """Begins with everything as it was."""
        self._before = plan
        self.nodes = list(plan.nodes)  # without what is in the lists
        self.by_name = dict(plan.by_name)
        self._parts: dict[int, list[int]] = {}
        self._members: dict[int, list[int]] = {}
        self._earlier: dict[int, list[int]] = {}
        self._later: dict[int, list[int]] = {}

    def add(self, spec: TaskSpec, *, parent: int, under: int = -1) -> None:
        """Adds a member to a group, or a part to one of its tasks."""
        index, nodes = len(self.nodes), self.nodes
        after: tuple[int, ...] = ()
        before: tuple[int, ...] = ()
        if under >= 0:
            self._parts.setdefault(under, list(self._before.parts.get(under, ()))).append(index)
        else:
            group = nodes[parent]
            after = tuple(self.by_name[name] for name in dict.fromkeys(spec.after))
            before = (group.recovery,) if group.recovery >= 0 else ()
            members = self._members.setdefault(parent, list(group.members))
            members.insert(len(members) - (group.recovery >= 0), index)
        for earlier in after:
            self._later.setdefault(earlier, list(nodes[earlier].before)).append(index)
        for later in before:
            self._earlier.setdefault(later, list(nodes[later].after)).append(index)
        nodes.append(
            Node(
                index=index,
                end=index + 1,
                name=spec.name,
                parent=parent,
                after=after,
                before=before,
                task=spec,
                under=under,
            )
        )
        self.by_name[spec.name] = index

    def plan(self) -> Plan:
        """Returns what it has become; nothing is added any more."""
        for index in {*self._members, *self._earlier, *self._later}:
            node = self.nodes[index]
            self.nodes[index] = replace(
                node,
                members=tuple(self._members.get(index, node.members)),
                after=tuple(self._earlier.get(index, node.after)),
                before=tuple(self._later.get(index, node.before)),
            )
        parts = {index: tuple(parts) for index, parts in self._parts.items()}
        return replace(
            self._before,
            nodes=tuple(self.nodes),
            by_name=self.by_name,
            parts={**self._before.parts, **parts},
        )


ON_SUCCESS = "on-success"  # names of the groups that hold end actions
ON_FAILURE = "on-failure"
RECOVERY_SUFFIX = ".recovery"  # of the name of a group, for the group of its recovery tasks


def compile_plan(root: GroupSpec, terms: Terms = NO_TERMS) -> Plan:
    """Returns the flat form of a tree in which `problems` found none."""
    drafts = _Drafts()
    drafts.number(root, -1)
    ends = [-1, -1]
    for place, (name, actions) in enumerate(
        ((ON_SUCCESS, terms.on_success), (ON_FAILURE, terms.on_failure))
    ):
        if actions:
            ends[place] = len(drafts.specs)
            group = GroupSpec(name=name, kind=GroupKind.SEQUENCE, members=actions)
            drafts.number(group, -1)
    nodes = drafts.nodes()
    return Plan(
        nodes=nodes,
        planned=len(nodes),
        by_name={node.name: node.index for node in nodes},
        terms=terms,
        on_success=ends[0],
        on_failure=ends[1],
        irreversible=tuple(
            node.index
            for node in nodes[: nodes[0].end]
            if node.task is not None and node.task.effect in IRREVERSIBLE
        ),
    )


class _Drafts:
    """Nodes being numbered, in the order of the tree."""

    def __init__(self) -> None:
        self.specs: list[NodeSpec] = []
        self.parents: list[int] = []
        self.ends: list[int] = []
        self.members: list[list[int]] = []
        self.recovery: dict[int, int] = {}  # of a group: the group of its recovery tasks

    def number(self, spec: NodeSpec, parent: int) -> int:
        index = len(self.specs)
        self.specs.append(spec)
        self.parents.append(parent)
        self.ends.append(0)
        self.members.append([])
        if parent >= 0:
            self.members[parent].append(index)
        if isinstance(spec, GroupSpec):
            for member in spec.members:
                self.number(member, index)
            if spec.recovery:
                name = f"{spec.name}{RECOVERY_SUFFIX}"
                kind = GroupKind.SEQUENCE
                group = GroupSpec(name=name, kind=kind, members=spec.recovery)
                self.recovery[index] = self.number(group, index)
        self.ends[index] = len(self.specs)
        return index

    def after(self) -> list[tuple[int, ...]]:
        """Returns what each node waits for; recovery comes after all the others."""
        by_name = {spec.name: index for index, spec in enumerate(self.specs)}
        # Each once, however often it is named: a node is told once of each that it waits for.
        after = [tuple(by_name[n] for n in dict.fromkeys(spec.after)) for spec in self.specs]
        for index, spec in enumerate(self.specs):
            if not isinstance(spec, GroupSpec):
                continue
            members = self.members[index]
            if spec.kind is GroupKind.SEQUENCE:
                for earlier, later in pairwise(members):
                    after[later] = (earlier,)
            elif index in self.recovery:
                after[self.recovery[index]] = tuple(members[:-1])
        return after

    def nodes(self) -> tuple[Node, ...]:
        after = self.after()
        before: list[list[int]] = [[] for _ in after]
        for later, earlier_ones in enumerate(after):
            for earlier in earlier_ones:
                before[earlier].append(later)
        recovering = set(self.recovery.values())
        return tuple(
            Node(
                index=index,
                end=self.ends[index],
                name=spec.name,
                parent=self.parents[index],
                members=tuple(self.members[index]),
                after=after[index],
                before=tuple(before[index]),
                group=spec.kind if isinstance(spec, GroupSpec) else None,
                task=spec if isinstance(spec, TaskSpec) else None,
                when=spec.when,
                rules=spec.rules if isinstance(spec, GroupSpec) else NO_RULES,
                recovery=self.recovery.get(index, -1),
                recovers=index in recovering,
            )
            for index, spec in enumerate(self.specs)
        )


def comes_before(plan: Plan, earlier: int, later: int) -> bool:
    """Returns whether one node is always at rest before another starts."""
    return Precedence(plan).comes_before(earlier, later)


class Precedence:
    """What comes before what in a plan: worked out once per group, however many ask."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._masks: dict[int, dict[int, int]] = {}

    def comes_before(self, earlier: int, later: int) -> bool:
        """Returns whether one node is always at rest before another starts.

        A part stands where its whole does.
        """
        earlier, later = outermost(self._plan, earlier), outermost(self._plan, later)
        if earlier == later:
            return False
        spine = {self._plan.nodes[node].parent: node for node in ancestors(self._plan, later)}
        for climb in ancestors(self._plan, earlier):
            parent = self._plan.nodes[climb].parent
            if parent < 0 or parent not in spine:
                continue
            # The two branches meet in this parent: compare their members of it.
            target = spine[parent]
            return parent != later and target != climb and self.reaches(target, climb)
        # They meet nowhere: one is an end action, and comes after the whole tree.
        return self._plan.is_end_action(later) and not self._plan.is_end_action(earlier)

    def reaches(self, later: int, earlier: int) -> bool:
        """Returns whether `after` leads from one sibling back to another."""
        parent = self._plan.nodes[later].parent
        if self._plan.nodes[parent].group is GroupKind.SEQUENCE:
            return earlier < later  # numbered in their order
        return bool(self._mask(later) & self._bit(earlier))

    def _bit(self, index: int) -> int:
        return 1 << (index - self._plan.nodes[index].parent)

    def _mask(self, index: int) -> int:
        """Returns a bit for each sibling to which `after` leads back from a node."""
        parent = self._plan.nodes[index].parent
        if parent not in self._masks:
            self._masks[parent] = self._closure(parent)
        return self._masks[parent][index]

    def _closure(self, parent: int) -> dict[int, int]:
        """Returns the masks of a group's members, earlier ones first."""
        nodes = self._plan.nodes
        masks: dict[int, int] = {}
        unmet = {member: len(nodes[member].after) for member in nodes[parent].members}
        free = [member for member, count in unmet.items() if not count]
        while free:
            member = free.pop()
            masks[member] = 0
            for earlier in nodes[member].after:
                masks[member] |= masks[earlier] | self._bit(earlier)
            for later in nodes[member].before:
                unmet[later] -= 1
                if not unmet[later]:
                    free.append(later)
        return masks


def ancestors(plan: Plan, index: int) -> Iterator[int]:
    """Yields a node and its groups up to the root."""
    while index >= 0:
        yield index
        index = plan.nodes[index].parent


def wholes(plan: Plan, index: int) -> Iterator[int]:
    """Yields a node, the task that it is a part of, and so on outwards."""
    while index >= 0:
        yield index
        index = plan.nodes[index].under


def outermost(plan: Plan, index: int) -> int:
    """Returns the task that a part belongs to in the end; of any other node, itself."""
    *_, last = wholes(plan, index)
    return last
