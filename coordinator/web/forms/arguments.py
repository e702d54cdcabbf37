"""What an action takes, as fields of a form: every value by its path, with what it is now. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from coordinator.web.forms.fields import Field, Kind, Option
from countermand.v1.annotation_pb2 import fixed
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.task_pb2 import Task
from countermand.v1.verb_pb2 import Action

ARGUMENTS: Final = "arguments."

_STRUCT: Final = "google.protobuf.Struct"
_WHOLE: Final = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
    }
)
_FLOATS: Final = frozenset({FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One value that a rerun may change."""

    path: str
    type: str  # "string", "int64", "bool", "double", or "enum"
    words: Sequence[str] = ()  # of an enum
    value: str = ""  # as it is now, in words


def arguments_of(task: Task) -> list[Argument]:
    """Returns what may be changed about a task, with the values of its last attempt."""
    action = next(
        (each.action for each in reversed(task.attempts) if each.kind == Attempt.KIND_ACTION),
        Action(),
    )
    if task.kind == Task.KIND_EXTERNAL:
        return [*_open_ones(action.custom.arguments)]
    verb = action.WhichOneof("verb") or task.verb
    known = Action.DESCRIPTOR.fields_by_name.get(verb)
    if known is None or known.message_type is None:
        return []
    return list(_arguments(known.message_type, getattr(action, verb), ""))


def _arguments(kind: Descriptor, now: Message | None, lead: str) -> Iterator[Argument]:
    for field in kind.fields:
        if field.is_repeated or field.GetOptions().Extensions[fixed]:
            continue
        inner = field.message_type
        value = getattr(now, field.name) if now is not None else None
        if inner is None:
            shown = _shown(field, value)
            words = tuple(each.name for each in field.enum_type.values) if field.enum_type else ()
            yield Argument(path=f"{lead}{field.name}", type=_type(field), words=words, value=shown)
        elif inner.full_name == _STRUCT and isinstance(value, Struct):
            yield from _open_ones(value, f"{lead}{field.name}.")
        elif not inner.full_name.startswith("google."):
            yield from _arguments(inner, value, f"{lead}{field.name}.")


def _open_ones(given: Struct, lead: str = ARGUMENTS) -> Iterator[Argument]:
    for key, value in sorted(given.fields.items()):
        type_ = {"bool_value": "bool", "number_value": "double"}.get(str(value.WhichOneof("kind")))
        yield Argument(path=f"{lead}{key}", type=type_ or "string", value=plain(value))


def paths_of(verb: str, now: Message | None, made: Message | None) -> list[Argument]:
    """Returns all that a verb takes, filled in with what it had, or with what was made."""
    known = list(_every(now or getattr(Action(), verb), ""))
    if now is not None or made is None:
        return known
    of_made = {each.path: each.value for each in _every(made, "")}
    return [
        replace(each, value=of_made.get(each.path, "")) if _is_of_made(each.path) else each
        for each in known
    ]


def _is_of_made(path: str) -> bool:
    """Returns whether a field says what an action is about."""
    return path.startswith("target.") or path == "snapshot_id"


def _every(message: Message, lead: str) -> Iterator[Argument]:
    """Yields every field of a verb, also those that a rerun may not change."""
    kind: Descriptor = message.DESCRIPTOR  # type: ignore[assignment]  # of either implementation
    for field in kind.fields:
        path, inner, value = f"{lead}{field.name}", field.message_type, getattr(message, field.name)
        if inner is None:
            words = tuple(each.name for each in field.enum_type.values) if field.enum_type else ()
            shown = _shown(field, value)
            yield Argument(path=path, type=_type(field), words=words, value=shown)
        elif inner.full_name == _STRUCT:
            text = json_format.MessageToJson(value) if value.fields else ""
            yield Argument(path=path, type="struct", value=text)
        else:
            yield from _every(value, f"{path}.")


def field_of_path(verb: str, argument: Argument) -> Field:
    """Returns the field of a value that a verb takes."""
    field = field_of_argument(f"{verb}:{argument.path}", argument)
    kind: Kind = "long" if argument.type == "struct" else field.kind
    hint = "As JSON: an object." if kind == "long" else ""
    return replace(field, kind=kind, hint=hint)


def _type(field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        return "enum"
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "bool"
    if field.cpp_type in _WHOLE:
        return "int64"
    return "double" if field.cpp_type in _FLOATS else "string"


def _shown(field: FieldDescriptor, value: Any) -> str:  # noqa: ANN401 - of any field
    if field.enum_type is not None:
        return str(field.enum_type.values_by_number[value or 0].name)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "true" if value else "false"
    if field.cpp_type in _WHOLE:
        return str(value) if value else ""
    return str(value or "")


def plain(value: Value) -> str:
    """Returns a value as somebody types it."""
    kind = value.WhichOneof("kind")
    if kind == "bool_value":
        return "true" if value.bool_value else "false"
    if kind == "number_value":
        number = value.number_value
        return str(int(number)) if number.is_integer() else str(number)
    if kind == "string_value":
        return value.string_value
    return "" if kind in {None, "null_value"} else json_format.MessageToJson(value, indent=None)


def field_of_argument(name: str, argument: Argument) -> Field:
    """Returns the field of one value of an action."""
    if argument.type in {"bool", "enum"}:
        words = argument.words or ("true", "false")
        options = [Option(value=word, label=_label(word)) for word in words]
        return Field(
            name=name, label=argument.path, kind="pick", value=argument.value, options=options
        )
    kind = "number" if argument.type in {"int64", "double"} else "text"
    return Field(name=name, label=argument.path, kind=kind, value=argument.value)  # type: ignore[arg-type]


def _label(word: str) -> str:
    return "not said" if word.endswith("_UNSPECIFIED") else word
