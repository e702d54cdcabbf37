"""The audit of hosts: who did what to which, and why. What was done before is not known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Adds the audit, empty."""
    bounded = sa.CheckConstraint("length(failure) <= 393216", name="failure_bounded")
    op.create_table(
        "host_events",
        sa.Column("position", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("host_id", sa.Text(), nullable=False),
        sa.Column("change", sa.Text(), nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("finding", sa.Text(), nullable=False),
        sa.Column("failure", sa.Text(), bounded),
        sqlite_autoincrement=True,
    )
    op.create_index("host_events_host", "host_events", ["host_id", "position"])
