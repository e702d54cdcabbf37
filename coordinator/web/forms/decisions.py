"""What is typed on the page of a resume as the contract has it, and what it asks for. Pure.

Fields are named by the task and the path that they fill: "rerun:copy-3:target.pool_id". Only what
differs from what is there is sent as a patch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct, Value

from coordinator.web.forms.fields import Field, Form, Option
from coordinator.web.forms.typed import EXACT, number
from countermand.drawing.tasks import CHOSEN_ANEW, task_id
from countermand.rpc.errors import FieldInvalid, Violation
from countermand.rpc.names import task_name
from countermand.v1.host_pb2 import Host
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import ResumeDecision, ResumeRequirement

RERUN, SKIP, GIVE_UP = "rerun", "skip", "give_up"
DECIDE: Final = "decide"
HOST: Final = "host"
INPUT: Final = "input"
INPUTS_MAX: Final = 60  # fields of an input that a page shows

_PATH: Final = re.compile(r"decisions\[(\d+)\](?:\.(\w+))?(?:\.(\w+))?(?:\[(['\"])(.*)\4\])?")

# Of outputs, as GetResumeRequirements says them.
_HINTS: Final = {
    "string": "a text",
    "int64": "a whole number",
    "bool": "true or false",
    "double": "a number",
}


def named(kind: str, task: str, path: str = "") -> str:
    """Returns the name of a field."""
    return ":".join(filter(None, (kind, task, path)))


# -- what is asked for ----------------------------------------------------------------------------


def field_of_output(task: str, needed: ResumeRequirement) -> Field:
    """Returns the field of an output that later tasks are bound to."""
    readers = ", ".join(task_id(reader) for reader in needed.consumers)
    wanted = _HINTS.get(needed.type, "a value")
    name, hint = named(SKIP, task, needed.key), f"{wanted}; {readers} is bound to it"
    if needed.type == "bool":
        options = [Option(value=word, label=word or "choose") for word in ("", "true", "false")]
        return Field(name=name, label=needed.key, kind="pick", hint=hint, options=options)
    kind = "number" if needed.type in {"int64", "double"} else "text"
    # Not required here: whoever is bound to it may be skipped, too, or be given it otherwise.
    return Field(name=name, label=needed.key, kind=kind, hint=hint)  # type: ignore[arg-type]


def field_of_hosts(task: Task, hosts: Sequence[Host]) -> Field:
    """Returns the field of where a task is run again."""
    ids = [host.name.removeprefix("hosts/") for host in hosts]
    bound = task.bound_host_id
    last = f" (it was {task.host_id})" if task.host_id else ""
    options = [Option(value="", label=bound or f"{CHOSEN_ANEW}{last}")]
    options += [Option(value=each, label=each) for each in ids if each != bound]
    return Field(name=named(HOST, task_id(task.name)), label="Host", kind="pick", options=options)


def fields_of_input(given: Struct) -> list[Field]:
    """Returns the fields of a workflow's input, by their paths; of a very large one the first."""
    found = list(_leaves(json_format.MessageToDict(given), ""))
    return [_field_of_input(path, value) for path, value in found[:INPUTS_MAX]]


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    match value:
        case dict():
            for key, inner in value.items():
                yield from _leaves(inner, f"{path}.{key}" if path else str(key))
        case list() | None:
            pass  # lists are gone through by groups, and fixed once they have begun
        case _:
            yield path, value


def _field_of_input(path: str, value: object) -> Field:
    name = named(INPUT, path)
    match value:
        case bool():
            words = [Option(value=word, label=word) for word in ("true", "false")]
            now = "true" if value else "false"
            return Field(name=name, label=path, kind="pick", options=words, value=now)
        case float():
            now = str(int(value)) if value.is_integer() else str(value)
            return Field(name=name, label=path, kind="number", value=now)
        case _:
            return Field(name=name, label=path, value=str(value))


# -- what was typed -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """What a form comes to."""

    decisions: Sequence[ResumeDecision]
    input: Mapping[str, Value]


def read(
    workflow_id: str, fields: Sequence[Field], drawn: Sequence[Field], typed: Mapping[str, str]
) -> Decisions:
    """Returns what was decided.

    Args:
        workflow_id: Of which workflow.
        fields: As they are filled in; those of a task under its decision.
        drawn: The same as they were drawn: what differs from them is a change.
        typed: What came.

    Raises:
        FieldInvalid: With every value that is not of its type.
    """
    before = {field.name: field.value for field in _flat(drawn)}
    reader = Reader(workflow_id=workflow_id, before=before, typed=typed)
    made: list[ResumeDecision] = []
    changed = {}
    for field in fields:
        kind, _, name = field.name.partition(":")
        if kind == DECIDE:
            made += reader.decision(name, field)
        elif kind == INPUT and (text := reader.changed(field)) is not None:
            changed[name] = reader.value(field, text)
    if reader.wrong:
        raise FieldInvalid(*reader.wrong)
    return Decisions(decisions=made, input=changed)


