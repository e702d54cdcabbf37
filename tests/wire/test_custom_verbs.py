"""Verbs that only an agent's plug-in knows: planned by what their specs say of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct, Value

from coordinator.agents.placing import Needs, Offer, problem_of
from coordinator.agents.reconciling import can_ask_again
from coordinator.api.patches import given_outputs, given_patch
from coordinator.runtime.ports import HostState
from coordinator.saga.commands import SendAction, SendCompensation
from coordinator.saga.plan import Plan
from coordinator.saga.spec import Lock
from coordinator.saga.states import Effect, TaskState
from coordinator.saga.workflow import Inbound, Task
from coordinator.wire.actions import action_problems
from coordinator.wire.catalogue import CUSTOM_BYTES_MAX, phrase, phrase_undone
from coordinator.wire.order import call_of
from coordinator.wire.values import values_of_output
from countermand.client.spec import action_of, equals, image, task
from countermand.client.spec_lint import findings
from countermand.v1 import annotation_pb2
from countermand.v1.agent_pb2 import HostReport
from countermand.v1.image_pb2 import Pool
from countermand.v1.verb_pb2 import Custom, CustomOutput, Noop, Output
from countermand.v1.workflow_spec_pb2 import Node, WorkflowSpec
from tests.wire.specs import copy_to, leaf, plan, spec_of, wrong
from tests.wire.test_orders import attempt, made_up_for, workflow

FIRST = "spec.root.members[0].task"
SECOND = "spec.root.members[1].task"
VERB = "example.org/stamp"


def struct(**values: Any) -> Struct:
    """Returns somebody's own object."""
    made = Struct()
    made.update(values)
    return made


def stamp(name: str = "one", bindings: dict[str, str] | None = None, **fields: Any) -> Node:
    """Returns a task with a plug-in's verb."""
    given = {"verb": VERB, "target": image("pool/x"), "effect": annotation_pb2.EFFECT_REVERSIBLE}
    return task(name, host="a", action=Custom(**{**given, **fields}), bindings=bindings)


@pytest.mark.parametrize("effect", list(Effect))
def test_its_effect_is_what_its_spec_says_and_so_are_its_locks(effect):
    number = annotation_pb2.Effect.Value(f"EFFECT_{effect}")
    made = plan(spec_of(stamp(source=image("pool/base"), effect=number)))
    assert (leaf(made, "one").verb, leaf(made, "one").effect) == (VERB, effect)
    assert made.terms.locks == (
        Lock(pool="pool", image="base", exclusive=False),
        Lock(pool="pool", image="x", exclusive=effect is not Effect.READ_ONLY),
    )


@pytest.mark.parametrize(
    ("fields", "named", "words"),
    [
        ({"verb": "stamp"}, "verb", "must be <vendor>/<name>"),
        ({"effect": 0}, "effect", "must be one of EFFECT_READ_ONLY, EFFECT_REVERSIBLE"),
        ({"effect": 9}, "effect", "must be one of"),
        ({"target": image("pool/X")}, "target.image_id", "must match"),
        ({"source": image("pool/x")}, "target", "is the source itself"),
        ({"arguments": struct(a="x" * CUSTOM_BYTES_MAX)}, "arguments", "bytes, more than 16384"),
    ],
    ids=lambda value: value if isinstance(value, str) else "with-" + "-".join(map(str, value)),
)
def test_what_no_plug_in_could_take_is_refused_by_its_field(fields, named, words):
    path = f"{FIRST}.action.custom.{named}"
    found = wrong(spec_of(stamp(**fields)))
    assert list(found) == [path]
    assert words in found[path]


def test_it_may_do_without_images():
    assert plan(spec_of(stamp(target=None))).terms.locks == ()


def test_it_is_looked_for_by_its_own_name():
    asked: list[tuple[str, frozenset[str], str]] = []

    def hosts(*needs: Any) -> str:
        asked.append(needs)
        return "not there"

    assert wrong(spec_of(stamp()), hosts=hosts) == {f"{FIRST}.host_id": "not there"}
    assert asked == [("a", frozenset({"pool"}), VERB)]


