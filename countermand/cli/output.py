"""Prints messages: as a table, as JSON or YAML, or as names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import click
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from countermand.cli.forms import show_value
from countermand.cli.settings import Settings
from countermand.cli.table import table
from countermand.drawing import phrases
from countermand.drawing.values import moment
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.host_pb2 import Host
from countermand.v1.task_pb2 import Task
from countermand.v1.webhook_pb2 import Webhook
from countermand.v1.workflow_pb2 import Workflow

if TYPE_CHECKING:
    from countermand.client import Run
    from countermand.drawing.words import Look

Item = TypeVar("Item", bound=Message)
Text = TypeVar("Text", bound="str | Look")
Row = Sequence["str | Look"]


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


def _with(cells: Sequence[Text], more: Sequence[Text]) -> list[Text]:
    return [*cells[:-1], *more, cells[-1]]


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


def when(time: Timestamp) -> str:
    """Returns when something was or will be, as history says it: with its day if it's not today."""
    return moment(time, datetime.now(UTC).date())


def age(time: Timestamp) -> str:
    """Returns how long ago something was."""
    if not time.seconds:
        return ""
    return phrases.duration(max(0.0, datetime.now(UTC).timestamp() - time.seconds))
