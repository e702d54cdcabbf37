"""A list of a coordinator in which nothing happens: it is drawn, and then waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import grpc.aio
import pytest
from starlette.datastructures import QueryParams

from coordinator.web.address import WebSettings
from coordinator.web.calls import Calls
from coordinator.web.filters import Filters
from coordinator.web.pages import live
from coordinator.web.site import Site, SystemClock
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.workflow_pb2_grpc import (
    WorkflowServiceServicer,
    add_WorkflowServiceServicer_to_server,
)

HANG_S = 20.0


class Empty(WorkflowServiceServicer):
    """A coordinator that has just begun: it has no workflow, and no event."""

    def __init__(self) -> None:
        self.watched: asyncio.Queue[pb.WatchEventsRequest] = asyncio.Queue()

    async def ListWorkflows(
        self, request: pb.ListWorkflowsRequest, context: Any
    ) -> pb.ListWorkflowsResponse:
        return pb.ListWorkflowsResponse()

    async def WatchEvents(
        self, request: pb.WatchEventsRequest, context: Any
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        self.watched.put_nowait(request)
        yield pb.WatchEventsResponse(bookmark=0)
        await asyncio.Event().wait()


@pytest.fixture
async def empty() -> AsyncIterator[SimpleNamespace]:
    """Yields it, and a page before it."""
    server = grpc.aio.server()
    servicer = Empty()  # type: ignore[abstract]  # nothing else is asked
    add_WorkflowServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with Calls(f"127.0.0.1:{port}") as calls:
        site = Site(calls=calls, clock=SystemClock(), stop=asyncio.Event(), settings=WebSettings())
        yield SimpleNamespace(site=site, servicer=servicer)
    await server.stop(None)


async def test_an_empty_list_is_waited_for_from_where_it_is(empty) -> None:
    looks = live._list(empty.site, Filters.of(QueryParams()))
    async with asyncio.timeout(HANG_S), aclosing(looks):
        look = await anext(looks)
        assert look.sequence == 0
        first, second = [await empty.servicer.watched.get() for _ in range(2)]
    assert not first.HasField("after_position")  # from now on
    assert second.HasField("after_position")  # from then: else nothing would ever be missed
    assert second.after_position == 0