def test_a_host_needs_the_plug_in_and_the_pool_must_be_one_that_it_works_in():
    pools = [Pool(pool_id="pool", verbs=[VERB]), Pool(pool_id="other")]

    def problem(pool: str, *verbs: str) -> str | None:
        report = HostReport(pools=pools, custom_verbs=verbs)
        offer = Offer(host="a", state=HostState.READY, draining=False, report=report, load=0)
        return problem_of(offer, Needs(pools=frozenset({pool} - {""}), verb=VERB))

    assert (problem("pool", VERB), problem("", VERB)) == (None, None)
    assert problem("other", VERB) == f"host 'a' cannot {VERB} in pool 'other'; it can: nothing"
    assert problem("", "x.org/y") == f"host 'a' has no plug-in for {VERB}; it has: x.org/y"


# -- bindings -----------------------------------------------------------------------------------


def sends(made: Plan, name: str, *inbound: Inbound) -> Custom:
    """Returns the verb as it is sent."""
    first = attempt(1, inbound=inbound)
    running = workflow(made, **{name: Task(state=TaskState.RUNNING, attempts=(first,))})
    index = made.by_name[name]
    call = call_of(
        running, SendAction(task=index, number=1, host="a"), cluster_id="c", incarnation="i"
    )
    assert call.rpc == "Custom"
    found: Custom = call.request.custom  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("value", ["text", 7, 0.5, True, "9007199254740993"])
def test_any_scalar_of_the_input_fills_an_argument(value):
    spec = spec_of(stamp(bindings={"arguments.key": "input.a"}, arguments=struct(other="x")))
    made = plan(spec, {"a": value})
    inbound = Inbound(field="arguments.key", value=value, origin="input.a")
    assert dict(sends(made, "one", inbound).arguments) == {"other": "x", "key": value}


def test_what_one_has_left_fills_an_argument_of_another():
    source = "tasks.one.output.values.sum"
    made = plan(spec_of(stamp(), stamp("two", {"arguments.sum": source}, target=image("pool/y"))))
    output = values_of_output(Output(custom=CustomOutput(values=struct(sum="abc", count=3))))
    assert output == {"values.sum": "abc", "values.count": 3}
    inbound = Inbound(field="arguments.sum", value=output["values.sum"], origin=source)
    assert dict(sends(made, "two", inbound).arguments) == {"sum": "abc"}


def test_what_it_has_left_is_told_to_whoever_makes_up_for_it():
    made = plan(spec_of(stamp()))
    going_back = workflow(made, one=made_up_for())
    output = {"values.sum": "abc", "values.a.b": 1}  # another agent's keys may have dots
    task_ = going_back.task(1)
    done = task_.__class__(state=task_.state, attempts=(attempt(1, output=output), task_.last))
    going_back = workflow(made, one=done)
    order = SendCompensation(task=1, number=2, host="a")
    request: Any = call_of(going_back, order, cluster_id="c", incarnation="i").request
    assert dict(request.output.custom.values) == {"sum": "abc", "a.b": 1}


@pytest.mark.parametrize(
    ("second", "field", "words"),
    [
        (stamp("two", {"verb": "input.a"}), "field", "is fixed"),
        (stamp("two", {"effect": "input.n"}), "field", "is fixed"),
        (stamp("two", {"arguments.a.b": "input.a"}), "field", "has no field"),
        (stamp("two", {"arguments": "input.a"}), "field", "has no field"),
        (copy_to("two", "tasks.one.output.values.id"), "source", "bind it to arguments.<key>"),
        (stamp("two", {"arguments.a": "tasks.one.output.sum"}), "source", "leaves no 'sum'"),
        (stamp("two", {"arguments.a": "tasks.one.output.values.a.b"}), "source", "leaves no"),
    ],
    ids=["verb", "effect", "deeper", "whole", "typed", "no-value", "deep-value"],
)
def test_what_cannot_be_bound_is_refused(second, field, words):
    found = wrong(spec_of(stamp(), second), {"a": "x", "n": 2})
    path = f"{SECOND}.bindings[0].{field}"
    assert words in found[path], found


