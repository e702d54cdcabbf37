"""A coordinator that does what the test says: its services are real, its decisions are scripted."""

import asyncio
from collections.abc import Sequence
from functools import partial

from google.protobuf.timestamp_pb2 import Timestamp

from countermand.rpc.errors import (
    CallUnsupported,
    FieldInvalid,
    HostNotFound,
    StateForbids,
    TaskNotFound,
    Violation,
    WorkflowIdTaken,
    WorkflowNotFound,
)
from countermand.rpc.server import RunningServer, Service, serve
from countermand.v1 import host_pb2, host_pb2_grpc
from countermand.v1 import workflow_pb2 as pb
from countermand.v1 import workflow_pb2_grpc as pb_grpc
from countermand.v1.event_pb2 import HistoryEvent, WorkflowStateChanged
from countermand.v1.failure_pb2 import Failure
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_state_pb2 import WorkflowState

RUNNING = WorkflowState.WORKFLOW_STATE_RUNNING
SUCCEEDED = WorkflowState.WORKFLOW_STATE_SUCCEEDED
COMPENSATED = WorkflowState.WORKFLOW_STATE_COMPENSATED
SETTLED = {SUCCEEDED, COMPENSATED, WorkflowState.WORKFLOW_STATE_FAILED}
ATTENTION = {WorkflowState.WORKFLOW_STATE_PAUSED, WorkflowState.WORKFLOW_STATE_BLOCKED}


class Scripted(pb_grpc.WorkflowServiceServicer):
    """Keeps workflows in memory; the test moves them."""

    def __init__(self):
        self.workflows: dict[str, pb.Workflow] = {}
        self.requests = {}
        self.events: dict[str, list[HistoryEvent]] = {}
        self.tasks: dict[str, list[Task]] = {}
        self.progress = {}
        self.changed = asyncio.Condition()
        self.watches = 0
        self.lost: set[int] = set()  # sequences that the next watch leaves out
        self.hang_ups = 0  # watches that end at once, as if all were said
        self.resumed_after = []
        self.cancels = []  # the request ids of all that came, repeats too
        self.lost_answers = []  # the codes that callers get instead of the next answers

    # -- what the test does -----------------------------------------------------------------

    def add(self, workflow_id: str, *, tasks: Sequence[Task] = ()) -> pb.Workflow:
        name = f"workflows/{workflow_id}"
        workflow = pb.Workflow(name=name, kind="drill", state=RUNNING, etag="1")
        workflow.create_time.GetCurrentTime()
        self.workflows[name] = workflow
        self.events[name] = []
        self.tasks[name] = list(tasks)
        return workflow

    async def say(self, workflow: pb.Workflow, **event) -> None:
        """Appends one event."""
        events = self.events[workflow.name]
        time = Timestamp(seconds=1_800_000_000 + len(events))
        events.append(
            HistoryEvent(workflow=workflow.name, sequence=len(events) + 1, time=time, **event)
        )
        workflow.last_sequence = len(events)
        async with self.changed:
            self.changed.notify_all()

    async def move(self, workflow: pb.Workflow, state, *, cause: Failure | None = None) -> None:
        """Moves a workflow to a state, with its event."""
        changed = WorkflowStateChanged(before=workflow.state, after=state, cause=cause)
        workflow.state = state
        if cause is not None:
            workflow.cause.CopyFrom(cause)
        await self.say(workflow, workflow_state_changed=changed)

    # -- what callers get -------------------------------------------------------------------

    def _find(self, name: str) -> pb.Workflow:
        if name not in self.workflows:
            raise WorkflowNotFound(name=name)
        return self.workflows[name]

    async def StartWorkflow(self, request, context):
        if not request.spec.root.members:
            raise FieldInvalid(
                Violation(field="spec.root.members", description="needs at least one"),
                Violation(field="spec.kind", description="must match [a-z0-9]"),
            )
        name = f"workflows/{request.workflow_id}"
        if name in self.requests and self.requests[name] != request.spec:
            raise WorkflowIdTaken(name=name, why="exists with another spec or input")
        if name not in self.requests:
            self.requests[name] = request.spec
            self.add(request.workflow_id)
        return pb.StartWorkflowResponse(workflow=self.workflows[name])

    async def PlanWorkflow(self, request, context):
        return pb.PlanWorkflowResponse(
            tasks=[
                Task(name=f"workflows/plan/tasks/{node.name}", verb="noop", opposite="nothing")
                for node in request.spec.root.members
            ]
        )

    async def GetWorkflow(self, request, context):
        workflow = pb.Workflow()
        workflow.CopyFrom(self._find(request.name))
        if request.view == pb.WORKFLOW_VIEW_FULL:
            workflow.tasks.extend(self.tasks[request.name])
        return pb.GetWorkflowResponse(workflow=workflow)

    async def ListWorkflows(self, request, context):
        states = request.states or WorkflowState.values()
        newest = [one for one in reversed(self.workflows.values()) if one.state in states]
        start = int(request.page_token or 0)
        end = start + request.page_size
        token = str(end) if end < len(newest) else ""
        return pb.ListWorkflowsResponse(workflows=newest[start:end], next_page_token=token)

    async def ListTasks(self, request, context):
        """Pages by two, whatever is asked: pages must not show."""
        found = [
            task
            for task in self.tasks[self._find(request.parent).name]
            if not request.states or task.state in request.states
        ]
        start = int(request.page_token or 0)
        token = str(start + 2) if start + 2 < len(found) else ""
        return pb.ListTasksResponse(tasks=found[start : start + 2], next_page_token=token)

    async def GetTask(self, request, context):
        for task in self.tasks[request.name.partition("/tasks/")[0]]:
            if task.name == request.name:
                return pb.GetTaskResponse(task=task)
        raise TaskNotFound(name=request.name)

    async def ListEvents(self, request, context):
        rest = self.events[self._find(request.parent).name][request.after_sequence :]
        return pb.ListEventsResponse(events=rest[:2], more=len(rest) > 2)

    async def WatchWorkflow(self, request, context):
        self.watches += 1
        self.resumed_after.append(request.after_sequence)
        workflow = self._find(request.name)
        sent = request.after_sequence
        lost, self.lost = self.lost, set()
        if self.hang_ups:
            self.hang_ups -= 1
            return
        while True:
            for event in self.events[request.name][sent:]:
                if event.sequence in lost:
                    continue
                yield pb.WatchWorkflowResponse(event=event)
                sent = event.sequence
            if request.name in self.progress and not request.events_only:
                yield pb.WatchWorkflowResponse(progress=self.progress.pop(request.name))
            yield pb.WatchWorkflowResponse(bookmark=sent)
            if workflow.state in SETTLED and sent == workflow.last_sequence:
                return
            async with self.changed:
                while workflow.last_sequence == sent:
                    await self.changed.wait()

    async def WaitWorkflow(self, request, context):
        workflow = self._find(request.name)
        ends = SETTLED | (ATTENTION if request.until_attention else set())
        try:
            async with asyncio.timeout(request.wait_timeout.ToTimedelta().total_seconds()):
                async with self.changed:
                    await self.changed.wait_for(lambda: workflow.state in ends)
        except TimeoutError:
            return pb.WaitWorkflowResponse(workflow=workflow, reached=False)
        return pb.WaitWorkflowResponse(workflow=workflow, reached=True)

    async def CancelWorkflow(self, request, context):
        workflow = self._find(request.name)
        repeated = request.request_id in self.cancels
        self.cancels.append(request.request_id)
        if repeated:
            return pb.CancelWorkflowResponse(workflow=workflow)
        if workflow.state in SETTLED:
            state = WorkflowState.Name(workflow.state)
            raise StateForbids(
                name=request.name, state=state, verb="CancelWorkflow", allowed="RUNNING"
            )
        await self.move(
            workflow,
            WorkflowState.WORKFLOW_STATE_COMPENSATING,
            cause=Failure(reason="CANCELLED", message=f"Cancelled: {request.reason}."),
        )
        if self.lost_answers:
            await context.abort(self.lost_answers.pop(0), "the answer was lost")
        return pb.CancelWorkflowResponse(workflow=workflow)

    async def PauseWorkflow(self, request, context):
        raise CallUnsupported(call="PauseWorkflow")


