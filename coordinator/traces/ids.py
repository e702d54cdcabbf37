"""The ids of spans: worked out of names, so that whoever makes a span makes the same one.

An agent's span is a child of its attempt's before that one has been sent anywhere, and a second
projection of the same history, in another life, repeats the first.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

TRACE_BYTES = 16  # https://www.w3.org/TR/trace-context/#trace-id
SPAN_BYTES = 8


def trace_id_of(workflow_id: str, create_time: datetime) -> bytes:
    """Returns the trace of a workflow: its own, also where an engine has one around it.

    The time is part of it: a workflow of the same id in another cluster is another one.
    """
    return digest(f"{workflow_id}@{create_time.isoformat()}", TRACE_BYTES)


def span_id_of(name: str) -> bytes:
    """Returns the span of what is named so, such as an attempt by its name in the API."""
    return digest(name, SPAN_BYTES)


def digest(text: str, size_bytes: int) -> bytes:
    """Returns so many bytes that stand for a text."""
    return hashlib.blake2b(text.encode(), digest_size=size_bytes).digest()
