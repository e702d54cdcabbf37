"""What owners report of their attempts, kept beside the saga: it decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, bindparam, delete, insert, select

from coordinator.runtime.ports import ProgressRecord
from coordinator.store.tables import progress, workflows

PARAMETERS_MAX = 500  # of one statement: databases have their own bounds, all of them higher

_OPEN = (
    select(workflows.c.id, progress)
    .join_from(progress, workflows)
    .where(workflows.c.end_time_us.is_(None))
)
_KEY = ("workflow_key", "task_index", "number")
_REMOVE = delete(progress).where(*(progress.c[name] == bindparam(f"of_{name}") for name in _KEY))


def note(records: Sequence[ProgressRecord], connection: Connection) -> None:
    """Adds or replaces what is known of some attempts; of a workflow that is gone, nothing."""
    last = {(record.workflow_id, record.task, record.number): record for record in records}
    keys = _keys_of({record.workflow_id for record in records}, connection)
    rows = [
        {
            "workflow_key": keys[record.workflow_id],
            "task_index": record.task,
            "number": record.number,
            "done": record.done,
            "total": record.total,
            "unit": record.unit,
            "message": record.message,
        }
        for record in last.values()
        if record.workflow_id in keys
    ]
    if rows:
        connection.execute(_REMOVE, [{f"of_{name}": row[name] for name in _KEY} for row in rows])
        connection.execute(insert(progress), rows)


def _keys_of(ids: Iterable[str], connection: Connection) -> dict[str, int]:
    """Returns the keys of workflows, those that there are."""
    keys: dict[str, int] = {}
    names = sorted(ids)
    for first in range(0, len(names), PARAMETERS_MAX):
        some = names[first : first + PARAMETERS_MAX]
        found = select(workflows.c.id, workflows.c.key).where(workflows.c.id.in_(some))
        keys.update((row.id, row.key) for row in connection.execute(found))
    return keys


def of_open(connection: Connection) -> list[ProgressRecord]:
    """Returns what is known of the attempts of open workflows."""
    return [
        ProgressRecord(
            workflow_id=row.id,
            task=row.task_index,
            number=row.number,
            done=row.done,
            total=row.total,
            unit=row.unit,
            message=row.message,
        )
        for row in connection.execute(_OPEN)
    ]
