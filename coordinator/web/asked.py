"""What an address may ask for: what narrows nothing is said, not taken for everything."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from starlette.datastructures import QueryParams

from countermand.rpc.errors import FieldInvalid, Violation


def unknown(given: QueryParams, known: Collection[str]) -> Iterator[Violation]:
    """Yields what is wrong with an address that narrows by what there is not."""
    there = ", ".join(known)
    for name in dict.fromkeys(given.keys()):
        if name not in known:
            yield Violation(name, f"narrows nothing; there are: {there}")


def no_state(given: QueryParams, states: Collection[str]) -> Iterator[Violation]:
    """Yields what is wrong with the states that an address asks for."""
    for word in given.getlist("state"):
        if word not in states:
            yield Violation("state", f"{word!r} is no state; there are: {', '.join(states)}")


def check(*wrong: Iterator[Violation]) -> None:
    """Raises FieldInvalid if anything is wrong."""
    if found := [each for some in wrong for each in some]:
        raise FieldInvalid(*found)
