"""External tasks and open groups in a spec: what a plan makes of them, and what it refuses."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from coordinator.saga.plan import Growth
from coordinator.saga.spec import DEPTH_MAX, External, owner_of
from coordinator.saga.states import Effect
from coordinator.wire.external import (
    added_problems,
    added_task,
    broken_promises,
    grown,
    left,
    left_problems,
)
from coordinator.wire.view import in_order
from countermand.client.spec import equals, parallel, sequence, task, workflow_spec
from countermand.v1 import annotation_pb2
from countermand.v1.external_task_pb2 import AddExternalTaskRequest
from countermand.v1.verb_pb2 import Custom, Noop
from countermand.v1.workflow_spec_pb2 import Node, Policy
from tests.wire.specs import bound, copy_to, for_each, leaf, plan, shape, spec_of, wrong

FIRST = "spec.root.members[0].external_task"
SECOND = "spec.root.members[1].external_task"
REVERSIBLE = annotation_pb2.EFFECT_REVERSIBLE
READ_ONLY = annotation_pb2.EFFECT_READ_ONLY


def external(name: str = "one", **fields: Any) -> Node:
    """Returns a task of a vendor's."""
    bindings = fields.pop("bindings", {})
    node = {key: fields.pop(key) for key in ("after", "policy", "when") if key in fields}
    said = {"owner_id": "acme", "kind": "clone", "effect": READ_ONLY, **fields}
    made = Node.ExternalTask(**said)
    for field, source in bindings.items():
        made.bindings.add(field=field, source=source)
    return Node(name=name, external_task=made, **node)


def opened(node: Node) -> Node:
    node.group.open = True
    return node


def test_numbers_that_are_left_are_those_that_were_meant():
    """A whole one is exact up to 2^53; beyond that it comes as a text, as JSON writes int64."""
    external_ = External(outputs=(("big", "int64"), ("far", "double"), ("word", "string")))
    said = Struct()
    said.update({"big": "9007199254740993", "far": 2**60, "word": "7", "more": 2**53 - 1})
    assert not list(left_problems(external_, said))
    found = left(external_, said)
    assert found == {"big": 2**53 + 1, "far": 2.0**60, "word": "7", "more": 2**53 - 1}
    assert {key: type(value) for key, value in found.items()} == {
        "big": int, "far": float, "word": str, "more": int,
    }  # fmt: skip
    assert not list(broken_promises(external_, found))
    least, most = str(-(2**63)), str(2**63 - 1)
    for text, fits in ((least, True), (most, True), (str(2**63), False), ("9" * 9999, False)):
        said["big"] = text
        assert (not list(broken_promises(external_, left(external_, said)))) is fits, text[:30]

    said.update({"big": 2**53, "more": -(2**53)})
    assert {each.field for each in left_problems(external_, said)} == {"output.big", "output.more"}
    assert all("write it as a text" in each.description for each in left_problems(external_, said))


# -- what a plan makes of it ----------------------------------------------------------------------


def test_an_external_task_is_a_verb_of_its_owners():
    made = plan(
        spec_of(
            external(
                "one",
                effect=REVERSIBLE,
                operator_checklist="Remove it.",
                outputs={"b": "int64", "a": "string"},
                weight=7,
                heartbeat_timeout=timedelta(seconds=9),
                arguments={"k": "v"},
                description="Clones a disk.",
            )
        )
    )
    one = leaf(made, "one")
    assert (one.verb, one.host, one.effect) == ("acme/clone", "owner:acme", Effect.REVERSIBLE)
    assert (owner_of(one.host), one.weight, one.opposite) == ("acme", 7, None)
    assert one.external is not None
    assert one.external.outputs == (("a", "string"), ("b", "int64"))
    assert one.external.checklist == "Remove it."
    assert one.external.heartbeat_timeout == timedelta(seconds=9)
    assert one.external.description == "Clones a disk."
    assert made.terms.locks == ()


def test_no_host_is_looked_for():
    asked: list[Any] = []

    def hosts(*needs: Any) -> str:
        asked.append(needs)
        return "not there"

    assert wrong(spec_of(external(), task("n", host="x", action=Noop())), hosts=hosts) == {
        "spec.root.members[1].task.host_id": "not there"
    }
    assert [needs[0] for needs in asked] == ["x"]


