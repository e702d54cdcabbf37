"""How work on an external task ends: what an exception becomes, and what stops it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from countermand.rpc.errors import FieldInvalid, Violation
from countermand.v1.failure_pb2 import Failure

# The coordinator's bounds: more of it would be refused, and the end with it.
TEXT_BYTES_MAX = 4096
METADATA_BYTES_MAX = 4096
REASON_CHARACTERS_MAX = 63

_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class TaskFailed(Exception):
    """Raise it in the work on a task to say exactly why it failed."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        retriable: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Keeps what is stored as the failure.

        Args:
            reason: Stable, upper case, for programs, such as "ARRAY_FULL".
            message: For people: what happened, and what to do next.
            retriable: Whether another attempt with the same arguments may end better.
            metadata: The words of the message that vary, for programs.
        """
        self.reason = reason
        self.retriable = retriable
        self.metadata = dict(metadata or {})
        super().__init__(message)


class TaskStopped(Exception):
    """The work on a task is to stop: it was cancelled, timed out, or nobody waits for it."""

    reason = "STOPPED"

    def __init__(self, attempt: str, why: str = "is to be stopped") -> None:
        """Keeps which attempt."""
        self.attempt = attempt
        super().__init__(f"{attempt} {why}")


def failure_of(error: BaseException) -> Failure:
    """Returns the failure that an exception stands for.

    Its own `reason`, `retriable` and `metadata` are taken where it has them; else the reason is
    made of its type's name: FileNotFoundError is FILE_NOT_FOUND_ERROR, and not retriable.
    """
    reason = getattr(error, "reason", "")
    if not isinstance(reason, str) or not _REASON.fullmatch(reason):
        reason = _reason_of_type(type(error).__name__)
    metadata = getattr(error, "metadata", None)
    return Failure(
        reason=reason,
        message=cut(str(error) or type(error).__name__),
        retriable=bool(getattr(error, "retriable", False)),
        metadata=_cut_all(metadata) if isinstance(metadata, Mapping) else {},
    )


def cut(text: str, bytes_max: int = TEXT_BYTES_MAX) -> str:
    """Returns as much of a text as fits; bytes that are no text, as in names of files, escaped."""
    return text.encode(errors="backslashreplace")[:bytes_max].decode(errors="ignore")


def _cut_all(metadata: Mapping[object, object]) -> dict[str, str]:
    """Returns as much of metadata as fits: what is short whole, and then what is long, cut."""
    left = METADATA_BYTES_MAX
    said = {cut(str(key)): cut(str(value)) for key, value in metadata.items()}
    kept = {}
    for key, value in sorted(said.items(), key=lambda pair: len(pair[0]) + len(pair[1])):
        if (left := left - len(key.encode())) <= 0:
            break
        kept[key] = cut(value, left)
        left -= len(kept[key].encode())
    return kept


def _reason_of_type(name: str) -> str:
    words = _HUMP.sub("_", name).upper()
    reason = re.sub(r"[^A-Z0-9_]", "", words).lstrip("_0123456789")[:REASON_CHARACTERS_MAX]
    return reason or "ERROR"


def left_by(outputs: Mapping[str, object], promised: Mapping[str, str]) -> Struct:
    """Returns outputs as the contract carries them: texts, numbers, true, false.

    Raises:
        FieldInvalid: They hold something else, or are not what was promised.
    """
    if found := tuple(_broken_promises(outputs, promised)):
        raise FieldInvalid(*found)
    try:
        carried = {key: _carried(value, promised.get(key)) for key, value in outputs.items()}
        return json_format.ParseDict(carried, Struct())
    except (json_format.ParseError, TypeError, ValueError) as error:
        raise FieldInvalid(Violation("output", str(error))) from None


EXACT_MAX = 2**53 - 1  # of whole numbers that JSON carries as they are


def _carried(value: object, kind: str | None) -> object:
    """Returns a value as it is carried unchanged: a number that may not be so, as a text."""
    whole = _whole(value)
    if type(whole) is int and kind != "double" and abs(whole) > EXACT_MAX:
        return str(whole)
    return value


# The types of outputs, as specs name them, with those of their values here.
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "int64": (int,),
    "bool": (bool,),
    "double": (float, int),
}


def _broken_promises(
    outputs: Mapping[str, object], promised: Mapping[str, str]
) -> Iterator[Violation]:
    """Yields what was promised and is missing, or of another type; a newer type is not judged."""
    for name, kind in sorted(promised.items()):
        value = _whole(outputs.get(name))
        if value is None:
            yield Violation(f"output.{name}", f"was promised, as {kind}, and is missing")
        elif type(value) not in _TYPES.get(kind, (type(value),)):
            yield Violation(f"output.{name}", f"was promised as {kind}, and is {value!r}")


def values_of(struct: Struct) -> dict[str, object]:
    """Returns what a message carries; whole numbers as int."""
    return {key: _whole(value) for key, value in json_format.MessageToDict(struct).items()}


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value
