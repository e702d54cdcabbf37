"""Values that flow between tasks: outputs and inputs flattened to paths, and filled into actions.

A path names a scalar by the fields that lead to it: "image.pool_id". Lists have no path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.struct_pb2 import Value as ProtoValue

from coordinator.saga.spec import Value
from coordinator.saga.workflow import NO_VALUES, Inbound, Values
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


def output_of_values(verb: str, values: Values) -> Output:
    """Returns an output again as the verb's own message."""
    output = Output()
    target = getattr(output, verb)
    target.SetInParent()
    for path, value in values.items():
        _set(target, path, value)
    return output


def kind_at(struct: Struct, path: str) -> str:
    """Returns what stands at a path of a caller's object in words; empty if nothing does."""
    *lead, last = path.split(".")
    for part in lead:
        if part not in struct.fields:
            return ""
        struct = struct.fields[part].struct_value
    if last not in struct.fields:
        return ""
    return _KINDS.get(struct.fields[last].WhichOneof("kind") or "", "")


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
    probe = Action()
    probe.CopyFrom(action)
    try:
        fill(probe, (Inbound(field=field, value=value, origin=""),))
    except ValueError:  # an enum, or a number of 32 bits
        return False
    return True


def scalar_type(message: Descriptor, path: str) -> type | None:
    """Returns the Python type of the scalar at a path of a message; None if there is none."""
    field: FieldDescriptor | None = None
    here: Descriptor | None = message
    for part in path.split("."):
        if here is None:
            return None
        field = here.fields_by_name.get(part)
        if field is None or field.is_repeated:
            return None
        here = field.message_type
    if field is None or here is not None:
        return None
    return _PYTHON_TYPES.get(field.cpp_type)


def proto_value(value: Value) -> ProtoValue:
    """Returns a value as the contract's Value; int64 beyond 2^53 as text, as JSON does."""
    match value:
        case None:
            return ProtoValue(null_value=0)  # type: ignore[arg-type]  # NULL_VALUE is 0
        case bool():
            return ProtoValue(bool_value=value)
        case str():
            return ProtoValue(string_value=value)
        case int() if abs(value) > 2**53:
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
        elif message.HasField(field.name):
            yield from _flatten(getattr(message, field.name), f"{path}.")


def _flatten_struct(struct: Struct, prefix: str) -> Iterator[tuple[str, Value]]:
    for key, value in struct.fields.items():
        path = f"{prefix}{key}"
        match value.WhichOneof("kind"):
            case "struct_value":
                yield from _flatten_struct(value.struct_value, f"{path}.")
            case "string_value":
                yield path, value.string_value
            case "bool_value":
                yield path, value.bool_value
            case "number_value":
                number = value.number_value
                yield path, int(number) if number.is_integer() else number
            case _:
                continue


def _set(message: Message, path: str, value: Value) -> None:
    if value is None:
        return
    *lead, last = path.split(".")
    for part in lead:
        message = getattr(message, part)
    setattr(message, last, value)


def span_from_proto(span: Duration) -> timedelta | None:
    """Returns a span of time; None if the message is none, or holds more than there can be."""
    try:
        span.ToJsonString()  # the only check that the library has of its own rules
        return span.ToTimedelta()
    except (ValueError, OverflowError):
        return None
