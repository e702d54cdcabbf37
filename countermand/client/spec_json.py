"""Says what is wrong with a spec written as JSON: each mistake with its path, in words. Pure.

protobuf's own reader stops at the first mistake and speaks of Python's types and its own classes.
This walks the text beside the contract instead, and finds them all; what it passes, protobuf reads.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from countermand.rpc.errors import Violation
from countermand.v1.workflow_spec_pb2 import Group, Node, WorkflowSpec

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

_DURATION: Final = "google.protobuf.Duration"
_INTEGERS: Final = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
    }
)
_NUMBERS: Final = frozenset({FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT})
_BITS: Final = {FieldDescriptor.CPPTYPE_INT32: 31, FieldDescriptor.CPPTYPE_UINT32: 32}
# What is written where the root is, by those who think of it as a member.
_OF_A_NODE: Final = frozenset({"task", "action", "name", "external_task", "externalTask"})


def mistakes(text: str, *, origin: str) -> Iterator[Violation]:
    """Yields what keeps a text from being a spec, in the order of the text."""
    try:
        value = json.loads(text)
    except ValueError as error:
        yield Violation(field=origin, description=f"is not JSON: {error}")
        return
    yield from mistakes_of(value)


def mistakes_of(
    value: Json, descriptor: Descriptor = WorkflowSpec.DESCRIPTOR, path: str = "spec"
) -> Iterator[Violation]:
    """Yields what keeps a value from being a spec, or another message, in its order."""
    yield from _message(value, descriptor, path)


def in_full(value: Json, descriptor: Descriptor = WorkflowSpec.DESCRIPTOR) -> Json:
    """Returns a spec whose short words, such as `qcow2`, are as the contract has them."""
    if not isinstance(value, dict) or descriptor.file.package == "google.protobuf":
        return value
    fields = {name: field for field in descriptor.fields for name in (field.json_name, field.name)}
    return {
        name: _in_full(content, fields[name]) if name in fields else content
        for name, content in value.items()
    }


def _in_full(value: Json, field: FieldDescriptor) -> Json:
    if isinstance(value, list):
        return [_in_full(item, field) for item in value]
    if field.message_type is not None:
        is_map = field.message_type.GetOptions().map_entry
        return value if is_map else in_full(value, field.message_type)
    if field.enum_type is None or not isinstance(value, str) or not value.islower():
        return value
    first, *words = (known.name for known in field.enum_type.values)
    word = first.removesuffix("UNSPECIFIED") + value.upper()
    return word if word in words else value


def _message(value: Json, descriptor: Descriptor, path: str) -> Iterator[Violation]:
    if descriptor.full_name == _DURATION:
        if not isinstance(value, str) or not _is_duration(value):
            yield Violation(path, f'must be a duration such as "30s", not {_shown(value)}')
        return
    if descriptor.file.package == "google.protobuf":
        return  # an input may be anything
    if not isinstance(value, dict):
        yield Violation(path, f"must be an object {{…}}, not {_shown(value)}")
        return
    if (advice := _wrong_root(value, descriptor, path)) is not None:
        yield Violation(path, advice)
        return
    fields = {name: field for field in descriptor.fields for name in (field.json_name, field.name)}
    for name, content in value.items():
        if name not in fields:
            yield Violation(f"{path}.{name}", _unknown(name, descriptor))
        elif content is not None:
            yield from _field(content, fields[name], f"{path}.{fields[name].name}")
    for oneof in descriptor.oneofs:
        given = [name for name in value if name in fields and fields[name] in oneof.fields]
        if len(given) > 1:
            yield Violation(path, f"has {' and '.join(given)}: only one of them is possible")


def _wrong_root(value: Mapping[str, Json], descriptor: Descriptor, path: str) -> str | None:
    """Returns what to do when a member stands where the root's group should."""
    if descriptor is not Group.DESCRIPTOR or path != "spec.root":
        return None
    if "group" in value:
        return "is a group itself: write kind and members here, without `group` around them"
    if _OF_A_NODE & value.keys():
        return "is a group: put the task into its members"
    return None


def _field(value: Json, field: FieldDescriptor, path: str) -> Iterator[Violation]:
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    if is_map:
        if not isinstance(value, dict):
            yield Violation(path, f"must be an object {{…}}, not {_shown(value)}")
            return
        for key, text in value.items():  # every map of the contract holds texts
            if not isinstance(text, str):
                yield Violation(f"{path}.{key}", f'must be a text: write "{_plain(text)}"')
        return
    if not field.is_repeated:
        yield from _single(value, field, path)
    elif not isinstance(value, list):
        yield Violation(path, f"must be a list […], not {_shown(value)}")
    else:
        for index, item in enumerate(value):
            yield from _single(item, field, f"{path}[{index}]")


def _single(value: Json, field: FieldDescriptor, path: str) -> Iterator[Violation]:
    if field.message_type is not None:
        yield from _message(value, field.message_type, path)
    elif field.enum_type is not None:
        words = [known.name for known in field.enum_type.values]
        if value not in words and not _is_integer(value):
            possible = ", ".join(word for word in words if not word.endswith("_UNSPECIFIED"))
            yield Violation(path, f"must be one of {possible}; not {_shown(value)}")
    elif (wanted := _wanted(value, field)) is not None:
        yield Violation(path, f"must be {wanted}, not {_shown(value)}")


def _wanted(value: Json, field: FieldDescriptor) -> str | None:
    """Returns what a plain value should be, if it is something else."""
    kind = field.cpp_type
    if kind in _INTEGERS:
        if not _is_integer(value):
            return "a whole number"
        bits = _BITS.get(kind, 63)
        number = int(value) if isinstance(value, str | int | float) else 0
        return None if abs(number) < 2**bits else f"less than 2^{bits}"
    if kind in _NUMBERS:
        return None if isinstance(value, int | float) and value is not True else "a number"
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return None if isinstance(value, bool) else "true or false"
    return None if isinstance(value, str) else "a text"


def _is_integer(value: Json) -> bool:
    """Returns whether it is a whole number; protobuf writes long ones as texts."""
    if isinstance(value, str):
        return value.removeprefix("-").isdecimal()
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def _is_duration(value: str) -> bool:
    number = value.removesuffix("s").removeprefix("-")
    whole, _, part = number.partition(".")
    return value.endswith("s") and whole.isdecimal() and (not part or part.isdecimal())


def _unknown(name: str, descriptor: Descriptor) -> str:
    known = [field.name for field in descriptor.fields]
    what = "a member" if descriptor is Node.DESCRIPTOR else f"{descriptor.name}"
    near = difflib.get_close_matches(name, known, n=1)
    meant = f": is {near[0]} meant?" if near else f"; {what} has {', '.join(known)}"
    return f"there is no such field{meant}"


def _plain(value: Json) -> str:
    """Returns a value as a text that would stand in its place."""
    is_plain = isinstance(value, bool | int | float)
    return json.dumps(value) if is_plain else "…"


def _shown(value: Json) -> str:
    match value:
        case dict():
            return "an object"
        case list():
            return "a list"
        case None:
            return "null"
        case _:
            text = json.dumps(value, ensure_ascii=False)
            return text if len(text) <= 40 else f"{text[:39]}…"  # noqa: PLR2004 - a line's part
