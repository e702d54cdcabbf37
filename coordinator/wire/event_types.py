"""What events are called outside: "workflow.failed", "task.leftover_recorded".

Read from the contract, so that no event is without a name: what moved to a state is called by that
state, everything else by its field of `HistoryEvent`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from countermand.v1.event_pb2 import HistoryEvent

WORKFLOW, TASK = "workflow", "task"
_SUBJECTS = (WORKFLOW, TASK, "group", "attempt")
_KINDS = HistoryEvent.DESCRIPTOR.oneofs_by_name["event"].fields
# What is always about the same; of others, such as an intervention, each event says it.
_ONLY = {
    "retry_scheduled": TASK,
    "late_report": TASK,
    "leftover_recorded": TASK,
    "fence_changed": TASK,
    "owner_changed": WORKFLOW,
    "locks_taken": WORKFLOW,
}

# How workflows end: what most receivers are about.
ENDS = ("workflow.succeeded", "workflow.compensated", "workflow.failed")


def type_of(event: HistoryEvent) -> str:
    """Returns what an event is called."""
    kind = event.WhichOneof("event")
    if kind is None:  # of a newer version, after which this one was put back
        return f"{_about(event)}.unknown"
    subject, word = _split(kind, _about(event))
    enum = _STATES.get(kind)
    if enum is None:
        return f"{subject}.{word}"
    detail = getattr(event, kind)
    return f"{subject}.{_word(enum, getattr(detail, _moved(detail.DESCRIPTOR.fields_by_name)))}"


def problem_of(wanted: str) -> str:
    """Returns what is wrong with what somebody asks for: a type, "task.*" or "*"; or nothing."""
    if wanted in _WANTED:
        return ""
    subject, dot, _ = wanted.partition(".")
    if dot and subject in _SUBJECTS:
        known = ", ".join(sorted(name for name in TYPES if name.startswith(f"{subject}.")))
        return f"there is no {wanted!r}; of {subject} there are {known}"
    subjects = ", ".join(f"{subject}.*" for subject in _SUBJECTS)
    return f"{wanted!r} is no type of event: write {ENDS[0]}, or all of {subjects}, or *"


def fits(event_type: str, wanted: Iterable[str]) -> bool:
    """Returns whether a type is among those asked for."""
    return not {"*", event_type, f"{event_type.partition('.')[0]}.*"}.isdisjoint(wanted)


def _about(event: HistoryEvent) -> str:
    return TASK if event.task else WORKFLOW


def _split(kind: str, otherwise: str) -> tuple[str, str]:
    """Returns the subject and the rest of a field's name, such as "attempt_started"."""
    first, _, rest = kind.partition("_")
    if rest and first in _SUBJECTS:
        return first, rest
    return _ONLY.get(kind, otherwise), kind


def _moved(fields: Iterable[str]) -> str:
    """Returns the field with the state that something is in now."""
    return "after" if "after" in fields else "state"


def _state_of(kind: FieldDescriptor) -> EnumDescriptor | None:
    """Returns the states that an event may tell; none if it tells no change to one."""
    assert kind.message_type is not None, kind.name
    fields = kind.message_type.fields_by_name
    first, _, rest = kind.name.partition("_")
    if first not in _SUBJECTS or rest not in {"state_changed", "ended"}:
        return None
    return fields[_moved(fields)].enum_type


def _word(enum: EnumDescriptor, number: int) -> str:
    """Returns a state as a word: WORKFLOW_STATE_SUCCEEDED is "succeeded"."""
    value = enum.values_by_number.get(number)
    return value.name.rpartition("STATE_")[2].lower() if value else str(number)


def _types() -> Iterator[str]:
    for kind in _KINDS:
        enum = _STATES.get(kind.name)
        for otherwise in (WORKFLOW, TASK):
            subject, word = _split(kind.name, otherwise)
            if enum is None:
                yield f"{subject}.{word}"
            else:
                yield from (f"{subject}.{_word(enum, n)}" for n in enum.values_by_number if n)


_STATES = {kind.name: enum for kind in _KINDS if (enum := _state_of(kind))}
TYPES = frozenset(_types())
_WANTED = TYPES | {"*"} | {f"{subject}.*" for subject in _SUBJECTS}
