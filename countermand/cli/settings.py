"""What every command knows: which coordinator, which form of output, how long to wait.

The same options are taken before and after the command, because people write both
`countermand -o json host list` and `countermand host list -o json`; the later one counts. What is
not given is asked of the environment, then of a profile (`countermand.cli.profiles`). Imports
nothing heavy: it is part of every start.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
from click.core import ParameterSource

from countermand.cli import profiles
from countermand.rpc import addresses

DEFAULT_COORDINATOR = "127.0.0.1:7700"
FORMATS = ("table", "wide", "json", "yaml", "name")
NOT_DRAWN = ("json", "yaml", "name")  # what a drawing has no form in

_Command = TypeVar("_Command", bound=Callable[..., Any])
INT64_MAX = 2**63 - 1
SPAN_MAX = timedelta(days=36500)  # a century: longer is a slip, and more than clocks can reckon
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_WHOLE = re.compile("[+-]?[0-9]+")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")


class Rank(IntEnum):
    """Who says what a setting is; the higher one is believed."""

    DEFAULT = 0
    PROFILE = 1
    ENVIRONMENT = 2
    FLAG = 3


class Origin(NamedTuple):
    """Where the value of a setting is from."""

    rank: Rank
    words: str


UNSET = Origin(Rank.DEFAULT, "default")


@dataclass(slots=True)
class Settings:
    """The shared options, as given so far."""

    coordinator: str = DEFAULT_COORDINATOR
    output: str = "table"
    timeout: timedelta | None = None
    color: bool = True
    profile: str = ""
    origins: dict[str, Origin] = field(default_factory=dict)

    @property
    def for_people(self) -> bool:
        """Returns whether somebody reads along."""
        return self.output in {"table", "wide"}

    @property
    def for_programs(self) -> bool:
        """Returns whether whole messages are asked for."""
        return self.output in {"json", "yaml"}

    @property
    def wide(self) -> bool:
        """Returns whether a table has all its columns, and cuts none."""
        return self.output == "wide"

    def without(self, *forms: str, because: str) -> None:
        """Does without forms that a command does not have.

        One that a profile or the environment asks for is meant for others.

        Raises:
            click.UsageError: It was asked for on the command line.
        """
        if self.output not in forms:
            return
        if self.origins.get("output", UNSET).rank is Rank.FLAG:
            raise click.UsageError(because)
        self.output = "table"

    def keep(self, name: str, value: object, origin: Origin) -> None:
        """Takes a value, unless somebody who is believed more has said another."""
        if origin.rank >= self.origins.get(name, UNSET).rank:
            setattr(self, name, value)
            self.origins[name] = origin


def colour_of(environment: Mapping[str, str]) -> tuple[str, bool] | None:
    """Returns what says whether there is colour, and what it says; nothing: see what is there.

    Tables and drawings are by different libraries, and each would believe something else.
    """
    for name, is_said, value in (
        ("NO_COLOR", bool(environment.get("NO_COLOR")), False),
        ("FORCE_COLOR", bool(environment.get("FORCE_COLOR")), True),
        ("TERM", environment.get("TERM") == "dumb", False),
    ):
        if is_said:
            return name, value
    return None


class Whole(click.ParamType):  # type: ignore[type-arg]  # generic for type checkers only
    """A whole number that the contract has room for; help does not tell how much that is."""

    name = "integer"

    def __init__(self, least: int = 0, most: int = INT64_MAX) -> None:
        """Keeps the bounds."""
        self._range = click.IntRange(least, most)

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Returns the number, or fails with what it has to be."""
        if isinstance(value, str) and not _WHOLE.fullmatch(value.strip()):
            self.fail(f"{value!r} is no whole number: write {self._range.min} or more", param, ctx)
        return self._range.convert(value, param, ctx)  # type: ignore[arg-type]  # as it was written


class Span(click.ParamType):  # type: ignore[type-arg]  # generic for type checkers only
    """A length of time: "90", "90s", "5m", "1.5h"."""

    name = "duration"

    def __init__(self, *, nothing: bool = True) -> None:
        """Keeps whether no time at all is a length, too."""
        self._nothing = nothing

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Returns the length of time, or fails with an example."""
        if isinstance(value, timedelta):
            return value
        match = _SPAN.fullmatch(str(value))
        if match is None or isinstance(value, bool):
            self.fail(f"{value!r} is not a duration: write 30s, 5m or 1.5h", param, ctx)
        seconds = float(match[1]) * _UNITS_S[match[2] or "s"]
        if seconds > SPAN_MAX.total_seconds():
            self.fail(f"{value!r} is too long: at most {SPAN_MAX.days}d", param, ctx)
        if not (seconds or self._nothing):
            said = "it takes some time: write 30s; left out, it is as long as it takes"
            self.fail(f"{value!r} is no time at all, and {said}", param, ctx)
        return timedelta(seconds=seconds)


TIMEOUT = Span(nothing=False)


class Address(click.ParamType):  # type: ignore[type-arg]  # generic for type checkers only
    """Where a service listens: "host:port", or one of gRPC's own forms, such as "unix:/path"."""

    name = "address"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Returns the address, or fails with an example."""
        try:
            return addresses.address(str(value))
        except addresses.AddressInvalid as error:
            self.fail(str(error), param, ctx)


class Addresses(click.ParamType):  # type: ignore[type-arg]  # generic for type checkers only
    """Where coordinators that share a store listen, with commas between them; often only one."""

    name = "addresses"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Returns the addresses as one text, or fails with an example; a profile may list them."""
        given = [str(each) for each in value] if isinstance(value, list) else str(value)
        try:
            return addresses.together(addresses.addresses(given))
        except addresses.AddressInvalid as error:
            self.fail(str(error), param, ctx)


