"""Letters from one session to another: calls that the owner of a workflow is to answer."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, select, update

from coordinator.runtime.ports import LETTERS_LAST, Letter, LetterAnswer
from coordinator.store import sessions
from coordinator.store.dialects import insert_once, notify, now_us
from coordinator.store.tables import letters

LETTER = "letter"  # what is said to those who listen
_SAID = ("id", "session", "method", "request", "metadata")
_ROW = {"post_time_us": now_us(), **{name: bindparam(name) for name in _SAID}}
_ANSWERED = letters.c.answer.is_not(None)
_ANSWER = (
    update(letters)
    .where(letters.c.id == bindparam("letter"), ~_ANSWERED)
    .values(answer=bindparam("said"), status=bindparam("refused"))
)


def post(some: Sequence[Letter], connection: Connection) -> None:
    """Puts letters into inboxes; one that is there already is not posted again."""
    connection.execute(
        insert_once(letters, connection).values(_ROW),
        [
            {
                "id": letter.id,
                "session": letter.session,
                "method": letter.method,
                "request": letter.request,
                "metadata": json.dumps(letter.metadata),
            }
            for letter in some
        ],
    )
    notify(LETTER, connection)


def unanswered(session: int, limit: int, connection: Connection) -> list[Letter]:
    """Returns the first letters for a session that are not answered, in order."""
    sessions.check_seen(session, connection)
    found = (
        select(letters)
        .where(letters.c.session == session, ~_ANSWERED)
        .order_by(letters.c.number)
        .limit(limit)
    )
    return [
        Letter(
            id=row.id,
            session=row.session,
            method=row.method,
            request=row.request,
            metadata=tuple((name, value) for name, value in json.loads(row.metadata)),
        )
        for row in connection.execute(found)
    ]


def answer(answers: Sequence[LetterAnswer], connection: Connection) -> None:
    """Answers letters; what is gone is left out, what is answered stays."""
    rows = [{"letter": a.letter, "said": a.answer, "refused": a.status} for a in answers]
    if rows:
        connection.execute(_ANSWER, rows)
        notify(LETTER, connection)


def answers_to(ids: Sequence[str], connection: Connection) -> list[LetterAnswer]:
    """Returns the answers of those of some letters that have been answered."""
    found = select(letters).where(letters.c.id.in_(ids), _ANSWERED)
    return [
        LetterAnswer(letter=row.id, answer=row.answer, status=row.status)
        for row in connection.execute(found)
    ]


def remove(ids: Sequence[str], connection: Connection) -> None:
    """Removes letters; absent ones are a success."""
    connection.execute(delete(letters).where(letters.c.id.in_(ids)))


def remove_old(connection: Connection) -> None:
    """Removes letters that nobody waits for any more."""
    old = now_us() - int(LETTERS_LAST.total_seconds() * 1_000_000)
    connection.execute(delete(letters).where(letters.c.post_time_us < old))
