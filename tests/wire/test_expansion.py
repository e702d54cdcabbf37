"""What for_each groups and nested workflows become, and what names mean in them."""

from __future__ import annotations

import pytest

from coordinator.saga.spec import OnFailure
from coordinator.wire.spec import plan_of, tree_from_spec
from countermand.client.spec import (
    compensate_by,
    image,
    parallel,
    policy,
    sequence,
    task,
    workflow_spec,
)
from countermand.v1.image_pb2 import ImageAddress
from countermand.v1.verb_pb2 import Action, CopyImage, CreateImage, Noop
from countermand.v1.workflow_spec_pb2 import Condition, Policy
from tests.wire.specs import (
    bound,
    copy,
    copy_to,
    for_each,
    leaf,
    nested,
    plan,
    shape,
    spec_of,
    struct,
    verify,
)

TWO = {"disks": [{"id": "d0", "size": 512}, {"id": "d1", "size": 1024}]}


def test_a_single_member_stands_for_its_item():
    found = plan(
        spec_of(for_each(parallel("each", copy_to("copy", "disk.id")), "input.disks", "disk")), TWO
    )
    assert shape(found) == "root(each(copy.0 | copy.1))"
    assert bound(found, "copy.1") == {"target.image_id": "input.disks.1.id"}
    assert found.nodes[found.by_name["each"]].rules.fan_out
    assert leaf(found, "copy.1").source == "spec.root.members[0].group.members[0]"


def test_several_members_stand_in_a_sequence_and_find_each_other():
    each = parallel("each", copy_to("copy", "disk.id"), verify("check", "copy"))
    found = plan(spec_of(for_each(each, "input.disks", "disk")), TWO)
    assert shape(found) == "root(each(each.0(copy.0 check.0) | each.1(copy.1 check.1)))"
    assert bound(found, "check.1") == {
        "target.pool_id": "tasks.copy.1.output.image.pool_id",
        "target.image_id": "tasks.copy.1.output.image.image_id",
    }
    assert not found.nodes[found.by_name["each.0"]].rules.fan_out


def test_items_may_follow_each_other():
    each = sequence("each", copy_to("copy", "disk.id"))
    found = plan(spec_of(for_each(each, "input.disks", "disk")), TWO)
    assert shape(found) == "root(each(copy.0 copy.1))"


def test_an_item_that_is_no_object_is_bound_whole():
    each = for_each(parallel("each", copy_to("copy", "id")), "input.ids", "id")
    found = plan(spec_of(each), {"ids": ["x", "y"]})
    assert bound(found, "copy.1") == {"target.image_id": "input.ids.1"}


def test_further_lists_go_along():
    action = CreateImage(target=ImageAddress(pool_id="pool"))
    create = task(
        "create",
        host="a",
        action=action,
        bindings={"target.image_id": "name", "virtual_size_bytes": "size"},
    )
    each = for_each(parallel("each", create), "input.names", "name", size="input.sizes")
    found = plan(spec_of(each), {"names": ["x", "y"], "sizes": [512, 1024]})
    assert bound(found, "create.1") == {
        "target.image_id": "input.names.1",
        "virtual_size_bytes": "input.sizes.1",
    }
    assert [b.type for b in leaf(found, "create.1").bindings] == ["str", "int"]


def test_the_index_is_filled_in():
    action = CreateImage(target=image("pool/x"), virtual_size_bytes=512)
    create = task("create", host="a", action=action, bindings={"format": "disk_index"})
    each = for_each(parallel("each", create), "input.disks", "disk")
    found = plan(spec_of(each), TWO)
    formats = [Action.FromString(leaf(found, f"create.{n}").action) for n in (0, 1)]
    assert [action.create_image.format for action in formats] == [0, 1]
    assert leaf(found, "create.1").bindings == ()


def test_an_empty_list_is_an_empty_group():
    """S-C6: nothing to do is no mistake."""
    each = for_each(parallel("each", copy_to("copy", "disk.id")), "input.disks", "disk")
    assert shape(plan(spec_of(copy("first"), each), {"disks": []})) == "root(first each())"


def test_lists_in_lists_of_groups_count_their_own():
    inner = for_each(parallel("inner", copy_to("copy", "b")), "input.bs", "b")
    outer = for_each(parallel("outer", copy_to("first", "a"), inner), "input.as", "a")
    found = plan(spec_of(outer), {"as": ["w", "x"], "bs": ["y", "z"]})
    assert shape(found) == (
        "root(outer(outer.0(first.0 inner.0(copy.0.0 | copy.0.1)) "
        "| outer.1(first.1 inner.1(copy.1.0 | copy.1.1))))"
    )


