"""Which settled workflows have left something: asked for once in a life, in pieces, and behind."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, func, select

from coordinator.store.tables import workflows
from coordinator.store.texts import encode

# How a summary ends that lists none.
_NONE = encode({"leftovers": []})[1:-1]
_KEY = workflows.c.key


def left_by(after: int, limit: int, connection: Connection) -> tuple[list[str], int]:
    """Returns the workflows among the next so many keys, and the last of these; 0: that was all.

    It looks at every row, for which there is no index: who asks does so in small pieces.
    """
    last = connection.scalar(select(func.max(_KEY))) or 0
    end = after + limit
    found = connection.scalars(
        select(workflows.c.id)
        .where(after < _KEY, end >= _KEY, workflows.c.end_time_us.is_not(None))
        .where(~workflows.c.summary.contains(_NONE, autoescape=True))
        .order_by(_KEY)
    )
    return list(found), end if end < last else 0


def stored(workflow_ids: Sequence[str], connection: Connection) -> frozenset[str]:
    """Returns those of some workflows that have not been removed."""
    found = connection.scalars(select(workflows.c.id).where(workflows.c.id.in_(workflow_ids)))
    return frozenset(found)
