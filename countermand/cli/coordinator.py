"""`countermand coordinator`: lists the coordinators that share a store, and has them go on.

A database that went back in time is told of beneath the list; nothing is decided until `recover`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from countermand.cli.exits import PATIENCE_WHEN_FOLLOWING, run
from countermand.cli.settings import OrderedGroup, Settings, examples, shared_options

if TYPE_CHECKING:
    from countermand.cli.output import Row
    from countermand.client import Client
    from countermand.v1.coordinator_pb2 import Coordinator, Recovery

HEADS = ("COORDINATOR", "STATE", "WORKFLOWS", "SINCE", "VERSION", "DOES", "PLACE")


@click.group(cls=OrderedGroup, epilog=examples("countermand coordinator list", exits=()))
def coordinator() -> None:
    """See which coordinators share the work.

    Several may serve one database on PostgreSQL: each open workflow is advanced by one of them, and
    what one leaves that ends the others take over.
    """


@coordinator.command(
    "list", epilog=examples("countermand coordinator list", "countermand coordinator list -o name")
)
@shared_options()
@click.pass_obj
def list_(settings: Settings) -> None:
    """List the coordinators, the oldest first.

    One that has ended is listed until the others have taken over all that it had. One of them keeps
    the house: it removes what is kept long enough, tells webhooks and sends traces, for all.
    """

    async def work(client: Client) -> None:
        from countermand.cli.output import show_all, show_message
        from countermand.drawing.values import date
        from countermand.v1.coordinator_pb2 import ListCoordinatorsResponse

        found = [one async for one in client.coordinators.list()]
        recovery = await client.coordinators.recovery()
        if settings.for_programs:
            whole = ListCoordinatorsResponse(coordinators=found, recovery=recovery)
            show_message(settings, whole)
            return
        show_all(
            settings,
            found,
            heads=HEADS,
            row=_row,
            name=lambda found: found.name,
            nothing="No coordinators.",
            wide=(
                ("SCHEMA", lambda found: found.schema_revision or "-"),
                ("BEGAN", lambda found: date(found.start_time)),
                ("LAPSES", _lapses),
            ),
        )
        if recovery is not None:
            _tell(recovery)

    run(settings, work)


@coordinator.command(
    epilog=examples(
        "countermand coordinator list",
        "countermand doctor",
        'countermand coordinator recover --reason "the backup of noon was put back"',
    )
)
@click.option("--reason", required=True, help="Why it is right to go on, for the audit.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@shared_options()
@click.pass_obj
def recover(settings: Settings, reason: str, yes: bool) -> None:
    """Go on with a database that went back in time.

    It was put back from a backup, or is a standby that was behind when it took over. Agents have
    acted on what it does not know, so nothing is decided in it until somebody has looked.
    `countermand coordinator list` says why, `countermand doctor` what differs.

    What it does: every workflow that is open in it is paused, with its compensations, until you
    decide about each. New work is taken again at once; give it new ids.
    """

    async def work(client: Client) -> None:
        from countermand.cli.output import show_message
        from countermand.rpc.errors import RecoveryNotRequired

        recovery = await client.coordinators.recovery()
        if recovery is None:
            raise RecoveryNotRequired
        if not yes:
            _ask(settings, recovery)
        done = await client.coordinators.recover(reason)
        if settings.for_programs:
            show_message(settings, done)
            return
        paused = _workflows(done.paused_workflows or recovery.open_workflows)
        click.echo(f"Coordinators go on. What is open is paused, with its compensations: {paused}.")
        if recovery.open_workflows:
            click.echo(
                "Decide about each; an image that is there need not be made again:", err=True
            )
            click.echo("  countermand workflow list --state paused", err=True)
            click.echo("  countermand workflow get WORKFLOW", err=True)
            click.echo("  countermand workflow resume WORKFLOW", err=True)
            click.echo("Repair nothing by `countermand doctor --fix` before that.", err=True)

    run(settings, work, patience=PATIENCE_WHEN_FOLLOWING)


def _tell(recovery: Recovery) -> None:
    """Says that somebody has to look, and what to do."""
    for line in _lines(recovery):
        click.echo(line, err=True)
    click.echo("Look first, then go on:", err=True)
    click.echo("  countermand doctor", err=True)
    click.echo('  countermand coordinator recover --reason "…"', err=True)


def _ask(settings: Settings, recovery: Recovery) -> None:
    """Asks whether to go on; a script that has not said yes changes nothing."""
    from countermand.cli.asking import at_terminal, confirm

    count = _workflows(recovery.open_workflows)
    if not (at_terminal() and settings.for_people):
        raise click.UsageError(
            f"{count} would be paused: look with `countermand doctor`, and say --yes"
        )
    for line in _lines(recovery):
        click.echo(line, err=True)
    click.echo("`countermand doctor` says what differs on the hosts: look there first.", err=True)
    confirm(f"Pause {count}, with their compensations, and go on?")


def _lines(recovery: Recovery) -> tuple[str, ...]:
    from countermand.cli.output import age
    from countermand.drawing.values import date, one_line

    word = click.style("The database went back in time:", fg="red")
    since = f"{date(recovery.notice_time)}, {age(recovery.notice_time)} ago"
    count = _workflows(recovery.open_workflows)
    return (
        f"{word} {one_line(recovery.why)}.",
        f"Nothing is decided, sent or forgotten since {since}. Open in it: {count}.",
    )


def _workflows(number: int) -> str:
    from countermand.drawing import phrases

    return phrases.count(number, "workflow")


def _row(found: Coordinator) -> Row:
    from countermand.cli.output import age
    from countermand.drawing.values import one_line
    from countermand.drawing.words import coordinator_look, coordinator_part

    return (
        found.name.removeprefix("coordinators/"),
        coordinator_look(found.state),
        str(found.open_workflows),
        age(found.start_time) or "-",
        found.version or "-",
        coordinator_part(found) or "-",
        one_line(found.place) or "-",
    )


def _lapses(found: Coordinator) -> str:
    from countermand.drawing.values import date

    return date(found.expire_time) if found.HasField("expire_time") else "-"
