"""Which host settles an attempt in the place of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Adds the host that fences an attempt; none did until now."""
    op.add_column("attempts", sa.Column("fence_host", sa.Text(), nullable=False, server_default=""))
