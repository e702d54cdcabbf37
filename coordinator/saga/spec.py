"""The plan of a workflow: a tree as submitted, and the flat form that `advance` walks.

`compile_plan` turns a tree of `TaskSpec` and `GroupSpec` into a `Plan`, whose nodes are numbered in
the order of the tree and know their members and what they come after; `problems` says beforehand
what is wrong with a tree, with the path of each field. Arguments stay opaque bytes here: verbs are
not this package's business. `for_each` groups and nested workflows come here expanded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from itertools import pairwise

from coordinator.saga.states import Effect

# A value that may flow from one task to another.
Value = str | int | bool | float | None

DEPTH_MAX = 32  # groups in groups; deeper is a generated mistake, and recursion must end
NODES_MAX = 10_000  # one transaction starts or cancels them all

IRREVERSIBLE = frozenset({Effect.PIVOT, Effect.FORWARD_ONLY})


class GroupKind(StrEnum):
    """How members of a group follow each other."""

    SEQUENCE = "SEQUENCE"
    PARALLEL = "PARALLEL"


class OnSiblingFailure(StrEnum):
    """What happens to siblings that still run when one fails."""

    CANCEL = "CANCEL"
    AWAIT = "AWAIT"


class OnFailure(StrEnum):
    """What the failure of a task, after its retries, makes of its group and workflow."""

    COMPENSATE = "COMPENSATE"  # the whole workflow is made up for
    COMPENSATE_GROUP = "COMPENSATE_GROUP"  # only the group that says so; its parent goes on
    PAUSE = "PAUSE"  # an operator decides
    IGNORE = "IGNORE"  # optional work: the workflow goes on
    STOP = "STOP"  # ends as FAILED and keeps what was done
    RECOVER = "RECOVER"  # the recovery tasks of the group that says so run


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


NO_WAIT = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How tries, times and failures of one task are dealt with, everything inherited filled in."""

    retry: Retry = Retry()
    # Compensations are retried for ever; beyond attempts_max the workflow shows BLOCKED.
    compensation_retry: Retry = Retry(attempts_max=5)
    on_failure: OnFailure = OnFailure.COMPENSATE
    on_sibling_failure: OnSiblingFailure = OnSiblingFailure.CANCEL
    start_timeout: timedelta | None = None  # from READY to the agent's journal
    run_timeout: timedelta | None = None  # kept by the agent
    stall_timeout: timedelta | None = None  # kept by the agent
    wait_before: timedelta = NO_WAIT
    wait_after: timedelta = NO_WAIT
    pause_before: bool = False
    pause_on_success: bool = False
    priority: int = 0  # higher goes first where tasks wait for a slot on a host


