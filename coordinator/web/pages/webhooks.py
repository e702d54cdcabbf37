"""The webhooks in short: whether their receivers are told, and how far."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from coordinator.web.site import Site


def routes(site: Site) -> Sequence[BaseRoute]:
    """Returns the route of webhooks."""

    async def everyone(request: Request) -> Response:
        return await site.page(request, "webhooks.html", webhooks=await site.calls.list_webhooks())

    return [Route("/webhooks", everyone)]
