"""What events are called outside: "workflow.failed", "task.leftover_recorded".

Read from the contract, so that no event is without a name: what moved to a state is called by that
state, everything else by its field of `HistoryEvent`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from google.protobuf.descriptor import FieldDescriptor

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
        return f"{TASK if event.task else WORKFLOW}.unknown"
    states = _STATES.get(kind)
    if states is None:
        return _PLAIN[kind, bool(event.task)]
    number = getattr(getattr(event, kind), states.field)
    return states.types.get(number) or f"{states.subject}.{number}"


def problem_of(wanted: str) -> str:
    """Returns what is wrong with what somebody asks for: a type, "task.*" or "*"; or nothing."""
    if wanted in _WANTED:
        return ""
    subject, dot, _ = wanted.partition(".")
    if dot and subject in _SUBJECTS:
        known = sorted(name for name in TYPES if name.startswith(f"{subject}."))
        close = get_close_matches(wanted, known, n=1)
        hint = f": did you mean {close[0]}?" if close else "."
        return f"there is no {wanted!r}{hint} Of {subject} there are {', '.join(known)}"
    subjects = ", ".join(f"{subject}.*" for subject in _SUBJECTS)
    return f"{wanted!r} is no type of event: write {ENDS[0]}, or all of {subjects}, or *"


def fits(event_type: str, wanted: Iterable[str]) -> bool:
    """Returns whether a type is among those asked for."""
    return not {"*", event_type, f"{event_type.partition('.')[0]}.*"}.isdisjoint(wanted)


def _split(kind: str, otherwise: str) -> tuple[str, str]:
    """Returns the subject and the rest of a field's name, such as "attempt_started"."""
    first, _, rest = kind.partition("_")
    if rest and first in _SUBJECTS:
        return first, rest
    return _ONLY.get(kind, otherwise), kind


@dataclass(frozen=True, slots=True, kw_only=True)
class _States:
    """What a kind of event is called by where it leads."""

    subject: str
    field: str  # with the state that something is in now
    types: Mapping[int, str]


def _states_of(kind: FieldDescriptor) -> _States | None:
    """Returns the states that an event may tell; none if it tells no change to one."""
    assert kind.message_type is not None, kind.name
    fields = kind.message_type.fields_by_name
    subject, _, rest = kind.name.partition("_")
    if subject not in _SUBJECTS or rest not in {"state_changed", "ended"}:
        return None
    field = "after" if "after" in fields else "state"
    enum = fields[field].enum_type
    assert enum is not None, kind.name
    # WORKFLOW_STATE_SUCCEEDED is "succeeded". The first one is never sent.
    words = {
        n: v.name.rpartition("STATE_")[2].lower() for n, v in enum.values_by_number.items() if n
    }
    types = {number: f"{subject}.{word}" for number, word in words.items()}
    return _States(subject=subject, field=field, types=types)


# Made once: every event that is committed is looked at.
_STATES = {kind.name: states for kind in _KINDS if (states := _states_of(kind))}
_PLAIN = {
    (kind.name, is_task): ".".join(_split(kind.name, TASK if is_task else WORKFLOW))
    for kind in _KINDS
    if kind.name not in _STATES
    for is_task in (False, True)
}
TYPES = frozenset(_PLAIN.values()).union(*(states.types.values() for states in _STATES.values()))
_WANTED = TYPES | {"*"} | {f"{subject}.*" for subject in _SUBJECTS}
