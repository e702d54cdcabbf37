"""A vendor with very many external tasks: it adds them, takes them on, and says that they live.

Whoever has many tasks says so of many in one request, over one connection. Owners of one task each
are as many programs: they share a few connections here, but not a single one.
Every task has its turn once in a period, spread evenly over it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode
from grpc.aio import AioRpcError

from countermand.client import Client
from countermand.client.run import new_request_id
from countermand.client.spec import external_task, parallel, workflow_spec
from countermand.v1.annotation_pb2 import EFFECT_READ_ONLY
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.external_task_pb2 import (
    AcceptExternalTaskRequest,
    AddExternalTaskRequest,
    ExternalRequest,
    HeartbeatExternalTasksRequest,
    ListExternalTasksRequest,
    ReportExternalTaskRequest,
    StartExternalWorkflowRequest,
    StartExternalWorkflowResponse,
)
from countermand.v1.task_pb2 import Task
from tests.bench.offered import offering

if TYPE_CHECKING:
    from countermand.v1.external_task_pb2_grpc import ExternalTaskServiceAsyncStub

CONNECTIONS = 10
OWNER = "acme"
SILENT = "sleepy"  # another owner, of tasks that nobody keeps alive
KIND = "rebalance"
PERIOD_S = 10.0  # between two signs of life of one task
TIMEOUT_S = 30
IN_FLIGHT = 16  # accepts at a time
PAGE = 1000
HANG_S = 30.0

Beat = HeartbeatExternalTasksRequest.Heartbeat


class Vendor:
    """One owner of external tasks."""

    def __init__(self, stubs: Sequence[ExternalTaskServiceAsyncStub]) -> None:
        """Has nothing to do yet; each stub has a connection of its own."""
        self.stub = stubs[0]
        self._each = itertools.cycle(stubs)  # whose turn it is, where a task is heard of alone
        self.tasks: list[Beat] = []  # those that it has accepted
        self.sent = 0  # heartbeats that were answered
        self.unwell = 0  # answers that a task is not simply at work
        self.refused = 0  # requests for which a connection had no room: it has 1,000 at once

    # -- making tasks -------------------------------------------------------------------------

    async def submit(self, client: Client, workflow_id: str, tasks: int) -> str:
        """Has an engine submit a workflow of its tasks; returns the workflow's name."""
        members = [
            external_task(
                f"task-{number}",
                owner=OWNER,
                kind=KIND,
                effect=EFFECT_READ_ONLY,
                heartbeat_timeout=timedelta(seconds=TIMEOUT_S),
            )
            for number in range(tasks)
        ]
        spec = workflow_spec("hybrid", parallel("all", *members))
        return (await client.submit(spec, workflow_id=workflow_id)).name

    async def add(self, workflow_id: str, tasks: int) -> list[float]:
        """Starts a workflow of its own and adds tasks; returns the seconds of each."""
        started = await self._start(workflow_id, OWNER, TIMEOUT_S)
        took_s = []
        for number in range(tasks):
            request = AddExternalTaskRequest(
                parent=started.workflow.name,
                task_id=f"task-{number}",
                owner_id=OWNER,
                kind=KIND,
                effect=EFFECT_READ_ONLY,
                heartbeat_timeout=Duration(seconds=TIMEOUT_S),
                request_id=new_request_id(),
                capability_token=started.capability_token,
            )
            began = time.perf_counter()
            await self.stub.AddExternalTask(request)
            took_s.append(time.perf_counter() - began)
        return took_s

    async def fall_silent(self, client: Client, workflow_id: str) -> None:
        """Takes a task on and says no more; returns once that was noticed."""
        await self._start(workflow_id, SILENT, 1)
        (asked,) = await self._waiting(SILENT)
        await self._accept(asked)
        async with asyncio.timeout(HANG_S):
            async for update in client.run(workflow_id).watch():
                if update.event.task_state_changed.after == Task.STATE_UNKNOWN:
                    return

    async def _start(
        self, workflow_id: str, owner: str, timeout_s: int
    ) -> StartExternalWorkflowResponse:
        return await self.stub.StartExternalWorkflow(
            StartExternalWorkflowRequest(
                workflow_id=workflow_id,
                kind=KIND,
                owner_id=owner,
                heartbeat_timeout=Duration(seconds=timeout_s),
            )
        )

    # -- taking them on -----------------------------------------------------------------------

    async def accept_all(self) -> None:
        """Takes on everything that waits, the oldest first."""
        waiting = iter(await self._waiting(OWNER))

        async def accept() -> None:
            for asked in waiting:
                self.tasks.append(await self._accept(asked))

        await asyncio.gather(*(accept() for _ in range(IN_FLIGHT)))

    async def _waiting(self, owner: str) -> list[ExternalRequest]:
        found: list[ExternalRequest] = []
        request = ListExternalTasksRequest(owner_id=owner, page_size=PAGE)
        while True:
            page = await self.stub.ListExternalTasks(request)
            found += (asked for asked in page.requests if not asked.accepted)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def _accept(self, asked: ExternalRequest) -> Beat:
        name, token = asked.attempt, asked.capability_token
        request = AcceptExternalTaskRequest(attempt=name, capability_token=token)
        await self.stub.AcceptExternalTask(request)
        return Beat(attempt=name, capability_token=token)

    # -- at work ------------------------------------------------------------------------------

    @asynccontextmanager
    async def beating(self, batch: int, took_ms: list[float] | None = None) -> AsyncIterator[None]:
        """Keeps all its tasks alive meanwhile, so many in one request."""
        place = 0

        async def beat() -> None:
            nonlocal place
            place = place if place < len(self.tasks) else 0
            some = self.tasks[place : place + batch]
            place += batch
            request = HeartbeatExternalTasksRequest(heartbeats=some)
            stub = self.stub if batch > 1 else next(self._each)
            with self._or_refused():
                answer = await stub.HeartbeatExternalTasks(request)
                self.unwell += len(answer.answers)
                self.sent += len(some)

        def gap_s() -> float:
            return PERIOD_S * batch / max(len(self.tasks), batch)

        async with offering(beat, gap_s, took_ms):
            yield

    @contextmanager
    def _or_refused(self) -> Iterator[None]:
        """Counts what is refused, and lets it be: the next one says the same."""
        try:
            yield
        except AioRpcError as error:
            if error.code() is not StatusCode.UNAVAILABLE:
                raise
            self.refused += 1

    async def report(self, per_s: float, seconds: float) -> list[float]:
        """Reports progress of one task after the other; returns how long each took, in ms."""
        took_ms: list[float] = []
        numbers = itertools.count()

        async def say() -> None:
            number = next(numbers)
            task = self.tasks[number % len(self.tasks)]
            progress = Progress(done=number + 1, total=2**40, unit="bytes", message="at work")
            request = ReportExternalTaskRequest(attempt=task.attempt, progress=progress)
            request.capability_token = task.capability_token
            with self._or_refused():
                await self.stub.ReportExternalTask(request)

        async with offering(say, lambda: 1 / per_s, took_ms):
            await asyncio.sleep(seconds)
        return took_ms
