"""Each attempt at a compensation keeps the action that an operator put in its place."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

# So far a task had only its last one, which is what its open attempt was sent as.
LAST_KNOWN = """
UPDATE attempts SET replacement = (
    SELECT tasks.replacement FROM tasks
    WHERE tasks.workflow_key = attempts.workflow_key AND tasks.task_index = attempts.task_index
) WHERE overriding
"""


def upgrade() -> None:
    """Adds the column, with what was last put there."""
    op.add_column("attempts", sa.Column("replacement", sa.LargeBinary()))
    op.execute(LAST_KNOWN)
