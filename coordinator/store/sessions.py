"""Sessions: which coordinators have the store open, and whose the open workflows are.

Only where several may have it open. All times are the database's own. Whoever writes holds the row
of its session until its commit, so that a session ends either before or after it, never between:
once one has ended, all that it ever committed is visible, and nothing more will be.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from importlib.metadata import version

from sqlalchemy import (
    ColumnElement,
    Connection,
    bindparam,
    delete,
    exists,
    insert,
    select,
    text,
    update,
)

from coordinator.runtime.floors import Common, Floor, common, lower, lowest
from coordinator.runtime.ports import (
    Ownership,
    Session,
    StoreFencedError,
)
from coordinator.store import migrate, queries, recovering
from coordinator.store.batch import Merged
from coordinator.store.dialects import notify, now_us
from coordinator.store.tables import OWNED, meta, sessions, workflows
from coordinator.store.texts import time_from

ENDED = "ended"  # what is said to those who listen
INTENTS = 1 << 22  # taken at a time: some of them are lost with every life

_MINE = sessions.c.id == bindparam("session")
# Without their floors: each may name every host there is.
_SEEN = select(sessions.c.id, sessions.c.name, sessions.c.start_time_us, sessions.c.ended)
_LIVES = select(sessions.c.id).where(_MINE, ~sessions.c.ended)
_LAPSED = (
    select(sessions.c.id)
    .where(
        sessions.c.expire_time_us < now_us(),
        sessions.c.id != bindparam("session"),
        ~sessions.c.ended,
    )
    .with_for_update(skip_locked=True)
)
_OWNED = exists().where(text(OWNED), workflows.c.session == sessions.c.id)
_LEFT = select(sessions.c.id).where(sessions.c.ended, _OWNED).order_by(sessions.c.id)
# Of one session: what all others own, which may be a million, is not looked at.
_ORPHANS = (
    select(workflows.c.key)
    .where(text(OWNED), workflows.c.session == bindparam("owner"))
    .order_by(workflows.c.key)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_OWNERS = (
    select(workflows.c.id, workflows.c.session, sessions.c.ended)
    .join_from(workflows, sessions, workflows.c.session == sessions.c.id, isouter=True)
    .where(
        workflows.c.end_time_us.is_(None),
        workflows.c.id.in_(bindparam("ids", expanding=True)),
    )
)


def begin(session: int, name: str, lasts: timedelta, floor: Floor, connection: Connection) -> None:
    """Begins a session."""
    connection.execute(
        insert(sessions).values(
            id=session,
            name=name,
            version=version("countermand"),
            schema=migrate.HEAD,
            start_time_us=now_us(),
            expire_time_us=_in(lasts),
            ended=False,
            floor=_text_of(floor),
        )
    )


def is_first(name: str, connection: Connection) -> bool:
    """Returns whether nobody else lives: earlier sessions of a name, if it is one, have ended.

    Before the row about the store is taken: whoever claims takes its own session first.
    """
    _end_namesakes(name, connection)
    if lapsed := connection.scalars(_LAPSED, {"session": 0}).all():
        connection.execute(update(sessions).where(sessions.c.id.in_(lapsed)).values(ended=True))
    return connection.scalar(select(sessions.c.id).where(~sessions.c.ended).limit(1)) is None


def _end_namesakes(name: str, connection: Connection) -> None:
    if name:
        namesakes = sessions.c.name == name, ~sessions.c.ended
        connection.execute(update(sessions).where(*namesakes).values(ended=True))


def leave(session: int, name: str, floor: Floor, connection: Connection) -> None:
    """Leaves what a session has open to whoever claims it; it has never lived here."""
    now = {"start_time_us": now_us(), "expire_time_us": now_us()}
    known = {"version": version("countermand"), "schema": migrate.HEAD}
    said = {"id": session, "name": name, **known, "ended": True, **now}
    connection.execute(insert(sessions).values(**said, floor=_text_of(floor)))


def check(session: int, connection: Connection) -> None:
    """Raises StoreFencedError if a session has ended; until the commit it does not."""
    # Shared: whatever else this session writes at the same time needs not wait.
    lives = _LIVES.with_for_update(read=True)
    if connection.scalar(lives, {"session": session}) is None:
        raise StoreFencedError(f"session {session} has ended")


def check_seen(session: int, connection: Connection) -> None:
    """Raises StoreFencedError if a session is seen to have ended; it may end at any moment."""
    if connection.scalar(_LIVES, {"session": session}) is None:
        raise StoreFencedError(f"session {session} has ended")


def renew(
    session: int, lasts: timedelta, floor: Floor, connection: Connection
) -> tuple[Session, ...]:
    """Lets a session last on, and returns all of them."""
    said = {"expire_time_us": _in(lasts), "floor": _text_of(floor)}
    lives = update(sessions).where(sessions.c.id == session, ~sessions.c.ended)
    if not connection.execute(lives.values(said)).rowcount:
        raise StoreFencedError(f"session {session} has ended")
    rows = connection.execute(_SEEN.order_by(sessions.c.id)).mappings()
    return tuple(
        Session(
            id=row["id"],
            name=row["name"],
            start_time=time_from(row["start_time_us"]),
            ended=row["ended"],
        )
        for row in rows
    )


def floors(connection: Connection) -> Common:
    """Returns what the floors of all sessions come to, as of one moment."""
    return common(map(_floor_from, connection.scalars(select(sessions.c.floor))))


def end(session: int, connection: Connection) -> None:
    """Ends a session: what it owns may be claimed."""
    connection.execute(update(sessions).where(sessions.c.id == session).values(ended=True))
    notify(ENDED, connection)


def claim(session: int, limit: int, connection: Connection) -> tuple[int, list[int], Floor]:
    """Takes over open workflows whose session has ended.

    Returns:
        The owner epoch that they get, their keys, and the floor of those who had them.
    """
    # One that stands still in the middle of a transaction is not waited for: the server ends that.
    if lapsed := connection.scalars(_LAPSED, {"session": session}).all():
        connection.execute(update(sessions).where(sessions.c.id.in_(lapsed)).values(ended=True))
    check(session, connection)
    if recovering.required(connection) is not None:
        return 0, [], lowest(())
    orphans = _orphans(session, limit, connection)
    if not orphans:
        # Of one that another is claiming from at this moment the rows are still there to be seen.
        connection.execute(delete(sessions).where(sessions.c.ended, ~_OWNED))
        return 0, [], lowest(())
    keys = [key for found in orphans.values() for key in found]
    mine = update(workflows).where(workflows.c.key.in_(keys)).values(session=session)
    connection.execute(mine)
    floors = _floors({*orphans, session}, connection)
    floor = lowest(floors[owner] for owner in sorted(orphans))
    lowered = _text_of(lower(floors[session], floor))
    connection.execute(update(sessions).where(sessions.c.id == session).values(floor=lowered))
    # The last: from here on until the commit all others that claim wait.
    return next_epoch(session, connection), keys, floor


def next_epoch(session: int, connection: Connection) -> int:
    """Returns an epoch above all that were ever given; a session's own is the first it gets."""
    epoch: int = connection.execute(select(meta.c.owner_epoch).with_for_update()).scalar_one()
    if epoch > session:
        epoch += 1
        connection.execute(update(meta).values(owner_epoch=epoch))
    return epoch


