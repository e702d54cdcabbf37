"""Tasks that were added to a plan: one by one as they come, or all at once when it is loaded."""

from __future__ import annotations

from random import Random

import pytest

from coordinator.saga.plan import Growth, Plan, comes_before, compile_plan
from coordinator.saga.spec import GroupKind, GroupSpec, TaskSpec
from coordinator.saga.states import Effect


def _task(name: str, after: tuple[str, ...] = ()) -> TaskSpec:
    return TaskSpec(
        name=name, after=after, host="owner:acme", verb="acme/x", effect=Effect.READ_ONLY
    )


def _plan() -> Plan:
    inner = GroupSpec(
        name="inner",
        kind=GroupKind.PARALLEL,
        members=(_task("a"), _task("b", ("a",))),
        recovery=(_task("mend"),),
    )
    members = (_task("first"), inner, _task("last"))
    return compile_plan(GroupSpec(name="all", kind=GroupKind.SEQUENCE, members=members))


@pytest.mark.parametrize("seed", range(5))
def test_a_plan_is_the_same_whether_tasks_come_singly_or_together(seed: int):
    random, plan = Random(seed), _plan()
    inner = plan.by_name["inner"]
    together, names = Growth(plan), ["a", "b"]
    for number in range(60):
        name = f"added-{number}"
        under = plan.by_name[random.choice([*names, "first"])] if random.random() < 0.5 else -1
        if under >= 0:
            parent, spec = plan.nodes[under].parent, _task(name)
        else:
            parent, spec = inner, _task(name, tuple(random.choices(names, k=random.randrange(3))))
        plan = plan.with_task(spec, parent=parent, under=under)
        together.add(spec, parent=parent, under=under)
        names += [name] if parent == inner else []

    assert together.plan() == plan


def test_what_is_added_comes_before_the_recovery_and_a_part_stands_where_its_whole_does():
    plan = _plan()
    inner, b = plan.by_name["inner"], plan.by_name["b"]

    plan = plan.with_task(_task("part"), parent=inner, under=b)
    plan = plan.with_task(_task("part-of-part"), parent=inner, under=plan.by_name["part"])

    plan = plan.with_task(_task("more"), parent=inner)

    part, of_part, more = (plan.by_name[name] for name in ("part", "part-of-part", "more"))
    recovery = plan.nodes[inner].recovery
    assert plan.nodes[inner].members[-3:] == (b, more, recovery)
    assert more in plan.nodes[recovery].after
    assert plan.parts == {b: (part,), part: (of_part,)}
    assert not plan.nodes[part].after
    assert comes_before(plan, plan.by_name["a"], of_part)
    assert comes_before(plan, of_part, plan.by_name["last"])
    assert not comes_before(plan, part, b)
