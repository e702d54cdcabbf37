"""Profiles: what a person's configuration file says of coordinators, and what is wrong with it.

The file is TOML: the one that COUNTERMAND_CONFIG names, or `countermand/config.toml` in
`$XDG_CONFIG_HOME`. It is read when a command runs, never for a help text, and it need not be there.
A key that nothing reads is an error: it was meant to change something. Imports nothing heavy, as it
is part of every start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

SAMPLE = """\
# What `countermand` is told by flags and by COUNTERMAND_* comes before what is written here.
profile = "lab"  # the profile that is used when nobody names one; it may be left out

[profiles.lab]
coordinator = "127.0.0.1:7700"

[profiles.production]
coordinator = "10.0.0.1:7700"
output = "wide"   # table, wide, json, yaml or name
timeout = "30s"   # each command gives up after this long
color = false     # words and glyphs only
"""

# What this command reads; services and others have more that begin so.
OURS: Final = ("CONFIG", "COORDINATOR", "OUTPUT", "OWNER", "PROFILE", "TIMEOUT", "TOKEN")
ALIKE = 0.75  # of two words of which one is most likely the other, written wrongly

Value = object
# By key: returns the value as commands take it, or raises a UsageError.
Checks = Mapping[str, Callable[[Value], Value]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One profile of a file, with its values as commands take them."""

    name: str
    path: Path
    values: Mapping[str, Value]

    def __str__(self) -> str:
        return f"profile {self.name} in {self.path}"


class ConfigInvalid(click.ClickException):
    """A configuration file that says something else than was meant."""

    exit_code = 2

    def __init__(self, path: Path, problems: Collection[str]) -> None:
        """Keeps what is wrong."""
        self.problems = tuple(problems)
        lines = "".join(f"\n  {problem}" for problem in problems)
        super().__init__(f"{path} is not right:{lines}")


def path_from(environment: Mapping[str, str]) -> Path:
    """Returns where the file is, whether there is one or not."""
    if named := environment.get("COUNTERMAND_CONFIG"):
        return Path(named)
    home = environment.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()
    return Path(home) / "countermand" / "config.toml"


def load(path: Path, name: str, checks: Checks) -> Profile | None:
    """Returns the profile of that name, or the file's own choice; nothing if it makes none.

    Raises:
        ConfigInvalid: Something in the file is wrong, wherever: half a file is not believed.
    """
    whole = _read(path)
    if problems := list(_problems(whole, checks)):
        raise ConfigInvalid(path, problems)
    profiles = _table(whole.get("profiles"))
    chosen = name or str(whole.get("profile", ""))
    if not chosen:
        return None
    if chosen not in profiles:
        raise ConfigInvalid(path, [unknown("profile", chosen, profiles)])
    values = {key: checks[key](value) for key, value in _table(profiles[chosen]).items()}
    return Profile(name=chosen, path=path, values=values)


def names(path: Path) -> list[str]:
    """Returns the names of the profiles, as far as they can be read."""
    try:
        return sorted(_table(_read(path).get("profiles")))
    except ConfigInvalid:
        return []


def unknown(kind: str, word: str, known: Collection[str]) -> str:
    """Returns that something is not known, with what may have been meant, or else all there is."""
    import difflib

    near = difflib.get_close_matches(word, known, n=1)
    there = f"there are: {', '.join(sorted(known))}" if known else "there are none"
    return f"there is no {kind} {word!r}: " + (f"did you mean {near[0]!r}?" if near else there)


def strangers(environment: Mapping[str, str]) -> Iterator[str]:
    """Yields which variables look like ours, and are read by nobody."""
    import difflib

    for variable in sorted(environment):
        lead, _, word = variable.partition("_")
        if lead == "COUNTERMAND" and word not in OURS:
            for near in difflib.get_close_matches(word, OURS, n=1, cutoff=ALIKE):
                yield f"nothing reads {variable}: did you mean COUNTERMAND_{near}?"


def _read(path: Path) -> Mapping[str, Value]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        # One that was named is meant to be there.
        if os.environ.get("COUNTERMAND_CONFIG"):
            raise ConfigInvalid(path, ["there is no such file"]) from None
        return {}
    except OSError as error:
        raise ConfigInvalid(path, [error.strerror or str(error)]) from None
    except ValueError as error:  # of TOML, or of UTF-8
        raise ConfigInvalid(path, [str(error)]) from None


def _problems(whole: Mapping[str, Value], checks: Checks) -> Iterator[str]:
    """Yields everything that is wrong, each with what would be right."""
    known = ("profile", "profiles")
    for key in whole.keys() - set(known):
        yield unknown("key", key, known)
    profiles = whole.get("profiles", {})
    if not isinstance(profiles, dict):
        yield "profiles is no table: write [profiles.NAME]"
    if not isinstance(whole.get("profile", ""), str):
        yield "profile is no text: it names the profile that is used"
    elif (chosen := whole.get("profile")) and chosen not in _table(profiles):
        yield unknown("profile", str(chosen), _table(profiles))
    for name, profile in _table(profiles).items():
        if not isinstance(profile, dict):
            yield f"profiles.{name} is no table: write [profiles.{name}]"
        for key, value in _table(profile).items():
            if key not in checks:
                yield f"profiles.{name}: {unknown('key', key, tuple(checks))}"
                continue
            try:
                checks[key](value)
            except click.UsageError as error:
                yield f"profiles.{name}.{key}: {error.message}"


def _table(value: Value) -> Mapping[str, Value]:
    return value if isinstance(value, dict) else {}