def test_promised_outputs_are_bound_to_typed_fields_and_anything_to_arguments():
    made = plan(
        spec_of(
            external("one", outputs={"image": "string", "size": "int64"}),
            copy_to("copy", "tasks.one.output.image"),
            external(
                "two",
                arguments={"a": "", "b": "", "c": ""},
                bindings={
                    "arguments.a": "tasks.one.output.size",
                    "arguments.b": "tasks.copy.output.digest",
                    "arguments.c": "input.disk.name",
                },
            ),
        ),
        {"disk": {"name": "x"}},
    )
    assert bound(made, "copy") == {"target.image_id": "tasks.one.output.image"}
    assert bound(made, "two") == {
        "arguments.a": "tasks.one.output.size",
        "arguments.b": "tasks.copy.output.digest",
        "arguments.c": "input.disk.name",
    }


def test_a_weight_that_is_not_said_is_one_and_a_pivot_may_be_a_vendors():
    made = plan(spec_of(external("one", effect=annotation_pb2.EFFECT_PIVOT)))
    assert (leaf(made, "one").weight, leaf(made, "one").effect) == (1, Effect.PIVOT)


def test_its_outputs_may_be_conditions():
    skips = external("two", when=equals("tasks.one.output.kind", "thin"))
    made = plan(spec_of(external("one", outputs={"kind": "string"}), skips))
    assert made.nodes[made.by_name["two"]].when is not None


def test_it_is_repeated_like_any_member():
    group = for_each(
        parallel(
            "each", external("one", bindings={"arguments.disk": "disk"}, arguments={"disk": ""})
        ),
        "input.disks",
        "disk",
    )
    made = plan(spec_of(group), {"disks": ["a", "b"]})
    assert shape(made) == "root(each(one.0 | one.1))"


def test_an_end_action_may_be_a_vendors():
    spec = workflow_spec("test", sequence("all", external("one")), on_success=[external("tells")])
    assert shape(plan(spec)) == "root(one) on-success(tells)"


# -- what it refuses ------------------------------------------------------------------------------

REFUSED = {
    "no-owner": ({"owner_id": ""}, "owner_id", "is required"),
    "bad-owner": ({"owner_id": "Acme"}, "owner_id", "must match"),
    "owner-with-a-slash": ({"owner_id": "a/b"}, "owner_id", "must match"),
    "no-kind": ({"kind": ""}, "kind", "is required"),
    "long-kind": ({"kind": "k" * 64}, "kind", "must match"),
    "no-effect": ({"effect": 0}, "effect", "is required: one of EFFECT_READ_ONLY"),
    "unknown-effect": ({"effect": 9}, "effect", "is required: one of"),
    "negative-weight": ({"weight": -1}, "weight", "must be in 0 to 1000000"),
    "large-weight": ({"weight": 1_000_001}, "weight", "must be in 0 to 1000000"),
    "argument-with-a-dot": ({"arguments": {"a.b": "x"}}, "arguments['a.b']", "without a dot"),
    "argument-without-a-name": ({"arguments": {"": "x"}}, "arguments['']", "1 to 63"),
    "large-arguments": ({"arguments": {"a": "x" * 20_000}}, "arguments", "more than 16384"),
    "long-description": ({"description": "x" * 1025}, "description", "longer than 1024 bytes"),
    "short-heartbeat": (
        {"heartbeat_timeout": timedelta(milliseconds=999)},
        "heartbeat_timeout",
        "",
    ),
    "many-outputs": (
        {"outputs": {f"o{number}": "string" for number in range(65)}},
        "outputs",
        "are 65, more than 64",
    ),
    "output-of-no-type": ({"outputs": {"a": "float"}}, "outputs['a']", "must be one of string"),
    "output-with-a-dot": ({"outputs": {"a.b": "string"}}, "outputs['a.b']", "without a dot"),
    "owner-asked-for-nothing": ({"ask_owner": True}, "ask_owner", "is for EFFECT_REVERSIBLE"),
    "checklist-for-nothing": (
        {"operator_checklist": "x"},
        "operator_checklist",
        "is for EFFECT_REVERSIBLE",
    ),
    "owner-not-asked": (
        {"effect": REVERSIBLE, "ask_owner": False},
        "ask_owner",
        "must be true",
    ),
    "empty-checklist": (
        {"effect": REVERSIBLE, "operator_checklist": ""},
        "operator_checklist",
        "must have 1 to 4096 bytes",
    ),
    "long-checklist": (
        {"effect": REVERSIBLE, "operator_checklist": "é" * 2049},
        "operator_checklist",
        "must have 1 to 4096 bytes",
    ),
}


