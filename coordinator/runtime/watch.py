"""Wakes those who wait for a workflow: by a hint only, the truth is read from the store.

A watcher reads what is committed, then waits for the next hint, then reads again; however slow it
is, it keeps nobody and nothing. Progress is not history: the latest value of each attempt is kept
here while its workflow is open.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

P = TypeVar("P")


@dataclass(slots=True)
class Topic(Generic[P]):
    """What is to be known about one workflow without asking the store."""

    progress: dict[str, P] = field(default_factory=dict)  # by the attempt's name
    changes: int = 0  # counts hints: a watcher compares, so that none is missed
    watchers: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def hint(self) -> None:
        """Wakes everybody who waits."""
        self.changes += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, seen: int, timeout_s: float) -> int:
        """Returns the count of hints once it differs from what was seen, or the time is over."""
        if self.changes == seen:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return self.changes


class Watches(Generic[P]):
    """The topics of all workflows that are open or watched."""

    def __init__(self) -> None:
        """Begins without any."""
        self._topics: defaultdict[str, Topic[P]] = defaultdict(Topic)
        self.everything: Topic[P] = Topic()

    def committed(self, workflow_id: str, *, settled: bool) -> None:
        """Says that a workflow has changed, durably."""
        topic = self._topics.get(workflow_id)
        if topic is not None:
            topic.hint()
            if settled:
                topic.progress.clear()
                self._drop(workflow_id, topic)
        self.everything.hint()

    def heard_progress(self, workflow_id: str, attempt: str, progress: P) -> None:
        """Keeps the latest progress of an attempt."""
        topic = self._topics[workflow_id]
        topic.progress[attempt] = progress
        topic.hint()

    def progress(self, workflow_id: str) -> dict[str, P]:
        """Returns the latest progress of a workflow's attempts."""
        topic = self._topics.get(workflow_id)
        return topic.progress if topic else {}

    def topics(self) -> list[str]:
        """Returns the ids of workflows that are watched, or of which progress was heard."""
        return list(self._topics)

    def watched(self) -> list[str]:
        """Returns the ids of workflows that are watched."""
        return [each for each, topic in self._topics.items() if topic.watchers]

    @contextmanager
    def watching(self, workflow_id: str) -> Iterator[Topic[P]]:
        """Holds a workflow's topic for as long as somebody watches it."""
        topic = self._topics[workflow_id]
        topic.watchers += 1
        try:
            yield topic
        finally:
            topic.watchers -= 1
            self._drop(workflow_id, topic)

    def _drop(self, workflow_id: str, topic: Topic[P]) -> None:
        if not topic.watchers and not topic.progress:
            self._topics.pop(workflow_id, None)
