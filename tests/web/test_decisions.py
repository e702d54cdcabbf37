"""What is typed on the page of a resume, as the contract takes it: each value of its type."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format

from coordinator.web.forms import decisions
from coordinator.web.forms.arguments import Argument, arguments_of, field_of_argument
from coordinator.web.forms.decisions import named
from coordinator.web.forms.fields import Field, Form, Option
from countermand.rpc.errors import FieldInvalid, Violation
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.task_pb2 import Task
from countermand.v1.verb_pb2 import Action, CopyImage, Custom
from countermand.v1.workflow_pb2 import ResumeRequirement

COPY = Task(
    name="workflows/w/tasks/copy",
    kind=Task.KIND_VERB,
    verb="copy_image",
    attempts=[
        Attempt(kind=Attempt.KIND_ACTION, action=Action(copy_image=CopyImage(flatten=True))),
        Attempt(kind=Attempt.KIND_COMPENSATION),  # what made up for it is not run again
    ],
)


def card(task: str, *fields: Field, choice: str = "rerun") -> Field:
    return Field(
        name=named("decide", task),
        label=task,
        kind="choice",
        options=[Option(value=choice, label=choice, fields=fields)],
    )


def read(*fields: Field, **typed: str) -> decisions.Decisions:
    named_ = {name.replace("__", ":").replace("_of_", "."): text for name, text in typed.items()}
    return decisions.read("w", fields, fields, named_)


def patch(read_: decisions.Decisions) -> dict[str, Any]:
    [made] = read_.decisions
    return {path: json_format.MessageToDict(value) for path, value in made.rerun.patch.items()}


def test_a_rerun_offers_what_the_verb_takes_with_the_values_that_it_had() -> None:
    found = {each.path: each for each in arguments_of(COPY)}
    assert found["flatten"] == Argument(path="flatten", type="bool", value="true")
    assert found["target.pool_id"].type == "string"
    assert "IMAGE_FORMAT_QCOW2" in found["format"].words


def test_an_external_task_offers_its_arguments_and_a_custom_verb_both() -> None:
    custom = Custom(verb="example.org/stamp")
    json_format.ParseDict({"size": 12, "fast": True, "name": "a"}, custom.arguments)
    attempt = Attempt(kind=Attempt.KIND_ACTION, action=Action(custom=custom))
    outside = Task(kind=Task.KIND_EXTERNAL, verb="acme/stamp", attempts=[attempt])
    found = [(each.path, each.type, each.value) for each in arguments_of(outside)]
    assert found == [
        ("arguments.fast", "bool", "true"),
        ("arguments.name", "string", "a"),
        ("arguments.size", "double", "12"),
    ]
    ours = {each.path for each in arguments_of(Task(verb="custom", attempts=[attempt]))}
    assert {"arguments.size", "target.image_id"} <= ours
    assert not {"verb", "effect"} & ours  # what its spec says, nobody changes


@pytest.mark.parametrize(
    ("argument", "text", "value"),
    [
        (Argument(path="x", type="string", value="a"), "12", "12"),  # a text stays one
        (Argument(path="x", type="int64", value="1"), " 12 ", 12.0),
        (Argument(path="x", type="int64"), str(2**60), str(2**60)),  # whole, as JSON writes them
        (Argument(path="x", type="double", value="1"), "1.5", 1.5),
        (Argument(path="x", type="bool", value="false"), "true", True),
        (Argument(path="x", type="enum", words=("A", "B"), value="A"), "B", "B"),
    ],
)
def test_a_value_is_sent_as_its_type(argument: Argument, text: str, value: object) -> None:
    field = field_of_argument(named("rerun", "t", argument.path), argument)
    assert patch(read(card("t", field), decide__t="rerun", rerun__t__x=text)) == {"x": value}


def test_what_was_not_changed_is_not_sent() -> None:
    field = field_of_argument(
        named("rerun", "t", "x"), Argument(path="x", type="string", value="same")
    )
    assert patch(read(card("t", field), decide__t="rerun", rerun__t__x="same")) == {}
    assert patch(read(card("t", field), decide__t="rerun")) == {}
    assert read(card("t", field), rerun__t__x="typed, but nothing chosen").decisions == []


def test_outputs_are_given_by_their_paths_and_left_out_if_empty() -> None:
    needs = [
        ResumeRequirement(key="image.image_id", type="string"),
        ResumeRequirement(key="image.size", type="int64"),
        ResumeRequirement(key="ok", type="bool"),
        ResumeRequirement(key="empty", type="string"),
    ]
    fields = [decisions.field_of_output("t", need) for need in needs]
    [made] = read(
        card("t", *fields, choice="skip"),
        decide__t="skip",
        skip__t__image_of_image_id="1",
        skip__t__image_of_size="1",
        skip__t__ok="true",
        skip__t__empty=" ",
    ).decisions
    given = json_format.MessageToDict(made.skip.outputs)
    assert given == {"image": {"image_id": "1", "size": 1.0}, "ok": True}


@pytest.mark.parametrize("text", ["much", "true", "", "1,5", "NaN x"])
def test_every_value_of_another_type_is_told_at_once(text: str) -> None:
    fields = [
        field_of_argument(named("rerun", "t", path), Argument(path=path, type="int64", value="0"))
        for path in ("x", "y")
    ]
    with pytest.raises(FieldInvalid) as raised:
        read(card("t", *fields), decide__t="rerun", rerun__t__x=text, rerun__t__y=text)
    assert [each.field for each in raised.value.violations] == ["rerun:t:x", "rerun:t:y"]


TASK = "workflows/w/tasks/t"
GIVEN = Field(name="skip:t:image.id", label="image.id")
FORM = Form(
    title="",
    about="",
    back="",
    button="",
    fields=[
        Field(name="decide:undecided", label=""),
        Field(
            name="decide:t",
            label="",
            value="skip",
            options=[Option(value="skip", label="", fields=[GIVEN])],
        ),
    ],
)


@pytest.mark.parametrize(
    ("violation", "field"),
    [
        (Violation("decisions[0].rerun.patch['a.b']", ""), "rerun:t:a.b"),
        (Violation("decisions[0].rerun.patch", ""), "decide:t"),
        (Violation("decisions[0].rerun.host_id", ""), "host:t"),
        (Violation("decisions[0].skip.outputs['image.id']", ""), "skip:t:image.id"),
        (Violation('decisions[0].skip.outputs["it\'s"]', ""), "skip:t:it's"),
        (Violation("decisions[7].decision", ""), ""),
        (Violation("input['pool.id']", ""), "input:pool.id"),
        (Violation("reason", ""), "reason"),
        (Violation(TASK, "t is FAILED. Decide: …", "DECISION"), "decide:t"),
        (
            Violation(TASK, "whatever it says", "OUTPUT", key="image.id"),
            "skip:t:image.id",
        ),
        (Violation(TASK, "give image.id, a string", "OUTPUT", key="image"), "decide:t"),
        (Violation("workflows/w", "nothing goes forward", "COMPENSATING"), ""),
    ],
)
def test_what_is_wrong_stands_beside_what_it_is_about(violation: Violation, field: str) -> None:
    assert decisions.field_of(violation, FORM) == field
