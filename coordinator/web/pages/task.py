"""The page of one task: what came in and from where, what it left, every attempt, who decided."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from google.protobuf import json_format
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from coordinator.web import tree
from coordinator.web.site import Site
from countermand.drawing.made_up import given_by, how_made_up
from countermand.drawing.tasks import GROUPS, flat
from countermand.v1.task_pb2 import Task

MEMBERS_MAX: Final = 200  # as many as a page of tasks has


def routes(site: Site) -> Sequence[BaseRoute]:
    """Returns the route of a task."""

    async def shown(request: Request) -> Response:
        workflow_id, task_id = request.path_params["workflow"], request.path_params["task"]
        task, workflow = await asyncio.gather(
            site.calls.task(workflow_id, task_id), site.calls.workflow(workflow_id)
        )
        return await site.page(
            request,
            "task.html",
            task=task,
            workflow=workflow,
            workflow_id=workflow_id,
            outputs=_outputs(task),
            given_by=given_by(task),
            made_up=how_made_up(task),
            members=tree.rows(await _members(site, task, workflow_id)),
        )

    return [Route("/workflows/{workflow}/tasks/{task}", shown)]


async def _members(site: Site, task: Task, workflow_id: str) -> Sequence[Task]:
    """Returns the members of a group; of a very large workflow those among its first tasks."""
    if task.kind not in GROUPS:
        return ()
    page = await site.calls.tasks(workflow_id)
    return [each for each in page.tasks if each.parent == task.name][:MEMBERS_MAX]


def _outputs(task: Task) -> list[tuple[str, str]]:
    """Returns what a task left, a path and a value each."""
    left = json_format.MessageToDict(task.output, preserving_proto_field_name=True)
    return [(path, value) for each in left.values() for path, value in flat(each, "") if path]