def test_a_condition_may_be_on_what_it_has_left():
    then = task("two", host="a", action=Noop(), when=equals("tasks.one.output.values.a", "yes"))
    assert plan(spec_of(stamp(), then)).nodes[2].when is not None


# -- words --------------------------------------------------------------------------------------


def test_what_it_has_left_is_called_by_its_name():
    action = action_of(Custom(verb=VERB, target=image("pool/x")))
    assert phrase(action) == "what example.org/stamp left in pool/x"
    assert phrase_undone(action) == "what example.org/stamp should have done in pool/x"
    assert phrase(action_of(Custom(verb=VERB))) == "what example.org/stamp left"


def test_an_operators_own_is_checked_as_that_of_a_spec():
    bad = action_of(Custom(verb="stamp", target=image("pool/X")))
    fields = [violation.field for violation in action_problems(bad, "replacement")]
    assert fields == [
        f"replacement.custom.{field}" for field in ("verb", "effect", "target.image_id")
    ]
    good = action_of(Custom(verb=VERB, effect=annotation_pb2.EFFECT_PIVOT))
    assert list(action_problems(good, "replacement")) == []


def test_an_operator_gives_arguments_and_values_and_never_what_is_fixed():
    made = plan(spec_of(stamp()))
    first = Task(state=TaskState.RUNNING, attempts=(attempt(1),))
    running, index = workflow(made, one=first), made.by_name["one"]
    patch = {"arguments.text": Value(string_value="x"), "effect": Value(number_value=1)}
    given = given_patch(running, index, patch, "patch")
    assert given.values == {"arguments.text": "x"}
    assert [violation.field for violation in given.violations] == ["patch['effect']"]
    given = given_outputs(running, index, {"values.sum": "abc", "sum": "abc"}, "skip")
    assert given.values == {"values.sum": "abc"}
    assert [violation.field for violation in given.violations] == ["skip.outputs['sum']"]


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_an_operator_gives_no_number_that_json_cannot_say(number):
    made = plan(spec_of(stamp()))
    running, index = workflow(made, one=Task(state=TaskState.RUNNING)), made.by_name["one"]
    patched = given_patch(running, index, {"arguments.text": Value(number_value=number)}, "patch")
    left = given_outputs(running, index, {"values.sum": number}, "skip")
    said = [each.description for each in (*patched.violations, *left.violations)]
    assert said == ["must be a finite number"] * 2


@pytest.mark.parametrize("effect", list(Effect))
def test_after_a_journal_was_lost_it_is_asked_for_again_only_if_it_changes_nothing(effect):
    number = annotation_pb2.Effect.Value(f"EFFECT_{effect}")
    made = plan(spec_of(stamp(effect=number)))
    first = Task(state=TaskState.RUNNING, attempts=(attempt(1),))
    order = SendAction(task=made.by_name["one"], number=1, host="a")
    assert can_ask_again(workflow(made, one=first), order) is (effect is Effect.READ_ONLY)


def lint(spec: WorkflowSpec) -> list[str]:
    return [found.path for found in findings(spec, {"a": "x"}) if not found.warning]


def test_lint_says_the_same_before_anything_is_sent():
    good = stamp(bindings={"arguments.a": "input.a"})
    then = stamp("two", {"arguments.a": "tasks.one.output.values.a"}, target=None)
    assert lint(spec_of(good, then)) == []
    assert lint(spec_of(stamp(verb="x", effect=0, bindings={"verb": "input.a"}))) == [
        f"{FIRST}.bindings[0].field",
        f"{FIRST}.action.custom.verb",
        f"{FIRST}.action.custom.effect",
    ]
