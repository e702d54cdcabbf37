"""The epoch of the store: whoever opened it last may write, and those before may not."""

from __future__ import annotations

from sqlalchemy import Connection, select

from coordinator.runtime.ports import StoreFencedError
from coordinator.store.tables import meta

# Whoever opens the store waits until what was checked has been committed; SQLite has one writer.
_EPOCH = select(meta.c.owner_epoch).with_for_update(read=True)


def check_epoch(epoch: int, connection: Connection) -> None:
    """Raises StoreFencedError if another coordinator has opened the store since."""
    current: int | None = connection.scalar(_EPOCH)
    if current != epoch:
        raise StoreFencedError(f"its epoch is {current}, ours is {epoch}")
