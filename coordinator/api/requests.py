"""What the services check of every request before anything is decided."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeAlias, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from coordinator.runtime.ports import WorkflowQuery
from coordinator.wire.history import WORKFLOW_STATES
from coordinator.wire.values import short, span_from_proto
from countermand.rpc.errors import FieldInvalid, Violation
from countermand.rpc.names import (
    ID_RULE,
    is_id,
    parse_host,
    parse_task,
    parse_webhook,
    parse_workflow,
)
from countermand.v1.workflow_pb2 import ListWorkflowsRequest

T = TypeVar("T")

# gRPC types its context differently from its stubs; handlers only pass it on.
Context: TypeAlias = Any

PAGE_SIZE = 50  # what a page holds when nothing is said
PAGE_SIZE_MAX = 1000
WAIT_MAX = timedelta(seconds=60)  # of WaitWorkflow: callers ask again, so a lost one is noticed
ANSWER_S_MAX = 30.0  # of a call that needs another coordinator, if it has no deadline
MARGIN_S = 0.2  # before the deadline of a call: the caller is to hear why it failed
READY_S_MAX = 5.0  # how long AddHost waits for the first greeting
DIGITS_MAX = 20  # of a text that may be a number: what is longer is none of ours
NUMBER_MAX = 2**63 - 1
AGE_MAX = timedelta(days=36_500)  # before the first workflow
LABELS_MAX = 32
LABEL_BYTES_MAX = 255
TEXT_BYTES_MAX = 4096  # of a reason given by a person


def until(context: Context) -> float:
    """Returns when a call that needs others has to be answered, by the event loop's clock."""
    remaining_s = context.time_remaining() if context is not None else None
    wait_s = ANSWER_S_MAX if remaining_s is None else min(remaining_s - MARGIN_S, ANSWER_S_MAX)
    return asyncio.get_running_loop().time() + wait_s


def page_size(asked: int) -> int:
    """Returns how many items a page holds.

    Raises:
        FieldInvalid: It is negative.
    """
    if asked < 0:
        raise FieldInvalid(Violation("page_size", "must not be negative"))
    return min(asked or PAGE_SIZE, PAGE_SIZE_MAX)


def number(text: str, field: str) -> int:
    """Returns a number that was handed out as a text: an etag, a place in a list.

    Raises:
        FieldInvalid: It was not.
    """
    found = int(text) if text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX else 0
    if not 0 < found <= NUMBER_MAX:
        raise FieldInvalid(Violation(field, "is not one that was handed out"))
    return found


def span(message: Duration, field: str, most: timedelta) -> timedelta:
    """Returns a span of time, cut at the most that counts.

    Raises:
        FieldInvalid: It is none, or negative.
    """
    given = span_from_proto(message)
    if given is None or given < timedelta(0):
        raise FieldInvalid(Violation(field, "must be a span of time, and not negative"))
    return min(given, most)


def workflow_id(name: str, field: str = "name") -> str:
    """Returns the id in a workflow's name; raises FieldInvalid."""
    return _parsed(parse_workflow, name, field, "workflows/{workflow}")


def task_id(name: str, field: str = "name") -> tuple[str, str]:
    """Returns the workflow's and the task's id in a task's name; raises FieldInvalid."""
    return _parsed(parse_task, name, field, "workflows/{workflow}/tasks/{task}")


def host_id(name: str, field: str = "name") -> str:
    """Returns the id in a host's name; raises FieldInvalid."""
    return _parsed(parse_host, name, field, "hosts/{host}")


def webhook_id(name: str, field: str = "name") -> str:
    """Returns the id in a webhook's name; raises FieldInvalid."""
    return _parsed(parse_webhook, name, field, "webhooks/{webhook}")


def _parsed(parse: Callable[[str], T | None], name: str, field: str, form: str) -> T:
    parsed = parse(name)
    if parsed is None:
        raise FieldInvalid(
            Violation(field, f"{short(name)} is not of the form {form}; ids {ID_RULE}")
        )
    return parsed


def label_problems(labels: dict[str, str]) -> list[Violation]:
    """Returns what is wrong with labels."""
    found = []
    if len(labels) > LABELS_MAX:
        found.append(Violation("labels", f"has {len(labels)}, at most {LABELS_MAX} are allowed"))
    for key, value in labels.items():
        if not is_id(key):
            found.append(Violation(f"labels[{key!r}]", f"the key {ID_RULE}"))
        if len(value.encode()) > LABEL_BYTES_MAX:
            found.append(Violation(f"labels[{key!r}]", f"is longer than {LABEL_BYTES_MAX} bytes"))
    return found


def demand(request: Message, *fields: str) -> None:
    """Checks that texts are given, and not too long.

    Raises:
        FieldInvalid: With every one that is missing.
    """
    found = []
    for field in fields:
        text = getattr(request, field)
        if not text.strip():
            found.append(Violation(field, "is required"))
        elif len(text.encode()) > TEXT_BYTES_MAX:
            found.append(Violation(field, f"is longer than {TEXT_BYTES_MAX} bytes"))
    if found:
        raise FieldInvalid(*found)


def hash_of(*messages: Message) -> bytes:
    """Returns what tells a repeated request from another one under the same id."""
    digest = hashlib.sha256()
    for message in messages:
        content = message.SerializeToString(deterministic=True)
        digest.update(len(content).to_bytes(8, "big"))
        digest.update(content)
    return digest.digest()


def hash_of_request(request: Message) -> bytes:
    """Returns what tells a repeated request from another one, also of another call.

    A capability token is no part of what is asked: it only shows that the caller may.
    """
    asked = type(request)()
    asked.CopyFrom(request)
    if "capability_token" in asked.DESCRIPTOR.fields_by_name:
        asked.ClearField("capability_token")
    name = asked.DESCRIPTOR.full_name.encode()
    return hashlib.sha256(name + b"\0" + hash_of(asked)).digest()


def optional_text(request: Message, field: str) -> None:
    """Checks that a text is not too long; it may be left out.

    Raises:
        FieldInvalid: It is.
    """
    if getattr(request, field):
        demand(request, field)


_STATES = {number: state for state, number in WORKFLOW_STATES.items()}


def query(request: ListWorkflowsRequest, now: datetime) -> WorkflowQuery:
    """Returns what a list asks of the store; raises FieldInvalid."""
    states = frozenset(_STATES[state] for state in request.states if state in _STATES)
    if len(states) < len(set(request.states)):
        raise FieldInvalid(Violation("states", "names a state that does not exist"))
    # What begins every id is one itself, so that no other text has to be compared.
    if request.id_prefix and not is_id(request.id_prefix):
        raise FieldInvalid(Violation("id_prefix", f"begins no id: each {ID_RULE}"))
    before = None
    if request.HasField("min_age"):
        before = now - span(request.min_age, "min_age", AGE_MAX)
    return WorkflowQuery(
        states=states,
        labels=tuple(sorted(request.labels.items())),
        host=request.host_id,
        kind=request.kind,
        created_before=before,
        needs_attention=request.needs_attention,
        id_prefix=request.id_prefix,
        limit=page_size(request.page_size),
        after=request.page_token,
    )
