"""The forms for programs, JSON and YAML: what is written in them, wherever a command answers.

A message is written in protobuf's canonical JSON with the names of the protos, so that any library
of protobuf's reads it back; a list is an array of messages, and a stream one object after the
other: a line each as JSON, a document each as YAML. Loads YAML only to write it.
"""

from __future__ import annotations

import codecs
import json
import sys
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
        click.echo(_json(value, indent=2))


def show_object(settings: Settings, value: object) -> None:
    """Prints one object of a stream."""
    if settings.output == "yaml":
        click.echo(f"---\n{_yaml(value)}", nl=False)
    else:
        click.echo(_json(value))


def show_error(settings: Settings, error: object) -> None:
    """Prints what went wrong, beside the answer: as JSON its last line, as YAML a document."""
    if settings.output == "yaml":
        click.echo(f"---\n{_yaml({'error': error}, err=True)}", nl=False, err=True)
    else:
        click.echo(_json({"error": error}, err=True), err=True)


def show_failure(settings: Settings, code: str, reason: str, message: str) -> None:
    """Prints what went wrong here, and not at a coordinator, in the same form."""
    show_error(settings, {"code": code, "reason": reason, "message": message, "metadata": {}})


def _json(value: object, *, indent: int | None = None, err: bool = False) -> str:
    return visible_json(json.dumps(value, indent=indent, ensure_ascii=not _has_all(err=err)))


def _has_all(*, err: bool) -> bool:
    """Returns whether every letter can be written; one that cannot would become a "?"."""
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    return codecs.lookup(encoding).name.startswith("utf")


def _yaml(value: object, *, err: bool = False) -> str:
    import yaml

    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=_has_all(err=err))
    assert isinstance(text, str), text
    if visible(text) == text:
        return text
    escaped = yaml.safe_dump(value, sort_keys=False)  # every letter that is not ASCII's, then
    assert isinstance(escaped, str), escaped
    return escaped
