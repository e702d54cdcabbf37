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
failures are JSON text. What the kinds of columns have in common is in `columns.py`.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    Sequence,
    Table,
    UniqueConstraint,
    text,
)

from coordinator.saga.spec import OWNER_PREFIX
from coordinator.saga.states import (
    OUTCOMES,
    SETTLED,
    AttemptKind,
    AttemptState,
    GroupChange,
    GroupState,
    TaskState,
    WorkflowState,
)
from coordinator.saga.workflow import BYTES, STOPS_LATE, Retention
from coordinator.store.columns import (
    PATCHES_BYTES_MAX,
    among,
    flag,
    json_text,
    metadata,
    workflow_key,
)
from coordinator.store.dialects import Position, Words

meta = Table(
    "meta",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1", name="one_row"), primary_key=True),
    Column("cluster_id", Words, nullable=False, comment="made at the first opening, never changes"),
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
    Column("token_key", Words, comment="of capability tokens; a secret"),
    Column(
        "housekeeper",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="the session that does what only one does for all",
    ),
    Column("left_out_from", BigInteger, nullable=False, server_default=text("0")),
    Column(
        "left_out_to",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="intents that nobody was given, before those of all that live now; not itself",
    ),
    Column("recovery", Words, comment="why nothing is decided, as JSON: it went back in time"),
    Column("recovered", Words, comment="when somebody last let coordinators go on, as JSON"),
    comment="One row about the store itself.",
)

# Only where several coordinators may have the store open; else nobody is in it.
sessions = Table(
    "sessions",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False, comment="its first epoch"),
    Column("name", Words, nullable=False, comment="where it is, for people"),
    Column("version", Words, nullable=False, comment="of its coordinator"),
    Column("schema", Words, nullable=False, comment="the newest revision that its version knows"),
    Column("start_time_us", BigInteger, nullable=False, comment="by the database's clock, as is"),
    Column("expire_time_us", BigInteger, nullable=False, comment="when it lapses, if not renewed"),
    Column("ended", Boolean, nullable=False, comment="for good: what it owned may be claimed"),
    Column("floor", Words, nullable=False, comment="intents below which it sends nothing: JSON"),
    comment="The lives of coordinators that have the store open, or have left something open.",
)

schemas = Table(
    "schemas",
    metadata,
    Column("revision", Words, primary_key=True),
    Column("serves_from", Words, nullable=False, comment="the oldest that can go on beside it"),
    Column("create_time_us", BigInteger, nullable=False, comment="by the database's clock"),
    comment="What this schema has been: an older version reads here whether it can serve it.",
    sqlite_with_rowid=False,
)

letters = Table(
    "letters",
    metadata,
    Column("number", Position, primary_key=True, autoincrement=True, comment="their order"),
    Column("id", Words, nullable=False, unique=True, comment="chosen by who posted it"),
    Column("session", BigInteger, nullable=False, comment="whom it is for"),
    Column("method", Words, nullable=False, comment="of the contract, with its service"),
    Column("request", LargeBinary, nullable=False),
    Column("metadata", Words, nullable=False, comment="of the call: JSON"),
    Column("post_time_us", BigInteger, nullable=False),
    Column("answer", LargeBinary, comment="null until it is answered"),
    Column("status", LargeBinary, comment="why it was refused; empty if it was not"),
    Index("letters_session", "session", "number"),
    comment="Calls that the session which owns a workflow is to answer for another.",
)

counters = Table(
    "counters",
    metadata,
    Column("name", Words, primary_key=True, comment="of the table whose rows it numbers"),
    Column("last_position", BigInteger, nullable=False, comment="the highest ever given, or 0"),
    comment="Positions, given in the order of commits: the last thing that a commit takes.",
    sqlite_with_rowid=False,
)

hosts = Table(
    "hosts",
    metadata,
    Column("id", Words, primary_key=True),
    Column("address", Words, nullable=False),
    Column("draining", Boolean, nullable=False, comment="gets no new tasks"),
    Column("incarnation", Words, nullable=False, comment="empty until its agent has been heard"),
    Column(
        "heard_sequence",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="the highest of its journal that was heard of, as of some seconds ago",
    ),
    json_text("pools", "the pools it had and which storage each was; null: never heard"),
    Column(
        "lost_intent",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="attempts below it may have been in a journal that is lost",
    ),
    Column(
        "accepted_intent",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="below it an operator has said that what is lost is gone",
    ),
    Column("held", Words, nullable=False, server_default="", comment="why it must be accepted"),
    Column("create_time_us", BigInteger, nullable=False),
    comment="The storage hosts that tasks may name.",
)

