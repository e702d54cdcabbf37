"""What every command knows: which coordinator, which form of output, how long to wait.

The same options are taken before and after the command, because people write both
`countermand -o json host list` and `countermand host list -o json`; the later one counts. Imports
nothing heavy: it is part of every start.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

DEFAULT_COORDINATOR = "127.0.0.1:7700"
PORT_MAX = 65535
_SCHEMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "vsock:")
FORMATS = ("table", "json", "name")

_Command = TypeVar("_Command", bound=Callable[..., Any])
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")


@dataclass(slots=True)
class Settings:
    """The shared options, as given so far."""

    coordinator: str = DEFAULT_COORDINATOR
    output: str = "table"
    timeout: timedelta | None = None


class Span(click.ParamType):  # type: ignore[type-arg]  # generic for type checkers only
    """A length of time: "90", "90s", "5m", "1.5h"."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Returns the length of time, or fails with an example."""
        if isinstance(value, timedelta):
            return value
        match = _SPAN.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r} is not a duration: write 30s, 5m or 1.5h", param, ctx)
        return timedelta(seconds=float(match[1]) * _UNITS_S[match[2] or "s"])


class Address(click.ParamType):  # type: ignore[type-arg]  # generic for type checkers only
    """Where a service listens: "host:port", or one of gRPC's own forms, such as "unix:/path"."""

    name = "address"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Returns the address, or fails with an example."""
        text = str(value)
        if text.startswith(_SCHEMES):
            return text
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) <= PORT_MAX:
            self.fail(
                f"{text!r} is not an address: write host:port, as in 10.0.0.1:7700", param, ctx
            )
        return text


class OrderedGroup(click.Group):
    """A group that lists its commands as they are written: in the order of a day's work."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Returns the names."""
        return list(self.commands)


def _keep(ctx: click.Context, param: click.Parameter, value: object) -> None:
    """Puts a given option into the settings; one that was left out changes nothing."""
    settings = ctx.ensure_object(Settings)
    if value is not None and param.name is not None:
        setattr(settings, param.name, value)


def _colourless(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.color = False


def checked_picture(
    _ctx: click.Context, _param: click.Parameter, value: Path | None
) -> Path | None:
    """Returns where a picture goes, or refuses a folder that does not exist: it may be misspelt."""
    if value is not None and not value.parent.is_dir():
        raise click.BadParameter(f"there is no folder {value.parent}: make it first")
    return value


def shared_options(
    *, root: bool = False, form: tuple[str, ...] = ("-o", "--output")
) -> Callable[[_Command], _Command]:
    """Returns a decorator that adds the options every command takes.

    A command that has outputs of its own takes the form of its own by "-o" only.
    """
    options = (
        click.option(
            "--coordinator",
            metavar="ADDRESS",
            type=Address(),
            # Only once: below the root it would win over an option before the command.
            envvar="COUNTERMAND_COORDINATOR" if root else None,
            show_envvar=root,
            expose_value=False,
            callback=_keep,
            help=f"Where the coordinator listens, as host:port. [default: {DEFAULT_COORDINATOR}]",
        ),
        click.option(
            *form,
            "output",
            type=click.Choice(FORMATS),
            expose_value=False,
            callback=_keep,
            help="table for people, json for programs, name for pipes. [default: table]",
        ),
        click.option(
            "--timeout",
            type=Span(),
            expose_value=False,
            callback=_keep,
            help="Give up after this long, as 30s or 5m; exit code 124. The workflow goes on.",
        ),
        click.option(
            "--no-color",
            is_flag=True,
            expose_value=False,
            callback=_colourless,
            help="Words and glyphs only; so does NO_COLOR=1.",
        ),
    )

    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def examples(*lines: str) -> str:
    """Returns the end of a help text: commands to copy."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


# How workflows are written in commands, and what is in them: each with an example.
NAMES_OF_WORKFLOWS = (
    ("vm-42", "a workflow, by its id; or by its whole name, workflows/vm-42"),
    ("@latest", "the newest workflow"),
)
NAMES_OF_TASKS = (
    ("vm-42/clone", "a task, and the newest attempt of it; also @latest/clone"),
    ("vm-42/clone/2", "one attempt of it, by its number; or by the whole name,"),
    ("", "workflows/vm-42/tasks/clone/attempts/2, as -o name shows it"),
)


def names(*forms: tuple[str, str]) -> str:
    """Returns a part of the end of a help text: how things are named, with examples."""
    width = max(len(form) for form, _ in forms)
    lines = (f"  {form:<{width}}  {meaning}" for form, meaning in forms)
    return "\b\nNames:\n" + "\n".join(lines) + "\n\n"
