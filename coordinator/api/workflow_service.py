"""WorkflowService: what an engine and operators call.

Handlers check, ask the loop, and show; they decide nothing. Errors are raised, never returned.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import timedelta

from google.protobuf.struct_pb2 import Struct

from coordinator.api import requests
from coordinator.api.follow import Follower
from coordinator.api.requests import Context
from coordinator.runtime.loop import Loop, OverloadedError, Start
from coordinator.runtime.ports import (
    Clock,
    Hosts,
    HostState,
    HostView,
    Request,
    Store,
    StoreConflictError,
    Stored,
    Submission,
    WorkflowQuery,
)
from coordinator.runtime.watch import Watches
from coordinator.saga.advance import Decision, Refusal
from coordinator.saga.events import CancelRequested
from coordinator.saga.spec import Plan
from coordinator.saga.states import WorkflowState
from coordinator.saga.workflow import About, Workflow, fresh_nodes
from coordinator.wire import view
from coordinator.wire.failure import failure_from_proto
from coordinator.wire.history import WORKFLOW_STATES
from coordinator.wire.locks import lock_to_proto
from coordinator.wire.spec import check_spec, plan_of
from coordinator.wire.values import values_of_struct
from countermand.rpc.errors import (
    Busy,
    CallUnsupported,
    Cancelled,
    Conflict,
    CountermandError,
    FieldInvalid,
    RequestIdReused,
    StateForbids,
    TaskNotFound,
    Violation,
    WorkflowIdTaken,
    WorkflowNotFound,
)
from countermand.rpc.interceptors import trace_context
from countermand.rpc.names import ID_RULE, is_id, task_name, workflow_name
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2_grpc import WorkflowServiceServicer

# Until callers have identities: whoever reaches the loopback address.
PRINCIPAL = "local"

RETRY_DELAY = timedelta(seconds=1)  # an overloaded loop catches up within it

NEEDS_ATTENTION = frozenset(
    {WorkflowState.PAUSED, WorkflowState.BLOCKED, WorkflowState.QUARANTINED}
)

_STATES = {number: state for state, number in WORKFLOW_STATES.items()}


_AT_WORK = frozenset(
    {
        Task.STATE_STARTING,
        Task.STATE_RUNNING,
        Task.STATE_UNKNOWN,
        Task.STATE_CANCELLING,
        Task.STATE_COMPENSATING,
        Task.STATE_COMPENSATION_BLOCKED,
    }
)


class WorkflowService(WorkflowServiceServicer):
    """Serves workflows."""

    def __init__(
        self, *, loop: Loop, store: Store, hosts: Hosts, watches: Watches[Progress], clock: Clock
    ) -> None:
        """Keeps what it asks."""
        self._loop = loop
        self._store = store
        self._hosts = hosts
        self._watches = watches
        self._clock = clock
        self._follower = Follower(loop=loop, store=store, watches=watches)

    # -- starting -------------------------------------------------------------------------------

    async def StartWorkflow(
        self, request: pb.StartWorkflowRequest, context: Context
    ) -> pb.StartWorkflowResponse:
        """Starts a workflow, or returns the one that the same request started."""
        self._check_start(request)
        hash_ = requests.hash_of(request.spec, request.input)
        if stored := await self._store.load(request.workflow_id):
            return pb.StartWorkflowResponse(workflow=self._started(stored, hash_))
        trace = trace_context(context)
        start = Start(
            about=About(
                kind=request.spec.kind,
                labels=tuple(sorted(request.labels.items())),
                principal=PRINCIPAL,
                traceparent=trace.traceparent if trace else "",
                tracestate=trace.tracestate if trace else "",
                input=values_of_struct(request.input),
            ),
            plan=plan_of(request.spec, request.input),
            submission=Submission(
                spec=request.spec.SerializeToString(deterministic=True),
                input=request.input.SerializeToString(deterministic=True),
                hash=hash_,
            ),
        )
        try:
            decision = await self._ask(request.workflow_id, start)
        except StoreConflictError:
            # Another call with this id was decided in between: it is the one to compare with.
            stored = await self._store.load(request.workflow_id)
            if stored is None:
                raise
            return pb.StartWorkflowResponse(workflow=self._started(stored, hash_))
        return pb.StartWorkflowResponse(workflow=self._basic(decision.workflow))

    def _check_start(self, request: pb.StartWorkflowRequest) -> None:
        found = []
        if not is_id(request.workflow_id):
            found.append(Violation("workflow_id", f"{request.workflow_id!r} {ID_RULE}"))
        found += requests.label_problems(dict(request.labels))
        try:
            check_spec(request.spec, request.input, self._hosts.placement_problem)
        except FieldInvalid as error:
            found += error.violations
        if found:
            raise FieldInvalid(*found)

    def _started(self, stored: Stored, hash_: bytes) -> pb.Workflow:
        if stored.submission.hash != hash_:
            raise WorkflowIdTaken(name=workflow_name(stored.workflow.id))
        return self._basic(self._loop.workflow(stored.workflow.id) or stored.workflow)

    async def PlanWorkflow(
        self, request: pb.PlanWorkflowRequest, context: Context
    ) -> pb.PlanWorkflowResponse:
        """Checks a spec and shows what it would become."""
        check_spec(request.spec, request.input, self._hosts.placement_problem)
        workflow = self._imagined(plan_of(request.spec, request.input), request.spec.kind)
        return pb.PlanWorkflowResponse(
            tasks=view.tasks_to_proto(workflow, {}),
            locks=map(lock_to_proto, workflow.plan.terms.locks),
        )

    def _imagined(self, plan: Plan, kind: str) -> Workflow:
        now = self._clock.now()
        return Workflow(
            id="plan",
            about=About(kind=kind),
            plan=plan,
            nodes=fresh_nodes(plan),
            owner_epoch=0,
            create_time=now,
            update_time=now,
        )

    # -- reading --------------------------------------------------------------------------------

    async def GetWorkflow(
        self, request: pb.GetWorkflowRequest, context: Context
    ) -> pb.GetWorkflowResponse:
        """Returns one workflow."""
        workflow_id = requests.workflow_id(request.name)
        if request.view != pb.WORKFLOW_VIEW_FULL:
            return pb.GetWorkflowResponse(workflow=self._basic(await self._find(workflow_id)))
        stored = await self._load(workflow_id)
        workflow = self._loop.workflow(workflow_id) or stored.workflow
        shown = self._basic(workflow)
        shown.spec.ParseFromString(stored.submission.spec)
        shown.input.CopyFrom(Struct.FromString(stored.submission.input))
        indices = range(1, min(len(workflow.plan.nodes), 1 + view.TASKS_MAX))
        shown.tasks.extend(self._tasks(workflow, indices))
        return pb.GetWorkflowResponse(workflow=shown)

    async def ListWorkflows(
        self, request: pb.ListWorkflowsRequest, context: Context
    ) -> pb.ListWorkflowsResponse:
        """Returns one page of workflows, newest first."""
        states = frozenset(_STATES[state] for state in request.states if state in _STATES)
        if len(states) < len(set(request.states)):
            raise FieldInvalid(Violation("states", "names a state that does not exist"))
        if request.needs_attention:
            states = (states & NEEDS_ATTENTION) if states else NEEDS_ATTENTION
            if not states:
                return pb.ListWorkflowsResponse()
        before = None
        if request.HasField("min_age"):
            age = requests.span(request.min_age, "min_age", requests.AGE_MAX)
            before = self._clock.now() - age
        query = WorkflowQuery(
            states=states,
            labels=tuple(sorted(request.labels.items())),
            host=request.host_id,
            kind=request.kind,
            created_before=before,
            limit=requests.page_size(request.page_size),
            after=request.page_token,
        )
        try:
            page = await self._store.query(query)
        except ValueError as error:
            raise FieldInvalid(Violation("page_token", "is not one that was handed out")) from error
        return pb.ListWorkflowsResponse(
            workflows=[self._basic(self._loop.workflow(w.id) or w) for w in page.workflows],
            next_page_token=page.next,
        )

    async def GetTask(self, request: pb.GetTaskRequest, context: Context) -> pb.GetTaskResponse:
        """Returns one task with its context."""
        workflow_id, task_id = requests.task_id(request.name)
        workflow = await self._find(workflow_id)
        index = workflow.plan.by_name.get(task_id, 0)
        if index == 0:  # the root is the workflow itself
            raise TaskNotFound(name=task_name(workflow_id, task_id))
        progress = self._watches.progress(workflow_id)
        full = workflow.plan.nodes[index].task is not None
        return pb.GetTaskResponse(task=view.task_to_proto(workflow, index, progress, full=full))

    async def ListTasks(
        self, request: pb.ListTasksRequest, context: Context
    ) -> pb.ListTasksResponse:
        """Returns one page of a workflow's groups and tasks, in the order of the tree."""
        workflow_id = requests.workflow_id(request.parent, "parent")
        workflow = await self._find(workflow_id)
        start = requests.number(request.page_token or "1", "page_token")
        limit = requests.page_size(request.page_size)
        wanted = set(request.states)
        tasks: list[Task] = []
        index = start
        while index < len(workflow.plan.nodes) and len(tasks) < limit:
            tasks += [t for t in self._tasks(workflow, (index,)) if not wanted or t.state in wanted]
            index += 1
        more = index < len(workflow.plan.nodes)
        return pb.ListTasksResponse(tasks=tasks, next_page_token=str(index) if more else "")

    async def ListEvents(
        self, request: pb.ListEventsRequest, context: Context
    ) -> pb.ListEventsResponse:
        """Returns one page of a workflow's history."""
        workflow_id = requests.workflow_id(request.parent, "parent")
        limit = requests.page_size(request.page_size)
        await self._find(workflow_id)
        page = await self._store.history(workflow_id, after=request.after_sequence, limit=limit + 1)
        events = [self._follower.event(stored) for stored in page[:limit]]
        return pb.ListEventsResponse(events=events, more=len(page) > limit)

    # -- following ------------------------------------------------------------------------------

    async def WatchWorkflow(
        self, request: pb.WatchWorkflowRequest, context: Context
    ) -> AsyncIterator[pb.WatchWorkflowResponse]:
        """Streams a workflow's history until it is settled."""
        workflow_id = requests.workflow_id(request.name)
        await self._find(workflow_id)
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
        states = NEEDS_ATTENTION if request.until_attention else frozenset()
        await self._follower.wait(workflow_id, states, timeout.total_seconds())
        workflow = await self._find(workflow_id)
        reached = workflow.settled or workflow.state in states
        return pb.WaitWorkflowResponse(workflow=self._basic(workflow), reached=reached)

    # -- deciding -------------------------------------------------------------------------------

    async def CancelWorkflow(
        self, request: pb.CancelWorkflowRequest, context: Context
    ) -> pb.CancelWorkflowResponse:
        """Stops a workflow and makes up for what it did."""
        workflow_id = requests.workflow_id(request.name)
        requests.demand(request, "request_id", "reason")
        remembered = Request(request_id=request.request_id, hash=requests.hash_of(request))
        if await self._is_repeat(remembered):
            return await self._cancelled(workflow_id)
        cause = Cancelled(principal=PRINCIPAL, why=request.reason)
        event = CancelRequested(
            failure=failure_from_proto(cause.failure()),
            version=self._version(request.etag),
            principal=PRINCIPAL,
            reason=request.reason,
            request_id=request.request_id,
        )
        try:
            decision = await self._ask(workflow_id, event, remembered)
        except KeyError:
            workflow = await self._find(workflow_id)  # it is settled, or there is none
            decision = Decision(
                workflow=workflow,
                refusal=Refusal(state=workflow.state, allowed=(WorkflowState.RUNNING,)),
            )
        except StoreConflictError:
            if await self._is_repeat(remembered):
                return await self._cancelled(workflow_id)
            raise
        if decision.refusal:
            if await self._is_repeat(remembered):  # of a request that was decided meanwhile
                return await self._cancelled(workflow_id)
            raise _refused(workflow_name(workflow_id), "cancel", decision.refusal)
        return pb.CancelWorkflowResponse(workflow=self._basic(decision.workflow))

    async def PauseWorkflow(
        self, request: pb.PauseWorkflowRequest, context: Context
    ) -> pb.PauseWorkflowResponse:
        """Is not served yet."""
        raise CallUnsupported(call="PauseWorkflow")

    async def ResumeWorkflow(
        self, request: pb.ResumeWorkflowRequest, context: Context
    ) -> pb.ResumeWorkflowResponse:
        """Is not served yet."""
        raise CallUnsupported(call="ResumeWorkflow")

    async def GetResumeRequirements(
        self, request: pb.GetResumeRequirementsRequest, context: Context
    ) -> pb.GetResumeRequirementsResponse:
        """Is not served yet."""
        raise CallUnsupported(call="GetResumeRequirements")

    async def DecideCompensation(
        self, request: pb.DecideCompensationRequest, context: Context
    ) -> pb.DecideCompensationResponse:
        """Is not served yet."""
        raise CallUnsupported(call="DecideCompensation")

    async def ForkWorkflow(
        self, request: pb.ForkWorkflowRequest, context: Context
    ) -> pb.ForkWorkflowResponse:
        """Is not served yet."""
        raise CallUnsupported(call="ForkWorkflow")

    # -- helpers --------------------------------------------------------------------------------

    async def _ask(
        self, workflow_id: str, what: Start | CancelRequested, request: Request | None = None
    ) -> Decision:
        try:
            return await self._loop.ask(workflow_id, what, request)
        except OverloadedError as error:
            raise Busy(retry_delay=RETRY_DELAY) from error

    async def _cancelled(self, workflow_id: str) -> pb.CancelWorkflowResponse:
        """Answers a repeated cancel; the store may know of the first before the loop says so."""
        stored = (await self._load(workflow_id)).workflow
        known = self._loop.workflow(workflow_id)
        newest = known if known and known.version > stored.version else stored
        return pb.CancelWorkflowResponse(workflow=self._basic(newest))

    async def _is_repeat(self, request: Request) -> bool:
        """Returns whether a request was answered before; raises when its id was for another."""
        found = await self._store.request(request.request_id)
        if found is None:
            return False
        if found[0].hash != request.hash:
            raise RequestIdReused(request_id=request.request_id)
        return True

    async def _find(self, workflow_id: str) -> Workflow:
        if known := self._loop.workflow(workflow_id) or self._loop.settled(workflow_id):
            return known
        return (await self._load(workflow_id)).workflow

    async def _load(self, workflow_id: str) -> Stored:
        stored = await self._store.load(workflow_id)
        if stored is None:
            raise WorkflowNotFound(name=workflow_name(workflow_id))
        return stored

    def _tasks(self, workflow: Workflow, indices: Iterable[int]) -> Iterator[Task]:
        """Yields tasks as they are shown; of a silent host no progress is pretended."""
        progress = self._watches.progress(workflow.id)
        hosts = self._hosts.all()
        for index in indices:
            task = view.task_to_proto(workflow, index, progress)
            host = hosts.get(task.host_id)
            if task.state in _AT_WORK and host is not None and host.state is not HostState.READY:
                task.progress.rate = 0
                task.waits_for = _silence(host)
            yield task

    def _basic(self, workflow: Workflow) -> pb.Workflow:
        return view.workflow_to_proto(workflow, self._watches.progress(workflow.id))

    def _version(self, etag: str) -> int:
        return requests.number(etag, "etag") if etag else 0


def _silence(host: HostView) -> str:
    """Returns what a task on a host that does not answer waits for."""
    if host.state is HostState.QUARANTINED:
        why = host.problem.message if host.problem else "somebody has to look"
        return f"{host.record.id} is quarantined: {why}"
    return f"{host.record.id} has not answered for {host.silent_s:.0f} s"


def _refused(name: str, verb: str, refusal: Refusal) -> CountermandError:
    if refusal.outdated:
        return Conflict(name=name)
    allowed = refusal.because or ", ".join(refusal.allowed)
    return StateForbids(name=name, state=refusal.state, verb=verb, allowed=allowed)
