"""Workflow files: what people write and commands read, as YAML or JSON.

A file holds a spec alone, or the fields of a StartWorkflowRequest: `spec`, and beside it `input`,
`labels` and `workflow_id`. A template is such a file with a header, `template`; its `input` is an
example. Of YAML only what JSON can say is read: texts, numbers, true, false, null, lists and
objects. A text such as `no` or `12:30` stays a text, and there are neither anchors nor tags. Words
of the contract may be short: `qcow2` is read as IMAGE_FORMAT_QCOW2.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import yaml
from google.protobuf import json_format

from countermand.client.spec_json import Json, in_full, mistakes_of
from countermand.rpc.errors import FieldInvalid, Violation
from countermand.v1.workflow_spec_pb2 import WorkflowSpec

HEADER: Final = "template"
# What may stand in a file beside its spec.
FIELDS: Final = (HEADER, "workflow_id", "spec", "input", "labels")

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_WORDS: Final[Mapping[str, bool | None]] = {"true": True, "false": False, "null": None, "": None}
_STEP = re.compile(r"[^.\[\]]+|\[(\d+)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowFile:
    """One file, taken apart; whether its spec is one is for `mistakes` to say."""

    origin: str  # the file's name, for messages
    spec: Json
    input: dict[str, Json] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    workflow_id: str = ""
    header: Json = None
    text: str = field(default="", repr=False)
    lines: Lines = field(repr=False, compare=False)

    def mistakes(self) -> Iterator[Violation]:
        """Yields what keeps the spec from being one, each with its path."""
        yield from mistakes_of(self.spec)

    def message(self) -> WorkflowSpec:
        """Returns the spec.

        Raises:
            FieldInvalid: It is none; names each place with its line.
        """
        found = [Violation(self.place(v.field), v.description) for v in self.mistakes()]
        if found:
            raise FieldInvalid(*found)
        assert isinstance(self.spec, dict), self.spec
        try:
            return json_format.ParseDict(self.spec, WorkflowSpec())
        except json_format.ParseError as error:
            raise FieldInvalid(Violation(self.origin, str(error))) from None

    def place(self, path: str) -> str:
        """Returns file, line and path, as compilers write them."""
        line = self.line(path)
        return f"{self.origin}:{line}: {path}" if line else f"{self.origin}: {path}"

    def line(self, path: str) -> int:
        """Returns the line of what stands at a path, or of what is nearest above; 0: not known."""
        return self.lines.of(path)


class Lines:
    """Where each part of a text stands; worked out once, when it is first asked for."""

    def __init__(self, text: str) -> None:
        """Keeps the text."""
        self._text = text

    @cached_property
    def _root(self) -> yaml.Node | None:
        try:
            return _composed(self._text)
        except yaml.YAMLError:  # JSON may be indented by tabs
            return None

    def of(self, path: str) -> int:
        """Returns the line of what stands at a path, or of what is nearest above; 0: not known."""
        node = self._root
        steps = [match[1] or match[0] for match in _STEP.finditer(path)]
        if steps[:1] == ["spec"] and not _is_request(_keys(node)):
            del steps[:1]  # the whole file is the spec
        line = 0
        for step in steps:
            found = _below(node, step)
            if found is None:
                break
            line, node = found
        return line or (node.start_mark.line + 1 if node is not None else 0)


def read_workflow_file(text: str, *, origin: str) -> WorkflowFile:
    """Returns a file taken apart.

    Raises:
        FieldInvalid: It is neither YAML nor JSON, or has something that no such file has.
    """
    value = read_value(text, origin=origin)
    lines = Lines(text)
    if not isinstance(value, dict) or not _is_request(value):
        return WorkflowFile(origin=origin, spec=_spec(value, origin), text=text, lines=lines)
    found = tuple(_field_problems(value))
    spec = _spec(value.get("spec"), origin)
    file = WorkflowFile(origin=origin, spec=spec, text=text, lines=lines)
    if found:
        raise FieldInvalid(*(Violation(file.place(v.field), v.description) for v in found))
    labels, given = value.get("labels"), value.get("input")
    return replace(
        file,
        input=given if isinstance(given, dict) else None,
        labels={key: str(word) for key, word in labels.items()} if isinstance(labels, dict) else {},
        workflow_id=str(value.get("workflow_id") or ""),
        header=value.get(HEADER),
    )


def _spec(value: Json, origin: str) -> Json:
    try:
        return in_full(value)
    except RecursionError:
        raise FieldInvalid(Violation(origin, "is nested too deeply")) from None


def read_value(text: str, *, origin: str) -> Json:
    """Returns what a text of YAML or JSON says.

    Raises:
        FieldInvalid: It is neither, or says more than JSON can; names the line.
    """
    try:
        if text.lstrip().startswith("{"):
            made: Json = json.loads(text, object_pairs_hook=_once)
            return made
        return _value(_composed(text))
    except json.JSONDecodeError as error:
        where, said = f"{origin}:{error.lineno}", f"is not JSON: {error.msg}"
        raise FieldInvalid(Violation(where, f"{said}, at column {error.colno}")) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{origin}:{mark.line + 1}" if mark else origin
        said = error.problem or error.context or "is broken here"
        raise FieldInvalid(Violation(where, f"is not YAML: {said}")) from None
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise FieldInvalid(Violation(origin, f"is not YAML: {said}")) from None
    except RecursionError:
        raise FieldInvalid(Violation(origin, "is nested too deeply")) from None


def dump_yaml(value: object) -> str:
    """Returns a value as YAML, in the order given."""

    class Dumper(yaml.SafeDumper):
        """Writes lists below their name, indented, as people do."""

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
            super().increase_indent(flow, False)  # noqa: FBT003 - its own signature

    def text(dumper: yaml.SafeDumper, said: str) -> yaml.Node:
        """Quotes what would be read as something else, by this or, as it does itself, by others."""
        style = "'" if _plain(said) != said else None
        if not said.replace("\n", "").isprintable():  # among them what ends a line for YAML alone
            style = '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", said, style=style)

    Dumper.add_representer(str, text)
    dumped: str = yaml.dump(
        value, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )
    return dumped


# -- fields -------------------------------------------------------------------------------------


def _is_request(keys: Mapping[str, object] | Sequence[str]) -> bool:
    return "spec" in keys


def _field_problems(value: Mapping[str, Json]) -> Iterator[Violation]:
    for name in value:
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, n=1)
            known = f"is {near[0]} meant?" if near else f"a file has {', '.join(FIELDS)}"
            yield Violation(name, f"there is no such field: {known}")
    for name in ("input", "labels"):
        if not isinstance(value.get(name, {}), dict | None):
            yield Violation(name, "must be an object {…}")
    labels = value.get("labels")
    for key, word in labels.items() if isinstance(labels, dict) else ():
        if not isinstance(word, str):
            yield Violation(f"labels.{key}", "must be a text: put it in quotes")
    if not isinstance(value.get("workflow_id", ""), str | None):
        yield Violation("workflow_id", "must be a text: put it in quotes")


# -- YAML ---------------------------------------------------------------------------------------


class _Unread(yaml.MarkedYAMLError):
    """YAML that says more than JSON can."""


class _Loader(yaml.SafeLoader):
    """Reads YAML without what nobody needs here and what surprises: anchors, and typed words."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - as its base

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Returns the next node, unless it is an alias: it could stand for a million others."""
        if self.check_event(yaml.events.AliasEvent):
            mark = self.get_mark()
            raise _Unread(problem="anchors are not read here", problem_mark=mark)
        return super().compose_node(parent, index)


def _composed(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
        return node
    finally:
        loader.dispose()


def _value(node: yaml.Node | None) -> Json:
    match node:
        case None:
            return None
        case yaml.ScalarNode():
            return _scalar(node)
        case yaml.SequenceNode():
            return [_value(item) for item in node.value]
        case yaml.MappingNode():
            made: dict[str, Json] = {}
            for key, item in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise _Unread(problem="a name must be a text", problem_mark=key.start_mark)
                if key.value in made:
                    said = f"{key.value!r} stands here twice"
                    raise _Unread(problem=said, problem_mark=key.start_mark)
                made[key.value] = _value(item)
            return made
        case _:
            raise _Unread(problem="is nothing that JSON has", problem_mark=node.start_mark)


def _scalar(node: yaml.ScalarNode) -> Json:
    text = str(node.value)
    if node.tag != "tag:yaml.org,2002:str":
        raise _Unread(problem="tags are not read here", problem_mark=node.start_mark)
    if node.style is not None:  # quoted, or a block
        return text
    return _plain(text)


def _plain(text: str) -> str | int | float | bool | None:
    """Returns what a text without quotes stands for."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text


def _keys(node: yaml.Node | None) -> list[str]:
    if not isinstance(node, yaml.MappingNode):
        return []
    return [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]


def _below(node: yaml.Node | None, step: str) -> tuple[int, yaml.Node] | None:
    """Returns the line and the node that one step of a path leads to."""
    if isinstance(node, yaml.SequenceNode) and step.isdecimal() and int(step) < len(node.value):
        item = node.value[int(step)]
        return item.start_mark.line + 1, item
    if isinstance(node, yaml.MappingNode):
        for key, item in node.value:
            if key.value == step or _snake(str(key.value)) == step:
                return key.start_mark.line + 1, item
    return None


def _snake(name: str) -> str:
    """Returns a name as the protos have it; JSON may have it in camel case."""
    return re.sub(r"[A-Z]", lambda match: f"_{match[0].lower()}", name)


def _once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """Returns an object of JSON, unless a name stands in it twice: only one could count."""
    made: dict[str, Json] = {}
    for key, value in pairs:
        if key in made:
            raise _Unread(problem=f"{key!r} stands in one object twice")
        made[key] = value
    return made