def owned(session: int, connection: Connection) -> set[int]:
    """Returns the keys of the open workflows that a session owns."""
    mine = select(workflows.c.key).where(text(OWNED), workflows.c.session == session)
    return set(connection.scalars(mine))


def committed(
    session: int, merged: Mapping[str, Merged], connection: Connection
) -> dict[str, int] | None:
    """Returns the keys of a session's batch if it was committed; None if it was not, nor will be.

    Whoever was committing it held the session's row, and may still: only once that is let go of has
    it been decided. Nobody else writes what the session owns; but what settled by it may have been
    removed since.
    """
    lives = _LIVES.with_for_update()
    if connection.scalar(lives, {"session": session}) is None:
        raise StoreFencedError(f"session {session} has ended")
    columns = select(workflows.c.id, workflows.c.key, workflows.c.version, workflows.c.session)
    found = connection.execute(columns.where(workflows.c.id.in_(merged))).all()
    mine = {
        row.id: row.key
        for row in found
        if row.session == session and row.version == merged[row.id].workflow.version
    }
    missing = [name for name in merged if name not in mine]
    return None if set(missing) - set(queries.used(missing, connection)) else mine


def take_intents(connection: Connection) -> tuple[int, int]:
    """Returns intents that nobody else is given, as first and end."""
    first: int = connection.execute(select(meta.c.next_intent).with_for_update()).scalar_one()
    connection.execute(update(meta).values(next_intent=first + INTENTS))
    return first, first + INTENTS


def keep_house(session: int, connection: Connection) -> int:
    """Returns the session that does what only one does for all, perhaps this one from now on."""
    check(session, connection)
    found: int = connection.execute(select(meta.c.housekeeper)).scalar_one()
    if found == session or connection.scalar(_LIVES, {"session": found}) is not None:
        return found
    found = connection.execute(select(meta.c.housekeeper).with_for_update()).scalar_one()
    if connection.scalar(_LIVES, {"session": found}) is None:
        connection.execute(update(meta).values(housekeeper=session))
        return session
    return found


def owners_of(
    session: int, workflow_ids: Sequence[str], connection: Connection
) -> dict[str, Ownership]:
    """Returns whose some open workflows are."""
    return {
        row.id: Ownership(
            session=row.session, ended=row.ended is not False, own=row.session == session
        )
        for row in connection.execute(_OWNERS, {"ids": list(workflow_ids)})
    }


def _orphans(session: int, limit: int, connection: Connection) -> dict[int, list[int]]:
    """Returns the keys of what ended sessions have left, by these; whoever asks keeps their rows.

    Each begins with another of them than its neighbours, and is in nobody's way for a while.
    """
    left = connection.scalars(_LEFT).all()
    first = session % len(left) if left else 0
    found: dict[int, list[int]] = {}
    for owner in (*left[first:], *left[:first]):
        some = {"owner": owner, "limit": limit}
        if keys := list(connection.scalars(_ORPHANS, some)):
            found[owner] = keys
        limit -= len(keys)
        if not limit:
            break
    return found


def _in(lasts: timedelta) -> ColumnElement[int]:
    return now_us() + int(lasts.total_seconds() * 1_000_000)


def _floors(ids: set[int], connection: Connection) -> dict[int, Floor]:
    found = select(sessions.c.id, sessions.c.floor).where(sessions.c.id.in_(sorted(ids)))
    return {row.id: _floor_from(row.floor) for row in connection.execute(found)}


def _text_of(floor: Floor) -> str:
    return json.dumps([floor.next_intent, floor.fences, dict(floor.hosts)])


def _floor_from(text: str) -> Floor:
    next_intent, fences, hosts = json.loads(text)
    return Floor(next_intent=next_intent, fences=fences, hosts=hosts)
