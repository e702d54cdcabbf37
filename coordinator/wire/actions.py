"""The action that an attempt runs on its host, bindings resolved; and what can be no id in one."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Final, Literal

from coordinator.saga.spec import Value
from coordinator.saga.workflow import Attempt, Workflow
from coordinator.wire.arguments import custom_problems
from coordinator.wire.catalogue import CUSTOM, VERBS
from coordinator.wire.values import fill, scalars_of
from countermand.rpc.errors import Violation
from countermand.rpc.names import ID_RULE, is_id
from countermand.v1.verb_pb2 import Action

# A field of these names is an id, in every verb.
_IDS: Final = frozenset({"pool_id", "image_id", "snapshot_id"})


def action_of(workflow: Workflow, task: int, attempt: Attempt) -> Action:
    """Returns the action of an attempt as it is sent.

    Of a compensation by another verb: that one; of one by the verb's own opposite, which the agent
    knows itself, the task's action without its values.
    """
    spec = workflow.plan.task(task)
    data = spec.action
    if attempt.overriding:
        if attempt.replacement:
            return Action.FromString(attempt.replacement)  # complete as it was given
        assert spec.opposite is not None, spec.name
        data = spec.opposite.action
    action = Action.FromString(data)
    fill(action, attempt.inbound)
    return action


def action_problems(action: Action, path: str) -> Iterator[Violation]:
    """Yields ids of an action that can be none."""
    name = action.WhichOneof("verb")
    if name is None:
        yield Violation(path, "is required: a verb with its arguments")
        return
    if name == CUSTOM:
        for key, said in custom_problems(action.custom):
            yield Violation(f"{path}.{name}.{key}", said)
    for key in scalars_of(VERBS[name].arguments):
        if name == CUSTOM and not action.custom.HasField(_address(key)):
            continue
        if problem := id_problem(key, attrgetter(key)(getattr(action, name))):
            yield Violation(f"{path}.{name}.{key}", problem)


def _address(key: str) -> Literal["source", "target"]:
    return "source" if key.startswith("source.") else "target"


def id_problem(key: str, value: Value) -> str | None:
    """Returns why a value can be no id, where one is wanted."""
    if key.rpartition(".")[2] not in _IDS or is_id(str(value)):
        return None
    return f"{str(value)[:80]!r} {ID_RULE}" if value else "is required"
