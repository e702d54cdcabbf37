"""`countermand workflow`: submits, shows, follows and steers workflows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TextIO

import click

from countermand.cli.arguments import label_pair, named
from countermand.cli.compensation import compensation
from countermand.cli.exits import PATIENCE, PATIENCE_WHEN_FOLLOWING, run
from countermand.cli.files import read, spec_source
from countermand.cli.lint import lint, plan
from countermand.cli.resume import requirements, resume
from countermand.cli.settings import (
    NAMES_OF_WORKFLOWS,
    OrderedGroup,
    Settings,
    Span,
    examples,
    names,
    shared_options,
)
from countermand.cli.steer import cancel, fence, fork, pause
from countermand.cli.timeline import timeline
from countermand.drawing import phrases

if TYPE_CHECKING:
    from countermand.client import Client, Run
    from countermand.v1.workflow_pb2 import Workflow


@click.group(
    cls=OrderedGroup,
    epilog=names(*NAMES_OF_WORKFLOWS)
    + examples(
        "countermand workflow submit add-vm.json --id vm-42 --watch",
        "countermand workflow list --attention",
        "countermand workflow get @latest",
    ),
)
def workflow() -> None:
    """Submit, follow and steer workflows."""


# -- start --------------------------------------------------------------------------------------


@workflow.command(
    epilog=examples(
        "countermand workflow submit add-vm.json --id vm-42 --watch",
        """countermand workflow submit add-vm.json --id vm-43 --input '{"size": 1024}' --wait""",
        "countermand workflow submit --template create-snapshot --id snap-1 "
        "--input disks.0.image=fast/vm-42 --input snapshot_id=monday",
        "generate-spec | countermand workflow submit - --id vm-44 --label team=storage",
    )
)
@spec_source
@click.option("--id", "chosen_id", metavar="ID", help="Yours to choose; a repeat is harmless.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
@click.option("--watch", "watches", is_flag=True, help="Follow it until it is settled.")
@click.option(
    "--wait", "waits", is_flag=True, help="Only say how it ended, and what it waits in line for."
)
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
    Submitting the same id with the same spec again is the same workflow.
    """
    if watches and waits:
        raise click.UsageError("--watch and --wait exclude each other")
    pairs = dict(label_pair(label) for label in labels)

    async def work(client: Client) -> int:
        from countermand.cli.follow import follow, wait_quietly

        # The spec is read before anything is asked, and the start does not wait for a restart: a
        # mistyped address should be heard of at once.
        named = read(file, template_name, inputs)
        workflow_id = chosen_id or named.workflow_id
        if not workflow_id:
            raise click.UsageError("give it an --id: yours to choose, a repeat is harmless")
        spec = named.message()
        existing = await _existing(client, workflow_id)
        made = await client.submit(
            spec,
            workflow_id=workflow_id,
            input=named.input,
            labels={**named.labels, **pairs},
            patience=PATIENCE,
        )
        if watches:
            return await follow(settings, made)
        if waits:
            return await wait_quietly(settings, made, settled=False)
        in_line = await _waits(made) if settings.output == "table" and existing is None else ""
        _say_submitted(settings, made.name, existing, in_line)
        return 0

    run(settings, work, patience=PATIENCE_WHEN_FOLLOWING)


workflow.add_command(lint)
workflow.add_command(plan)


# -- look ---------------------------------------------------------------------------------------


