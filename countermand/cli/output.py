"""Prints messages: as a table, as JSON, or as names.

Tables are spaces only: they survive a narrow terminal, a pipe into awk and a paste into a ticket.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import click
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from countermand.cli.settings import Settings
from countermand.drawing import phrases
from countermand.drawing.words import Look
from countermand.v1.host_pb2 import Host
from countermand.v1.webhook_pb2 import Webhook
from countermand.v1.workflow_pb2 import Workflow

Item = TypeVar("Item", bound=Message)
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
) -> None:
    """Prints a list in the form that was asked for; an empty table says what to do instead."""
    if settings.output == "json":
        click.echo(json.dumps([as_json(item) for item in items], indent=2, ensure_ascii=False))
    elif settings.output == "name":
        for item in items:
            click.echo(name(item))
    elif not items:
        click.echo(nothing, err=True)
    else:
        table(heads, [row(item) for item in items], cut=True)


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


def show_json(message: Message) -> None:
    """Prints one message as JSON."""
    click.echo(json.dumps(as_json(message), indent=2, ensure_ascii=False))


def show_one(settings: Settings, shown: Workflow | Host | Webhook) -> None:
    """Prints one resource as JSON, or its name."""
    if settings.output == "json":
        show_json(shown)
    else:
        click.echo(shown.name)


def age(time: Timestamp) -> str:
    """Returns how long ago something was."""
    if not time.seconds:
        return ""
    return phrases.duration(max(0.0, datetime.now(UTC).timestamp() - time.seconds))
