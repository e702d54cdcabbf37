"""Says which version this is, and of what it is built on."""

from __future__ import annotations

import json
import platform

import click

from countermand.cli.settings import Settings, examples, shared_options


@click.command(epilog=examples("countermand version"))
@shared_options()
@click.pass_obj
def version(settings: Settings) -> None:
    """Say which version this is."""
    from importlib.metadata import version as version_of

    parts = {
        "countermand": version_of("countermand"),
        "python": platform.python_version(),
        "grpcio": version_of("grpcio"),
        "protobuf": version_of("protobuf"),
    }
    if settings.output == "json":
        click.echo(json.dumps(parts))
    elif settings.output == "name":
        click.echo(parts["countermand"])
    else:
        click.echo(", ".join(f"{name} {number}" for name, number in parts.items()))
