"""The list of workflows: what needs somebody first, then what is in flight, then what is settled.

Every filter is a link that can be kept. Parts have pages of their own, by the API's tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from coordinator.web.filters import AGES, STATES, UNDER_WAY, Filters
from coordinator.web.site import Site
from countermand.drawing.tasks import SETTLED
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.workflow_pb2 import Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState

PAGE: Final = 50

# Views that everybody may want, as the query that they are.
VIEWS: Final[Sequence[tuple[str, str]]] = (
    ("Everything", ""),
    ("Needs somebody", "part=attention"),
    ("In flight", "part=open"),
    ("Being made up for", "state=compensating&state=blocked"),
    ("Failed", "state=failed&state=compensated"),
    ("Settled well", "state=succeeded"),
    ("Open for over an hour", "part=open&older=1h"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of the lists on the page."""

    key: str  # of its token in the query: "settled" is "settled_after=…"
    title: str
    nothing: str
    workflows: Sequence[Workflow]
    next: str  # the query of its next page; empty at the end
    first: str  # the query of its first page; empty there


def routes(site: Site) -> Sequence[BaseRoute]:
    """Returns the routes of the list."""

    async def home(_: Request) -> Response:
        return RedirectResponse("/workflows", status_code=302)

    async def shown(request: Request) -> Response:
        filters = Filters.of(request.query_params)
        values = await read(site, filters)
        return await site.page(request, "workflows.html", **values)

    return [Route("/", home), Route("/workflows", shown)]


async def read(site: Site, filters: Filters) -> dict[str, object]:
    """Returns what the list shows."""
    parts = await asyncio.gather(
        *(_part(site, filters, key) for key in _PARTS if filters.part in ("", key))
    )
    found = [part for part in parts if part is not None]
    return {
        "filters": filters,
        "parts": _apart(found),
        "views": VIEWS,
        "states": STATES,
        "ages": AGES,
    }


_PARTS: Final[Mapping[str, tuple[str, str]]] = {
    "attention": ("Needs somebody", "Nothing needs anybody."),
    "open": ("In flight", "Nothing is in flight."),
    "settled": ("Settled", "Nothing has settled."),
}


async def _part(site: Site, filters: Filters, key: str) -> Part | None:
    request = filters.request(page_size=PAGE, page_token=filters.after.get(key, ""))
    match key:
        case "attention":
            if filters.states and not set(filters.states) - SETTLED:
                return None
            request.needs_attention = True
        case "open":
            if not _narrow(request, UNDER_WAY, filters):
                return None
        case _:
            if not _narrow(request, SETTLED, filters):
                return None
    answer = await site.calls.list_workflows(request)
    title, nothing = _PARTS[key]
    token = answer.next_page_token
    return Part(
        key=key,
        title=title,
        nothing=nothing,
        workflows=answer.workflows,
        next=filters.query(after={**filters.after, key: token}) if token else "",
        first=filters.query(after={**filters.after, key: ""}) if filters.after.get(key) else "",
    )


def _narrow(
    request: pb.ListWorkflowsRequest,
    states: frozenset[WorkflowState.ValueType],
    filters: Filters,
) -> bool:
    """Keeps a part to its states; returns whether any is left."""
    kept = states & set(filters.states) if filters.states else states
    del request.states[:]
    request.states.extend(sorted(kept))
    return bool(kept)


def _apart(parts: Sequence[Part]) -> list[Part]:
    """Returns the parts, each workflow in the first that has it: who runs may need somebody."""
    seen: set[str] = set()
    kept = []
    for part in parts:
        found = [one for one in part.workflows if one.name not in seen]
        seen.update(one.name for one in found)
        kept.append(
            Part(
                key=part.key,
                title=part.title,
                nothing=part.nothing,
                workflows=found,
                next=part.next,
                first=part.first,
            )
        )
    return kept
