"""Calls as an engine makes them, without our client: stubs, requests, and what an error says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from grpc.aio import AioRpcError, Channel

from countermand.client.spec import parallel, sequence, workflow_spec
from countermand.rpc.names import workflow_name
from countermand.rpc.status import error_from_rpc
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.host_pb2_grpc import HostServiceStub
from countermand.v1.workflow_pb2_grpc import WorkflowServiceStub
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.endtoend.cluster import TEMPLATES, Cluster, copy, until

BASE = f"{TEMPLATES}/base"


class Stubs:
    """The services of one coordinator."""

    def __init__(self, channel: Channel) -> None:
        self.workflows = WorkflowServiceStub(channel)
        self.hosts = HostServiceStub(channel)

    async def start(self, workflow_id: str, spec: WorkflowSpec, **fields) -> pb.Workflow:
        request = pb.StartWorkflowRequest(workflow_id=workflow_id, spec=spec, **fields)
        return (await self.workflows.StartWorkflow(request)).workflow

    async def get(self, workflow_id: str) -> pb.Workflow:
        request = pb.GetWorkflowRequest(name=workflow_name(workflow_id))
        return (await self.workflows.GetWorkflow(request)).workflow

    async def wait(self, workflow_id: str) -> pb.Workflow:
        answer = await self.workflows.WaitWorkflow(
            pb.WaitWorkflowRequest(name=workflow_name(workflow_id))
        )
        assert answer.reached, answer
        return answer.workflow


@dataclass(frozen=True, slots=True)
class Refused:
    """What an error says to a program."""

    code: str
    reason: str
    fields: tuple[str, ...]
    metadata: dict[str, str]


async def refused(call: Awaitable[object]) -> Refused:
    """Returns the error of a call that must fail."""
    with pytest.raises(AioRpcError) as raised:
        await call
    error = error_from_rpc(raised.value)
    fields = tuple(violation.field for violation in getattr(error, "violations", ()))
    return Refused(error.code.name, error.reason, fields, error.metadata)


def state(workflow: pb.Workflow) -> str:
    """Returns the word for a workflow's state."""
    return WorkflowState.Name(workflow.state).removeprefix("WORKFLOW_STATE_")


def quick(workflow_id: str) -> WorkflowSpec:
    """Returns a plan that is soon done: two copies, and one of the first's copy."""
    then = copy("then", "a", "bound/bound", f"pool-a/{workflow_id}-then")
    then.task.action.copy_image.ClearField("source")
    for part in ("pool_id", "image_id"):
        then.task.bindings.add(field=f"source.{part}", source=f"tasks.one.output.image.{part}")
    return workflow_spec(
        "quick",
        sequence(
            "all",
            parallel(
                "both",
                copy("one", "a", BASE, f"pool-a/{workflow_id}-one"),
                copy("two", "b", BASE, f"pool-b/{workflow_id}-two"),
            ),
            then,
        ),
    )


def crawling(workflow_id: str, pool: str = "crawling") -> WorkflowSpec:
    """Returns a plan that is still at work when it is looked at: a copy, then a slow one."""
    return workflow_spec(
        "crawling",
        sequence(
            "all",
            copy("first", "a", BASE, f"pool-a/{workflow_id}-first"),
            copy("slow", "b", BASE, f"{pool}/{workflow_id}-slow"),
        ),
    )


def copies(cluster: Cluster, workflow_id: str, pool: str) -> bool:
    """Returns whether the slow copy of a workflow is at work."""
    return any((cluster.pool(pool) / "staging").glob(f"*@{workflow_id}@*/*/data.raw"))


@asynccontextmanager
async def at_work(
    cluster: Cluster, stubs: Stubs, workflow_id: str, pool: str = "crawling"
) -> AsyncIterator[None]:
    """Starts a slow workflow and yields while it works; cancels it unless that was done."""
    await stubs.start(workflow_id, crawling(workflow_id, pool))
    await until(lambda: copies(cluster, workflow_id, pool), "the slow copy")
    yield
    if state(await stubs.get(workflow_id)) == "RUNNING":
        await stubs.workflows.CancelWorkflow(cancel(workflow_id))
    await stubs.wait(workflow_id)


def cancel(workflow_id: str, request_id: str = "", **fields: Any) -> pb.CancelWorkflowRequest:
    """Returns the request that cancels a workflow."""
    return pb.CancelWorkflowRequest(
        name=workflow_name(workflow_id),
        request_id=request_id or f"cancel-{workflow_id}",
        **{"reason": "a test", **fields},
    )
