"""A database that went back in time: that it did is noted in it, and that somebody has looked.

It was put back from a backup, or is a standby that was behind when it took over. Agents have heard
of more than it knows, and have acted on that. So from when it is noticed nobody decides anything:
the note ends all sessions, and while it stands no session is given any workflow. An operator looks,
and lets coordinators go on: with epochs and intents far above all that can have been given since.
What was open is told by its lower epoch from what was begun afterwards.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, select, update

from coordinator.runtime.ports import (
    STORE,
    AuditEvent,
    Given,
    Recovered,
    Recovery,
    StoreChange,
    StoreError,
)
from coordinator.store import audit, counters, migrate, queries
from coordinator.store.dialects import notify, now_us
from coordinator.store.tables import hosts, meta, sessions
from coordinator.store.texts import micros, time_from

# No coordinator takes so many before a backup is too old for anything.
EPOCHS = 1 << 24
INTENTS = 1 << 44
# Of intents, between those who have all ended and those who begin: more than can have been lost.
LEFT_OUT = 1 << 40
NOBODY = Given(owner_epoch=0, next_intent=0)

WENT_BACK = "went back"  # what is said to those who listen
BY_POLICY = "policy"


@dataclass(slots=True)
class Remembered:
    """What a coordinator knows to have been committed, by itself."""

    epoch: int = 0  # the highest that it was given
    intents_end: int = 0  # likewise, of the intents that it took
    last: tuple[str, int] | None = None  # a workflow of its last commit, and the version of that

    def why_behind(self, connection: Connection) -> str:
        """Returns what a database lacks of it; empty if nothing that can be seen."""
        # Before the database is asked: what is committed beside it meanwhile is not looked for.
        epoch, intents_end, last = self.epoch, self.intents_end, self.last
        row = connection.execute(select(meta.c.owner_epoch, meta.c.next_intent)).one()
        if row.owner_epoch < epoch:
            return f"its epoch is {row.owner_epoch}, and {epoch} was given"
        if row.next_intent < intents_end:
            return f"its next intent is {row.next_intent}, and {intents_end} was taken"
        if last is None:
            return ""
        name, version = last
        stored, _, _ = queries.version_of(name, connection)
        if stored < version and not (stored == 0 and queries.used([name], connection)):
            return f"workflow {name!r} is at version {stored}, and was at {version}"
        return ""


_NOTES = select(meta.c.recovery, meta.c.recovered)
# First of all, like whoever writes: it would wait for what they wait for, and they for it.
_SESSIONS = select(sessions.c.id).order_by(sessions.c.id).with_for_update()


def given(connection: Connection) -> Given:
    """Returns the highest epoch and intent that were given."""
    row = connection.execute(select(meta)).one()
    # Where intents are taken in advance, how many of them were used is counted beside them.
    used = counters.last_intent(connection)
    next_intent = row.next_intent if used is None else used + 1
    left_out = range(row.left_out_from, row.left_out_to)
    return Given(owner_epoch=row.owner_epoch, next_intent=next_intent, left_out=left_out)


def leave_out(connection: Connection) -> None:
    """Leaves intents out, since whoever had the store open has ended.

    What was committed from here on and lost, agents have heard under one of these, or under a
    higher one than whoever begins now has committed yet. Not where nothing was committed since the
    last time: that would only use them up.
    """
    now = given(connection)
    first = connection.execute(select(meta.c.next_intent)).scalar_one() + LEFT_OUT
    if now.next_intent > max(1, now.left_out.stop):
        values = {"left_out_from": now.next_intent, "left_out_to": first, "next_intent": first}
        connection.execute(update(meta).values(**values))


def required(connection: Connection) -> Recovery | None:
    """Returns why nothing is to be decided; None if all is well."""
    return recovery_of(connection.execute(_NOTES).mappings().one())


def recovery_of(row: RowMapping) -> Recovery | None:
    """Returns why nothing is to be decided, from a row about the store."""
    if row["recovery"] is None:
        return None
    why, notice_time_us = json.loads(row["recovery"])
    return Recovery(why=why, notice_time=time_from(notice_time_us))


def recovered_of(row: RowMapping) -> Recovered | None:
    """Returns when somebody last let coordinators go on, from a row about the store."""
    if row["recovered"] is None:
        return None
    said = json.loads(row["recovered"])
    return Recovered(time=time_from(said.pop("time_us")), **said)


def require(why: str, epoch: int, connection: Connection) -> bool:
    """Notes that it went back, and ends all sessions; returns whether it is noted now."""
    connection.execute(_SESSIONS)
    row = connection.execute(_NOTES.with_for_update()).mappings().one()
    if recovery_of(row) is not None:
        return True
    recovered = recovered_of(row)
    if recovered is not None and recovered.owner_epoch > epoch:
        return False  # what was noticed is from before
    time_us = connection.execute(select(now_us())).scalar_one()
    connection.execute(update(meta).values(recovery=json.dumps([why, time_us])))
    event = AuditEvent(
        subject=STORE,
        change=StoreChange.RECOVERY_REQUIRED,
        time=time_from(time_us),
        principal=BY_POLICY,
        reason=why,
    )
    audit.note([event], connection)
    _end_all(connection)
    return True


def recover(principal: str, reason: str, heard: Given, connection: Connection) -> Recovered | None:
    """Has coordinators go on above all that was given, and ends all sessions; None: no need."""
    if required(connection) is None:
        return None
    return go_on_above(principal, reason, heard, connection)


def go_on_above(principal: str, reason: str, heard: Given, connection: Connection) -> Recovered:
    """Has coordinators go on above all that can have been given since, and ends all sessions.

    Also above what was heard: the same backup may have been put back before.

    Raises:
        StoreError: It is not a store of this version, or nobody has ever opened it.
    """
    stored = migrate.stored_revision(connection)
    if stored is None or stored < migrate.HEAD:
        raise StoreError(f"its schema is {stored}: bring it to {migrate.HEAD} first (db upgrade)")
    migrate.check_newer(stored, connection)
    connection.execute(_SESSIONS)
    row = connection.execute(select(meta).with_for_update()).mappings().one_or_none()
    if row is None:
        raise StoreError("no coordinator has ever opened it")
    time_us = connection.execute(select(now_us())).scalar_one()
    recovered = Recovered(
        owner_epoch=max(row["owner_epoch"], heard.owner_epoch) + EPOCHS,
        next_intent=max(row["next_intent"], heard.next_intent) + INTENTS,
        principal=principal,
        reason=reason,
        time=time_from(time_us),
    )
    above = {"owner_epoch": recovered.owner_epoch, "next_intent": recovered.next_intent}
    said = {**above, "principal": principal, "reason": reason, "time_us": micros(recovered.time)}
    values = {**above, "recovery": None, "recovered": json.dumps(said)}
    connection.execute(update(meta).values(**values))
    # That an agent does not have what was sent before proves nothing: it may have been forgotten.
    connection.execute(update(hosts).values(lost_intent=recovered.next_intent))
    connection.execute(counters.note_intent(), {"last_intent": recovered.next_intent - 1})
    event = AuditEvent(
        subject=STORE,
        change=StoreChange.RECOVERED,
        time=recovered.time,
        principal=principal,
        reason=reason,
    )
    audit.note([event], connection)
    _end_all(connection)
    return recovered


def _end_all(connection: Connection) -> None:
    """Ends every session; where there are none, whoever has the store open writes no more."""
    connection.execute(update(meta).values(owner_epoch=meta.c.owner_epoch + 1))
    connection.execute(update(sessions).values(ended=True))
    notify(WENT_BACK, connection)
