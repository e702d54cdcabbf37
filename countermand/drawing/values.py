"""Times, amounts and values in words: the same on the command line and on the page. Pure."""

from __future__ import annotations

import datetime as dt
from datetime import UTC

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from countermand.drawing import phrases
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.failure_pb2 import Failure

# Reasons that are gRPC's own: its words speak of sockets, and these of what to do.
_RAW = {
    "UNAVAILABLE": "The agent does not answer: is it running, and is its address right?",
    "DEADLINE_EXCEEDED": "The agent did not answer in time.",
}


def said(failure: Failure) -> str:
    """Returns a failure's message, in our words where they are gRPC's."""
    return _RAW.get(failure.reason, failure.message)


def clock(time: Timestamp) -> str:
    """Returns a time in UTC, to the millisecond: what logs and other hosts say."""
    moment = time.ToDatetime(UTC)
    return moment.strftime("%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def moment(time: Timestamp, today: dt.date) -> str:
    """Returns a time in UTC, with its day unless that is today: a pause may last over night."""
    return clock(time) if time.ToDatetime(UTC).date() == today else f"{day(time)} {clock(time)}"


def day(time: Timestamp) -> str:
    """Returns the day of a time in UTC."""
    return f"{time.ToDatetime(UTC):%Y-%m-%d}"


def date(time: Timestamp) -> str:
    """Returns a time in UTC with its day, to the second: of what may be years ago."""
    return time.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def progress_words(progress: Progress) -> str:
    """Returns how far something is: "45%  120 MiB/s  ETA 12 s", "60%", "12/40 volumes"."""
    if not progress.total:
        return amount(progress.done, progress.unit) if progress.done else ""
    if progress.unit in {"bytes", phrases.PERCENT}:
        parts = [f"{progress.done * 100 // progress.total}%"]
    else:  # an owner counts what it likes
        parts = [f"{progress.done}/{progress.total} {progress.unit}".rstrip()]
    if progress.rate and progress.done < progress.total:
        parts.append(f"{amount(progress.rate, progress.unit)}/s")
        left_s = (progress.total - progress.done) / progress.rate
        parts.append(f"ETA {phrases.duration(left_s)}")
    return "  ".join(parts)


def amount(number: int, unit: str) -> str:
    """Returns an amount of work with its unit."""
    return phrases.amount(number, unit)


def indented(said: str, lead: str = "    ") -> str:
    """Returns a text of several lines with all but its first indented, as a checklist has them."""
    first, *others = said.splitlines() or [""]
    return "\n".join([first, *(f"{lead}{line}".rstrip() for line in others)])


def value_words(value: Value) -> str:
    """Returns a value of any type as people write it; "-" for none."""
    if value.WhichOneof("kind") is None:
        return "-"
    number = value.number_value
    if value.HasField("number_value") and number.is_integer():  # JSON's numbers are all alike
        return str(int(number))
    return value.string_value or json_format.MessageToJson(value)


def one_line(text: str) -> str:
    """Returns a text without its line breaks, for a cell of a table."""
    return " ".join(text.split())
