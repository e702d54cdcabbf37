"""Checks what commands answer with -o json against docs/reference/answers.schema.json."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import Default
from jsonschema import Draft202012Validator, ValidationError, validators

import countermand.v1

_FILE = Path(__file__).parents[2] / "docs/reference/answers.schema.json"
SCHEMA = json.loads(_FILE.read_text(encoding="utf-8"))
COMMANDS: dict[str, Any] = SCHEMA["commands"]
NO_FORM = {"demo", "completion", "config sample", "workflow timeline"}

for _module in pkgutil.iter_modules(countermand.v1.__path__):
    if _module.name.endswith("_pb2"):
        importlib.import_module(f"countermand.v1.{_module.name}")


def _parsed(name: str, value: Any) -> Any:
    message = message_factory.GetMessageClass(Default().FindMessageTypeByName(name))
    return json_format.ParseDict(value, message())


def _message(_validator: Any, name: str, value: Any, _schema: Any) -> Iterator[ValidationError]:
    """Yields where a value is not a message in canonical JSON with the names of the protos."""
    try:
        read = _parsed(name, value)
    except json_format.ParseError as error:
        yield ValidationError(f"is no {name}: {error}")
        return
    written = json_format.MessageToDict(read, preserving_proto_field_name=True)
    if written != value:
        yield ValidationError(f"is not how {name} is written: {written}")


def _parses_as(_validator: Any, name: str, value: Any, _schema: Any) -> Iterator[ValidationError]:
    try:
        _parsed(name, value)
    except json_format.ParseError as error:
        yield ValidationError(f"is no {name}: {error}")


_Checker = validators.extend(Draft202012Validator, {"message": _message, "parses_as": _parses_as})
_CHECKER = _Checker(SCHEMA)


def check(command: str, text: str) -> None:
    """Checks a whole answer of a command; what follows something has at least one line."""
    schema = COMMANDS[command]
    if "lines" in schema:
        assert text, command
        for line in text.splitlines():
            _CHECKER.evolve(schema=schema["lines"]).validate(json.loads(line))
    else:
        _CHECKER.evolve(schema=schema).validate(json.loads(text))


def check_error(text: str) -> dict[str, Any]:
    """Checks what standard error has of an error, and returns it."""
    told = json.loads(text.splitlines()[-1])
    _CHECKER.evolve(schema=SCHEMA["$defs"]["error"]).validate(told)
    error: dict[str, Any] = told["error"]
    return error


def command_of(words: str) -> str:
    """Returns the command that words begin with, with the option that makes its answer another."""
    option = next((name for name in COMMANDS if "--" in name and _is(name, words)), "")
    return option or max((name for name in COMMANDS if f"{words} ".startswith(f"{name} ")), key=len)


def _is(name: str, words: str) -> bool:
    command, _, option = name.partition(" --")
    return f"{words} ".startswith(f"{command} ") and f" --{option}" in words


def leaves(group: click.Group, *lead: str) -> Iterator[tuple[str, ...]]:
    """Yields the words of every command that is no group."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from leaves(found, *lead, name)
        else:
            yield (*lead, name)
