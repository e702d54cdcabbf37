"""The forms for programs, JSON and YAML: what is written in them, wherever a command answers.

A message is written in protobuf's canonical JSON with the names of the protos, so that any library
of protobuf's reads it back; a list is an array of messages, and a stream one object after the
other: a line each as JSON, a document each as YAML. Loads YAML only to write it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from countermand.rpc.visible import visible, visible_json

if TYPE_CHECKING:
    from countermand.cli.settings import Settings


def show_value(settings: Settings, value: object) -> None:
    """Prints a whole answer."""
    if settings.output == "yaml":
        click.echo(_yaml(value), nl=False)
    else:
        click.echo(visible_json(json.dumps(value, indent=2, ensure_ascii=False)))


def show_object(settings: Settings, value: object) -> None:
    """Prints one object of a stream."""
    if settings.output == "yaml":
        click.echo(f"---\n{_yaml(value)}", nl=False)
    else:
        click.echo(visible_json(json.dumps(value, ensure_ascii=False)))


def show_error(settings: Settings, error: object) -> None:
    """Prints what went wrong, beside the answer."""
    if settings.output == "yaml":
        click.echo(_yaml({"error": error}), nl=False, err=True)
    else:
        click.echo(visible_json(json.dumps({"error": error}, ensure_ascii=False)), err=True)


def _yaml(value: object) -> str:
    import yaml

    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    assert isinstance(text, str), text
    if visible(text) == text:
        return text
    escaped = yaml.safe_dump(value, sort_keys=False)  # every letter that is not ASCII's, then
    assert isinstance(escaped, str), escaped
    return escaped
