"""What every verb about a workflow has in common: repeats, refusals, and asking the loop.

A request id is remembered with the hash of its request, in the transaction that carries it out. A
repeat changes nothing more and is answered with the workflow as it is now, whenever and however
often it comes, also while the first is being decided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from coordinator.api import requests
from coordinator.api.shown import Showing
from coordinator.runtime.loop import Loop, OverloadedError, Start
from coordinator.runtime.ports import Clock, Request, Store, StoreConflictError
from coordinator.saga import events
from coordinator.saga.advance import Decision, Refusal, advance
from coordinator.saga.events import Ask, Now
from coordinator.saga.resume import Requirement
from coordinator.saga.states import WorkflowState
from coordinator.saga.workflow import Workflow
from countermand.rpc.errors import (
    Busy,
    Conflict,
    CountermandError,
    RequestIdReused,
    RequirementsUnmet,
    StateForbids,
    VerbForbidden,
    Violation,
)
from countermand.rpc.names import task_name, workflow_name
from countermand.v1 import external_task_pb2 as external_pb
from countermand.v1 import workflow_pb2 as pb

# Until callers have identities: whoever reaches the loopback address.
PRINCIPAL = "local"

RETRY_DELAY = timedelta(seconds=1)  # an overloaded loop catches up within it
TRIES_MAX = 8  # at a request about a workflow that moves while it is made out

Verb: TypeAlias = (
    pb.CancelWorkflowRequest
    | pb.PauseWorkflowRequest
    | pb.ResumeWorkflowRequest
    | pb.DecideCompensationRequest
    | pb.FenceTaskRequest
    | external_pb.AddExternalTaskRequest
    | external_pb.EndExternalWorkflowRequest
)
# Makes the event of a request, given the workflow that it is about and who asks.
EventOf: TypeAlias = Callable[[Workflow, Ask], events.Request]

S = WorkflowState
# Where a verb is possible, for those who come when the loop no longer knows the workflow.
ALLOWED = {
    "cancel": (S.RUNNING, S.PAUSING, S.PAUSED, S.BLOCKED),
    "pause": (S.RUNNING, S.BLOCKED),
    "resume": (S.PAUSING, S.PAUSED),
    "fence": (S.RUNNING, S.PAUSING, S.COMPENSATING, S.BLOCKED, S.ENDING),
    "add": (S.RUNNING, S.PAUSING, S.PAUSED, S.BLOCKED),
    "end": (S.RUNNING, S.PAUSING, S.PAUSED, S.BLOCKED, S.ENDING),
}
_DECIDED_IN = (S.COMPENSATING, S.BLOCKED)  # compensations


class ElsewhereError(Exception):
    """A workflow is another session's, or nobody's yet: nothing was decided about it here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of a request."""

    workflow: Workflow  # as it is now
    before: Workflow | None = None  # as it was; None for a repeat
    event: events.Request | None = None


class Deciding:
    """Has the loop decide about requests, each once."""

    def __init__(self, *, loop: Loop, store: Store, showing: Showing, clock: Clock) -> None:
        """Keeps what it asks."""
        self._loop = loop
        self._store = store
        self._showing = showing
        self._clock = clock

    async def ask(
        self, workflow_id: str, what: Start | events.Event, request: Request | None = None
    ) -> Decision:
        """Returns what the loop decided, once it is durable."""
        try:
            return await self._loop.ask(workflow_id, what, request)
        except OverloadedError as error:
            raise Busy(retry_delay=RETRY_DELAY) from error

    async def decide(self, workflow_id: str, verb: str, request: Verb, event_of: EventOf) -> Taken:
        """Carries a request out, or returns the workflow if it was carried out before.

        Raises:
            CountermandError: It was refused; nothing has changed.
        """
        remembered = Request(request_id=request.request_id, hash=requests.hash_of_request(request))
        if await self._is_repeat(remembered):
            return Taken(workflow=await self._showing.newest(workflow_id))
        tries = 0
        while True:
            before = await self._showing.find(workflow_id)
            try:
                event = event_of(before, _ask(request))
            except CountermandError:
                # It may fit no more because it was done: its first was decided since we looked.
                if await self._is_repeat(remembered):
                    return Taken(workflow=await self._showing.newest(workflow_id))
                raise
            try:
                decision = await self.ask(workflow_id, event, remembered)
            except KeyError:
                refusal: Refusal | None = await self._settled(workflow_id)
                decision = Decision(workflow=before)
            except StoreConflictError:
                if await self._is_repeat(remembered):
                    return Taken(workflow=await self._showing.newest(workflow_id))
                raise
            else:
                refusal = decision.refusal
            tries += 1
            if refusal is None or not refusal.outdated or _etag(request) or tries == TRIES_MAX:
                break  # else: it was made out for a workflow that has moved on meanwhile
        if refusal is None:
            return Taken(workflow=decision.workflow, before=before, event=event)
        if await self._is_repeat(remembered):  # of a request that was decided meanwhile
            return Taken(workflow=await self._showing.newest(workflow_id))
        raise refused(before, verb, refusal)

    async def imagine(self, workflow_id: str, verb: str, request: Verb, event_of: EventOf) -> Taken:
        """Returns what a request would be decided about; changes nothing.

        Raises:
            CountermandError: It would be refused.
        """
        before = await self._showing.find(workflow_id)
        event = event_of(before, _ask(request))
        refusal: Refusal | None
        if before.settled or before.state is S.QUARANTINED:
            refusal = Refusal(state=before.state, allowed=())
        else:
            # The same rules, on values: nobody hears of what comes out.
            now = Now(time=self._clock.now(), jitter=0.0, intent=1)
            refusal = advance(before, event, now).refusal
        if refusal is not None:
            raise refused(before, verb, refusal)
        if isinstance(event, events.ResumeRequested):
            self._loop.refuse_busy(workflow_id, event.locks)
        return Taken(workflow=before, before=before, event=event)

    async def _settled(self, workflow_id: str) -> Refusal:
        """Returns the refusal of a request about a workflow that the loop no longer has.

        Raises:
            ElsewhereError: It has not settled, but is another session's.
        """
        newest = await self._showing.newest(workflow_id)
        if self._store.shared and not newest.settled:
            raise ElsewhereError
        return Refusal(state=newest.state, allowed=())

    async def _is_repeat(self, request: Request) -> bool:
        """Returns whether a request was answered before; raises when its id was for another."""
        found = await self._store.request(request.request_id)
        if found is None:
            return False
        if found[0].hash != request.hash:
            raise RequestIdReused(request_id=request.request_id)
        return True


def _ask(request: Verb) -> Ask:
    etag = _etag(request)
    return Ask(
        principal=PRINCIPAL,
        reason=getattr(request, "reason", ""),  # vendors need not say why
        request_id=request.request_id,
        version=requests.number(etag, "etag") if etag else 0,
    )


def _etag(request: Verb) -> str:
    return str(getattr(request, "etag", ""))


def refused(
    workflow: Workflow, verb: str, refusal: Refusal, *, about: tuple[str, str] | None = None
) -> CountermandError:
    """Returns the error that a refusal is to whoever asked.

    It is about the whole workflow, unless what it is about is given by its name and state.
    """
    name, state = about or (workflow_name(workflow.id), refusal.state)
    if refusal.outdated:
        return Conflict(name=name)
    if refusal.violations:
        violations = tuple(_violation(workflow, each) for each in refusal.violations)
        return RequirementsUnmet(name=name, violations=violations)
    allowed = ", ".join(refusal.allowed or ALLOWED.get(verb, _DECIDED_IN))
    if refusal.because:
        because = refusal.because
        return VerbForbidden(name=name, state=state, verb=verb, because=because, allowed=allowed)
    return StateForbids(name=name, state=state, verb=verb, allowed=allowed)


def _violation(workflow: Workflow, found: Requirement) -> Violation:
    return Violation(
        field=subject(workflow, found.task),
        description=found.message,
        kind=found.kind,
        key=found.key,
        choices=found.choices,
    )


def subject(workflow: Workflow, task: int) -> str:
    """Returns the name of a task, or of the workflow for none."""
    if task < 0:
        return workflow_name(workflow.id)
    return task_name(workflow.id, workflow.plan.nodes[task].name)
