"""Retention: what settled long ago is removed, and costs no more than what is removed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import (
    BindParameter,
    Connection,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    text,
    union_all,
)

from coordinator.saga.workflow import Retention
from coordinator.store.tables import events, places, used_ids, webhooks, workflows
from coordinator.store.texts import micros

# How far everybody has read who reads all of the history: receivers, except those that want nothing
# any more, and what makes traces of it.
_READERS = union_all(
    select(webhooks.c.position).where(~webhooks.c.disabled), select(places.c.position)
).subquery()
_TOLD = select(func.min(_READERS.c.position)).scalar_subquery()
# Its last event: one look, however long its history is.
_UNTOLD = exists().where(
    events.c.workflow_key == workflows.c.key,
    events.c.sequence == workflows.c.sequence,
    events.c.position > _TOLD,
)
# Found by an index of its own, not by the one of all that has an end: nearly always nothing.
_AT_ONCE = (
    select(workflows.c.key)
    .where(text(f"retention = '{Retention.AT_ONCE}' AND +end_time_us IS NOT NULL"), ~_UNTOLD)
    .order_by(workflows.c.key)
    .limit(bindparam("limit"))
)
_OLDEST = (
    select(workflows.c.key)
    .where(workflows.c.end_time_us < bindparam("before"), workflows.c.retention != Retention.KEPT)
    .order_by(workflows.c.end_time_us, workflows.c.key)
    .limit(bindparam("limit"))
)
_KEYS: BindParameter[Sequence[int]] = bindparam("keys", expanding=True)
_KEEP_IDS = insert(used_ids).from_select(
    ["workflow_id"], select(workflows.c.id).where(workflows.c.key.in_(_KEYS))
)
# Everything else of them goes along: the database follows the references.
_REMOVE = delete(workflows).where(workflows.c.key.in_(_KEYS))


def expire(before: datetime, limit: int, connection: Connection) -> int:
    """Removes workflows that settled before a time or are to go at once; returns how many.

    What is to go at once waits for all who read the history, but for no longer than the others.
    Their positions stay gaps; neither these nor their ids are given again. An open workflow has no
    end.
    """
    at_once = connection.scalars(_AT_ONCE, {"limit": limit})
    oldest = connection.scalars(_OLDEST, {"before": micros(before), "limit": limit})
    keys = list(dict.fromkeys([*at_once, *oldest]))[:limit]
    return _remove(keys, connection)


def clear(workflow_id: str, connection: Connection) -> None:
    """Removes one settled workflow; an absent one is a success."""
    mine = select(workflows.c.key).where(
        workflows.c.id == workflow_id, workflows.c.end_time_us.is_not(None)
    )
    _remove(list(connection.scalars(mine)), connection)


def _remove(keys: Sequence[int], connection: Connection) -> int:
    if not keys:
        return 0
    some = {"keys": keys}
    connection.execute(_KEEP_IDS, some)
    return connection.execute(_REMOVE, some).rowcount
