"""`countermand events` and `countermand workflow events`: what has happened, and what happens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from countermand.cli.arguments import named, one_workflow
from countermand.cli.exits import PATIENCE, PATIENCE_WHEN_FOLLOWING, run
from countermand.cli.settings import Settings, Whole, examples, shared_options

if TYPE_CHECKING:
    from countermand.client import Client

_after_sequence = click.option(
    "--after",
    default=0,
    type=Whole(),
    metavar="SEQUENCE",
    help="Only events after this sequence: the number of the last one that was seen.",
)


class Place:
    """How far somebody has read, so that they can go on from there."""

    def __init__(self, settings: Settings, command: str) -> None:
        """Starts with nothing read."""
        self.seen: int | None = None
        self._settings = settings
        self._command = command

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Tells a person who stops reading how to go on; a program has the numbers."""
        try:
            yield
        except BaseException:
            if self.seen is not None and self._settings.for_people:
                click.echo(f"\nGo on from here: {self._command} --after {self.seen}", err=True)
            raise


@click.command(
    "events",
    epilog=examples(
        "countermand workflow events vm-42",
        "countermand workflow events vm-42 --follow --after 17",
    ),
)
@one_workflow
@_after_sequence
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on until it is settled.")
@shared_options()
@click.pass_obj
def workflow_events(settings: Settings, name: str, after: int, follows: bool) -> None:
    """Show a workflow's history.

    One line per event; one JSON object per line with -o json. Following survives restarts of the
    coordinator, and nothing is left out or comes twice.
    """
    _no_names(settings)

    async def work(client: Client) -> None:
        from countermand.cli.lines import show_event

        one = await named(client, name)
        if not follows:
            async for event in one.events(after):
                show_event(settings, event)
            return
        place = Place(settings, f"countermand workflow events {one.id} --follow")
        with place.told():
            async for update in one.watch(after, events_only=True):
                if update.HasField("event"):
                    show_event(settings, update.event)
                    place.seen = update.event.sequence

    run(settings, work, patience=PATIENCE_WHEN_FOLLOWING if follows else PATIENCE)


@click.command(
    epilog=examples(
        "countermand events --follow",
        "countermand events --after 0 -o json > history.jsonl",
        "countermand events --follow --after 4711 -o json | my-program",
    )
)
@click.option(
    "--after",
    type=Whole(),
    metavar="POSITION",
    help="Only events after this position, 0 for all that is kept. [default: from now on]",
)
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on for ever.")
@shared_options()
@click.pass_obj
def events(settings: Settings, after: int | None, follows: bool) -> None:
    """Show what happens to all workflows.

    One line per event, in order of their positions; one JSON object per line with -o json.
    Following survives restarts of the coordinator, and nothing is left out or comes twice: keep the
    position of the last event, and go on after it. Ctrl-C stops the reading and nothing else.
    """
    _no_names(settings)
    if after is None and not follows:
        raise click.UsageError("from which position on? --after 0 is all; or --follow, from now on")

    async def work(client: Client) -> None:
        from countermand.cli.lines import show_in_all

        place = Place(settings, "countermand events --follow")
        # Asked before anything is followed: a wrong address is an error, and not a silence. What
        # happens while it is read belongs to the next time.
        end = await client.position()
        begin = end if after is None else after
        if not follows and end <= begin:
            return
        with place.told() if follows else contextlib.nullcontext():
            async for event in client.events(begin):
                show_in_all(settings, event)
                place.seen = event.position
                if not follows and event.position >= end:
                    return

    run(settings, work, patience=PATIENCE_WHEN_FOLLOWING if follows else PATIENCE)


def _no_names(settings: Settings) -> None:
    settings.without("name", because="an event has no name; -o json has one object per line")
