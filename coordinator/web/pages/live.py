"""What moves on a page by itself: streams of frames, for the list and for one workflow.

A stream listens to the coordinator's own watch as to a bell: what is new is then read and drawn as
a page is, and sent in pieces that replace their like. So a slow reader, a gap or a restart loses
nothing; and watching costs four looks a second at most, however many watch the same.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

from grpc.aio import AioRpcError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from coordinator.web import frames, reading
from coordinator.web.filters import Filters
from coordinator.web.frames import News
from coordinator.web.pages import hosts, owners
from coordinator.web.pages import workflow as workflow_page
from coordinator.web.pages import workflows as workflow_list
from coordinator.web.sharing import Look, Shared
from coordinator.web.site import Site
from countermand.drawing.tasks import SETTLED
from countermand.rpc.names import workflow_name
from countermand.v1 import workflow_pb2 as pb

Read = Callable[[Site, str], Awaitable[dict[str, Any]]]

POLL_S: Final = 2.0  # a host is judged by its silence, which takes longer
_TIMES: Final = re.compile(r"<time [^>]*>[^<]*</time>")


def routes(site: Site) -> Sequence[BaseRoute]:
    """Returns the routes of streams."""
    shared = Shared(site.stop)

    async def of_list(request: Request) -> Response:
        filters = Filters.of(request.query_params)
        what = f"workflows?{filters.query()}"
        seen = frames.last_seen(request)
        return frames.Stream(shared.watch(what, partial(_list, site, filters), seen))

    async def of_one(request: Request) -> Response:
        workflow_id = request.path_params["workflow"]
        await site.calls.workflow(workflow_id)  # an error is a page, not a stream that ends
        what, seen = f"workflows/{workflow_id}", frames.last_seen(request)
        return frames.Stream(shared.watch(what, partial(_one, site, workflow_id), seen))

    async def of_hosts(_: Request) -> Response:
        return frames.Stream(shared.watch("hosts", partial(_polled, site, "hosts", hosts.read)))

    async def of_owners(_: Request) -> Response:
        return frames.Stream(shared.watch("owners", partial(_polled, site, "owners", owners.read)))

    return [
        Route("/live/workflows", of_list),
        Route("/live/hosts", of_hosts),
        Route("/live/owners", of_owners),
        Route("/live/workflows/{workflow}", of_one),
    ]


async def _one(site: Site, workflow_id: str) -> AsyncGenerator[Look]:
    """Yields looks at a workflow until it is settled: one at once, and one whenever it moves."""
    news = News(site.stop)
    news.tell()
    seen = (await site.calls.workflow(workflow_id)).last_sequence

    async def listen() -> None:
        is_open = True
        while is_open:
            asked = pb.WatchWorkflowRequest(name=workflow_name(workflow_id), after_sequence=seen)
            watch = site.calls.workflows.WatchWorkflow(asked)
            is_open = False
            async for update in watch:
                if not update.HasField("bookmark"):
                    news.tell()
                if update.HasField("event"):
                    is_open = True  # as of a list: one event tells as much as a thousand
                    break
            watch.cancel()
            await asyncio.sleep(frames.FRAME_S)

    async with _listening(listen, news):
        while not site.stop.is_set():
            await news.wait()  # after a silence there is a look all the same: bars last until now
            if site.stop.is_set():
                return
            began = asyncio.get_running_loop().time()
            found = await reading.read(site.calls, workflow_id, site.clock.now())
            seen = found.sequence
            values = workflow_page.values(found)
            text = await asyncio.to_thread(site.draw, "workflow_frame.html", **values)
            is_last = found.workflow.state in SETTLED
            yield Look(text=text, sequence=found.sequence, is_last=is_last)
            if news.is_over:
                return  # the reader comes back, and is told then
            await asyncio.sleep(frames.pause_after(asyncio.get_running_loop().time() - began))


async def _list(site: Site, filters: Filters) -> AsyncGenerator[Look]:
    """Yields looks at the list for as long as somebody reads: one at once, too."""
    news = News(site.stop)
    position: int | None = None  # 0 is where everything begins

    async def listen() -> None:
        nonlocal position
        while True:
            # Only the first event is of interest: the list is read anew whatever it was, and
            # under load there are thousands in a second.
            asked = pb.WatchEventsRequest(after_position=position)
            watch = site.calls.workflows.WatchEvents(asked)
            async for update in watch:
                if update.HasField("event"):
                    position = update.event.position
                    break
                is_first, position = position is None, update.bookmark
                if is_first:
                    break  # the page was drawn before anybody listened
            watch.cancel()
            news.tell()
            await asyncio.sleep(frames.FRAME_S)

    async with _listening(listen, news):
        while not site.stop.is_set():
            if not await news.wait():
                continue
            if news.is_over:
                return
            began, true_for = asyncio.get_running_loop().time(), position or 0
            values = await workflow_list.read(site, filters)
            text = await asyncio.to_thread(
                site.draw, "workflows_frame.html", path="/workflows", **values
            )
            yield Look(text=text, sequence=true_for)
            await asyncio.sleep(frames.pause_after(asyncio.get_running_loop().time() - began))


async def _polled(site: Site, name: str, read: Read) -> AsyncGenerator[Look]:
    """Yields looks at what has no history that could be watched, as often as anything changes."""
    sent, number = "", 0
    while not site.stop.is_set():
        values = await read(site, "")
        text = await asyncio.to_thread(site.draw, f"{name}_frame.html", **values)
        seen = _TIMES.sub("", text)  # that a moment is longer ago is no news
        if seen != sent:
            sent, number = seen, number + 1
            yield Look(text=text, sequence=number)
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await site.stop.wait()


@asynccontextmanager
async def _listening(listen: Callable[[], Awaitable[None]], news: News) -> AsyncIterator[None]:
    """Listens meanwhile; however that ends, the stream is told."""

    async def listened() -> None:
        try:
            await listen()
        except AioRpcError:
            pass  # the reader sees the stream end, and comes back
        finally:
            news.end()

    task = asyncio.create_task(listened())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
