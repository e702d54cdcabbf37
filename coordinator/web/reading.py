"""What the page of a workflow is drawn from: read with a few calls, however large the workflow is.

A small one is read whole. Of a large one its own state, what is not quietly done or still to come,
the first tasks and the last events are read: never all of its history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from coordinator.web.calls import Calls
from countermand.drawing.excerpt import excerpt
from countermand.drawing.folding import folded
from countermand.drawing.model import Timeline
from countermand.drawing.tasks import GROUPS
from countermand.drawing.timeline import timeline
from countermand.drawing.verdict import goes_back, to_make_up
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import ListTasksResponse, Workflow

TASKS_WHOLE: Final = 150  # a tree of more than that is folded and paged
EVENTS_WHOLE: Final = 1500  # a history of more than that is not read for a page
DRAWN_MAX: Final = 36  # rows of a timeline that a person takes in
NEWS_MAX: Final = 36  # tasks of a large workflow that are shown first
MADE_UP_MAX: Final = 8  # of what was made up for in a large one: enough to see how and where
STANDING_MAX: Final = 200  # of what is still to be made up for: of more, how many is enough
FIRST_TASKS: Final = 50
LAST_EVENTS: Final = 25

# What somebody looks at first: all but what is done quietly, or has not begun.
NEWS: Final[Sequence[Task.State.ValueType]] = (
    Task.STATE_FAILED,
    Task.STATE_COMPENSATION_BLOCKED,
    Task.STATE_ABANDONED,
    Task.STATE_UNKNOWN,
    Task.STATE_CANCELLING,
    Task.STATE_RETRY_WAIT,
    Task.STATE_COMPENSATING,
    Task.STATE_RUNNING,
    Task.STATE_STARTING,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at a workflow."""

    workflow: Workflow
    tasks: Sequence[Task]  # in the order of the tree
    news: Sequence[Task]  # of a large one: what is looked at first
    next_tasks: str  # the token of what follows; empty when that is all
    timeline: Timeline
    is_whole: bool
    events: Sequence[HistoryEvent]  # the last, newest first
    unread: int = 0  # of one that goes back: tasks that succeeded and were not read

    @property
    def sequence(self) -> int:
        """Returns the sequence up to which this is true."""
        return self.workflow.last_sequence


async def read(calls: Calls, workflow_id: str, now: datetime) -> Reading:
    """Returns a look at a workflow."""
    workflow = await calls.workflow(workflow_id)
    size = sum(count.count for count in workflow.task_counts)
    if size <= TASKS_WHOLE and workflow.last_sequence <= EVENTS_WHOLE:
        return await _whole(calls, workflow_id, now)
    return await _part(calls, workflow, workflow_id, now)


async def _whole(calls: Calls, workflow_id: str, now: datetime) -> Reading:
    workflow, events = await asyncio.gather(
        calls.workflow(workflow_id, full=True), calls.history(workflow_id)
    )
    drawn = await asyncio.to_thread(timeline, workflow, events, _bare(now))
    return Reading(
        workflow=workflow,
        tasks=workflow.tasks,
        news=(),
        next_tasks="",
        timeline=folded(drawn, DRAWN_MAX),
        is_whole=True,
        events=events[: -LAST_EVENTS - 1 : -1],
    )


async def _part(calls: Calls, workflow: Workflow, workflow_id: str, now: datetime) -> Reading:
    last = max(workflow.last_sequence - LAST_EVENTS, 0)
    first, news, made_up, stands, events, own = await asyncio.gather(
        calls.tasks(workflow_id, size=FIRST_TASKS),
        calls.tasks(workflow_id, states=NEWS, size=NEWS_MAX, full=True),
        calls.tasks(workflow_id, states=[Task.STATE_COMPENSATED], size=MADE_UP_MAX, full=True),
        _standing(calls, workflow, workflow_id),
        calls.events(workflow_id, after=last, size=LAST_EVENTS),
        calls.own_history(workflow_id, workflow.last_sequence),
    )
    drawn = [task for task in (*news.tasks, *made_up.tasks) if task.verb]
    if not drawn:
        some = await calls.tasks(workflow_id, size=NEWS_MAX, full=True)
        drawn = [task for task in some.tasks if task.verb]
    picture = await asyncio.to_thread(excerpt, workflow, drawn[:NEWS_MAX], own, _bare(now))
    told = replace(picture.verdict, to_make_up=to_make_up(workflow, stands.tasks))
    number = {count.state: count.count for count in workflow.task_counts}
    read_ = sum(task.kind not in GROUPS for task in stands.tasks)
    unread = number.get(Task.STATE_SUCCEEDED, 0) - read_
    return Reading(
        workflow=workflow,
        tasks=first.tasks,
        news=news.tasks,
        next_tasks=first.next_page_token,
        timeline=replace(picture, verdict=told),
        is_whole=False,
        events=events.events[::-1],
        unread=unread if stands.next_page_token else 0,
    )


async def _standing(calls: Calls, workflow: Workflow, workflow_id: str) -> ListTasksResponse:
    """Returns what took effect, of a workflow that goes back: its turn is still to come."""
    if not goes_back(workflow):
        return ListTasksResponse()
    return await calls.tasks(workflow_id, states=[Task.STATE_SUCCEEDED], size=STANDING_MAX)


def _bare(now: datetime) -> datetime:
    """Returns a time as the drawing reckons: in UTC, without saying so."""
    return now.replace(tzinfo=None)
