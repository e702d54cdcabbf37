"""Reports about external tasks: whose they are, whether they still count, and what they change.

A report that is foreign, late or about another attempt is refused and changes nothing. It is
logged, and an end that contradicts what is known is written into the history as well.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from google.protobuf.message import Message

from coordinator.api import requests
from coordinator.api.deciding import PRINCIPAL, Deciding, refused
from coordinator.api.shown import Showing
from coordinator.api.tokens import Tokens
from coordinator.runtime.loop import Loop
from coordinator.runtime.owners import Owners, Waiting
from coordinator.runtime.ports import ProgressRecord, Request, Store, StoreConflictError
from coordinator.runtime.watch import Watches
from coordinator.saga.events import (
    Ask,
    AttemptAccepted,
    AttemptCancelled,
    AttemptFailed,
    AttemptSucceeded,
    EndRequested,
    Event,
)
from coordinator.saga.reports import RUN_TIMEOUT
from coordinator.saga.starting import START_TIMEOUT
from coordinator.saga.states import BEING_COMPENSATED, AttemptKind, AttemptState, TaskState
from coordinator.saga.workflow import BYTES, Attempt, Failure, Workflow
from coordinator.wire.asked import request_to_proto
from coordinator.wire.external import broken_promises, left_problems, owner_called
from coordinator.wire.failure import failure_from_proto
from coordinator.wire.history import ATTEMPT_STATES
from coordinator.wire.values import values_of_struct
from coordinator.wire.view import attempt_to_proto
from countermand.rpc.errors import (
    AttemptClosed,
    CountermandError,
    FieldInvalid,
    NotOwner,
    PayloadTooLarge,
    ReportReused,
    TaskNotFound,
    VerbForbidden,
    Violation,
)
from countermand.rpc.names import AttemptName, parse_attempt
from countermand.v1 import external_task_pb2 as pb
from countermand.v1.attempt_pb2 import Attempt as AttemptMessage
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.failure_pb2 import Failure as FailureMessage

log = logging.getLogger(__name__)

OUTPUT_BYTES_MAX = 64 * 1024
MESSAGE_BYTES_MAX = 4096
UNIT_CHARACTERS_MAX = 63
_STOPPED = frozenset({RUN_TIMEOUT, START_TIMEOUT, "CANCELLED"})
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")

Said = AttemptSucceeded | AttemptFailed | AttemptCancelled
_STATES: dict[type[Said], AttemptState] = {
    AttemptSucceeded: AttemptState.SUCCEEDED,
    AttemptFailed: AttemptState.FAILED,
    AttemptCancelled: AttemptState.CANCELLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """An attempt that a caller has named and may report on."""

    name: AttemptName
    workflow: Workflow
    index: int
    attempt: Attempt

    def now(self, workflow: Workflow) -> _Named:
        """Returns the same attempt as it is now."""
        attempt = workflow.task(self.index).attempts[self.name.number - 1]
        return replace(self, workflow=workflow, attempt=attempt)


class Reporting:
    """Takes reports of owners."""

    def __init__(
        self,
        *,
        loop: Loop,
        store: Store,
        owners: Owners,
        tokens: Tokens,
        watches: Watches[Progress],
        deciding: Deciding,
        showing: Showing,
    ) -> None:
        """Keeps what it asks."""
        self._loop = loop
        self._store = store
        self._owners = owners
        self._tokens = tokens
        self._watches = watches
        self._deciding = deciding
        self._showing = showing

    # -- rights ---------------------------------------------------------------------------------

    def token(self, owner: str, task: str) -> str:
        """Returns what proves the right to report on a task."""
        return self._tokens.of(owner, task)

    def check(self, token: str, owner: str, task: str) -> None:
        """Raises NotOwner unless a token is the task's."""
        if not self._tokens.is_of(token, owner, task):
            why = "its capability token is another" if token else "it needs its capability token"
            log.warning("report.refused", extra={"task": task, "why": why})
            raise NotOwner(name=task, why=why)

    def asked(self, name: str) -> pb.ExternalRequest | None:
        """Returns what its owner is asked about an attempt; None if nothing is, any more."""
        waiting = self._owners.waiting(name)
        workflow = self._loop.workflow(waiting.workflow_id) if waiting else None
        if waiting is None or workflow is None or _is_for_people(waiting):
            return None
        if workflow.task(waiting.index).last.number != waiting.attempt.number:
            return None  # it has moved on this very moment
        token = self.token(waiting.owner, name.rpartition("/attempts/")[0])
        kept = self._owners.progress(waiting.key)
        progress = progress_to_proto(kept) if kept else None
        return request_to_proto(workflow, waiting.index, token, progress)

    async def _named(self, name: str, token: str) -> _Named:
        """Returns an attempt that the caller may report on; raises what tells why not."""
        parsed = parse_attempt(name)
        if parsed is None:
            why = "must be workflows/{workflow}/tasks/{task}/attempts/{attempt}"
            raise FieldInvalid(Violation("attempt", why))
        workflow = await self._showing.find(parsed.workflow_id)
        index = self._showing.index_of(workflow, parsed.task_id)
        spec = workflow.plan.nodes[index].task
        owner = owner_called(spec) if spec else ""
        if not owner:
            raise NotOwner(name=parsed.task, why="it is no external task")
        self.check(token, owner, parsed.task)
        attempts = workflow.task(index).attempts
        if parsed.number > len(attempts):
            raise TaskNotFound(name=name)
        return _Named(
            name=parsed, workflow=workflow, index=index, attempt=attempts[parsed.number - 1]
        )

    def _open(self, named: _Named) -> Waiting:
        """Returns an attempt whose outcome is still to come; raises AttemptClosed."""
        waiting = self._owners.waiting(str(named.name))
        if waiting is None:
            raise self._closed(named)
        if _is_for_people(waiting):
            raise self._closed(named, "people make up for it, by its checklist")
        return waiting

    def _closed(self, named: _Named, why: str = "") -> AttemptClosed:
        task = named.workflow.task(named.index)
        why = why or f"it is {named.attempt.state}, and its task {task.state}"
        if named.attempt.number < len(task.attempts):
            why += f"; attempt {len(task.attempts)} has followed"
        log.warning("report.refused", extra={"attempt": str(named.name), "why": why})
        return AttemptClosed(attempt=str(named.name), why=why)

    # -- reports --------------------------------------------------------------------------------

    async def accept(self, request: pb.AcceptExternalTaskRequest) -> pb.AcceptExternalTaskResponse:
        """Takes an attempt on, for its owner."""
        named = await self._named(request.attempt, request.capability_token)
        waiting = self._open(named)
        is_new = not waiting.accepted or waiting.state in (
            TaskState.UNKNOWN,
            TaskState.COMPENSATION_BLOCKED,
        )
        if is_new and waiting.state is not TaskState.CANCELLING:
            event = AttemptAccepted(task=named.index, number=named.name.number)
            named = named.now(await self._decide(named, event))
        self._owners.heard(request.attempt)
        if named.attempt.state is AttemptState.CANCELLING:
            raise VerbForbidden(
                name=request.attempt,
                state=named.attempt.state,
                verb="accept",
                because="it is to be stopped: end it as cancelled",
            )
        asked = self.asked(request.attempt)
        if named.attempt.state is not AttemptState.RUNNING or asked is None:
            raise self._closed(named)
        return pb.AcceptExternalTaskResponse(request=asked, attempt=self._shown(named))

    async def report(self, request: pb.ReportExternalTaskRequest) -> pb.ReportExternalTaskResponse:
        """Keeps the progress of an attempt."""
        if found := tuple(_progress_problems(request.progress)):
            raise FieldInvalid(*found)
        named = await self._named(request.attempt, request.capability_token)
        waiting = self._open(named)
        if not waiting.accepted:
            raise VerbForbidden(
                name=request.attempt,
                state=named.attempt.state,
                verb="report",
                because="accept it first",
            )
        said = request.progress
        record = ProgressRecord(
            workflow_id=named.name.workflow_id,
            task=named.index,
            number=named.name.number,
            done=said.done,
            total=said.total,
            unit=said.unit or BYTES,
            message=said.message,
        )
        self._owners.heard(request.attempt)
        known = progress_to_proto(await self._owners.report(record))
        known.rate = said.rate
        if self._owners.waiting(request.attempt) is not None:  # else it is over: nobody drops it
            self._watches.heard_progress(named.name.workflow_id, request.attempt, known)
        named = named.now(await self._showing.find(named.name.workflow_id))
        return pb.ReportExternalTaskResponse(attempt=self._shown(named))

    def hear(
        self, beat: pb.HeartbeatExternalTasksRequest.Heartbeat
    ) -> pb.HeartbeatExternalTasksResponse.Answer | None:
        """Hears one sign of life; returns what became of the attempt unless it is at work."""
        waiting = self._owners.waiting(beat.attempt)
        state: AttemptState | None = None
        if waiting is not None and not _is_for_people(waiting):
            task = beat.attempt.rpartition("/attempts/")[0]
            if self._tokens.is_of(beat.capability_token, waiting.owner, task):
                state = self._owners.heard(beat.attempt)
        if state is AttemptState.RUNNING:
            return None
        number = ATTEMPT_STATES[state] if state else AttemptMessage.STATE_UNSPECIFIED
        return pb.HeartbeatExternalTasksResponse.Answer(attempt=beat.attempt, state=number)

    async def end(self, request: pb.EndExternalTaskRequest) -> pb.EndExternalTaskResponse:
        """Ends an attempt, once; the same report again is a success."""
        requests.demand(request, "report_id")
        named = await self._named(request.attempt, request.capability_token)
        remembered = Request(request_id=request.report_id, hash=_hash_of(request))
        is_repeat = await self._is_repeat(remembered)
        said = self._said(request, named)
        if is_repeat:
            return self._ended(await self._newest(named), said)
        waiting = self._owners.waiting(request.attempt)
        if waiting is None:
            return await self._end_late(named, said)
        self._open(named)
        self._check_end(waiting, said)
        event: Event = said
        if named.attempt.kind is AttemptKind.ACTION:
            ask = Ask(principal=PRINCIPAL, reason="", request_id=request.report_id)
            event = EndRequested(ask=ask, said=said, force=request.force)
        try:
            now = await self._decide(named, event, remembered)
        except StoreConflictError:
            if not await self._is_repeat(remembered):
                raise
            now = (await self._newest(named)).workflow
        return self._ended(named.now(now), said)

    def _ended(self, named: _Named, said: Said) -> pb.EndExternalTaskResponse:
        """Answers an end, or a repeat of it; one that came too late is remembered, too."""
        if not _is_known(named.attempt, said):
            raise self._closed(named)
        return pb.EndExternalTaskResponse(attempt=self._shown(named))

    async def _end_late(self, named: _Named, said: Said) -> pb.EndExternalTaskResponse:
        """Answers an end of what is over: the same one again is a success, another is refused."""
        named = await self._newest(named)
        same = _is_known(named.attempt, said)
        if same and isinstance(said, AttemptSucceeded):
            same = dict(named.attempt.output) == dict(said.output)
        if same:
            return pb.EndExternalTaskResponse(attempt=self._shown(named))
        self._loop.hear(named.name.workflow_id, said)  # into the history; it changes nothing
        raise self._closed(named)

    def _said(self, request: pb.EndExternalTaskRequest, named: _Named) -> Said:
        """Returns what a request says of its attempt; raises FieldInvalid."""
        waiting = self._owners.waiting(request.attempt)
        known = self._owners.progress(waiting.key) if waiting else None
        task, number = named.index, named.name.number
        done, unit = (known.done, known.unit) if known else (0, BYTES)
        match request.WhichOneof("outcome"):
            case "output":
                if (size := request.output.ByteSize()) > OUTPUT_BYTES_MAX:
                    raise PayloadTooLarge(
                        field="output", size_bytes=size, size_bytes_max=OUTPUT_BYTES_MAX
                    )
                if found := tuple(left_problems(request.output)):
                    raise FieldInvalid(*found)
                output = values_of_struct(request.output)
                return AttemptSucceeded(
                    task=task, number=number, done=done, unit=unit, output=output
                )
            case "failure":
                failure = failure_of(request.failure, request.attempt)
                return AttemptFailed(
                    task=task, number=number, done=done, unit=unit, failure=failure
                )
            case "cancelled" if request.cancelled:
                return AttemptCancelled(task=task, number=number, done=done, unit=unit)
            case _:
                why = "is required: output, failure, or cancelled"
                raise FieldInvalid(Violation("outcome", why))

    def _check_end(self, waiting: Waiting, said: Said) -> None:
        """Raises if an attempt cannot end so."""
        is_action = waiting.attempt.kind is AttemptKind.ACTION
        if isinstance(said, AttemptSucceeded) and not waiting.accepted:
            raise VerbForbidden(
                name=waiting.name,
                state=waiting.attempt.state,
                verb="end",
                because="accept it first",
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

    async def _decide(
        self, named: _Named, event: Event, remembered: Request | None = None
    ) -> Workflow:
        """Returns the workflow once something that was said of it is durable."""
        workflow_id = named.name.workflow_id
        try:
            decision = await self._deciding.ask(workflow_id, event, remembered)
        except KeyError:
            raise self._closed(await self._newest(named)) from None
        if decision.refusal is not None:
            error: CountermandError = refused(decision.workflow, "end", decision.refusal)
            raise error
        return decision.workflow

    async def _newest(self, named: _Named) -> _Named:
        return named.now(await self._showing.newest(named.name.workflow_id))

    async def _is_repeat(self, request: Request) -> bool:
        found = await self._store.request(request.request_id)
        if found is not None and found[0].hash != request.hash:
            log.warning("report.refused", extra={"report": request.request_id})
            raise ReportReused(report_id=request.request_id)
        return found is not None

    def _shown(self, named: _Named) -> AttemptMessage:
        progress = self._watches.progress(named.name.workflow_id)
        return attempt_to_proto(named.workflow, named.index, named.attempt, progress)


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


def _is_known(attempt: Attempt, said: Said) -> bool:
    """Returns whether an attempt has ended as its owner says."""
    if isinstance(said, AttemptCancelled) and attempt.state is AttemptState.FAILED:
        # It was stopped, for a reason that makes it a failure: nothing is left behind either way.
        return attempt.failure is not None and attempt.failure.reason in _STOPPED
    return attempt.state is _STATES[type(said)]


def _is_for_people(waiting: Waiting) -> bool:
    external = waiting.spec.external
    return bool(external and external.checklist) and waiting.state in BEING_COMPENSATED


def progress_to_proto(progress: ProgressRecord) -> Progress:
    """Returns progress that was reported."""
    return Progress(
        done=progress.done, total=progress.total, unit=progress.unit, message=progress.message
    )


def _progress_problems(progress: Progress) -> Iterator[Violation]:
    for field in ("done", "total", "rate"):
        if getattr(progress, field) < 0:
            yield Violation(f"progress.{field}", "must not be negative")
    if len(progress.unit) > UNIT_CHARACTERS_MAX:
        yield Violation("progress.unit", f"is longer than {UNIT_CHARACTERS_MAX} characters")
    if len(progress.message.encode()) > MESSAGE_BYTES_MAX:
        yield Violation("progress.message", f"is longer than {MESSAGE_BYTES_MAX} bytes")


def _hash_of(request: Message) -> bytes:
    """Returns what tells a repeat from another report under the same id."""
    said = type(request)()
    said.CopyFrom(request)
    said.ClearField("capability_token")
    return requests.hash_of_request(said)
