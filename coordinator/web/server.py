"""Runs the page in the coordinator's process: uvicorn on the loop that serves gRPC too.

Signals stay the coordinator's. Streams end when they are told that it stops, and so does everything
else soon after; an end takes less than a second however slowly somebody reads.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn

from coordinator.web.address import Beside, WebSettings
from coordinator.web.app import make_app
from coordinator.web.calls import Calls
from coordinator.web.connections import connection_of, named
from coordinator.web.site import Site, SystemClock

# After that, whoever still reads is cut off. uvicorn adds up to two tenths.
STOP_S_MAX = 0.5
KEEP_ALIVE_S = 30  # a person reads a page for longer, and a new connection costs nothing here


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
    logging.getLogger("uvicorn.error").addFilter(named)
    limits = settings.limits
    async with Calls(coordinator) as calls:
        site = Site(calls=calls, clock=SystemClock(), stop=stop, settings=settings)
        await asyncio.to_thread(site.read_templates)  # workflows go on meanwhile
        app = make_app(site, beside)
        server = _Server(
            uvicorn.Config(
                app,
                http=connection_of(limits),
                ws="none",
                lifespan="off",
                log_config=None,  # ours stays as it is
                log_level="warning",  # that it has started is ours to say
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,  # there is none: whoever sends such headers makes them up
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_S_MAX,  # type: ignore[arg-type]  # it may be less
                limit_concurrency=limits.connections,
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
