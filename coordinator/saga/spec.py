"""The plan of a workflow: a tree as submitted, and the flat form that `advance` walks.

`compile_plan` turns a tree of `TaskSpec` and `GroupSpec` into a `Plan`, whose nodes are numbered in
the order of the tree and know their members and what they come after; `problems` says beforehand
what is wrong with a tree, with the path of each field. Arguments stay opaque bytes here: verbs are
not this package's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from coordinator.saga.states import Effect

# A value that may flow from one task to another.
Value = str | int | bool | float | None

DEPTH_MAX = 32  # groups in groups; deeper is a generated mistake, and recursion must end
NODES_MAX = 10_000  # one transaction starts or cancels them all


class GroupKind(StrEnum):
    """How members of a group follow each other."""

    SEQUENCE = "SEQUENCE"
    PARALLEL = "PARALLEL"


class OnSiblingFailure(StrEnum):
    """What happens to siblings that still run when one fails."""

    CANCEL = "CANCEL"
    AWAIT = "AWAIT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Further attempts by policy."""

    attempts_max: int = 1  # the first included
    delay: timedelta = timedelta(seconds=1)
    delay_max: timedelta = timedelta(seconds=60)
    backoff_percent: int = 200
    jitter_percent: int = 50
    reasons: frozenset[str] = frozenset()  # empty: those that are retriable

    def wait(self, failures: int, jitter: float) -> timedelta:
        """Returns the wait after the n-th failure in a row; jitter is in [0, 1)."""
        assert failures >= 1, failures
        # The exponent is bounded, and seconds are capped before they become a timedelta, so that a
        # compensation retried for years does not overflow.
        grown_s = self.delay.total_seconds() * (self.backoff_percent / 100) ** min(failures - 1, 64)
        wait_s = min(grown_s, self.delay_max.total_seconds())
        return timedelta(seconds=wait_s * (1 - jitter * self.jitter_percent / 100))


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How tries, times and failures of one task are dealt with, everything inherited filled in."""

    retry: Retry = Retry()
    # Compensations are retried for ever; beyond attempts_max the workflow shows BLOCKED.
    compensation_retry: Retry = Retry(attempts_max=5)
    on_sibling_failure: OnSiblingFailure = OnSiblingFailure.CANCEL
    run_timeout: timedelta | None = None


DEFAULT_POLICY = Policy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Fills one field of an action from the output of an earlier task, or from the input."""

    field: str  # of the action, such as "source.image_id"
    task: str  # the name of the task; empty for the input
    path: str  # in its output, or in the input

    @property
    def origin(self) -> str:
        """Returns the path as people write it."""
        return f"tasks.{self.task}.output.{self.path}" if self.task else f"input.{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """A leaf of the tree: one verb on one host."""

    name: str
    after: tuple[str, ...] = ()
    host: str
    verb: str
    effect: Effect = Effect.REVERSIBLE
    action: bytes = b""
    bindings: tuple[Binding, ...] = ()
    policy: Policy = DEFAULT_POLICY


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """Members in a sequence or in parallel."""

    name: str
    kind: GroupKind
    members: tuple[NodeSpec, ...]
    after: tuple[str, ...] = ()


NodeSpec = TaskSpec | GroupSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One numbered node of a plan."""

    index: int
    name: str
    parent: int  # -1 for the root
    members: tuple[int, ...] = ()
    after: tuple[int, ...] = ()  # siblings it waits for
    before: tuple[int, ...] = ()  # siblings that wait for it
    group: GroupKind | None = None  # None for a leaf
    task: TaskSpec | None = None  # None for a group


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A tree in the order of its nodes; the root is node 0."""

    nodes: tuple[Node, ...]
    by_name: Mapping[str, int] = field(repr=False)

    @property
    def leaves(self) -> Iterator[Node]:
        """Yields the tasks in the order of the tree."""
        return (node for node in self.nodes if node.task is not None)

    def task(self, index: int) -> TaskSpec:
        """Returns the spec of a leaf."""
        task = self.nodes[index].task
        assert task is not None, self.nodes[index].name
        return task


def compile_plan(root: GroupSpec) -> Plan:
    """Returns the flat form of a tree in which `problems` found none."""
    drafts: list[tuple[NodeSpec, int]] = []
    members: dict[int, list[int]] = {}

    def number(spec: NodeSpec, parent: int) -> None:
        index = len(drafts)
        drafts.append((spec, parent))
        members[index] = []
        if parent >= 0:
            members[parent].append(index)
        if isinstance(spec, GroupSpec):
            for member in spec.members:
                number(member, index)

    number(root, -1)
    by_name = {spec.name: index for index, (spec, _) in enumerate(drafts)}
    after = {
        # Each once, however often it is named: a node is told once of each that it waits for.
        index: tuple(by_name[name] for name in dict.fromkeys(spec.after))
        for index, (spec, _) in enumerate(drafts)
    }
    for index, (spec, _) in enumerate(drafts):
        if isinstance(spec, GroupSpec) and spec.kind is GroupKind.SEQUENCE:
            for earlier, later in zip(members[index], members[index][1:], strict=False):
                after[later] = (earlier,)
    before: dict[int, list[int]] = {index: [] for index in after}
    for later, earlier_ones in after.items():
        for earlier in earlier_ones:
            before[earlier].append(later)
    nodes = tuple(
        Node(
            index=index,
            name=spec.name,
            parent=parent,
            members=tuple(members[index]),
            after=after[index],
            before=tuple(before[index]),
            group=spec.kind if isinstance(spec, GroupSpec) else None,
            task=spec if isinstance(spec, TaskSpec) else None,
        )
        for index, (spec, parent) in enumerate(drafts)
    )
    return Plan(nodes=nodes, by_name=by_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a tree."""

    field: str
    description: str


