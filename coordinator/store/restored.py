"""Tells a database that it was put back from a backup, before anybody serves it.

Agents have heard more than it knows: higher epochs and higher intents. Below these they refuse what
they are asked for, new workflows as well. So both go on far above whatever can have been given
since. What was open when the backup was made is not touched: what became of it, its agents know, or
have forgotten.
"""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from coordinator.runtime.ports import StoreError
from coordinator.store import migrate
from coordinator.store.tables import meta, sessions

# No coordinator takes so many before a backup is too old for anything.
EPOCHS = 1 << 24
INTENTS = 1 << 44


def go_on_above(connection: Connection) -> tuple[int, int]:
    """Moves the epoch and the next intent on, and ends all sessions; returns both."""
    stored = migrate.stored_revision(connection)
    if stored is None or stored < migrate.HEAD:
        raise StoreError(f"its schema is {stored}: bring it to {migrate.HEAD} first (db upgrade)")
    migrate.check_newer(stored, connection)
    connection.execute(
        update(meta).values(
            owner_epoch=meta.c.owner_epoch + EPOCHS, next_intent=meta.c.next_intent + INTENTS
        )
    )
    connection.execute(update(sessions).values(ended=True))
    row = connection.execute(select(meta.c.owner_epoch, meta.c.next_intent)).one_or_none()
    if row is None:
        raise StoreError("no coordinator has ever opened it")
    return row.owner_epoch, row.next_intent
