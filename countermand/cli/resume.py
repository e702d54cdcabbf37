"""`countermand workflow resume|requirements`: how a held workflow goes on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from countermand.cli.arguments import named, one_workflow, pair, plain
from countermand.cli.asking import at_terminal
from countermand.cli.bulk import Change, Filters, change_all, filter_options, yes_option
from countermand.cli.completion import complete_tasks, complete_tasks_for_hosts
from countermand.cli.exits import FAILED, PATIENCE, PATIENCE_WHEN_FOLLOWING, fail, run
from countermand.cli.settings import FOLLOWED, Settings, examples, shared_options
from countermand.cli.steer import follow_options, many

if TYPE_CHECKING:
    from countermand.client import Client, Run
    from countermand.rpc.errors import RequirementsUnmet
    from countermand.v1.workflow_pb2 import ResumeDecision, ResumeWorkflowResponse, Workflow

# In which a workflow can go on as it is: as a coordinator has it (`coordinator/saga/requests.py`).
RESUMABLE = ("pausing", "paused")

_INDEX = re.compile("[0-9]{1,9}")


def _indices(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Returns the indices of items, as in "1,2"."""
    parts = value.split(",") if value else []
    if not all(_INDEX.fullmatch(part.strip()) for part in parts):
        raise click.BadParameter(f"{value!r} is no list of indices: write 1,2; the first item is 0")
    return tuple(int(part) for part in parts)


@click.command(
    epilog=examples(
        "countermand workflow resume vm-42",
        'countermand workflow resume vm-42 --rerun copy-3 --reason "space freed"',
        "countermand workflow resume vm-42 --rerun copy-3 --set copy-3.target.pool_id=slow "
        "--reason moved --dry-run",
        "countermand workflow resume vm-42 --skip copy-1 --output image.pool_id=fast "
        "--output image.image_id=disk-1 --reason 'copied by hand'",
        "countermand workflow resume vm-42 --rerun disks --items 1,2 --reason 'space freed'",
        "countermand workflow resume vm-42 --rerun copy-3 --host copy-3=host-b --reason moved",
        "countermand workflow resume --label team=storage --dry-run",
        exits=FOLLOWED,
    )
)
@many
@click.option(
    "--rerun",
    "reruns",
    multiple=True,
    metavar="TASK",
    shell_complete=complete_tasks,
    help="Run it again.",
)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="TASK.FIELD=VALUE",
    help="Change an argument of a rerun; of an external task: TASK.arguments.KEY=VALUE.",
)
@click.option(
    "--skip",
    "skips",
    multiple=True,
    metavar="TASK",
    shell_complete=complete_tasks,
    help="Go on after it.",
)
@click.option(
    "--output",
    "outputs",
    multiple=True,
    metavar="TASK.FIELD=VALUE",
    help="Give a skipped task an output that later ones read. (-o is the form of output.)",
)
@click.option(
    "--compensate",
    "compensates",
    multiple=True,
    metavar="TASK",
    shell_complete=complete_tasks,
    help="Make up for it all.",
)
@click.option(
    "--input", "inputs", multiple=True, metavar="FIELD=VALUE", help="Change the workflow's input."
)
@click.option(
    "--items", callback=_indices, metavar="1,2", help="Of a fan-out, run only these again."
)
@click.option("--reset", is_flag=True, help="Of a group, run all again; make up for it first.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="TASK=HOST",
    shell_complete=complete_tasks_for_hosts,
    help="Run it there.",
)
@click.option("--reason", default="", help="Why, for the audit; required with a decision.")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@filter_options(host=False)
@yes_option
@follow_options
@shared_options(form=("-o",))
@click.pass_obj
def resume(
    settings: Settings,
    *,
    given: tuple[str, ...],
    filters: Filters,
    yes: bool,
    watches: bool,
    waits: bool,
    reruns: tuple[str, ...],
    sets: tuple[str, ...],
    skips: tuple[str, ...],
    outputs: tuple[str, ...],
    compensates: tuple[str, ...],
    inputs: tuple[str, ...],
    items: tuple[int, ...],
    reset: bool,
    hosts: tuple[str, ...],
    reason: str,
    dry_run: bool,
) -> None:
    """Go on after a pause.

    Takes one decision for each task that needs one; all of them hold, or none. Without any, on a
    terminal, it asks for them one by one, and sends nothing before a last look; in a pipe it lists
    what is needed, as `countermand workflow requirements WORKFLOW` does.

    Several are named, or chosen as `workflow list` chooses them, to go on as they are: they are
    counted first, and those that need decisions are told.
    """
    decided = bool(reruns or skips or compensates)
    if decided and not (reason or dry_run):
        raise click.UsageError("a decision needs a --reason")
    if filters or len(given) != 1:
        if decided or inputs or watches or waits:
            raise click.UsageError("decisions, --input, --watch and --wait are about one WORKFLOW")
        _resume_many(settings, given, filters, reason, dry_run=dry_run, yes=yes)
    changed = {key: plain(text) for key, text in (pair(one, "--input") for one in inputs)}

    async def work(client: Client) -> int:
        from countermand.cli.decided import decisions_of, in_options
        from countermand.cli.follow import followed
        from countermand.cli.typed import texts_of
        from countermand.rpc.errors import FieldInvalid, RequirementsUnmet

        one = await named(client, given[0], "Resume it")
        if not (decided or inputs or dry_run) and settings.for_people and at_terminal():
            return await _walked(settings, one, reason, watches=watches, waits=waits)
        made: list[ResumeDecision] = decisions_of(
            reruns=reruns,
            sets=sets,
            skips=skips,
            outputs=outputs,
            compensates=compensates,
            items=items,
            reset=reset,
            hosts=hosts,
            is_text=await texts_of(one, (*sets, *outputs)),
        )
        before = (await one.get()).last_sequence if watches else 0
        try:
            answer = await one.resume(reason, decisions=made, input=changed, validate_only=dry_run)
        except RequirementsUnmet as error:
            return await _unmet(settings, one, error)
        except FieldInvalid as error:  # programs know the request by its own fields
            raise (error if settings.for_programs else in_options(error, made)) from None
        if (watches or waits) and not dry_run:
            return await followed(settings, one, watches=watches, after=before)
        if dry_run:
            await _say_imagined(settings, one, answer, made)
        else:
            _say_resumed(settings, answer, dry_run=False)
        return 0

    run(settings, work, patience=PATIENCE_WHEN_FOLLOWING if watches or waits else PATIENCE)


