"""What every request and answer passes: whose name was asked for, and what a browser may do.

A page on loopback can be asked for under any name that resolves to it, also by a page of somebody
else's: only this machine's own names are answered, which nobody else can give out. Scripts, styles
and forms are our own.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS_MAX: Final = 64  # names that are remembered, with whether they are ours

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guards:
    """Stands around the application."""

    def __init__(self, app: ASGIApp) -> None:
        """Keeps what it stands around."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers what asked for us, with headers that keep a browser in bounds."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")  # what is shown is of now
            await send(message)

        if _is_ours(_host(scope)):
            await self._app(scope, receive, guarded)
            return
        said = "This page answers to localhost, 127.0.0.1 and other loopback addresses only.\n"
        await PlainTextResponse(said, status_code=421)(scope, receive, guarded)


@lru_cache(HOSTS_MAX)
def _is_ours(host: str) -> bool:
    """Returns whether a name can only mean this machine: an address is nobody's to give out."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _host(scope: Scope) -> str:
    """Returns the name that was asked for, without its port."""
    for name, value in scope["headers"]:
        if name == b"host":
            text = str(value, "latin-1").lower()
            return text.rpartition(":")[0] if ":" in text.rpartition("]")[2] else text
    return ""