def problems(root: GroupSpec, path: str = "spec.root") -> tuple[Problem, ...]:
    """Returns everything that is wrong with the structure of a tree, in its order."""
    found: list[Problem] = []
    paths: dict[str, str] = {}
    if root.after:
        found.append(Problem(field=f"{path}.after", description="the root has no siblings"))
    _check_group(root, path, paths, found, depth=1)
    if len(paths) > NODES_MAX:
        found.append(
            Problem(field=path, description=f"has {len(paths)} nodes, more than {NODES_MAX}")
        )
    if not found:  # what follows needs a sound tree
        plan = compile_plan(root)
        found.extend(_binding_problems(plan, paths))
        found.extend(_effect_problems(plan, paths))
    return tuple(found)


def _check_group(
    group: GroupSpec, path: str, paths: dict[str, str], found: list[Problem], depth: int
) -> None:
    """Checks names, nesting and `after` of one group and of everything below it."""
    _check_name(group, path, paths, found)
    if not group.members:
        found.append(Problem(field=f"{path}.members", description="needs at least one member"))
    if depth > DEPTH_MAX:
        found.append(Problem(field=path, description=f"is nested deeper than {DEPTH_MAX} groups"))
        return
    for number, member in enumerate(group.members):
        here = f"{path}.members[{number}]"
        if isinstance(member, GroupSpec):
            _check_group(member, f"{here}.group", paths, found, depth + 1)
        else:
            _check_name(member, here, paths, found)
    _check_after(group, path, found)


def _check_name(spec: NodeSpec, path: str, paths: dict[str, str], found: list[Problem]) -> None:
    """Checks that a name is used once."""
    if spec.name in paths:
        found.append(
            Problem(
                field=f"{path.removesuffix('.group')}.name",
                description=f"{spec.name!r} is taken by {paths[spec.name]}: "
                "names are unique in a spec",
            ),
        )
    paths.setdefault(spec.name, path)


def _check_after(group: GroupSpec, path: str, found: list[Problem]) -> None:
    """Checks that `after` names siblings of a parallel group, without a cycle."""
    names = {member.name for member in group.members}
    sound = True
    for number, member in enumerate(group.members):
        here = f"{path}.members[{number}].after"
        if member.after and group.kind is GroupKind.SEQUENCE:
            found.append(
                Problem(field=here, description="is for parallel groups; a sequence has its order")
            )
            sound = False
        for name in member.after:
            if name not in names:
                found.append(Problem(field=here, description=f"{name!r} is not a sibling"))
                sound = False
    if sound and (cycle := _cycle({member.name: member.after for member in group.members})):
        found.append(
            Problem(
                field=f"{path}.members",
                description=f"`after` goes in a circle: {' → '.join(cycle)}",
            ),
        )


