"""Vendors as the contract sees them, without our client: their calls, and plans that need them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

from google.protobuf.struct_pb2 import Struct
from grpc.aio import Channel

from countermand.client.spec import parallel, sequence, workflow_spec
from countermand.rpc.channel import open_channel
from countermand.rpc.names import attempt_name, task_name, workflow_name
from countermand.v1 import annotation_pb2
from countermand.v1 import external_task_pb2 as pb
from countermand.v1 import workflow_pb2 as wpb
from countermand.v1.attempt_pb2 import Attempt, Progress
from countermand.v1.external_task_pb2_grpc import ExternalTaskServiceStub
from countermand.v1.failure_pb2 import Failure
from countermand.v1.workflow_pb2 import Workflow
from countermand.v1.workflow_spec_pb2 import Node, Policy, WorkflowSpec

READ_ONLY = annotation_pb2.EFFECT_READ_ONLY
REVERSIBLE = annotation_pb2.EFFECT_REVERSIBLE
ARRAY_FULL = Failure(reason="ARRAY_FULL", message="There is no room on the array.")
HANG_S = 30.0  # only a hang takes longer
TICK_S = 0.05
AWAKE_S_MAX = 0.4  # between two ticks; the shortest silence that is noticed lasts a second

START = pb.ExternalRequest.KIND_START
CANCEL = pb.ExternalRequest.KIND_CANCEL
COMPENSATE = pb.ExternalRequest.KIND_COMPENSATE


def seconds(span: float) -> timedelta:
    return timedelta(seconds=span)


def external(name: str, owner: str = "acme", **fields: Any) -> Node:
    """Returns a task that somebody outside does; what it does is reversible unless said."""
    node = {key: fields.pop(key) for key in ("after", "policy", "when") if key in fields}
    bindings = fields.pop("bindings", {})
    said = Node.ExternalTask(owner_id=owner, **{"kind": name, "effect": REVERSIBLE, **fields})
    if said.effect == REVERSIBLE and not said.WhichOneof("compensation"):
        said.ask_owner = True
    for field, source in bindings.items():
        said.bindings.add(field=field, source=source)
    return Node(name=name, external_task=said, **node)


def opened(node: Node) -> Node:
    """Returns a parallel group that others may add tasks to."""
    node.group.open = True
    return node


def plan_of(*members: Node, policy: Policy | None = None) -> WorkflowSpec:
    """Returns a plan of tasks one after the other."""
    return workflow_spec("hybrid", sequence("all", *members), policy=policy)


def beside(*members: Node, policy: Policy | None = None) -> WorkflowSpec:
    """Returns a plan of tasks at the same time."""
    return workflow_spec("hybrid", parallel("all", *members), policy=policy)


@asynccontextmanager
async def awake() -> AsyncIterator[Callable[[], bool]]:
    """Yields whether this process has gone on all the time.

    One that stands still gives no sign of life, and is rightly taken for silent.
    """
    lasted = [0.0]

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(TICK_S)
            lasted.append(time.monotonic() - before)

    ticking = asyncio.create_task(tick())
    try:
        yield lambda: max(lasted) < AWAKE_S_MAX
    finally:
        ticking.cancel()


def struct(**values: Any) -> Struct:
    made = Struct()
    made.update(values)
    return made


def decided(workflow_id: str, task_id: str, how: str) -> wpb.DecideCompensationRequest:
    """Returns what an operator decides about a compensation: done, abandon, retry, replace."""
    request = wpb.DecideCompensationRequest(
        task=task_name(workflow_id, task_id), request_id=str(uuid4()), reason="seen to"
    )
    said = {
        "done": request.mark_done,
        "abandon": request.abandon,
        "retry": request.retry_now,
        "replace": request.replacement.noop,
    }
    said[how].SetInParent()
    return request


def word(state: Attempt.State.ValueType) -> str:
    """Returns the word for an attempt's state."""
    return Attempt.State.Name(state).removeprefix("STATE_")


