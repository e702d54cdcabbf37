"""What is read: plain functions on a connection, each in one transaction of its caller.

Lists are in `lists.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate, islice, takewhile
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, and_, bindparam, exists, func, or_, select

from coordinator.runtime.ports import (
    Asked,
    Request,
    Stored,
    StoredEntry,
    Submission,
)
from coordinator.saga.spec import OWNER_PREFIX, owner_of
from coordinator.saga.states import OUTCOMES, SETTLED, UNSETTLED, TaskState, WorkflowState
from coordinator.store import counters
from coordinator.store.dialects import place_of
from coordinator.store.plans import Plans
from coordinator.store.rows import (
    entry_from,
    held_from,
    nodes_from,
    submission_from,
    workflow_from,
)
from coordinator.store.tables import (
    attempts,
    events,
    evidence,
    groups,
    locks,
    requests,
    submissions,
    tasks,
    used_ids,
    workflows,
)
from coordinator.store.texts import time_from
from coordinator.wire.external import grown
from countermand.rpc.names import attempt_name, workflow_name
from countermand.v1.event_pb2 import HistoryEvent

log = logging.getLogger(__name__)

# At a time: bounds the parameters of one statement, and the rows in memory beside their values.
WORKFLOWS_MAX = 500

_OPEN = sorted(set(WorkflowState) - SETTLED)
_UNSETTLED, _OUTCOMES = sorted(UNSETTLED), sorted(OUTCOMES)
_OTHER = attempts.alias("other")
_WORKFLOWS = (
    select(workflows, submissions)
    .join(submissions)
    .where(workflows.c.key.in_(bindparam("keys", expanding=True)))
    .order_by(workflows.c.key)
)
_GROUPS = select(groups).where(groups.c.workflow_key.in_(bindparam("keys", expanding=True)))
_TASKS = (
    select(tasks)
    .where(tasks.c.workflow_key.in_(bindparam("keys", expanding=True)))
    .order_by(tasks.c.workflow_key, tasks.c.task_index)
)
_ATTEMPTS = (
    select(attempts)
    .where(attempts.c.workflow_key.in_(bindparam("keys", expanding=True)))
    .order_by(attempts.c.workflow_key, attempts.c.task_index, attempts.c.number)
)
_EVENTS = select(events.c.position, events.c.sequence, events.c.payload, workflows.c.id).join_from(
    events, workflows
)


def _tag(field: str) -> bytes:
    """Returns the bytes with which a field of an event begins that is a message."""
    key = HistoryEvent.DESCRIPTOR.fields_by_name[field].number << 3 | 2
    return bytes([key]) if key < 0x80 else bytes([key & 0x7F | 0x80, key >> 7])  # noqa: PLR2004


# Whether an event is about a task only its payload says. To read most of them is spared by looking
# at the bytes alone: those about a task contain its name; and of the others that contain one, each
# is of a kind that may, in a cause or in somebody's words. What is left is read to be certain.
_NAME_TASKS = ("workflow_state_changed", "intervention")
_MAY_BE_OWN = or_(
    events.c.sequence == 1,  # what was submitted
    place_of(b"/tasks/", events.c.payload) == 0,
    *(place_of(_tag(field), events.c.payload) > 0 for field in _NAME_TASKS),
)


def key_of(connection: Connection, workflow_id: str) -> int | None:
    """Returns the key of a workflow; None if there is none."""
    found: int | None = connection.scalar(
        select(workflows.c.key).where(workflows.c.id == workflow_id)
    )
    return found


def version_of(workflow_id: str, connection: Connection) -> tuple[int, int, int]:
    """Returns the version, owner epoch and session of a workflow; zeros if there is none."""
    columns = select(workflows.c.version, workflows.c.owner_epoch, workflows.c.session)
    found = connection.execute(columns.where(workflows.c.id == workflow_id)).one_or_none()
    return (found[0], found[1], found[2]) if found else (0, 0, 0)


def submission_of(workflow_id: str, connection: Connection) -> Submission | None:
    """Returns what was handed in."""
    found = select(submissions).join(workflows).where(workflows.c.id == workflow_id)
    row = connection.execute(found).mappings().one_or_none()
    return None if row is None else submission_from(row)


def load_open(plans: Plans, connection: Connection) -> dict[int, Stored]:
    """Returns every workflow that is not settled, by key, in order of creation."""
    found = select(workflows.c.key).where(workflows.c.state.in_(_OPEN))
    return _load(plans, sorted(connection.scalars(found)), connection)


def load_first(
    plans: Plans, keys: Sequence[int], tasks_max: int, connection: Connection
) -> dict[int, Stored]:
    """Returns the first of some workflows, whole, in the order in which they are named.

    At least one, and no more than have so many tasks together.
    """
    of_key = func.count().label("of_key")
    counted = select(tasks.c.workflow_key, of_key).where(tasks.c.workflow_key.in_(keys))
    rows = connection.execute(counted.group_by(tasks.c.workflow_key))
    counts = {row.workflow_key: row.of_key for row in rows}
    so_far = accumulate(counts.get(key, 0) for key in keys)
    fitting = sum(1 for _ in takewhile(lambda count: count <= tasks_max, so_far))
    return _load(plans, keys[: max(1, fitting)], connection)


def open_naming(plans: Plans, host_ids: Collection[str], connection: Connection) -> list[Stored]:
    """Returns the open workflows that may have to do with one of some hosts, and some others."""
    may_come_there = or_(tasks.c.host.in_([*host_ids, ""]), tasks.c.patch.is_not(None))
    has_task = exists().where(tasks.c.workflow_key == workflows.c.key, may_come_there)
    has_attempt = exists().where(
        attempts.c.workflow_key == workflows.c.key,
        or_(attempts.c.host.in_(host_ids), attempts.c.fence_host.in_(host_ids)),
    )
    found = select(workflows.c.key).where(
        workflows.c.end_time_us.is_(None), or_(has_task, has_attempt)
    )
    return list(_load(plans, sorted(connection.scalars(found)), connection).values())


def asked(
    owner: str,
    after: int,
    limit: int,
    workflow_ids: Collection[str] | None,
    connection: Connection,
) -> list[Asked]:
    """Returns attempts of open workflows that wait for an owner, in order of their intents."""
    last = (
        select(func.max(_OTHER.c.number))
        .where(
            _OTHER.c.workflow_key == tasks.c.workflow_key, _OTHER.c.task_index == tasks.c.task_index
        )
        .scalar_subquery()
    )
    is_owners = attempts.c.host == f"{OWNER_PREFIX}{owner}"
    found = (
        select(
            workflows.c.id,
            tasks.c.name,
            tasks.c.state,
            attempts.c.number,
            attempts.c.host,
            attempts.c.intent,
            attempts.c.start_time_us,
            attempts.c.create_time_us,
        )
        .join_from(tasks, workflows, tasks.c.workflow_key == workflows.c.key)
        .join(
            attempts,
            and_(
                attempts.c.workflow_key == tasks.c.workflow_key,
                attempts.c.task_index == tasks.c.task_index,
            ),
        )
        .where(
            workflows.c.end_time_us.is_(None),
            tasks.c.state.in_(_UNSETTLED),
            attempts.c.state.not_in(_OUTCOMES),
            attempts.c.number == last,
            is_owners if owner else attempts.c.host.startswith(OWNER_PREFIX, autoescape=True),
            attempts.c.intent > after,
        )
        .order_by(attempts.c.intent)
        .limit(limit)
    )
    if workflow_ids is not None:
        found = found.where(workflows.c.id.in_(workflow_ids))
    return [
        Asked(
            workflow_id=row.id,
            name=attempt_name(row.id, row.name, row.number),
            owner=owner_of(row.host),
            intent=row.intent,
            state=TaskState(row.state),
            accepted=row.start_time_us is not None,
            create_time=time_from(row.create_time_us),
        )
        for row in connection.execute(found)
    ]


def moves(after: int, limit: int, connection: Connection) -> list[tuple[str, int]]:
    """Returns whose entries follow a position, as workflow id and position, in order."""
    found = (
        select(workflows.c.id, events.c.position)
        .join_from(events, workflows)
        .where(events.c.position > after)
        .order_by(events.c.position)
        .limit(limit)
    )
    return [(row.id, row.position) for row in connection.execute(found)]


def load(plans: Plans, workflow_id: str, connection: Connection) -> Stored | None:
    """Returns one workflow."""
    key = key_of(connection, workflow_id)
    return None if key is None else _load(plans, [key], connection)[key]


def _load(plans: Plans, keys: Sequence[int], connection: Connection) -> dict[int, Stored]:
    """Returns whole workflows in the order of their keys."""
    found: dict[int, Stored] = {}
    for first in range(0, len(keys), WORKFLOWS_MAX):
        some = {"keys": keys[first : first + WORKFLOWS_MAX]}
        parts = [_by_workflow(connection, each, some) for each in (_TASKS, _ATTEMPTS, _GROUPS)]
        for row in connection.execute(_WORKFLOWS, some).mappings():
            key = row["key"]
            found[key] = _stored(plans, row, [rows.pop(key, []) for rows in parts], connection)
    return found


def _by_workflow(
    connection: Connection, statement: Select[*tuple[Any, ...]], some: dict[str, Sequence[int]]
) -> dict[int, list[RowMapping]]:
    """Returns rows by the key of their workflow, in the order in which they come."""
    found: dict[int, list[RowMapping]] = {}
    for row in connection.execute(statement, some).mappings():
        found.setdefault(row["workflow_key"], []).append(row)
    return found


def _stored(
    plans: Plans, row: RowMapping, parts: Sequence[Sequence[RowMapping]], connection: Connection
) -> Stored:
    """Returns a workflow; one whose record cannot be read is held, and harms no other."""
    submission = submission_from(row)
    try:
        plan = plans.of(submission.spec, submission.input)
        plan = grown(plan, [task["added"] for task in parts[0] if task["added"]])
        workflow = workflow_from(row, plan, nodes_from(*parts))
    except Exception:
        log.exception("workflow.unreadable", extra={"workflow": workflow_name(row["id"])})
        mine = select(locks).where(locks.c.workflow_key == row["key"])
        workflow = held_from(row, connection.execute(mine).mappings())
    return Stored(workflow=workflow, submission=submission)


def history(workflow_id: str, after: int, limit: int, connection: Connection) -> list[StoredEntry]:
    """Returns a workflow's entries after a sequence, in order."""
    found = (
        _EVENTS.where(workflows.c.id == workflow_id, events.c.sequence > after)
        .order_by(events.c.sequence)
        .limit(limit)
    )
    return _entries(connection.execute(found).mappings())


