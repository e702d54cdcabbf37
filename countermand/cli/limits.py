"""Lists that end after so many: whoever reads one is told that there is more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import click

Item = TypeVar("Item")
_Command = TypeVar("_Command", bound=Callable[..., Any])

LIMIT = 50  # a screenful


def limit_option(command: _Command) -> _Command:
    """Adds how many are listed."""
    return click.option(
        "--limit",
        default=LIMIT,
        show_default=True,
        type=click.IntRange(min=1),
        help="How many at most.",
    )(command)


async def up_to(limit: int, found: AsyncIterator[Item]) -> list[Item]:
    """Returns the first of them, and says beside the answer when there are more."""
    items: list[Item] = []
    async for item in found:
        if len(items) == limit:
            click.echo(f"{limit} shown, and there are more: --limit", err=True)
            break
        items.append(item)
    return items
