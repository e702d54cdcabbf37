"""Reports about external tasks: whether they still count, and what they change.

A report that is foreign, late or about another attempt is refused and changes nothing. It is
logged, and an end that contradicts what is known is written into the history as well: once for each
outcome of an attempt, or somebody who repeats it could fill the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress

from coordinator.api import requests
from coordinator.api.deciding import PRINCIPAL, Deciding, ElsewhereError, refused
from coordinator.api.ends import (
    MESSAGE_BYTES_MAX,
    Said,
    check_end,
    is_known,
    said_by,
    state_said,
)
from coordinator.api.rights import Named, Rights, task_of
from coordinator.api.shown import Showing
from coordinator.runtime.loop import Loop
from coordinator.runtime.owners import Owners, Waiting
from coordinator.runtime.ports import ProgressRecord, Request, Store, StoreConflictError
from coordinator.runtime.watch import Watches
from coordinator.saga.events import Ask, AttemptAccepted, AttemptSucceeded, EndRequested, Event
from coordinator.saga.states import AttemptKind, AttemptState, TaskState
from coordinator.saga.workflow import Workflow
from coordinator.wire.asked import request_to_proto
from coordinator.wire.history import ATTEMPT_STATES
from coordinator.wire.view import attempt_to_proto
from countermand.rpc.errors import (
    AttemptClosed,
    FieldInvalid,
    ReportReused,
    VerbForbidden,
    Violation,
)
from countermand.v1 import external_task_pb2 as pb
from countermand.v1.attempt_pb2 import Attempt as AttemptMessage
from countermand.v1.attempt_pb2 import Progress

log = logging.getLogger(__name__)

UNIT_CHARACTERS_MAX = 63
PARTS = "parts"  # what an owner counts that does not say what: bytes would be a guess
YIELD_EVERY = 100  # heartbeats between two looks at whoever else is due

Heartbeat = pb.HeartbeatExternalTasksRequest.Heartbeat
Answer = pb.HeartbeatExternalTasksResponse.Answer


class Reporting:
    """Takes reports of owners."""

    def __init__(
        self,
        *,
        loop: Loop,
        store: Store,
        owners: Owners,
        rights: Rights,
        watches: Watches[Progress],
        deciding: Deciding,
        showing: Showing,
    ) -> None:
        """Keeps what it asks."""
        self._loop = loop
        self._store = store
        self._owners = owners
        self._rights = rights
        self._watches = watches
        self._deciding = deciding
        self._showing = showing

    # -- what is asked --------------------------------------------------------------------------

    def asked(self, name: str) -> pb.ExternalRequest | None:
        """Returns what its owner is asked about an attempt; None if nothing is, any more."""
        waiting = self._owners.waiting(name)
        workflow = self._loop.workflow(waiting.workflow_id) if waiting else None
        if waiting is None or workflow is None or waiting.checklist:
            return None
        if workflow.task(waiting.index).last.number != waiting.attempt.number:
            return None  # it has moved on this very moment
        token = self._rights.token(waiting.owner, task_of(name))
        kept = self._owners.progress(waiting.key)
        progress = progress_to_proto(kept) if kept else None
        return request_to_proto(workflow, waiting.index, token, progress)

    def _open(self, named: Named) -> Waiting:
        """Returns an attempt whose outcome is still to come; raises AttemptClosed."""
        waiting = self._owners.waiting(str(named.name))
        if waiting is None:
            raise named.closed()
        if waiting.checklist:
            raise named.closed("people make up for it, by its checklist")
        return waiting

    # -- at work --------------------------------------------------------------------------------

    async def accept(self, request: pb.AcceptExternalTaskRequest) -> pb.AcceptExternalTaskResponse:
        """Takes an attempt on, for its owner."""
        named = await self._rights.named(request.attempt, request.capability_token)
        waiting = self._open(named)
        is_new = not waiting.accepted or waiting.state in (
            TaskState.UNKNOWN,
            TaskState.COMPENSATION_BLOCKED,
        )
        if is_new and waiting.state is not TaskState.CANCELLING:
            event = AttemptAccepted(task=named.index, number=named.name.number)
            named = named.now(await self._decide(named, "accept", event))
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
            raise named.closed()
        return pb.AcceptExternalTaskResponse(request=asked, attempt=self._shown(named))

    async def report(self, request: pb.ReportExternalTaskRequest) -> pb.ReportExternalTaskResponse:
        """Keeps the progress of an attempt."""
        if found := tuple(_progress_problems(request.progress)):
            raise FieldInvalid(*found)
        named = await self._rights.named(request.attempt, request.capability_token)
        waiting = self._open(named)
        if not waiting.accepted:
            raise VerbForbidden(
                name=request.attempt,
                state=named.attempt.state,
                verb="report",
                because="accept it first",
            )
        said = request.progress
        kept = self._owners.progress(waiting.key)
        record = ProgressRecord(
            workflow_id=named.name.workflow_id,
            task=named.index,
            number=named.name.number,
            done=said.done,
            total=said.total,
            unit=said.unit or (kept.unit if kept else PARTS),
            message=said.message,
        )
        self._owners.heard(request.attempt)
        known = progress_to_proto(await self._owners.report(record))
        known.rate = said.rate
        if self._owners.waiting(request.attempt) is not None:  # else it is over: nobody drops it
            self._watches.heard_progress(named.name.workflow_id, request.attempt, known)
        named = named.now(await self._showing.find(named.name.workflow_id))
        return pb.ReportExternalTaskResponse(attempt=self._shown(named))

    async def hear(self, beats: Sequence[Heartbeat]) -> list[Answer]:
        """Hears signs of life; returns what became of the attempts that are not at work."""
        answers = []
        for number, beat in enumerate(beats, start=1):
            if answer := self._hear(beat):
                answers.append(answer)
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        if foreign := [answer.attempt for answer in answers if answer.refused]:
            extra = {"attempt": foreign[0], "attempts": len(foreign)}
            log.warning("heartbeats.refused", extra=extra)
        return answers

    def _hear(self, beat: Heartbeat) -> Answer | None:
        waiting = self._owners.waiting(beat.attempt)
        if waiting is None:
            return Answer(attempt=beat.attempt)
        if not self._rights.may_report(beat.capability_token, waiting):
            return Answer(attempt=beat.attempt, refused=True)
        state = None if waiting.checklist else self._owners.heard(beat.attempt)
        if state is AttemptState.RUNNING:
            return None
        number = ATTEMPT_STATES[state] if state else AttemptMessage.STATE_UNSPECIFIED
        return Answer(attempt=beat.attempt, state=number)

    # -- ends -----------------------------------------------------------------------------------

    async def end(self, request: pb.EndExternalTaskRequest) -> pb.EndExternalTaskResponse:
        """Ends an attempt, once; the same report again is a success."""
        requests.demand(request, "report_id")
        named = await self._rights.named(request.attempt, request.capability_token)
        remembered = Request(request_id=request.report_id, hash=requests.hash_of_request(request))
        is_repeat = await self._is_repeat(remembered)
        waiting = self._owners.waiting(request.attempt)
        known = self._owners.progress(waiting.key) if waiting else None
        external = named.workflow.plan.task(named.index).external
        assert external is not None, request.attempt
        said = said_by(request, named.index, named.name.number, external=external, known=known)
        if is_repeat:
            return self._ended(await self._rights.newest(named), said)
        if waiting is None:
            return await self._end_late(named, said)
        self._open(named)
        check_end(waiting, said)
        event: Event = said
        if named.attempt.kind is AttemptKind.ACTION:
            ask = Ask(principal=PRINCIPAL, reason="", request_id=request.report_id)
            event = EndRequested(ask=ask, said=said, force=request.force)
        try:
            now = await self._decide(named, "end", event, remembered)
        except StoreConflictError:
            if not await self._is_repeat(remembered):
                raise
            now = (await self._rights.newest(named)).workflow
        return self._ended(named.now(now), said)

    def _ended(self, named: Named, said: Said) -> pb.EndExternalTaskResponse:
        """Answers an end, or a repeat of it; one that came too late is remembered, too."""
        if not is_known(named.attempt, said):
            raise named.closed()
        return pb.EndExternalTaskResponse(attempt=self._shown(named))

    async def _end_late(self, named: Named, said: Said) -> pb.EndExternalTaskResponse:
        """Answers an end of what is over: the same one again is a success, another is refused."""
        named = await self._rights.newest(named)
        same = is_known(named.attempt, said)
        if same and isinstance(said, AttemptSucceeded):
            same = dict(named.attempt.output) == dict(said.output)
        if same:
            return pb.EndExternalTaskResponse(attempt=self._shown(named))
        await self._note_late(named, said)
        raise named.closed()

    async def _note_late(self, named: Named, said: Said) -> None:
        """Writes into the history what contradicts it; each outcome of an attempt once."""
        once = Request(request_id=f"late {named.name} {state_said(said)}", hash=b"")
        if await self._store.request(once.request_id) is not None:
            return
        # Or the workflow has settled, or the same was said at the same time.
        with suppress(AttemptClosed, StoreConflictError):
            await self._decide(named, "end", said, once)  # it changes nothing

    # -- all of them ----------------------------------------------------------------------------

    async def _decide(
        self, named: Named, verb: str, event: Event, remembered: Request | None = None
    ) -> Workflow:
        """Returns the workflow once something that was said of it is durable."""
        workflow_id = named.name.workflow_id
        try:
            decision = await self._deciding.ask(workflow_id, event, remembered)
        except KeyError:
            newest = await self._rights.newest(named)
            if self._store.shared and not newest.workflow.settled:
                raise ElsewhereError from None
            raise newest.closed() from None
        if decision.refusal is not None:
            state = named.now(decision.workflow).attempt.state
            about = (str(named.name), state)
            raise refused(decision.workflow, verb, decision.refusal, about=about)
        return decision.workflow

    async def _is_repeat(self, request: Request) -> bool:
        found = await self._store.request(request.request_id)
        if found is not None and found[0].hash != request.hash:
            log.warning("report.refused", extra={"report": request.request_id})
            raise ReportReused(report_id=request.request_id)
        return found is not None

    def _shown(self, named: Named) -> AttemptMessage:
        progress = self._watches.progress(named.name.workflow_id)
        return attempt_to_proto(named.workflow, named.index, named.attempt, progress)


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
