"""What a form must prove before it changes anything: that our own page has sent it.

Each browser has a random name of its own in a cookie, and each form the seal of that name, made
with a key of this life of the coordinator. A page of somebody else's can send neither: it may not
read ours, nor set what the seal is made of. And whence a form comes, its browser says.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

COOKIE: Final = "countermand-browser"
TOKEN: Final = "token"  # noqa: S105 - the name of a field
NAME_BYTES: Final = 24
BODY_BYTES_MAX: Final = 256 * 1024  # as much as a request of the contract
FIELDS_MAX: Final = 2000
FORM: Final = "application/x-www-form-urlencoded"


class RefusedError(Exception):
    """A form that may not be ours, with what is to be said about it."""


class TooLargeError(Exception):
    """A form with more in it than any request may have."""


class Seals:
    """Makes and checks what is in every form."""

    def __init__(self, key: bytes | None = None) -> None:
        """Makes a key: a form from before a restart is shown again, and sent again."""
        self._key = key or secrets.token_bytes(32)

    def of(self, browser: str) -> str:
        """Returns the seal of a browser's name."""
        return hmac.new(self._key, browser.encode(), sha256).hexdigest()

    def check(self, request: Request, typed: Mapping[str, str]) -> bool:
        """Returns whether a form carries the seal of the browser that sends it."""
        browser = request.cookies.get(COOKIE, "")
        given = typed.get(TOKEN, "")
        return bool(browser) and hmac.compare_digest(self.of(browser).encode(), given.encode())


def browser_of(request: Request) -> str:
    """Returns the name of a browser, or a new one. Ports share cookies: one name does for all."""
    known = request.cookies.get(COOKIE, "")
    fits = len(known) == len(_new()) and all(c.isalnum() or c in "-_" for c in known)
    return known if fits else _new()


def _new() -> str:
    return secrets.token_urlsafe(NAME_BYTES)


def keep(response: Response, browser: str) -> None:
    """Has the browser keep its name until it is closed: for no script, and to no other site."""
    response.set_cookie(COOKIE, browser, path="/", httponly=True, samesite="strict")


def check_origin(request: Request) -> None:
    """Raises RefusedError for what a browser sends on behalf of another page."""
    origin = request.headers.get("origin")
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    if origin is not None and origin.lower() != own.lower():
        raise RefusedError(f"it was sent by {origin[:100]}, and this page is {own}")
    site = request.headers.get("sec-fetch-site", "same-origin")
    if site not in {"same-origin", "none"}:
        raise RefusedError(f"it was sent from another site ({site[:20]})")


async def typed_in(request: Request) -> dict[str, str]:
    """Returns what was typed into a form, the last of each name.

    Raises:
        RefusedError: It is no form.
        TooLargeError: There is too much of it.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise RefusedError(f"it is no form: send {FORM}")
    try:
        body = await bounded(request, BODY_BYTES_MAX)
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX)
    except UnicodeDecodeError:
        raise RefusedError("it is no text") from None
    except ValueError:
        raise TooLargeError from None
    # Lines of a text field come as browsers write them; people mean plain ones.
    return {name: value.replace("\r\n", "\n") for name, value in pairs}


async def bounded(request: Request, bytes_max: int) -> bytes:
    """Returns what was sent, and reads no more of it than may be.

    Raises:
        TooLargeError: There is more.
    """
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > bytes_max:
                raise TooLargeError
    except ClientDisconnect:
        raise RefusedError("it ended before it was whole") from None
    return bytes(body)
