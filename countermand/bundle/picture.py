"""What of a workflow is drawn in its bundle: all of a small one, and of a large one what tells.

The same whether a bundle is being made or being read. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from countermand.drawing.excerpt import excerpt
from countermand.drawing.folding import folded
from countermand.drawing.model import Timeline
from countermand.drawing.tasks import with_tasks
from countermand.drawing.timeline import timeline
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow

DRAWN_TASKS: Final = 150  # as on the page of a workflow
DRAWN_EVENTS: Final = 1500
DRAWN_ROWS: Final = 60
EXCERPT_TASKS: Final = 60

# Of which nothing is to be told but that they are done, or not begun.
SILENT: Final = frozenset(
    {Task.STATE_SUCCEEDED, Task.STATE_PENDING, Task.STATE_READY, Task.STATE_SKIPPED}
)


def is_small(tasks: int, events: int) -> bool:
    """Returns whether all of it is drawn."""
    return tasks <= DRAWN_TASKS and events <= DRAWN_EVENTS


def telling(tasks: Iterable[Task], room: int = EXCERPT_TASKS) -> list[Task]:
    """Returns those that are drawn of a large one."""
    return [task for task in tasks if task.attempts and task.state not in SILENT][:room]


def whole(
    workflow: Workflow, tasks: Sequence[Task], events: Sequence[HistoryEvent], now: datetime
) -> Timeline:
    """Returns the picture of a small one."""
    return folded(timeline(with_tasks(workflow, tasks), events, now), DRAWN_ROWS)


def part(
    workflow: Workflow, tasks: Sequence[Task], events: Sequence[HistoryEvent], now: datetime
) -> Timeline:
    """Returns the picture of a large one: of those that tell something, and its last events."""
    return excerpt(workflow, tasks, events, now)
