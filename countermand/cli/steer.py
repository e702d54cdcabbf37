"""`countermand workflow cancel|pause|resume`: what people decide about a workflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from countermand.cli.arguments import json_object, named
from countermand.cli.exits import run
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
        _say_state(settings, await (await named(client, name)).cancel(reason))

    run(settings, work)


@click.command(epilog=examples('countermand workflow pause vm-42 --reason "switch maintenance"'))
@click.argument("name", metavar="WORKFLOW")
@click.option("--reason", required=True, help="Why, for the audit.")
@click.option("--hold-compensation", is_flag=True, help="Hold compensation too; else it goes on.")
@shared_options()
@click.pass_obj
def pause(settings: Settings, name: str, reason: str, hold_compensation: bool) -> None:
    """Start nothing new for a while (not served yet).

    Attempts in flight end by themselves, and compensation goes on unless it is held too.
    """

    async def work(client: Client) -> None:
        one = await named(client, name)
        _say_state(settings, await one.pause(reason, hold_compensation=hold_compensation))

    run(settings, work)


@click.command(
    epilog=examples(
        "countermand workflow resume vm-42",
        'countermand workflow resume vm-42 --rerun copy-3 --reason "space freed"',
        "countermand workflow resume vm-42 --skip verify --reason 'checked by hand'",
    )
)
@click.argument("name", metavar="WORKFLOW")
@click.option("--rerun", "reruns", multiple=True, metavar="TASK", help="Run it again.")
@click.option(
    "--skip", "skips", multiple=True, metavar="TASK[=JSON]", help="Go on after it, with outputs."
)
@click.option("--give-up", "give_ups", multiple=True, metavar="TASK", help="Make up for it all.")
@click.option("--reason", default="", help="Why, for the audit; required with a decision.")
@shared_options()
@click.pass_obj
def resume(
    settings: Settings,
    *,
    name: str,
    reruns: tuple[str, ...],
    skips: tuple[str, ...],
    give_ups: tuple[str, ...],
    reason: str,
) -> None:
    """Go on after a pause (not served yet).

    Takes one decision for each task that needs one; all of them hold, or none.
    """
    if (reruns or skips or give_ups) and not reason:
        raise click.UsageError("a decision needs a --reason")
    outputs = {
        task: json_object(text or None) for task, _, text in (s.partition("=") for s in skips)
    }

    async def work(client: Client) -> None:
        from countermand.cli.decisions import decisions

        one = await named(client, name)
        made = decisions(one.name, reruns=reruns, skips=outputs, give_ups=give_ups)
        _say_state(settings, await one.resume(reason, decisions=made))

    run(settings, work)


def _say_state(settings: Settings, changed: Workflow) -> None:
    from countermand.cli.output import paint, show_one
    from countermand.cli.words import workflow_look

    if settings.output == "table":
        click.echo(f"{changed.name} is {paint(workflow_look(changed.state))}")
    else:
        show_one(settings, changed)
