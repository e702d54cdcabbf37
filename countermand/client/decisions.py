"""Writes decisions about tasks: what `Run.resume` and `Run.decide_compensation` take.

    await run.resume("space freed", rerun=["copy-3"], skip={"verify": {"digest": "blake3-4m:…"}})
    await run.resume("moved", decisions=[rerun("copies", items=[1, 2], host="host-b")])

Tasks are named by their ids. Paths of values are as in bindings: "source.image_id".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct, Value

from countermand.rpc import names
from countermand.rpc.errors import FieldInvalid, Violation
from countermand.v1.workflow_pb2 import ResumeDecision

Patch: TypeAlias = Mapping[str, Any]  # path of a field → its value, any that JSON has


def rerun(
    task: str,
    patch: Patch | None = None,
    *,
    items: Sequence[int] = (),
    reset: bool = False,
    host: str = "",
) -> ResumeDecision:
    """Returns the decision to run a task again, or what failed in a group.

    Args:
        task: Its id.
        patch: Fields of its action that change.
        items: Of a fan-out: only these, by their index from 0.
        reset: Of a group: all of it; what succeeded is made up for first.
        host: Another host.
    """
    again = ResumeDecision.Rerun(patch=values(patch), indices=items, reset=reset, host_id=host)
    return ResumeDecision(task=task, rerun=again)


def skip(task: str, outputs: Patch | None = None) -> ResumeDecision:
    """Returns the decision to go on from what comes after a task, which is given its outputs."""
    return ResumeDecision(task=task, skip=ResumeDecision.Skip(outputs=struct_of(outputs)))


def give_up(task: str) -> ResumeDecision:
    """Returns the decision to make up for the whole workflow, because of this task."""
    return ResumeDecision(task=task, give_up=ResumeDecision.GiveUp())


def gathered(
    workflow_id: str,
    *,
    reruns: Mapping[str, Patch] | Iterable[str] = (),
    skips: Mapping[str, Patch] | Iterable[str] = (),
    give_ups: Iterable[str] = (),
    decisions: Iterable[ResumeDecision] = (),
) -> list[ResumeDecision]:
    """Returns every decision, its task named as the contract does."""
    made = [rerun(task, patch) for task, patch in _pairs(reruns)]
    made += [skip(task, outputs) for task, outputs in _pairs(skips)]
    made += [give_up(task) for task in give_ups]
    for decision in decisions:
        copy = ResumeDecision()
        copy.CopyFrom(decision)
        made.append(copy)
    for decision in made:
        if "/" not in decision.task:
            decision.task = names.task_name(workflow_id, decision.task)
    return made


def _pairs(given: Mapping[str, Patch] | Iterable[str]) -> Iterable[tuple[str, Patch | None]]:
    if isinstance(given, Mapping):
        return given.items()
    return [(task, None) for task in given]


def values(given: Patch | None) -> dict[str, Value]:
    """Returns values as the contract writes them."""
    return {path: json_format.ParseDict(plain, Value()) for path, plain in (given or {}).items()}


def struct_of(given: Patch | None) -> Struct:
    """Returns an object of values by their paths: "image.image_id" is a field of "image".

    Raises:
        FieldInvalid: Two paths contradict each other.
    """
    whole: dict[str, Any] = {}
    for path, plain in (given or {}).items():
        here = whole
        *lead, last = path.split(".")
        for part in lead:
            here = here.setdefault(part, {})
            if not isinstance(here, dict):
                said = f"{part} is given as a value already"
                raise FieldInvalid(Violation(field=path, description=said))
        here[last] = plain
    struct = Struct()
    json_format.ParseDict(whole, struct)
    return struct
