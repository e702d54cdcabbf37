"""What makes up for a task, in one phrase: by its verb, by its spec, or as somebody decided."""

from __future__ import annotations

from coordinator.saga.spec import TaskSpec, owner_of
from coordinator.saga.states import AttemptKind, Effect, TaskState
from coordinator.saga.workflow import Task
from coordinator.wire.catalogue import phrase_asked, verb_called
from countermand.v1.verb_pb2 import Action

_REPLACED = "replace-compensation"  # the verb of the decision


def opposite_of(spec: TaskSpec, task: Task) -> str:
    """Returns what makes up for a task, or did: what was sent, where it was; else what would be."""
    if spec.effect is not Effect.REVERSIBLE or task.state is TaskState.SKIPPED:
        return ""
    if spec.external is not None:
        people = "people, by its checklist"
        return people if spec.external.checklist else f"asking {owner_of(spec.host)}"
    replacement, is_overriding = _sent(task) or (task.replacement, True)
    if replacement and is_overriding:
        return f"{phrase_asked(Action.FromString(replacement))}, {_decided(task)}"
    if spec.opposite is not None and is_overriding:
        return f"{spec.opposite.verb.replace('_', ' ')}, as its spec says"
    return verb_called(spec.verb).opposite


def _sent(task: Task) -> tuple[bytes, bool] | None:
    """Returns what was sent to make up for it, and whether that was another verb.

    None before anything was, and between two attempts: the next one may send something else.
    """
    if not task.attempts or task.last.kind is not AttemptKind.COMPENSATION:
        return None
    if task.last.open or task.state is TaskState.COMPENSATED:
        return task.last.replacement, task.last.overriding
    return None


def _decided(task: Task) -> str:
    decided = task.decided
    who = decided.principal if decided is not None and decided.verb == _REPLACED else ""
    return f"as {who} decided" if who else "as was decided"
