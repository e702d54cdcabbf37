"""What people type where a number is asked for: whatever it is, it is a number or told so."""

from __future__ import annotations

import pytest

from coordinator.web.forms import decisions, owners
from coordinator.web.forms.fields import Field
from coordinator.web.forms.typed import json_object
from countermand.rpc.errors import FieldInvalid
from countermand.v1.external_task_pb2 import ExternalRequest

NONE = ("", "x", "nan", "inf", "-", "1_000", "\u0661", "[" * 100_000, "1 2", "true", "0x10")


def left(kind: str, text: str) -> object:
    """Returns what somebody has left as an output of a type."""
    asked = ExternalRequest(outputs={"it": kind})
    return dict(owners.output(asked, {f"{owners.OUTPUT}:it": text}))["it"]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int64", "0", 0),
        ("int64", "-17", -17),
        ("int64", "9007199254740991", 9007199254740991),
        ("int64", "9007199254740993", "9007199254740993"),  # as a number it would be another one
        ("int64", "-9223372036854775808", "-9223372036854775808"),
        ("double", "0.5", 0.5),
        ("double", "-1e22", -1e22),
        ("double", "9" * 300, float("9" * 300)),
        ("bool", "true", True),
        ("string", "9" * 400, "9" * 400),
    ],
)
def test_what_is_typed_is_what_is_left(kind: str, text: str, value: object) -> None:
    assert left(kind, text) == value


@pytest.mark.parametrize("text", [*NONE, "9" * 400, "9223372036854775808", "1.5"])
def test_what_is_no_whole_number_is_told(text: str) -> None:
    with pytest.raises(FieldInvalid, match="must be a whole number"):
        left("int64", text)


@pytest.mark.parametrize("text", [*NONE, "9" * 400, "1e999", "1e99999", "NaN", "Infinity"])
def test_what_is_no_number_is_told(text: str) -> None:
    with pytest.raises(FieldInvalid, match="must be a number"):
        left("double", text)


@pytest.mark.parametrize("text", [*NONE, "NaN", "Infinity", "1e999"])
def test_what_is_no_number_of_a_decision_is_told(text: str) -> None:
    reader = decisions.Reader(workflow_id="w", before={}, typed={})
    reader.plain(Field(name="it", label="it", kind="number"), text)
    assert [wrong.field for wrong in reader.wrong] == ["it"]


def test_a_number_of_a_decision_is_one() -> None:
    reader = decisions.Reader(workflow_id="w", before={}, typed={})
    typed = ("0", "-5", "0.25", "9007199254740993")
    field = Field(name="it", label="it", kind="number")
    assert [reader.plain(field, text) for text in typed] == [0, -5, 0.25, "9007199254740993"]
    assert reader.wrong == []


@pytest.mark.parametrize(
    "text",
    ["", "[]", "1", "{", '{"a": NaN}', '{"a": 1e999}', "[" * 100_000, f'{{"a": {"9" * 400}}}'],
)
def test_what_is_no_object_of_json_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        json_object(text)


def test_an_object_of_json_is_read() -> None:
    assert json_object('{"a": [1, -0.5, true, null, "NaN"]}') == {"a": [1, -0.5, True, None, "NaN"]}
