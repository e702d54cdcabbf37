"""How a batch is written: at most one statement for each table and purpose, for many rows.

How the rows of a batch get to the database is in `prepared.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sqlalchemy import (
    Connection,
    Delete,
    Dialect,
    Insert,
    Table,
    Update,
    bindparam,
    delete,
    or_,
    update,
)

from coordinator.store import counters
from coordinator.store.batch import Batch
from coordinator.store.dialects import greater_of
from coordinator.store.prepared import Names, Prepared, Said, Step, inserted, prepare, run_all
from coordinator.store.tables import (
    attempts,
    events,
    evidence,
    groups,
    labels,
    locks,
    meta,
    requests,
    submissions,
    tasks,
    workflows,
)
from coordinator.store.texts import Row

_TASK_KEY: Names = ("workflow_key", "task_index")
_ATTEMPT_KEY: Names = ("workflow_key", "task_index", "number")
_GROUP_KEY: Names = ("workflow_key", "node_index")
_LOCK_KEY: Names = ("pool_id", "image_id", "workflow_key")
_WORKFLOW_MOVES: Names = (
    *("state", "version", "sequence", "owner_epoch", "cause", "verdict"),
    *("locked", "pause", "compensation_held", "input_patches", "more_locks", "summary"),
    "retention",
    *("update_time_us", "end_time_us"),
)
_TASK_MOVES: Names = (
    *("state", "failure", "compensation_failure", "due_time_us", "start_deadline_us"),
    *("needs_decision", "tried", "too_late", "patch", "given", "replacement", "decided"),
)
_ATTEMPT_MOVES: Names = (
    *("state", "fence_host", "output", "failure", "done_bytes", "unit"),
    *("start_time_us", "end_time_us"),
)


class Writing:
    """The statements of a commit, compiled for one kind of database."""

    def __init__(self, dialect: Dialect) -> None:
        add, move, remove = (partial(each, dialect) for each in (_add, _move, _remove))
        self._take_intents = Prepared(_take_intents(), dialect)
        self._move_workflows = _move_workflows(dialect)
        self._move_tasks = move(tasks, _TASK_KEY, _TASK_MOVES)
        self._place_tasks = move(tasks, _TASK_KEY, ("host",))
        self._remove_groups = remove(groups, _GROUP_KEY)
        self._add_groups = add(groups)
        self._remove_locks = remove(locks, ("workflow_key",))
        self._add_locks = add(locks)
        self._take_locks = move(locks, _LOCK_KEY, ("held",))
        self._move_attempts = move(attempts, _ATTEMPT_KEY, _ATTEMPT_MOVES)
        self._add_workflows = add(workflows)
        self._add_submissions = add(submissions)
        self._add_labels = add(labels)
        self._add_tasks = add(tasks)
        self._add_attempts = add(attempts)
        self._add_requests = add(requests)
        self._add_evidence = add(evidence)
        self._take_positions = Prepared(counters.take(counters.EVENTS), dialect)
        self._note_intent = Prepared(counters.note_intent(), dialect)
        self._add_events = _add_events(dialect)

    def write(
        self,
        connection: Connection,
        batch: Batch,
        fence: Callable[[Connection], None],
        check: Callable[[Connection], None],
    ) -> None:
        """Writes a batch; raises StaleError if a row is not as it says.

        The order is what references ask for, and the rules of one attempt at work and of one writer
        of an image: what ends comes before what begins. Images are checked when no other commit is
        under way any more that could give them to others.
        """
        for before, row in enumerate(reversed(batch.events)):
            row["before"] = before
        fence(connection)
        run_all(
            connection,
            (
                Step(self._take_intents, _one(next_intent=batch.next_intent)),
                Step(self._add_workflows, batch.new_workflows),
                Step(self._add_submissions, batch.new_submissions),
                Step(self._add_labels, batch.new_labels),
                Step(self._add_tasks, batch.new_tasks),
                Step(self._move_workflows, batch.workflows, finds_all=True),
                Step(self._move_tasks, batch.tasks, finds_all=True),
                Step(self._place_tasks, batch.placed, finds_all=True),
                Step(self._remove_groups, batch.old_groups),
                Step(self._add_groups, batch.groups),
                Step(self._move_attempts, batch.attempts, finds_all=True),
                Step(self._add_attempts, batch.new_attempts),
                Step(self._add_requests, batch.requests),
                Step(self._add_evidence, batch.evidence),
                # Late: nobody else is given a position before this transaction has ended.
                Step(self._take_positions, _one(taken=len(batch.events)), finds_all=True),
                Step(self._note_intent, _one(last_intent=batch.last_intent), finds_all=True),
                Step(self._remove_locks, batch.old_locks),
            ),
        )
        check(connection)
        run_all(
            connection,
            (
                Step(self._add_locks, batch.new_locks),
                Step(self._take_locks, batch.locks, finds_all=True),
                Step(self._add_events, batch.events),
            ),
        )


def _one(**value: int) -> list[Row]:
    """Returns one row with a number; none if that says nothing."""
    return [value] if min(value.values()) > 0 else []


def _add(dialect: Dialect, table: Table) -> Prepared:
    """Returns the insertion of whole rows."""
    names = tuple(table.c.keys())
    return prepare(dialect, table, names, lambda said: inserted(table, said, names))


def _add_events(dialect: Dialect) -> Prepared:
    """Returns the insertion of events, at the positions that were taken."""
    names = tuple(name for name in events.c.keys() if name != "position")  # noqa: SIM118 - not a dict

    def add(said: Said) -> Insert:
        position = counters.taken(counters.EVENTS, said["before"])
        return inserted(events, said, names, position=position)

    return prepare(dialect, events, (*names, "before"), add)


def _move(dialect: Dialect, table: Table, key: Names, moves: Names) -> Prepared:
    """Returns the update of the columns that change."""
    return prepare(dialect, table, (*key, *moves), lambda said: _moved(table, said, key, moves))


def _moved(table: Table, said: Said, key: Names, moves: Names) -> Update:
    found = (table.c[name] == said[name] for name in key)
    return update(table).where(*found).values({name: said[name] for name in moves})


def _remove(dialect: Dialect, table: Table, key: Names) -> Prepared:
    """Returns the removal of rows."""

    def remove(said: Said) -> Delete:
        return delete(table).where(*(table.c[name] == said[name] for name in key))

    return prepare(dialect, table, key, remove)


def _move_workflows(dialect: Dialect) -> Prepared:
    """Returns the update of workflows, which compares what the decision was based on."""

    def move(said: Said) -> Update:
        same = workflows.c.version == said["version_before"]
        not_older = workflows.c.owner_epoch <= said["owner_epoch"]
        # What is heard of one that has settled is written by whoever hears it.
        mine = or_(workflows.c.session == said["session"], workflows.c.end_time_us.is_not(None))
        return _moved(workflows, said, ("key",), _WORKFLOW_MOVES).where(same, not_older, mine)

    names = ("key", "version_before", "session", *_WORKFLOW_MOVES)
    return prepare(dialect, workflows, names, move)


def _take_intents() -> Update:
    """Returns the update of the next intent."""
    highest = greater_of(meta.c.next_intent, bindparam("next_intent"))
    return update(meta).values(next_intent=highest)
