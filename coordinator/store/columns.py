"""What the columns of the tables have in common: their kinds, bounds and names of constraints."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    ForeignKey,
    MetaData,
    false,
    true,
)

from coordinator.store.dialects import Position, Words

# The edge refuses values beyond 64 KiB; escaped as JSON they grow sixfold at most. A backstop.
JSON_BYTES_MAX = 6 * 64 * 1024
# Values that operators gave in several requests, each with what it replaced.
PATCHES_BYTES_MAX = 16 * JSON_BYTES_MAX

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pk",
        "fk": "%(table_name)s_%(column_0_N_name)s_fk",
        "uq": "%(table_name)s_%(column_0_N_name)s_unique",
        "ck": "%(table_name)s_%(constraint_name)s",
    },
)


def among(column: str, values: Iterable[str]) -> str:
    """Returns the condition that a column holds one of some words."""
    words = ", ".join(f"'{value}'" for value in sorted(values))
    return f"{column} IN ({words})"


def json_text(name: str, comment: str, bytes_max: int = JSON_BYTES_MAX) -> Column[str]:
    """Returns an optional column of JSON text."""
    bound = CheckConstraint(f"length({name}) <= {bytes_max}", name=f"{name}_bounded")
    return Column(name, Words, bound, comment=comment)


def flag(name: str, comment: str, *, default: bool) -> Column[bool]:
    """Returns a column that says yes or no; rows of before it was added say the default."""
    said: ColumnElement[bool] = true() if default else false()
    return Column(name, Boolean, nullable=False, server_default=said, comment=comment)


def workflow_key(comment: str, *, primary: bool) -> Column[int]:
    """Returns the column that ties a row to its workflow, and goes with it."""
    workflow = ForeignKey("workflows.key", ondelete="CASCADE")
    return Column(
        "workflow_key", Position, workflow, primary_key=primary, nullable=False, comment=comment
    )
