"""The ids of workflows that retention has removed: none is given again.

Of those that were removed before, the ones are known that a host has not been told to forget yet.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Adds the ids, and those that are still known."""
    op.create_table(
        "used_ids",
        sa.Column("workflow_id", sa.Text(), primary_key=True),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO used_ids (workflow_id) SELECT DISTINCT workflow_id FROM evidence"
        " WHERE workflow_id NOT IN (SELECT id FROM workflows)"
    )
