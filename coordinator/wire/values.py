"""Values that flow between tasks: outputs and inputs flattened to paths, and filled into actions.

A path names a scalar by the fields that lead to it: "image.pool_id". Elements of a list go by their
index: "disks.0.image_id". What is null, and a list in a verb's own message, has no path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from functools import cache
from math import isfinite

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.struct_pb2 import Value as ProtoValue

from coordinator.saga.spec import Value
from coordinator.saga.workflow import NO_VALUES, Inbound, Values
from countermand.v1 import annotation_pb2
from countermand.v1.verb_pb2 import Action, Output

# What a scalar is called in messages to people.
TYPE_NAMES = {str: "string", int: "int64", bool: "bool", float: "double"}

_PYTHON_TYPES: dict[int, type[str | int | bool | float]] = {
    FieldDescriptor.CPPTYPE_STRING: str,
    FieldDescriptor.CPPTYPE_INT32: int,
    FieldDescriptor.CPPTYPE_INT64: int,
    FieldDescriptor.CPPTYPE_UINT32: int,
    FieldDescriptor.CPPTYPE_UINT64: int,
    FieldDescriptor.CPPTYPE_ENUM: int,
    FieldDescriptor.CPPTYPE_BOOL: bool,
    FieldDescriptor.CPPTYPE_DOUBLE: float,
    FieldDescriptor.CPPTYPE_FLOAT: float,
}


def values_of_output(output: Output) -> Values:
    """Returns what an attempt left, flattened; fields at their default included."""
    name = output.WhichOneof("verb")
    if name is None:
        return NO_VALUES
    if name == "external":
        return values_of_struct(output.external)
    return dict(_flatten(getattr(output, name), ""))


def values_of_struct(struct: Struct) -> Values:
    """Returns a caller's own object, flattened."""
    return dict(_flatten_struct(struct, ""))


def doubled(struct: Struct) -> str:
    """Returns a path that leads to two values, since keys may hold dots; empty if there is none."""
    seen: set[str] = set()
    for path, _ in _flatten_struct(struct, ""):
        if path in seen:
            return path
        seen.add(path)
    return ""


def unsayable(struct: Struct) -> str:
    """Returns a path that leads to infinity or the like, which JSON has not; empty: none does."""
    for path, value in _flatten_struct(struct, ""):
        if is_endless(value):
            return path
    return ""


def output_of_values(verb: str, values: Values) -> Output:
    """Returns an output again as the verb's own message."""
    output = Output()
    target = getattr(output, verb)
    target.SetInParent()
    for path, value in values.items():
        if isinstance(target, Struct):
            target.fields[path].CopyFrom(proto_value(value))
        else:
            _set(target, path, value)
    return output


def value_at(struct: Struct, path: str) -> ProtoValue | None:
    """Returns what stands at a path of a caller's object; None if nothing does."""
    here = ProtoValue(struct_value=struct)
    for part in path.split("."):
        if here.HasField("struct_value") and part in here.struct_value.fields:
            here = here.struct_value.fields[part]
        elif here.HasField("list_value") and part.isdecimal() and part.isascii():
            values = here.list_value.values
            if int(part) >= len(values) or str(int(part)) != part:
                return None
            here = values[int(part)]
        else:
            return None
    return here


def kind_at(struct: Struct, path: str) -> str:
    """Returns in words what stands at a path and has no value; empty if nothing such does."""
    found = value_at(struct, path)
    return _KINDS.get(found.WhichOneof("kind") or "", "") if found is not None else ""


_KINDS = {"null_value": "null", "list_value": "a list", "struct_value": "an object"}


def fill(action: Action, inbound: Sequence[Inbound]) -> None:
    """Puts bound values into an action; a missing value leaves the field as it is."""
    name = action.WhichOneof("verb")
    assert name is not None, "a committed action has a verb"
    for value in inbound:
        _set(getattr(action, name), value.field, value.value)


INT64_MAX = 2**63 - 1


def holds(action: Action, field: str, value: Value) -> bool:
    """Returns whether a field of an action's verb can hold a value of its own type."""
    name = action.WhichOneof("verb")
    assert name is not None, "an action that is looked at has a verb"
    return fits(getattr(action, name).DESCRIPTOR, field, value)


def fits(message: Descriptor, path: str, value: Value) -> bool:
    """Returns whether the field at a path of a message can hold a value of its own type."""
    if type(value) is not int or is_open(message, path):
        return True
    field = _scalar_at(message, path)
    assert field is not None, path
    least, most = _RANGES.get(field.cpp_type, (0, 0))
    return least <= value <= most


_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), INT64_MAX),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: (-(2**1023), 2**1023),
    FieldDescriptor.CPPTYPE_FLOAT: (-(2**127), 2**127),
}


def scalar_type(message: Descriptor, path: str) -> type[str | int | bool | float] | None:
    """Returns the Python type of the scalar at a path of a message; None if there is none."""
    field = _scalar_at(message, path)
    return _PYTHON_TYPES.get(field.cpp_type) if field is not None else None


