"""Values as the tables keep them: times as numbers, everything that has parts as JSON text.

Called by `rows.py` and its neighbours that know rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from coordinator.saga.spec import Lock
from coordinator.saga.workflow import NO_VALUES, Decided, Failure, Inbound, Values

Row = dict[str, Any]  # written; a column's value is what its type in `tables.py` says

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = 24 * 60 * 60 * 1_000_000
# Made once: json.dumps with options would make one for every value. Sorted keys give the same text
# for the same value, whoever wrote it.
encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


def micros(time: datetime) -> int:
    """Returns a time as the tables keep it."""
    since = time - _EPOCH
    return since.days * _DAY_US + since.seconds * 1_000_000 + since.microseconds


def micros_or_none(time: datetime | None) -> int | None:
    """Returns a time that may be none as the tables keep it."""
    return None if time is None else micros(time)


def time_from(us: int) -> datetime:
    """Returns a time."""
    return _EPOCH + timedelta(microseconds=us)


def time_or_none(us: int | None) -> datetime | None:
    """Returns a time that may be none."""
    return None if us is None else time_from(us)


def values_text(values: Values) -> str | None:
    """Returns values as text; None if there are none."""
    return encode(dict(values)) if values else None


def values_from(text: str | None) -> Values:
    """Returns values."""
    if text is None:
        return NO_VALUES
    values: dict[str, Any] = json.loads(text)
    return values


def failure_text(failure: Failure | None) -> str | None:
    """Returns a failure as text."""
    if failure is None:
        return None
    return encode(
        {
            "reason": failure.reason,
            "message": failure.message,
            "metadata": failure.metadata,
            "retriable": failure.retriable,
            "attempt": failure.attempt,
            "host": failure.host,
        },
    )


def failure_from(text: str | None) -> Failure | None:
    """Returns a failure."""
    if text is None:
        return None
    said = json.loads(text)
    metadata = tuple((name, value) for name, value in said.pop("metadata"))
    return Failure(metadata=metadata, **said)


def inbound_text(inbound: Sequence[Inbound]) -> str | None:
    """Returns values that came from elsewhere as text; None if there are none.

    Most are bound: only a patch has the last three parts.
    """
    if not inbound:
        return None
    return encode(
        [
            (i.field, i.value, i.origin)
            if i.time is None and not i.principal and i.previous is None
            else (i.field, i.value, i.origin, i.principal, micros_or_none(i.time), i.previous)
            for i in inbound
        ]
    )


def inbound_from(text: str | None) -> tuple[Inbound, ...]:
    """Returns values that came from elsewhere."""
    if text is None:  # of most, and there are three of each task
        return ()
    return tuple(map(_inbound, json.loads(text)))


def _inbound(parts: Sequence[Any]) -> Inbound:
    field, value, origin, *patch = parts
    if not patch:
        return Inbound(field=field, value=value, origin=origin)
    principal, time_us, previous = patch
    return Inbound(
        field=field,
        value=value,
        origin=origin,
        principal=principal,
        time=time_or_none(time_us),
        previous=previous,
    )


def locks_text(locks: Sequence[Lock]) -> str | None:
    """Returns images that are held as text; None if there are none."""
    return encode([(lock.pool, lock.image, lock.exclusive) for lock in locks]) if locks else None


def locks_from(text: str | None) -> tuple[Lock, ...]:
    """Returns images that are held."""
    said = json.loads(text or "[]")
    return tuple(Lock(pool=pool, image=image, exclusive=alone) for pool, image, alone in said)


def decided_text(decided: Decided | None) -> str | None:
    """Returns somebody's decision as text."""
    if decided is None:
        return None
    return encode((decided.verb, decided.principal, decided.reason, micros(decided.time)))


def decided_from(text: str | None) -> Decided | None:
    """Returns somebody's decision."""
    if text is None:
        return None
    verb, principal, reason, time_us = json.loads(text)
    return Decided(verb=verb, principal=principal, reason=reason, time=time_from(time_us))
