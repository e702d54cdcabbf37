"""Looks that several people watch: each is read and drawn once, however many there are.

Whoever is slow is sent the newest look next, and never one that is older: nothing is kept for it.
When the last one has gone, so has whatever drew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from coordinator.web import frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at something that moves."""

    text: str
    sequence: int  # up to which it is true
    is_last: bool = False  # what it shows has settled


Looks = Callable[[], AsyncGenerator[Look]]


class Shared:
    """The streams of one page's coordinator, by what they show."""

    def __init__(self, stop: asyncio.Event) -> None:
        """Shows nothing yet."""
        self._stop = stop
        self._shows: dict[str, _Show] = {}

    async def watch(self, what: str, looks: Looks, seen: int = 0) -> AsyncGenerator[bytes]:
        """Yields what to send to one who watches, and has seen as much; until it is over."""
        show = self._shows.get(what)
        if show is None or show.is_over:
            show = self._shows[what] = _Show(looks())
        show.watchers += 1
        try:
            async with aclosing(show.frames(seen, self._stop)) as frames_:
                async for each in frames_:
                    yield each
        finally:
            show.watchers -= 1
            if not show.watchers:
                if self._shows.get(what) is show:
                    del self._shows[what]  # before anything is waited for: nobody joins it now
                await show.end()


class _Show:
    """Draws looks one after the other, and keeps the last."""

    def __init__(self, looks: AsyncGenerator[Look]) -> None:
        self.watchers = 0
        self._looks = looks
        self._last = b""
        self._number = 0  # of the last, from 1
        self._sequence = 0
        self._settled = False
        self._moved = asyncio.Event()
        self._drawing = asyncio.create_task(self._draw(), name="web.looks")

    @property
    def is_over(self) -> bool:
        """Returns whether nothing will come any more."""
        return self._drawing.done()

    async def end(self) -> None:
        """Stops drawing."""
        self._drawing.cancel()
        await asyncio.gather(self._drawing, return_exceptions=True)

    async def _draw(self) -> None:
        text = None
        async with aclosing(self._looks) as looks:
            async for look in looks:
                if look.text != text:
                    text = look.text
                    self._last = frames.frame(text, look.sequence)
                    self._number, self._sequence = self._number + 1, look.sequence
                    self._tell()
                if look.is_last:
                    self._settled = True
                    return

    def _tell(self) -> None:
        """Wakes everybody who waits for what comes after the look before."""
        self._moved.set()
        self._moved = asyncio.Event()

    async def frames(self, seen: int, stop: asyncio.Event) -> AsyncGenerator[bytes]:
        """Yields what one reader has not been sent."""
        sent = 0
        while not stop.is_set():
            moved = self._moved
            if self._number > sent:
                # What a page was drawn with is not sent to it once more.
                is_news = sent or not seen or self._sequence > seen
                sent = self._number
                if is_news:
                    yield self._last
            elif self.is_over:
                await self._drawing  # if it has failed, so has the stream
                if self._settled:
                    yield frames.said("settled")
                return
            elif not await self._moves(moved, stop):
                yield frames.ALIVE

    async def _moves(self, moved: asyncio.Event, stop: asyncio.Event) -> bool:
        """Returns whether anything has happened; not after `ALIVE_S` of silence."""
        waits = {asyncio.ensure_future(each.wait()) for each in (moved, stop)}
        try:
            done, _ = await asyncio.wait(
                {*waits, self._drawing},
                timeout=frames.ALIVE_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            for each in waits:
                each.cancel()
        return bool(done)
