"""A word about what was just done, on the page that one is led to: fixed texts, by their keys."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import Final
from urllib.parse import unquote, urlsplit

from starlette.requests import Request
from starlette.responses import Response

NOTICES: Final[Mapping[str, str]] = {
    "paused": "Your pause was taken. Attempts in flight end by themselves.",
    "resumed": "Your resume was taken.",
    "cancelled": "Your cancel was taken. What it did is made up for.",
    "forked": "Forked: this is the new workflow.",
    "told": "Ended, as you said in its owner's place.",
    "ended": "Ended by force: it is removed once every webhook was told.",
    "retried": "Your decision about the compensation was taken.",
    "replaced": "Your replacement was taken: it is sent instead of the compensation.",
    "fenced": "Another host was asked to settle the attempt: its answer decides.",
    "drained": "Drained, as you asked: it gets no new tasks.",
    "undrained": "Undrained, as you asked: it gets tasks again.",
    "accepted": "Accepted as it is.",
    "added": "Added: it gets tasks once it is ready.",
    "removed": "Removed. What was done to it stays in the audit.",
    "called": "Its receiver is called at once.",
    "told-from-now": "Added: its receiver is told from now on, or from where you said.",
    "rotated": "It signs with the new secret; for a day the old one signs as well.",
    "already": "This form had been sent before: nothing was sent again.",
}


COOKIE: Final = "countermand-notice"
KEPT_S: Final = 60  # until one is there: a redirect takes no time


class Notices:
    """Has a word said once, on the page that a form leads to, by a cookie that is for that alone.

    It is no part of the address: whoever loads that again, or is sent it, has done nothing. Sealed
    with a key of this life of the coordinator, since programs on other ports share the cookies.
    """

    def __init__(self) -> None:
        """Makes a key."""
        self._key = secrets.token_bytes(32)

    def leave(self, response: Response, url: str, word: str) -> None:
        """Has a word said where an answer leads."""
        sealed = f"{word}.{self._seal(word, unquote(urlsplit(url).path))}"
        response.set_cookie(COOKIE, sealed, KEPT_S, path="/", httponly=True, samesite="strict")

    def of(self, request: Request) -> str:
        """Returns what is to be said on a page."""
        word, _, seal = request.cookies.get(COOKIE, "").partition(".")
        is_ours = hmac.compare_digest(
            self._seal(word, request.scope["path"]).encode(), seal.encode()
        )
        return NOTICES.get(word, "") if is_ours else ""

    def forget(self, response: Response) -> None:
        """Has it not said again."""
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")

    def _seal(self, word: str, path: str) -> str:
        return hmac.new(self._key, f"{word} {path}".encode(), sha256).hexdigest()[:32]
