"""`countermand workflow timeline`: draws what happened when, to the terminal or into a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from countermand.cli.arguments import named, one_workflow
from countermand.cli.exits import run
from countermand.cli.settings import NOT_DRAWN, Settings, checked_picture, examples, shared_options

if TYPE_CHECKING:
    from countermand.client import Client, Run
    from countermand.drawing.model import Timeline

# Only a task by itself tells how many bytes a copy wrote; beyond this many the drawing does without
# rather than ask that often.
OUTPUTS_MAX = 64


@click.command(
    epilog=examples(
        "countermand workflow timeline @latest",
        "countermand workflow timeline vm-42 --svg vm-42.svg",
    )
)
@one_workflow
@click.option(
    "--svg",
    "picture",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=checked_picture,
    help="Write a picture instead: one file, for a browser or a ticket.",
)
@shared_options()
@click.pass_obj
def timeline(settings: Settings, name: str, picture: Path | None) -> None:
    """Draw a workflow's history over time.

    A row per task with its attempts and waits; below it the compensation lane: what was made up
    for, in which order. Of a workflow that still runs, what has happened so far.
    """
    said = "a drawing has no -o; `workflow events -o json` tells the same"
    settings.without(*NOT_DRAWN, because=said)

    async def work(client: Client) -> None:
        drawn = await _read(await named(client, name))
        if picture is not None:
            _write(drawn, picture)
        else:
            _show(drawn)

    run(settings, work)


async def _read(one: Run) -> Timeline:
    from datetime import UTC, datetime

    from countermand.drawing.timeline import timeline as drawn

    workflow = await one.get()
    workflow.tasks.extend(await one.tasks())  # all pages: a FULL view ends after a thousand
    copies = [task for task in workflow.tasks if task.verb == "copy_image"]
    if len(copies) <= OUTPUTS_MAX:
        for task in copies:
            task.CopyFrom(await one.task(task.name.rpartition("/")[2]))
    events = [event async for event in one.events()]
    return drawn(workflow, events, datetime.now(UTC).replace(tzinfo=None))


def _write(drawn: Timeline, path: Path) -> None:
    from countermand.drawing import svg

    try:
        path.write_text(svg.draw(drawn), encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error
    click.echo(f"Wrote {path}.")


def _show(drawn: Timeline) -> None:
    from countermand.cli.console import console
    from countermand.drawing import terminal

    terminal.draw(drawn, console())
