"""Says what is wrong with an external task, as far as its own fields tell. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from countermand.client.spec_fields import near
from countermand.rpc.names import VENDOR_RULE, is_vendor_id
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.workflow_spec_pb2 import Node

OUTPUT_TYPES: Final = ("string", "int64", "double", "bool")
ARGUMENTS: Final = "arguments."
_WEIGHT_MAX: Final = 1_000_000
_KEY_CHARACTERS_MAX: Final = 63
_KEY_RULE: Final = "must be 1 to 63 characters without a dot"
# What people write for a type of the contract.
_MEANT: Final = {
    "str": "string",
    "text": "string",
    "int": "int64",
    "integer": "int64",
    "number": "double",
    "float": "double",
    "boolean": "bool",
}


def external_problems(task: Node.ExternalTask) -> Iterator[tuple[str, str]]:
    """Yields what is wrong: the field below the task, and words."""
    for name in ("owner_id", "kind"):
        text = getattr(task, name)
        if not is_vendor_id(text):
            yield name, f"{text!r} {VENDOR_RULE}" if text else f"is required and {VENDOR_RULE}"
    if not 0 <= task.weight <= _WEIGHT_MAX:
        yield "weight", f"must be in 0 to {_WEIGHT_MAX}; 0 means 1"
    if task.HasField("heartbeat_timeout") and task.heartbeat_timeout.ToNanoseconds() < 10**9:
        yield "heartbeat_timeout", "must be at least 1s"
    for key in task.arguments:
        if not _is_key(key):
            yield f"arguments.{key}", f"is a key that {_KEY_RULE}"
    yield from _effect_problems(task)
    for key, kind in task.outputs.items():
        if not _is_key(key):
            yield f"outputs.{key}", f"is a name that {_KEY_RULE}"
        elif kind not in OUTPUT_TYPES:
            word = _MEANT.get(kind.lower(), "")
            meant = f": is {word} meant?" if word else near(kind, OUTPUT_TYPES)
            yield f"outputs.{key}", f"must be one of {', '.join(OUTPUT_TYPES)}{meant}"
    yield from _filled_problems(task)


def _effect_problems(task: Node.ExternalTask) -> Iterator[tuple[str, str]]:
    how = task.WhichOneof("compensation")
    if not task.effect:
        names = ", ".join(Effect.keys()[1:])
        yield "effect", f"is required: what it does to the world, one of {names}"
    elif task.effect == Effect.EFFECT_REVERSIBLE and not how:
        yield "effect", "needs ask_owner or operator_checklist: how it is made up for"
    elif task.effect != Effect.EFFECT_REVERSIBLE and how:
        said = f"is for EFFECT_REVERSIBLE; with {Effect.Name(task.effect)} leave it out"
        yield how, said
    if how == "ask_owner" and not task.ask_owner:
        yield how, "must be true, or left out for operator_checklist"
    if how == "operator_checklist" and not task.operator_checklist:
        yield how, "must say what people are to do"


def _filled_problems(task: Node.ExternalTask) -> Iterator[tuple[str, str]]:
    filled: set[str] = set()
    for number, binding in enumerate(task.bindings):
        here = f"bindings[{number}].field"
        lead, name = binding.field[: len(ARGUMENTS)], binding.field[len(ARGUMENTS) :]
        if lead != ARGUMENTS or not _is_key(name):
            last = binding.field.rpartition(".")[2]
            meant = f": is {ARGUMENTS}{last} meant?" if _is_key(last) else ""
            said = f"an external task is given arguments.<name>, and no {binding.field!r}{meant}"
            yield here, said
        elif binding.field in filled:
            yield here, f"{binding.field!r} is filled by two bindings"
        filled.add(binding.field)


def not_promised(name: str, node: Node, output: str) -> str:
    """Returns what is wrong with a binding to an output of an external task, or nothing."""
    task = node.external_task
    if not node.HasField("external_task") or output in task.outputs:
        return ""
    meant = near(output, list(task.outputs))
    if not task.outputs:
        meant = f": promise it there, as `outputs: {{{output}: string}}`"
    elif not meant:
        meant = f": it promises {', '.join(sorted(task.outputs))}"
    return f"{name} promises no output {output!r}{meant}"


def _is_key(text: str) -> bool:
    return 1 <= len(text) <= _KEY_CHARACTERS_MAX and "." not in text
