"""Says which version this is, and of what it is built on."""

from __future__ import annotations

import platform

import click

from countermand.cli.forms import show_value
from countermand.cli.settings import LOCAL, Settings, examples, shared_options


@click.command(epilog=examples("countermand version", exits=LOCAL))
@shared_options()
@click.pass_obj
def version(settings: Settings) -> None:
    """Say which version this is."""
    parts = versions()
    if settings.for_programs:
        show_value(settings, parts)
    elif settings.output == "name":
        click.echo(parts["countermand"])
    else:
        click.echo(in_words(parts))


def versions() -> dict[str, str]:
    """Returns which version this is, and of what it is built on."""
    from importlib.metadata import version as version_of

    return {
        "countermand": version_of("countermand"),
        "python": platform.python_version(),
        "grpcio": version_of("grpcio"),
        "protobuf": version_of("protobuf"),
    }


def in_words(parts: dict[str, str]) -> str:
    """Returns versions as a line."""
    return ", ".join(f"{name} {number}" for name, number in parts.items())
