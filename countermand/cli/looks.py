"""`countermand workflow list|get|tasks|task`: how workflows are now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from countermand.cli.arguments import named, one_workflow
from countermand.cli.bulk import PAGE, Filters, filter_options
from countermand.cli.completion import complete_tasks
from countermand.cli.exits import run
from countermand.cli.limits import limit_option, up_to
from countermand.cli.settings import Settings, examples, shared_options

if TYPE_CHECKING:
    from countermand.client import Client


@click.command(
    "list",
    epilog=examples(
        "countermand workflow list --state running --state blocked",
        "countermand workflow list --attention",
        "countermand workflow list --label team=storage --older-than 2h -o name",
    ),
)
@filter_options()
@limit_option
@shared_options()
@click.pass_obj
def list_(settings: Settings, *, filters: Filters, limit: int) -> None:
    """List workflows, newest first."""

    async def work(client: Client) -> None:
        from countermand.cli.tables import show_workflows

        page = min(limit + 1, PAGE)
        found = await up_to(limit, filters.find(client, page_size=page))
        show_workflows(settings, found, str(filters))

    run(settings, work)


@click.command(
    epilog=examples(
        "countermand workflow get vm-42",
        "countermand workflow get @latest",
    )
)
@one_workflow
@shared_options()
@click.pass_obj
def get(settings: Settings, name: str) -> None:
    """Show one workflow whole.

    Its state and cause, what it needs from somebody, what is left behind, and its tasks.
    """

    async def work(client: Client) -> None:
        from countermand.cli.output import show_one
        from countermand.cli.tables import describe
        from countermand.drawing.tasks import with_tasks
        from countermand.v1.workflow_pb2 import WorkflowView

        one = await named(client, name)
        found = await one.get(WorkflowView.WORKFLOW_VIEW_FULL)
        tasks = await one.tasks()  # all pages: a FULL view ends after a thousand
        if settings.for_people:
            describe(settings, found, tasks)
        else:
            show_one(settings, with_tasks(found, tasks))

    run(settings, work)


def _complete_task_states(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    from countermand.drawing.words import TASK

    return [look.word for look in TASK.values() if look.word.startswith(begun.lower())]


@click.command(
    epilog=examples(
        "countermand workflow tasks vm-42",
        "countermand workflow tasks vm-42 --state failed --state unknown",
    )
)
@one_workflow
@click.option(
    "--state",
    "words",
    multiple=True,
    shell_complete=_complete_task_states,
    help="Only in this state, such as running or failed; repeatable.",
)
@shared_options()
@click.pass_obj
def tasks(settings: Settings, name: str, words: tuple[str, ...]) -> None:
    """List a workflow's tasks."""

    async def work(client: Client) -> None:
        from countermand.cli.tables import show_tasks, task_states

        states = task_states(words)
        one = await named(client, name)
        show_tasks(settings, await one.tasks(states), " or ".join(words))

    run(settings, work)


@click.command(epilog=examples("countermand workflow task vm-42 copy-1"))
@one_workflow
@click.argument("task_name", metavar="TASK", shell_complete=complete_tasks)
@shared_options()
@click.pass_obj
def task(settings: Settings, name: str, task_name: str) -> None:
    """Show one task with its context.

    What came into it and from where, what it left, every attempt, and what was decided about it.
    """

    async def work(client: Client) -> None:
        from countermand.cli.context import describe_task
        from countermand.cli.output import show_one

        one = await named(client, name)
        found = await one.task(task_name.rpartition("/")[2])
        if settings.for_people:
            describe_task(found)
        else:
            show_one(settings, found)

    run(settings, work)
