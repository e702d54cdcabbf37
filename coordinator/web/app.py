"""Puts the page together: every route in one table, and what every answer passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route

from coordinator.web import answering, bundle, errors, gateway, guards
from coordinator.web.address import Beside
from coordinator.web.forms import desk
from coordinator.web.pages import (
    finding,
    history,
    hosts,
    live,
    owners,
    static,
    task,
    webhooks,
    workflow,
)
from coordinator.web.pages import workflows as workflow_list
from coordinator.web.site import Site

# One row per subject: a function from the site to its routes. What is added goes in here.
ROOMS: Final[Sequence[Callable[[Site], Sequence[BaseRoute]]]] = (
    workflow_list.routes,
    finding.routes,
    workflow.routes,
    task.routes,
    history.routes,
    live.routes,
    hosts.routes,
    owners.routes,
    webhooks.routes,
    desk.routes,
    bundle.routes,
    gateway.routes,
    static.routes,
)


def make_app(site: Site, beside: Beside = ()) -> Starlette:
    """Returns the application."""
    return Starlette(
        routes=[
            *(Route(path, app, methods=["GET"]) for path, app in beside),
            *(route for room in ROOMS for route in room(site)),
        ],
        middleware=[Middleware(guards.Guards), Middleware(answering.Answering, site=site)],
        exception_handlers=errors.handlers(site),
    )