class Vendor:
    """One vendor's calls."""

    def __init__(self, channel: Channel, owner: str = "acme") -> None:
        self.owner = owner
        self.channel = channel
        self.stub = ExternalTaskServiceStub(channel)
        self.tokens: dict[str, str] = {}  # by task

    # -- what waits -----------------------------------------------------------------------------

    async def requests(self) -> list[pb.ExternalRequest]:
        """Returns all that waits for it."""
        found: list[pb.ExternalRequest] = []
        page = ""
        while True:
            request = pb.ListExternalTasksRequest(owner_id=self.owner, page_token=page)
            answer = await self.stub.ListExternalTasks(request)
            found += answer.requests
            page = answer.next_page_token
            if not page:
                break
        for each in found:
            self._learn(each)
        return found

    async def asked(
        self, workflow_id: str, task_id: str, kind: pb.ExternalRequest.Kind.ValueType = START
    ) -> pb.ExternalRequest:
        """Returns what is asked about a task, once that is."""
        async with self.watching() as watch:
            return await watch.until(workflow_id, task_id, kind)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[Watch]:
        """Yields a watch of what waits for it."""
        call = self.stub.WatchExternalTasks(pb.WatchExternalTasksRequest(owner_id=self.owner))
        try:
            yield Watch(self, call)
        finally:
            call.cancel()

    def _learn(self, asked: pb.ExternalRequest) -> None:
        self.tokens[asked.attempt.rpartition("/attempts/")[0]] = asked.capability_token

    def token(self, attempt: str) -> str:
        return self.tokens.get(attempt.rpartition("/attempts/")[0], "")

    # -- reports --------------------------------------------------------------------------------

    async def accept(self, attempt: str, **fields: Any) -> pb.AcceptExternalTaskResponse:
        said = {"capability_token": self.token(attempt), **fields}
        return await self.stub.AcceptExternalTask(
            pb.AcceptExternalTaskRequest(attempt=attempt, **said)
        )

    async def take(
        self, workflow_id: str, task_id: str, kind: pb.ExternalRequest.Kind.ValueType = START
    ) -> str:
        """Accepts what is asked about a task, once that is; returns the attempt's name."""
        asked = await self.asked(workflow_id, task_id, kind)
        await self.accept(asked.attempt)
        return asked.attempt

    async def report(self, attempt: str, done: int, total: int = 0, **fields: Any) -> Attempt:
        progress = Progress(done=done, total=total, unit=fields.pop("unit", "blocks"), **fields)
        request = pb.ReportExternalTaskRequest(
            attempt=attempt, capability_token=self.token(attempt), progress=progress
        )
        return (await self.stub.ReportExternalTask(request)).attempt

    async def beat(self, *attempts: str, token: str | None = None) -> dict[str, str]:
        """Returns what became of those that are not simply at work."""
        beats = [
            pb.HeartbeatExternalTasksRequest.Heartbeat(
                attempt=attempt, capability_token=self.token(attempt) if token is None else token
            )
            for attempt in attempts
        ]
        request = pb.HeartbeatExternalTasksRequest(heartbeats=beats)
        answers = (await self.stub.HeartbeatExternalTasks(request)).answers
        return {each.attempt: "refused" if each.refused else word(each.state) for each in answers}

    async def end(self, attempt: str, report_id: str = "", **outcome: Any) -> Attempt:
        """Ends an attempt: with what it left, unless something else is said."""
        if not outcome.keys() & {"output", "failure", "cancelled"}:
            outcome["output"] = Struct()
        request = pb.EndExternalTaskRequest(
            attempt=attempt,
            report_id=report_id or str(uuid4()),
            **{"capability_token": self.token(attempt), **outcome},
        )
        return (await self.stub.EndExternalTask(request)).attempt

    async def does(self, workflow_id: str, task_id: str, **outcome: Any) -> str:
        """Accepts a task and ends it; returns the attempt's name."""
        attempt = await self.take(workflow_id, task_id)
        await self.end(attempt, **outcome)
        return attempt

    async def makes_up(self, workflow_id: str, task_id: str) -> pb.ExternalRequest:
        """Makes up for a task when it is asked to; returns what it was asked."""
        asked = await self.asked(workflow_id, task_id, COMPENSATE)
        await self.accept(asked.attempt)
        await self.end(asked.attempt)
        return asked

    # -- its own --------------------------------------------------------------------------------

    async def starts(self, workflow_id: str, **fields: Any) -> Workflow:
        """Starts a workflow of its own."""
        request = pb.StartExternalWorkflowRequest(
            workflow_id=workflow_id, **{"kind": "rebalance", "owner_id": self.owner, **fields}
        )
        answer = await self.stub.StartExternalWorkflow(request)
        self.tokens[task_name(workflow_id, "main")] = answer.capability_token
        return answer.workflow

    async def adds(self, parent: str, task_id: str, **fields: Any) -> pb.AddExternalTaskResponse:
        """Adds a task, of its own unless an owner is said."""
        own = self.tokens.get(f"{parent}/tasks/main", "")
        said = {
            "owner_id": self.owner,
            "kind": "part",
            "effect": READ_ONLY,
            "request_id": str(uuid4()),
            "capability_token": self.tokens.get(parent) or own,
            **fields,
        }
        request = pb.AddExternalTaskRequest(parent=parent, task_id=task_id, **said)
        return await self.stub.AddExternalTask(request)

    async def ends_all(self, workflow_id: str, **fields: Any) -> Workflow:
        """Ends a workflow of its own, as succeeded unless something else is said."""
        request = pb.EndExternalWorkflowRequest(
            name=workflow_name(workflow_id),
            **{
                "succeeded": True,
                "request_id": str(uuid4()),
                "capability_token": self.tokens.get(task_name(workflow_id, "main"), ""),
                **fields,
            },
        )
        return (await self.stub.EndExternalWorkflow(request)).workflow

    async def clears(self, workflow_id: str, **fields: Any) -> None:
        token = self.tokens.get(task_name(workflow_id, "main"), "")
        said = {"capability_token": token, **fields}
        request = pb.ClearExternalWorkflowRequest(name=workflow_name(workflow_id), **said)
        await self.stub.ClearExternalWorkflow(request)