@cache  # by message, of which the contract has so many and no more
def scalars_of(message: Descriptor) -> Mapping[str, FieldDescriptor]:
    """Returns every scalar of a message, by its path."""
    found: dict[str, FieldDescriptor] = {}
    for field in message.fields:
        if field.is_repeated or is_fixed(message, field.name):
            continue
        if field.message_type is None:
            found[field.name] = field
        elif field.message_type.full_name not in _OPEN:
            for path, below in scalars_of(field.message_type).items():
                found[f"{field.name}.{path}"] = below
    return found


_STRUCT = "google.protobuf.Struct"
_OPEN = frozenset({_STRUCT, "google.protobuf.Value"})  # they hold themselves


def is_open(message: Descriptor, path: str) -> bool:
    """Returns whether a path leads to a key in somebody's own object: it takes any scalar."""
    name, _, key = path.partition(".")
    field = message.fields_by_name.get(name)
    if field is None or field.message_type is None or not key or "." in key:
        return False
    return field.message_type.full_name == _STRUCT


def is_fixed(message: Descriptor, path: str) -> bool:
    """Returns whether the field at a path is what its spec says, and nothing fills it."""
    field = message.fields_by_name.get(path)
    return field is not None and field.GetOptions().Extensions[annotation_pb2.fixed]


def _scalar_at(message: Descriptor, path: str) -> FieldDescriptor | None:
    return scalars_of(message).get(path)


EXACT_MAX = 2**53 - 1  # up to here a whole number that came as one of JSON is what was meant
INEXACT = "is a whole number beyond 2^53, where JSON's are not exact: write it as a text"
_WHOLE = re.compile(r"-?[0-9]{1,20}")


def is_inexact(kind: type | None, value: Value) -> bool:
    """Returns whether a number of JSON may not be the one that was meant."""
    return kind is not float and type(value) is int and abs(value) > EXACT_MAX


ENDLESS = "must be a finite number"


def is_endless(value: Value) -> bool:
    """Returns whether a number is infinity or the like, which JSON has not."""
    return isinstance(value, float) and not isfinite(value)


def is_int64(value: int) -> bool:
    """Returns whether the contract's int64 can hold a number."""
    return -INT64_MAX - 1 <= value <= INT64_MAX


def from_json(kind: type | None, value: Value) -> Value:
    """Returns a value of JSON as the type it stands for: its numbers are all alike."""
    if kind is float and type(value) is int:
        return float(value)
    if kind is int and isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)  # beyond 2^53, as JSON writes it
    return value


def proto_value(value: Value) -> ProtoValue:
    """Returns a value as the contract's Value; int64 beyond 2^53 as text, as JSON does."""
    match value:
        case None:
            return ProtoValue(null_value=0)  # type: ignore[arg-type]  # NULL_VALUE is 0
        case bool():
            return ProtoValue(bool_value=value)
        case str():
            return ProtoValue(string_value=value)
        case int() if abs(value) > EXACT_MAX:
            return ProtoValue(string_value=str(value))
        case _:
            return ProtoValue(number_value=value)


def _flatten(message: Message, prefix: str) -> Iterator[tuple[str, Value]]:
    for field in message.DESCRIPTOR.fields:
        if field.is_repeated:
            continue
        path = f"{prefix}{field.name}"
        if field.message_type is None:
            yield path, getattr(message, field.name)
        elif field.message_type.full_name == _STRUCT:
            yield from _flatten_struct(getattr(message, field.name), f"{path}.")
        elif message.HasField(field.name):
            yield from _flatten(getattr(message, field.name), f"{path}.")


def _flatten_struct(struct: Struct, prefix: str) -> Iterator[tuple[str, Value]]:
    for key, value in struct.fields.items():
        yield from _flatten_value(value, f"{prefix}{key}")


def _flatten_value(value: ProtoValue, path: str) -> Iterator[tuple[str, Value]]:
    match value.WhichOneof("kind"):
        case "struct_value":
            yield from _flatten_struct(value.struct_value, f"{path}.")
        case "list_value":
            for number, item in enumerate(value.list_value.values):
                yield from _flatten_value(item, f"{path}.{number}")
        case "string_value":
            yield path, value.string_value
        case "bool_value":
            yield path, value.bool_value
        case "number_value":
            number_ = value.number_value
            yield path, int(number_) if number_.is_integer() else number_
        case _:
            return


def _set(message: Message, path: str, value: Value) -> None:
    if value is None:
        return
    while "." in path:
        part, _, path = path.partition(".")
        message = getattr(message, part)
        if isinstance(message, Struct):  # what is left of the path is a key
            message.fields[path].CopyFrom(proto_value(value))
            return
    setattr(message, path, value)


def span_from_proto(span: Duration) -> timedelta | None:
    """Returns a span of time; None if the message is none, or holds more than there can be."""
    try:
        span.ToJsonString()  # the only check that the library has of its own rules
        return span.ToTimedelta()
    except (ValueError, OverflowError):
        return None


SHORT_CHARACTERS = 100


def short(text: str) -> str:
    """Returns a text in quotes, cut to what fits a message."""
    return repr(text if len(text) <= SHORT_CHARACTERS else f"{text[:SHORT_CHARACTERS]}…")
