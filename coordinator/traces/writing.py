"""What is written on a span: attributes, failures and events, always in the order given."""

from __future__ import annotations

from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.failure_pb2 import Failure

EVENTS_MAX: Final = 128  # on one span, the first ones, as in the SDK: an unsteady owner makes more
PREFIX: Final = "countermand."  # of our attributes
NO_FAILURE: Final = Failure()


def tell(span: Span, **told: str | int) -> None:
    """Adds attributes in the order given; of nothing there is none."""
    for name, value in told.items():
        if value == "":
            continue
        said = AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value)
        span.attributes.append(KeyValue(key=PREFIX + name, value=said))


def fail(span: Span, failure: Failure) -> None:
    """Marks a span as failed; what was said first stands."""
    if not failure.reason or span.status.code == Status.STATUS_CODE_ERROR:
        return
    span.status.code = Status.STATUS_CODE_ERROR
    span.status.message = failure.message
    span.attributes.append(KeyValue(key="error.type", value=AnyValue(string_value=failure.reason)))


def note(span: Span, event: HistoryEvent, name: str, failure: Failure = NO_FAILURE) -> None:
    """Adds an event of its own to a span that is still open."""
    if len(span.events) >= EVENTS_MAX:
        span.dropped_events_count += 1
        return
    noted = span.events.add(time_unix_nano=nanoseconds(event.time), name=name)
    if failure.reason:
        said = (("reason", failure.reason), ("message", failure.message))
        noted.attributes.extend(
            KeyValue(key=PREFIX + key, value=AnyValue(string_value=value)) for key, value in said
        )


def nanoseconds(time: Timestamp) -> int:
    """Returns a time as spans have it, since 1970."""
    return time.ToNanoseconds()