@workflow.command(
    "list",
    epilog=examples(
        "countermand workflow list --state running --state blocked",
        "countermand workflow list --attention",
        "countermand workflow list --label team=storage --older-than 2h -o name",
    ),
)
@click.option("--state", "states", multiple=True, help="Such as running or blocked; repeatable.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="All of these.")
@click.option("--kind", default="", help="Only of this kind.")
@click.option("--host", "host_id", default="", help="Only with a task on this host.")
@click.option(
    "--attention",
    "--needs-attention",
    "attention",
    is_flag=True,
    help="Only those that need somebody.",
)
@click.option("--older-than", "min_age", type=Span(), help="Only submitted so long ago, as 2h.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(min=1))
@shared_options()
@click.pass_obj
def list_(
    settings: Settings,
    *,
    states: tuple[str, ...],
    labels: tuple[str, ...],
    kind: str,
    host_id: str,
    attention: bool,
    min_age: timedelta | None,
    limit: int,
) -> None:
    """List workflows, newest first."""
    pairs = dict(label_pair(label) for label in labels)

    async def work(client: Client) -> None:
        from countermand.cli.tables import show_workflows, workflow_states

        found = []
        async for one in client.list(
            states=workflow_states(states),
            labels=pairs,
            kind=kind,
            host_id=host_id,
            min_age=min_age,
            needs_attention=attention,
            page_size=min(limit, 500),
        ):
            found.append(one)
            if len(found) == limit:
                break
        filters = _filters(
            states=states,
            labels=labels,
            kind=kind,
            host_id=host_id,
            attention=attention,
            min_age=min_age,
        )
        show_workflows(settings, found, filters)

    run(settings, work)


@workflow.command(
    epilog=examples("countermand workflow get vm-42", "countermand workflow get @latest")
)
@click.argument("name", metavar="WORKFLOW")
@shared_options()
@click.pass_obj
def get(settings: Settings, name: str) -> None:
    """Show one workflow whole.

    Its state and cause, what it needs from somebody, what is left behind, and its tasks.
    """

    async def work(client: Client) -> None:
        from countermand.cli.output import show_one
        from countermand.cli.tables import describe
        from countermand.v1.workflow_pb2 import WorkflowView

        one = await named(client, name)
        if settings.output == "table":
            describe(await one.get(WorkflowView.WORKFLOW_VIEW_FULL), await one.tasks())
        else:
            show_one(settings, await one.get(WorkflowView.WORKFLOW_VIEW_FULL))

    run(settings, work)


@workflow.command(epilog=examples("countermand workflow tasks vm-42"))
@click.argument("name", metavar="WORKFLOW")
@shared_options()
@click.pass_obj
def tasks(settings: Settings, name: str) -> None:
    """List a workflow's tasks."""

    async def work(client: Client) -> None:
        from countermand.cli.tables import show_tasks

        one = await named(client, name)
        show_tasks(settings, await one.tasks())

    run(settings, work)


@workflow.command(epilog=examples("countermand workflow task vm-42 copy-1"))
@click.argument("name", metavar="WORKFLOW")
@click.argument("task_name", metavar="TASK")
@shared_options()
@click.pass_obj
def task(settings: Settings, name: str, task_name: str) -> None:
    """Show one task with its context.

    What came into it and from where, what it left, every attempt, and what was decided about it.
    """

    async def work(client: Client) -> None:
        from countermand.cli.context import describe_task
        from countermand.cli.output import show_json

        one = await named(client, name)
        found = await one.task(task_name.rpartition("/")[2])
        if settings.output == "json":
            show_json(found)
        elif settings.output == "name":
            click.echo(found.name)
        else:
            describe_task(found)

    run(settings, work)


@workflow.command(epilog=examples("countermand workflow events vm-42"))
@click.argument("name", metavar="WORKFLOW")
@click.option("--after", default=0, help="Only events after this sequence.")
@shared_options()
@click.pass_obj
def events(settings: Settings, name: str, after: int) -> None:
    """Show a workflow's history.

    One line per event; one JSON object per line with -o json.
    """
    if settings.output == "name":
        raise click.UsageError("an event has no name; -o json has one object per line")

    async def work(client: Client) -> None:
        from countermand.cli.lines import show_event

        one = await named(client, name)
        async for event in one.events(after):
            show_event(settings, event)

    run(settings, work)


workflow.add_command(timeline)


# -- follow -------------------------------------------------------------------------------------


@workflow.command(
    epilog=examples(
        "countermand workflow watch @latest", "countermand workflow watch vm-42 | tee log"
    )
)
@click.argument("name", metavar="WORKFLOW")
@shared_options()
@click.pass_obj
def watch(settings: Settings, name: str) -> None:
    """Follow a workflow to its end.

    A live tree on a terminal, a line per event in a pipe. Survives restarts of the coordinator.
    Ctrl-C stops the watching and nothing else.
    """

    async def work(client: Client) -> int:
        from countermand.cli.follow import follow

        return await follow(settings, await named(client, name))

    run(settings, work, patience=PATIENCE_WHEN_FOLLOWING)


@workflow.command(
    epilog=examples(
        "countermand workflow wait vm-42 --timeout 10m",
        "countermand workflow wait @latest || countermand workflow get @latest",
    )
)
@click.argument("name", metavar="WORKFLOW")
@click.option("--settled", is_flag=True, help="Keep waiting when it only needs somebody.")
@shared_options()
@click.pass_obj
def wait(settings: Settings, name: str, settled: bool) -> None:
    """Wait for a workflow's end.

    Returns once it is settled or needs somebody; the exit code says which.
    """

    async def work(client: Client) -> int:
        from countermand.cli.follow import wait_quietly

        return await wait_quietly(settings, await named(client, name), settled=settled)

    run(settings, work, patience=PATIENCE_WHEN_FOLLOWING)


for command in (cancel, pause, resume, requirements, compensation, fence, fork):
    workflow.add_command(command)


def _filters(
    *,
    states: Sequence[str],
    labels: Sequence[str],
    kind: str,
    host_id: str,
    attention: bool,
    min_age: timedelta | None,
) -> str:
    """Returns what a list was asked for, as the end of "No workflow …"."""
    parts = [
        "needs anybody" if attention else "",
        f"is {' or '.join(states)}" if states else "",
        f"is of kind {kind}" if kind else "",
        f"has a task on {host_id}" if host_id else "",
        f"has label {' and '.join(labels)}" if labels else "",
        f"is older than {phrases.duration(min_age.total_seconds())}" if min_age else "",
    ]
    return " and ".join(filter(None, parts))


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


def _say_submitted(
    settings: Settings, name: str, existing: Workflow | None, waits: str = ""
) -> None:
    if settings.output == "json":
        click.echo(json.dumps({"name": name}))
    elif settings.output == "name":
        click.echo(name)
    else:
        from countermand.cli.output import paint
        from countermand.drawing.words import workflow_look

        workflow_id = name.removeprefix("workflows/")
        if existing is not None:
            look = paint(workflow_look(existing.state))
            click.echo(
                f"{name} exists already: {look}. Look: countermand workflow get {workflow_id}"
            )
            return
        click.echo(f"Submitted {name}. Follow it: countermand workflow watch {workflow_id}")
        if waits:
            click.echo(f"  {waits}")
