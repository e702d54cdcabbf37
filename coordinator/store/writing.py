"""How a batch is written: at most one statement for each table and purpose, each run for many rows.

The statements are compiled once, when the store is made, and handed to the driver as text with the
values in place: SQLAlchemy would bind the values of each row by name again, which was about a
quarter of the CPU time of a commit, whatever the size of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter

from sqlalchemy import (
    Connection,
    CursorResult,
    Delete,
    Dialect,
    Insert,
    Table,
    Update,
    bindparam,
    delete,
    insert,
    or_,
    update,
)
from sqlalchemy.sql.compiler import SQLCompiler

from coordinator.runtime.ports import StoreRefusedError
from coordinator.store import counters
from coordinator.store.batch import Batch
from coordinator.store.dialects import greater_of
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

Names = tuple[str, ...]

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
# Before the names of values that find a row: SQLAlchemy takes a bare name for a value to be set.
_OF = "of_"


class StaleError(StoreRefusedError):
    """A row was not as a batch said: {why}."""


class Writing:
    """The statements of a commit, compiled for one kind of database."""

    def __init__(self, dialect: Dialect) -> None:
        self._take_intents = _Prepared(_take_intents(), dialect)
        self._move_workflows = _Prepared(_move_workflows(), dialect)
        self._move_tasks = _Prepared(_move(tasks, _TASK_KEY, _TASK_MOVES), dialect)
        self._place_tasks = _Prepared(_move(tasks, _TASK_KEY, ("host",)), dialect)
        self._remove_groups = _Prepared(_remove(groups, _GROUP_KEY), dialect)
        self._add_groups = _Prepared(_add(groups), dialect)
        self._remove_locks = _Prepared(_remove(locks, ("workflow_key",)), dialect)
        self._add_locks = _Prepared(_add(locks), dialect)
        self._take_locks = _Prepared(_move(locks, _LOCK_KEY, ("held",)), dialect)
        self._move_attempts = _Prepared(_move(attempts, _ATTEMPT_KEY, _ATTEMPT_MOVES), dialect)
        self._add_workflows = _Prepared(_add(workflows), dialect)
        self._add_submissions = _Prepared(_add(submissions), dialect)
        self._add_labels = _Prepared(_add(labels), dialect)
        self._add_tasks = _Prepared(_add(tasks), dialect)
        self._add_attempts = _Prepared(_add(attempts), dialect)
        self._add_requests = _Prepared(_add(requests), dialect)
        self._add_evidence = _Prepared(_add(evidence), dialect)
        self._take_positions = _Prepared(counters.take(counters.EVENTS), dialect)
        self._add_events = _Prepared(_add_events(), dialect)

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
        fence(connection)
        if batch.next_intent:
            self._take_intents.move(connection, [{"next_intent": batch.next_intent}])
        self._add_workflows.run(connection, batch.new_workflows)
        self._add_submissions.run(connection, batch.new_submissions)
        self._add_labels.run(connection, batch.new_labels)
        self._add_tasks.run(connection, batch.new_tasks)
        self._move_workflows.move(connection, batch.workflows)
        self._move_tasks.move(connection, batch.tasks)
        self._place_tasks.move(connection, batch.placed)
        self._remove_groups.run(connection, batch.old_groups)
        self._add_groups.run(connection, batch.groups)
        self._move_attempts.move(connection, batch.attempts)
        self._add_attempts.run(connection, batch.new_attempts)
        self._add_requests.run(connection, batch.requests)
        self._add_evidence.run(connection, batch.evidence)
        # Last of all: nobody else is given a position before this transaction has ended.
        if batch.events:
            self._take_positions.move(connection, [{"taken": len(batch.events)}])
        self._remove_locks.run(connection, batch.old_locks)
        check(connection)
        self._add_locks.run(connection, batch.new_locks)
        self._take_locks.move(connection, batch.locks)
        for before, row in enumerate(reversed(batch.events)):
            row["before"] = before
        self._add_events.run(connection, batch.events)


class _Prepared:
    """One statement as the driver takes it."""

    def __init__(self, statement: Insert | Update | Delete, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler), compiled
        assert compiled.positiontup, "written for drivers that take values by position"
        self._sql = str(compiled)
        names = tuple(name.removeprefix(_OF) for name in compiled.positiontup)
        self._values: Callable[[Row], tuple[object, ...]]
        if len(names) == 1:  # of a single name itemgetter would return the bare value
            self._values = lambda row: (row[names[0]],)
        else:
            self._values = itemgetter(*names)

    def run(self, connection: Connection, rows: list[Row]) -> CursorResult[object] | None:
        """Runs the statement for each row."""
        if not rows:
            return None
        return connection.exec_driver_sql(self._sql, [self._values(row) for row in rows])

    def move(self, connection: Connection, rows: list[Row]) -> None:
        """Runs an update for each row, which must be found."""
        done = self.run(connection, rows)
        if done is not None and done.rowcount != len(rows):
            raise StaleError(f"{len(rows) - done.rowcount} rows to change were not as expected")


def _add(table: Table) -> Insert:
    """Returns the insertion of a whole row."""
    names = table.c.keys()
    return insert(table).inline().values({name: bindparam(name) for name in names})


def _add_events() -> Insert:
    """Returns the insertion of an event, at one of the positions that were taken."""
    return _add(events).values(position=counters.taken(counters.EVENTS))


def _move(table: Table, key: Names, moves: Names) -> Update:
    """Returns the update of the columns that change."""
    found = [table.c[name] == bindparam(_OF + name) for name in key]
    return update(table).where(*found).values({name: bindparam(name) for name in moves})


def _remove(table: Table, key: Names) -> Delete:
    """Returns the removal of rows."""
    return delete(table).where(*(table.c[name] == bindparam(_OF + name) for name in key))


def _move_workflows() -> Update:
    """Returns the update of workflows, which compares what the decision was based on."""
    same = workflows.c.version == bindparam("version_before")
    not_older = workflows.c.owner_epoch <= bindparam(f"{_OF}owner_epoch")
    # What is heard of one that has settled is written by whoever hears it.
    mine = or_(
        workflows.c.session == bindparam(f"{_OF}session"), workflows.c.end_time_us.is_not(None)
    )
    return _move(workflows, ("key",), _WORKFLOW_MOVES).where(same, not_older, mine)


def _take_intents() -> Update:
    """Returns the update of the next intent."""
    highest = greater_of(meta.c.next_intent, bindparam("next_intent"))
    return update(meta).values(next_intent=highest)