class OrderedGroup(click.Group):
    """A group that lists its commands as they are written: in the order of a day's work."""

    def __init__(
        self, *args: object, aliases: Mapping[str, str] | None = None, **kwargs: object
    ) -> None:
        """Keeps other words for its commands, which are taken and not shown."""
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # handed on as they came
        self._aliases = aliases or {}

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Returns the names."""
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Returns a command by its name, or by another word for it."""
        return super().get_command(ctx, self._aliases.get(cmd_name, cmd_name))


def _keep(ctx: click.Context, param: click.Parameter, value: object) -> None:
    """Puts a given option into the settings; one that was left out changes nothing."""
    settings = ctx.ensure_object(Settings)
    if value is not None and param.name is not None:
        settings.keep(param.name, value, _origin(ctx, param))


def _origin(ctx: click.Context, param: click.Parameter) -> Origin:
    assert param.name is not None
    if ctx.get_parameter_source(param.name) is ParameterSource.ENVIRONMENT:
        return Origin(Rank.ENVIRONMENT, str(param.envvar))
    return Origin(Rank.FLAG, max(param.opts, key=len))


def _colourless(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.color = False
        ctx.ensure_object(Settings).keep("color", False, _origin(ctx, param))


def _profile(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Fills in what nobody gave from the profile: of a command that runs, so never for its help."""
    _keep(ctx, param, value)
    if not ctx.resilient_parsing:
        settle(ctx, ctx.ensure_object(Settings))


def settle(ctx: click.Context, settings: Settings) -> None:
    """Fills in what nobody gave from the profile.

    Raises:
        ConfigInvalid: The file is wrong, or has no such profile.
    """
    path = profiles.path_from(os.environ)
    if not (settings.profile or path.exists() or os.environ.get("COUNTERMAND_CONFIG")):
        return
    found = profiles.load(path, settings.profile, CHECKS)
    if found is None:
        return
    settings.keep("profile", found.name, Origin(Rank.PROFILE, f"{path}"))
    for key, value in found.values.items():
        settings.keep(key, value, Origin(Rank.PROFILE, f"{found}"))
    if not settings.color:
        ctx.color = False


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise click.UsageError(f"{value!r} is neither true nor false")
    return value


# What a profile may say, with what reads it.
CHECKS: profiles.Checks = {
    "coordinator": lambda value: Addresses().convert(value, None, None),
    "output": lambda value: click.Choice(FORMATS).convert(str(value), None, None),
    "timeout": lambda value: TIMEOUT.convert(value, None, None),
    "color": _flag,
}


def _complete_profile(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    names = profiles.names(profiles.path_from(os.environ))
    return [name for name in names if name.startswith(begun)]


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
            metavar="ADDRESS[,ADDRESS…]",
            type=Addresses(),
            # Only once: below the root it would win over an option before the command.
            envvar="COUNTERMAND_COORDINATOR" if root else None,
            show_envvar=root,
            expose_value=False,
            callback=_keep,
            help="Where the coordinator listens, as host:port; where several share a store, all "
            "of them, with commas: any of them answers. [default: "
            f"{'' if root else '$COUNTERMAND_COORDINATOR, else '}{DEFAULT_COORDINATOR}]",
        ),
        click.option(
            *form,
            "output",
            type=click.Choice(FORMATS),
            envvar="COUNTERMAND_OUTPUT" if root else None,
            expose_value=False,
            callback=_keep,
            help="table or wide for people, json or yaml for programs, name for pipes. "
            "[default: table]",
        ),
        click.option(
            "--timeout",
            type=TIMEOUT,
            envvar="COUNTERMAND_TIMEOUT" if root else None,
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
        click.option(
            "--profile",
            metavar="NAME",
            envvar="COUNTERMAND_PROFILE" if root else None,
            expose_value=False,
            callback=_keep if root else _profile,
            shell_complete=_complete_profile,
            help="Settings under this name in the configuration file; see `countermand config`.",
        ),
    )

    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def form_option(*forms: str) -> Callable[[_Command], _Command]:
    """Returns a decorator that adds the forms of a command that asks no coordinator."""
    return click.option(
        "-o",
        "--output",
        "output",
        type=click.Choice(forms),
        expose_value=False,
        callback=_keep,
        help=f"[default: {forms[0]}]",
    )


# What exit codes mean, wherever they do; `countermand.cli.exits` gives them.
_CODES = {
    0: "done",
    1: "failed",
    2: "used wrongly",
    3: "compensated: it failed, and every effect was made up for",
    4: "needs somebody, or left something behind",
    124: "timed out; what was submitted goes on",
}
PLAIN = (0, 1, 2, 124)
LOCAL = (0, 1, 2)  # no coordinator is asked
FOLLOWED = (0, 1, 2, 3, 4, 124)  # how a workflow ended
SEEN_TO = (0, 1, 2, 4, 124)


def examples(*lines: str, exits: tuple[int, ...] = PLAIN) -> str:
    """Returns the end of a help text: commands to copy, and what exit codes mean."""
    shown = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
    if not exits:
        return shown
    codes = "\n".join(f"  {code:<4} {_CODES[code]}" for code in exits)
    return f"{shown}\n\n\b\nExit codes:\n{codes}"


# How workflows are written in commands, and what is in them: each with an example.
NAMES_OF_WORKFLOWS = (
    ("vm-42", "a workflow, by its id; or by its whole name, workflows/vm-42"),
    ("vm-4", "what begins so, if only one does; a script writes ids whole"),
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
