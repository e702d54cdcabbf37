"""Asks for what a bundle is made of, page by page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from countermand.client.calls import Calls
from countermand.rpc.channel import READ_TIMEOUT_S
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import (
    GetTaskRequest,
    GetWorkflowRequest,
    ListEventsRequest,
    ListTasksRequest,
    Workflow,
    WorkflowView,
)

PAGE = 250  # tasks or events that are held at once


@dataclass(frozen=True, slots=True)
class Asked:
    """One workflow, by its name."""

    calls: Calls
    name: str

    async def workflow(self) -> Workflow:
        """Returns it, FULL view."""
        request = GetWorkflowRequest(name=self.name, view=WorkflowView.WORKFLOW_VIEW_FULL)
        method = self.calls.workflows.GetWorkflow
        return (await self.calls.unary(method, request, timeout_s=READ_TIMEOUT_S)).workflow

    async def tasks(self, token: str) -> tuple[Sequence[Task], str]:
        """Returns a page of its tasks, and the token of the next."""
        request = ListTasksRequest(parent=self.name, page_size=PAGE, page_token=token)
        method = self.calls.workflows.ListTasks
        page = await self.calls.unary(method, request, timeout_s=READ_TIMEOUT_S)
        return page.tasks, page.next_page_token

    async def task(self, task_id: str) -> Task:
        """Returns one task, FULL view."""
        request = GetTaskRequest(name=f"{self.name}/tasks/{task_id}")
        method = self.calls.workflows.GetTask
        return (await self.calls.unary(method, request, timeout_s=READ_TIMEOUT_S)).task

    async def events(self, after: int) -> Sequence[HistoryEvent]:
        """Returns the events that follow a sequence."""
        request = ListEventsRequest(parent=self.name, after_sequence=after, page_size=PAGE)
        method = self.calls.workflows.ListEvents
        return (await self.calls.unary(method, request, timeout_s=READ_TIMEOUT_S)).events
