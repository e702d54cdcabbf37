"""How sessions stand now: which coordinators there are, and who does what only one does for all.

Reads only; `sessions.py` is what begins, keeps and ends them.
"""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import version

from sqlalchemy import Connection, RowMapping, func, select, text

from coordinator.runtime.ports import Ownership, SessionState, SessionView
from coordinator.store import migrate
from coordinator.store.dialects import now_us
from coordinator.store.tables import OWNED, meta, sessions, workflows
from coordinator.store.texts import time_from

_HOUSE = select(meta.c.housekeeper, sessions.c.ended).join_from(
    meta, sessions, meta.c.housekeeper == sessions.c.id, isouter=True
)
_OWNED = (
    select(workflows.c.session, func.count().label("count"))
    .where(text(OWNED))
    .group_by(workflows.c.session)
    .subquery()
)
_ALL = (
    select(
        sessions,
        (sessions.c.id == meta.c.housekeeper).label("keeps_house"),
        (sessions.c.expire_time_us < now_us()).label("lapsed"),
        func.coalesce(_OWNED.c.count, 0).label("workflows"),
    )
    .select_from(
        sessions.join(meta, meta.c.id == 1).outerjoin(_OWNED, _OWNED.c.session == sessions.c.id)
    )
    .order_by(sessions.c.id)
)


def house(session: int, connection: Connection) -> Ownership:
    """Returns which session keeps the house, as one of them sees it."""
    row = connection.execute(_HOUSE).one()
    return Ownership(
        session=row.housekeeper, ended=row.ended is not False, own=row.housekeeper == session
    )


def all_sessions(session: int, connection: Connection) -> list[SessionView]:
    """Returns all sessions, the oldest first, as one of them sees them."""
    return [_view(session, row) for row in connection.execute(_ALL).mappings()]


def own(session: int, name: str, start_time: datetime, connection: Connection) -> SessionView:
    """Returns the only one where no other coordinator may have the store open."""
    is_open = workflows.c.end_time_us.is_(None)
    return SessionView(
        id=session,
        name=name,
        version=version("countermand"),
        schema=migrate.HEAD,
        state=SessionState.ALIVE,
        own=True,
        keeps_house=True,
        workflows=connection.scalar(select(func.count()).where(is_open)) or 0,
        start_time=start_time,
        expire_time=None,
    )


def time_now(connection: Connection) -> datetime:
    """Returns the time by the database's clock."""
    return time_from(connection.execute(select(now_us())).scalar_one())


def _view(session: int, row: RowMapping) -> SessionView:
    late = SessionState.LAPSED if row["lapsed"] else SessionState.ALIVE
    return SessionView(
        id=row["id"],
        name=row["name"],
        version=row["version"],
        schema=row["schema"],
        state=SessionState.ENDED if row["ended"] else late,
        own=row["id"] == session,
        keeps_house=row["keeps_house"] and not row["ended"],
        workflows=row["workflows"],
        start_time=time_from(row["start_time_us"]),
        expire_time=time_from(row["expire_time_us"]),
    )
