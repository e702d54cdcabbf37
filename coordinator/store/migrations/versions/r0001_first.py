"""The first schema. A migration is never changed: it says what was, not what `tables.py` says now.

What the columns mean is told in `tables.py`; names of constraints come from its convention.
"""

from __future__ import annotations

from typing import TypeVar

import sqlalchemy as sa
from alembic import op

T = TypeVar("T")

revision = "0001"
down_revision = None

POSITION = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WORKFLOW_STATES = (
    "state IN ('BLOCKED', 'COMPENSATED', 'COMPENSATING', 'ENDING', 'FAILED', 'PAUSED', 'PAUSING',"
    " 'QUARANTINED', 'RUNNING', 'SUCCEEDED')"
)
TASK_STATES = (
    "state IN ('ABANDONED', 'CANCELLED', 'CANCELLING', 'COMPENSATED', 'COMPENSATING',"
    " 'COMPENSATION_BLOCKED', 'FAILED', 'PENDING', 'READY', 'RETRY_WAIT', 'RUNNING', 'SKIPPED',"
    " 'STARTING', 'SUCCEEDED', 'UNKNOWN')"
)
ATTEMPT_STATES = (
    "state IN ('CANCELLED', 'CANCELLING', 'FAILED', 'RUNNING', 'STARTING', 'SUCCEEDED', 'UNKNOWN')"
)
SETTLED = "state IN ('COMPENSATED', 'FAILED', 'SUCCEEDED')"
OUTCOME = "state IN ('CANCELLED', 'FAILED', 'SUCCEEDED')"
OPEN_ATTEMPT = "state IN ('CANCELLING', 'RUNNING', 'STARTING', 'UNKNOWN')"


def upgrade() -> None:
    """Makes every table."""
    _meta()
    _hosts()
    _workflows()
    _submissions()
    _labels()
    _tasks()
    _attempts()
    _events()
    _requests()


def _column(name: str, kind: sa.types.TypeEngine[T], *rules: sa.CheckConstraint) -> sa.Column[T]:
    return sa.Column(name, kind, *rules, nullable=False)


def _positive(name: str, rule: str) -> sa.Column[int]:
    return _column(name, sa.BigInteger(), sa.CheckConstraint(f"{name} >= 1", name=rule))


def _json(name: str) -> sa.Column[str]:
    bounded = sa.CheckConstraint(f"length({name}) <= 393216", name=f"{name}_bounded")
    return sa.Column(name, sa.Text(), bounded)


def _workflow_key(*, primary: bool) -> sa.Column[int]:
    workflow = sa.ForeignKey("workflows.key", ondelete="CASCADE")
    return sa.Column("workflow_key", POSITION, workflow, primary_key=primary, nullable=False)


def _meta() -> None:
    one_row = sa.CheckConstraint("id = 1", name="one_row")
    op.create_table(
        "meta",
        sa.Column("id", sa.Integer(), one_row, primary_key=True),
        _column("cluster_id", sa.Text()),
        _positive("owner_epoch", "epoch_positive"),
        _positive("next_intent", "intent_positive"),
    )


def _hosts() -> None:
    op.create_table(
        "hosts",
        sa.Column("id", sa.Text(), primary_key=True),
        _column("address", sa.Text()),
        _column("draining", sa.Boolean()),
        _column("incarnation", sa.Text()),
        _column("create_time_us", sa.BigInteger()),
    )


def _workflows() -> None:
    op.create_table(
        "workflows",
        sa.Column("key", POSITION, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Text(), nullable=False, unique=True),
        _column("kind", sa.Text()),
        _column("state", sa.Text(), sa.CheckConstraint(WORKFLOW_STATES, name="state_known")),
        _positive("version", "version_positive"),
        _positive("sequence", "sequence_positive"),
        _positive("owner_epoch", "epoch_positive"),
        _json("cause"),
        _column("create_time_us", sa.BigInteger()),
        _column("update_time_us", sa.BigInteger()),
        sa.Column("end_time_us", sa.BigInteger()),
        sa.CheckConstraint(f"(end_time_us IS NOT NULL) = ({SETTLED})", name="settled_has_end"),
    )
    op.create_index("workflows_kind", "workflows", ["kind"])
    where = sa.text("state <> 'SUCCEEDED'")
    op.create_index(
        "workflows_not_succeeded",
        "workflows",
        ["state", "key"],
        sqlite_where=where,
        postgresql_where=where,
    )


