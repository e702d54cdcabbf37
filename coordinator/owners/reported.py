"""Progress that owners report: kept by the store before it is answered, many in one write."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from coordinator.runtime.owners import Key
from coordinator.runtime.ports import ProgressRecord, Store, StoreError, StoreFencedError

log = logging.getLogger(__name__)


Found = Callable[[ProgressRecord], None]
SEEK_AGAIN_S = 0.5  # while the store does not answer


class Reported:
    """The latest progress of attempts that are at work, and a writer of it."""

    def __init__(self, store: Store) -> None:
        """Knows nothing yet; `open` reads what was kept."""
        self._store = store
        self._known: dict[Key, ProgressRecord] = {}
        self._unwritten: dict[Key, ProgressRecord] = {}
        self._written: asyncio.Future[None] | None = None  # of what is not being written yet
        self._sought: dict[Key, Found] = {}  # what others may have kept, and who wants to know
        self._woken = asyncio.Event()

    async def open(self) -> None:
        """Reads what an earlier life has kept."""
        for record in await self._store.progress():
            self._known[key_of(record)] = record

    def get(self, key: Key) -> ProgressRecord | None:
        """Returns the last progress of an attempt."""
        return self._known.get(key)

    def seek(self, key: Key, found: Found) -> None:
        """Looks for what another session has kept of an attempt that was taken over from it."""
        self._sought[key] = found
        self._woken.set()

    def drop(self, key: Key) -> None:
        """Forgets an attempt that is over."""
        self._sought.pop(key, None)
        self._known.pop(key, None)
        self._unwritten.pop(key, None)

    def keep(self, keys: Iterable[Key]) -> None:
        """Forgets all other attempts: an earlier life has seen them end."""
        self._known = {key: self._known[key] for key in keys if key in self._known}

    async def report(self, record: ProgressRecord) -> ProgressRecord:
        """Keeps a report, and returns what is known once that is durable.

        Raises:
            StoreError: It could not be written; it is tried again with the next one.
        """
        key = key_of(record)
        known = merged(self._known.get(key), record)
        self._known[key] = self._unwritten[key] = known
        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
        self._woken.set()
        await asyncio.shield(self._written)
        return known

    async def run(self) -> None:
        """Writes what was reported, until cancelled.

        Raises:
            StoreFencedError: Another coordinator is in charge.
        """
        while True:
            await self._woken.wait()
            self._woken.clear()
            if self._sought:
                await self._find()
            if not self._unwritten and self._written is None:
                continue
            records, written = self._unwritten, self._written
            self._unwritten, self._written = {}, None
            try:
                await self._store.note_progress(list(records.values()))
            except StoreFencedError:
                raise  # another coordinator is in charge: this one must not go on
            except StoreError as error:
                log.warning("progress.not_written", extra={"error": str(error)})
                self._unwritten = records | self._unwritten
                self._answer(written, error)
            else:
                self._answer(written, None)

    async def _find(self) -> None:
        """Tells what was kept of attempts that were taken over, unless more was said since."""
        try:
            kept = {key_of(record): record for record in await self._store.progress()}
        except StoreError as error:
            log.warning("progress.not_read", extra={"error": str(error)})
            asyncio.get_running_loop().call_later(SEEK_AGAIN_S, self._woken.set)
            return
        sought, self._sought = self._sought, {}
        for key, found in sought.items():
            if key in kept and key not in self._known:
                self._known[key] = kept[key]
                found(kept[key])

    @staticmethod
    def _answer(written: asyncio.Future[None] | None, error: StoreError | None) -> None:
        if written is None or written.done():
            return
        if error is None:
            written.set_result(None)
        else:
            written.set_exception(error)
            written.exception()  # those who wait take it; there may be none any more


def key_of(record: ProgressRecord) -> Key:
    """Returns the attempt that a record is about."""
    return record.workflow_id, record.task, record.number


def merged(known: ProgressRecord | None, said: ProgressRecord) -> ProgressRecord:
    """Returns what is known once something was said: less than before is not believed."""
    if known is None or known.unit != said.unit or said.done >= known.done:
        return said
    return ProgressRecord(
        workflow_id=said.workflow_id,
        task=said.task,
        number=said.number,
        done=known.done,
        total=known.total,
        unit=known.unit,
        message=said.message,
    )
