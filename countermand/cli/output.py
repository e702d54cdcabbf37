"""Prints messages: as a table, as JSON or YAML, or as names.

Tables are spaces only: they survive a narrow terminal, a pipe into awk and a paste into a ticket.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import click
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from countermand.cli.forms import show_value
from countermand.cli.settings import Settings
from countermand.drawing import phrases
from countermand.drawing.words import Look
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.host_pb2 import Host
from countermand.v1.task_pb2 import Task
from countermand.v1.webhook_pb2 import Webhook
from countermand.v1.workflow_pb2 import Workflow

if TYPE_CHECKING:
    from countermand.client import Run

Item = TypeVar("Item", bound=Message)
Cell = TypeVar("Cell", bound=str | Look)
Row = Sequence[str | Look]

# A last column that has less room than this on a terminal wraps instead: a word or two say nothing.
LAST_CHARACTERS_MIN = 20


def show_all(
    settings: Settings,
    items: Sequence[Item],
    *,
    heads: Sequence[str],
    row: Callable[[Item], Row],
    name: Callable[[Item], str],
    nothing: str,
    wide: Sequence[tuple[str, Callable[[Item], str]]] = (),
) -> None:
    """Prints a list in the form that was asked for; an empty table says what to do instead.

    A wide table has further columns before the last, which is the longest, and cuts nothing.
    """
    if settings.for_programs:
        show_value(settings, [as_json(item) for item in items])
    elif settings.output == "name":
        for item in items:
            click.echo(name(item))
    elif not items:
        click.echo(nothing, err=True)
    elif settings.wide:
        more = [head for head, _ in wide]
        rows = [_with(row(item), [cell(item) for _, cell in wide]) for item in items]
        table(_with(heads, more), rows)
    else:
        table(heads, [row(item) for item in items], cut=True)


def _with(cells: Sequence[Cell], more: Sequence[Cell]) -> list[Cell]:
    return [*cells[:-1], *more, cells[-1]]


def table(heads: Sequence[str], rows: Sequence[Row], *, cut: bool = False) -> None:
    """Prints aligned columns under their heads; the last may be cut at a terminal's edge."""
    texts = [[str(cell) for cell in cells] for cells in rows]
    widths = [max(map(len, column)) for column in zip(heads, *texts, strict=True)]
    if cut and sys.stdout.isatty():
        before = sum(widths[:-1]) + 2 * (len(widths) - 1)
        room = shutil.get_terminal_size().columns - before
        widths[-1] = min(widths[-1], max(room, LAST_CHARACTERS_MIN))
    click.echo(_line(heads, heads, widths))
    for cells, text in zip(rows, texts, strict=True):
        shown = [*text[:-1], _cut(text[-1], widths[-1])]
        click.echo(_line(cells, shown, widths))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _line(cells: Sequence[str | Look], texts: Sequence[str], widths: Sequence[int]) -> str:
    """Returns a row; padded before it is painted, since colours have no width."""
    padded = [
        paint(cell, text.ljust(width)) if isinstance(cell, Look) else text.ljust(width)
        for cell, text, width in zip(cells, texts, widths, strict=True)
    ]
    return "  ".join(padded).rstrip()


def paint(look: Look, text: str | None = None) -> str:
    """Returns a state in its colour; click takes the colour away where none is wanted."""
    text = str(look) if text is None else text
    return click.style(text, dim=True) if look.colour == "dim" else click.style(text, look.colour)


def as_json(message: Message) -> dict[str, object]:
    """Returns a message in protobuf's JSON form, with names as in the protos."""
    shown: dict[str, object] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return shown


def show_message(settings: Settings, message: Message) -> None:
    """Prints one message in a form for programs."""
    show_value(settings, as_json(message))


def show_one(settings: Settings, shown: Workflow | Host | Task | Webhook | Attempt) -> None:
    """Prints one resource in a form for programs, or its name."""
    if settings.for_programs:
        show_message(settings, shown)
    else:
        click.echo(shown.name)


async def show_run(settings: Settings, made: Run) -> None:
    """Prints a new workflow in a form for programs; it is there, whatever hinders the look."""
    from countermand.rpc.errors import CountermandError

    try:
        workflow = await made.get()
    except CountermandError:
        workflow = Workflow(name=made.name)
    show_message(settings, workflow)


def show_done(settings: Settings, answer: Message, name: str, words: str) -> None:
    """Prints that something was done which leaves nothing to show."""
    if settings.for_programs:
        show_message(settings, answer)
    else:
        click.echo(name if settings.output == "name" else words)


def age(time: Timestamp) -> str:
    """Returns how long ago something was."""
    if not time.seconds:
        return ""
    return phrases.duration(max(0.0, datetime.now(UTC).timestamp() - time.seconds))