@pytest.mark.parametrize(("fields", "field", "words"), REFUSED.values(), ids=REFUSED)
def test_what_no_vendor_could_do_is_refused_by_its_field(fields, field, words):
    found = wrong(spec_of(external(**fields)))
    assert list(found) == [f"{FIRST}.{field}"]
    assert words in found[f"{FIRST}.{field}"]


@pytest.mark.parametrize(
    ("bindings", "words"),
    [
        ({"arguments.a": "tasks.one.output.other"}, "other"),
        ({"target.image_id": "tasks.one.output.volume"}, "must be arguments.<key>"),
        ({"arguments.a.b": "tasks.one.output.volume"}, "a.b"),
        ({"arguments.a": "tasks.two.output.volume"}, "two"),
        ({"arguments.a": "nothing"}, "nothing"),
    ],
    ids=["not-promised", "no-argument", "dotted", "its-own", "no-path"],
)
def test_a_binding_that_leads_nowhere_is_refused(bindings, words):
    spec = spec_of(
        external("one", outputs={"volume": "string"}),
        external("two", arguments={"a": ""}, bindings=bindings),
    )
    [(field, said)] = wrong(spec).items()
    assert field.startswith(f"{SECOND}.bindings[0]")
    assert words in said


def test_what_was_promised_must_fit_where_it_goes():
    spec = spec_of(
        external("one", outputs={"size": "int64"}), copy_to("copy", "tasks.one.output.size")
    )
    [(field, said)] = wrong(spec).items()
    assert field == "spec.root.members[1].task.bindings[0].source"
    assert "string" in said
    skips = external("two", when=equals("tasks.one.output.nothing", "x"))
    [(field, said)] = wrong(spec_of(external("one", outputs={"a": "bool"}), skips)).items()
    assert field == "spec.root.members[1].when.path"
    assert "a" in said


def test_a_second_pivot_and_what_cannot_be_undone_before_one_are_refused():
    pivots = [external(name, effect=annotation_pb2.EFFECT_PIVOT) for name in ("one", "two")]
    [(field, said)] = wrong(spec_of(*pivots)).items()
    assert field == "spec.root.members[1].external_task.effect"
    assert "before it" in said


# -- open groups ----------------------------------------------------------------------------------


def test_an_open_group_may_be_empty_and_a_closed_one_not():
    assert shape(plan(spec_of(opened(parallel("open"))))) == "root(open())"
    assert list(wrong(spec_of(parallel("closed")))) == ["spec.root.members[0].group.members"]


@pytest.mark.parametrize(
    "group",
    [
        opened(sequence("one", task("a", host="a", action=Noop()))),
        opened(for_each(parallel("one", task("a", host="a", action=Noop())), "input.l", "x")),
    ],
    ids=["sequence", "for-each"],
)
def test_only_a_plain_parallel_group_can_be_open(group):
    found = wrong(spec_of(group), {"l": ["x"]})
    assert list(found) == ["spec.root.members[0].group.open"]


# -- added to it ----------------------------------------------------------------------------------

W = "workflows/w"


def asked(parent: str, name: str, **fields: Any) -> AddExternalTaskRequest:
    said = {"owner_id": "acme", "kind": "part", "effect": READ_ONLY, **fields}
    return AddExternalTaskRequest(parent=parent, task_id=name, **said)


