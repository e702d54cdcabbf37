"""`countermand workflow bundle` and `countermand open`: a workflow as one file, and back."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from countermand.cli.arguments import named, one_workflow
from countermand.cli.exits import run
from countermand.cli.forms import show_value
from countermand.cli.settings import LOCAL, NOT_DRAWN, Settings, examples, shared_options

if TYPE_CHECKING:
    from countermand.bundle.reading import Bundle
    from countermand.client import Client
    from countermand.v1.workflow_pb2 import Workflow

STDOUT = "-"
PAGE_KEPT_S = 86_400.0  # of a bundle, for as long as somebody may look at it


@click.command(
    epilog=examples(
        "countermand workflow bundle vm-42",
        "countermand workflow bundle vm-42 /tmp/failed.zip",
        "countermand workflow bundle @latest - | ssh desk 'cat > failed.zip'",
    )
)
@one_workflow
@click.argument("file", default="", metavar="[FILE]")
@shared_options()
@click.pass_obj
def bundle(settings: Settings, name: str, file: str) -> None:
    """Write a workflow into one file.

    With its tasks, its history, and a page that any browser opens without a network: for a ticket,
    or for somebody who cannot reach the coordinator. FILE is WORKFLOW.zip if it is left out; "-" is
    the standard output. `countermand open FILE` shows it.
    """
    if file == STDOUT and sys.stdout.isatty():
        raise click.UsageError("a bundle is no text, and this is a terminal: name a file")

    async def work(client: Client) -> None:
        from datetime import UTC, datetime

        from countermand.bundle.writing import file_name

        one = await named(client, name)
        pieces = one.bundle(datetime.now(UTC))
        if file == STDOUT:
            async for piece in pieces:
                sys.stdout.buffer.write(piece)
            return
        path = Path(file or file_name(one.id))
        older = _older(path)
        with _whole_or_not_at_all(path) as made:
            async for piece in pieces:
                made.write(piece)
        if settings.for_programs:
            show_value(settings, {"file": str(path)})
        elif settings.for_people:
            click.echo(f"Wrote {path}{older}. Look at it: countermand open {path}")
        else:
            click.echo(str(path))

    run(settings, work, keeps=True)


def _older(path: Path) -> str:
    """Returns that something is there already, which is about to be replaced; or nothing."""
    return ", in place of what was there" if path.exists() else ""


@contextmanager
def _whole_or_not_at_all(path: Path) -> Iterator[IO[bytes]]:
    """Yields what is written to; it is there under its name once all of it is."""
    from tempfile import NamedTemporaryFile  # 10 ms that other commands save

    try:
        with NamedTemporaryFile(dir=path.parent, prefix=".bundle-", delete=False) as made:
            try:
                yield made
                made.flush()
                os.fchmod(made.fileno(), 0o644)
                Path(made.name).replace(path)
            except BaseException:
                Path(made.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error


@click.command(
    "open",
    epilog=examples(
        "countermand open vm-42.zip",
        "countermand open vm-42.zip --task copy-3",
        "countermand open vm-42.zip --timeline",
        "countermand open vm-42.zip --browser",
        exits=LOCAL,
    ),
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--task", "task_id", default="", metavar="TASK", help="Show one task of it.")
@click.option("--events", "events", is_flag=True, help="Show its history.")
@click.option("--timeline", "timeline", is_flag=True, help="Draw it.")
@click.option("--browser", "browser", is_flag=True, help="Open its page in a browser.")
@shared_options()
@click.pass_obj
def open_(
    settings: Settings, file: Path, *, task_id: str, events: bool, timeline: bool, browser: bool
) -> None:
    """Show a workflow from a bundle, as it was.

    What `workflow get` showed when it was written; no coordinator is asked.
    """
    if sum((bool(task_id), events, timeline, browser)) > 1:
        raise click.UsageError("--task, --events, --timeline and --browser exclude each other")
    if timeline or browser:
        said = "a picture has no -o; --events -o json tells the same"
        settings.without(*NOT_DRAWN, because=said)
    from countermand.bundle.reading import Bundle, NoBundleError

    opened = Bundle(file)
    try:
        if browser:
            _browse(opened)
        elif events:
            _show_events(settings, opened)
        elif timeline:
            _draw(settings, opened)
        elif task_id:
            _show_task(settings, opened, task_id)
        else:
            _show(settings, opened)
    except NoBundleError as error:
        raise click.ClickException(f"{file} is no bundle of ours: {error}") from None


def _show(settings: Settings, opened: Bundle) -> None:
    from countermand.cli.output import show_one
    from countermand.cli.tables import describe

    workflow = _as_it_was(settings, opened)
    if settings.for_people:
        describe(settings, workflow, workflow.tasks)
    else:
        show_one(settings, workflow)


def _as_it_was(settings: Settings, opened: Bundle) -> Workflow:
    """Returns the workflow; its texts are made visible, unless a program reads them."""
    from countermand.client.shown import show

    workflow = opened.workflow()
    if not settings.for_programs:
        show(workflow)
    return workflow


def _show_task(settings: Settings, opened: Bundle, task_id: str) -> None:
    from countermand.cli.context import describe_task
    from countermand.cli.output import show_one

    tasks = {task.name.rpartition("/")[2]: task for task in _as_it_was(settings, opened).tasks}
    task = tasks.get(task_id.rpartition("/")[2])
    if task is None:
        raise click.ClickException(
            f"there is no task {task_id} in it: there are {', '.join(tasks)}"
        )
    if settings.for_people:
        describe_task(task)
    else:
        show_one(settings, task)


def _show_events(settings: Settings, opened: Bundle) -> None:
    from countermand.cli.lines import show_event
    from countermand.client.shown import show

    for event in opened.events():
        if not settings.for_programs:
            show(event)
        show_event(settings, event)


def _draw(settings: Settings, opened: Bundle) -> None:
    from countermand.bundle.reading import as_of
    from countermand.cli.console import console
    from countermand.client.shown import show
    from countermand.drawing import terminal
    from countermand.drawing.timeline import timeline

    events = list(opened.events())
    for event in events:
        show(event)
    drawn = timeline(_as_it_was(settings, opened), events, as_of(events).replace(tzinfo=None))
    terminal.draw(drawn, console())


def _browse(opened: Bundle) -> None:
    """Shows a page that is drawn here: what stands in the file as its page is somebody else's."""
    import webbrowser

    page = "".join(opened.page())
    path = _place_of_page(opened.path, os.environ)
    path.write_text(page, encoding="utf-8")
    click.echo(f"{path.as_uri()}")
    if not webbrowser.open(path.as_uri()):
        raise click.ClickException(f"no browser was found: open {path} in one")


def _place_of_page(bundle: Path, environment: Mapping[str, str]) -> Path:
    """Returns where the page of a file goes, the same each time; those of other days are removed.

    Nobody says when a browser has read it, so it cannot be removed at once.
    """
    import time
    from hashlib import sha256

    home = environment.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    folder = Path(home) / "countermand" / "opened"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for page in folder.glob("*.html"):
        if page.stat().st_mtime < time.time() - PAGE_KEPT_S:
            page.unlink(missing_ok=True)
    return folder / f"{sha256(bytes(bundle.resolve())).hexdigest()[:16]}.html"
