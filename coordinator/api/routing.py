"""Any coordinator answers any call: what only a workflow's owner can decide, the owner is asked.

A wrapper around the servicers. A call about a workflow that this loop has, or that is settled or
unknown, is handled here and at once. One about another session's goes there as a letter, and the
answer, or the error, comes back as if it had been handled here. What nobody owns is claimed soon by
somebody: the call waits for that as long as its deadline lets it. Calls about webhooks go the same
way to the session that keeps the house: it alone knows how deliveries go. On a store that is not
shared there is no wrapper.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from coordinator.api import requests
from coordinator.api.briefly import Briefly
from coordinator.api.deciding import PRINCIPAL, ElsewhereError
from coordinator.api.external_task_service import HEARTBEATS_MAX
from coordinator.api.letters import ELSEWHERE, HOUSE, Inbox, Post, owners_of, together
from coordinator.api.requests import ANSWER_S_MAX, Context
from coordinator.api.unrecorded import READS, Unrecorded
from coordinator.api.watched import Watched
from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import (
    LETTER_BYTES_MAX,
    Letter,
    LetterAnswer,
    Store,
)
from countermand.rpc import status
from countermand.rpc.errors import Bug, CallUnsupported, OwnerUnavailable, PayloadTooLarge
from countermand.rpc.interceptors import trace_context
from countermand.rpc.names import is_id, workflow_name
from countermand.rpc.server import Service
from countermand.rpc.telemetry import CURRENT
from countermand.v1 import external_task_pb2 as pb
from countermand.v1.workflow_pb2 import ListWorkflowsResponse

log = logging.getLogger(__name__)

AGAIN_S = 0.1  # between two looks who owns a workflow that nobody seems to own

HERE: Final = 0
NOBODY: Final = -1  # so far: a session that has ended, or this one, which has not heard of it yet

# Of which kind it is, the call says; gRPC's handlers are typed one by one.
Request: TypeAlias = Any
Answer: TypeAlias = Any
Handler: TypeAlias = Callable[[Request, Context], Awaitable[Answer]]

# The calls that the owner of a workflow answers, and by which field each names it: they ask its
# loop to decide, or what waits there for the owners of its external tasks. Those of HOUSE the one
# that keeps it answers. All others need the store only.
HEARTBEATS = "countermand.v1.ExternalTaskService/HeartbeatExternalTasks"  # name one each
# No call of the contract: what owners are asked about some attempts, named as by heartbeats.
ASKED = "countermand.v1.ExternalTaskService/asked"
# Nor this: what owners are asked about workflows that are read elsewhere.
UNRECORDED = "countermand.v1.WorkflowService/unrecorded"
# Of the contract: every session adds what it knows.
OWNERS = "countermand.v1.ExternalTaskService/ListExternalOwners"
TABLE: Final[Mapping[str, str]] = {
    "countermand.v1.WorkflowService/CancelWorkflow": "name",
    "countermand.v1.WorkflowService/PauseWorkflow": "name",
    "countermand.v1.WorkflowService/ResumeWorkflow": "name",
    "countermand.v1.WorkflowService/DecideCompensation": "task",
    "countermand.v1.WorkflowService/FenceTask": "task",
    "countermand.v1.ExternalTaskService/EndExternalWorkflow": "name",
    "countermand.v1.ExternalTaskService/AddExternalTask": "parent",
    "countermand.v1.ExternalTaskService/AcceptExternalTask": "attempt",
    "countermand.v1.ExternalTaskService/ReportExternalTask": "attempt",
    "countermand.v1.ExternalTaskService/EndExternalTask": "attempt",
    HEARTBEATS: "heartbeats",
    "countermand.v1.WebhookService/AddWebhook": HOUSE,
    "countermand.v1.WebhookService/GetWebhook": HOUSE,
    "countermand.v1.WebhookService/ListWebhooks": HOUSE,
    "countermand.v1.WebhookService/PingWebhook": HOUSE,
    "countermand.v1.WebhookService/ResumeWebhook": HOUSE,
    "countermand.v1.WebhookService/RotateWebhookSecret": HOUSE,
    "countermand.v1.WebhookService/RemoveWebhook": HOUSE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One kind of call that owners answer."""

    name: str
    handle: Handler  # the servicer's own
    request: type[Message]
    answer: type[Message]

    def about(self, request: Request) -> Collection[str]:
        """Returns the ids of the workflows that a request names; what is no name is left out.

        Of a call about what only one does for all, that.
        """
        if self.name in (HEARTBEATS, ASKED):
            named = {_workflow_of(beat.attempt) for beat in request.heartbeats}
        elif self.name == OWNERS:
            named = set()
        elif self.name == UNRECORDED:
            named = {_workflow_of(workflow.name) for workflow in request.workflows}
        elif TABLE[self.name] == HOUSE:
            named = {HOUSE}
        else:
            named = {_workflow_of(getattr(request, TABLE[self.name]))}
        return named - {""}

    def join(self, request: Request, answers: Sequence[Answer]) -> Answer:
        """Returns one answer that says what those to the parts of a request say."""
        joined = self.answer()
        for each in answers:
            joined.MergeFrom(each)
        if isinstance(joined, pb.HeartbeatExternalTasksResponse):
            place = {beat.attempt: index for index, beat in enumerate(request.heartbeats)}
            joined.answers.sort(key=lambda answer: place[answer.attempt])
        return joined


