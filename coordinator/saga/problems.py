"""What is wrong with a tree as submitted: all of it at once, with the path of each field.

Structure first; then, of a sound tree, what its tasks are bound to, and verbs without an opposite
that stand where the saga could not keep its rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from coordinator.saga.plan import (
    ON_FAILURE,
    ON_SUCCESS,
    RECOVERY_SUFFIX,
    Node,
    Plan,
    Precedence,
    ancestors,
    compile_plan,
)
from coordinator.saga.spec import (
    DEPTH_MAX,
    NO_TERMS,
    NODES_MAX,
    Binding,
    Condition,
    GroupKind,
    GroupSpec,
    NodeSpec,
    OnFailure,
    TaskSpec,
    Terms,
)
from coordinator.saga.states import Effect


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
    if not group.members and not group.rules.fan_out and not group.rules.open:
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
    precedence = Precedence(plan)
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
    field = "external_task" if node.task.external else "task"
    for number, binding in enumerate(node.task.bindings):
        yield binding, f"{path}.{field}.bindings[{number}].source"
    if node.task.opposite is None:
        return
    for number, binding in enumerate(node.task.opposite.bindings):
        if binding.task != node.name:  # what it left itself is always there
            yield binding, f"{path}.task.compensation.bindings[{number}].source"


def _may_see_failure(plan: Plan, index: int) -> bool:
    return any(
        plan.nodes[above].recovers or above == plan.on_failure for above in ancestors(plan, index)
    )


def _effect_problems(plan: Plan, paths: Mapping[str, str]) -> Iterator[Problem]:
    """Yields verbs without an opposite that stand where the saga could not keep its rule.

    Before a pivot everything has an opposite, so that its failure can be made up for. Beside one
    nothing runs whose failure would ask for making up for it. After one nothing fails for good:
    what fails there is retried, and the workflow shows BLOCKED.
    """
    if not plan.irreversible:
        return
    precedence = Precedence(plan)
    harmful = _Harm(plan)
    for index in plan.irreversible:
        task = plan.task(index)
        here = f"{paths[task.name]}.{_of_effect(task)}"
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
                    field=f"{paths[plan.nodes[pivot].name]}.{_of_effect(plan.task(pivot))}",
                    description=f"is a pivot after {name!r}, which cannot be made up for either: "
                    "there is at most one pivot in a branch, and nothing irreversible before it",
                )
                break


def _of_effect(task: TaskSpec) -> str:
    """Returns the field of a node that says what its task does to the world."""
    return "external_task.effect" if task.external else "task.action"


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

    def beside(self, index: int, precedence: Precedence) -> str:
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
