"""Workflow files and inputs, as they are named on the command line.

FILE                       a workflow file, YAML or JSON; "-" reads it from a pipe
--template NAME            a template that comes with Countermand, instead of a file
--input '{"size": 1}'      a whole input, as JSON
--input input.yaml         a whole input, in a file
--input disks.0.size=1     one value of it; repeatable, and laid over what else was given
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from countermand.cli.completion import complete_templates

if TYPE_CHECKING:
    from countermand.client.spec_json import Json
    from countermand.client.templates import Template
    from countermand.client.templates.shipped import Field
    from countermand.client.workflow_file import WorkflowFile

_Command = TypeVar("_Command", bound=Callable[..., Any])
# Types whose values stay as they are written, also where they look like numbers.
TEXTS = frozenset({"id", "string", "image"})
SHOWN_MAX = 80  # characters of what was typed, in an answer to it
LIST_MAX = 1000  # an index beyond it is a slip
_INDEX = re.compile("[0-9]{1,4}")


def input_option(command: _Command) -> _Command:
    """Adds `--input`."""
    return click.option(
        "--input",
        "inputs",
        multiple=True,
        metavar="JSON|FILE|KEY=VALUE",
        help="The input: whole, in a file, or value by value; may be repeated.",
    )(command)


def spec_source(command: _Command) -> _Command:
    """Adds where a spec and its input come from: FILE or --template, and --input."""
    option = click.option(
        "--template",
        "template_name",
        metavar="NAME",
        shell_complete=complete_templates,
        help="A template, instead of a file.",
    )
    file = click.argument("file", type=click.File("r", encoding="utf-8"), required=False)
    return file(option(input_option(command)))


def read(file: TextIO | None, template_name: str | None, inputs: Sequence[str]) -> WorkflowFile:
    """Returns what was named, with the input that it is to have."""
    if (file is None) == (template_name is None):
        raise click.UsageError("name a FILE, or a --template")
    found = of_template(template_name) if template_name else workflow_file(file)
    if found.header is None:
        return replace(found, input=merged(inputs, found.input or {}, (), found.spec) or None)
    if not inputs:
        raise click.UsageError(
            f"{found.origin} is a template, and its own input an example: give --input, "
            "or fill it in first with `countermand template render`"
        )
    return replace(found, input=filled(as_template(found), inputs))


def workflow_file(file: TextIO | None) -> WorkflowFile:
    """Returns a file that was named on the command line."""
    from countermand.client.workflow_file import read_workflow_file

    assert file is not None, "asked for only when it was named"
    try:
        text = file.read()
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{file.name} is not UTF-8 text: {error.reason}") from None
    return read_workflow_file(text, origin=str(file.name))


def of_template(name: str) -> WorkflowFile:
    """Returns the file of a template that comes with Countermand."""
    from countermand.client.templates import load

    return load(name).file


def as_template(file: WorkflowFile) -> Template:
    """Returns a file with a header as what it is."""
    from countermand.client.templates import read_template

    return read_template(file.text, origin=file.origin)


def filled(template: Template, inputs: Sequence[str]) -> dict[str, Json]:
    """Returns the input of a template, checked against its header."""
    return template.fill(merged(inputs, {}, template.fields))


# -- inputs -------------------------------------------------------------------------------------


def merged(
    inputs: Sequence[str], beneath: dict[str, Json], fields: Sequence[Field], spec: Json = None
) -> dict[str, Json]:
    """Returns an input as given piece by piece; a whole one takes the place of what was before.

    Raises:
        FieldInvalid: A piece is no part of the input, and the spec, if given, asks for none such.
    """
    made = beneath
    for given in inputs:
        key, equals, text = given.partition("=")
        if given.lstrip().startswith("{"):
            made = _whole(given, origin="--input")
        elif equals and not _is_there(given):
            if spec is not None:
                _check_known(key, made, spec)
            _put(made, key, text, fields)
        else:
            made = _whole(_text_of(given), origin=given)
    return made


def _check_known(key: str, made: dict[str, Json], spec: Json) -> None:
    from countermand.cli.input_paths import unknown
    from countermand.rpc.errors import FieldInvalid, Violation

    if said := unknown(key, made, spec):
        raise FieldInvalid(Violation(f"input.{key}", said))


def _whole(text: str, *, origin: str) -> dict[str, Json]:
    from countermand.client.workflow_file import read_value
    from countermand.rpc.errors import CountermandError

    try:
        value = read_value(text, origin=origin)
    except CountermandError as error:
        raise click.UsageError(error.message) from None
    if not isinstance(value, dict):
        raise click.UsageError(f"{origin} is not an object: write {{...}}, or names and values")
    return value


def _is_there(path: str) -> bool:
    """Returns whether there is such a file; a name that none can have is none."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def _text_of(path: str) -> str:
    if path == "-":
        return sys.stdin.read()
    if not _is_there(path):
        from countermand.drawing.phrases import clip

        said = f"{clip(path, SHOWN_MAX)!r} is no JSON object, no file that exists, and no KEY=VALUE"
        raise click.UsageError(said)
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{path} is not UTF-8 text: {error.reason}") from None


def _put(made: dict[str, Json], key: str, text: str, fields: Sequence[Field]) -> None:
    """Puts one value where its path says; lists grow by one at a time."""
    here: Json = made
    steps = key.split(".")
    for step, following in zip(steps, [*steps[1:], ""], strict=True):
        last = following == ""
        new: Json = _value(text, key, fields) if last else [] if following.isdecimal() else {}
        if isinstance(here, dict) and step:
            if last:
                here[step] = new
            here = here.setdefault(step, new)
        elif (
            isinstance(here, list)
            and _INDEX.fullmatch(step)
            and int(step) <= min(len(here), LIST_MAX)
        ):
            if int(step) == len(here):
                here.append(new)
            elif last:
                here[int(step)] = new
            here = here[int(step)]
        else:
            said = "write it as disks.0.target=fast/disk-1; lists begin at 0, without gaps"
            raise click.UsageError(f"{key!r} leads nowhere in the input: {said}")


def _value(text: str, key: str, fields: Sequence[Field]) -> Json:
    from countermand.client.workflow_file import read_value
    from countermand.rpc.errors import CountermandError

    if _type_at(key, fields) in TEXTS:
        return text
    try:
        value = read_value(text, origin=key)
    except CountermandError:
        return text
    whole = isinstance(value, bool | int | float) or text.lstrip().startswith(("[", "{"))
    return value if whole else text


def _type_at(key: str, fields: Sequence[Field]) -> str:
    """Returns the type that a template's header has at a path; empty if it has none."""
    found = ""
    for step in key.split("."):
        if step.isdecimal():
            continue
        if found == "image":
            return "string"  # a part of an address
        rule = next((rule for rule in fields if rule.name == step), None)
        if rule is None:
            return ""
        found, fields = rule.type, rule.item
    return found
