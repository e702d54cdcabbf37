"""The owners of external tasks: what waits for whom, since when, and who is silent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from coordinator.web.site import Site
from countermand.v1.external_task_pb2 import (
    ListExternalOwnersRequest,
    ListExternalTasksRequest,
)

PAGE: Final = 200


def routes(site: Site) -> Sequence[BaseRoute]:
    """Returns the routes of owners."""

    async def everyone(request: Request) -> Response:
        found = await read(site, request.query_params.get("after", ""))
        return await site.page(request, "owners.html", **found)

    async def one(request: Request) -> Response:
        owner_id = request.path_params["owner"]
        token = request.query_params.get("after", "")
        asked = ListExternalTasksRequest(owner_id=owner_id, page_token=token)
        answer = await site.calls.unary(site.calls.external_tasks.ListExternalTasks, asked)
        return await site.page(
            request,
            "owner.html",
            owner_id=owner_id,
            requests=answer.requests,
            next=answer.next_page_token,
            is_first=not token,
        )

    return [Route("/owners", everyone), Route("/owners/{owner}", one)]


async def read(site: Site, token: str) -> dict[str, Any]:
    """Returns what the list shows."""
    asked = ListExternalOwnersRequest(page_size=PAGE, page_token=token)
    answer = await site.calls.unary(site.calls.external_tasks.ListExternalOwners, asked)
    return {"owners": answer.owners, "next": answer.next_page_token, "is_first": not token}
