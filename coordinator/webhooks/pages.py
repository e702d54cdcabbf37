"""Reads the history for all webhooks: those that ask for the same page share one reading of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.runtime.webhooks import Origin, WebhookStore
from coordinator.webhooks.envelope import Envelope, envelope

PAGE = 200  # events: about 100 KiB
PAGES_MAX = 4  # kept: receivers that keep up ask for the same one, the others for their own
ORIGINS_MAX = 1000  # kept: the events of a workflow come close together


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What follows a position."""

    events: tuple[Envelope, ...]
    end: int  # up to it the page tells all that is still kept
    last: bool  # nothing more was there


class Pages:
    """The history, page by page."""

    def __init__(self, store: WebhookStore, *, cluster_id: str) -> None:
        """Begins with nothing read."""
        self._store = store
        self._cluster_id = cluster_id
        self._read: dict[tuple[int, int], asyncio.Task[Page]] = {}  # the oldest first
        self._origins: dict[str, Origin] = {}  # likewise; they never change

    async def close(self) -> None:
        """Ends what is being read: nobody waits for it any more."""
        for reading in self._read.values():
            reading.cancel()
        await asyncio.gather(*self._read.values(), return_exceptions=True)
        self._read.clear()

    def forget(self) -> None:
        """Reads everything anew from now on; whoever waits for a page gets it."""
        self._read = {place: reading for place, reading in self._read.items() if not reading.done()}

    async def after(self, position: int, hints: int) -> Page:
        """Returns what follows a position.

        Args:
            position: Where to begin.
            hints: How many the reader has seen: what was read before a hint is read again after it.
        """
        reading = self._read.get((position, hints))
        if reading is None:
            while len(self._read) >= PAGES_MAX:
                del self._read[next(iter(self._read))]
            reading = asyncio.create_task(self._page(position), name="webhook-page")
            self._read[position, hints] = reading
        try:
            # Whoever is cancelled meanwhile takes the page from nobody.
            return await asyncio.shield(reading)
        except Exception:  # whatever it was, it goes on upwards: a page that failed is read again
            self._read.pop((position, hints), None)
            raise

    async def _page(self, position: int) -> Page:
        entries = await self._store.events(after=position, limit=PAGE)
        top = position
        if not entries:
            # Nothing new, or all of it removed. The position comes first: what is committed after
            # it was read must not be taken for removed.
            top = await self._store.position()
            entries = await self._store.events(after=position, limit=PAGE)
        origins = await self._origins_of({entry.workflow_id for entry in entries})
        events = tuple(
            envelope(self._cluster_id, entry, origins[entry.workflow_id])
            for entry in entries
            if entry.workflow_id in origins  # or it was removed between the two readings
        )
        end = entries[-1].position if entries else top
        return Page(events=events, end=end, last=len(entries) < PAGE)

    async def _origins_of(self, workflow_ids: set[str]) -> Mapping[str, Origin]:
        known = self._origins
        if new := sorted(workflow_ids - known.keys()):
            while len(known) > ORIGINS_MAX:
                del known[next(iter(known))]
            known.update(await self._store.origins(new))
        return {name: known[name] for name in workflow_ids if name in known}