def _flat(fields: Sequence[Field]) -> Iterator[Field]:
    for field in fields:
        yield field
        for option in field.options:
            yield from _flat(option.fields)


@dataclass(slots=True, kw_only=True)
class Reader:
    """A form being read."""

    workflow_id: str
    before: Mapping[str, str]
    typed: Mapping[str, str]
    wrong: list[Violation] = dataclass_field(default_factory=list)

    def decision(self, task: str, field: Field) -> Iterator[ResumeDecision]:
        """Yields what was decided about a task, if anything."""
        chosen = self.typed.get(field.name, "")
        made = ResumeDecision(task=task_name(self.workflow_id, task))
        inner = next((each.fields for each in field.options if each.value == chosen), ())
        match chosen:
            case "rerun":
                made.rerun.SetInParent()
                self._rerun(made.rerun, task, inner)
            case "skip":
                made.skip.SetInParent()
                self._skip(made.skip, task, inner)
            case "give_up":
                made.give_up.SetInParent()
            case _:
                return
        yield made

    def _rerun(self, rerun: ResumeDecision.Rerun, task: str, fields: Sequence[Field]) -> None:
        rerun.host_id = self.typed.get(named(HOST, task), "")
        for field in fields:
            text = self.changed(field)
            if text is not None and field.name.startswith(f"{RERUN}:"):
                path = field.name.removeprefix(f"{RERUN}:{task}:")
                rerun.patch[path].CopyFrom(self.value(field, text))

    def _skip(self, skip: ResumeDecision.Skip, task: str, fields: Sequence[Field]) -> None:
        given: dict[str, Any] = {}
        for field in fields:
            if text := self.typed.get(field.name, "").strip():
                path = field.name.removeprefix(f"{SKIP}:{task}:")
                _put(given, path, self.plain(field, text))
        json_format.ParseDict(given, skip.outputs)

    def changed(self, field: Field) -> str | None:
        """Returns what was typed over a value; None where that stays."""
        text = self.typed.get(field.name)
        return None if text is None or text == self.before[field.name] else text

    def value(self, field: Field, text: str) -> Value:
        """Returns a value as the contract carries it."""
        match self.plain(field, text):
            case bool() as truth:
                return Value(bool_value=truth)
            case int() | float() as amount:
                return Value(number_value=amount)
            case said:
                return Value(string_value=said)

    def plain(self, field: Field, text: str) -> str | bool | float | int:
        """Returns a value of the type that a field is for."""
        if field.kind == "number":
            return self._number(field, text.strip())
        words = {each.value for each in field.options}
        return text == "true" if words and words <= {"", "true", "false"} else text

    def _number(self, field: Field, text: str) -> str | float:
        try:
            found = number(text)
        except ValueError as error:
            self.wrong.append(Violation(field.name, str(error)))
            return 0
        return found if abs(found) < EXACT else text  # beyond that, as JSON writes them: a text


def _put(whole: dict[str, Any], path: str, value: object) -> None:
    *lead, last = path.split(".")
    for part in lead:
        whole = whole.setdefault(part, {})
    whole[last] = value


# -- what is wrong, beside what it is wrong with --------------------------------------------------


def field_of(violation: Violation, form: Form) -> str:
    """Returns the name of the field that a violation is about."""
    if violation.kind:
        return _field_of_unmet(violation, form)
    if found := re.fullmatch(r"input\[(['\"])(.*)\1\]", violation.field):
        return named(INPUT, found[2])
    found = _PATH.fullmatch(violation.field)
    if found is None:
        return violation.field
    decided = [f for f in form.fields if f.name.startswith(f"{DECIDE}:") and f.value]
    place_ = int(found[1])
    if place_ >= len(decided):
        return ""
    task = decided[place_].name.removeprefix(f"{DECIDE}:")
    match found[3], found[5]:
        case "patch", str(key):
            return named(RERUN, task, key)
        case "outputs", str(key):
            return named(SKIP, task, key)
        case "host_id", _:
            return named(HOST, task)
        case _:
            return named(DECIDE, task)


def _field_of_unmet(violation: Violation, form: Form) -> str:
    """Returns the field of an unmet requirement: of an output that is asked for, its own."""
    task = task_id(violation.field)
    card = next((f for f in form.fields if f.name == named(DECIDE, task)), None)
    if card is None:
        return ""
    asked = {field.name for option in card.options for field in option.fields}
    given = named(SKIP, task, violation.key)
    return given if violation.key and given in asked else card.name
