"""ExternalTaskService: vendors' own tasks, asked for, taken on, reported and ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from google.protobuf.struct_pb2 import Struct

from coordinator.api import requests
from coordinator.api.deciding import Deciding
from coordinator.api.elsewhere import Elsewhere, Told, standings
from coordinator.api.ends import failure_of
from coordinator.api.reporting import Reporting
from coordinator.api.requests import Context
from coordinator.api.rights import Rights
from coordinator.api.shown import Showing
from coordinator.api.starting import New, Starting
from coordinator.runtime.loop import Loop
from coordinator.runtime.owners import Owners
from coordinator.runtime.ports import Store
from coordinator.saga.events import AddRequested, Ask, EndAllRequested
from coordinator.saga.external import MAIN
from coordinator.saga.workflow import Failure, Retention, Workflow
from coordinator.wire.external import added_problems, added_task, owner_called, place_of
from coordinator.wire.history import timestamp
from countermand.rpc.errors import (
    FieldInvalid,
    NotOwner,
    TaskNotFound,
    VerbForbidden,
    Violation,
    WorkflowNotFound,
)
from countermand.rpc.names import VENDOR_RULE, is_vendor_id, parse_task, task_name, workflow_name
from countermand.v1 import external_task_pb2 as pb
from countermand.v1.annotation_pb2 import EFFECT_READ_ONLY
from countermand.v1.external_task_pb2_grpc import ExternalTaskServiceServicer
from countermand.v1.workflow_spec_pb2 import Group, Node, Policy, WorkflowSpec

if TYPE_CHECKING:  # the stubs declare every call abstract; at run time each answers by itself
    Base = object
else:
    Base = ExternalTaskServiceServicer

HEARTBEATS_MAX = 1000  # in one request
ASKED_BYTES_MAX = 1024 * 1024  # for another coordinator at once; one request has a fourth at most
YIELD_EVERY = 50  # requests of a page between two looks at whoever else is due: some milliseconds


class ExternalTaskService(Base):
    """Serves external tasks to their owners."""

    def __init__(
        self,
        *,
        loop: Loop,
        store: Store,
        owners: Owners,
        rights: Rights,
        reporting: Reporting,
        starting: Starting,
        deciding: Deciding,
        showing: Showing,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """Keeps what it asks; nobody if there are no other coordinators."""
        self._loop = loop
        self._store = store
        self._owners = owners
        self._rights = rights
        self._reporting = reporting
        self._starting = starting
        self._deciding = deciding
        self._showing = showing
        self._elsewhere = elsewhere

    # -- a vendor's own workflow ----------------------------------------------------------------

    async def StartExternalWorkflow(
        self, request: pb.StartExternalWorkflowRequest, context: Context
    ) -> pb.StartExternalWorkflowResponse:
        """Starts a workflow of a vendor's own, or returns the one that the same request started."""
        kept = request.HasField("auto_clear") and not request.auto_clear
        new = New(
            id=request.workflow_id,
            spec=_own_spec(request),
            input=Struct(),
            labels=dict(request.labels),
            owner=request.owner_id,
            retention=Retention.KEPT if kept else Retention.IN_TIME,
        )
        try:
            workflow = await self._starting.start(new, context)
        except FieldInvalid as error:
            found = {said.field: said for said in map(_of_request, error.violations)}
            raise FieldInvalid(*found.values()) from None
        token = self._rights.token(request.owner_id, task_name(workflow.id, MAIN))
        shown = self._showing.basic(workflow)
        return pb.StartExternalWorkflowResponse(workflow=shown, capability_token=token)

    async def EndExternalWorkflow(
        self, request: pb.EndExternalWorkflowRequest, context: Context
    ) -> pb.EndExternalWorkflowResponse:
        """Ends a workflow of a vendor's own as it is told."""
        workflow_id = requests.workflow_id(request.name)
        requests.demand(request, "request_id")
        self._check_own(await self._showing.find(workflow_id), request.capability_token)
        failure = _failure_of(request)

        def event(_: Workflow, ask: Ask) -> EndAllRequested:
            return EndAllRequested(ask=ask, failure=failure, force=request.force)

        taken = await self._deciding.decide(workflow_id, "end", request, event)
        return pb.EndExternalWorkflowResponse(workflow=self._showing.basic(taken.workflow))

    async def ClearExternalWorkflow(
        self, request: pb.ClearExternalWorkflowRequest, context: Context
    ) -> pb.ClearExternalWorkflowResponse:
        """Removes a settled workflow of a vendor's own."""
        workflow_id = requests.workflow_id(request.name)
        try:
            workflow = await self._showing.find(workflow_id)
        except WorkflowNotFound:
            if workflow_id in await self._store.settled([workflow_id]):
                return pb.ClearExternalWorkflowResponse()  # it was removed before
            raise
        self._check_own(workflow, request.capability_token)
        if not workflow.settled:
            raise VerbForbidden(
                name=request.name, state=workflow.state, verb="clear", because="end it first"
            )
        await self._store.clear(workflow_id)
        self._loop.forget_cleared(workflow_id)
        return pb.ClearExternalWorkflowResponse()

    def _check_own(self, workflow: Workflow, token: str) -> None:
        """Raises unless a workflow is an external one, and the caller's."""
        name = workflow_name(workflow.id)
        if not workflow.about.owner:
            raise NotOwner(name=name, why="it is no vendor's own workflow, an engine started it")
        self._rights.check(token, workflow.about.owner, task_name(workflow.id, MAIN))

    # -- tasks of it, and of others -------------------------------------------------------------

    async def AddExternalTask(
        self, request: pb.AddExternalTaskRequest, context: Context
    ) -> pb.AddExternalTaskResponse:
        """Adds a task under an open group, or under an external task of the caller's."""
        named = parse_task(request.parent)
        workflow_id = named[0] if named else requests.workflow_id(request.parent, "parent")
        requests.demand(request, "request_id")
        # First, and of a repeat as well: it is answered with what proves the right to report.
        self._check_place(await self._showing.find(workflow_id), request)

        def event(workflow: Workflow, ask: Ask) -> AddRequested:
            if found := tuple(added_problems(workflow.plan, request)):
                raise FieldInvalid(*found)
            spec, parent, under = added_task(workflow.plan, request)
            return AddRequested(ask=ask, spec=spec, parent=parent, under=under)

        taken = await self._deciding.decide(workflow_id, "add", request, event)
        index = self._showing.index_of(taken.workflow, request.task_id)
        return pb.AddExternalTaskResponse(
            task=self._showing.task(taken.workflow, index),
            capability_token=self._rights.token(
                request.owner_id, task_name(workflow_id, request.task_id)
            ),
        )

    def _check_place(self, workflow: Workflow, request: pb.AddExternalTaskRequest) -> None:
        """Raises unless the caller may add a task there."""
        index = place_of(workflow.plan.by_name, request.parent)
        if index is None:
            raise TaskNotFound(name=request.parent)
        node = workflow.plan.nodes[index]
        if node.task is not None:
            owner = owner_called(node.task)
            if not owner:
                raise NotOwner(name=request.parent, why="it is no external task")
            self._rights.check(request.capability_token, owner, request.parent)
        elif workflow.about.owner:
            # Its failure would end the whole: whose own the workflow is, says who takes part in it.
            main = task_name(workflow.id, MAIN)
            self._rights.check(request.capability_token, workflow.about.owner, main)
        elif node.rules.open is None:
            raise VerbForbidden(
                name=request.parent,
                state=workflow.state,
                verb="add",
                because="its spec does not say that the group is open",
            )

    # -- what waits for an owner ----------------------------------------------------------------

    async def ListExternalTasks(
        self, request: pb.ListExternalTasksRequest, context: Context
    ) -> pb.ListExternalTasksResponse:
        """Returns one page of what waits for an owner, the oldest first."""
        _check_owner(request.owner_id)
        after = requests.number(request.page_token, "page_token") if request.page_token else 0
        size = requests.page_size(request.page_size)
        if self._elsewhere is not None:
            return await self._page_of_all(self._elsewhere, request.owner_id, after, size, context)
        found = self._owners.page(request.owner_id, after=after, limit=size + 1)
        page = found[:size]
        answer = pb.ListExternalTasksResponse(
            next_page_token=str(page[-1].attempt.intent) if len(found) > size else ""
        )
        for number, each in enumerate(page, start=1):
            if (asked := self._reporting.asked(each.name)) is not None:
                answer.requests.append(asked)
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        return answer

    @staticmethod
    async def _page_of_all(
        elsewhere: Elsewhere, owner: str, after: int, size: int, context: Context
    ) -> pb.ListExternalTasksResponse:
        """Returns one page of what waits for an owner at all coordinators."""
        found = await elsewhere.page(owner, after=after, limit=size + 1)
        names = [row.name for row in found[:size]]
        asked = await elsewhere.requests(names, requests.until(context))
        return pb.ListExternalTasksResponse(
            requests=[asked[name] for name in names if name in asked],
            next_page_token=str(found[size - 1].intent) if len(found) > size else "",
        )

    async def asked(
        self,
        request: pb.HeartbeatExternalTasksRequest,
        context: Context,
    ) -> pb.ListExternalTasksResponse:
        """Returns what is asked about attempts of own workflows, for other coordinators.

        With a token if that is not all of them.
        """
        answer, size_bytes = pb.ListExternalTasksResponse(), 0
        for number, beat in enumerate(request.heartbeats, start=1):
            if (asked := self._reporting.asked(beat.attempt)) is not None:
                answer.requests.append(asked)
                size_bytes += asked.ByteSize()
            if size_bytes > ASKED_BYTES_MAX:
                answer.next_page_token = str(number)
                break
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        return answer

    async def ListExternalOwners(
        self, request: pb.ListExternalOwnersRequest, context: Context
    ) -> pb.ListExternalOwnersResponse:
        """Returns one page of how owners stand."""
        size = requests.page_size(request.page_size)
        after = request.page_token
        # Where it has no workflows, they may be nobody's: until somebody has looked at the store.
        found = self._owners.standings(after=after, limit=size + 1)
        if self._store.shared or not self._loop.open_workflows():
            found = await standings(self._store, self._owners, after=after, limit=size + 1)
        return pb.ListExternalOwnersResponse(
            owners=[
                pb.ExternalOwner(
                    owner_id=each.owner,
                    waiting=each.waiting,
                    unaccepted=each.unaccepted,
                    silent=each.silent,
                    oldest_time=timestamp(each.oldest_time),
                    watching=each.watching,
                )
                for each in found[:size]
            ],
            next_page_token=found[size - 1].owner if len(found) > size else "",
        )

    async def WatchExternalTasks(
        self, request: pb.WatchExternalTasksRequest, context: Context
    ) -> AsyncIterator[pb.WatchExternalTasksResponse]:
        """Streams what waits for an owner, and every change of it."""
        _check_owner(request.owner_id)
        owner = request.owner_id
        others = 0  # of other coordinators' workflows: how much waits
        has_begun = False
        source = self._elsewhere.watch_all(owner) if self._elsewhere else self._owners.watch(owner)
        async with aclosing(source) as watch:
            async for each in watch:
                if isinstance(each, Told):
                    others = each.waiting
                    for asked in each.requests:
                        yield pb.WatchExternalTasksResponse(request=asked)
                    for name in each.closed:
                        yield pb.WatchExternalTasksResponse(closed=name)
                else:
                    has_begun = True  # of others' all was told before
                    for name in each:
                        yield self._changed(name)
                if has_begun:
                    waiting = others + self._owners.count(owner)
                    yield pb.WatchExternalTasksResponse(bookmark=waiting)

    def _changed(self, name: str) -> pb.WatchExternalTasksResponse:
        """Returns what is told of an attempt of an own workflow."""
        asked = self._reporting.asked(name)
        if asked is None:
            return pb.WatchExternalTasksResponse(closed=name)
        return pb.WatchExternalTasksResponse(request=asked)

    # -- reports --------------------------------------------------------------------------------

    async def AcceptExternalTask(
        self, request: pb.AcceptExternalTaskRequest, context: Context
    ) -> pb.AcceptExternalTaskResponse:
        """Takes an attempt on."""
        return await self._reporting.accept(request)

    async def ReportExternalTask(
        self, request: pb.ReportExternalTaskRequest, context: Context
    ) -> pb.ReportExternalTaskResponse:
        """Keeps the progress of an attempt."""
        return await self._reporting.report(request)

    async def HeartbeatExternalTasks(
        self, request: pb.HeartbeatExternalTasksRequest, context: Context
    ) -> pb.HeartbeatExternalTasksResponse:
        """Hears that attempts are alive."""
        if len(request.heartbeats) > HEARTBEATS_MAX:
            why = f"are {len(request.heartbeats)}, more than {HEARTBEATS_MAX}"
            raise FieldInvalid(Violation("heartbeats", why))
        answers = await self._reporting.hear(request.heartbeats)
        return pb.HeartbeatExternalTasksResponse(answers=answers)

    async def EndExternalTask(
        self, request: pb.EndExternalTaskRequest, context: Context
    ) -> pb.EndExternalTaskResponse:
        """Ends an attempt."""
        return await self._reporting.end(request)


