"""Positions are given by rows that count, in the order of commits, and no longer by the tables.

Those that were given stay, and none is given again: neither of what retention has removed.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

# SQLite knows the highest position of each table ever; retention noted that of events as well.
BEGIN = """
INSERT INTO counters (name, last_position) VALUES
('events', max(
    coalesce((SELECT max(position) FROM events), 0),
    coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0),
    coalesce((SELECT expired_position FROM meta), 0)
)),
('audit', max(
    coalesce((SELECT max(position) FROM audit), 0),
    coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'audit'), 0)
))
"""
DEFINITION = sa.text("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = :name")
REDEFINE = sa.text("UPDATE sqlite_master SET sql = :now WHERE type = 'table' AND name = :name")
KEEP = """
CREATE TEMPORARY TABLE kept AS SELECT id, cluster_id, owner_epoch, next_intent, token_key FROM meta
"""


def upgrade() -> None:
    """Adds the counters where positions have come to, and takes the tables' own away."""
    op.create_table(
        "counters",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("last_position", sa.BigInteger(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.execute(BEGIN)
    _unnumber("events", "audit")
    _forget_expired()


def _unnumber(*tables: str) -> None:
    """Has tables number their rows no longer: in their definitions alone.

    Nothing else in them would be different, and to copy millions of events would have a coordinator
    begin some minutes later.
    """
    connection = op.get_bind()
    version = connection.scalar(sa.text("PRAGMA schema_version"))
    op.execute("PRAGMA writable_schema = ON")
    for table in tables:
        named = {"name": table}
        head, _, tail = str(connection.scalar(DEFINITION, named)).rpartition("\n)")
        head = head.replace(" PRIMARY KEY AUTOINCREMENT", "")
        now = f"{head}, \n\tCONSTRAINT {table}_pk PRIMARY KEY (position)\n){tail}"
        connection.execute(REDEFINE, {**named, "now": now})
        connection.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = :name"), named)
    op.execute(f"PRAGMA schema_version = {version + 1}")  # so that every connection reads it anew
    op.execute("PRAGMA writable_schema = OFF")


def _forget_expired() -> None:
    """Makes `meta` anew without what retention noted; older SQLites drop no column."""
    op.execute(KEEP)
    op.drop_table("meta")
    op.create_table(
        "meta",
        sa.Column(
            "id", sa.Integer(), sa.CheckConstraint("id = 1", name="one_row"), primary_key=True
        ),
        sa.Column("cluster_id", sa.Text(), nullable=False),
        _positive("owner_epoch", "epoch_positive"),
        _positive("next_intent", "intent_positive"),
        sa.Column("token_key", sa.Text()),
    )
    op.execute("INSERT INTO meta SELECT * FROM kept")
    op.execute("DROP TABLE kept")


def _positive(name: str, rule: str) -> sa.Column[int]:
    bound = sa.CheckConstraint(f"{name} >= 1", name=rule)
    return sa.Column(name, sa.BigInteger(), bound, nullable=False)
