"""Following workflows: reads what is committed, waits for a hint, reads again.

A watcher, however slow, holds nothing but its place. Progress comes in between, the latest value of
each attempt at most four times a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import Store, StoredEntry
from coordinator.runtime.watch import Topic, Watches
from coordinator.saga.states import WorkflowState
from coordinator.saga.workflow import Workflow
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.event_pb2 import HistoryEvent

PAGE = 500  # entries read at a time: about 100 KiB
BOOKMARK_S = 15.0  # a quiet stream says this often that it is alive
PROGRESS_S = 0.25  # faster than this nobody can read


_ATTENTION = frozenset({WorkflowState.PAUSED, WorkflowState.BLOCKED, WorkflowState.QUARANTINED})


def needs_somebody(workflow: Workflow) -> bool:
    """Returns whether a workflow, or a task of it, waits for an operator."""
    if workflow.state in _ATTENTION or workflow.blocked:
        return True
    # A failure is open before the siblings that are still in flight have let the pause begin.
    return workflow.holding and any(task.needs_decision for _, task in workflow.tasks())


def never(_: Workflow) -> bool:
    """Returns that a workflow is not waited for before it is settled."""
    return False


class Follower:
    """Streams what becomes of workflows."""

    def __init__(self, *, loop: Loop, store: Store, watches: Watches[Progress]) -> None:
        """Keeps what it reads."""
        self._loop = loop
        self._store = store
        self._watches = watches

    def event(self, stored: StoredEntry) -> HistoryEvent:
        """Returns an entry as the contract writes it."""
        event = HistoryEvent.FromString(stored.payload)
        event.position = stored.position
        return event

    async def workflow(
        self, workflow_id: str, *, after: int, progress: bool
    ) -> AsyncIterator[pb.WatchWorkflowResponse]:
        """Yields a workflow's history from a sequence on, until it is settled."""
        shown: dict[str, Progress] = {}
        quiet = True
        with self._watches.watching(workflow_id) as topic:
            while True:
                seen = topic.changes
                workflow = self._loop.workflow(workflow_id)
                # Before its entries are read: what comes after the last one is not missed.
                is_open = workflow is not None or await self._is_open(workflow_id)
                if workflow is None or workflow.sequence > after:
                    async for stored in self._entries(workflow_id, after):
                        yield pb.WatchWorkflowResponse(event=self.event(stored))
                        after, quiet = stored.sequence, True
                if progress:
                    for update in _news(topic, shown):
                        yield update
                if quiet or not is_open:
                    yield pb.WatchWorkflowResponse(bookmark=after)
                if not is_open:
                    return
                quiet = await topic.wait(seen, BOOKMARK_S) == seen
                workflow = self._loop.workflow(workflow_id)
                if workflow is not None and workflow.sequence <= after:
                    await asyncio.sleep(PROGRESS_S)  # only progress: let some of it gather

    async def _is_open(self, workflow_id: str) -> bool:
        """Returns whether a workflow that this loop does not have is open: another's, or nobody's.

        One that is nobody's may be so for long, while an operator has to look at the store.
        """
        return bool(await self._store.owners_of([workflow_id]))

    async def _entries(self, workflow_id: str, after: int) -> AsyncIterator[StoredEntry]:
        while page := await self._store.history(workflow_id, after=after, limit=PAGE):
            for stored in page:
                yield stored
            after = page[-1].sequence
            if len(page) < PAGE:
                return

    async def everything(self, *, after: int | None) -> AsyncIterator[pb.WatchEventsResponse]:
        """Yields the history of all workflows from a position on."""
        topic = self._watches.everything
        if after is None:
            after = await self._store.position()
        yield pb.WatchEventsResponse(bookmark=after)
        while True:
            seen = topic.changes
            while page := await self._store.events(after=after, limit=PAGE):
                for stored in page:
                    yield pb.WatchEventsResponse(event=self.event(stored))
                after = page[-1].position
                if len(page) < PAGE:
                    break
            if await topic.wait(seen, BOOKMARK_S) == seen:
                yield pb.WatchEventsResponse(bookmark=after)

    async def wait(
        self, workflow_id: str, wanted: Callable[[Workflow], bool], timeout_s: float
    ) -> None:
        """Returns once a workflow is settled, as wanted, or the time is over."""
        clock = asyncio.get_running_loop()
        deadline = clock.time() + timeout_s
        with self._watches.watching(workflow_id) as topic:
            while True:
                seen = topic.changes
                if await self._has_come(workflow_id, wanted) or clock.time() >= deadline:
                    return
                await topic.wait(seen, deadline - clock.time())

    async def _has_come(self, workflow_id: str, wanted: Callable[[Workflow], bool]) -> bool:
        """Returns whether a workflow is settled, or as wanted."""
        if workflow := self._loop.workflow(workflow_id):
            return wanted(workflow)
        if not await self._is_open(workflow_id):
            return True
        if wanted is never:  # it need not be loaded to know that
            return False
        stored = await self._store.load(workflow_id)
        return stored is None or stored.workflow.settled or wanted(stored.workflow)


def _news(topic: Topic[Progress], shown: dict[str, Progress]) -> list[pb.WatchWorkflowResponse]:
    """Returns the progress that was not shown yet."""
    news = []
    for attempt, progress in topic.progress.items():
        if shown.get(attempt) is not progress:
            shown[attempt] = progress
            update = pb.AttemptProgress(attempt=attempt, progress=progress)
            news.append(pb.WatchWorkflowResponse(progress=update))
    return news
