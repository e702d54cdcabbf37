"""Tasks of owners that do not stop are among the few for which an operator is looked for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

NEEDS_SOMEBODY = (
    "needs_decision OR state = 'COMPENSATION_BLOCKED'"
    " OR state = 'UNKNOWN' AND substr(host, 1, 6) = 'owner:'"
    " OR state = 'CANCELLING' AND failure LIKE '%\"STOPS_LATE\"%'"
)


def upgrade() -> None:
    """Makes the index anew, with them."""
    where = sa.text(NEEDS_SOMEBODY)
    op.drop_index("tasks_need", "tasks")
    op.create_index(
        "tasks_need", "tasks", ["workflow_key"], sqlite_where=where, postgresql_where=where
    )