# About 300 bytes for each thing that a person does.
audit = Table(
    "audit",
    metadata,
    Column("position", Position, primary_key=True, autoincrement=False, comment="by `counters`"),
    Column("subject", Words, nullable=False, comment="its name, also of what was removed since"),
    Column("change", Words, nullable=False, comment="what was done, in a word"),
    Column("time_us", BigInteger, nullable=False),
    Column("principal", Words, nullable=False, comment="who did it"),
    Column("reason", Words, nullable=False, comment="why, in that person's words"),
    Column("detail", Words, nullable=False, comment="of a repair: what it was about"),
    json_text("failure", "why a repair was refused"),
    Index("audit_subject", "subject", "position"),
    comment="What was done to hosts and webhooks, written with each change; kept for good.",
)

evidence = Table(
    "evidence",
    metadata,
    # Not the key: retention removes the workflow, and its row must stay.
    Column("workflow_id", Words, primary_key=True),
    Column("host_id", Words, primary_key=True, comment="also of a host that was removed"),
    Column("last_intent", BigInteger, nullable=False, comment="the highest it had on that host"),
    Index("evidence_host", "host_id", "last_intent"),
    comment="Settled workflows of which a host's agent still keeps evidence: it is told to forget.",
    sqlite_with_rowid=False,
)

# A workflow's name is on images and in agents' journals, which outlive its row here: another of the
# same name would be taken for it. About 50 bytes for each workflow that retention removes.
used_ids = Table(
    "used_ids",
    metadata,
    Column("workflow_id", Words, primary_key=True),
    comment="The ids of workflows that retention has removed: never given again.",
    sqlite_with_rowid=False,
)

