"""The audit of hosts becomes one of webhooks as well."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Moves what is known of hosts, with its positions; subjects are whole names from now on."""
    bounded = sa.CheckConstraint("length(failure) <= 393216", name="failure_bounded")
    op.create_table(
        "audit",
        sa.Column("position", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("change", sa.Text(), nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("failure", sa.Text(), bounded),
        sqlite_autoincrement=True,
    )
    op.execute(
        "INSERT INTO audit SELECT position, 'hosts/' || host_id, change, time_us, principal,"
        " reason, finding, failure FROM host_events ORDER BY position"
    )
    op.drop_table("host_events")
    op.create_index("audit_subject", "audit", ["subject", "position"])
