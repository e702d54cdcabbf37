"""The verbs of the contract, read from its descriptors: what each is called, does and leaves.

The effect and the opposite stand beside each verb in verb.proto; nothing is repeated here but what
depends on a verb's arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from coordinator.saga.states import Effect
from countermand.v1 import agent_pb2, annotation_pb2
from countermand.v1.verb_pb2 import Action, Output

_EFFECTS: dict[annotation_pb2.Effect.ValueType, Effect] = {
    annotation_pb2.EFFECT_READ_ONLY: Effect.READ_ONLY,
    annotation_pb2.EFFECT_REVERSIBLE: Effect.REVERSIBLE,
    annotation_pb2.EFFECT_PIVOT: Effect.PIVOT,
    annotation_pb2.EFFECT_FORWARD_ONLY: Effect.FORWARD_ONLY,
}
_EFFECT_NUMBERS = {effect: number for number, effect in _EFFECTS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One verb of the catalogue."""

    name: str  # "copy_image": the field of Action, of Output and of SessionCall
    rpc: str  # "CopyImage"
    effect: Effect  # when nothing in its arguments says otherwise
    opposite: str  # in one phrase
    arguments: Descriptor
    output: Descriptor
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
        effect=_EFFECTS[rule.effect],
        opposite=rule.opposite,
        arguments=arguments,
        output=output,
        request=getattr(agent_pb2, f"{arguments.name}Request"),
    )


VERBS: Mapping[str, Verb] = {
    field.name: _verb(field) for field in Action.DESCRIPTOR.oneofs_by_name["verb"].fields
}


def effect_of(action: Action) -> Effect:
    """Returns what an action does to the world, its arguments considered."""
    match action.WhichOneof("verb"):
        case "resize_image" if action.resize_image.shrink_allowed:
            return Effect.PIVOT
        case "revert_image" if action.revert_image.safety_snapshot_id:
            return Effect.REVERSIBLE
        case str(name):
            return VERBS[name].effect
        case None:
            raise ValueError("an action without a verb has no effect")


def effect_number(effect: Effect) -> annotation_pb2.Effect.ValueType:
    """Returns an effect as the contract numbers it."""
    return _EFFECT_NUMBERS[effect]
