"""Lists of workflows, newest first: what is on a page is all that it costs.

A page is merged from one or a few streams of keys, each read from an index in the order of the
list: nothing is sorted, and nothing is looked at that was settled long ago, unless it was asked
for. What is rarest leads, and the rest is checked for each key that it yields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    exists,
    func,
    select,
    text,
)

from coordinator.runtime.ports import Known, WorkflowPage, WorkflowQuery, WorkflowSummary
from coordinator.saga.states import SETTLED, AttemptKind, AttemptState, TaskState, WorkflowState
from coordinator.saga.workflow import BYTES
from coordinator.store.summaries import NOTHING, Tally, summary_from
from coordinator.store.tables import NEEDS_SOMEBODY_IN_JOINS, attempts, labels, tasks, workflows
from coordinator.store.texts import micros
from coordinator.store.tokens import key_from

# States in which a workflow waits for somebody, whatever its tasks are in.
ATTENTION = frozenset({WorkflowState.PAUSED, WorkflowState.BLOCKED, WorkflowState.QUARANTINED})
OPEN = frozenset(WorkflowState) - SETTLED
# Creation times grow with the keys but for a clock that is set back; nobody sets one back further.
CLOCK_BACK_US = 60 * 60 * 1_000_000

_KEY = workflows.c.key
# The condition of a partial index, word by word, or SQLite would not use it.
_NEEDS_SOMEBODY = text(f"({NEEDS_SOMEBODY_IN_JOINS})")
_SOME: BindParameter[Sequence[int]] = bindparam("keys", expanding=True)
_UNSEEN = ("input_patches", "more_locks")
_SHOWN = select(*(column for column in workflows.c if column.key not in _UNSEEN)).where(
    _KEY.in_(_SOME)
)
_LABELS = select(labels).where(labels.c.workflow_key.in_(_SOME))
_COUNTS = (
    select(tasks.c.workflow_key, tasks.c.state, func.count())
    .where(tasks.c.workflow_key.in_(_SOME))
    .group_by(tasks.c.workflow_key, tasks.c.state)
)
_NEEDS = (
    select(tasks.c.workflow_key, func.count())
    .where(tasks.c.workflow_key.in_(_SOME), _NEEDS_SOMEBODY)
    .group_by(tasks.c.workflow_key)
)
_later = attempts.alias()
_DONE = (
    select(attempts.c.workflow_key, func.sum(attempts.c.done_bytes))
    .where(
        attempts.c.workflow_key.in_(_SOME),
        attempts.c.kind == AttemptKind.ACTION,
        attempts.c.state == AttemptState.SUCCEEDED,
        attempts.c.unit == BYTES,
        ~exists().where(
            _later.c.workflow_key == attempts.c.workflow_key,
            _later.c.task_index == attempts.c.task_index,
            _later.c.number > attempts.c.number,
            _later.c.kind == AttemptKind.ACTION,
        ),
    )
    .group_by(attempts.c.workflow_key)
)


def page(query: WorkflowQuery, known: Known, connection: Connection) -> WorkflowPage:
    """Returns one page. Its token is the key of the last workflow on it."""
    below = key_from(query.after) if query.after else None
    if query.created_before is not None:
        below = _least(below, _first_later(micros(query.created_before), connection))
    # One more than asked for tells whether there is another page.
    keys: set[int] = set()
    for stream in streams(query, below):
        keys.update(connection.scalars(stream.limit(query.limit + 1)))
    newest = sorted(keys, reverse=True)
    shown = newest[: query.limit]
    found = _summaries(shown, known, connection)
    return WorkflowPage(
        workflows=tuple(found[key] for key in shown),
        next=str(shown[-1]) if len(newest) > len(shown) else "",
    )


def streams(query: WorkflowQuery, below: int | None = None) -> list[Select[int]]:
    """Returns statements that yield the keys of a list together, each of them in its order."""
    states = query.states
    if query.needs_attention:
        states = (states or OPEN) & OPEN
        of_states = [_of_state(query, state, below) for state in sorted(states & ATTENTION)]
        return [*of_states, *_of_tasks_in_need(query, states - ATTENTION, below)]
    if states and states <= OPEN:  # whatever else was asked for: those are few
        return [_of_state(query, state, below) for state in sorted(states)]
    if query.labels:
        return [_of_label(query, below)]
    if query.host:
        return [_of_host(query, below)]
    if query.id_prefix:
        return [_of_prefix(query, below)]
    if states or query.kind:
        return [_of_state(query, state, below) for state in sorted(states or WorkflowState)]
    return [select(_KEY).where(*_own(query, below)).order_by(_KEY.desc())]


def _of_state(query: WorkflowQuery, state: WorkflowState, below: int | None) -> Select[int]:
    """Returns the keys of workflows in one state, by an index that it leads, or kind and it."""
    found = select(_KEY).where(workflows.c.state == state, *_own(query, below))
    return found.where(*_labelled(query.labels), *_on_host(query.host)).order_by(_KEY.desc())


def _of_prefix(query: WorkflowQuery, below: int | None) -> Select[int]:
    """Returns the keys of workflows whose ids begin alike, by the index of the ids.

    Those are sorted, which is what it costs where many begin so; a walk in the order of the list
    would cost as much where few do, and reads whole rows.
    """
    first, last = query.id_prefix, f"{query.id_prefix}~"  # beyond whatever an id may go on with
    found = select(_KEY).where(workflows.c.id >= first, workflows.c.id < last, *_own(query, below))
    found = found.where(*_in_states(query.states))
    return found.order_by((_KEY + 0).desc())  # as no index has it, so that the ids' leads


def _of_label(query: WorkflowQuery, below: int | None) -> Select[int]:
    """Returns the keys of workflows with a label."""
    name, value = query.labels[-1]
    found = select(labels.c.workflow_key).join(workflows)
    found = found.where(labels.c.name == name, labels.c.value == value, *_own(query, None))
    found = found.where(*_in_states(query.states), *_before(labels.c.workflow_key, below))
    found = found.where(*_labelled(query.labels[:-1]), *_on_host(query.host))
    return found.order_by(labels.c.workflow_key.desc())


def _of_host(query: WorkflowQuery, below: int | None) -> Select[int]:
    """Returns the keys of workflows with a task on a host."""
    key = tasks.c.workflow_key
    found = select(key).join(workflows).where(tasks.c.host == query.host, *_own(query, None))
    found = found.where(*_in_states(query.states), *_before(key, below))
    return found.group_by(key).order_by(key.desc())


def _of_tasks_in_need(
    query: WorkflowQuery, states: Iterable[WorkflowState], below: int | None
) -> Iterator[Select[int]]:
    """Yields the keys of workflows with a task that needs somebody."""
    key = tasks.c.workflow_key
    if states:
        found = select(key).join(workflows).where(_NEEDS_SOMEBODY, *_own(query, None))
        found = found.where(*_in_states(states), *_before(key, below))
        found = found.where(*_labelled(query.labels), *_on_host(query.host))
        yield found.group_by(key).order_by(key.desc())


def _own(query: WorkflowQuery, below: int | None) -> Iterator[ColumnElement[bool]]:
    """Yields the conditions on a workflow's own row, but for its state."""
    if query.kind:
        yield workflows.c.kind == query.kind
    if query.id_prefix:
        yield func.substr(workflows.c.id, 1, len(query.id_prefix)) == query.id_prefix
    if query.created_before is not None:
        yield workflows.c.create_time_us < micros(query.created_before)
    yield from _before(_KEY, below)


