"""`countermand coordinator`: lists the coordinators that share a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from countermand.cli.exits import run
from countermand.cli.settings import OrderedGroup, Settings, examples, shared_options

if TYPE_CHECKING:
    from countermand.cli.output import Row
    from countermand.client import Client
    from countermand.v1.coordinator_pb2 import Coordinator

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
        from countermand.cli.output import show_all
        from countermand.drawing.values import date

        show_all(
            settings,
            [found async for found in client.coordinators.list()],
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

    run(settings, work)


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
