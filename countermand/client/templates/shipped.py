"""Templates: workflow files with a header that says what input they take.

The header names each field of the input with its type, which is one of

    image    an object {pool_id, image_id}; people may write "pool/image"
    id       a text that follows the rule for ids
    string, int64, bool
    list     a list, not empty, of objects; `item` names their fields

A field with a `default` may be left out; it is filled in, since a spec's bindings need a value.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Final

from countermand.client.spec_json import Json
from countermand.client.workflow_file import WorkflowFile, read_workflow_file
from countermand.rpc.errors import FieldInvalid, Violation
from countermand.rpc.names import ID_RULE, is_id
from countermand.v1.workflow_spec_pb2 import WorkflowSpec

SUFFIX: Final = ".yaml"
TYPES: Final = ("image", "id", "string", "int64", "bool", "list")
INT64_MAX: Final = 2**63 - 1
_ADDRESS: Final = ("pool_id", "image_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a template's input."""

    name: str
    type: str
    summary: str = ""
    default: Json = None  # None: it must be given
    item: tuple[Field, ...] = ()  # of a list: the fields of each of its objects


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One template."""

    name: str
    summary: str
    fields: tuple[Field, ...]
    file: WorkflowFile = field(repr=False)

    @property
    def example(self) -> dict[str, Json]:
        """Returns an input as an engine might give it."""
        return self.file.input or {}

    def spec(self) -> WorkflowSpec:
        """Returns its spec, the same for every input."""
        return self.file.message()

    def fill(self, given: Mapping[str, Json]) -> dict[str, Json]:
        """Returns an input with its defaults, images written as "pool/image" taken apart.

        Raises:
            FieldInvalid: It is not what the template takes; names every field.
        """
        found: list[Violation] = []
        made = _object(dict(given), self.fields, "input", found.append)
        if found:
            raise FieldInvalid(*found)
        return made


def names() -> list[str]:
    """Returns the names of the templates that come with Countermand."""
    folder = resources.files(__package__)
    shipped = (entry.name for entry in folder.iterdir() if entry.name.endswith(SUFFIX))
    return sorted(name.removesuffix(SUFFIX) for name in shipped)


def load(name: str) -> Template:
    """Returns a template that comes with Countermand.

    Raises:
        FieldInvalid: There is none of that name.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"is {near[0]} meant?" if near else f"there are {', '.join(known)}"
        raise FieldInvalid(Violation("template", f"there is no template {name!r}: {meant}"))
    file = resources.files(__package__) / f"{name}{SUFFIX}"
    return read_template(file.read_text(encoding="utf-8"), origin=f"{name}{SUFFIX}")


def read_template(text: str, *, origin: str) -> Template:
    """Returns the template in a text; its spec is looked at when it is asked for.

    Raises:
        FieldInvalid: Its header is not right; names each place with its line.
    """
    file = read_workflow_file(text, origin=origin)
    found = list(_header_problems(file.header))
    if found:
        raise FieldInvalid(*(Violation(file.place(v.field), v.description) for v in found))
    header = file.header
    assert isinstance(header, dict), header
    return Template(
        name=str(header["name"]),
        summary=str(header["summary"]),
        fields=_fields(header["input"]),
        file=file,
    )


# -- the header ---------------------------------------------------------------------------------


def _header_problems(header: Json) -> Iterator[Violation]:
    if not isinstance(header, dict):
        yield Violation("template", "is required: a header with name, summary and input")
        return
    for name in ("name", "summary"):
        if not isinstance(header.get(name), str):
            yield Violation(f"template.{name}", "is required: a text")
    for name in header.keys() - {"name", "summary", "input"}:
        yield Violation(f"template.{name}", "there is no such field: name, summary, input")
    yield from _field_problems(header.get("input"), "template.input")


def _field_problems(fields: Json, path: str) -> Iterator[Violation]:
    if not isinstance(fields, dict) or not fields:
        yield Violation(path, "is required: a type for each field")
        return
    for name, said in fields.items():
        here = f"{path}.{name}"
        kind = said.get("type") if isinstance(said, dict) else None
        if not isinstance(said, dict) or kind not in TYPES:
            yield Violation(here, f"needs a type: one of {', '.join(TYPES)}")
            continue
        for unknown in said.keys() - {"type", "summary", "default", "item"}:
            yield Violation(f"{here}.{unknown}", "there is no such field")
        if kind == "list":
            yield from _field_problems(said.get("item"), f"{here}.item")


def _fields(said: Json) -> tuple[Field, ...]:
    assert isinstance(said, dict), said
    return tuple(
        Field(
            name=name,
            type=str(rules["type"]),
            summary=str(rules.get("summary") or ""),
            default=rules.get("default"),
            item=_fields(rules["item"]) if "item" in rules else (),
        )
        for name, rules in said.items()
        if isinstance(rules, dict)
    )


# -- an input -----------------------------------------------------------------------------------

Tell = Callable[[Violation], None]


def _object(given: Json, fields: Sequence[Field], path: str, tell: Tell) -> dict[str, Json]:
    if not isinstance(given, dict):
        tell(Violation(path, "must be an object {…}"))
        return {}
    known = [rule.name for rule in fields]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            said = f"is {near[0]} meant?" if near else f"the template takes {', '.join(known)}"
            tell(Violation(f"{path}.{name}", f"there is no such field: {said}"))
    made: dict[str, Json] = {}
    for rule in fields:
        here = f"{path}.{rule.name}"
        value = given.get(rule.name)
        if value is None and rule.default is None:
            tell(Violation(here, f"is required: {_wanted(rule)}"))
        else:
            made[rule.name] = _filled(rule.default if value is None else value, rule, here, tell)
    return made


def _filled(value: Json, rule: Field, path: str, tell: Tell) -> Json:
    match rule.type, value:
        case "list", list() if value:
            return [_object(v, rule.item, f"{path}[{i}]", tell) for i, v in enumerate(value)]
        case "image", str() if value.count("/") == 1:
            value = dict(zip(_ADDRESS, value.split("/"), strict=True))
    if rule.type == "image" and _is_address(value):
        return value
    if _PLAIN.get(rule.type, _never)(value):
        return value
    tell(Violation(path, f"must be {_wanted(rule)}"))
    return value


def _is_address(value: Json) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == set(_ADDRESS)
        and all(isinstance(part, str) and is_id(part) for part in value.values())
    )


def _is_int64(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= INT64_MAX


def _never(_: Json) -> bool:
    return False


_PLAIN: Final[Mapping[str, Callable[[Json], bool]]] = {
    "id": lambda value: isinstance(value, str) and is_id(value),
    "string": lambda value: isinstance(value, str),
    "int64": _is_int64,
    "bool": lambda value: isinstance(value, bool),
}

_WANTED: Final[Mapping[str, str]] = {
    "image": 'an image, {pool_id, image_id} or "pool/image"; each id ' + ID_RULE,
    "id": "an id; it " + ID_RULE,
    "string": "a text",
    "int64": "a whole number",
    "bool": "true or false",
}


def _wanted(rule: Field) -> str:
    if rule.type == "list":
        return f"a list of objects {{{', '.join(inner.name for inner in rule.item)}}}, not empty"
    return _WANTED[rule.type]
