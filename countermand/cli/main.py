"""The command `countermand`: its groups, loaded only when they are used.

Starting must stay below 250 ms, so nothing here or in a command's module imports gRPC, protobuf or
rich at the top; commands import what they need when they run.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from countermand.cli import around
from countermand.cli.lazy import load
from countermand.cli.settings import Origin, Rank, Settings, colour_of, shared_options

EPILOG = """\b
Examples:
  countermand demo                                          see it fail, and make up for it
  countermand workflow plan add-vm.json                     what it would do, and how make up for it
  countermand workflow submit add-vm.json --id vm-42 --watch
  countermand workflow watch @latest                        follow the last one
  countermand workflow requirements @latest                 what it needs from somebody, and how
\b
Exit codes:
  0    succeeded
  1    failed
  2    used wrongly
  3    compensated: it failed, and every effect was made up for
  4    needs somebody, or left something behind
  124  timed out
"""


GARBAGE_AFTER = 50_000  # new objects; Python's own measure is 700


class LazyGroup(click.Group):
    """A group that knows its commands by where they are, and imports one when it is used."""

    def __init__(
        self, *args: object, lazy: Mapping[str, tuple[str, str]], **kwargs: object
    ) -> None:
        """Keeps name → ("module:attribute", one line of help)."""
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # handed on as they came
        self._lazy = lazy

    def main(self, *args: object, **kwargs: object) -> Any:  # noqa: ANN401 - click's own
        """Runs a command; whatever goes wrong is told in its form, for all of them."""
        if kwargs.pop("standalone_mode", True) is False:
            return super().main(*args, standalone_mode=False, **kwargs)  # type: ignore[call-overload]
        # A start makes ten thousands of objects and no garbage: looking for it took a tenth of it.
        gc.set_threshold(GARBAGE_AFTER)
        around.open_streams()
        given = kwargs.get("args", args[0] if args else None)
        words = sys.argv[1:] if given is None else list(given)  # type: ignore[call-overload]
        settings = kwargs.setdefault("obj", Settings())
        assert isinstance(settings, Settings), settings
        try:
            around.check_words(words, os.environ)
            code = super().main(*args, standalone_mode=False, **kwargs)  # type: ignore[call-overload]
        except click.ClickException as error:
            code = around.tell(settings, words, error)
        except click.Abort:
            click.echo("Aborted!", err=True)
            code = 1
        except OSError as error:
            code = around.tell_unwritten(settings, words, error)
        sys.exit(code if isinstance(code, int) else 0)

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Returns the names in the order of a day's work."""
        return list(self._lazy)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports one command."""
        return load(self._lazy[cmd_name][0]) if cmd_name in self._lazy else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds a command; says where the one is that needs the coordinator's libraries."""
        if args[:1] == ["db"] and ctx.parent is None:
            raise click.UsageError(
                f"Databases are looked after by: countermand-coordinator {' '.join(args)}"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self._lazy.items()])


@click.group(
    cls=LazyGroup,
    lazy={
        "demo": (
            "countermand.cli.demo:demo",
            "See it: one copy fails, its siblings are made up for.",
        ),
        "workflow": ("countermand.cli.workflow:workflow", "Submit, follow and steer workflows."),
        "events": ("countermand.cli.events:events", "Follow what happens to all of them."),
        "template": (
            "countermand.cli.template:template",
            "Look at the workflows that come with it, and fill them in.",
        ),
        "external": (
            "countermand.cli.external:external",
            "Look at what waits for vendors, and do their part by hand.",
        ),
        "host": ("countermand.cli.host:host", "Add, look at and remove hosts."),
        "webhook": (
            "countermand.cli.webhook:webhook",
            "Tell other systems what happens, over HTTP.",
        ),
        "coordinator": (
            "countermand.cli.coordinator:coordinator",
            "See which coordinators share the work.",
        ),
        "open": ("countermand.cli.bundle:open_", "Show a workflow that was written into a file."),
        "doctor": (
            "countermand.cli.doctor:doctor",
            "Compare coordinator, journals and disks; repair what is safe.",
        ),
        "config": ("countermand.cli.config:config", "See which settings hold, and from where."),
        "completion": (
            "countermand.cli.completion:completion",
            "Complete commands and ids in bash, zsh and fish.",
        ),
        "version": ("countermand.cli.version:version", "Say which version this is."),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)
@shared_options(root=True)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Durable storage workflows: every action, or a compensation for each that took effect."""
    settings = ctx.ensure_object(Settings)
    if said := colour_of(os.environ):
        name, value = said
        settings.keep("color", value, Origin(Rank.ENVIRONMENT, name))
        ctx.color = settings.color  # `--no-color` has been read before
