"""`countermand workflow cancel|pause|fork`: what people decide about a whole workflow."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from countermand.cli.arguments import label_pair, named
from countermand.cli.exits import run
from countermand.cli.files import input_option, merged
from countermand.cli.settings import Settings, examples, shared_options

if TYPE_CHECKING:
    from countermand.client import Client
    from countermand.v1.workflow_pb2 import Workflow


@click.command(epilog=examples('countermand workflow cancel vm-42 --reason "wrong template"'))
@click.argument("name", metavar="WORKFLOW")
@click.option("--reason", required=True, help="Why, for the audit.")
@shared_options()
@click.pass_obj
def cancel(settings: Settings, name: str, reason: str) -> None:
    """Stop it, and make up for what it did."""

    async def work(client: Client) -> None:
        say_state(settings, await (await named(client, name)).cancel(reason))

    run(settings, work)


@click.command(epilog=examples('countermand workflow pause vm-42 --reason "switch maintenance"'))
@click.argument("name", metavar="WORKFLOW")
@click.option("--reason", required=True, help="Why, for the audit.")
@click.option("--hold-compensation", is_flag=True, help="Hold compensation too; else it goes on.")
@shared_options()
@click.pass_obj
def pause(settings: Settings, name: str, reason: str, hold_compensation: bool) -> None:
    """Start nothing new for a while.

    Attempts in flight end by themselves, and compensation goes on unless it is held too.
    """

    async def work(client: Client) -> None:
        from countermand.rpc.errors import StateForbids

        one = await named(client, name)
        try:
            say_state(settings, await one.pause(reason, hold_compensation=hold_compensation))
        except StateForbids as error:
            compensating = error.metadata.get("state") in {"COMPENSATING", "BLOCKED"}
            if compensating and settings.output == "table":
                click.echo("To hold compensations, too: --hold-compensation", err=True)
            raise

    run(settings, work)


@click.command(
    epilog=examples(
        "countermand workflow fence vm-42 copy-1 --reason 'host-a has lost its power'",
        "countermand workflow fence vm-42 copy-1 --via host-b --reason 'host-a hangs'",
    )
)
@click.argument("name", metavar="WORKFLOW")
@click.argument("task")
@click.option("--via", "host", default="", metavar="HOST", help="The host that does it; else any.")
@click.option("--reason", required=True, help="Why, for the audit.")
@shared_options()
@click.pass_obj
def fence(settings: Settings, name: str, task: str, host: str, reason: str) -> None:
    """Settle a task whose host is lost.

    Another host that reaches the same shared pool looks: what the task made is there, and it
    succeeded; or it never will be, however late its host goes on, and it failed and may be retried.
    """

    async def work(client: Client) -> None:
        one = await named(client, name)
        say_state(settings, await one.fence(task.rpartition("/")[2], reason, host=host))

    run(settings, work)


@click.command(
    epilog=examples(
        "countermand workflow fork vm-42 --id vm-43",
        "countermand workflow fork vm-42 --id vm-43 --input target=fast/disk-2",
    )
)
@click.argument("name", metavar="WORKFLOW")
@click.option("--id", "workflow_id", required=True, metavar="NEW", help="The new one's id.")
@input_option
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
@shared_options()
@click.pass_obj
def fork(
    settings: Settings,
    name: str,
    workflow_id: str,
    inputs: tuple[str, ...],
    labels: tuple[str, ...],
) -> None:
    """Start it anew, as a new workflow.

    From the spec, input and labels of the old one, whatever became of it; an input that is given
    is laid over the old one.
    """
    pairs = dict(label_pair(label) for label in labels)

    async def work(client: Client) -> None:
        from google.protobuf import json_format

        from countermand.v1.workflow_pb2 import WorkflowView

        one = await named(client, name)
        given = None
        if inputs:
            old = await one.get(WorkflowView.WORKFLOW_VIEW_FULL)
            spec = json_format.MessageToDict(old.spec) if old.HasField("spec") else None
            given = merged(inputs, json_format.MessageToDict(old.input), (), spec)
        made = await one.fork(workflow_id, input=given, labels=pairs)
        if settings.output == "json":
            click.echo(json.dumps({"name": made.name}))
        elif settings.output == "name":
            click.echo(made.name)
        else:
            said = f"Forked {made.name} from {one.name}."
            click.echo(f"{said} Follow it: countermand workflow watch {made.id}")

    run(settings, work)


def say_state(settings: Settings, changed: Workflow) -> None:
    """Tells how a workflow stands after a change, and what it waits for."""
    from countermand.cli.output import paint, show_one
    from countermand.drawing.words import workflow_look

    if settings.output == "table":
        click.echo(f"{changed.name} is {paint(workflow_look(changed.state))}")
        for need in changed.needs:
            click.echo(f"  needs somebody: {need.message}")
    else:
        show_one(settings, changed)
