"""Server-sent events: the framing, the pace, and an end when the coordinator stops.

A frame carries a look at the whole of what it replaces, with the sequence it is true for: whoever
comes back with that number has missed nothing, and is sent nothing until there is news.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from starlette.requests import Request
from starlette.responses import StreamingResponse

from countermand.rpc.errors import CountermandError

log = logging.getLogger(__name__)

FRAME_S: Final = 0.25  # between two frames: faster than this nobody can read
SHARE_MAX: Final = 0.2  # of the time, that looks at one thing may take
ALIVE_S: Final = 15.0  # a quiet stream says this often that it is there
# Heard by the page's own script, which says so when it stays out.
ALIVE: Final = b": alive\nevent: alive\ndata:\n\n"


class Stream(StreamingResponse):
    """An answer that goes on."""

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[bytes]) -> None:
        """Keeps what it sends."""
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_until_error(frames), headers=headers)


async def _until_error(frames: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Yields what there is: the reader of a stream that ends comes back, and is told why then."""
    async with aclosing(frames):
        try:
            async for each in frames:
                yield each
        except CountermandError as error:
            log.info("web.stream_ended", extra={"reason": error.reason})


def frame(text: str, sequence: int) -> bytes:
    """Returns one message; a browser puts its lines together again."""
    lines = "".join(f"data: {line}\n" for line in text.splitlines())
    return f"id: {sequence}\n{lines}\n".encode()


def said(event: str) -> bytes:
    """Returns a message that is no content, such as that this was all."""
    return f"event: {event}\ndata:\n\n".encode()


def pause_after(took_s: float) -> float:
    """Returns how long to wait after a look: a large workflow is drawn less often than a small."""
    return max(FRAME_S, took_s * (1 / SHARE_MAX - 1))


def last_seen(request: Request) -> int:
    """Returns what a reader has seen: as it says when it comes back, or as its page does."""
    for text in (
        request.headers.get("last-event-id", ""),
        request.query_params.get("after", ""),
    ):
        if text.isascii() and text.isdecimal():
            return int(text[:18])
    return 0


class News:
    """Says that there is something new: heard by one task, waited for by another."""

    def __init__(self, stop: asyncio.Event) -> None:
        """Has heard nothing yet."""
        self._stop = stop
        self._heard = asyncio.Event()
        self.is_over = False  # nothing will come any more

    def tell(self) -> None:
        """Says it."""
        self._heard.set()

    def end(self) -> None:
        """Says that this was all."""
        self.is_over = True
        self._heard.set()

    async def wait(self) -> bool:
        """Returns whether there is news; not after `ALIVE_S` of silence, nor when it is to stop."""
        waits = {asyncio.create_task(self._heard.wait()), asyncio.create_task(self._stop.wait())}
        try:
            await asyncio.wait(waits, timeout=ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        heard = self._heard.is_set()
        self._heard.clear()
        return heard
