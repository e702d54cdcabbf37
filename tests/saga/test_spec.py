"""What is wrong with a tree is said beforehand, with the path of the field."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.saga.plan import comes_before, compile_plan
from coordinator.saga.problems import problems
from coordinator.saga.spec import DEPTH_MAX, NODES_MAX, Binding, GroupKind, GroupSpec, TaskSpec
from tests.saga.language import play, terms, tree

ROOT = "spec.root"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a; (b | c<b); d", [], id="sound"),
        pytest.param("a; ()", [f"{ROOT}.members[1].group.members"], id="empty-group"),
        pytest.param("", [f"{ROOT}.members"], id="empty-root"),
        pytest.param("a | b<c | c<b", [f"{ROOT}.members"], id="cyclic-after"),
        pytest.param("a | b<b", [f"{ROOT}.members"], id="after-itself"),
        pytest.param("x; (a | b<c | c<d | d<b)", [f"{ROOT}.members[1].group.members"], id="cycle"),
        pytest.param("a | b<z", [f"{ROOT}.members[1].after"], id="unknown-sibling"),
        pytest.param(
            "(a; b) | c<a", [f"{ROOT}.members[1].after"], id="after-a-member-of-another-group"
        ),
        pytest.param("a; b<a", [f"{ROOT}.members[1].after"], id="after-in-a-sequence"),
        pytest.param("a; (b | a)", [f"{ROOT}.members[1].group.members[1].name"], id="doubled-name"),
        pytest.param("a; a(b)", [f"{ROOT}.members[1].name"], id="group-named-as-a-task"),
        pytest.param("a; root", [f"{ROOT}.members[1].name"], id="named-as-the-root"),
        pytest.param(
            "a:takes=z.image", [f"{ROOT}.members[0].task.bindings[0].source"], id="from-nobody"
        ),
        pytest.param(
            "a:takes=b.image; b", [f"{ROOT}.members[0].task.bindings[0].source"], id="from-a-later"
        ),
        pytest.param(
            "a:takes=a.image", [f"{ROOT}.members[0].task.bindings[0].source"], id="from-itself"
        ),
        pytest.param(
            "a | b:takes=a.image", [f"{ROOT}.members[1].task.bindings[0].source"], id="from-beside"
        ),
        pytest.param(
            "g(a); b:takes=g.image",
            [f"{ROOT}.members[1].task.bindings[0].source"],
            id="from-a-group",
        ),
        pytest.param(
            "(a | (b; c)); (d | e:takes=d.image)",
            [f"{ROOT}.members[1].group.members[1].task.bindings[0].source"],
            id="from-beside-deep",
        ),
        pytest.param("(a | (b; c)); (d | e:takes=c.image)", [], id="from-an-earlier-group"),
        pytest.param("a | b<a:takes=a.image", [], id="from-what-it-comes-after"),
        pytest.param("a:takes=input.size", [], id="from-the-input"),
        pytest.param("a:pivot; b", [], id="irreversible-before-another"),
        pytest.param(
            "a:pivot; b:pivot", [f"{ROOT}.members[1].task.action"], id="a-second-pivot-in-a-branch"
        ),
        pytest.param(
            "a:forward; b:pivot", [f"{ROOT}.members[1].task.action"], id="a-pivot-too-late"
        ),
        pytest.param("a:pivot; b:forward; c; d:forward", [], id="forward-after-a-pivot"),
        pytest.param("a:forward; b; c:forward", [], id="forward-first-is-the-pivot"),
        pytest.param(
            "g(a; b:pivot):rounds=2",
            [f"{ROOT}.members[0].group.members[1].task.action"],
            id="irreversible-in-rounds",
        ),
        pytest.param("a | b<a:pivot", [], id="irreversible-after-a-sibling"),
        pytest.param("a:ignore | b:pivot", [], id="irreversible-beside-what-harms-nobody"),
        pytest.param("(a | b):min=1", [], id="quorum"),
        pytest.param("(a | b):min=2", [], id="quorum-of-all"),
        pytest.param(
            "(a | b):min=3", [f"{ROOT}.members[0].group.min_success"], id="quorum-of-more"
        ),
        pytest.param(
            "(a; b):min=1", [f"{ROOT}.members[0].group.min_success"], id="quorum-of-a-sequence"
        ),
        pytest.param("():fan", [], id="empty-fan-out"),
        pytest.param(
            "(a; b):max=1", [f"{ROOT}.members[0].group.concurrency_max"], id="bound-on-a-sequence"
        ),
        pytest.param("(a | b):max=1", [], id="bound"),
        pytest.param(
            "(a; b):recover", [f"{ROOT}.members[0].group.recovery"], id="recover-without-recovery"
        ),
        pytest.param(
            "(a; b){r}", [f"{ROOT}.members[0].group.recovery"], id="recovery-without-recover"
        ),
        pytest.param("(a; b){r}:recover", [], id="recovery"),
        pytest.param(
            "(a; b){a}:recover",
            [f"{ROOT}.members[0].group.recovery[0].name"],
            id="recovery-takes-a-name",
        ),
        pytest.param(
            "a; b:takes=failure.reason",
            [f"{ROOT}.members[1].task.bindings[0].source"],
            id="no-failure-to-be-told",
        ),
        pytest.param("(a; b){r:takes=failure.reason}:recover", [], id="a-failure-to-be-told"),
        pytest.param("(a; b){r:takes=a.image}:recover", [], id="recovery-reads-its-group"),
        pytest.param(
            "(a; b:takes=r.image){r}:recover",
            [f"{ROOT}.members[0].group.members[1].task.bindings[0].source"],
            id="group-reads-its-recovery",
        ),
        pytest.param("a; b:when=a.image", [], id="condition"),
        pytest.param(
            "a:when=b.image; b", [f"{ROOT}.members[0].when.path"], id="condition-on-later"
        ),
        pytest.param(
            "a:when=z.SKIPPED", [f"{ROOT}.members[0].when.path"], id="condition-on-nobody"
        ),
        pytest.param(
            "a; (b):when=c.image; c", [f"{ROOT}.members[1].when.path"], id="condition-of-a-group"
        ),
        pytest.param(
            "a | b:forward", [f"{ROOT}.members[1].task.action"], id="irreversible-beside-another"
        ),
        pytest.param(
            "a; (b | c:pivot)",
            [f"{ROOT}.members[1].group.members[1].task.action"],
            id="irreversible-last-but-beside",
        ),
        pytest.param("a; (b; (c | d)); e:pivot", [], id="irreversible-last"),
        pytest.param("a | b | c<a,b:pivot", [], id="join"),
    ],
)
def test_problems_name_the_field(text: str, expected: list[str]):
    assert [problem.field for problem in problems(tree(text))] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a => s:takes=a.image", [], id="reads-the-tree"),
        pytest.param("a => s; t:takes=s.image", [], id="reads-an-earlier-one"),
        pytest.param(
            "a => s:takes=t.image; t",
            ["spec.on_success[0].task.bindings[0].source"],
            id="reads-a-later-one",
        ),
        pytest.param(
            "a => s / f:takes=s.image",
            ["spec.on_failure[0].task.bindings[0].source"],
            id="reads-the-other-end",
        ),
        pytest.param(
            "a:takes=s.image => s",
            ["spec.root.members[0].task.bindings[0].source"],
            id="is-read-by-the-tree",
        ),
        pytest.param("a => / f:takes=failure.reason", [], id="is-told-the-failure"),
        pytest.param(
            "a => s:takes=failure.reason",
            ["spec.on_success[0].task.bindings[0].source"],
            id="of-a-success-is-told-no-failure",
        ),
        pytest.param("a => a", ["spec.on_success[0].name"], id="takes-a-name"),
        pytest.param("a => () / f", ["spec.on_success[0].group.members"], id="empty-group"),
    ],
)
def test_end_actions_are_checked_as_well(text: str, expected: list[str]):
    assert [problem.field for problem in problems(tree(text), terms(text))] == expected


def test_all_problems_are_told_at_once():
    found = problems(tree("a; (b | b); (c<z | d); ()"))
    assert [problem.field for problem in found] == [
        f"{ROOT}.members[1].group.members[1].name",
        f"{ROOT}.members[2].group.members[0].after",
        f"{ROOT}.members[3].group.members",
    ]


def test_a_cycle_is_written_out():
    (problem,) = problems(tree("a | b<d | c<b | d<c"))
    assert problem.description == "`after` goes in a circle: b → d → c → b"


def test_the_root_has_no_siblings():
    (problem,) = problems(replace(tree("a; b"), after=("a",)))
    assert problem.field == f"{ROOT}.after"


def test_a_sibling_named_twice_is_waited_for_once():
    assert play("a | b<a,a").story() == "do:a ok:a do:b ok:b = SUCCEEDED"


def nested(depth: int) -> GroupSpec:
    """Returns a task below as many groups."""
    leaf = TaskSpec(name="leaf", host="h", verb="copy")
    group = GroupSpec(name="g1", kind=GroupKind.SEQUENCE, members=(leaf,))
    for number in range(2, depth + 1):
        group = GroupSpec(name=f"g{number}", kind=GroupKind.PARALLEL, members=(group,))
    return group


def test_depth_is_limited():
    assert problems(nested(DEPTH_MAX)) == ()
    (problem,) = problems(nested(DEPTH_MAX + 1))
    assert problem.field == ROOT + ".members[0].group" * DEPTH_MAX
    assert len(problems(nested(10 * DEPTH_MAX))) == 1


def parallel(tasks: int) -> GroupSpec:
    """Returns a group of as many tasks."""
    members = tuple(TaskSpec(name=f"t{n}", host="h", verb="copy") for n in range(tasks))
    return GroupSpec(name="root", kind=GroupKind.PARALLEL, members=members)


def test_the_number_of_nodes_is_limited():
    assert problems(parallel(NODES_MAX - 1)) == ()
    (problem,) = problems(parallel(NODES_MAX))
    assert problem.field == ROOT


def test_a_binding_to_the_input_needs_no_task():
    binding = Binding(field="size_bytes", task="", path="size")
    task = TaskSpec(name="a", host="h", verb="copy", bindings=(binding,))
    assert problems(GroupSpec(name="root", kind=GroupKind.SEQUENCE, members=(task,))) == ()


ORDER = "a; (b | g(c; d)<b | e<b); f(h | i(j; k))"


@pytest.mark.parametrize(
    ("earlier", "later", "expected"),
    [
        ("a", "b", True),
        ("a", "k", True),
        ("b", "d", True),
        ("b", "g", True),
        ("c", "d", True),
        ("d", "e", False),
        ("e", "k", True),
        ("g", "h", True),
        ("d", "c", False),
        ("h", "k", False),
        ("j", "k", True),
        ("k", "a", False),
        ("a", "a", False),
        ("g", "d", False),  # a group is not at rest before its own members
        ("d", "g", False),
        ("root", "a", False),
        ("a", "root", False),
    ],
)
def test_comes_before(earlier: str, later: str, expected: bool):
    plan = compile_plan(tree(ORDER))
    assert comes_before(plan, plan.by_name[earlier], plan.by_name[later]) is expected


def test_members_of_a_plan_stand_in_the_order_of_the_tree():
    plan = compile_plan(tree(ORDER))
    assert [node.name for node in plan.leaves] == ["a", "b", "c", "d", "e", "h", "j", "k"]
    for node in plan.nodes:
        assert all(plan.nodes[member].parent == node.index for member in node.members)
        assert all(node.index in plan.nodes[earlier].before for earlier in node.after)
        assert all(node.index in plan.nodes[later].after for later in node.before)