def own_history(
    workflow_id: str, after: int, limit: int, connection: Connection
) -> list[StoredEntry]:
    """Returns a workflow's entries that are about no task, in order.

    All are looked at: that takes some 10 ms for 25,000, so who asks keeps what it was told.
    """
    found = _EVENTS.where(workflows.c.id == workflow_id, events.c.sequence > after, _MAY_BE_OWN)
    rows = connection.execute(found.order_by(events.c.sequence)).mappings()
    own = (row for row in rows if not HistoryEvent.FromString(row["payload"]).task)
    return _entries(islice(own, limit))


def all_events(after: int, limit: int, connection: Connection) -> list[StoredEntry]:
    """Returns entries of all workflows after a position, in order."""
    found = _EVENTS.where(events.c.position > after).order_by(events.c.position).limit(limit)
    return _entries(connection.execute(found).mappings())


def _entries(rows: Iterable[RowMapping]) -> list[StoredEntry]:
    return [entry_from(row) for row in rows]


def position(connection: Connection) -> int:
    """Returns the highest position ever given, 0 if there was none."""
    return counters.last_position(counters.EVENTS, connection)


def request(request_id: str, connection: Connection) -> tuple[Request, str] | None:
    """Returns a remembered request and the id of the workflow it changed."""
    found = (
        select(requests.c.hash, workflows.c.id)
        .join_from(requests, workflows)
        .where(requests.c.request_id == request_id)
    )
    row = connection.execute(found).one_or_none()
    return None if row is None else (Request(request_id=request_id, hash=row[0]), row[1])


def evidence_on(host_id: str, below: int, limit: int, connection: Connection) -> list[str]:
    """Returns settled workflows of which a host keeps evidence, whose intents are lower."""
    found = (
        select(evidence.c.workflow_id)
        .where(evidence.c.host_id == host_id, evidence.c.last_intent < below)
        .order_by(evidence.c.last_intent)
        .limit(limit)
    )
    return list(connection.scalars(found))


def used(workflow_ids: Sequence[str], connection: Connection) -> list[str]:
    """Returns those of some ids that belonged to workflows which retention has removed."""
    found = select(used_ids.c.workflow_id).where(used_ids.c.workflow_id.in_(workflow_ids))
    return list(connection.scalars(found))


def settled(workflow_ids: Sequence[str], connection: Connection) -> frozenset[str]:
    """Returns those of some ids whose workflow has settled, even if it has been removed."""
    found = select(workflows.c.id).where(
        workflows.c.id.in_(workflow_ids), workflows.c.end_time_us.is_not(None)
    )
    return frozenset([*connection.scalars(found), *used(workflow_ids, connection)])
