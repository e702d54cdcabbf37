"""What people write on the command line, as values: names of workflows, JSON objects, labels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from countermand.client import Client, Run

LATEST = "@latest"
NO_LATEST = click.UsageError("there is no workflow yet, so there is no @latest")


async def named(client: Client, name: str) -> Run:
    """Returns the workflow that a person means."""
    if name != LATEST:
        return client.run(name)
    async for newest in client.list(page_size=1):
        return client.run(newest.name)
    raise NO_LATEST


def json_object(text: str | None) -> dict[str, object] | None:
    """Returns a JSON object that was given on the command line."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{text!r} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise click.UsageError(f"{text!r} is not a JSON object: write {{...}}")
    return value


def label_pair(label: str) -> tuple[str, str]:
    """Returns key and value of a label."""
    key, equals, value = label.partition("=")
    if not equals:
        raise click.UsageError(f"{label!r} is not a label: write KEY=VALUE")
    return key, value


def pair(text: str, option: str) -> tuple[str, str]:
    """Returns key and value of an option such as --set."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.UsageError(f"{option} {text!r}: write FIELD=VALUE")
    return key, value


def plain(text: str) -> str | int | float | bool:
    """Returns a value as it is meant: a number, true or false, else the text itself.

    A text in double quotes is one, also where it looks like a number.
    """
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, str | int | float) else text


def unquoted(text: str) -> str:
    """Returns what is known to be a text, with or without double quotes around it."""
    value = plain(text)
    return value if isinstance(value, str) else text
