"""Whence a bundle's content comes: a workflow, its tasks and its history, page by page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow


class Source(Protocol):
    """What the page and the command line ask a coordinator for, each in its own way."""

    async def workflow(self) -> Workflow:
        """Returns the workflow, FULL view."""
        ...

    async def tasks(self, token: str) -> tuple[Sequence[Task], str]:
        """Returns a page of its tasks in the order of the tree, and the token of the next."""
        ...

    async def task(self, task_id: str) -> Task:
        """Returns one task with its attempts, FULL view."""
        ...

    async def events(self, after: int) -> Sequence[HistoryEvent]:
        """Returns the events that follow a sequence, none at the end."""
        ...
