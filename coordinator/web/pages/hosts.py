"""The hosts: where they are, what they reach, how busy they are, and what was done to them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from coordinator.web.site import Site


def routes(site: Site) -> Sequence[BaseRoute]:
    """Returns the routes of hosts."""

    async def everyone(request: Request) -> Response:
        found = await read(site, request.query_params.get("audit_after", ""))
        return await site.page(request, "hosts.html", **found)

    async def one(request: Request) -> Response:
        host_id = request.path_params["host"]
        after = request.query_params.get("audit_after", "")
        host, audit = await asyncio.gather(
            site.calls.host(host_id), site.calls.host_events(host_id, token=after)
        )
        return await site.page(
            request, "host.html", host=host, audit=audit.events, next=audit.next_page_token
        )

    return [Route("/hosts", everyone), Route("/hosts/{host}", one)]


async def read(site: Site, after: str) -> dict[str, Any]:
    """Returns what the list shows."""
    hosts, coordinators, audit = await asyncio.gather(
        site.calls.list_hosts(),
        site.calls.list_coordinators(),
        site.calls.host_events(token=after),
    )
    return {
        "hosts": hosts,
        "coordinators": coordinators,
        "audit": audit.events,
        "next": audit.next_page_token,
    }
