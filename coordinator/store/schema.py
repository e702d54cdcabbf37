"""What the schema of a stored database is, and what would become of it: for who looks after it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, inspect

from coordinator.runtime.ports import SessionView, StoreError
from coordinator.store import lives, migrate
from coordinator.store.tables import schemas


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A database as it is stored."""

    stored: str | None  # None: nothing is stored
    serves_from: str | None  # None: it does not say so
    sessions: tuple[SessionView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """Whether this version can serve a database, and what it would do to it."""

    refusal: str  # empty: it can
    steps: tuple[migrate.Step, ...]
    serves_from: str  # of what it is then


def found(connection: Connection) -> Found:
    """Returns what is stored."""
    stored = migrate.stored_revision(connection)
    if stored is None or not inspect(connection).has_table(schemas.name):
        return Found(stored=stored, serves_from=None, sessions=())
    oldest = migrate.serves_from(stored, connection)
    views = lives.all_sessions(0, connection)
    return Found(stored=stored, serves_from=oldest, sessions=tuple(views))


def outlook(connection: Connection) -> Outlook:
    """Returns whether this version can serve it."""
    stored = migrate.stored_revision(connection)
    oldest, refusal, steps = migrate.own_serves_from(), "", migrate.steps(stored)
    try:
        if stored is None or stored < migrate.HEAD:
            migrate.check_others(connection)
        else:
            oldest = migrate.serves_from(stored, connection) or migrate.HEAD
            migrate.check_newer(stored, connection)
    except StoreError as error:
        refusal = error.metadata["why"]
    return Outlook(refusal=refusal, steps=steps, serves_from=oldest)
