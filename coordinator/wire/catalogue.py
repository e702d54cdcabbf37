"""The verbs of the contract, read from its descriptors: what each is called, does and leaves.

The effect and the opposite stand beside each verb in verb.proto; nothing is repeated here but what
depends on a verb's arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from coordinator.saga.spec import TaskSpec, Value, owner_of
from coordinator.saga.states import Effect
from countermand.v1 import agent_pb2, annotation_pb2
from countermand.v1.image_pb2 import ImageAddress
from countermand.v1.verb_pb2 import Action, Output

EFFECTS: dict[annotation_pb2.Effect.ValueType, Effect] = {
    annotation_pb2.EFFECT_READ_ONLY: Effect.READ_ONLY,
    annotation_pb2.EFFECT_REVERSIBLE: Effect.REVERSIBLE,
    annotation_pb2.EFFECT_PIVOT: Effect.PIVOT,
    annotation_pb2.EFFECT_FORWARD_ONLY: Effect.FORWARD_ONLY,
}
_EFFECT_NUMBERS = {effect: number for number, effect in EFFECTS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One verb of the catalogue."""

    name: str  # "copy_image": the field of Action, of Output and of SessionCall
    rpc: str  # "CopyImage"
    effect: Effect  # when nothing in its arguments says otherwise
    opposite: str  # in one phrase
    arguments: Descriptor
    output: Descriptor
    addresses: tuple[str, ...]  # the arguments that name an image
    request: type[Message]  # the RPC's request: header and arguments


def _verb(field: FieldDescriptor) -> Verb:
    arguments = field.message_type
    output = Output.DESCRIPTOR.fields_by_name[field.name].message_type
    assert arguments is not None, field.name
    assert output is not None, field.name
    rule = arguments.GetOptions().Extensions[annotation_pb2.verb]
    return Verb(
        name=field.name,
        rpc=arguments.name,
        effect=EFFECTS[rule.effect],
        opposite=rule.opposite,
        arguments=arguments,
        output=output,
        addresses=tuple(
            argument.name
            for argument in arguments.fields
            if argument.message_type is ImageAddress.DESCRIPTOR
        ),
        request=getattr(agent_pb2, f"{arguments.name}Request"),
    )


VERBS: Mapping[str, Verb] = {
    field.name: _verb(field) for field in Action.DESCRIPTOR.oneofs_by_name["verb"].fields
}


CUSTOM = "custom"
CUSTOM_BYTES_MAX = 16 * 1024  # of a plug-in's arguments: the contract's bound


def name_of(action: Action) -> str:
    """Returns what an action's verb is called: as its field, or a plug-in's by its own name."""
    name = str(action.WhichOneof("verb"))
    return action.custom.verb if name == CUSTOM else name


def field_of(name: str) -> str:
    """Returns the field of Action, and of Output, of a verb that is called so."""
    return name if name in VERBS else CUSTOM


def verb_called(name: str) -> Verb:
    """Returns a verb by what it is called."""
    return VERBS[field_of(name)]


# Of values that are bound: None is one that is not known yet.
Bound = Mapping[str, Value]
_NOTHING_BOUND: Bound = MappingProxyType({})


def effect_of(action: Action, bound: Bound = _NOTHING_BOUND) -> Effect:
    """Returns what an action does to the world, its arguments considered.

    What is bound counts by its value; where that is not known yet, nothing good is taken from it.
    """
    match action.WhichOneof("verb"):
        case "resize_image":
            field = "shrink_allowed"
            shrinks = (
                bound[field] is not False if field in bound else action.resize_image.shrink_allowed
            )
            return Effect.PIVOT if shrinks else Effect.REVERSIBLE
        case "revert_image":
            field = "safety_snapshot_id"
            safe = bound.get(field, action.revert_image.safety_snapshot_id)
            return Effect.REVERSIBLE if safe else Effect.PIVOT
        case "custom":  # fixed; one that says nothing is refused for that
            return EFFECTS.get(action.custom.effect, Effect.PIVOT)
        case str(name):
            return VERBS[name].effect
        case None:
            raise ValueError("an action without a verb has no effect")


def effect_number(effect: Effect) -> annotation_pb2.Effect.ValueType:
    """Returns an effect as the contract numbers it."""
    return _EFFECT_NUMBERS[effect]


# What the effect of a verb is, in words; what is not known yet is left out.
_LEFT = {
    "create_image": "the image {target}",
    "copy_image": "the copy {target}",
    "clone_image": "the clone {target}",
    "delete_image": "the removal of {target}",
    "resize_image": "the new size of {target}",
    "create_snapshot": "the snapshot {snapshot_id} of {target}",
    "delete_snapshot": "the removal of snapshot {snapshot_id} of {target}",
    "revert_image": "{target}, reverted to snapshot {snapshot_id}",
    "verify_image": "nothing: {target} was only read",
    "noop": "nothing: it was a drill",
    "custom": "what {verb} left{where}",
}
_UNDONE = {
    "delete_image": "the image {target}",
    "delete_snapshot": "the snapshot {snapshot_id} of {target}",
    "custom": "what {verb} should have done{where}",
}


def phrase_left(spec: TaskSpec, action: Action, *, undone: bool) -> str:
    """Returns what a task left: on a host, or with its owner, such as "what acme did in clone"."""
    if owner := owner_of(spec.host):
        did = "should have done" if undone else "did"
        return f"what {owner} {did} in {spec.name} ({spec.verb.partition('/')[2]})"
    return phrase_undone(action) if undone else phrase(action)


def phrase(action: Action) -> str:
    """Returns what an action leaves on a host, such as "the copy images/vm-1"."""
    name = action.WhichOneof("verb")
    if name is None:
        return "nothing"
    return _LEFT[name].format(**_words(action, name))


def phrase_undone(action: Action) -> str:
    """Returns what an action that should have removed something leaves by not having done it."""
    name = action.WhichOneof("verb")
    undone = _UNDONE.get(name or "")
    return undone.format(**_words(action, str(name))) if undone else phrase(action)


def phrase_asked(action: Action) -> str:
    """Returns what an action does, such as "delete image images/vm-1"."""
    name = str(action.WhichOneof("verb"))
    words = _words(action, name)
    snapshot = f"{words['snapshot_id']} of" if words["snapshot_id"] != "?" else ""
    said = (name_of(action).replace("_", " "), snapshot, words.get("target"))
    return " ".join(filter(None, said))


def _words(action: Action, name: str) -> dict[str, str]:
    arguments = getattr(action, name)
    words = {"snapshot_id": getattr(arguments, "snapshot_id", "") or "?"}
    for field in VERBS[name].addresses:
        address = getattr(arguments, field)
        words[field] = f"{address.pool_id or '?'}/{address.image_id or '?'}"
    if name == CUSTOM:
        words["verb"] = arguments.verb or "?"
        words["where"] = f" in {words['target']}" if arguments.HasField("target") else ""
    return words
