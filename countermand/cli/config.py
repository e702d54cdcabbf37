"""`countermand config`: which settings hold, where each is from, and whether the file is right."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click

from countermand.cli import profiles
from countermand.cli.settings import (
    CHECKS,
    LOCAL,
    UNSET,
    OrderedGroup,
    Settings,
    examples,
    form_option,
    shared_options,
)

SHOWN = ("profile", "coordinator", "output", "timeout", "color")


@click.group(
    cls=OrderedGroup,
    epilog=examples(
        "mkdir -p ~/.config/countermand",
        "countermand config sample > ~/.config/countermand/config.toml",
        "countermand config check",
        "countermand config show --origin --profile production",
        exits=(),
    ),
)
def config() -> None:
    """See which settings hold, and from where.

    A flag counts before COUNTERMAND_COORDINATOR, COUNTERMAND_OUTPUT and COUNTERMAND_TIMEOUT, those
    before a profile (--profile, COUNTERMAND_PROFILE), and that before what holds by itself. The
    file with the profiles is named by COUNTERMAND_CONFIG, or is countermand/config.toml where
    configuration is kept.
    """


@config.command(
    epilog=examples(
        "countermand config show --origin", "countermand config show -o json", exits=LOCAL
    )
)
@click.option("--origin", "origins", is_flag=True, help="Also where each value is from.")
@shared_options()
@click.pass_obj
def show(settings: Settings, origins: bool) -> None:
    """Show the settings that hold for a command."""
    from countermand.cli.forms import show_value
    from countermand.cli.table import table

    rows = [(name, value, settings.origins.get(name, UNSET).words) for name, value in _of(settings)]
    if settings.for_programs:
        show_value(settings, {name: {"value": value, "origin": o} for name, value, o in rows})
    elif settings.output == "name":
        click.echo(settings.profile)
    else:
        heads = ("SETTING", "VALUE", "ORIGIN") if origins else ("SETTING", "VALUE")
        told = [(name, _words(value), origin)[: len(heads)] for name, value, origin in rows]
        table(heads, told)


@config.command(epilog=examples("countermand config check", exits=LOCAL))
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@form_option("table", "json", "yaml")
@click.pass_obj
def check(settings: Settings, file: Path | None) -> None:
    """Say everything that is wrong with the file and the environment.

    A key that nothing reads is an error, with what may have been meant.
    """
    from countermand.cli.forms import show_value

    path = file or profiles.path_from(os.environ)
    wrong = [f"environment: {stranger}" for stranger in profiles.strangers(os.environ)]
    told = list(wrong)
    if file is not None and not path.exists():
        wrong.append("there is no such file")
        told.append(f"{path}: there is no such file")
    try:
        profiles.load(path, os.environ.get("COUNTERMAND_PROFILE", ""), CHECKS)
    except profiles.ConfigInvalid as error:
        wrong += error.problems
        told.append(error.message)
    found = profiles.names(path)
    if settings.for_programs:
        show_value(settings, {"file": str(path), "profiles": found, "problems": wrong})
    elif wrong:
        click.echo("\n".join(told))
    else:
        there = ", ".join(found) or "no profile"
        click.echo(f"{path}: {there if path.exists() else 'there is no file, and none is needed'}.")
    if wrong:
        raise click.exceptions.Exit(1)


@config.command(epilog=examples("countermand config sample", exits=LOCAL))
def sample() -> None:
    """Print a file to begin with, with every key there is."""
    click.echo(profiles.SAMPLE, nl=False)


def _of(settings: Settings) -> Iterator[tuple[str, str | float | bool | None]]:
    yield "profile", settings.profile or None
    yield "coordinator", settings.coordinator
    yield "output", settings.output
    yield "timeout", settings.timeout.total_seconds() if settings.timeout else None
    yield "color", settings.color


def _words(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g} s"
        case _:
            return str(value)
