"""How far readers of the whole history have come."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from coordinator.store.tables import places


def position_of(reader: str, connection: Connection) -> int | None:
    """Returns the position up to which somebody has read; None: never."""
    found: int | None = connection.scalar(
        select(places.c.position).where(places.c.reader == reader)
    )
    return found


def note(reader: str, position: int, connection: Connection) -> None:
    """Notes the position up to which somebody has read."""
    mine = update(places).where(places.c.reader == reader).values(position=position)
    if not connection.execute(mine).rowcount:
        connection.execute(insert(places).values(reader=reader, position=position))


def forget(reader: str, connection: Connection) -> None:
    """Forgets somebody who reads no more; nobody waits for them then."""
    connection.execute(delete(places).where(places.c.reader == reader))
