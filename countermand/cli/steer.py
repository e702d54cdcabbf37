"""`countermand workflow cancel|pause|fence|fork`: what people decide about a whole workflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from countermand.cli.arguments import label_pair, named
from countermand.cli.bulk import (
    Change,
    Filters,
    change_all,
    dry_run_option,
    filter_options,
    yes_option,
)
from countermand.cli.completion import complete_hosts, complete_tasks, complete_workflows
from countermand.cli.exits import PATIENCE, PATIENCE_WHEN_FOLLOWING, run
from countermand.cli.files import input_option, merged
from countermand.cli.settings import FOLLOWED, Settings, examples, shared_options

if TYPE_CHECKING:
    from countermand.client import Client, Run
    from countermand.v1.workflow_pb2 import Workflow


_Command = TypeVar("_Command", bound=Callable[..., Any])


def follow_options(command: _Command) -> _Command:
    """Adds what one does after something has been set going."""
    told = "Only say how it ended, and what it waits in line for."
    waits = click.option("--wait", "waits", is_flag=True, help=told)
    watches = click.option("--watch", "watches", is_flag=True, help="Follow it to its end.")
    return watches(waits(command))


# In which a workflow can still be stopped, and in which it can be held: as a coordinator has it
# (`coordinator/saga/requests.py`).
CANCELLABLE = ("running", "pausing", "paused", "blocked")
HOLDABLE = ("running", "blocked")
HOLDABLE_WITH_COMPENSATION = ("running", "compensating", "blocked")

many = click.argument("given", metavar="[WORKFLOW]...", nargs=-1, shell_complete=complete_workflows)


@click.command(
    epilog=examples(
        'countermand workflow cancel vm-42 --reason "wrong template"',
        "countermand workflow cancel --label team=storage --state running --dry-run",
        "countermand workflow cancel --label team=storage --yes --reason 'the team is gone'",
    )
)
@many
@filter_options()
@click.option("--reason", default="", help="Why, for the audit; required.")
@dry_run_option
@yes_option
@shared_options()
@click.pass_obj
def cancel(
    settings: Settings,
    *,
    given: tuple[str, ...],
    filters: Filters,
    reason: str,
    dry_run: bool,
    yes: bool,
) -> None:
    """Stop it, and make up for what it did.

    Several are named, or chosen as `workflow list` chooses them: they are counted first, and what
    fails is told one by one.
    """
    demand_reason(reason, dry_run=dry_run)

    async def foretell(one: Run) -> str:
        from countermand.cli.resumed import made_up_for

        tasks = await one.tasks()
        return f"Cancelling it: {made_up_for(tasks, limit=len(tasks))}."

    change = Change(
        verb="cancel",
        done="cancelled",
        states=CANCELLABLE,
        turned_round=False,
        make=lambda one: one.cancel(reason),
        imagine=lambda one: one.cancel(reason, validate_only=True),
        foretell=foretell,
    )

    change_all(settings, change, given=given, filters=filters, dry_run=dry_run, yes=yes)


@click.command(
    epilog=examples(
        'countermand workflow pause vm-42 --reason "switch maintenance"',
        "countermand workflow pause --host host-a --reason 'host-a gets a new kernel'",
    )
)
@many
@filter_options()
@click.option("--reason", default="", help="Why, for the audit; required.")
@click.option("--hold-compensation", is_flag=True, help="Hold compensation too; else it goes on.")
@dry_run_option
@yes_option
@shared_options()
@click.pass_obj
def pause(
    settings: Settings,
    *,
    given: tuple[str, ...],
    filters: Filters,
    reason: str,
    hold_compensation: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Start nothing new for a while.

    Attempts in flight end by themselves, and compensation goes on unless it is held too. Several
    are named, or chosen as `workflow list` chooses them: they are counted first.
    """
    demand_reason(reason, dry_run=dry_run)

    async def make(one: Run, *, imagined: bool = False) -> Workflow:
        from countermand.rpc.errors import StateForbids

        try:
            return await one.pause(
                reason, hold_compensation=hold_compensation, validate_only=imagined
            )
        except StateForbids as error:
            compensating = error.metadata.get("state") in {"COMPENSATING", "BLOCKED"}
            if compensating and settings.for_people:
                click.echo("To hold compensations, too: --hold-compensation", err=True)
            raise

    states = HOLDABLE_WITH_COMPENSATION if hold_compensation else HOLDABLE
    change = Change(
        verb="pause",
        done="paused",
        states=states,
        turned_round=hold_compensation,
        make=make,
        imagine=lambda one: make(one, imagined=True),
    )

    change_all(settings, change, given=given, filters=filters, dry_run=dry_run, yes=yes)


