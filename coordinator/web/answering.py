"""Sees to it that every request is answered: after a defect, and in time when all is to end.

Stands within what adds headers, and around everything else. What is asked for in pieces must have
come within a while; when the coordinator stops, what is under way may still end by itself, but not
for long.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.web import errors
from coordinator.web.site import Site
from countermand.rpc.errors import Bug, CountermandError, Stopping

log = logging.getLogger(__name__)

GRACE_S: Final = 0.2  # a read takes milliseconds, and a change a commit


class Answering:
    """Stands around the application."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        """Keeps what it stands around."""
        self._app = app
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Has a request answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        bounded = _bounded(receive, self._site.settings.limits.body_s)
        error: CountermandError | None
        try:
            is_done = await self._in_time(scope, bounded, answer)
            error = None if is_done else Stopping()
        except Exception as defect:  # the next one is to be answered all the same
            log.exception("web.request_failed", extra=_about(scope))
            error = Bug(what=type(defect).__name__)
        if error is not None and not answer.has_begun:
            request = Request(scope, bounded)
            await (await errors.told(self._site, request, error))(scope, bounded, send)

    async def _in_time(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Returns whether it was answered, rather than cut off by an end."""
        answering = asyncio.ensure_future(self._app(scope, receive, send))
        stopped = asyncio.ensure_future(self._site.stop.wait())
        try:
            await asyncio.wait({answering, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                await asyncio.wait({answering}, timeout=GRACE_S)
        finally:
            # What has ended by itself is not touched by this.
            stopped.cancel()
            is_cut_off = answering.cancel()
            await asyncio.wait({answering})
        if not is_cut_off:
            await answering  # raises what it has raised
        return not is_cut_off


class _Answer:
    """Sends, and knows whether anything was sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        self.has_begun = True
        await self._send(message)


def _bounded(receive: Receive, body_s: float) -> Receive:
    """Returns what receives a body that must have come by then; else nobody is there any more."""
    until = asyncio.get_running_loop().time() + body_s
    is_whole = False

    async def received() -> Message:
        nonlocal is_whole
        if is_whole:
            return await receive()
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            return {"type": "http.disconnect"}
        is_whole = not message.get("more_body", False)
        return message

    return received


def _about(scope: Scope) -> dict[str, str]:
    return {"method": scope["method"], "path": scope["path"]}
