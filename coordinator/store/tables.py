"""The tables: SQLAlchemy Core metadata, one text for SQLite and PostgreSQL.

Constraints state invariants, so that no defect of ours can store what
`docs/reference/semantics.md` forbids. Two habits keep the cost of
a decision flat however many workflows are stored:

- A workflow has a small number of its own, `key`, given in order of creation. Everything about it
  is kept under that number, so what runs now lies side by side on a few pages; the ids that clients
  choose are random and would touch a page of their own in every index. It is also the order of
  lists: newest first is the highest key first.
- What never changes (the spec, the input) stands apart from what changes with every step, because
  changing a row writes all of it.

Times are whole microseconds since 1970 in UTC: exact, sortable and quick to convert. Values and
failures are JSON text.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from coordinator.saga.states import (
    OUTCOMES,
    SETTLED,
    AttemptKind,
    AttemptState,
    TaskState,
    WorkflowState,
)

# The edge refuses values beyond 64 KiB; escaped as JSON they grow sixfold at most. A backstop.
JSON_BYTES_MAX = 6 * 64 * 1024

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pk",
        "fk": "%(table_name)s_%(column_0_N_name)s_fk",
        "uq": "%(table_name)s_%(column_0_N_name)s_unique",
        "ck": "%(table_name)s_%(constraint_name)s",
    },
)

# SQLite numbers rows by itself only in a column that is exactly INTEGER.
Position = BigInteger().with_variant(Integer, "sqlite")


def among(column: str, values: Iterable[str]) -> str:
    """Returns the condition that a column holds one of some words."""
    words = ", ".join(f"'{value}'" for value in sorted(values))
    return f"{column} IN ({words})"


def _json(name: str, comment: str) -> Column[str]:
    """Returns an optional column of JSON text."""
    bound = CheckConstraint(f"length({name}) <= {JSON_BYTES_MAX}", name=f"{name}_bounded")
    return Column(name, Text, bound, comment=comment)


def _workflow_key(comment: str, *, primary: bool) -> Column[int]:
    """Returns the column that ties a row to its workflow, and goes with it."""
    workflow = ForeignKey("workflows.key", ondelete="CASCADE")
    return Column(
        "workflow_key", Position, workflow, primary_key=primary, nullable=False, comment=comment
    )


meta = Table(
    "meta",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1", name="one_row"), primary_key=True),
    Column("cluster_id", Text, nullable=False, comment="made at the first opening, never changes"),
    Column(
        "owner_epoch",
        BigInteger,
        CheckConstraint("owner_epoch >= 1", name="epoch_positive"),
        nullable=False,
        comment="of the last coordinator that opened the store; an older one commits nothing more",
    ),
    Column(
        "next_intent",
        BigInteger,
        CheckConstraint("next_intent >= 1", name="intent_positive"),
        nullable=False,
        comment="higher than any ever committed, even those that retention has removed",
    ),
    comment="One row about the store itself.",
)

hosts = Table(
    "hosts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("address", Text, nullable=False),
    Column("draining", Boolean, nullable=False, comment="gets no new tasks"),
    Column("incarnation", Text, nullable=False, comment="empty until its agent has been heard"),
    Column("create_time_us", BigInteger, nullable=False),
    comment="The storage hosts that tasks may name.",
)

workflows = Table(
    "workflows",
    metadata,
    Column("key", Position, primary_key=True, autoincrement=False, comment="order of creation"),
    Column("id", Text, nullable=False, unique=True, comment="chosen by the client"),
    Column("kind", Text, nullable=False, comment="of its spec; lists filter by it"),
    Column(
        "state",
        Text,
        CheckConstraint(among("state", WorkflowState), name="state_known"),
        nullable=False,
        comment="moves by the table in saga/states.py only",
    ),
    Column(
        "version",
        BigInteger,
        CheckConstraint("version >= 1", name="version_positive"),
        nullable=False,
        comment="grows by one with every decision; each write compares it",
    ),
    Column(
        "sequence",
        BigInteger,
        CheckConstraint("sequence >= 1", name="sequence_positive"),
        nullable=False,
        comment="of its last event",
    ),
    Column(
        "owner_epoch",
        BigInteger,
        CheckConstraint("owner_epoch >= 1", name="epoch_positive"),
        nullable=False,
        comment="of the coordinator that decided last; a write under a lower one is refused",
    ),
    _json("cause", "why it failed: stored before the first compensation is sent"),
    Column("create_time_us", BigInteger, nullable=False),
    Column("update_time_us", BigInteger, nullable=False),
    Column("end_time_us", BigInteger, comment="when it settled"),
    CheckConstraint(
        f"(end_time_us IS NOT NULL) = ({among('state', SETTLED)})", name="settled_has_end"
    ),
    Index("workflows_kind", "kind"),
    comment="What of a workflow changes with every step.",
)
# The few that are not a plain success: those to load at start, and those people look for.
NOT_SUCCEEDED = f"state <> '{WorkflowState.SUCCEEDED}'"
Index(
    "workflows_not_succeeded",
    workflows.c.state,
    workflows.c.key,
    sqlite_where=text(NOT_SUCCEEDED),
    postgresql_where=text(NOT_SUCCEEDED),
)

submissions = Table(
    "submissions",
    metadata,
    _workflow_key("one for each workflow", primary=True),
    Column("spec", LargeBinary, nullable=False, comment="the plan is compiled from it when loaded"),
    Column("input", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False, comment="tells a repeat from a clash"),
    Column("about", Text, nullable=False, comment="labels, principal, trace, input values: JSON"),
    comment="What was handed in when a workflow was started, and never changes.",
)

labels = Table(
    "labels",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    _workflow_key("newest first within one label", primary=True),
    Index("labels_workflow_key", "workflow_key"),  # retention removes by it
    comment="The labels of workflows once more, for filtering alone.",
    sqlite_with_rowid=False,
)

tasks = Table(
    "tasks",
    metadata,
    _workflow_key("its workflow", primary=True),
    Column("task_index", Integer, primary_key=True, comment="of its node in the plan"),
    Column("name", Text, nullable=False, comment="as in the spec; for people who read the table"),
    Column("host", Text, nullable=False, comment="that its spec names; lists filter by it"),
    Column(
        "state",
        Text,
        CheckConstraint(among("state", TaskState), name="state_known"),
        nullable=False,
        comment="moves by the table in saga/states.py only",
    ),
    _json("failure", "of its last action"),
    _json("compensation_failure", "of its last compensation"),
    Column("retry_time_us", BigInteger, comment="when the next attempt is due, while it waits"),
    Index("tasks_host", "host", "workflow_key"),
    comment="The leaves of workflows. Groups are not stored: they are worked out from these.",
    sqlite_with_rowid=False,
)

attempts = Table(
    "attempts",
    metadata,
    Column("workflow_key", Position, primary_key=True),
    Column("task_index", Integer, primary_key=True),
    Column(
        "number",
        Integer,
        CheckConstraint("number >= 1", name="number_positive"),
        primary_key=True,
        comment="from 1, in its task; nothing is overwritten by a further attempt",
    ),
    Column(
        "kind", Text, CheckConstraint(among("kind", AttemptKind), name="kind_known"), nullable=False
    ),
    Column(
        "state",
        Text,
        CheckConstraint(among("state", AttemptState), name="state_known"),
        nullable=False,
        comment="STARTING is the intent: committed before the request leaves",
    ),
    Column("host", Text, nullable=False, comment="a compensation goes where its action went"),
    Column(
        "intent",
        BigInteger,
        CheckConstraint("intent >= 1", name="intent_positive"),
        nullable=False,
        comment="its place in the coordinator's order of intents",
    ),
    Column("compensates", Integer, nullable=False, comment="the number of an action, or 0"),
    _json("inbound", "values bound when it started"),
    _json("output", "what it left"),
    _json("failure", "why it failed, or why its outcome is unknown"),
    Column("done_bytes", BigInteger, nullable=False, comment="work done when it ended"),
    Column("create_time_us", BigInteger, nullable=False),
    Column("start_time_us", BigInteger, comment="when its agent took it"),
    Column("end_time_us", BigInteger, comment="when its outcome was known"),
    ForeignKeyConstraint(
        ["workflow_key", "task_index"],
        ["tasks.workflow_key", "tasks.task_index"],
        ondelete="CASCADE",
    ),
    CheckConstraint(
        f"(compensates >= 1) = (kind = '{AttemptKind.COMPENSATION}')", name="compensates_action"
    ),
    CheckConstraint(
        f"(end_time_us IS NOT NULL) = ({among('state', OUTCOMES)})", name="outcome_has_end"
    ),
    comment="Every try of every task.",
    sqlite_with_rowid=False,
)
# An action whose outcome is UNKNOWN may stay open beside its compensation, but never two of a kind.
OPEN_ATTEMPT = among("state", set(AttemptState) - OUTCOMES)
Index(
    "attempts_one_open",
    attempts.c.workflow_key,
    attempts.c.task_index,
    attempts.c.kind,
    unique=True,
    sqlite_where=text(OPEN_ATTEMPT),
    postgresql_where=text(OPEN_ATTEMPT),
)

events = Table(
    "events",
    metadata,
    Column(
        "position",
        Position,
        primary_key=True,
        autoincrement=True,
        comment="its place among the events of all workflows: cursors are kept by it",
    ),
    _workflow_key("its workflow", primary=False),
    Column("sequence", BigInteger, nullable=False, comment="from 1 without a gap, in its workflow"),
    Column("payload", LargeBinary, nullable=False, comment="a serialized HistoryEvent"),
    UniqueConstraint("workflow_key", "sequence"),
    comment="The append-only history, written with the change that it tells.",
    sqlite_autoincrement=True,  # a position is never used again, even if retention took the last
)

requests = Table(
    "requests",
    metadata,
    Column("request_id", Text, primary_key=True, comment="a repeat is answered, not done again"),
    Column("hash", LargeBinary, nullable=False, comment="of the whole request: tells a clash"),
    _workflow_key("what it changed", primary=False),
    Index("requests_workflow_key", "workflow_key"),  # retention removes by it
    comment="Requests that were answered by a change; remembered as long as the workflow.",
)
