"""The page of one workflow: what failed, why, what was made up for, what is left, what is next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlencode

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from coordinator.web import asked, reading, tree
from coordinator.web.pages import finding
from coordinator.web.reading import Reading
from coordinator.web.shown import task_url
from coordinator.web.site import Site
from countermand.drawing import next_steps, phrases, svg
from countermand.rpc.errors import WorkflowNotFound
from countermand.rpc.names import task_name
from countermand.v1.workflow_state_pb2 import WorkflowState

TASKS_PAGE: Final = 200
ROWS_PLAIN: Final = 40  # a table that long is still looked at row by row
FORWARD: Final = frozenset(
    {
        WorkflowState.WORKFLOW_STATE_RUNNING,
        WorkflowState.WORKFLOW_STATE_PAUSING,
    }
)


def routes(site: Site) -> Sequence[BaseRoute]:
    """Returns the routes of one workflow."""

    async def shown(request: Request) -> Response:
        workflow_id = request.path_params["workflow"]
        try:
            found = await reading.read(site.calls, workflow_id, site.clock.now())
        except WorkflowNotFound as error:
            return await finding.instead(site, request, workflow_id, error)
        return await site.page(request, "workflow.html", **values(found))

    async def tasks(request: Request) -> Response:
        workflow_id, given = request.path_params["workflow"], request.query_params
        asked.check(
            asked.unknown(given, ("state", "after")), asked.no_state(given, tree.STATES_BY_WORD)
        )
        words = given.getlist("state")
        states = [tree.STATES_BY_WORD[word] for word in words]
        token = given.get("after", "")
        workflow = await site.calls.workflow(workflow_id)
        page = await site.calls.tasks(workflow_id, states=states, size=TASKS_PAGE, token=token)
        following = [("after", page.next_page_token)] if page.next_page_token else []
        narrowed = [("state", word) for word in words]
        return await site.page(
            request,
            "tasks.html",
            workflow=workflow,
            rows=tree.rows(page.tasks),
            first=urlencode(narrowed) if token else None,
            next=urlencode([*narrowed, *following]) if following else "",
            states=words,
        )

    return [
        Route("/workflows/{workflow}", shown),
        Route("/workflows/{workflow}/tasks", tasks),
    ]


def values(found: Reading) -> dict[str, object]:
    """Returns what the templates of a workflow name."""
    workflow = found.workflow
    drawn = found.timeline

    def link(task_id: str) -> str:
        return task_url(task_name(drawn.workflow_id, task_id))

    return {
        "found": found,
        "workflow": workflow,
        "verdict": drawn.verdict,
        # What took effect and is still to be made up for; of thousands, some may only have read.
        "standing": len(drawn.verdict.to_make_up) + found.unread,
        "at_most": "at most " if found.unread else "",
        "sentence": drawn.verdict.brief,  # what somebody must decide is said below, and not twice
        "is_forward": workflow.state in FORWARD,
        "drawn": drawn,
        "where": _where(found),
        "picture": Markup(svg.embedded(drawn, link)) if drawn.rows else Markup(""),  # noqa: S704 - escaped there
        "steps": next_steps.of(workflow, (*found.news, *found.tasks)),
        "rows": _rows(found),
        "news": tree.rows(found.news),
    }


def _rows(found: Reading) -> list[tree.Row]:
    """Returns the rows of the tree; of a long one, what is quiet stands together."""
    rows = tree.rows(found.tasks)
    return rows if len(rows) <= ROWS_PLAIN else tree.folded(rows)


def _where(found: Reading) -> str:
    """Returns on how many hosts and with how many owners it works, as far as that is known."""
    hosts = {*found.timeline.hosts, *(task.host_id for task in found.tasks)} - {""}
    owners = {*found.timeline.owners, *(task.owner_id for task in found.tasks)} - {""}
    return phrases.on_places(len(hosts), len(owners))
