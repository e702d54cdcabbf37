"""Statements as the driver takes them: compiled once, each for any number of rows.

SQLAlchemy would bind the values of each row by name again, which was about a quarter of the CPU
time of a commit, whatever the size of the batch. SQLite is given one row after the other.
PostgreSQL would work on each as a statement of its own: it is given all rows at once, as an array
for each column, and all statements before it has answered any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Connection,
    Delete,
    Dialect,
    Insert,
    Integer,
    LargeBinary,
    Table,
    Text,
    Update,
    bindparam,
    column,
    func,
    insert,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

from coordinator.runtime.ports import StoreRefusedError
from coordinator.store.texts import Row

Names = tuple[str, ...]
Said = Mapping[str, ColumnElement[Any]]  # the values of a row, by their names
Statement = Insert | Update | Delete

# Before the names of values: SQLAlchemy takes a bare name for a column to be set.
_OF = "of_"
# What PostgreSQL is told that an array is of.
_KINDS: tuple[type[TypeEngine[Any]], ...] = (Boolean, LargeBinary, Text, BigInteger, Integer)


class StaleError(StoreRefusedError):
    """A row was not as a batch said: {why}."""


class Prepared:
    """One statement, run for one row after the other."""

    def __init__(self, statement: Statement, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler), compiled
        assert compiled.positiontup, "written for drivers that take values by position"
        self.sql = str(compiled)
        self._names = tuple(name.removeprefix(_OF) for name in compiled.positiontup)
        self._values: Callable[[Row], tuple[object, ...]]
        if len(self._names) == 1:  # of a single name itemgetter would return the bare value
            self._values = lambda row: (row[self._names[0]],)
        else:
            self._values = itemgetter(*self._names)

    def each(self, rows: list[Row]) -> list[tuple[object, ...]]:
        """Returns the values of the statement for each row."""
        return [self._values(row) for row in rows]

    def together(self, rows: list[Row]) -> tuple[object, ...]:
        """Returns the values of the statement for all rows; of this kind there is one."""
        [row] = rows
        return self._values(row)


class _AtOnce(Prepared):
    """One statement, run for all rows together."""

    def together(self, rows: list[Row]) -> tuple[object, ...]:
        """Returns the values of the statement for all rows."""
        return tuple([row[name] for row in rows] for name in self._names)


@dataclass(frozen=True, slots=True)
class Step:
    """A statement and the rows that it is run for."""

    prepared: Prepared
    rows: list[Row]
    finds_all: bool = False  # each must be about one row of the database


def run_all(connection: Connection, steps: Iterable[Step]) -> None:
    """Runs statements one after the other; those without rows are left out.

    PostgreSQL, which may be far away, is sent all of them before the first is waited for.

    Raises:
        StaleError: A row was not as expected.
    """
    some = [step for step in steps if step.rows]
    if connection.dialect.name == "postgresql":
        from coordinator.store.server import pipelined  # noqa: PLC0415 - the driver is an extra

        counts = pipelined(
            connection, [(step.prepared.sql, step.prepared.together(step.rows)) for step in some]
        )
    else:
        counts = [
            connection.exec_driver_sql(step.prepared.sql, step.prepared.each(step.rows)).rowcount
            for step in some
        ]
    for step, count in zip(some, counts, strict=True):
        if step.finds_all and count != len(step.rows):
            raise StaleError(f"{len(step.rows) - count} rows to change were not as expected")


class _OfArrays(dict[str, ColumnElement[Any]]):
    """The values of all rows, each a column of what the arrays make together."""


def prepare(
    dialect: Dialect, table: Table, names: Names, statement: Callable[[Said], Statement]
) -> Prepared:
    """Returns a statement about a table, which uses the values of these names.

    What is none of the table's columns is a number.
    """
    if dialect.name != "postgresql":
        each: Said = {name: bindparam(_OF + name) for name in names}
        return Prepared(statement(each), dialect)
    kinds = {name: _kind(table, name) for name in names}
    arrays = (bindparam(_OF + name, type_=ARRAY(kind)) for name, kind in kinds.items())
    rows = func.unnest(*arrays).table_valued(*(column(name, kinds[name]) for name in names))
    columns = rows.render_derived(name="said").c
    return _AtOnce(statement(_OfArrays({name: columns[name] for name in names})), dialect)


def inserted(table: Table, said: Said, names: Names, **besides: ColumnElement[Any]) -> Insert:
    """Returns the insertion of rows with the values of these names, and with others."""
    values = {**{name: said[name] for name in names}, **besides}
    if isinstance(said, _OfArrays):
        return insert(table).from_select(list(values), select(*values.values()))
    return insert(table).inline().values(values)


def _kind(table: Table, name: str) -> TypeEngine[Any]:
    if name not in table.c:
        return BigInteger()
    return next(kind() for kind in _KINDS if isinstance(table.c[name].type, kind))
