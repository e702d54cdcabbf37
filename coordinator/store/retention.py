"""Retention: what settled long ago is removed, and costs no more than what is removed."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from coordinator.runtime.ports import StoreFencedError
from coordinator.store.tables import events, meta, used_ids, workflows
from coordinator.store.texts import micros

_OLDEST = (
    select(workflows.c.key)
    .where(workflows.c.end_time_us < bindparam("before"))
    .order_by(workflows.c.end_time_us, workflows.c.key)
    .limit(bindparam("limit"))
)
_LAST_POSITION = select(func.max(events.c.position)).where(events.c.workflow_key.in_(_OLDEST))
_KEEP_IDS = insert(used_ids).from_select(
    ["workflow_id"], select(workflows.c.id).where(workflows.c.key.in_(_OLDEST))
)
# Everything else of them goes along: the database follows the references.
_REMOVE = delete(workflows).where(workflows.c.key.in_(_OLDEST))


def expire(epoch: int, before: datetime, limit: int, connection: Connection) -> int:
    """Removes workflows that settled before a time, and returns how many.

    Their positions stay gaps; neither these nor their ids are given again. An open workflow has no
    end.
    """
    known = connection.execute(select(meta.c.owner_epoch, meta.c.expired_position)).one()
    if known.owner_epoch != epoch:
        raise StoreFencedError(f"its epoch is {known.owner_epoch}, ours is {epoch}")
    oldest = {"before": micros(before), "limit": limit}
    last: int = connection.scalar(_LAST_POSITION, oldest) or 0
    if last > known.expired_position:
        connection.execute(update(meta).values(expired_position=last))
    connection.execute(_KEEP_IDS, oldest)
    return connection.execute(_REMOVE, oldest).rowcount
