"""WorkflowService: what an engine and operators call.

Handlers check, ask the loop, and show; they decide nothing. Errors are raised, never returned.

    shown       workflows found and shown      starting   starts, forks and plans
    deciding    what all verbs have in common  resume     its decisions and requirements
    follow      watches and waits              patches    values that an operator gives
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import timedelta
from itertools import islice
from typing import TypeAlias

from coordinator.api import fences, requests, resume, unrecorded
from coordinator.api.deciding import PRINCIPAL, Deciding, EventOf, Taken, Verb
from coordinator.api.follow import Follower, needs_somebody, never
from coordinator.api.requests import Context
from coordinator.api.shown import Showing
from coordinator.api.starting import New, Starting
from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import Clock, Hosts, Store
from coordinator.runtime.watch import Watches
from coordinator.saga.events import (
    Ask,
    CancelRequested,
    CompensationDecided,
    CompensationVerb,
    FenceRequested,
    PauseRequested,
    ResumeRequested,
)
from coordinator.saga.workflow import Workflow
from coordinator.traces.sampling import ALL, Sampler
from coordinator.wire.failure import failure_from_proto
from countermand.rpc.errors import Cancelled, FieldInvalid, Violation
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.workflow_pb2_grpc import WorkflowServiceServicer

# Of a page of tasks with their attempts: gRPC's bound is four times as much, and one task may be
# as long as all the others.
FULL_BYTES_MAX = 1024 * 1024

# Requests that may be imagined only.
_Imaginable: TypeAlias = (
    pb.CancelWorkflowRequest | pb.PauseWorkflowRequest | pb.ResumeWorkflowRequest
)
_Take: TypeAlias = Callable[[str, str, Verb, EventOf], Awaitable[Taken]]

_COMPENSATION_VERBS = {
    "retry_now": CompensationVerb.RETRY,
    "replacement": CompensationVerb.REPLACE,
    "mark_done": CompensationVerb.MARK_DONE,
    "abandon": CompensationVerb.ABANDON,
}


class WorkflowService(WorkflowServiceServicer):
    """Serves workflows."""

    def __init__(
        self,
        *,
        loop: Loop,
        store: Store,
        hosts: Hosts,
        watches: Watches[Progress],
        clock: Clock,
        retention: timedelta | None = None,
        sampler: Sampler = ALL,
    ) -> None:
        """Keeps what it asks."""
        self._loop = loop
        self._store = store
        self._hosts = hosts
        self._clock = clock
        self._follower = Follower(loop=loop, store=store, watches=watches)
        self._showing = Showing(
            loop=loop, store=store, hosts=hosts, watches=watches, retention=retention
        )
        self._deciding = Deciding(loop=loop, store=store, showing=self._showing, clock=clock)
        self._starting = Starting(
            store=store,
            hosts=hosts,
            clock=clock,
            showing=self._showing,
            deciding=self._deciding,
            sampler=sampler,
        )

    # -- starting -------------------------------------------------------------------------------

    async def StartWorkflow(
        self, request: pb.StartWorkflowRequest, context: Context
    ) -> pb.StartWorkflowResponse:
        """Starts a workflow, or returns the one that the same request started."""
        new = New(
            id=request.workflow_id,
            spec=request.spec,
            input=request.input,
            labels=dict(request.labels),
        )
        workflow = await self._starting.start(new, context)
        return pb.StartWorkflowResponse(workflow=self._showing.basic(workflow))

    async def ForkWorkflow(
        self, request: pb.ForkWorkflowRequest, context: Context
    ) -> pb.ForkWorkflowResponse:
        """Starts a new workflow from the spec of another."""
        new = await self._starting.fork(request)
        workflow = await self._starting.start(new, context)
        return pb.ForkWorkflowResponse(workflow=self._showing.basic(workflow))

    async def PlanWorkflow(
        self, request: pb.PlanWorkflowRequest, context: Context
    ) -> pb.PlanWorkflowResponse:
        """Checks a spec and shows what it would become."""
        return await self._starting.plan(request)

    # -- reading --------------------------------------------------------------------------------

    async def GetWorkflow(
        self, request: pb.GetWorkflowRequest, context: Context
    ) -> pb.GetWorkflowResponse:
        """Returns one workflow."""
        workflow_id = requests.workflow_id(request.name)
        if request.view == pb.WORKFLOW_VIEW_FULL:
            return pb.GetWorkflowResponse(workflow=await self._showing.full(workflow_id))
        found = await self._showing.find(workflow_id)
        return pb.GetWorkflowResponse(workflow=self._showing.basic(found))

    async def ListWorkflows(
        self, request: pb.ListWorkflowsRequest, context: Context
    ) -> pb.ListWorkflowsResponse:
        """Returns one page of workflows, newest first."""
        query = requests.query(request, self._clock.now())
        try:
            page = await self._store.query(query, self._showing.has_in_memory)
        except ValueError as error:
            raise FieldInvalid(Violation("page_token", "is not one that was handed out")) from error
        return pb.ListWorkflowsResponse(
            workflows=map(self._showing.listed, page.workflows), next_page_token=page.next
        )

    async def GetTask(self, request: pb.GetTaskRequest, context: Context) -> pb.GetTaskResponse:
        """Returns one task with its context."""
        workflow_id, task_id = requests.task_id(request.name)
        workflow = await self._showing.find(workflow_id)
        index = self._showing.index_of(workflow, task_id)
        return pb.GetTaskResponse(task=self._showing.task(workflow, index))

    async def ListTasks(
        self, request: pb.ListTasksRequest, context: Context
    ) -> pb.ListTasksResponse:
        """Returns one page of a workflow's groups and tasks, in the order of the tree."""
        workflow_id = requests.workflow_id(request.parent, "parent")
        workflow = await self._showing.find(workflow_id)
        start = requests.number(request.page_token or "1", "page_token")
        limit = requests.page_size(request.page_size)
        found = self._showing.places(workflow, frozenset(request.states), start)
        page = list(islice(found, limit + 1))
        indices = [index for _, index in page[:limit]]
        full = request.view == pb.TASK_VIEW_FULL
        answer = pb.ListTasksResponse()
        async with aclosing(self._showing.tasks(workflow, indices, full=full)) as shown:
            async for task in shown:
                answer.tasks.append(task)
                if full and answer.ByteSize() > FULL_BYTES_MAX:
                    break  # a task may have been tried a thousand times
        if len(answer.tasks) < len(page):
            answer.next_page_token = str(page[len(answer.tasks)][0])
        return answer

    async def ListEvents(
        self, request: pb.ListEventsRequest, context: Context
    ) -> pb.ListEventsResponse:
        """Returns one page of a workflow's history."""
        workflow_id = requests.workflow_id(request.parent, "parent")
        limit = requests.page_size(request.page_size)
        await self._showing.find(workflow_id)
        read = self._store.own_history if request.without_tasks else self._store.history
        page = await read(workflow_id, after=request.after_sequence, limit=limit + 1)
        events = [self._follower.event(stored) for stored in page[:limit]]
        return pb.ListEventsResponse(events=events, more=len(page) > limit)

    async def GetResumeRequirements(
        self, request: pb.GetResumeRequirementsRequest, context: Context
    ) -> pb.GetResumeRequirementsResponse:
        """Returns what a resume would need now."""
        workflow = await self._showing.find(requests.workflow_id(request.name))
        return resume.requirements_to_proto(workflow)

    async def unrecorded(self, request: unrecorded.Asked, context: Context) -> unrecorded.Asked:
        """Returns what only this coordinator knows of own workflows, for other coordinators."""
        return await unrecorded.told(self._loop, self._showing, request)

    # -- following ------------------------------------------------------------------------------

    async def WatchWorkflow(
        self, request: pb.WatchWorkflowRequest, context: Context
    ) -> AsyncIterator[pb.WatchWorkflowResponse]:
        """Streams a workflow's history until it is settled."""
        workflow_id = requests.workflow_id(request.name)
        await self._showing.find(workflow_id)
        async for update in self._follower.workflow(
            workflow_id, after=request.after_sequence, progress=not request.events_only
        ):
            yield update

    async def WatchEvents(
        self, request: pb.WatchEventsRequest, context: Context
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        """Streams the history of all workflows."""
        after = request.after_position if request.HasField("after_position") else None
        async for update in self._follower.everything(after=after):
            yield update

    async def WaitWorkflow(
        self, request: pb.WaitWorkflowRequest, context: Context
    ) -> pb.WaitWorkflowResponse:
        """Returns a workflow once it is settled, or the wait is over."""
        workflow_id = requests.workflow_id(request.name)
        timeout = requests.WAIT_MAX
        if request.HasField("wait_timeout"):
            timeout = requests.span(request.wait_timeout, "wait_timeout", timeout)
        wanted = needs_somebody if request.until_attention else never
        await self._follower.wait(workflow_id, wanted, timeout.total_seconds())
        workflow = await self._showing.find(workflow_id)
        reached = workflow.settled or wanted(workflow)
        return pb.WaitWorkflowResponse(workflow=self._showing.basic(workflow), reached=reached)

    # -- deciding -------------------------------------------------------------------------------

    def _take(self, request: _Imaginable, *demanded: str) -> _Take:
        """Returns how a request is taken; one that is only imagined demands nothing."""
        if request.validate_only:
            requests.optional_text(request, "reason")
            return self._deciding.imagine
        requests.demand(request, *demanded)
        return self._deciding.decide

    async def CancelWorkflow(
        self, request: pb.CancelWorkflowRequest, context: Context
    ) -> pb.CancelWorkflowResponse:
        """Stops a workflow and makes up for what it did."""
        workflow_id = requests.workflow_id(request.name)
        take = self._take(request, "request_id", "reason")
        cause = Cancelled(principal=PRINCIPAL, why=request.reason)

        def event(_: Workflow, ask: Ask) -> CancelRequested:
            return CancelRequested(ask=ask, failure=failure_from_proto(cause.failure()))

        taken = await take(workflow_id, "cancel", request, event)
        return pb.CancelWorkflowResponse(workflow=self._showing.basic(taken.workflow))

    async def PauseWorkflow(
        self, request: pb.PauseWorkflowRequest, context: Context
    ) -> pb.PauseWorkflowResponse:
        """Starts nothing new; attempts in flight end by themselves."""
        workflow_id = requests.workflow_id(request.name)
        take = self._take(request, "request_id", "reason")

        def event(_: Workflow, ask: Ask) -> PauseRequested:
            return PauseRequested(ask=ask, hold_compensation=request.hold_compensation)

        taken = await take(workflow_id, "pause", request, event)
        return pb.PauseWorkflowResponse(workflow=self._showing.basic(taken.workflow))

    async def ResumeWorkflow(
        self, request: pb.ResumeWorkflowRequest, context: Context
    ) -> pb.ResumeWorkflowResponse:
        """Goes on after a pause, with one decision per task that needs one; all or nothing."""
        workflow_id = requests.workflow_id(request.name)
        take = self._take(request, "request_id", *(("reason",) if request.decisions else ()))
        requests.optional_text(request, "reason")

        def event(workflow: Workflow, ask: Ask) -> ResumeRequested:
            return resume.event_of(workflow, ask, request, self._hosts)

        taken = await take(workflow_id, "resume", request, event)
        changes: list[pb.ChangedValue] = []
        if taken.before is not None and isinstance(taken.event, ResumeRequested):
            changes += resume.changes_to_proto(taken.before, taken.event)
        shown = self._showing.basic(taken.workflow)
        return pb.ResumeWorkflowResponse(workflow=shown, changes=changes)

    async def DecideCompensation(
        self, request: pb.DecideCompensationRequest, context: Context
    ) -> pb.DecideCompensationResponse:
        """Decides about one compensation that fails."""
        workflow_id, task_id = requests.task_id(request.task, "task")
        requests.demand(request, "request_id", "reason")
        kind = request.WhichOneof("decision")
        if kind is None:
            said = "is required: retry_now, replacement, mark_done or abandon"
            raise FieldInvalid(Violation("decision", said))
        verb = _COMPENSATION_VERBS[kind]

        def event(workflow: Workflow, ask: Ask) -> CompensationDecided:
            index = self._showing.index_of(workflow, task_id)
            return resume.compensation_event(
                workflow, index, ask, verb, request.replacement, hosts=self._hosts
            )

        taken = await self._deciding.decide(workflow_id, verb, request, event)
        return pb.DecideCompensationResponse(workflow=self._showing.basic(taken.workflow))

    async def FenceTask(
        self, request: pb.FenceTaskRequest, context: Context
    ) -> pb.FenceTaskResponse:
        """Has another host settle the attempt of a task, on shared storage."""
        workflow_id, task_id = requests.task_id(request.task, "task")
        requests.demand(request, "request_id", "reason")

        def event(workflow: Workflow, ask: Ask) -> FenceRequested:
            index = self._showing.index_of(workflow, task_id)
            host = fences.fencer(workflow, index, request.host_id, self._hosts)
            return FenceRequested(ask=ask, task=index, host=host)

        taken = await self._deciding.decide(workflow_id, "fence", request, event)
        return pb.FenceTaskResponse(workflow=self._showing.basic(taken.workflow))
