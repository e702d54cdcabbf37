"""Answers whoever scrapes: `/metrics`, as an ASGI application that the web page's port mounts.

Numbers are taken on the loop, which takes about a millisecond; the text is drawn in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from coordinator.metrics.reading import Subject, read
from coordinator.metrics.table import TABLE
from countermand.rpc import metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Page:
    """The page of metrics."""

    def __init__(self, subject: Subject) -> None:
        """Keeps what it is about."""
        self._subject = subject
        self._turn = asyncio.Lock()  # who asks too often waits

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI asks
        """Answers one request."""
        assert scope["type"] == "http", scope["type"]
        accept = ",".join(str(v, "latin-1") for k, v in scope["headers"] if k == b"accept")
        async with self._turn:
            reading = await read(self._subject)
            body, content_type = await asyncio.to_thread(metrics.page, TABLE, reading, accept)
        headers = [
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        shown = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": shown})