@dataclass(frozen=True, slots=True, kw_only=True)
class _Caller:
    """Who waits for an answer, and how long."""

    context: Context
    until: float  # by the event loop's clock

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Returns what the owner is told of the caller."""
        trace = trace_context(self.context) if self.context is not None else None
        told = (("principal", PRINCIPAL),)
        if trace is None:
            return told
        return (*told, ("traceparent", trace.traceparent), ("tracestate", trace.tracestate))


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterContext:
    """The context of a call that came as a letter."""

    metadata: tuple[tuple[str, str], ...]

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Returns what the caller sent besides its request."""
        return self.metadata

    def time_remaining(self) -> float | None:
        """Returns that nothing is known of a deadline: it is watched where the caller is."""
        return None


class Routing:
    """Brings calls to the owners of workflows, and answers those of others."""

    def __init__(self, *, loop: Loop, store: Store, new_id: Callable[[], str]) -> None:
        """Knows no calls yet."""
        self._loop = loop
        self._store = store
        self._calls: dict[str, _Call] = {}
        self._post = Post(store=store, new_id=new_id)
        self._inbox = Inbox(store=store, answer=self._answer)
        briefly = Briefly()
        self._unrecorded = Unrecorded(whose=self._sessions_of, ask=self._told, briefly=briefly)
        self._watched = Watched(sessions=store.sessions, ask=self._owners_at, briefly=briefly)

    def around(self, services: Sequence[Service]) -> list[Service]:
        """Returns services that may be asked at any coordinator."""
        return [
            replace(service, servicer=Routed(service.servicer, self._routed(service)))
            for service in services
        ]

    @property
    def under_way(self) -> int:
        """Returns how many calls wait for other sessions."""
        return self._post.under_way

    def hint(self) -> None:
        """Looks at once: somebody says that there is a letter, or an answer."""
        self._post.hint()
        self._inbox.hint()

    async def run(self) -> None:
        """Posts, takes and answers letters until cancelled.

        Raises:
            StoreFencedError: The own session has ended.
        """
        await together(self._post.run(), self._inbox.run())

    def _routed(self, service: Service) -> dict[str, Handler]:
        """Returns what is called instead of a servicer's own, by the method."""
        found: dict[str, Handler] = {}
        for method in Default().FindServiceByName(service.name).methods:
            name = f"{service.name}/{method.name}"
            if name in READS:
                found[method.name] = self._reader(getattr(service.servicer, method.name))
            if name not in TABLE and name != OWNERS:
                continue
            call = self._calls[name] = _Call(
                name=name,
                handle=getattr(service.servicer, method.name),
                request=GetMessageClass(method.input_type),
                answer=GetMessageClass(method.output_type),
            )
            found[method.name] = self._router(call)
            if name == HEARTBEATS:
                self._calls[ASKED] = _Call(
                    name=ASKED,
                    handle=service.servicer.asked,  # type: ignore[attr-defined]  # any servicer
                    request=pb.HeartbeatExternalTasksRequest,
                    answer=pb.ListExternalTasksResponse,
                )
        if service.name == "countermand.v1.WorkflowService":
            self._calls[UNRECORDED] = _Call(
                name=UNRECORDED,
                handle=service.servicer.unrecorded,  # type: ignore[attr-defined]  # any servicer
                request=ListWorkflowsResponse,
                answer=ListWorkflowsResponse,
            )
        return found

    def _reader(self, handle: Handler) -> Handler:
        async def routed(request: Request, context: Context) -> Answer:
            until = requests.until(context)
            answer = await handle(request, context)
            await self._unrecorded.add_to(answer, until)
            return answer

        return routed

    def _router(self, call: _Call) -> Handler:
        route = {HEARTBEATS: self._beats, OWNERS: self._owners}.get(call.name, self._one)

        async def routed(request: Request, context: Context) -> Answer:
            return await route(
                call, request, _Caller(context=context, until=requests.until(context))
            )

        return routed

    # -- asking ---------------------------------------------------------------------------------

    async def asked(self, names: Sequence[str], until: float) -> dict[str, pb.ExternalRequest]:
        """Returns what owners are asked about attempts, by name, until a time of the loop's clock.

        Those about which nothing is asked any more are left out.

        Raises:
            OwnerUnavailable: One of their workflows is nobody's yet, or its owner does not answer.
        """
        found: dict[str, pb.ExternalRequest] = {}
        caller = _Caller(context=None, until=until)
        while names:
            request = pb.HeartbeatExternalTasksRequest()
            for name in names:
                request.heartbeats.add(attempt=name)
            answer = await self._beats(self._calls[ASKED], request, caller)
            found |= {each.attempt: each for each in answer.requests}
            # Somebody had more to say than one answer holds.
            names = [name for name in names if name not in found] if answer.next_page_token else []
        return found

    async def _owners(self, call: _Call, request: Request, caller: _Caller) -> Answer:
        """Answers with a page of owners, to which others add for whom they watch."""
        page = await call.handle(request, caller.context)
        return await self._watched.add_to(page, request, caller.until)

    async def _owners_at(
        self, session: int, request: pb.ListExternalOwnersRequest, until: float
    ) -> pb.ListExternalOwnersResponse:
        """Returns the page that another session answers with."""
        caller = _Caller(context=None, until=until)
        page: pb.ListExternalOwnersResponse = await self._at(
            session, self._calls[OWNERS], request, caller
        )
        return page

    async def _sessions_of(self, workflow_ids: Collection[str]) -> dict[str, int]:
        """Returns which other sessions own those workflows that others own."""
        whose = await self._whose(workflow_ids)
        return {each: session for each, session in whose.items() if session != NOBODY}

    async def _told(
        self, session: int, asked: ListWorkflowsResponse, until: float
    ) -> ListWorkflowsResponse:
        """Returns what a session says of its workflows that is in no record."""
        caller = _Caller(context=None, until=until)
        told: ListWorkflowsResponse = await self._at(
            session, self._calls[UNRECORDED], asked, caller
        )
        return told

    async def _one(self, call: _Call, request: Request, caller: _Caller) -> Answer:
        """Answers a call about one workflow, or the house."""
        about = call.about(request)
        while True:
            whose = await self._whose(about)
            try:
                return await self._at(whose.get(next(iter(about), ""), HERE), call, request, caller)
            except ElsewhereError:
                await _again(about, caller)

    async def _beats(self, call: _Call, request: Request, caller: _Caller) -> Answer:
        """Answers heartbeats, or what names attempts as they do: each of any workflow."""
        if len(request.heartbeats) > HEARTBEATS_MAX:
            return await call.handle(request, caller.context)  # which says so
        whose = await self._whose(call.about(request))
        parts: dict[int, pb.HeartbeatExternalTasksRequest] = {}
        for beat in request.heartbeats:
            session = whose.get(_workflow_of(beat.attempt), HERE)
            part = parts.setdefault(session, pb.HeartbeatExternalTasksRequest())
            part.heartbeats.append(beat)
        if parts.keys() <= {HERE}:
            return await self._at(HERE, call, request, caller)
        answers = await asyncio.gather(
            *(self._some_beats(session, call, part, caller) for session, part in parts.items())
        )
        return call.join(request, answers)

    async def _some_beats(
        self, session: int, call: _Call, part: Request, caller: _Caller
    ) -> Answer:
        try:
            return await self._at(session, call, part, caller)
        except ElsewhereError:
            await _again(call.about(part), caller)
            return await self._beats(call, part, caller)

    async def _whose(self, workflow_ids: Collection[str]) -> dict[str, int]:
        """Returns who is to be asked about those workflows about which that is not here.

        Likewise about the house: who keeps it knows whether it has begun to.
        """
        away = [each for each in workflow_ids if self._loop.workflow(each) is None]
        found = await owners_of(self._store, away)
        whose = {
            each: NOBODY if owner.own or owner.ended else owner.session
            for each, owner in found.items()
        }
        if HOUSE in found and found[HOUSE].own and not found[HOUSE].ended:
            del whose[HOUSE]
        return whose

    async def _at(self, session: int, call: _Call, request: Request, caller: _Caller) -> Answer:
        """Returns what a session answers; raises ElsewhereError if it is not the one to ask."""
        if session == NOBODY:
            raise ElsewhereError
        if session == HERE:
            return await call.handle(request, caller.context)
        about = call.about(request)
        try:
            async with asyncio.timeout_at(caller.until):
                answer = await self._post.ask(
                    session,
                    call.name,
                    request.SerializeToString(),
                    caller.metadata(),
                    about=about,
                )
        except TimeoutError as error:
            why = "its coordinator has not answered in time, and what was asked may have been done"
            raise OwnerUnavailable(name=_name(about), why=why) from error
        return call.answer.FromString(answer)

    # -- answering ------------------------------------------------------------------------------

    async def _answer(self, letter: Letter) -> LetterAnswer:
        """Answers a letter as its sender would have been answered here."""
        context = LetterContext(metadata=letter.metadata)
        CURRENT.set(trace_context(context))  # each letter has a task of its own
        try:
            answer = await self._answered(letter, context)
        except ElsewhereError:
            return LetterAnswer(letter=letter.id, status=ELSEWHERE)
        except Exception as raised:  # told to whoever asked, as on the way from gRPC
            error = status.known(raised)
            if isinstance(error, Bug):
                log.exception("letter.failed", extra={"method": letter.method})
            refused = status.status_from_error(error).SerializeToString()
            return LetterAnswer(letter=letter.id, status=refused)
        return LetterAnswer(letter=letter.id, answer=answer)

    async def _answered(self, letter: Letter, context: LetterContext) -> bytes:
        call = self._calls.get(letter.method)
        if call is None:  # asked by a newer version
            raise CallUnsupported(call=letter.method.rpartition("/")[2])
        request = call.request.FromString(letter.request)
        if await self._whose(call.about(request)):
            raise ElsewhereError  # not here yet, or no more
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                answer = (await call.handle(request, context)).SerializeToString()
        except TimeoutError as error:
            why = "its coordinator is overloaded, and what was asked may have been done"
            raise OwnerUnavailable(name=_name(call.about(request)), why=why) from error
        if len(answer) > LETTER_BYTES_MAX:
            raise PayloadTooLarge(
                field="the answer", size_bytes=len(answer), size_bytes_max=LETTER_BYTES_MAX
            )
        return bytes(answer)


class Routed:
    """A servicer some calls of which go another way."""

    def __init__(self, servicer: object, calls: Mapping[str, Handler]) -> None:
        """Keeps both."""
        self._servicer = servicer
        self.__dict__.update(calls)

    def __getattr__(self, name: str) -> object:
        """Returns what goes its own way."""
        return getattr(self._servicer, name)


async def _again(about: Collection[str], caller: _Caller) -> None:
    """Waits before the next look, unless the caller has no time for it."""
    if asyncio.get_running_loop().time() + AGAIN_S > caller.until:
        why = "no coordinator has taken it over yet, which takes some seconds"
        raise OwnerUnavailable(name=_name(about), why=why)
    await asyncio.sleep(AGAIN_S)


def _workflow_of(name: str) -> str:
    """Returns the id of the workflow that a name begins with; empty if it is none's."""
    kind, _, rest = name.partition("/")
    workflow_id = rest.partition("/")[0]
    return workflow_id if kind == "workflows" and is_id(workflow_id) else ""


def _name(about: Collection[str]) -> str:
    if not about:
        return "coordinators"
    return "webhooks" if HOUSE in about else workflow_name(min(about))
