"""Stories in tables: one row is a tree, what the world answers, and the history that comes of it.

`tells` plays a row and compares. `tells_the_same_under_new_owners` plays it again with coordinators
that die after every decision (S-H3): whatever is stored must be enough to tell the same story.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pytest

from tests.saga.language import Play, play


class Row(NamedTuple):
    """One story; its id names the promises that it shows."""

    id: str
    tree: str
    setup: str
    expected: str
    newest_first: bool = False
    # Why the core tells another story today; a row that begins to hold says so by failing.
    defect: str = ""


def each(rows: Iterable[Row]) -> list[pytest.ParameterSet]:
    """Returns the parameters of a test for every row."""
    return [
        pytest.param(
            row,
            id=row.id,
            marks=[pytest.mark.xfail(strict=True, reason=row.defect)] if row.defect else [],
        )
        for row in rows
    ]


def tells(row: Row) -> Play:
    """Plays a row and compares; returns the play."""
    told = play(row.tree, row.setup, newest_first=row.newest_first)
    assert told.story() == row.expected
    return told


def tells_the_same_under_new_owners(row: Row) -> None:
    """Plays a row under coordinators that die after every decision."""
    told = play(row.tree, row.setup, newest_first=row.newest_first, owner_each=True)
    without = [word for word in told.story().split() if word != "owner"]
    assert without == [word for word in row.expected.split() if word != "owner"]
