"""How plain functions run on the database: in one transaction each, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Transaction
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from coordinator.runtime.ports import StoreError, StoreRefusedError
from coordinator.store.database import Database
from countermand.rpc.crash import Crash

T = TypeVar("T")


GREETED = "greeted"  # of a connection, for as long as it lasts
Greet = Callable[[Connection], None]


def _nothing(_: Connection) -> None:
    """Finds nothing amiss."""


class CommitUnknownError(StoreError):
    """The store lost its database during a commit, which is there or is not: {why}."""


class Transactions:
    """Runs functions on one database."""

    def __init__(self, database: Database, crash: Crash, greet: Greet = _nothing) -> None:
        """Keeps what it asks; a new connection is greeted before anything is written by it."""
        self._database = database
        self._crash = crash
        self._greet = greet

    def write(self, work: Callable[[Connection], T]) -> T:
        """Runs a function in one transaction that writes; on any error nothing is visible."""
        try:
            with self._database.writer.connect() as connection:
                if GREETED not in connection.info:
                    self._greet(connection)
                    connection.info[GREETED] = True
                with connection.begin() as transaction:
                    found = work(connection)
                    self._crash("store.before_commit")
                    _end(transaction)
                    self._crash("store.after_commit")
                    return found
        except (IntegrityError, DataError) as error:
            raise StoreRefusedError(f"the database refused a change: {_words(error)}") from error
        except SQLAlchemyError as error:
            raise StoreError(f"the database failed: {_words(error)}") from error

    def look(self, work: Callable[[Connection], T]) -> T:
        """Runs a function in one transaction that only reads."""
        try:
            try:
                with self._database.reader.begin() as connection:
                    return work(connection)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
            # The server was started again since: none of the connections to it is used any more.
            with self._database.reader.begin() as connection:
                return work(connection)
        except SQLAlchemyError as error:
            raise StoreError(f"the database failed: {_words(error)}") from error


def _end(transaction: Transaction) -> None:
    """Commits. Here alone nobody can say what became of a transaction: look for it before going on.

    Whatever fails before has left nothing, and whatever the database itself refuses now as well.
    """
    try:
        transaction.commit()
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise CommitUnknownError(_words(error)) from error


def _words(error: SQLAlchemyError) -> str:
    """Returns what the database said, without the statement and its parameters.

    Nor with the row that PostgreSQL would show: there are secrets in some.
    """
    said = getattr(error, "orig", None) or error
    primary = getattr(getattr(said, "diag", None), "message_primary", None)
    return primary or " ".join(str(said).split())