def _before(key: ColumnElement[int], below: int | None) -> Iterator[ColumnElement[bool]]:
    if below is not None:
        yield key < below


def _in_states(states: Iterable[WorkflowState]) -> Iterator[ColumnElement[bool]]:
    if states:  # as text that no index has: something rarer leads
        yield (workflows.c.state + "").in_(sorted(states))


def _labelled(wanted: Sequence[tuple[str, str]]) -> Iterator[ColumnElement[bool]]:
    for name, value in wanted:
        label = labels.alias()
        same = and_(label.c.workflow_key == _KEY, label.c.name == name, label.c.value == value)
        yield exists().where(same)


def _on_host(host: str) -> Iterator[ColumnElement[bool]]:
    if host:
        task = tasks.alias()
        yield exists().where(task.c.workflow_key == _KEY, task.c.host == host)


def _least(first: int | None, second: int | None) -> int | None:
    return min((each for each in (first, second) if each is not None), default=None)


def _first_later(time_us: int, connection: Connection) -> int | None:
    """Returns a key from which on every workflow was created at a time or later, if there is one.

    Without it, who asks for old workflows would have all newer ones looked at.
    """
    found: int | None = connection.scalar(
        select(_KEY)
        .where(workflows.c.create_time_us >= time_us + CLOCK_BACK_US)
        .order_by(workflows.c.create_time_us)
        .limit(1)
    )
    return found


def _summaries(
    keys: Sequence[int], known: Known, connection: Connection
) -> dict[int, WorkflowSummary]:
    """Returns what is shown of some workflows, by key."""
    rows = connection.execute(_SHOWN, {"keys": keys}).mappings().all()
    said: dict[int, list[tuple[str, str]]] = {key: [] for key in keys}
    for row in connection.execute(_LABELS, {"keys": keys}).mappings():
        said[row["workflow_key"]].append((row["name"], row["value"]))
    uncounted = [row["key"] for row in rows if not row["summary"] and not known(row["id"])]
    tallies = _tallies(uncounted, connection) if uncounted else {}
    return {
        row["key"]: summary_from(row, said[row["key"]], tallies.get(row["key"], NOTHING))
        for row in rows
    }


def _tallies(keys: Sequence[int], connection: Connection) -> dict[int, Tally]:
    """Returns what is shown of the tasks of open workflows, counted now: each costs its tasks."""
    some = {"keys": keys}
    counts: dict[int, dict[TaskState, int]] = {key: {} for key in keys}
    for key, state, count in connection.execute(_COUNTS, some):
        counts[key][TaskState(state)] = count
    needs: dict[int, int] = dict(connection.execute(_NEEDS, some).all())
    done = {
        key: int(count) for key, count in connection.execute(_DONE, some)
    }  # PostgreSQL: Decimal
    return {
        key: Tally(counts=counts[key], done=done.get(key, 0), needs=needs.get(key, 0))
        for key in keys
    }
