"""How owners say that their attempts have ended, and what of it cannot be."""

from __future__ import annotations

import re
from dataclasses import replace

from coordinator.runtime.owners import Waiting
from coordinator.runtime.ports import ProgressRecord
from coordinator.saga.events import AttemptCancelled, AttemptFailed, AttemptSucceeded
from coordinator.saga.reports import RUN_TIMEOUT
from coordinator.saga.spec import External
from coordinator.saga.starting import START_TIMEOUT
from coordinator.saga.states import AttemptKind, AttemptState
from coordinator.saga.workflow import BYTES, Attempt, Failure
from coordinator.wire.external import broken_promises, left, left_problems
from coordinator.wire.failure import failure_from_proto
from countermand.rpc.errors import FieldInvalid, PayloadTooLarge, VerbForbidden, Violation
from countermand.v1 import external_task_pb2 as pb
from countermand.v1.failure_pb2 import Failure as FailureMessage

OUTPUT_BYTES_MAX = 64 * 1024
MESSAGE_BYTES_MAX = 4096
_STOPPED = frozenset({RUN_TIMEOUT, START_TIMEOUT, "CANCELLED"})
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")

Said = AttemptSucceeded | AttemptFailed | AttemptCancelled
_STATES: dict[type[Said], AttemptState] = {
    AttemptSucceeded: AttemptState.SUCCEEDED,
    AttemptFailed: AttemptState.FAILED,
    AttemptCancelled: AttemptState.CANCELLED,
}


def state_said(said: Said) -> AttemptState:
    """Returns how an attempt has ended, as its owner says."""
    return _STATES[type(said)]


def said_by(
    request: pb.EndExternalTaskRequest,
    task: int,
    number: int,
    *,
    external: External,
    known: ProgressRecord | None,
) -> Said:
    """Returns what a request says of an attempt, with the progress that is known of it.

    Raises:
        FieldInvalid: It says nothing, or what nobody could keep.
        PayloadTooLarge: It left too much.
    """
    done, unit = (known.done, known.unit) if known else (0, BYTES)
    match request.WhichOneof("outcome"):
        case "output":
            if (size := request.output.ByteSize()) > OUTPUT_BYTES_MAX:
                raise PayloadTooLarge(
                    field="output", size_bytes=size, size_bytes_max=OUTPUT_BYTES_MAX
                )
            if found := tuple(left_problems(external, request.output)):
                raise FieldInvalid(*found)
            output = left(external, request.output)
            return AttemptSucceeded(task=task, number=number, done=done, unit=unit, output=output)
        case "failure":
            failure = failure_of(request.failure, request.attempt)
            return AttemptFailed(task=task, number=number, done=done, unit=unit, failure=failure)
        case "cancelled" if request.cancelled:
            return AttemptCancelled(task=task, number=number, done=done, unit=unit)
        case _:
            why = "is required: output, failure, or cancelled"
            raise FieldInvalid(Violation("outcome", why))


def check_end(waiting: Waiting, said: Said) -> None:
    """Raises if an attempt that waits for its owner cannot end so."""
    is_action = waiting.attempt.kind is AttemptKind.ACTION
    if isinstance(said, AttemptSucceeded) and not waiting.accepted:
        raise VerbForbidden(
            name=waiting.name, state=waiting.attempt.state, verb="end", because="accept it first"
        )
    if isinstance(said, AttemptCancelled) and not is_action:
        why = "is for actions: a compensation succeeds, or fails and is asked for again"
        raise FieldInvalid(Violation("cancelled", why))
    if isinstance(said, AttemptSucceeded) and not is_action and said.output:
        why = "must be empty: this attempt makes up for an action, and leaves nothing"
        raise FieldInvalid(Violation("output", why))
    if isinstance(said, AttemptSucceeded) and is_action:
        assert waiting.spec.external is not None, waiting.name
        if found := tuple(broken_promises(waiting.spec.external, said.output)):
            raise FieldInvalid(*found)


def is_known(attempt: Attempt, said: Said) -> bool:
    """Returns whether an attempt has ended as its owner says."""
    if isinstance(said, AttemptCancelled) and attempt.state is AttemptState.FAILED:
        # It was stopped, for a reason that makes it a failure: nothing is left behind either way.
        return attempt.failure is not None and attempt.failure.reason in _STOPPED
    return attempt.state is state_said(said)


def failure_of(message: FailureMessage, attempt: str) -> Failure:
    """Returns a failure that an owner tells of its attempt, or of all of them.

    Raises:
        FieldInvalid: It says too little, or too much.
    """
    found = []
    if not _REASON.fullmatch(message.reason):
        found.append(Violation("failure.reason", "must be upper case, such as ARRAY_FULL"))
    if len(message.message.encode()) > MESSAGE_BYTES_MAX:
        found.append(Violation("failure.message", f"is longer than {MESSAGE_BYTES_MAX} bytes"))
    size = sum(len(key.encode()) + len(text.encode()) for key, text in message.metadata.items())
    if size > MESSAGE_BYTES_MAX:
        found.append(Violation("failure.metadata", f"has more than {MESSAGE_BYTES_MAX} bytes"))
    if found:
        raise FieldInvalid(*found)
    # Of its own attempt only: what it says of others is none of its business.
    return replace(failure_from_proto(message), attempt=attempt, host="")
