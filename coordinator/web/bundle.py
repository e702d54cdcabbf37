"""A workflow to download: one file that says all of it, made while it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from coordinator.web.calls import Calls
from coordinator.web.site import Site
from countermand.bundle import writing
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow

PAGE: Final = 250  # tasks or events that are held at once


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a bundle is made of, asked of the coordinator."""

    calls: Calls
    workflow_id: str

    async def workflow(self) -> Workflow:
        return await self.calls.workflow(self.workflow_id, full=True)

    async def tasks(self, token: str) -> tuple[Sequence[Task], str]:
        found = await self.calls.tasks(self.workflow_id, size=PAGE, token=token)
        return found.tasks, found.next_page_token

    async def task(self, task_id: str) -> Task:
        return await self.calls.task(self.workflow_id, task_id)

    async def events(self, after: int) -> Sequence[HistoryEvent]:
        return (await self.calls.events(self.workflow_id, after=after, size=PAGE)).events


def routes(site: Site) -> Sequence[BaseRoute]:
    """Returns the route of a bundle."""

    async def bundle(request: Request) -> Response:
        workflow_id = request.path_params["workflow"]
        asked = _Asked(site.calls, workflow_id)
        await site.calls.workflow(workflow_id)  # an error is a page, not a broken file
        pieces = writing.pieces(asked, site.clock.now())
        name = writing.file_name(workflow_id)
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(pieces, 200, headers, "application/zip")

    return [Route("/workflows/{workflow}/bundle", bundle)]
