"""Takes the page's address, before anything is taken over, and without what draws pages.

Whoever connects before the pages are imported waits in line. Imports nothing heavy: the coordinator
starts as fast with the page as without.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from countermand.rpc.server import ListenRefused, loopback_host

log = logging.getLogger(__name__)

LISTEN = "127.0.0.1:7780"
OFF = "off"
WAITING_MAX = 128  # connections that are not taken yet

# What else answers on the port, by its path: ASGI applications, such as the metrics.
Beside = Sequence[tuple[str, Callable[..., Awaitable[None]]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of the page anybody may take."""

    connections: int = 200  # beyond that 503: people and a scraper, never a fleet
    calls: int = 100  # of the contract, at once; so pages and scrapes keep as many places
    head_s: float = 10.0  # until a request is whole, without its body
    body_s: float = 10.0  # until its body is
    silent_s: float = 1.0  # and where all places are taken, until one who says nothing gives way


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """What an administrator may say about the page."""

    listen: str = LISTEN
    # Whether somebody asked for that address: then a busy port is an error, else a warning.
    asked_for: bool = False
    # Where a workflow's trace is seen; "{trace_id}" stands for its id.
    trace_url: str = ""
    limits: Limits = Limits()


def take_address(settings: WebSettings) -> socket.socket | None:
    """Returns a socket that listens; None where there is to be no page.

    Raises:
        ListenRefused: The address is none, is not loopback, or is taken although it was asked for.
    """
    if settings.listen == OFF:
        return None
    host = loopback_host(settings.listen).strip("[]")
    port = int(settings.listen.rpartition(":")[2])
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=WAITING_MAX)
    except OSError as error:
        if settings.asked_for:
            raise ListenRefused(
                f"cannot serve the web page on {settings.listen}: {error.strerror}. "
                "Choose another address, or none: --web off."
            ) from error
        # Two coordinators on one machine are no mistake, and a page is no reason not to start.
        log.warning("web.unavailable", extra={"address": settings.listen, "error": str(error)})
        return None
    # Those it accepts inherit it. asyncio would see to it, but not where the protocol is left to
    # the kernel: the body of each answer then waited 40 ms for a reader's delayed acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def url_of(listening: socket.socket) -> str:
    """Returns where the page is."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(
    listening: socket.socket,
    coordinator: str,
    settings: WebSettings,
    stop: asyncio.Event,
    beside: Beside = (),
) -> None:
    """Serves the page until told to stop; `coordinator` is the gRPC address that it asks."""
    # In a thread: it takes a fifth of a second, in which workflows go on.
    server = await asyncio.to_thread(import_module, "coordinator.web.server")
    if not stop.is_set():
        await server.serve(listening, coordinator, settings, stop, beside)
