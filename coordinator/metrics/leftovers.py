"""How many settled workflows still list what they have left, also those of earlier lives.

New ones are seen as they settle. Those of earlier lives are looked for once after the start, behind
everything else; of all of them it is asked now and then whether they are still stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from coordinator.runtime.ports import StoreError
from countermand.rpc.errors import CountermandError

log = logging.getLogger(__name__)

PIECE = 2000  # settled workflows that are looked at in one read: some ten milliseconds of a thread
REST_S = 0.05  # between two of them: a million take half a minute, and others hardly notice
STORED_S = 60.0  # removed ones count for so long at most
STORED_MAX = 500  # asked about at a time
AGAIN_S = 5.0  # after the store has failed, or had too much to do


class Settled(Protocol):
    """What is needed of the store."""

    async def left_by(self, *, after: int, limit: int) -> tuple[list[str], int]:
        """Returns the workflows among the next so many that have left something, and where next."""

    async def stored(self, workflow_ids: Sequence[str]) -> frozenset[str]:
        """Returns those of some workflows that have not been removed."""


class Leftovers:
    """Keeps the ids of settled workflows that have left something up to date."""

    def __init__(self, store: Settled, left_by: dict[str, None]) -> None:
        """Shares the ids with whoever sees workflows settle."""
        self._store = store
        self._left_by = left_by
        self.complete = False  # whether those of earlier lives are all among them

    async def run(self) -> None:
        """Looks for them, and then after them, until cancelled."""
        after, complete = 0, False
        while True:
            try:
                if complete:
                    await self._forget_removed()
                    await asyncio.sleep(STORED_S)
                    continue
                found, after = await self._store.left_by(after=after, limit=PIECE)
            except (CountermandError, StoreError) as error:
                log.info("leftovers.wait", extra={"error": str(error)})
                await asyncio.sleep(AGAIN_S)
                continue
            self._left_by.update(dict.fromkeys(found))
            complete = self.complete = after == 0
            await asyncio.sleep(REST_S)

    async def _forget_removed(self) -> None:
        asked: list[str] = []
        known = iter(tuple(self._left_by))
        while asked := list(islice(known, STORED_MAX)):
            there = await self._store.stored(asked)
            for workflow_id in asked:
                if workflow_id not in there:
                    del self._left_by[workflow_id]