def test_what_is_added_comes_last_in_the_plan_and_where_it_belongs_in_the_tree():
    made = plan(
        spec_of(
            opened(parallel("open", external("one"))),
            external("last"),
            policy=Policy(on_failure=Policy.ON_FAILURE_PAUSE),
        )
    )
    requests = [
        asked(f"{W}/tasks/open", "two", after=["one"], weight=5),
        asked(f"{W}/tasks/one", "part", effect=REVERSIBLE, description="Deep."),
        asked(f"{W}/tasks/part", "deep", on_failure=Policy.ON_FAILURE_IGNORE),
    ]
    stored = []
    step = made
    for request in requests:
        assert list(added_problems(step, request)) == []
        growth = Growth(step)
        spec, parent, under = added_task(growth, request)
        growth.add(spec, parent=parent, under=under)
        step = growth.plan()
        assert spec.external is not None
        stored.append(spec.external.added)
    # A restart reads them in their order, and comes to the same.
    assert grown(made, stored) == step
    assert [node.name for node in step.nodes] == [
        *(node.name for node in made.nodes),
        "two",
        "part",
        "deep",
    ]
    assert [step.nodes[i].name for i in in_order(step)] == [
        "root",
        "open",
        "one",
        "part",
        "deep",
        "two",
        "last",
    ]
    # What comes after a task comes after its parts, too: it stands for them.
    after = [step.nodes[i].name for i in step.nodes[step.by_name["two"]].after]
    assert after == ["one"]
    [found] = added_problems(step, asked(f"{W}/tasks/open", "three", after=["part"]))
    assert found.description == "'part' is not a member of open"
    assert leaf(step, "part").policy.on_failure == leaf(step, "one").policy.on_failure == "PAUSE"
    assert leaf(step, "deep").policy.on_failure == "IGNORE"
    assert leaf(step, "part").external.description == "Deep."  # type: ignore[union-attr]


def test_a_part_is_as_alive_as_its_whole_and_is_tried_again_with_it_only():
    patient = Policy(on_failure=Policy.ON_FAILURE_IGNORE)
    patient.retry.attempts_max = patient.compensation_retry.attempts_max = 7
    whole = external("one", heartbeat_timeout=Duration(seconds=20), policy=patient)
    step = plan(spec_of(whole))
    for parent, name, fields in (
        ("one", "part", {}),
        ("part", "deep", {}),
        ("one", "own", {"heartbeat_timeout": Duration(seconds=5)}),
    ):
        request = asked(f"{W}/tasks/{parent}", name, **fields)
        spec, group, under = added_task(step, request)
        step = step.with_task(spec, parent=group, under=under)
    added = (leaf(step, name).external for name in ("part", "deep", "own"))
    alive = [each.heartbeat_timeout for each in added if each is not None]
    assert alive == [timedelta(seconds=s) for s in (20, 20, 5)]
    inherited = leaf(step, "deep").policy
    assert (inherited.retry.attempts_max, inherited.compensation_retry.attempts_max) == (1, 7)
    assert inherited.on_failure == "IGNORE"


def test_what_proves_a_right_is_not_stored():
    growth = Growth(plan(spec_of(opened(parallel("open")))))
    secret = asked(f"{W}/tasks/open", "one", capability_token="secret", request_id="r")
    spec, _, _ = added_task(growth, secret)
    assert spec.external is not None
    assert b"secret" not in spec.external.added


def test_a_full_workflow_takes_no_more(monkeypatch: pytest.MonkeyPatch):
    made = plan(spec_of(opened(parallel("open"))))
    monkeypatch.setattr("coordinator.wire.external.NODES_MAX", len(made.nodes))
    [found] = added_problems(made, asked(f"{W}/tasks/open", "one"))
    assert (found.field, found.description) == ("task_id", "the workflow has 2 nodes already")


def test_parts_of_parts_end_somewhere():
    """Whoever shows the tree, or reckons how far it is, goes down all of it."""
    step = plan(spec_of(opened(parallel("open", external("part-0")))))
    for depth in range(1, DEPTH_MAX):
        request = asked(f"{W}/tasks/part-{depth - 1}", f"part-{depth}")
        assert list(added_problems(step, request)) == []
        spec, parent, under = added_task(step, request)
        step = step.with_task(spec, parent=parent, under=under)
    [found] = added_problems(step, asked(f"{W}/tasks/part-{DEPTH_MAX - 1}", "deeper"))
    assert found.field == "parent"


def test_a_plug_ins_verb_and_an_external_task_may_have_one_name():
    """One is run by a host, the other by its owner: neither is taken for the other."""
    verb = Custom(verb="acme/clone", effect=READ_ONLY)
    made = plan(spec_of(task("ours", host="a", action=verb), external("theirs")))
    assert leaf(made, "ours").verb == leaf(made, "theirs").verb
    assert (leaf(made, "ours").external, leaf(made, "ours").host) == (None, "a")