def _check_owner(owner_id: str) -> None:
    if not is_vendor_id(owner_id):
        raise FieldInvalid(Violation("owner_id", VENDOR_RULE))


def _own_spec(request: pb.StartExternalWorkflowRequest) -> WorkflowSpec:
    """Returns the spec of a vendor's own workflow: an open group with one task for the whole."""
    main = Node.ExternalTask(
        owner_id=request.owner_id,
        kind=request.kind,
        description=request.description,
        effect=EFFECT_READ_ONLY,
    )
    if request.HasField("heartbeat_timeout"):
        main.heartbeat_timeout.CopyFrom(request.heartbeat_timeout)
    policy = Policy(on_failure=Policy.ON_FAILURE_STOP)
    policy.MergeFrom(request.policy)
    root = Group(kind=Group.KIND_PARALLEL, open=True, members=[Node(name=MAIN, external_task=main)])
    return WorkflowSpec(kind=request.kind, root=root, policy=policy)


_WHERE = ("spec.root.members[0].external_task.", "spec.")


def _of_request(violation: Violation) -> Violation:
    """Returns what is wrong with the spec that we made as what is wrong with the request."""
    for prefix in _WHERE:
        if violation.field.startswith(prefix):
            return Violation(violation.field.removeprefix(prefix), violation.description)
    return violation


def _failure_of(request: pb.EndExternalWorkflowRequest) -> Failure | None:
    """Returns why a workflow did not succeed; None if it did."""
    if request.HasField("failure"):
        if request.succeeded:
            raise FieldInvalid(Violation("failure", "is for one that has not succeeded"))
        return failure_of(request.failure, "")
    if request.succeeded:
        return None
    return Failure(reason="ENDED", message="Its owner ended it as failed.")
