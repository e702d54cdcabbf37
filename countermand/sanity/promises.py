"""What a check is: a function with the promise that it looks into, and how it may end.

A check is an async function of a `Probe`. It returns when the promise is kept, raises `Broken` when
it is not, and `NotOffered` when this agent does not serve what it is about. Its name, its promise
and the place where the contract says so are what a report shows.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it knows this module
    from countermand.sanity.cases import Case
    from countermand.sanity.probe import Probe


class Broken(Exception):
    """A promise is not kept."""

    def __init__(self, *, expected: str, seen: str) -> None:
        """Says both sides."""
        self.expected = expected
        self.seen = seen
        super().__init__(f"expected {expected}; seen {seen}")


class NotOffered(Exception):
    """The agent does not serve what a check is about, or the command was not told enough."""


class Each(StrEnum):
    """What a check is run once for."""

    AGENT = "AGENT"
    POOL = "POOL"
    VERB = "VERB"  # each verb in each pool
    CASE = "CASE"  # each verb in each pool, in each of its ways


Function = Callable[["Probe"], Awaitable[None]]
Fits = Callable[["Case"], bool]


def _all(_case: Case) -> bool:
    """Fits every case."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One promise, and the function that looks into it."""

    area: str
    function: Function
    promise: str
    told: str  # where the contract says it
    each: Each
    fits: Fits = _all  # whether it is about a case at all

    @property
    def name(self) -> str:
        """Returns the name that `--only` goes by."""
        return f"{self.area}.{getattr(self.function, '__name__', '')}"


class Area:
    """A list of checks that belong together, in the order in which they are run."""

    def __init__(self, name: str, *, told: str) -> None:
        """Begins empty; `told` is where the contract speaks of it, unless a check says better."""
        self.name = name
        self.checks: list[Check] = []
        self._told = told

    def promise(
        self, promise: str, *, told: str = "", each: Each = Each.AGENT, fits: Fits = _all
    ) -> Callable[[Function], Function]:
        """Adds the decorated function as a check."""

        def add(function: Function) -> Function:
            self.checks.append(
                Check(
                    area=self.name,
                    function=function,
                    promise=promise,
                    told=told or self._told,
                    each=each,
                    fits=fits,
                )
            )
            return function

        return add


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Returns whether a check's name, or a part of it, is meant by one of the patterns."""
    return any(fnmatch.fnmatch(name, f"*{pattern}*") for pattern in patterns)


# -- saying what is wrong -----------------------------------------------------------------------


def equal(seen: object, expected: object, about: str) -> None:
    """Raises unless what was seen is what was expected.

    Raises:
        Broken: It is not.
    """
    if seen != expected:
        raise Broken(expected=f"{about}: {_words(expected)}", seen=_words(seen))


def holds(holding: object, expected: str, seen: object) -> None:
    """Raises unless something holds.

    Raises:
        Broken: It does not.
    """
    if not holding:
        raise Broken(expected=expected, seen=_words(seen))


def _words(value: object) -> str:
    if isinstance(value, str):
        return value or "nothing"
    if isinstance(value, (list, tuple, set, frozenset, dict)) and not value:
        return "nothing"
    return " ".join(str(value).split())