def test_names_are_found_from_inside_out():
    """From within an item its own task, from elsewhere the one whose item is named."""
    told = {"failure_message": "tasks.first.output.digest"}
    noop = task("noop", host="a", action=Noop(), bindings=told)
    inner = for_each(parallel("inner", noop), "input.bs", "b")
    outer = for_each(parallel("outer", copy_to("first", "a"), inner), "input.as", "a")
    last = task(
        "last", host="a", action=Noop(), bindings={"failure_message": "tasks.first.1.output.digest"}
    )
    found = plan(spec_of(outer, last), {"as": ["w", "x"], "bs": ["y"]})
    assert bound(found, "noop.1.0") == {"failure_message": "tasks.first.1.output.digest"}
    assert bound(found, "last") == {"failure_message": "tasks.first.1.output.digest"}


def test_an_item_of_a_group_inside_is_named_by_its_own_index_or_by_all():
    inner = for_each(parallel("inner", copy_to("copy", "b")), "input.bs", "b")
    check = verify("check", "copy.1")
    outer = for_each(parallel("outer", inner, check), "input.as", "a")
    found = plan(spec_of(outer, verify("last", "copy.0.1")), {"as": [1, 2], "bs": ["y", "z"]})
    assert bound(found, "check.0")["target.image_id"] == "tasks.copy.0.1.output.image.image_id"
    assert bound(found, "check.1")["target.image_id"] == "tasks.copy.1.1.output.image.image_id"
    assert bound(found, "last")["target.image_id"] == "tasks.copy.0.1.output.image.image_id"


def test_after_and_conditions_follow_into_the_items():
    one = copy_to("one", "disk.id")
    two = copy("two", when=Condition(path="tasks.one.output.digest", equals="x"), target="pool/two")
    each = for_each(parallel("each", one, two), "input.disks", "disk")
    inner = parallel("in", copy("p"), copy("q", after=["p"]), copy("r", after=["p", "q"]))
    wide = for_each(parallel("wide", inner), "input.disks", "it")
    found = plan(spec_of(each, wide), TWO)
    when = leaf(found, "two.1").when
    assert when is not None
    assert (when.task, when.path, when.equals) == ("one.1", "digest", "x")
    assert leaf(found, "r.1").after == ("p.1", "q.1")


def test_a_condition_may_ask_for_a_state_or_an_item():
    asks = copy("asks", when=Condition(path="tasks.first.state", equals="SKIPPED"))
    item = copy("item", target="pool/i", when=Condition(path="disk.wanted", truthy=True))
    each = for_each(parallel("each", item), "input.disks", "disk")
    found = plan(spec_of(copy("first"), asks, each), {"disks": [{"wanted": None}]})
    state, wanted = leaf(found, "asks").when, leaf(found, "item.0").when
    assert state is not None
    assert wanted is not None
    assert (state.task, state.of_state, state.equals) == ("first", True, "SKIPPED")
    assert (wanted.task, wanted.path, wanted.equals) == ("", "disks.0.wanted", None)


# -- nested workflows ---------------------------------------------------------------------------


def test_a_nested_workflow_is_a_group_whose_tasks_bear_its_name():
    inner = workflow_spec("inner", parallel("x", copy("one"), copy("two", after=["one"])))
    found = plan(spec_of(copy("one", target="pool/other"), nested("sub", inner)))
    assert shape(found) == "root(one sub(sub.one | sub.two))"
    assert found.nodes[found.by_name["sub"]].rules.nested
    assert leaf(found, "sub.two").after == ("sub.one",)
    assert leaf(found, "sub.two").source == "spec.root.members[1].workflow.root.members[1]"


def test_a_nested_workflow_finds_its_own_names_first_and_then_those_outside():
    inner = spec_of(copy("one"), verify("own", "one"), verify("outer", "base"))
    found = plan(
        spec_of(copy("one", target="pool/x"), copy("base", target="pool/y"), nested("sub", inner))
    )
    assert bound(found, "sub.own")["target.image_id"] == "tasks.sub.one.output.image.image_id"
    assert bound(found, "sub.outer")["target.image_id"] == "tasks.base.output.image.image_id"


def test_what_is_nested_is_found_from_outside_by_its_whole_name():
    found = plan(spec_of(nested("sub", spec_of(copy("one"))), verify("check", "sub.one")))
    assert bound(found, "check")["target.image_id"] == "tasks.sub.one.output.image.image_id"


