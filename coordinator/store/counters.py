"""Positions that are given in the order of commits, without a gap.

Cursors of webhooks, traces and watches lean on that: whoever has read up to a position never finds
anything new below it. A sequence of PostgreSQL would not do: what took the lower number may become
visible later, or never. So a row is moved on by the transaction that needs positions; it keeps that
row to itself until its commit, and therefore takes it as late as it can.
"""

from __future__ import annotations

from sqlalchemy import (
    ColumnElement,
    Connection,
    Update,
    bindparam,
    insert,
    literal_column,
    select,
    update,
)

from coordinator.store.dialects import greater_of
from coordinator.store.tables import counters

EVENTS, AUDIT = "events", "audit"  # the tables whose rows are numbered
INTENTS = "intents"  # the highest that was committed, where they are taken in advance


def begin(connection: Connection) -> None:
    """Begins to count, in an empty database."""
    rows = [{"name": name, "last_position": 0} for name in (EVENTS, AUDIT, INTENTS)]
    connection.execute(insert(counters), rows)


def begin_intents(last: int, connection: Connection) -> None:
    """Begins to count intents, which are taken in advance from now on."""
    connection.execute(insert(counters).values(name=INTENTS, last_position=last))


def note_intent() -> Update:
    """Returns what notes the highest intent of a batch."""
    highest = greater_of(counters.c.last_position, bindparam("last_intent"))
    return update(counters).where(_is(INTENTS)).values(last_position=highest)


def last_intent(connection: Connection) -> int | None:
    """Returns the highest intent ever committed; None where none is taken in advance."""
    found = select(counters.c.last_position).where(_is(INTENTS))
    last: int | None = connection.scalar(found)
    return last


def last_position(name: str, connection: Connection) -> int:
    """Returns the highest position ever given, 0 if there was none."""
    found = connection.execute(select(counters.c.last_position).where(_is(name)))
    last: int = found.scalar_one()
    return last


def take(name: str) -> Update:
    """Returns what takes the next positions, as many as "taken" says."""
    moved = counters.c.last_position + bindparam("taken")
    return update(counters).where(_is(name)).values(last_position=moved)


def taken(name: str, before: ColumnElement[int]) -> ColumnElement[int]:
    """Returns one of the positions that were taken: the last of them, or as many before it.

    It is worked out where the rows are inserted: asking for it would be one more round trip.
    """
    last = select(counters.c.last_position).where(_is(name)).scalar_subquery()
    return last - before


def _is(name: str) -> ColumnElement[bool]:
    """Returns the condition on a row, as text: what is prepared takes the values of rows alone."""
    return counters.c.name == literal_column(f"'{name}'")
