"""`countermand external`: what waits for vendors, and their part of it by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from countermand.cli.exits import PATIENCE_WHEN_FOLLOWING
from countermand.cli.external_options import doing, owner_option
from countermand.cli.lazy import LazyMembers
from countermand.cli.settings import (
    NAMES_OF_TASKS,
    Settings,
    examples,
    names,
    shared_options,
)

if TYPE_CHECKING:
    from countermand.cli.external_calls import Vendor

REPORTS = ("accept", "progress", "heartbeat", "end")
OWN = ("start", "add", "finish", "clear")
OWNER_HEADS = ("OWNER", "WAITING", "NOT ACCEPTED", "SILENT", "OLDEST", "WATCHES")
HEADS = ("TASK", "ASKED", "KIND", "ACCEPTED", "AGE", "PROGRESS", "MESSAGE")


@click.group(
    cls=LazyMembers,
    lazy={name: f"countermand.cli.external_reports:{name}" for name in REPORTS}
    | {name: f"countermand.cli.external_own:{name}" for name in OWN},
    epilog=names(*NAMES_OF_TASKS)
    + examples(
        "countermand external list --owner acme",
        "countermand external accept vm-42/clone",
        "countermand external progress vm-42/clone 12/40 --unit volumes",
        "countermand external end vm-42/clone --output volume=lun-7",
        exits=(),
    ),
)
def external() -> None:
    """Look at what waits for vendors, and do a vendor's part by hand.

    An external task is done by its owner: a vendor's program, or somebody with these commands. Its
    owner accepts it, and only then begins; reports how far it is; and ends it. What is asked may be
    to start, to cancel what was started, or to compensate it.

    Each report needs the task's capability token; left out, it is looked up.
    """


@external.command(
    "list",
    epilog=examples(
        "countermand external list --owner acme",
        "countermand external list --owner acme -o name",
    ),
)
@owner_option
@shared_options()
@click.pass_obj
def list_(settings: Settings, owner: str) -> None:
    """List what waits for an owner, the oldest first.

    What it has accepted and works on is listed, too. With -o json everything that is asked: the
    arguments, what to make up for and why, the capability token.
    """

    async def work(vendor: Vendor) -> None:
        from countermand.cli.external_words import request_row
        from countermand.cli.output import show_all

        show_all(
            settings,
            await vendor.waiting(owner),
            heads=HEADS,
            row=request_row,
            name=lambda request: request.attempt,
            nothing=f"Nothing waits for {owner}. Follow it: {_watch(owner)}",
        )

    doing(settings, work)


@external.command(
    epilog=examples("countermand external owners", "countermand external owners -o name")
)
@shared_options()
@click.pass_obj
def owners(settings: Settings) -> None:
    """List the owners for whom anything waits, and who is silent."""

    async def work(vendor: Vendor) -> None:
        from countermand.cli.external_words import owner_row
        from countermand.cli.output import show_all

        show_all(
            settings,
            await vendor.owners(),
            heads=OWNER_HEADS,
            row=owner_row,
            name=lambda found: found.owner_id,
            nothing="Nothing waits for anybody, and nobody watches.",
        )

    doing(settings, work)


@external.command(
    epilog=examples(
        "countermand external watch --owner acme",
        "countermand external watch --owner acme -o json | my-plug-in",
    )
)
@owner_option
@shared_options()
@click.pass_obj
def watch(settings: Settings, owner: str) -> None:
    """Follow what waits for an owner.

    First all of it, then every change, a line for each; with -o json an object a line, a request
    with all that is asked or the name of an attempt that is closed. Survives restarts of the
    coordinator. Ctrl-C stops the watching and nothing else.
    """

    async def work(vendor: Vendor) -> None:
        from countermand.cli.external_words import show_update

        await vendor.waiting(owner)  # a wrong owner or address is an error and not an empty screen
        async for update in vendor.watch(owner):
            show_update(settings, update)

    doing(settings, work, patience=PATIENCE_WHEN_FOLLOWING)


def _watch(owner: str) -> str:
    return f"countermand external watch --owner {owner}"
