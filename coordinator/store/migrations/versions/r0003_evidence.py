"""What agents still keep of settled workflows, and what is known of each agent's journal and pools.

All settled workflows of before are listed: no agent was told to forget until now.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

SETTLED = "'SUCCEEDED', 'COMPENSATED', 'FAILED'"


def upgrade() -> None:
    """Adds what the attempt protocol needs to be kept."""
    bounded = sa.CheckConstraint("length(pools) <= 393216", name="pools_bounded")
    for column in (
        sa.Column("heard_sequence", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("pools", sa.Text(), bounded),
        sa.Column("lost_intent", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("accepted_intent", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("held", sa.Text(), nullable=False, server_default=""),
    ):
        op.add_column("hosts", column)
    op.create_table(
        "evidence",
        sa.Column("workflow_id", sa.Text(), primary_key=True),
        sa.Column("host_id", sa.Text(), primary_key=True),
        sa.Column("last_intent", sa.BigInteger(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO evidence (workflow_id, host_id, last_intent)"  # noqa: S608 - a constant
        " SELECT workflows.id, attempts.host, MAX(attempts.intent)"
        " FROM workflows JOIN attempts ON attempts.workflow_key = workflows.key"
        f" WHERE workflows.state IN ({SETTLED}) GROUP BY workflows.id, attempts.host"
    )
    op.create_index("evidence_host", "evidence", ["host_id", "last_intent"])
