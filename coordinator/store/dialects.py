"""The few words in which the databases differ; everything else is one text of SQL for all."""

from __future__ import annotations

from sqlalchemy import BigInteger, ColumnElement, Integer, LargeBinary, Text, literal
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


@compiles(greater_of, "sqlite")
def _max(element: greater_of, compiler: SQLCompiler, **options: object) -> str:
    return f"max({compiler.process(element.clauses, **options)})"


@compiles(greater_of, "postgresql")
def _greatest(element: greater_of, compiler: SQLCompiler, **options: object) -> str:
    return f"greatest({compiler.process(element.clauses, **options)})"


@compiles(place_of, "sqlite")
def _instr(element: place_of, compiler: SQLCompiler, **options: object) -> str:
    return f"instr({compiler.process(element.clauses, **options)})"


@compiles(place_of, "postgresql")
def _position(element: place_of, compiler: SQLCompiler, **options: object) -> str:
    column, looked_for = (compiler.process(clause, **options) for clause in element.clauses)
    return f"position({looked_for} in {column})"