workflows = Table(
    "workflows",
    metadata,
    Column("key", Position, primary_key=True, autoincrement=False, comment="order of creation"),
    Column("id", Words, nullable=False, unique=True, comment="chosen by the client"),
    Column("kind", Words, nullable=False, comment="of its spec; lists filter by it"),
    Column("principal", Words, nullable=False, server_default="", comment="who submitted it"),
    Column("traceparent", Words, nullable=False, server_default="", comment="the engine's span"),
    Column("forked_from", Words, nullable=False, server_default="", comment="the id of another"),
    Column(
        "state",
        Words,
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
    Column(
        "session",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="whose it is, where several may have the store open; each write compares it",
    ),
    json_text("cause", "why it failed: stored before the first compensation is sent"),
    Column(
        "verdict",
        Words,
        CheckConstraint(among("verdict", SETTLED), name="verdict_known"),
        comment="how it will be settled, while its end actions run",
    ),
    flag("locked", "it holds the images that it names, or waits in line for them", default=True),
    json_text("pause", "who holds it, and why"),
    flag("compensation_held", "the pause holds compensations, too", default=False),
    json_text("input_patches", "changed fields of its input", PATCHES_BYTES_MAX),
    json_text("more_locks", "images that it was given since it began", PATCHES_BYTES_MAX),
    json_text("summary", "of its tasks, for lists, once it is settled", PATCHES_BYTES_MAX),
    Column("owner", Words, nullable=False, server_default="", comment="the vendor whose own it is"),
    Column(
        "retention",
        Words,
        CheckConstraint(among("retention", Retention), name="retention_known"),
        nullable=False,
        server_default=Retention.IN_TIME.value,
        comment="when it may be removed",
    ),
    Column("create_time_us", BigInteger, nullable=False),
    Column("update_time_us", BigInteger, nullable=False),
    Column("end_time_us", BigInteger, comment="when it settled"),
    CheckConstraint(
        f"(end_time_us IS NOT NULL) = ({among('state', SETTLED)})", name="settled_has_end"
    ),
    # Each in the order of lists. A state leads: a list of several is merged from one of each.
    Index("workflows_state", "state", "key"),
    Index("workflows_kind", "kind", "state", "key"),
    Index("workflows_create_time", "create_time_us"),
    comment="What of a workflow changes with every step, and what lists show of it.",
)
# Retention takes the oldest that are settled, and before them what is to go at once.
Index(
    "workflows_end_time",
    workflows.c.end_time_us,
    sqlite_where=text("end_time_us IS NOT NULL"),
    postgresql_where=text("end_time_us IS NOT NULL"),
)
# What a session owns, while it is open.
OWNED = "end_time_us IS NULL AND session <> 0"
Index(
    "workflows_session",
    workflows.c.session,
    workflows.c.key,
    sqlite_where=text(OWNED),
    postgresql_where=text(OWNED),
)
# Their order, where several coordinators give them.
workflow_keys = Sequence("workflow_keys", metadata=metadata)
_AT_ONCE = f"retention = '{Retention.AT_ONCE}'"
Index(
    "workflows_at_once",
    workflows.c.key,
    sqlite_where=text(_AT_ONCE),
    postgresql_where=text(_AT_ONCE),
)

submissions = Table(
    "submissions",
    metadata,
    workflow_key("one for each workflow", primary=True),
    Column("spec", LargeBinary, nullable=False, comment="the plan is compiled from it when loaded"),
    Column("input", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False, comment="tells a repeat from a clash"),
    Column("about", Words, nullable=False, comment="labels, tracestate, input values: JSON"),
    comment="What was handed in when a workflow was started, and never changes.",
)

labels = Table(
    "labels",
    metadata,
    Column("name", Words, primary_key=True),
    Column("value", Words, primary_key=True),
    workflow_key("newest first within one label", primary=True),
    Index("labels_workflow_key", "workflow_key"),  # retention removes by it
    comment="The labels of workflows once more, for filtering alone.",
    sqlite_with_rowid=False,
)

tasks = Table(
    "tasks",
    metadata,
    workflow_key("its workflow", primary=True),
    Column("task_index", Integer, primary_key=True, comment="of its node in the plan"),
    Column("name", Words, nullable=False, comment="as in the spec; for people who read the table"),
    Column("host", Words, nullable=False, comment="of its last attempt, or that its spec names"),
    Column(
        "state",
        Words,
        CheckConstraint(among("state", TaskState), name="state_known"),
        nullable=False,
        comment="moves by the table in saga/states.py only",
    ),
    json_text("failure", "of its last action"),
    json_text("compensation_failure", "of its last compensation"),
    Column("due_time_us", BigInteger, comment="when its wait is over, while it waits for a time"),
    Column("start_deadline_us", BigInteger, comment="when its agent must have the attempt"),
    flag("needs_decision", "it cannot go on without an operator", default=False),
    Column(
        "tried",
        Integer,
        nullable=False,
        server_default=text("0"),
        comment="attempts made before it was last run anew",
    ),
    json_text("too_late", "why its attempt is being stopped, when that is a failure"),
    json_text(
        "patch", "values that an operator gave, for every further attempt", PATCHES_BYTES_MAX
    ),
    json_text("given", "outputs that an operator gave"),
    Column("replacement", LargeBinary, comment="the action in the place of its compensation"),
    json_text("decided", "what somebody last decided about it"),
    Column("added", LargeBinary, comment="as a vendor added it; null: it is in the spec"),
    Index("tasks_host", "host", "workflow_key"),
    comment="The leaves of workflows.",
    sqlite_with_rowid=False,
)
# The few for which an operator is looked for: `Task.needs_somebody`.
_NEED = (
    f"{{of}}needs_decision OR {{of}}state = '{TaskState.COMPENSATION_BLOCKED}'"
    f" OR {{of}}state = '{TaskState.UNKNOWN}'"
    f" AND substr({{of}}host, 1, {len(OWNER_PREFIX)}) = '{OWNER_PREFIX}'"
    f" OR {{of}}state = '{TaskState.CANCELLING}' AND {{of}}failure LIKE '%\"{STOPS_LATE}\"%'"
)
NEEDS_SOMEBODY = _NEED.format(of="")
NEEDS_SOMEBODY_IN_JOINS = _NEED.format(of="tasks.")
Index(
    "tasks_need",
    tasks.c.workflow_key,
    sqlite_where=text(NEEDS_SOMEBODY),
    postgresql_where=text(NEEDS_SOMEBODY),
)

groups = Table(
    "groups",
    metadata,
    workflow_key("its workflow", primary=True),
    Column("node_index", Integer, primary_key=True, comment="of its node in the plan"),
    Column(
        "state",
        Words,
        CheckConstraint(among("state", GroupState), name="state_known"),
        nullable=False,
        comment="moves by the table in saga/states.py only",
    ),
    Column(
        "round",
        Integer,
        CheckConstraint("round >= 1", name="round_positive"),
        nullable=False,
        comment="from 1; the one before is made up for",
    ),
    Column(
        "then",
        Words,
        CheckConstraint(
            among('"then"', (change.name for change in GroupChange)), name="then_known"
        ),
        comment="what follows once it is made up for",
    ),
    json_text("failure", "why it is made up for, or recovered"),
    comment="Groups of which something is to be told; the others are worked out from their tasks.",
    sqlite_with_rowid=False,
)

locks = Table(
    "locks",
    metadata,
    Column("pool_id", Words, primary_key=True),
    Column("image_id", Words, primary_key=True),
    workflow_key("whose it is; none outlives it", primary=True),
    Column("exclusive", Boolean, nullable=False, comment="nobody else may hold the image"),
    Column("held", Boolean, nullable=False, comment="or else waits in line"),
    Index("locks_workflow_key", "workflow_key"),  # settling and retention remove by it
    comment="The images that open workflows hold, or wait for.",
    sqlite_with_rowid=False,
)
# What a constraint can say of the rule: never two who may write. Readers beside a writer are kept
# apart by the one coordinator that hands out locks.
HELD_ALONE = "held AND exclusive"
Index(
    "locks_one_writer",
    locks.c.pool_id,
    locks.c.image_id,
    unique=True,
    sqlite_where=text(HELD_ALONE),
    postgresql_where=text(HELD_ALONE),
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
        "kind",
        Words,
        CheckConstraint(among("kind", AttemptKind), name="kind_known"),
        nullable=False,
    ),
    Column(
        "state",
        Words,
        CheckConstraint(among("state", AttemptState), name="state_known"),
        nullable=False,
        comment="STARTING is the intent: committed before the request leaves",
    ),
    Column("host", Words, nullable=False, comment="a compensation goes where its action went"),
    Column(
        "fence_host",
        Words,
        nullable=False,
        server_default="",
        comment="that settles it in its host's place, if any",
    ),
    Column(
        "intent",
        BigInteger,
        CheckConstraint("intent >= 1", name="intent_positive"),
        nullable=False,
        comment="its place in the coordinator's order of intents",
    ),
    Column("compensates", Integer, nullable=False, comment="the number of an action, or 0"),
    flag("overriding", "another verb than the action's own opposite", default=False),
    Column("replacement", LargeBinary, comment="an operator's action that it sends, if any"),
    json_text("inbound", "values bound when it started"),
    json_text("output", "what it left"),
    json_text("failure", "why it failed, or why its outcome is unknown"),
    Column("done_bytes", BigInteger, nullable=False, comment="work done at its end, in the unit"),
    Column("unit", Words, nullable=False, server_default=BYTES, comment="of the work done"),
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
progress = Table(
    "progress",
    metadata,
    workflow_key("its workflow", primary=True),
    Column("task_index", Integer, primary_key=True),
    Column("number", Integer, primary_key=True, comment="of the attempt"),
    Column("done", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False, comment="0: not known"),
    Column("unit", Words, nullable=False),
    Column("message", Words, nullable=False, comment="a word for people"),
    comment="What owners of external tasks last reported of attempts that are at work.",
    sqlite_with_rowid=False,
)

# One whose outcome is UNKNOWN may stay so for ever, once it was made up for or somebody decided
# about it: others follow it. Of those that are at work there are never two of a kind.
AT_WORK = among("state", set(AttemptState) - OUTCOMES - {AttemptState.UNKNOWN})
Index(
    "attempts_one_at_work",
    attempts.c.workflow_key,
    attempts.c.task_index,
    attempts.c.kind,
    unique=True,
    sqlite_where=text(AT_WORK),
    postgresql_where=text(AT_WORK),
)

events = Table(
    "events",
    metadata,
    Column(
        "position",
        Position,
        primary_key=True,
        autoincrement=False,
        comment="among the events of all workflows, by `counters`: cursors are kept by it",
    ),
    workflow_key("its workflow", primary=False),
    Column("sequence", BigInteger, nullable=False, comment="from 1 without a gap, in its workflow"),
    Column("payload", LargeBinary, nullable=False, comment="a serialized HistoryEvent"),
    UniqueConstraint("workflow_key", "sequence"),
    comment="The append-only history, written with the change that it tells.",
)

requests = Table(
    "requests",
    metadata,
    Column("request_id", Words, primary_key=True, comment="a repeat is answered, not done again"),
    Column("hash", LargeBinary, nullable=False, comment="of the whole request: tells a clash"),
    workflow_key("what it changed", primary=False),
    Index("requests_workflow_key", "workflow_key"),  # retention removes by it
    comment="Requests that were answered by a change; remembered as long as the workflow.",
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Words, primary_key=True),
    Column("url", Words, nullable=False),
    json_text("event_types", "what its receiver is told"),
    json_text("labels", "of the workflows that it is told of"),
    Column("kind", Words, nullable=False, comment="likewise; empty: any"),
    Column("secret", Words, nullable=False, comment="signs what is sent; never shown again"),
    Column("old_secret", Words, nullable=False, comment="signs as well, until its end"),
    Column("old_secret_end_us", BigInteger),
    Column("create_time_us", BigInteger, nullable=False),
    Column(
        "position",
        BigInteger,
        nullable=False,
        comment="up to it everything was delivered or unasked",
    ),
    Column("missed", BigInteger, nullable=False, comment="events that retention was quicker with"),
    flag("disabled", "its receiver said that it is gone", default=False),
    Column("failures", BigInteger, nullable=False, comment="since the last success"),
    json_text("failure", "the last one"),
    Column("failure_time_us", BigInteger),
    Column("success_time_us", BigInteger),
    Column("next_try_time_us", BigInteger),
    comment="Receivers that are told of events over HTTP, and how far each has been told.",
)

places = Table(
    "places",
    metadata,
    Column("reader", Words, primary_key=True),
    Column("position", BigInteger, nullable=False, comment="up to it everything was read"),
    comment="How far readers of the whole history have come, such as what makes traces of it.",
)
