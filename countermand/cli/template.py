"""`countermand template`: workflows that come with Countermand, to look at and to fill in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from countermand.cli.completion import complete_templates
from countermand.cli.files import input_option
from countermand.cli.settings import (
    FORMATS,
    LOCAL,
    OrderedGroup,
    Settings,
    examples,
    form_option,
)

if TYPE_CHECKING:
    from countermand.client.templates import Template
    from countermand.client.templates.shipped import Field

FILES = (".yaml", ".yml", ".json")  # what ends so is a file of one's own


@click.group(
    cls=OrderedGroup,
    epilog=examples(
        "countermand template list",
        "countermand template show move-disk",
        "countermand template render move-disk --input disks.0.source=slow/a "
        "--input disks.0.target=fast/a",
        exits=(),
    ),
)
def template() -> None:
    """Look at the workflows that come with Countermand, and fill them in.

    One spec serves any number of disks; only the input differs. No coordinator is asked.
    """


@template.command("list", epilog=examples("countermand template list -o json", exits=LOCAL))
@form_option(*FORMATS)
@click.pass_obj
def list_(settings: Settings) -> None:
    """List the templates."""
    from countermand.cli.forms import show_value
    from countermand.cli.table import table
    from countermand.client.templates import load, names

    found = [load(name) for name in names()]
    match settings.output:
        case "json" | "yaml":
            shown = [{"name": one.name, "summary": one.summary} for one in found]
            show_value(settings, shown)
        case "name":
            for one in found:
                click.echo(one.name)
        case _:
            rows = [(one.name, ", ".join(f.name for f in one.fields), one.summary) for one in found]
            table(("TEMPLATE", "INPUT", "WHAT IT DOES"), rows)


@template.command(
    epilog=examples(
        "countermand template show move-disk",
        "countermand template show move-disk -o yaml > my-move-disk.yaml",
        exits=LOCAL,
    )
)
@click.argument("name", shell_complete=complete_templates)
@form_option("table", "wide", "yaml", "json", "name")
@click.pass_obj
def show(settings: Settings, name: str) -> None:
    """Show a template: its tree, its input, and how to use it.

    As yaml it is the file itself, a start for one of your own, which is then named as NAME.yaml.
    """
    from countermand.cli.forms import show_value
    from countermand.client.workflow_file import read_value

    found = _load(settings, name)
    match settings.output:
        case "yaml":
            click.echo(found.file.text, nl=False)
        case "json":
            show_value(settings, read_value(found.file.text, origin=name))
        case "name":
            click.echo(found.name)
        case _:
            _describe(found, name)


@template.command(
    epilog=examples(
        "countermand template render clone-vm > clone.yaml",
        "countermand template render create-snapshot --input disks.0.image=fast/vm-42 "
        "--input snapshot_id=monday",
        "countermand template render move-disk --input disks.json -o json "
        "| countermand workflow submit - --id move-1",
        exits=LOCAL,
    )
)
@click.argument("name", shell_complete=complete_templates)
@input_option
@form_option("yaml", "json")
@click.pass_obj
def render(settings: Settings, name: str, inputs: tuple[str, ...]) -> None:
    """Print a template's spec with its input, ready to submit.

    Without --input it is filled in with its example.
    """
    from countermand.cli.exits import fail
    from countermand.cli.files import filled
    from countermand.cli.forms import show_value
    from countermand.client.workflow_file import dump_yaml
    from countermand.rpc.errors import FieldInvalid

    found = _load(settings, name)
    try:
        given = filled(found, inputs) if inputs else found.fill(found.example)
    except FieldInvalid as error:
        raise click.exceptions.Exit(fail(settings, error)) from None
    whole = {"spec": found.file.spec, "input": given}
    if settings.output == "json":
        show_value(settings, whole)
        return
    if not inputs:
        click.echo("# The input below is an example: write your own.")
    click.echo(dump_yaml(whole), nl=False)


def _load(settings: Settings, name: str) -> Template:
    from countermand.cli.exits import fail
    from countermand.client.templates import load, read_template
    from countermand.rpc.errors import FieldInvalid

    try:
        if name.endswith(FILES):
            with click.open_file(name, encoding="utf-8") as file:
                return read_template(file.read(), origin=name)
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{name} is not UTF-8 text: {error.reason}") from None
    except FieldInvalid as error:
        raise click.exceptions.Exit(fail(settings, error)) from None
    try:
        return load(name)
    except FieldInvalid as error:
        raise click.UsageError(error.violations[0].description) from None


def _describe(found: Template, name: str) -> None:
    from countermand.cli.spec_tree import tree_lines

    click.echo(f"{found.name}: {found.summary}\n")
    for line in tree_lines(found.spec()):
        click.echo(f"  {line}")
    click.echo("\nInput:")
    for line in input_lines(found.fields):
        click.echo(f"  {line}")
    words = [f"--input {pair}" for pair in example_pairs(found)]
    named = name if name.endswith(FILES) else f"--template {name}"
    command = f"countermand workflow submit {named} --id ID"
    click.echo("\nUse it:\n  " + " \\\n    ".join([command, *words]))


def input_lines(fields: Sequence[Field]) -> list[str]:
    """Returns what a template takes, as lines."""
    rows = list(_input_rows(fields, ""))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{a.ljust(widths[0])}  {b.ljust(widths[1])}  {c}".rstrip() for a, b, c in rows]


def _input_rows(fields: Sequence[Field], indent: str) -> Iterator[tuple[str, str, str]]:
    for one in fields:
        default = ""
        if one.default is not None:
            default = f" [default: {json.dumps(one.default)}]"
        yield f"{indent}{one.name}", one.type, f"{one.summary}{default}"
        yield from _input_rows(one.item, f"{indent}  ")


def example_pairs(found: Template) -> Iterator[str]:
    """Yields the example of a template as KEY=VALUE; of a list its first item, of defaults none."""
    for one in found.fields:
        value = found.example.get(one.name)
        if isinstance(value, list):
            yield from (
                f"{one.name}.0.{inner.name}={_word(value[0], inner.name)}" for inner in one.item
            )
        elif one.default is None:
            yield f"{one.name}={_word(found.example, one.name)}"


def _word(holder: object, name: str) -> str:
    value = holder.get(name) if isinstance(holder, dict) else None
    return "/".join(map(str, value.values())) if isinstance(value, dict) else str(value)
