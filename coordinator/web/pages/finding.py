"""Finds a workflow by how its id begins: as the command line does, and from every page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from coordinator.web.errors import status_of
from coordinator.web.shown import task_url, workflow_url
from coordinator.web.site import Site
from countermand.rpc import names
from countermand.rpc.errors import WorkflowNotFound
from countermand.v1 import workflow_pb2 as pb

SHOWN_MAX: Final = 20  # one sees by them what is missing


def routes(site: Site) -> Sequence[BaseRoute]:
    """Returns the route of the search."""

    async def find(request: Request) -> Response:
        typed = request.query_params.get("id", "").strip()
        if names.parse_task(typed):
            return RedirectResponse(task_url(typed), status_code=302)
        begun = typed.removeprefix("workflows/")
        found = await _begin_so(site, begun) if names.is_id(begun) else []
        one = next((one for one in found if one.name == names.workflow_name(begun)), None)
        if one or len(found) == 1:
            return RedirectResponse(workflow_url((one or found[0]).name), status_code=302)
        query = urlencode({"id": begun}) if begun else ""
        return RedirectResponse(f"/workflows{query and '?'}{query}", status_code=302)

    return [Route("/find", find)]


async def instead(site: Site, request: Request, begun: str, error: WorkflowNotFound) -> Response:
    """Returns what is answered where no workflow has an id: the one that begins so, or a list."""
    found = await _begin_so(site, begun)
    if not found:
        raise error
    if len(found) == 1:
        return RedirectResponse(workflow_url(found[0].name), status_code=302)
    return await site.page(
        request,
        "error.html",
        http_status=status_of(error),
        title="There is no such workflow",
        message=error.message,
        reason=error.reason,
        violations=(),
        begins_so=found[:SHOWN_MAX],
        more_begin_so=urlencode({"id": begun}) if len(found) > SHOWN_MAX else "",
    )


async def _begin_so(site: Site, begun: str) -> Sequence[pb.Workflow]:
    """Returns the newest of those whose ids begin so, and one more than are shown."""
    asked = pb.ListWorkflowsRequest(id_prefix=begun, page_size=SHOWN_MAX + 1)
    return (await site.calls.list_workflows(asked)).workflows
