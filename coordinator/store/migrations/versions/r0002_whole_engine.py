"""Groups, locks, decisions of operators, and what lists and retention read.

Columns are added where they are, never by copying a table: a store may hold a million workflows,
and dropping the old copy of a table would take all that refers to it along.
"""

from __future__ import annotations

import json
from typing import TypeVar

import sqlalchemy as sa
from alembic import op

T = TypeVar("T")

revision = "0002"
down_revision = "0001"

POSITION = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
SETTLED = "verdict IN ('COMPENSATED', 'FAILED', 'SUCCEEDED')"
GROUP_STATES = (
    "state IN ('COMPENSATED', 'COMPENSATING', 'FAILED', 'FORWARD', 'RECOVERED', 'RECOVERING',"
    " 'SKIPPED')"
)
GROUP_CHANGES = (
    "\"then\" IN ('AGAIN', 'CLOSE', 'DROP', 'MAKE_UP', 'OVERTAKEN', 'RECOVER', 'RECOVERED', 'SKIP')"
)
NEEDS_SOMEBODY = "needs_decision OR state = 'COMPENSATION_BLOCKED'"
AT_WORK = "state IN ('CANCELLING', 'RUNNING', 'STARTING')"
PATCHES_BYTES_MAX = 6291456
ROWS_MAX = 1_000  # at a time, where rows are rewritten

workflows = sa.table(
    "workflows", *map(sa.column, ("key", "principal", "traceparent", "forked_from"))
)
submissions = sa.table("submissions", sa.column("workflow_key"), sa.column("about"))


def upgrade() -> None:
    """Adds what the whole engine keeps."""
    op.add_column("meta", _whole("expired_position", sa.BigInteger(), sa.text("0")))
    _workflows()
    _tasks()
    _attempts()
    _groups()
    _locks()
    _tell_who_submitted()


def _whole(
    name: str, kind: sa.types.TypeEngine[T], default: str | sa.TextClause | sa.ColumnElement[bool]
) -> sa.Column[T]:
    return sa.Column(name, kind, nullable=False, server_default=default)


def _json(name: str, bytes_max: int = 393216) -> sa.Column[str]:
    bounded = sa.CheckConstraint(f"length({name}) <= {bytes_max}", name=f"{name}_bounded")
    return sa.Column(name, sa.Text(), bounded)


def _workflow_key() -> sa.Column[int]:
    workflow = sa.ForeignKey("workflows.key", ondelete="CASCADE")
    return sa.Column("workflow_key", POSITION, workflow, primary_key=True, nullable=False)


def _workflows() -> None:
    known = sa.CheckConstraint(SETTLED, name="verdict_known")
    for column in (
        _whole("principal", sa.Text(), ""),
        _whole("traceparent", sa.Text(), ""),
        _whole("forked_from", sa.Text(), ""),
        sa.Column("verdict", sa.Text(), known),
        _whole("locked", sa.Boolean(), sa.true()),
        _json("pause"),
        _whole("compensation_held", sa.Boolean(), sa.false()),
        _json("input_patches", PATCHES_BYTES_MAX),
        _json("more_locks", PATCHES_BYTES_MAX),
        _json("summary", PATCHES_BYTES_MAX),
    ):
        op.add_column("workflows", column)
    op.drop_index("workflows_kind", "workflows")
    op.drop_index("workflows_not_succeeded", "workflows")
    op.create_index("workflows_state", "workflows", ["state", "key"])
    op.create_index("workflows_kind", "workflows", ["kind", "state", "key"])
    op.create_index("workflows_create_time", "workflows", ["create_time_us"])
    where = sa.text("end_time_us IS NOT NULL")
    op.create_index(
        "workflows_end_time",
        "workflows",
        ["end_time_us"],
        sqlite_where=where,
        postgresql_where=where,
    )


def _tasks() -> None:
    op.execute("ALTER TABLE tasks RENAME COLUMN retry_time_us TO due_time_us")
    for column in (
        sa.Column("start_deadline_us", sa.BigInteger()),
        _whole("needs_decision", sa.Boolean(), sa.false()),
        _whole("tried", sa.Integer(), sa.text("0")),
        _json("too_late"),
        _json("patch", PATCHES_BYTES_MAX),
        _json("given"),
        sa.Column("replacement", sa.LargeBinary()),
        _json("decided"),
    ):
        op.add_column("tasks", column)
    where = sa.text(NEEDS_SOMEBODY)
    op.create_index(
        "tasks_need", "tasks", ["workflow_key"], sqlite_where=where, postgresql_where=where
    )


def _attempts() -> None:
    op.add_column("attempts", _whole("overriding", sa.Boolean(), sa.false()))
    op.drop_index("attempts_one_open", "attempts")
    where = sa.text(AT_WORK)
    op.create_index(
        "attempts_one_at_work",
        "attempts",
        ["workflow_key", "task_index", "kind"],
        unique=True,
        sqlite_where=where,
        postgresql_where=where,
    )


def _groups() -> None:
    states = sa.CheckConstraint(GROUP_STATES, name="state_known")
    positive = sa.CheckConstraint("round >= 1", name="round_positive")
    op.create_table(
        "groups",
        _workflow_key(),
        sa.Column("node_index", sa.Integer(), primary_key=True),
        sa.Column("state", sa.Text(), states, nullable=False),
        sa.Column("round", sa.Integer(), positive, nullable=False),
        sa.Column("then", sa.Text(), sa.CheckConstraint(GROUP_CHANGES, name="then_known")),
        _json("failure"),
        sqlite_with_rowid=False,
    )


def _locks() -> None:
    op.create_table(
        "locks",
        sa.Column("pool_id", sa.Text(), primary_key=True),
        sa.Column("image_id", sa.Text(), primary_key=True),
        _workflow_key(),
        sa.Column("exclusive", sa.Boolean(), nullable=False),
        sa.Column("held", sa.Boolean(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("locks_workflow_key", "locks", ["workflow_key"])
    where = sa.text("held AND exclusive")
    op.create_index(
        "locks_one_writer",
        "locks",
        ["pool_id", "image_id"],
        unique=True,
        sqlite_where=where,
        postgresql_where=where,
    )


def _tell_who_submitted() -> None:
    """Copies what lists show out of the texts beside the specs, which are long to read past."""
    connection = op.get_bind()
    key, about = submissions.c.workflow_key, submissions.c.about
    page = sa.select(key, about).order_by(key).limit(ROWS_MAX)
    tell = (
        sa.update(workflows)
        .where(workflows.c.key == sa.bindparam("of_key"))
        .values({n: sa.bindparam(n) for n in ("principal", "traceparent", "forked_from")})
    )
    after = 0
    while rows := connection.execute(page.where(key > after)).all():
        after = rows[-1][0]
        said = [{**json.loads(text), "of_key": key} for key, text in rows]
        names = ("of_key", "principal", "traceparent", "forked_from")
        connection.execute(tell, [{name: each[name] for name in names} for each in said])
