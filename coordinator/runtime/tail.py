"""Has those who watch here hear of what other sessions commit.

The own loop hints what it commits itself. Of what others commit, the history of all tells: it is
read as it grows, only whose it is, and whoever waits for that workflow reads the rest. Where the
store is not shared, nobody needs it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Protocol

from coordinator.runtime.ports import Hints, Store, StoreError, StoreFencedError

log = logging.getLogger(__name__)

LOOK_S = 0.25  # between two looks: watchers see a change within a second
PAGE = 2000  # positions read at a time: about 100 KiB
STORE_AGAIN_S = 0.5  # while it does not answer
FORGET_S = 60.0  # between two looks whether something of what is watched has settled unnoticed


class Topics(Hints, Protocol):
    """Those who wait for changes, and of which workflows something is kept for them."""

    def topics(self) -> list[str]:
        """Returns the ids of workflows that are watched, or of which progress was heard."""


class Tail:
    """Follows what is committed by all sessions."""

    def __init__(self, *, store: Store, hints: Topics, owned: Callable[[str], bool]) -> None:
        """Keeps whom it tells."""
        self._store = store
        self._hints = hints
        self._owned = owned
        self._listeners: list[Callable[[Collection[str]], None]] = []

    def listen(self, hear: Callable[[Collection[str]], None]) -> None:
        """Has somebody told of all workflows that change, own ones among them."""
        self._listeners.append(hear)

    async def run(self) -> None:
        """Goes on until cancelled.

        Raises:
            StoreFencedError: The own session has ended.
        """
        position: int | None = None
        forget_due = 0.0
        while True:
            try:
                if position is None:
                    position = await self._store.position()
                    await self._tell(set(self._hints.topics()))  # who came before the first look
                position = await self._read_on(position)
                if asyncio.get_running_loop().time() >= forget_due:
                    await self._tell_settled(set(self._hints.topics()))
                    forget_due = asyncio.get_running_loop().time() + FORGET_S
            except StoreFencedError:
                raise
            except StoreError as error:
                log.warning("tail.not_read", extra={"error": str(error)})
                await asyncio.sleep(STORE_AGAIN_S)
            await asyncio.sleep(LOOK_S)

    async def _read_on(self, position: int) -> int:
        """Tells of everything after a position, and returns the last."""
        while page := await self._store.moves(after=position, limit=PAGE):
            moved = {workflow_id for workflow_id, _ in page}
            for hear in self._listeners:
                hear(moved)
            await self._tell(moved)
            position = page[-1][1]
            if len(page) < PAGE:
                break
        return position

    async def _tell(self, moved: set[str]) -> None:
        """Says of others' workflows that they have changed, and of which that they have settled."""
        others = {each for each in moved if not self._owned(each)}
        if not others:
            return
        settled = await self._settled(others)
        for workflow_id in others:
            self._hints.committed(workflow_id, settled=workflow_id in settled)

    async def _tell_settled(self, workflow_ids: set[str]) -> None:
        """Says so of those that have settled: progress may be heard after the last change."""
        for workflow_id in await self._settled(workflow_ids):
            self._hints.committed(workflow_id, settled=True)

    async def _settled(self, workflow_ids: set[str]) -> frozenset[str]:
        """Returns those of some workflows for which something is kept that have settled."""
        kept = sorted(workflow_ids.intersection(self._hints.topics()))
        return await self._store.settled(kept) if kept else frozenset()