class Watch:
    """What one watch has said so far; the latest about an attempt counts."""

    def __init__(self, vendor: Vendor, call: Any) -> None:
        self._vendor = vendor
        self._call = call
        self.said: list[pb.WatchExternalTasksResponse] = []
        self.latest: dict[str, pb.ExternalRequest] = {}

    async def next(self) -> pb.WatchExternalTasksResponse:
        """Returns the next message."""
        async with asyncio.timeout(HANG_S):
            message: pb.WatchExternalTasksResponse = await self._call.read()
        self.said.append(message)
        if message.HasField("request"):
            self.latest[message.request.attempt] = message.request
            self._vendor._learn(message.request)
        elif message.HasField("closed"):
            self.latest.pop(message.closed, None)
        return message

    async def when(self, holds: Callable[[Mapping[str, pb.ExternalRequest]], object]) -> None:
        """Reads on until something holds of what is known."""
        while not holds(self.latest):
            await self.next()

    async def until(
        self, workflow_id: str, task_id: str, kind: pb.ExternalRequest.Kind.ValueType = START
    ) -> pb.ExternalRequest:
        """Returns what is asked about a task, once that is."""
        start = attempt_name(workflow_id, task_id, 1)[:-1]

        def found() -> list[pb.ExternalRequest]:
            return [
                each
                for name, each in self.latest.items()
                if name.startswith(start) and each.kind == kind
            ]

        await self.when(lambda _: found())
        return found()[-1]


@asynccontextmanager
async def vendor_at(address: str, owner: str = "acme") -> AsyncIterator[Vendor]:
    """Yields a vendor with a connection of its own."""
    async with open_channel(address) as channel:
        yield Vendor(channel, owner)