class ScriptedHosts(host_pb2_grpc.HostServiceServicer):
    """Keeps hosts in memory."""

    def __init__(self):
        self.hosts = {}

    async def AddHost(self, request, context):
        host = host_pb2.Host(
            name=f"hosts/{request.host_id}",
            address=request.address,
            state=host_pb2.Host.STATE_READY,
        )
        self.hosts[host.name] = host
        return host_pb2.AddHostResponse(host=host)

    async def GetHost(self, request, context):
        if request.name not in self.hosts:
            raise HostNotFound(name=request.name)
        return host_pb2.HostServiceGetHostResponse(host=self.hosts[request.name])

    async def ListHosts(self, request, context):
        return host_pb2.ListHostsResponse(hosts=[self.hosts[name] for name in sorted(self.hosts)])

    async def DrainHost(self, request, context):
        host = self.hosts[request.name]
        draining = host_pb2.Host.STATE_DRAINING
        host.state = host_pb2.Host.STATE_READY if request.undrain else draining
        blocking = [] if request.undrain else ["workflows/w/tasks/t"]
        return host_pb2.DrainHostResponse(host=host, blocking_tasks=blocking)

    async def AcceptHost(self, request, context):
        host = self.hosts[request.name]
        host.state = host_pb2.Host.STATE_READY
        host.ClearField("problem")
        return host_pb2.AcceptHostResponse(host=host)

    async def RemoveHost(self, request, context):
        del self.hosts[request.name]
        return host_pb2.RemoveHostResponse()

    async def ListHostEvents(self, request, context):
        kinds = (host_pb2.HostEvent.KIND_REMOVED, host_pb2.HostEvent.KIND_ADDED)
        event = partial(host_pb2.HostEvent, host="hosts/host-z", principal="local", reason="sold")
        return host_pb2.ListHostEventsResponse(events=[event(kind=kind) for kind in kinds])


async def start(
    scripted: Scripted,
    hosts: ScriptedHosts | None = None,
    *,
    listen: str = "127.0.0.1:0",
    more: Sequence[Service] = (),
) -> RunningServer:
    """Serves both services on loopback, and further ones."""
    return await serve(
        listen=listen,
        services=[
            Service(
                pb.DESCRIPTOR.services_by_name["WorkflowService"].full_name,
                pb_grpc.add_WorkflowServiceServicer_to_server,
                scripted,
            ),
            Service(
                host_pb2.DESCRIPTOR.services_by_name["HostService"].full_name,
                host_pb2_grpc.add_HostServiceServicer_to_server,
                hosts or ScriptedHosts(),
            ),
            *more,
        ],
    )
