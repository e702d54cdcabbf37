"""All forms of the page in one list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.routing import BaseRoute

from coordinator.web.forms import (
    hosts,
    offered,
    owners,
    replacing,
    resume,
    tasks,
    webhooks,
    workflows,
)
from coordinator.web.forms.serving import Deed, Desk
from coordinator.web.site import Site

DEEDS: Final[Sequence[Deed]] = (
    *workflows.DEEDS,
    *resume.DEEDS,
    *tasks.DEEDS,
    *replacing.DEEDS,
    *owners.DEEDS,
    *hosts.DEEDS,
    *webhooks.DEEDS,
)


def routes(site: Site) -> Sequence[BaseRoute]:
    """Returns the routes of all forms."""
    site.templates.globals.update(
        offers=offered.of_workflow, task_offers=offered.of_task, host_offers=offered.of_host
    )
    return Desk(site=site).routes(DEEDS)
