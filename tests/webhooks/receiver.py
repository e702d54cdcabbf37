"""A receiver of webhooks: a real HTTP server that checks everything it is sent.

It reads events with the CloudEvents SDK, and signatures with the Standard Webhooks library: what
does not check out is answered 401 and counts as refused. How it answers what does is scripted.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from standardwebhooks import Webhook, WebhookVerificationError

TIMEOUT_S = 30.0
SECRET = "whsec_" + "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"


@dataclass(slots=True)
class Receiver:
    """What was sent to it, and what it says to that."""

    secret: str = SECRET
    url: str = ""
    calls: int = 0
    taken: list[BaseCloudEvent] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)
    bodies: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    # What it answers next, with further headers; then 204 for ever.
    answers: deque[tuple[int, dict[str, str]]] = field(default_factory=deque)
    # Answers nothing while it is not set.
    open: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def types(self) -> list[str]:
        """Returns the types of what it has taken, in order."""
        return [event.get_type().removeprefix("io.countermand.") for event in self.taken]

    @property
    def ids(self) -> list[str]:
        """Returns the ids of what it has taken, in order."""
        return [event.get_id() for event in self.taken]

    @property
    def positions(self) -> list[int]:
        """Returns the positions of what it has taken, each once, in order of arrival."""
        return list(dict.fromkeys(position(event) for event in self.taken))

    async def until(self, condition) -> None:
        """Returns once a condition about it holds."""
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def answer(self, request: web.Request) -> web.Response:
        """Takes one event, or refuses it."""
        body = await request.read()
        self.calls += 1
        self._changed.set()
        await self.open.wait()
        status, headers = self.answers.popleft() if self.answers else (204, {})
        if status >= 300:
            self._changed.set()
            return web.Response(status=status, headers=headers, text="not now\x1b[31m")
        try:
            Webhook(self.secret).verify(body, dict(request.headers))
        except WebhookVerificationError:
            self.refused.append(body)
            self._changed.set()
            return web.Response(status=401, text="bad signature")
        self.bodies.append((dict(request.headers), body))
        self.taken.append(from_structured_event(HTTPMessage(dict(request.headers), body)))
        self._changed.set()
        return web.Response(status=status)


def data_of(event: BaseCloudEvent) -> dict[str, Any]:
    """Returns what an event holds."""
    data = event.get_data()
    assert isinstance(data, dict), data
    return data


def position(event: BaseCloudEvent) -> int:
    """Returns the position that an event tells; 0 of one that has none."""
    return int(data_of(event).get("event", {}).get("position", 0))


@asynccontextmanager
async def receiver(
    *, port: int = 0, tls: ssl.SSLContext | None = None, **given
) -> AsyncIterator[Receiver]:
    """Yields a receiver that listens."""
    one = Receiver(**given)
    one.open.set()
    app = web.Application()
    app.router.add_post("/events", one.answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    one.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/events"
    try:
        yield one
    finally:
        one.open.set()
        await runner.cleanup()
