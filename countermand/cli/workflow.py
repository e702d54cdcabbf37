"""`countermand workflow`: submits, shows, follows and steers workflows."""

from __future__ import annotations

import click

from countermand.cli.bundle import bundle
from countermand.cli.compensation import compensation
from countermand.cli.events import workflow_events
from countermand.cli.lint import lint, plan
from countermand.cli.looks import get, list_, task, tasks
from countermand.cli.resume import requirements, resume
from countermand.cli.settings import NAMES_OF_WORKFLOWS, OrderedGroup, examples, names
from countermand.cli.steer import cancel, fence, fork, pause
from countermand.cli.submit import submit
from countermand.cli.timeline import timeline
from countermand.cli.waits import wait, watch


@click.group(
    cls=OrderedGroup,
    aliases={"logs": "events", "show": "get"},  # what hands type that come from elsewhere
    epilog=names(*NAMES_OF_WORKFLOWS)
    + examples(
        "countermand workflow submit add-vm.json --id vm-42 --watch",
        "countermand workflow list --attention",
        "countermand workflow get @latest",
        exits=(),
    ),
)
def workflow() -> None:
    """Submit, follow and steer workflows."""


for command in (
    *(submit, lint, plan),
    *(list_, get, tasks, task, workflow_events, timeline, bundle),
    *(watch, wait),
    *(cancel, pause, resume, requirements, compensation, fence, fork),
):
    workflow.add_command(command)
