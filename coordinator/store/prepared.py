"""Statements as the driver takes them: compiled once, each for any number of rows.

SQLAlchemy would bind the values of each row by name again, which was about a quarter of the CPU
time of a commit, whatever the size of the batch. SQLite is given one row after the other.
PostgreSQL would work on each as a statement of its own: it is given all rows at once, as an array
for each column, which is three times as fast for sixty of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

from coordinator.store.texts import Row

Names = tuple[str, ...]
Said = Mapping[str, ColumnElement[Any]]  # the values of a row, by their names
Statement = Insert | Update | Delete

# Before the names of values: SQLAlchemy takes a bare name for a column to be set.
_OF = "of_"
# What PostgreSQL is told that an array is of.
_KINDS: tuple[type[TypeEngine[Any]], ...] = (Boolean, LargeBinary, Text, BigInteger, Integer)


class Prepared:
    """One statement, run for one row after the other."""

    def __init__(self, statement: Statement, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler), compiled
        assert compiled.positiontup, "written for drivers that take values by position"
        self._sql = str(compiled)
        self._names = tuple(name.removeprefix(_OF) for name in compiled.positiontup)
        self._values: Callable[[Row], tuple[object, ...]]
        if len(self._names) == 1:  # of a single name itemgetter would return the bare value
            self._values = lambda row: (row[self._names[0]],)
        else:
            self._values = itemgetter(*self._names)

    def run(self, connection: Connection, rows: list[Row]) -> int:
        """Runs the statement for each row; returns how many rows of the database it was about."""
        if not rows:
            return 0
        return connection.exec_driver_sql(self._sql, [self._values(row) for row in rows]).rowcount


class _AtOnce(Prepared):
    """One statement, run for all rows together."""

    def run(self, connection: Connection, rows: list[Row]) -> int:
        """Runs the statement once; returns how many rows of the database it was about."""
        if not rows:
            return 0
        columns = tuple([row[name] for row in rows] for name in self._names)
        return connection.exec_driver_sql(self._sql, columns).rowcount


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
