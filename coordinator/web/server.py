"""Runs the page in the coordinator's process: uvicorn on the loop that serves gRPC too.

Signals stay the coordinator's. Streams end when they are told that it stops; an end takes at most
`STOP_S_MAX` however slowly somebody reads.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn

from coordinator.web.address import Beside, WebSettings
from coordinator.web.app import make_app
from coordinator.web.calls import Calls
from coordinator.web.site import Site, SystemClock

STOP_S_MAX = 1  # after that, whoever still reads is cut off
KEEP_ALIVE_S = 30  # a person reads a page for longer, and a new connection costs nothing here
CONNECTIONS_MAX = 200  # beyond that 503: people and a scraper, never a fleet


class _Server(uvicorn.Server):
    """A server that leaves signals to the coordinator."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


async def serve(
    listening: socket.socket,
    coordinator: str,
    settings: WebSettings,
    stop: asyncio.Event,
    beside: Beside,
) -> None:
    """Serves pages until told to stop."""
    async with Calls(coordinator) as calls:
        site = Site(calls=calls, clock=SystemClock(), stop=stop, settings=settings)
        await asyncio.to_thread(site.read_templates)  # workflows go on meanwhile
        app = make_app(site, beside)
        server = _Server(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,  # ours stays as it is
                log_level="warning",  # that it has started is ours to say
                access_log=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_S_MAX,
                limit_concurrency=CONNECTIONS_MAX,
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[listening]), name="uvicorn")
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            server.should_exit = True
            with suppress(asyncio.CancelledError):
                await serving
