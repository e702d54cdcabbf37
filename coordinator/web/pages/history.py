"""The history of a workflow, in pages from its first event on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from coordinator.web.site import Site
from countermand.rpc.errors import FieldInvalid, Violation

PAGE: Final = 200
DIGITS_MAX: Final = 15


def routes(site: Site) -> Sequence[BaseRoute]:
    """Returns the route of a history."""

    async def shown(request: Request) -> Response:
        workflow_id = request.path_params["workflow"]
        after = sequence(request.query_params.get("after", ""))
        workflow = await site.calls.workflow(workflow_id)
        page = await site.calls.events(workflow_id, after=after, size=PAGE)
        return await site.page(
            request,
            "history.html",
            workflow=workflow,
            events=page.events,
            after=after,
            before=max(after - PAGE, 0) if after else None,
            next=page.events[-1].sequence if page.more and page.events else None,
        )

    return [Route("/workflows/{workflow}/events", shown)]


def sequence(text: str) -> int:
    """Returns the number in an address; raises FieldInvalid."""
    if text and not (text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX):
        raise FieldInvalid(Violation("after", f"{text!r} is no sequence: write a number"))
    return int(text or 0)