def demand_reason(reason: str, *, dry_run: bool) -> None:
    """Refuses a change without a reason; what changes nothing needs none."""
    if not (reason or dry_run):
        raise click.UsageError("Missing option '--reason': say why, for the audit")


@click.command(
    epilog=examples(
        "countermand workflow fence vm-42 copy-1 --reason 'host-a has lost its power'",
        "countermand workflow fence vm-42 copy-1 --via host-b --reason 'host-a hangs'",
    )
)
@click.argument("name", metavar="WORKFLOW", shell_complete=complete_workflows)
@click.argument("task", shell_complete=complete_tasks)
@click.option(
    "--via",
    "host",
    default="",
    metavar="HOST",
    shell_complete=complete_hosts,
    help="The host that does it; else any.",
)
@click.option("--reason", required=True, help="Why, for the audit.")
@shared_options()
@click.pass_obj
def fence(settings: Settings, name: str, task: str, host: str, reason: str) -> None:
    """Settle a task whose host is lost.

    Another host that reaches the same shared pool looks: what the task made is there, and it
    succeeded; or it never will be, however late its host goes on, and it failed and may be retried.
    """

    async def work(client: Client) -> None:
        one = await named(client, name, f"Fence {task} in it")
        say_state(settings, await one.fence(task.rpartition("/")[2], reason, host=host))

    run(settings, work)


@click.command(
    epilog=examples(
        "countermand workflow fork vm-42 --id vm-43",
        "countermand workflow fork vm-42 --id vm-43 --input target=fast/disk-2 --watch",
        exits=FOLLOWED,
    )
)
@click.argument("name", metavar="WORKFLOW", shell_complete=complete_workflows)
@click.option("--id", "workflow_id", required=True, metavar="NEW", help="The new one's id.")
@input_option
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
@follow_options
@shared_options()
@click.pass_obj
def fork(
    settings: Settings,
    *,
    name: str,
    workflow_id: str,
    inputs: tuple[str, ...],
    labels: tuple[str, ...],
    watches: bool,
    waits: bool,
) -> None:
    """Start it anew, as a new workflow.

    From the spec, input and labels of the old one, whatever became of it; an input that is given
    is laid over the old one.
    """
    pairs = dict(label_pair(label) for label in labels)

    async def work(client: Client) -> int:
        from google.protobuf import json_format

        from countermand.cli.follow import followed
        from countermand.cli.output import show_run
        from countermand.v1.workflow_pb2 import WorkflowView

        one = await named(client, name)
        given = None
        if inputs:
            old = await one.get(WorkflowView.WORKFLOW_VIEW_FULL)
            spec = json_format.MessageToDict(old.spec) if old.HasField("spec") else None
            given = merged(inputs, json_format.MessageToDict(old.input), (), spec)
        made = await one.fork(workflow_id, input=given, labels=pairs)
        if watches or waits:
            return await followed(settings, made, watches=watches)
        if settings.for_programs:
            await show_run(settings, made)
        elif settings.output == "name":
            click.echo(made.name)
        else:
            said = f"Forked {made.name} from {one.name}."
            click.echo(f"{said} Follow it: countermand workflow watch {made.id}")
        return 0

    run(settings, work, patience=PATIENCE_WHEN_FOLLOWING if watches or waits else PATIENCE)


def say_state(settings: Settings, changed: Workflow) -> None:
    """Tells how a workflow stands after a change, and what it waits for."""
    from countermand.cli.output import show_one
    from countermand.cli.table import paint
    from countermand.drawing.words import workflow_look

    if settings.for_people:
        click.echo(f"{changed.name} is {paint(workflow_look(changed.state))}")
        for need in changed.needs:
            click.echo(f"  needs somebody: {need.message}")
    else:
        show_one(settings, changed)
