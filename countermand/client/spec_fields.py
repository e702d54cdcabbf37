"""Fields by their paths: of the contract's messages, and of an input. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from countermand.client.spec_json import Json
from countermand.v1 import annotation_pb2, verb_pb2
from countermand.v1.annotation_pb2 import Effect

_STRUCT = "google.protobuf.Struct"


def descriptor_of(message: Message) -> Descriptor:
    """Returns what a message is made of."""
    return message.DESCRIPTOR  # type: ignore[return-value]  # two classes that do the same


def verb_words(action: verb_pb2.Action) -> str:
    """Returns what an action's verb is called: "copy image", or a plug-in's by its own name."""
    verb = str(action.WhichOneof("verb"))
    return action.custom.verb if verb == "custom" else verb.replace("_", " ")


def effect_of(action: verb_pb2.Action, bound: set[str]) -> Effect.ValueType:
    """Returns what an action does to the world, by its verb and its arguments."""
    verb = action.WhichOneof("verb")
    assert verb is not None, action
    arguments: Message = getattr(action, verb)
    if verb == "custom" and action.custom.effect:
        return action.custom.effect
    if verb == "resize_image" and action.resize_image.shrink_allowed:
        return Effect.EFFECT_PIVOT
    if verb == "revert_image" and (
        action.revert_image.safety_snapshot_id or "safety_snapshot_id" in bound
    ):
        return Effect.EFFECT_REVERSIBLE
    return descriptor_of(arguments).GetOptions().Extensions[annotation_pb2.verb].effect


def scalar_at(message: Descriptor, path: str) -> FieldDescriptor | None:
    """Returns the scalar field at a path of a message, if there is one."""
    here: Descriptor | None = message
    found: FieldDescriptor | None = None
    for part in path.split("."):
        found = here.fields_by_name.get(part) if here is not None else None
        if found is None or found.is_repeated or is_fixed(found):
            return None
        here = found.message_type
    return found if here is None else None


def is_open(message: Descriptor, path: str) -> bool:
    """Returns whether a path leads to a key in an object of somebody's own."""
    name, _, key = path.partition(".")
    found = message.fields_by_name.get(name)
    if found is None or found.message_type is None or not key or "." in key:
        return False
    return found.message_type.full_name == _STRUCT


def is_fixed(field: FieldDescriptor) -> bool:
    """Returns whether a field is what its spec says, and no binding fills it."""
    return field.GetOptions().Extensions[annotation_pb2.fixed]


def scalars(message: Descriptor, lead: str = "") -> Iterator[str]:
    """Yields the paths of all scalar fields of a message."""
    for known in message.fields:
        if is_fixed(known):
            continue
        if known.message_type is not None and known.message_type.full_name == _STRUCT:
            yield f"{lead}{known.name}.<key>"
        elif known.message_type is not None:
            yield from scalars(known.message_type, f"{lead}{known.name}.")
        else:
            yield f"{lead}{known.name}"


def value_at(value: Json, path: str) -> Json:
    """Returns what stands at a path of an input; None if nothing does."""
    for part in path.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def near(word: str, known: Sequence[str] | set[str]) -> str:
    """Returns what may have been meant, as the end of a message; nothing if it is far off."""
    inner = [one for one in known if one.endswith(f".{word}")]  # the last step of a longer path
    found = inner or difflib.get_close_matches(word, list(known), n=1)
    return f": is {found[0]} meant?" if found else ""
