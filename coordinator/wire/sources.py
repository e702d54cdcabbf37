"""Where values come from, as specs write it: "tasks.<name>.output.<field>", "input.<field>", ….

Read once here for bindings and conditions alike; what a name means where it stands is `expand`'s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from google.protobuf.struct_pb2 import Struct

from coordinator.wire.values import value_at

# The failure that led here, as end actions and recovery tasks may see it.
FAILURE = frozenset({"failure.reason", "failure.message", "failure.task"})
COMPENSATED = "compensated.tasks"

# Words that begin a path, so that no item of a for_each may be called like one.
LEADS = frozenset({"tasks", "input", "failure", "compensated"})
INDEX_SUFFIX = "_index"  # of the word for an item: its number

WORD_RULE = "must match [a-z][a-z0-9_]{0,62}, and be none of: " + ", ".join(sorted(LEADS))
_WORD = re.compile(r"[a-z][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class OfOutput:
    """A field of what a task left."""

    task: str
    path: str


@dataclass(frozen=True, slots=True)
class OfState:
    """The state of a task."""

    task: str


@dataclass(frozen=True, slots=True)
class OfInput:
    """A field of the input."""

    path: str


@dataclass(frozen=True, slots=True)
class OfItem:
    """An item of a for_each, or a field of it."""

    word: str
    path: str  # empty: the item itself


@dataclass(frozen=True, slots=True)
class OfFailure:
    """Why the workflow or the group failed, and what was made up for."""

    path: str


Source = OfOutput | OfState | OfInput | OfItem | OfFailure


def source_of(text: str) -> Source | None:
    """Takes a source apart; None if it is of no known form.

    Names of tasks may hold dots: the first ".output." ends the name.
    """
    lead, _, rest = text.partition(".")
    match lead:
        case "input" if rest:
            return OfInput(rest)
        case "tasks":
            name, found, path = rest.partition(".output.")
            if found and name and path:
                return OfOutput(name, path)
            name, found, path = rest.rpartition(".state")
            return OfState(name) if found and name and not path else None
        case _ if text in FAILURE or text == COMPENSATED:
            return OfFailure(text)
        case _ if lead not in LEADS and is_word(lead) and not text.endswith("."):
            return OfItem(lead, rest)
        case _:
            return None


def is_word(text: str) -> bool:
    """Returns whether a text can be the word for an item."""
    return _WORD.fullmatch(text) is not None and text not in LEADS


def list_at(input_: Struct, source: str) -> tuple[str, int] | None:
    """Returns the path and the length of the list that "input.<field>" names; None for no list."""
    found = source_of(source)
    if not isinstance(found, OfInput):
        return None
    value = value_at(input_, found.path)
    if value is None or not value.HasField("list_value"):
        return None
    return found.path, len(value.list_value.values)
