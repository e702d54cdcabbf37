"""Receivers that are told of events over HTTP, and how far each has been told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Adds the table, empty."""

    def text(name: str) -> sa.Column[str]:
        bound = sa.CheckConstraint(f"length({name}) <= 393216", name=f"{name}_bounded")
        return sa.Column(name, sa.Text(), bound)

    op.create_table(
        "webhooks",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("url", sa.Text(), nullable=False),
        text("event_types"),
        text("labels"),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("old_secret", sa.Text(), nullable=False),
        sa.Column("old_secret_end_us", sa.BigInteger()),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("missed", sa.BigInteger(), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        text("failure"),
        sa.Column("failure_time_us", sa.BigInteger()),
        sa.Column("success_time_us", sa.BigInteger()),
        sa.Column("next_try_time_us", sa.BigInteger()),
    )
