"""All forms of the page in one list."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute

from coordinator.web.forms import hosts, offered, owners, resume, tasks, workflows
from coordinator.web.forms.serving import Desk
from coordinator.web.site import Site


def routes(site: Site) -> Sequence[BaseRoute]:
    """Returns the routes of all forms."""
    site.templates.globals.update(
        offers=offered.of_workflow, task_offers=offered.of_task, host_offers=offered.of_host
    )
    deeds = (*workflows.DEEDS, *resume.DEEDS, *tasks.DEEDS, *owners.DEEDS, *hosts.DEEDS)
    return Desk(site=site).routes(deeds)
