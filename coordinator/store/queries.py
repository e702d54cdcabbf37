"""What is read: plain functions on a connection, each in one transaction of its caller."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from sqlalchemy import (
    Connection,
    RowMapping,
    Select,
    bindparam,
    exists,
    func,
    literal_column,
    select,
)

from coordinator.runtime.ports import (
    HostRecord,
    Request,
    Stored,
    StoredEntry,
    WorkflowPage,
    WorkflowQuery,
)
from coordinator.saga.states import SETTLED, WorkflowState
from coordinator.saga.workflow import Task
from coordinator.store.plans import Plans
from coordinator.store.rows import (
    entry_from,
    held_from,
    host_from,
    leaves_from,
    micros,
    submission_from,
    workflow_from,
)
from coordinator.store.tables import (
    attempts,
    events,
    hosts,
    labels,
    requests,
    submissions,
    tasks,
    workflows,
)
from coordinator.store.tokens import key_from
from countermand.rpc.names import workflow_name

log = logging.getLogger(__name__)

# At a time: bounds the parameters of one statement, and the rows in memory beside their values.
WORKFLOWS_MAX = 500

_OPEN = sorted(set(WorkflowState) - SETTLED)
# The condition of a partial index has to stand in a statement, or SQLite would not use it.
_NOT_SUCCEEDED = workflows.c.state != literal_column(f"'{WorkflowState.SUCCEEDED}'")
_WORKFLOWS = (
    select(workflows, submissions)
    .join(submissions)
    .where(workflows.c.key.in_(bindparam("keys", expanding=True)))
    .order_by(workflows.c.key)
)
_TASKS = select(tasks).where(tasks.c.workflow_key.in_(bindparam("keys", expanding=True)))
_ATTEMPTS = (
    select(attempts)
    .where(attempts.c.workflow_key.in_(bindparam("keys", expanding=True)))
    .order_by(attempts.c.workflow_key, attempts.c.task_index, attempts.c.number)
)
_EVENTS = select(events.c.position, events.c.sequence, events.c.payload, workflows.c.id).join_from(
    events, workflows
)


def key_of(connection: Connection, workflow_id: str) -> int | None:
    """Returns the key of a workflow; None if there is none."""
    found: int | None = connection.scalar(
        select(workflows.c.key).where(workflows.c.id == workflow_id)
    )
    return found


def version_of(connection: Connection, workflow_id: str) -> tuple[int, int]:
    """Returns the version and owner epoch of a workflow; zeros if there is none."""
    columns = select(workflows.c.version, workflows.c.owner_epoch)
    found = connection.execute(columns.where(workflows.c.id == workflow_id)).one_or_none()
    return (found[0], found[1]) if found else (0, 0)


def load_open(plans: Plans, connection: Connection) -> dict[int, Stored]:
    """Returns every workflow that is not settled, by key."""
    found = select(workflows.c.key).where(workflows.c.state.in_(_OPEN), _NOT_SUCCEEDED)
    return _load(plans, sorted(connection.scalars(found)), connection)


def load(plans: Plans, workflow_id: str, connection: Connection) -> Stored | None:
    """Returns one workflow."""
    key = key_of(connection, workflow_id)
    return None if key is None else _load(plans, [key], connection)[key]


def page(plans: Plans, query: WorkflowQuery, connection: Connection) -> WorkflowPage:
    """Returns one page, newest first. The token is the key of the last workflow on it."""
    # One more than asked for tells whether there is another page.
    keys = list(connection.scalars(_matching(query).limit(query.limit + 1)))
    shown = keys[: query.limit]
    found = _load(plans, shown, connection)
    return WorkflowPage(
        workflows=tuple(found[key].workflow for key in shown),
        next=str(shown[-1]) if len(keys) > len(shown) else "",
    )


def _matching(query: WorkflowQuery) -> Select[int]:
    """Returns the keys of the workflows that a query asks for, newest first.

    What is rarest leads: a label, or else the few states that are not a plain success, or else a
    host. The indices are in the order of the list, so that a page costs what is on it.
    """
    key = order = workflows.c.key
    found, rest, host = select(key), list(query.labels), query.host
    if rest:
        name, value = rest.pop()
        found = found.join(labels).where(labels.c.name == name, labels.c.value == value)
        order = labels.c.workflow_key
    elif host and (not query.states or WorkflowState.SUCCEEDED in query.states):
        found = found.join(tasks).where(tasks.c.host == host).group_by(tasks.c.workflow_key)
        order, host = tasks.c.workflow_key, ""
    for name, value in rest:
        label = labels.alias()
        same = (label.c.workflow_key == key, label.c.name == name, label.c.value == value)
        found = found.where(exists().where(*same))
    if host:
        found = found.where(exists().where(tasks.c.workflow_key == key, tasks.c.host == host))
    if query.after:
        found = found.where(order < key_from(query.after))
    return _with_own(query, found).order_by(order.desc())


def _with_own(query: WorkflowQuery, found: Select[int]) -> Select[int]:
    """Returns a list with the conditions on the workflow's own row."""
    if query.states:
        found = found.where(workflows.c.state.in_(sorted(query.states)))
        if WorkflowState.SUCCEEDED not in query.states:
            found = found.where(_NOT_SUCCEEDED)
    if query.kind:
        found = found.where(workflows.c.kind == query.kind)
    if query.created_before is not None:
        found = found.where(workflows.c.create_time_us < micros(query.created_before))
    return found


