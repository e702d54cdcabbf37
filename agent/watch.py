"""Streams what changes: from the journal first, then as it is committed, progress in between."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass

from agent.attempts import AttemptRecord
from agent.journal import Transaction, Transacts
from agent.running import Running
from countermand.rpc.errors import SequenceAhead, WatcherTooSlow
from countermand.v1.attempt_pb2 import Progress

# A watcher that is further behind reads the journal again: cheaper than keeping it all in memory.
EVENTS_MAX = 10_000

# Some 400 bytes each, below the limit of one message with room for long failures.
CHANGES_PER_MESSAGE_MAX = 100

PROGRESS_INTERVAL_S = 0.25

# An idle watch says so this often: the coordinator holds an agent mute for several times as long
# to be in trouble, and a message of a few bytes costs nothing.
BOOKMARK_INTERVAL_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one message of a watch tells."""

    changes: list[AttemptRecord]
    progress: list[tuple[AttemptRecord, Progress]]
    bookmark: int


class _Watcher:
    def __init__(self) -> None:
        self.pending: deque[AttemptRecord] = deque()
        self.woken = asyncio.Event()
        self.too_slow = False

    def take(self, after: int) -> list[AttemptRecord]:
        changes: list[AttemptRecord] = []
        while self.pending and len(changes) < CHANGES_PER_MESSAGE_MAX:
            record = self.pending.popleft()
            if record.sequence > after:
                changes.append(record)
        if not self.pending:
            self.woken.clear()
        return changes


class Watchers:
    """All who watch."""

    def __init__(self, journal: Transacts, running: Mapping[str, Running]) -> None:
        """Reads from the journal, and progress from what is running."""
        self._journal = journal
        self._running = running
        # A set in the order of arrival: the same in each run of the simulation.
        self._watchers: dict[_Watcher, None] = {}
        self._closed = False

    def publish(self, changed: Iterable[AttemptRecord]) -> None:
        """Hands on what was committed; waits for nobody."""
        for watcher in self._watchers:
            watcher.pending.extend(changed)
            watcher.woken.set()
            if len(watcher.pending) > EVENTS_MAX:
                watcher.too_slow = True
                watcher.pending.clear()

    def close(self) -> None:
        """Ends every watch: an agent that stops need not wait until they are cut off."""
        self._closed = True
        for watcher in self._watchers:
            watcher.woken.set()

    async def watch(self, after_sequence: int | None) -> AsyncGenerator[Batch]:
        """Yields what changes after a sequence; the first batch may be empty.

        Raises:
            SequenceAhead: The journal has not come that far: it went back in time.
            WatcherTooSlow: Too much changed while the reader was away.
        """
        watcher = _Watcher()
        self._watchers[watcher] = None  # before reading: what is committed meanwhile is not missed
        try:
            end = await self._journal.transact(_end_of_journal(after_sequence))
            bookmark = end if after_sequence is None else after_sequence
            while True:
                changes = await self._journal.transact(_changes(bookmark))
                bookmark = changes[-1].sequence if changes else max(bookmark, end)
                yield Batch(changes=changes, progress=[], bookmark=bookmark)
                if len(changes) < CHANGES_PER_MESSAGE_MAX:
                    break
            async for batch in self._live(watcher, bookmark):
                yield batch
        finally:
            del self._watchers[watcher]

    async def _live(self, watcher: _Watcher, bookmark: int) -> AsyncIterator[Batch]:
        told: dict[str, tuple[int, int]] = {}
        loop = asyncio.get_running_loop()
        progress_at = loop.time()
        bookmark_at = loop.time() + BOOKMARK_INTERVAL_S
        while not self._closed:
            await self._pause(watcher, bookmark_at)
            if watcher.too_slow:
                raise WatcherTooSlow(events_max=EVENTS_MAX)
            changes = watcher.take(bookmark)
            progress: list[tuple[AttemptRecord, Progress]] = []
            if loop.time() >= progress_at:
                progress = self._progress(told)
                progress_at = loop.time() + PROGRESS_INTERVAL_S
            if changes:
                bookmark = changes[-1].sequence
            if changes or progress or loop.time() >= bookmark_at:
                yield Batch(changes=changes, progress=progress, bookmark=bookmark)
                bookmark_at = loop.time() + BOOKMARK_INTERVAL_S

    async def _pause(self, watcher: _Watcher, until: float) -> None:
        """Returns when something changed, or when it is time to look at what is running."""
        if self._running:
            until = min(until, asyncio.get_running_loop().time() + PROGRESS_INTERVAL_S)
        try:
            async with asyncio.timeout_at(until):
                await watcher.woken.wait()
        except TimeoutError:
            return

    def _progress(self, told: dict[str, tuple[int, int]]) -> list[tuple[AttemptRecord, Progress]]:
        """Returns the progress of those that got on, and forgets those that have ended.

        More than fit in a message are told next time; who was told of longest ago comes first.
        """
        for name in told.keys() - self._running.keys():
            del told[name]
        news: list[tuple[AttemptRecord, Progress]] = []
        for name in [*(name for name in self._running if name not in told), *told]:
            if len(news) == CHANGES_PER_MESSAGE_MAX:
                break
            running = self._running[name]
            progress = running.progress()
            if progress is not None and told.get(name) != running.done_and_total:
                told.pop(name, None)  # to the end
                told[name] = running.done_and_total
                news.append((running.record, progress))
        return news


def _end_of_journal(after_sequence: int | None) -> Callable[[Transaction], int]:
    def read(tx: Transaction) -> int:
        if after_sequence is not None and after_sequence > tx.sequence:
            raise SequenceAhead(after_sequence=after_sequence, journal_sequence=tx.sequence)
        return tx.sequence

    return read


def _changes(after: int) -> Callable[[Transaction], list[AttemptRecord]]:
    return lambda tx: tx.changes(after, CHANGES_PER_MESSAGE_MAX)