DEFAULT_POLICY = Policy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Fills one field of an action from the output of an earlier task, or from the input."""

    field: str  # of the action, such as "source.image_id"
    task: str  # the name of the task; empty for the input
    path: str  # in its output, or in the input
    type: str = ""  # what the field takes: "str", "int", "bool", "float"; empty: not known
    of_failure: bool = False  # not of a task nor of the input: "failure.reason", for end actions

    @property
    def origin(self) -> str:
        """Returns the path as people write it."""
        if self.of_failure:
            return self.path
        return f"tasks.{self.task}.output.{self.path}" if self.task else f"input.{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Holds when the value at a path is as said."""

    task: str  # the name of the task; empty for the input
    path: str  # in its output, or in the input
    equals: str | None = None  # None: the value is there, and neither false, zero nor empty
    of_state: bool = False  # not a value: the state of the task, such as "SKIPPED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opposite:
    """A verb that replaces a task's own opposite."""

    verb: str
    action: bytes
    bindings: tuple[Binding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """A leaf of the tree: one verb on one host."""

    name: str
    after: tuple[str, ...] = ()
    when: Condition | None = None
    host: str  # empty: the coordinator chooses
    candidates: tuple[str, ...] = ()  # hosts that a later attempt may go to as well
    verb: str
    effect: Effect = Effect.REVERSIBLE
    action: bytes = b""
    bindings: tuple[Binding, ...] = ()
    opposite: Opposite | None = None  # None: the verb's own
    policy: Policy = DEFAULT_POLICY
    source: str = field(default="", compare=False)  # the path in what was submitted


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRules:
    """What a group says of its members together."""

    min_success: int = 0  # members that must pass; 0: all
    concurrency_max: int = 0  # members at work at the same time; 0: no bound
    rounds_max: int = 1  # how often it is run before its failure counts, made up for in between
    on_failure: OnFailure | None = None  # said by the group itself, and not inherited
    fan_out: bool = False  # its members are the items of a for_each, in order
    nested: bool = False  # it stands for a whole nested workflow


NO_RULES = GroupRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """Members in a sequence or in parallel."""

    name: str
    kind: GroupKind
    members: tuple[NodeSpec, ...]
    after: tuple[str, ...] = ()
    when: Condition | None = None
    recovery: tuple[NodeSpec, ...] = ()  # run in a sequence, under RECOVER
    rules: GroupRules = NO_RULES
    source: str = field(default="", compare=False)  # the path in what was submitted


NodeSpec = TaskSpec | GroupSpec


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Lock:
    """An image that a workflow holds from its start to its end."""

    pool: str
    image: str
    exclusive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a spec says beside its tree."""

    on_success: tuple[NodeSpec, ...] = ()  # end actions, run in a sequence
    on_failure: tuple[NodeSpec, ...] = ()
    timeout: timedelta | None = None  # from start to verdict
    locks: tuple[Lock, ...] = ()  # in a fixed order, each image once
    lock_refused: bool = False  # refused when an image is held, instead of waiting in line


NO_TERMS = Terms()


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
    """A tree in the order of its nodes; the root is node 0, end actions come last."""

    nodes: tuple[Node, ...]
    by_name: Mapping[str, int] = field(repr=False)
    terms: Terms = NO_TERMS
    on_success: int = -1  # the group of end actions
    on_failure: int = -1
    irreversible: tuple[int, ...] = ()  # leaves that cannot be made up for

    @property
    def leaves(self) -> Iterator[Node]:
        """Yields the tasks in the order of the tree, end actions included."""
        return (node for node in self.nodes if node.task is not None)

    def leaves_of(self, index: int) -> Iterator[Node]:
        """Yields the tasks below a node, or the node itself if it is one."""
        return (n for n in self.nodes[index : self.nodes[index].end] if n.task is not None)

    def task(self, index: int) -> TaskSpec:
        """Returns the spec of a leaf."""
        task = self.nodes[index].task
        assert task is not None, self.nodes[index].name
        return task

    def is_end_action(self, index: int) -> bool:
        """Returns whether a node is not of the tree itself."""
        return index >= self.nodes[0].end


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a tree."""

    field: str
    description: str


def problems(
    root: GroupSpec, terms: Terms = NO_TERMS, path: str = "spec.root"
) -> tuple[Problem, ...]:
    """Returns everything that is wrong with the structure of a tree, in its order."""
    found: list[Problem] = []
    paths: dict[str, str] = {}
    if root.after:
        found.append(Problem(field=f"{path}.after", description="the root has no siblings"))
    _check_group(root, path, paths, found, depth=1)
    whole = path.rpartition(".")[0] or path
    for name, actions in ((ON_SUCCESS, terms.on_success), (ON_FAILURE, terms.on_failure)):
        if actions:
            group = GroupSpec(name=name, kind=GroupKind.SEQUENCE, members=actions)
            here = f"{whole}.{name.replace('-', '_')}"
            _check_members(group, here, paths, found, depth=1)
    if len(paths) > NODES_MAX:
        found.append(
            Problem(field=path, description=f"has {len(paths)} nodes, more than {NODES_MAX}")
        )
    if not found:  # what follows needs a sound tree
        plan = compile_plan(root, terms)
        found.extend(_binding_problems(plan, paths))
        found.extend(_effect_problems(plan, paths))
    return tuple(found)


def _check_group(
    group: GroupSpec, path: str, paths: dict[str, str], found: list[Problem], depth: int
) -> None:
    """Checks names, nesting, rules and `after` of one group and of everything below it."""
    _check_name(group, path, paths, found)
    if not group.members and not group.rules.fan_out:
        found.append(Problem(field=f"{path}.members", description="needs at least one member"))
    found.extend(_rule_problems(group, path))
    _check_members(group, f"{path}.members", paths, found, depth)
    if group.recovery:
        recovery = GroupSpec(
            name=f"{group.name}{RECOVERY_SUFFIX}", kind=GroupKind.SEQUENCE, members=group.recovery
        )
        _check_members(recovery, f"{path}.recovery", paths, found, depth)
    _check_after(group, path, found)


def _rule_problems(group: GroupSpec, path: str) -> Iterator[Problem]:
    """Yields rules of a group that do not fit each other."""
    rules = group.rules
    count = len(group.members)
    if rules.min_success and group.kind is GroupKind.SEQUENCE:
        yield Problem(
            field=f"{path}.min_success",
            description="is for parallel groups; all members of a sequence must succeed",
        )
    elif not 0 <= rules.min_success <= count:
        yield Problem(
            field=f"{path}.min_success",
            description=f"must be in 0 to {count}: the group has {count} members",
        )
    if rules.concurrency_max and group.kind is GroupKind.SEQUENCE:
        yield Problem(
            field=f"{path}.concurrency_max",
            description="is for parallel groups; a sequence runs one member at a time",
        )
    if rules.on_failure is OnFailure.RECOVER and not group.recovery:
        yield Problem(
            field=f"{path}.recovery",
            description="is required: ON_FAILURE_RECOVER runs these tasks",
        )
    if group.recovery and rules.on_failure is not OnFailure.RECOVER:
        yield Problem(
            field=f"{path}.recovery",
            description="is never run unless the group's policy says ON_FAILURE_RECOVER",
        )


def _check_members(
    group: GroupSpec, path: str, paths: dict[str, str], found: list[Problem], depth: int
) -> None:
    if depth > DEPTH_MAX:
        here = path.removesuffix(".members")
        found.append(Problem(field=here, description=f"is nested deeper than {DEPTH_MAX} groups"))
        return
    for number, member in enumerate(group.members):
        here = member.source or f"{path}[{number}]"
        if isinstance(member, GroupSpec):
            inner = here if member.source else f"{here}.group"
            _check_group(member, inner, paths, found, depth + 1)
        else:
            _check_name(member, here, paths, found)


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
    """Yields bindings and conditions that speak of tasks which do not exist or come later."""
    precedence = _Precedence(plan)
    for node in plan.nodes:
        path = paths.get(node.name, "spec")
        for binding, here in _reads(node, path):
            source = plan.by_name.get(binding.task)
            if isinstance(binding, Binding) and binding.of_failure:
                if not _may_see_failure(plan, node.index):
                    yield Problem(
                        field=here,
                        description=f"{binding.path!r} is known to on_failure end actions "
                        "and to recovery tasks only",
                    )
            elif not binding.task:
                continue
            elif source is None or plan.nodes[source].task is None:
                yield Problem(
                    field=here, description=f"there is no task {binding.task!r} in this spec"
                )
            elif not precedence.comes_before(source, node.index):
                yield Problem(
                    field=here,
                    description=f"{binding.task!r} does not come before {node.name!r}: "
                    "its output would not be there yet",
                )


def _reads(node: Node, path: str) -> Iterator[tuple[Binding | Condition, str]]:
    """Yields everything by which a node takes a value of others, with the path of the field."""
    if node.when is not None:
        yield node.when, f"{path.removesuffix('.group')}.when.path"
    if node.task is None:
        return
    for number, binding in enumerate(node.task.bindings):
        yield binding, f"{path}.task.bindings[{number}].source"
    if node.task.opposite is None:
        return
    for number, binding in enumerate(node.task.opposite.bindings):
        if binding.task != node.name:  # what it left itself is always there
            yield binding, f"{path}.task.compensation.bindings[{number}].source"


def _may_see_failure(plan: Plan, index: int) -> bool:
    return any(
        plan.nodes[above].recovers or above == plan.on_failure for above in ancestors(plan, index)
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
        # They meet nowhere: one is an end action, and comes after the whole tree.
        return self._plan.is_end_action(later) and not self._plan.is_end_action(earlier)

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
    """Yields verbs without an opposite that stand where the saga could not keep its rule.

    Before a pivot everything has an opposite, so that its failure can be made up for. Beside one
    nothing runs whose failure would ask for making up for it. After one nothing fails for good:
    what fails there is retried, and the workflow shows BLOCKED.
    """
    if not plan.irreversible:
        return
    precedence = _Precedence(plan)
    harmful = _Harm(plan)
    for index in plan.irreversible:
        task = plan.task(index)
        here = f"{paths[task.name]}.task.action"
        because = f"{task.verb} cannot be made up for"
        if round_ := next(
            (above for above in ancestors(plan, index) if plan.nodes[above].rules.rounds_max > 1),
            None,
        ):
            yield Problem(
                field=here,
                description=f"{because}: group {plan.nodes[round_].name!r} could not begin another "
                "round",
            )
        if other := harmful.beside(index, precedence):
            yield Problem(
                field=here,
                description=f"{because}, and {other!r} may fail beside it: put one after the "
                "other, or give the other's group ON_FAILURE_COMPENSATE_GROUP",
            )
    pivots = [i for i in plan.irreversible if plan.task(i).effect is Effect.PIVOT]
    for pivot in pivots:
        for earlier in plan.irreversible:
            if earlier != pivot and precedence.comes_before(earlier, pivot):
                name = plan.nodes[earlier].name
                yield Problem(
                    field=f"{paths[plan.nodes[pivot].name]}.task.action",
                    description=f"is a pivot after {name!r}, which cannot be made up for either: "
                    "there is at most one pivot in a branch, and nothing irreversible before it",
                )
                break


class _Harm:
    """Which nodes may ask, by failing, for what runs beside them to be made up for."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._harmful = [False] * len(plan.nodes)
        for node in reversed(plan.nodes):
            if node.task is not None:
                harms = node.task.policy.on_failure in _HARMFUL
            else:
                absorbs = node.rules.on_failure is OnFailure.COMPENSATE_GROUP
                harms = not absorbs and any(self._harmful[member] for member in node.members)
            self._harmful[node.index] = harms

    def beside(self, index: int, precedence: _Precedence) -> str:
        """Returns the name of a node that may fail beside one and harm it, or nothing."""
        for climb in ancestors(self._plan, index):
            parent = self._plan.nodes[climb].parent
            if parent < 0 or self._plan.nodes[parent].group is GroupKind.SEQUENCE:
                continue
            for other in self._plan.nodes[parent].members:
                if (
                    other != climb
                    and self._harmful[other]
                    and not precedence.reaches(climb, other)
                    and not precedence.reaches(other, climb)
                ):
                    return self._plan.nodes[other].name
        return ""


_HARMFUL = frozenset({OnFailure.COMPENSATE, OnFailure.COMPENSATE_GROUP, OnFailure.RECOVER})