async def _walked(settings: Settings, one: Run, reason: str, *, watches: bool, waits: bool) -> int:
    """Asks for each decision, and goes on with what was agreed to."""
    from countermand.cli.follow import followed
    from countermand.cli.steer import say_state
    from countermand.cli.walk import walk
    from countermand.rpc.errors import RequirementsUnmet

    agreed = await walk(settings, one, reason)
    before = (await one.get()).last_sequence if watches else 0
    try:
        if agreed is None:
            answer = await one.resume(reason)
        else:
            answer = await one.resume(agreed.reason, decisions=agreed.decisions, etag=agreed.etag)
    except RequirementsUnmet as error:
        return await _unmet(settings, one, error)
    if watches or waits:
        return await followed(settings, one, watches=watches, after=before)
    say_state(settings, answer.workflow)
    return 0


def _resume_many(
    settings: Settings,
    given: tuple[str, ...],
    filters: Filters,
    reason: str,
    *,
    dry_run: bool,
    yes: bool,
) -> NoReturn:
    """Lets several go on as they are."""

    async def make(one: Run, *, imagined: bool = False) -> Workflow:
        return (await one.resume(reason, validate_only=imagined)).workflow

    change = Change(
        verb="resume",
        done="resumed",
        states=RESUMABLE,
        turned_round=True,
        make=make,
        imagine=lambda one: make(one, imagined=True),
    )

    change_all(settings, change, given=given, filters=filters, dry_run=dry_run, yes=yes)


async def _unmet(settings: Settings, one: Run, error: RequirementsUnmet) -> int:
    """Tells everything that is missing or wrong, and the options that would give it."""
    from countermand.cli.decided import command, needed, over, undecidable

    if not settings.for_people:
        return fail(settings, error)
    requirements = await one.requirements()
    if over(requirements):
        told, *needs = undecidable(await one.get()).splitlines()
        click.echo(f"{click.style('Error:', fg='red')} {told} ({error.reason})", err=True)
        for need in needs:
            click.echo(need, err=True)
        return FAILED
    code = fail(settings, error)
    if requirements:
        click.echo("What would be right:", err=True)
        for line in needed(requirements, why=False):
            click.echo(line, err=True)
    if suggested := command(one.id, requirements):
        click.echo(f"For example: {suggested}", err=True)
    return code


async def _say_imagined(
    settings: Settings,
    one: Run,
    answer: ResumeWorkflowResponse,
    decisions: Sequence[ResumeDecision],
) -> None:
    """Tells what would become of each task, and which values would be others."""
    from countermand.cli.resumed import decided

    if settings.for_people:
        # Asked for once the request is known to be right: giving up names all that is made up for.
        tasks = await one.tasks() if decisions else ()
        for line in decided(decisions, tasks):
            click.echo(line)
    _say_resumed(settings, answer, dry_run=True)


def _say_resumed(settings: Settings, answer: ResumeWorkflowResponse, *, dry_run: bool) -> None:
    from countermand.cli.output import show_message
    from countermand.cli.resumed import show_changes
    from countermand.cli.steer import say_state

    if settings.for_programs:
        show_message(settings, answer)
        return
    if settings.for_people:
        show_changes(answer.changes)
    if dry_run and settings.for_people:
        click.echo("Nothing has changed: it was a dry run.")
        return
    say_state(settings, answer.workflow)


@click.command(epilog=examples("countermand workflow requirements vm-42"))
@one_workflow
@shared_options()
@click.pass_obj
def requirements(settings: Settings, name: str) -> None:
    """Say what a resume needs, and with which options.

    Every task that needs a decision, and what later tasks would miss if it were skipped.
    """

    async def work(client: Client) -> None:
        from countermand.cli.decided import HELD, command, needed, over, undecidable
        from countermand.cli.forms import show_value
        from countermand.cli.output import as_json
        from countermand.cli.table import paint
        from countermand.drawing.tasks import SETTLED
        from countermand.drawing.values import indented
        from countermand.drawing.words import workflow_look

        one = await named(client, name)
        found = await one.requirements()
        if settings.for_programs:
            show_value(settings, [as_json(each) for each in found])
            return
        if settings.output == "name":
            for task in dict.fromkeys(each.task for each in found):
                click.echo(task)
            return
        found_in = await one.get()
        if over(found) or found_in.state in SETTLED:
            click.echo(undecidable(found_in))
            return
        look = paint(workflow_look(found_in.state))
        click.echo(f"{one.name} is {look}. " + ("It needs:" if found else "No decision is open."))
        for line in needed(found):
            click.echo(line)
        held = found_in.state in HELD
        for need in () if found or held else found_in.needs:  # a silent owner: no resume helps
            click.echo(f"  needs somebody: {indented(need.message)}")
        if (found or held) and (suggested := command(one.id, found)):
            click.echo(f"For example: {suggested}")

    run(settings, work)
