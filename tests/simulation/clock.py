"""Virtual time: an event loop that never waits, but moves its clock to the next thing to do.

Everything that runs on it, and waits by asyncio only, is replayed exactly by the same seed.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)


class NothingLeft(Exception):
    """Nobody has anything to do, nor a time to wait for: the cluster would hang for ever."""


class _NoWait(selectors.BaseSelector):
    """Pretends to wait for files; lets the clock jump instead."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._map: dict[object, selectors.SelectorKey] = {}

    def register(self, fileobj: object, events: int, data: object = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, 0, events, data)  # type: ignore[arg-type]
        self._map[fileobj] = key
        return key

    def unregister(self, fileobj: object) -> selectors.SelectorKey:
        return self._map.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingLeft
        self.now_s += max(timeout, 0.0)
        return []

    def get_map(self) -> Mapping[object, selectors.SelectorKey]:  # type: ignore[override]
        return self._map


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time."""

    def __init__(self) -> None:
        """Begins at 0 s."""
        self._virtual = _NoWait()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Returns the virtual time in seconds."""
        return self._virtual.now_s


class VirtualClock:
    """The time of day in the simulation."""

    def __init__(self, loop: VirtualLoop) -> None:
        """Follows a loop."""
        self._loop = loop

    def now(self) -> datetime:
        """Returns the time."""
        return EPOCH + timedelta(seconds=self._loop.time())
