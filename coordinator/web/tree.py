"""Tasks as rows of a table, in the order of their tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from countermand.drawing.made_up import how_made_up
from countermand.drawing.tasks import GROUPS, depths_of
from countermand.drawing.words import TASK
from countermand.v1.task_pb2 import Task

DEPTH_MAX: Final = 8  # beyond it everything is as far to the right
STATES_BY_WORD: Final = {look.word: Task.State.ValueType(state) for state, look in TASK.items()}
RUN_MIN: Final = 5  # fewer are as soon read as a row that says how many
QUIET: Final = frozenset({Task.STATE_SUCCEEDED, Task.STATE_SKIPPED, Task.STATE_PENDING})
MADE_UP: Final = frozenset(
    {
        Task.STATE_COMPENSATING,
        Task.STATE_COMPENSATED,
        Task.STATE_COMPENSATION_BLOCKED,
        Task.STATE_ABANDONED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One task or group."""

    task: Task
    depth: int
    is_group: bool
    # What makes up for it, once something does.
    made_up: str
    # How many neighbours in the same state this row stands for, in the place of a task.
    folded: int = 0


def rows(tasks: Sequence[Task]) -> list[Row]:
    """Returns a row per task."""
    depths = depths_of(tasks)
    least = min(depths.values(), default=0)
    return [
        Row(
            task=task,
            depth=min(depths[task.name] - least, DEPTH_MAX),
            is_group=task.kind in GROUPS,
            made_up=how_made_up(task) if task.state in MADE_UP and task.kind not in GROUPS else "",
        )
        for task in tasks
    ]


def folded(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows with neighbours that came to a good end, or have not begun, as one row."""
    found: list[Row] = []
    for key, run in groupby(rows, _fold_key):
        together = list(run)
        if key is None or len(together) < RUN_MIN:
            found += together
        else:
            found.append(replace(together[0], folded=len(together)))
    return found


def _fold_key(row: Row) -> tuple[int, int, str] | None:
    """Returns what neighbours must share to stand together; None for one that is news."""
    task = row.task
    if row.is_group or task.state not in QUIET or task.optional_by_policy:
        return None
    return row.depth, task.state, task.parent