def _cycle(edges: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Returns the names of one cycle, first one repeated at the end; empty if there is none."""
    waiting = {name: set(after) for name, after in edges.items()}
    followers: dict[str, list[str]] = {name: [] for name in edges}
    for name, after in waiting.items():
        for earlier in after:
            followers[earlier].append(name)
    free = [name for name, after in waiting.items() if not after]
    while free:
        name = free.pop()
        del waiting[name]
        for follower in followers[name]:
            waiting[follower].discard(name)
            if not waiting[follower]:
                free.append(follower)
    if not waiting:
        return ()
    walk = [next(iter(waiting))]
    while walk[-1] not in walk[:-1]:
        walk.append(min(waiting[walk[-1]]))
    return tuple(walk[walk.index(walk[-1]) :])


def _binding_problems(plan: Plan, paths: Mapping[str, str]) -> Iterator[Problem]:
    """Yields bindings to tasks that do not exist or do not come earlier."""
    precedence = _Precedence(plan)
    for node in plan.leaves:
        assert node.task is not None, node.name
        for number, binding in enumerate(node.task.bindings):
            here = f"{paths[node.name]}.task.bindings[{number}].source"
            if not binding.task:
                continue
            source = plan.by_name.get(binding.task)
            if source is None or plan.nodes[source].task is None:
                yield Problem(
                    field=here, description=f"there is no task {binding.task!r} in this spec"
                )
            elif not precedence.comes_before(source, node.index):
                yield Problem(
                    field=here,
                    description=f"{binding.task!r} does not come before {node.name!r}: "
                    "its output would not be there yet",
                )


def comes_before(plan: Plan, earlier: int, later: int) -> bool:
    """Returns whether one node is always at rest before another starts."""
    return _Precedence(plan).comes_before(earlier, later)


class _Precedence:
    """What comes before what in a plan: worked out once per group, however many ask."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._masks: dict[int, dict[int, int]] = {}

    def comes_before(self, earlier: int, later: int) -> bool:
        """Returns whether one node is always at rest before another starts."""
        spine = {self._plan.nodes[node].parent: node for node in ancestors(self._plan, later)}
        for climb in ancestors(self._plan, earlier):
            parent = self._plan.nodes[climb].parent
            if parent < 0 or parent not in spine:
                continue
            # The two branches meet in this parent: compare their members of it.
            target = spine[parent]
            return parent != later and target != climb and self.reaches(target, climb)
        return False

    def reaches(self, later: int, earlier: int) -> bool:
        """Returns whether `after` leads from one sibling back to another."""
        parent = self._plan.nodes[later].parent
        if self._plan.nodes[parent].group is GroupKind.SEQUENCE:
            return earlier < later  # numbered in their order
        return bool(self._mask(later) & self._bit(earlier))

    def count_before(self, index: int) -> int:
        """Returns how many siblings are always at rest before a node starts."""
        parent = self._plan.nodes[index].parent
        if self._plan.nodes[parent].group is GroupKind.SEQUENCE:
            return self._plan.nodes[parent].members.index(index)
        return self._mask(index).bit_count()

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


def _effect_problems(plan: Plan, paths: Mapping[str, str]) -> Iterator[Problem]:
    """Yields verbs without an opposite that something could still fail beside or after."""
    precedence = _Precedence(plan)
    for node in plan.leaves:
        assert node.task is not None, node.name
        if node.task.effect in (Effect.READ_ONLY, Effect.REVERSIBLE):
            continue
        if not _stands_last(plan, precedence, node.index):
            yield Problem(
                field=f"{paths[node.name]}.task.action",
                description=f"{node.task.verb} cannot be made up for: "
                "it must stand last in the workflow",
            )


def _stands_last(plan: Plan, precedence: _Precedence, index: int) -> bool:
    """Returns whether nothing of the tree runs beside or after a node."""
    for climb in ancestors(plan, index):
        parent = plan.nodes[climb].parent
        if parent < 0:
            return True
        others = len(plan.nodes[parent].members) - 1
        if plan.nodes[climb].before or precedence.count_before(climb) < others:
            return False
    return True