def _load(plans: Plans, keys: Sequence[int], connection: Connection) -> dict[int, Stored]:
    """Returns whole workflows in the order of their keys."""
    found: dict[int, Stored] = {}
    for first in range(0, len(keys), WORKFLOWS_MAX):
        some = {"keys": keys[first : first + WORKFLOWS_MAX]}
        leaves = leaves_from(
            connection.execute(_TASKS, some).mappings(),
            connection.execute(_ATTEMPTS, some).mappings(),
        )
        for row in connection.execute(_WORKFLOWS, some).mappings():
            key = row["key"]
            found[key] = _stored(plans, row, leaves.pop(key))
    return found


def _stored(plans: Plans, row: RowMapping, leaves: dict[int, Task]) -> Stored:
    """Returns a workflow; one whose record cannot be read is held, and harms no other."""
    submission = submission_from(row)
    try:
        workflow = workflow_from(row, plans.of(row["spec"]), leaves)
    except Exception:
        log.exception("workflow.unreadable", extra={"workflow": workflow_name(row["id"])})
        workflow = held_from(row)
    return Stored(workflow=workflow, submission=submission)


def history(workflow_id: str, after: int, limit: int, connection: Connection) -> list[StoredEntry]:
    """Returns a workflow's entries after a sequence, in order."""
    found = (
        _EVENTS.where(workflows.c.id == workflow_id, events.c.sequence > after)
        .order_by(events.c.sequence)
        .limit(limit)
    )
    return _entries(connection.execute(found).mappings())


def all_events(after: int, limit: int, connection: Connection) -> list[StoredEntry]:
    """Returns entries of all workflows after a position, in order."""
    found = _EVENTS.where(events.c.position > after).order_by(events.c.position).limit(limit)
    return _entries(connection.execute(found).mappings())


def _entries(rows: Iterable[RowMapping]) -> list[StoredEntry]:
    return [entry_from(row) for row in rows]


def position(connection: Connection) -> int:
    """Returns the highest position, 0 if there is none."""
    return connection.scalar(select(func.max(events.c.position))) or 0


def request(request_id: str, connection: Connection) -> tuple[Request, str] | None:
    """Returns a remembered request and the id of the workflow it changed."""
    found = (
        select(requests.c.hash, workflows.c.id)
        .join_from(requests, workflows)
        .where(requests.c.request_id == request_id)
    )
    row = connection.execute(found).one_or_none()
    return None if row is None else (Request(request_id=request_id, hash=row[0]), row[1])


def all_hosts(connection: Connection) -> list[HostRecord]:
    """Returns every host, in order of their ids."""
    rows = connection.execute(select(hosts).order_by(hosts.c.id)).mappings()
    return [host_from(row) for row in rows]
