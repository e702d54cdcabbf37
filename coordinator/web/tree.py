"""Tasks as rows of a table, in the order of their tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from countermand.drawing.made_up import how_made_up
from countermand.drawing.tasks import GROUPS, depths_of
from countermand.drawing.words import TASK
from countermand.v1.task_pb2 import Task

DEPTH_MAX: Final = 8  # beyond it everything is as far to the right
STATES_BY_WORD: Final = {look.word: Task.State.ValueType(state) for state, look in TASK.items()}
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