def test_a_workflow_nested_in_a_fan_out_knows_its_item():
    inner = spec_of(copy_to("one", "disk.id"), verify("two", "one"))
    each = for_each(parallel("each", nested("sub", inner)), "input.disks", "disk")
    found = plan(spec_of(each, verify("last", "sub.1.one")), TWO)
    assert (
        shape(found) == "root(each(sub.0(sub.0.one sub.0.two) | sub.1(sub.1.one sub.1.two)) last)"
    )
    assert bound(found, "sub.1.one") == {"target.image_id": "input.disks.1.id"}
    assert bound(found, "sub.1.two")["target.pool_id"] == "tasks.sub.1.one.output.image.pool_id"
    assert bound(found, "last")["target.pool_id"] == "tasks.sub.1.one.output.image.pool_id"


def test_a_fan_out_may_stand_in_a_nested_workflow():
    each = for_each(parallel("each", copy_to("copy", "disk.id")), "input.disks", "disk")
    found = plan(spec_of(nested("sub", spec_of(each))), TWO)
    assert shape(found) == "root(sub(sub.each(sub.copy.0 | sub.copy.1)))"


# -- what else a spec says ----------------------------------------------------------------------


def test_rules_of_groups_are_kept_and_their_own_verdict_with_them():
    group = parallel(
        "g",
        copy("one"),
        copy("two"),
        min_success=1,
        concurrency_max=2,
        policy=policy(on_failure=Policy.ON_FAILURE_COMPENSATE_GROUP),
    )
    group.group.rounds_max = 3
    found = plan(spec_of(group, policy=policy(on_failure=Policy.ON_FAILURE_STOP)))
    rules = found.nodes[found.by_name["g"]].rules
    assert (rules.min_success, rules.concurrency_max, rules.rounds_max) == (1, 2, 3)
    assert rules.on_failure is OnFailure.COMPENSATE_GROUP
    assert found.nodes[0].rules.on_failure is OnFailure.STOP
    assert leaf(found, "one").policy.on_failure is OnFailure.COMPENSATE_GROUP


def test_recovery_tasks_see_the_failure_and_come_last():
    group = sequence("g", copy("one"), policy=policy(on_failure=Policy.ON_FAILURE_RECOVER))
    noop = task("mend", host="a", action=Noop(), bindings={"failure_message": "failure.message"})
    group.group.recovery.append(noop)
    found = plan(spec_of(group))
    assert shape(found) == "root(g(one g.recovery(mend)))"
    [binding] = leaf(found, "mend").bindings
    assert (binding.of_failure, binding.path, binding.type) == (True, "failure.message", "str")


def test_end_actions_see_more_of_it():
    told = {"failure_message": "compensated.tasks"}
    spec = spec_of(
        copy("one"),
        on_success=[verify("check", "one")],
        on_failure=[task("tell", host="a", action=Noop(), bindings=told)],
    )
    found = plan(spec)
    assert shape(found) == "root(one) on-success(check) on-failure(tell)"
    assert bound(found, "tell") == told
    assert leaf(found, "tell").source == "spec.on_failure[0]"


def test_a_compensation_of_ones_own_is_bound_like_an_action():
    """S-G9: to the task's own output, the input and earlier tasks."""
    by = compensate_by(
        CopyImage(target=ImageAddress(pool_id="pool")),
        bindings={
            "source.pool_id": "tasks.copy.output.image.pool_id",
            "source.image_id": "tasks.copy.output.image.image_id",
            "target.image_id": "disk.id",
        },
    )
    each = parallel("each", copy_to("copy", "disk.id", compensation=by))
    found = plan(spec_of(for_each(each, "input.disks", "disk")), TWO)
    opposite = leaf(found, "copy.1").opposite
    assert opposite is not None
    assert opposite.verb == "copy_image"
    assert [binding.origin for binding in opposite.bindings] == [
        "tasks.copy.1.output.image.pool_id",
        "tasks.copy.1.output.image.image_id",
        "input.disks.1.id",
    ]


def test_candidates_are_told_once_and_beside_the_host():
    one = copy("one", host="a", candidate_hosts=["b", "a", "c", "b"])
    two = copy("two", host="", candidate_hosts=["b"])
    found = plan(spec_of(one, two))
    assert (leaf(found, "one").host, leaf(found, "one").candidates) == ("a", ("b", "c"))
    assert (leaf(found, "two").host, leaf(found, "two").candidates) == ("", ("b",))


@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_plan_is_the_same_however_it_is_asked_for(count):
    """What a store compiles again is what was checked."""
    each = parallel("each", copy_to("copy", "disk"), verify("check", "copy"))
    spec = spec_of(for_each(each, "input.disks", "disk"), copy("last"))
    input_ = {"disks": [f"d{number}" for number in range(count)]}
    checked = plan(spec, input_)
    assert plan_of(spec, struct(input_)) == checked
    root, terms = tree_from_spec(spec, struct(input_))
    assert (root.name, terms) == ("root", checked.terms)