def _submissions() -> None:
    op.create_table(
        "submissions",
        _workflow_key(primary=True),
        _column("spec", sa.LargeBinary()),
        _column("input", sa.LargeBinary()),
        _column("hash", sa.LargeBinary()),
        _column("about", sa.Text()),
    )


def _labels() -> None:
    op.create_table(
        "labels",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("value", sa.Text(), primary_key=True),
        _workflow_key(primary=True),
        sqlite_with_rowid=False,
    )
    op.create_index("labels_workflow_key", "labels", ["workflow_key"])


def _tasks() -> None:
    op.create_table(
        "tasks",
        _workflow_key(primary=True),
        sa.Column("task_index", sa.Integer(), primary_key=True),
        _column("name", sa.Text()),
        _column("host", sa.Text()),
        _column("state", sa.Text(), sa.CheckConstraint(TASK_STATES, name="state_known")),
        _json("failure"),
        _json("compensation_failure"),
        sa.Column("retry_time_us", sa.BigInteger()),
        sqlite_with_rowid=False,
    )
    op.create_index("tasks_host", "tasks", ["host", "workflow_key"])


def _attempts() -> None:
    number = sa.CheckConstraint("number >= 1", name="number_positive")
    kinds = sa.CheckConstraint("kind IN ('ACTION', 'COMPENSATION')", name="kind_known")
    op.create_table(
        "attempts",
        sa.Column("workflow_key", POSITION, primary_key=True),
        sa.Column("task_index", sa.Integer(), primary_key=True),
        sa.Column("number", sa.Integer(), number, primary_key=True),
        _column("kind", sa.Text(), kinds),
        _column("state", sa.Text(), sa.CheckConstraint(ATTEMPT_STATES, name="state_known")),
        _column("host", sa.Text()),
        _positive("intent", "intent_positive"),
        _column("compensates", sa.Integer()),
        _json("inbound"),
        _json("output"),
        _json("failure"),
        _column("done_bytes", sa.BigInteger()),
        _column("create_time_us", sa.BigInteger()),
        sa.Column("start_time_us", sa.BigInteger()),
        sa.Column("end_time_us", sa.BigInteger()),
        sa.ForeignKeyConstraint(
            ["workflow_key", "task_index"],
            ["tasks.workflow_key", "tasks.task_index"],
            ondelete="CASCADE",
        ),
        sa.CheckConstraint(
            "(compensates >= 1) = (kind = 'COMPENSATION')", name="compensates_action"
        ),
        sa.CheckConstraint(f"(end_time_us IS NOT NULL) = ({OUTCOME})", name="outcome_has_end"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "attempts_one_open",
        "attempts",
        ["workflow_key", "task_index", "kind"],
        unique=True,
        sqlite_where=sa.text(OPEN_ATTEMPT),
        postgresql_where=sa.text(OPEN_ATTEMPT),
    )


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("position", POSITION, primary_key=True, autoincrement=True),
        _workflow_key(primary=False),
        _column("sequence", sa.BigInteger()),
        _column("payload", sa.LargeBinary()),
        sa.UniqueConstraint("workflow_key", "sequence"),
        sqlite_autoincrement=True,
    )


def _requests() -> None:
    op.create_table(
        "requests",
        sa.Column("request_id", sa.Text(), primary_key=True),
        _column("hash", sa.LargeBinary()),
        _workflow_key(primary=False),
    )
    op.create_index("requests_workflow_key", "requests", ["workflow_key"])
