"""The few words in which the databases differ; everything else is one text of SQL for all."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Insert,
    Integer,
    LargeBinary,
    Table,
    Text,
    func,
    literal,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

# SQLite keeps a table in the order of such a column only if it is exactly INTEGER.
Position = BigInteger().with_variant(Integer, "sqlite")

# Texts in the order of their bytes, everywhere: PostgreSQL would take that of the server's
# language, in which ids that begin alike need not stand together.
Words = Text().with_variant(Text(collation="C"), "postgresql")


class greater_of(FunctionElement[int]):  # noqa: N801 - used as a function of SQL
    """The greater of two numbers."""

    inherit_cache = True
    type = BigInteger()


class place_of(FunctionElement[int]):  # noqa: N801 - likewise
    """Where some bytes begin in a column of bytes, from 1; 0 if they are not in it."""

    inherit_cache = True
    type = Integer()

    def __init__(self, looked_for: bytes, column: ColumnElement[bytes]) -> None:
        super().__init__(column, literal(looked_for, LargeBinary))


class now_us(FunctionElement[int]):  # noqa: N801 - likewise
    """The time of the database's machine, in microseconds."""

    inherit_cache = True
    type = BigInteger()


CHANNEL = "countermand"
CONNECTED = "connected"  # what somebody who listens hears first


def notify(said: str, connection: Connection) -> None:
    """Says a word to all that listen, once this transaction is committed; SQLite has nobody else.

    In small transactions only: while one that notifies is committed no other one is.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_notify(CHANNEL, said)))


def insert_once(table: Table, connection: Connection) -> Insert:
    """Returns an insertion that leaves out rows whose key is there."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()


@compiles(greater_of, "sqlite")
def _max(element: greater_of, compiler: SQLCompiler, **options: object) -> str:
    return f"max({compiler.process(element.clauses, **options)})"


@compiles(greater_of, "postgresql")
def _greatest(element: greater_of, compiler: SQLCompiler, **options: object) -> str:
    return f"greatest({compiler.process(element.clauses, **options)})"


@compiles(now_us, "sqlite")
def _julian(_element: now_us, _compiler: SQLCompiler, **_: object) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"


@compiles(now_us, "postgresql")
def _clock(_element: now_us, _compiler: SQLCompiler, **_: object) -> str:
    # Not of the transaction's beginning: it may have waited.
    return "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


@compiles(place_of, "sqlite")
def _instr(element: place_of, compiler: SQLCompiler, **options: object) -> str:
    return f"instr({compiler.process(element.clauses, **options)})"


@compiles(place_of, "postgresql")
def _position(element: place_of, compiler: SQLCompiler, **options: object) -> str:
    column, looked_for = (compiler.process(clause, **options) for clause in element.clauses)
    return f"position({looked_for} in {column})"
