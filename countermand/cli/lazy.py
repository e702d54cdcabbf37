"""Groups whose commands are imported when they are used: a start loads one command, and not all."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click

from countermand.cli.settings import OrderedGroup


def load(place: str) -> click.Command:
    """Returns the command at "module:attribute"."""
    module, _, attribute = place.partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command), command
    return command


class LazyMembers(OrderedGroup):
    """A group that knows its commands by where they are, besides those that it has."""

    def __init__(self, *args: object, lazy: Mapping[str, str], **kwargs: object) -> None:
        """Keeps name → "module:attribute", in the order of a day's work."""
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # handed on as they came
        self._lazy = lazy

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Returns the names, first of those that it has."""
        return list(dict.fromkeys((*self.commands, *self._lazy)))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Returns a command, imported if it has to be."""
        place = self._lazy.get(self._aliases.get(cmd_name, cmd_name))
        return load(place) if place else super().get_command(ctx, cmd_name)
