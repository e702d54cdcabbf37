"""Sessions of coordinators that share a store, what each of them owns, and letters between them.

Also what is noted of a store that went back in time.

A database of SQLite's is shared by nobody: there it all stays empty. From now on a schema says
which older versions can serve it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

OWNED = sa.text("end_time_us IS NULL AND session <> 0")


def upgrade() -> None:
    """Adds the tables, and to workflows whose they are."""
    op.create_table(
        "sessions",
        sa.Column("id", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("schema", sa.Text(), nullable=False),
        sa.Column("start_time_us", sa.BigInteger(), nullable=False),
        sa.Column("expire_time_us", sa.BigInteger(), nullable=False),
        sa.Column("ended", sa.Boolean(), nullable=False),
        sa.Column("floor", sa.Text(), nullable=False),
    )
    op.create_table(
        "schemas",
        sa.Column("revision", sa.Text(), primary_key=True),
        sa.Column("serves_from", sa.Text(), nullable=False),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "letters",
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text(), nullable=False, unique=True),
        sa.Column("session", sa.BigInteger(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("post_time_us", sa.BigInteger(), nullable=False),
        sa.Column("answer", sa.LargeBinary()),
        sa.Column("status", sa.LargeBinary()),
    )
    op.create_index("letters_session", "letters", ["session", "number"])
    op.add_column("meta", _zero("housekeeper"))
    op.add_column("meta", _zero("left_out_from"))
    op.add_column("meta", _zero("left_out_to"))
    op.add_column("meta", sa.Column("recovery", sa.Text()))
    op.add_column("meta", sa.Column("recovered", sa.Text()))
    op.add_column("workflows", _zero("session"))
    op.create_index("workflows_session", "workflows", ["session", "key"], sqlite_where=OWNED)


def _zero(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default=sa.text("0"))
