"""Asks the coordinator as any client does: over gRPC, through every check that others pass.

The page shows nothing that the contract does not say; the same page could stand before another
coordinator. What a call raises is an error of the table, which `errors.py` shows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol, Self, TypeVar

from grpc.aio import AioRpcError, UnaryUnaryMultiCallable

from countermand.rpc.channel import READ_TIMEOUT_S, open_channel
from countermand.rpc.names import host_name, task_name, workflow_name
from countermand.rpc.status import error_from_rpc
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.coordinator_pb2 import Coordinator, ListCoordinatorsRequest, Recovery
from countermand.v1.coordinator_pb2_grpc import CoordinatorServiceStub
from countermand.v1.doctor_pb2_grpc import DoctorServiceStub
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.external_task_pb2_grpc import ExternalTaskServiceStub
from countermand.v1.host_pb2 import (
    Host,
    HostServiceGetHostRequest,
    ListHostEventsRequest,
    ListHostEventsResponse,
    ListHostsRequest,
)
from countermand.v1.host_pb2_grpc import HostServiceStub
from countermand.v1.task_pb2 import Task
from countermand.v1.webhook_pb2 import ListWebhooksRequest, Webhook
from countermand.v1.webhook_pb2_grpc import WebhookServiceStub
from countermand.v1.workflow_pb2_grpc import WorkflowServiceStub

# As many as the API gives at once: hosts of one site, and the events of a workflow in pieces.
PAGE_MAX = 1000
OWN_KEPT_MAX = 32  # large workflows that are looked at; what is kept of each is a few events

Request_contra = TypeVar("Request_contra", contravariant=True)
Answer_co = TypeVar("Answer_co", covariant=True)
Request = TypeVar("Request")
Answer = TypeVar("Answer")


class Method(Protocol[Request_contra, Answer_co]):
    """A unary call of a generated stub."""

    def __call__(
        self, request: Request_contra, *, timeout: float | None = None
    ) -> Awaitable[Answer_co]:
        """Sends the request."""
        ...


class Calls:
    """One channel to one coordinator, and the questions that pages ask."""

    def __init__(self, address: str) -> None:
        """Opens the channel, which connects at the first call."""
        self._channel = open_channel(address)
        self.workflows = WorkflowServiceStub(self._channel)
        self.hosts = HostServiceStub(self._channel)
        self.doctor = DoctorServiceStub(self._channel)
        self.webhooks = WebhookServiceStub(self._channel)
        self.coordinators = CoordinatorServiceStub(self._channel)
        self.external_tasks = ExternalTaskServiceStub(self._channel)
        # Of large workflows: up to which sequence it is known, and what it is.
        self._own: dict[str, tuple[int, Sequence[HistoryEvent]]] = {}

    async def __aenter__(self) -> Self:
        """Returns itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes the channel."""
        await self._channel.close(None)

    async def unary(
        self,
        method: Method[Request, Answer],
        request: Request,
        *,
        timeout_s: float = READ_TIMEOUT_S,
    ) -> Answer:
        """Returns the answer, or raises an error of the table."""
        try:
            return await method(request, timeout=timeout_s)
        except AioRpcError as raised:
            raise error_from_rpc(raised) from None

    def raw(self, path: str) -> UnaryUnaryMultiCallable[bytes, bytes]:
        """Returns a unary call of the contract, by its path, that is sent as it is."""
        return self._channel.unary_unary(path)

    # -- workflows ------------------------------------------------------------------------------

    async def list_workflows(self, request: pb.ListWorkflowsRequest) -> pb.ListWorkflowsResponse:
        """Returns a page of workflows."""
        return await self.unary(self.workflows.ListWorkflows, request)

    async def workflow(self, workflow_id: str, *, full: bool = False) -> pb.Workflow:
        """Returns one workflow."""
        view = pb.WORKFLOW_VIEW_FULL if full else pb.WORKFLOW_VIEW_BASIC
        request = pb.GetWorkflowRequest(name=workflow_name(workflow_id), view=view)
        return (await self.unary(self.workflows.GetWorkflow, request)).workflow

    async def tasks(
        self,
        workflow_id: str,
        *,
        states: Sequence[Task.State.ValueType] = (),
        size: int = PAGE_MAX,
        token: str = "",
        full: bool = False,
    ) -> pb.ListTasksResponse:
        """Returns a page of a workflow's tasks in the order of its tree."""
        request = pb.ListTasksRequest(
            parent=workflow_name(workflow_id),
            states=states,
            page_size=size,
            page_token=token,
            view=pb.TASK_VIEW_FULL if full else pb.TASK_VIEW_BASIC,
        )
        return await self.unary(self.workflows.ListTasks, request)

    async def task(self, workflow_id: str, task_id: str) -> Task:
        """Returns one task with its context."""
        request = pb.GetTaskRequest(name=task_name(workflow_id, task_id))
        return (await self.unary(self.workflows.GetTask, request)).task

    async def events(
        self, workflow_id: str, *, after: int = 0, size: int = PAGE_MAX, own: bool = False
    ) -> pb.ListEventsResponse:
        """Returns a page of a workflow's history; its own alone are those that name no task."""
        request = pb.ListEventsRequest(
            parent=workflow_name(workflow_id),
            after_sequence=after,
            page_size=size,
            without_tasks=own,
        )
        return await self.unary(self.workflows.ListEvents, request)

    async def history(self, workflow_id: str) -> list[HistoryEvent]:
        """Returns a workflow's whole history: only where it is known to be short."""
        found: list[HistoryEvent] = []
        while True:
            page = await self.events(workflow_id, after=found[-1].sequence if found else 0)
            found += page.events
            if not page.more:
                return found

    async def own_history(self, workflow_id: str, last: int) -> Sequence[HistoryEvent]:
        """Returns all that the history says of a workflow itself, without its tasks.

        To find it, the coordinator reads the whole history. What it has found is remembered, and
        only what came since is asked for.
        """
        until, found = self._own.pop(workflow_id, (0, ()))
        while until < last:
            page = await self.events(workflow_id, after=until, own=True)
            found = (*found, *page.events)
            until = found[-1].sequence if page.more else last
        self._own[workflow_id] = until, found
        if len(self._own) > OWN_KEPT_MAX:
            del self._own[next(iter(self._own))]
        return found

    # -- hosts and webhooks ---------------------------------------------------------------------

    async def list_hosts(self) -> Sequence[Host]:
        """Returns the hosts; of more than a site has, the first."""
        request = ListHostsRequest(page_size=PAGE_MAX)
        return (await self.unary(self.hosts.ListHosts, request)).hosts

    async def host(self, host_id: str) -> Host:
        """Returns one host, with what blocks its drain."""
        request = HostServiceGetHostRequest(name=host_name(host_id))
        return (await self.unary(self.hosts.GetHost, request)).host

    async def host_events(
        self, host_id: str = "", *, size: int = 50, token: str = ""
    ) -> ListHostEventsResponse:
        """Returns a page of the audit of hosts, the last first."""
        name = host_name(host_id) if host_id else ""
        request = ListHostEventsRequest(name=name, page_size=size, page_token=token)
        return await self.unary(self.hosts.ListHostEvents, request)

    async def list_coordinators(self) -> Sequence[Coordinator]:
        """Returns the coordinators; of more than a site has, the first."""
        request = ListCoordinatorsRequest(page_size=PAGE_MAX)
        return (await self.unary(self.coordinators.ListCoordinators, request)).coordinators

    async def recovery(self, *, timeout_s: float) -> Recovery | None:
        """Returns why nothing is decided until somebody has looked; None if all is well."""
        request = ListCoordinatorsRequest(page_size=1)
        method = self.coordinators.ListCoordinators
        answer = await self.unary(method, request, timeout_s=timeout_s)
        return answer.recovery if answer.HasField("recovery") else None

    async def list_webhooks(self) -> Sequence[Webhook]:
        """Returns the webhooks."""
        request = ListWebhooksRequest(page_size=PAGE_MAX)
        return (await self.unary(self.webhooks.ListWebhooks, request)).webhooks
