"""External tasks: those that were added, in which unit they work, what is reported of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Adds what there was nothing of until now."""
    known = sa.CheckConstraint(
        "retention IN ('AT_ONCE', 'IN_TIME', 'KEPT')", name="retention_known"
    )
    retention = sa.Column("retention", sa.Text(), known, nullable=False, server_default="IN_TIME")
    op.add_column("meta", sa.Column("token_key", sa.Text()))
    op.add_column("workflows", sa.Column("owner", sa.Text(), nullable=False, server_default=""))
    op.add_column("workflows", retention)
    op.create_index(
        "workflows_at_once",
        "workflows",
        ["key"],
        sqlite_where=sa.text("retention = 'AT_ONCE'"),
    )
    op.add_column("tasks", sa.Column("added", sa.LargeBinary()))
    op.add_column("attempts", sa.Column("unit", sa.Text(), nullable=False, server_default="bytes"))
    op.create_table(
        "progress",
        sa.Column(
            "workflow_key",
            sa.Integer(),
            sa.ForeignKey("workflows.key", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("task_index", sa.Integer(), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sqlite_with_rowid=False,
    )
