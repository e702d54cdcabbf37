"""`countermand workflow submit`: starts a workflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

import click

from countermand.cli.arguments import label_pair
from countermand.cli.exits import PATIENCE, PATIENCE_WHEN_FOLLOWING, run
from countermand.cli.files import read, spec_source
from countermand.cli.settings import FOLLOWED, Settings, examples, shared_options
from countermand.cli.steer import follow_options

if TYPE_CHECKING:
    from countermand.client import Client, Run
    from countermand.v1.workflow_pb2 import Workflow


@click.command(
    epilog=examples(
        "countermand workflow submit add-vm.json --id vm-42 --watch",
        """countermand workflow submit add-vm.json --id vm-43 --input '{"size": 1024}' --wait""",
        "countermand workflow submit --template create-snapshot --id snap-1 "
        "--input disks.0.image=fast/vm-42 --input snapshot_id=monday",
        "generate-spec | countermand workflow submit - --id vm-44 --label team=storage",
        exits=FOLLOWED,
    )
)
@spec_source
@click.option("--id", "chosen_id", metavar="ID", help="Yours to choose; a repeat is harmless.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
@follow_options
@shared_options()
@click.pass_obj
def submit(
    settings: Settings,
    *,
    file: TextIO | None,
    template_name: str | None,
    inputs: tuple[str, ...],
    chosen_id: str | None,
    labels: tuple[str, ...],
    watches: bool,
    waits: bool,
) -> None:
    """Start a workflow from a spec.

    The spec is YAML or JSON in a file, alone or with its input; "-" reads it from a pipe.
    Submitting the same id with the same spec again is the same workflow, with the labels that it
    has.
    """
    if watches and waits:
        raise click.UsageError("--watch and --wait exclude each other")
    pairs = dict(label_pair(label) for label in labels)

    async def work(client: Client) -> int:
        from countermand.cli.follow import followed

        # The spec is read before anything is asked, and the start does not wait for a restart: a
        # mistyped address should be heard of at once.
        named = read(file, template_name, inputs)
        workflow_id = chosen_id or named.workflow_id
        if not workflow_id:
            raise click.UsageError("give it an --id: yours to choose, a repeat is harmless")
        spec = named.message()
        wanted = {**named.labels, **pairs}
        existing = await _existing(client, workflow_id)
        made = await client.submit(
            spec,
            workflow_id=workflow_id,
            input=named.input,
            labels=wanted,
            patience=PATIENCE,
        )
        if existing is not None and dict(existing.labels) != wanted:
            _say_labels(existing)
        if watches or waits:
            return await followed(settings, made, watches=watches)
        await _say_submitted(settings, made, existing)
        return 0

    run(settings, work, patience=PATIENCE_WHEN_FOLLOWING)


def _say_labels(existing: Workflow) -> None:
    """Tells that other labels do not count: they are no part of what a workflow is, and stay."""
    has = ", ".join(f"{key}={value}" for key, value in sorted(existing.labels.items())) or "none"
    told = f"{existing.name} was there before, and its labels stay as they are: {has}."
    click.echo(f"{click.style('Note:', fg='yellow')} {told}", err=True)


async def _existing(client: Client, workflow_id: str) -> Workflow | None:
    """Returns the workflow that a submit will find, so that it is not called a new one.

    Asked before, since the answer to a start does not tell. Whatever hinders it, submit will say.
    """
    from countermand.rpc.errors import CountermandError

    try:
        return await client.run(workflow_id).get()
    except CountermandError:
        return None


async def _waits(made: Run) -> str:
    """Returns what keeps a new workflow from beginning; it is submitted whatever hinders this."""
    from countermand.cli.follow import waiting
    from countermand.rpc.errors import CountermandError

    try:
        return waiting(await made.get())
    except CountermandError:
        return ""


async def _say_submitted(settings: Settings, made: Run, existing: Workflow | None) -> None:
    from countermand.cli.output import show_run
    from countermand.cli.table import paint
    from countermand.drawing.words import workflow_look

    if settings.for_programs:
        await show_run(settings, made)
    elif settings.output == "name":
        click.echo(made.name)
    elif existing is not None:
        look = paint(workflow_look(existing.state))
        click.echo(f"{made.name} exists already: {look}. Look: countermand workflow get {made.id}")
    else:
        click.echo(f"Submitted {made.name}. Follow it: countermand workflow watch {made.id}")
        if waits := await _waits(made):
            click.echo(f"  {waits}")
