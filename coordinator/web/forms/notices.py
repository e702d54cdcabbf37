"""A word about what was just done, on the page that one is led to: fixed texts, by their keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.requests import Request

NOTICES: Final[Mapping[str, str]] = {
    "paused": "Your pause was taken. Attempts in flight end by themselves.",
    "resumed": "Your decisions were taken, and it goes on.",
    "cancelled": "Your cancel was taken. What it did is made up for.",
    "forked": "Forked: this is the new workflow.",
    "told": "Ended, as you said in its owner's place.",
    "ended": "Ended by force: it is removed once every webhook was told.",
    "retried": "Your decision about the compensation was taken.",
    "replaced": "Your replacement was taken: it is sent instead of the compensation.",
    "fenced": "Another host was asked to settle the attempt: its answer decides.",
    "drained": "Drained, as you asked: it gets no new tasks.",
    "undrained": "The drain was taken back: it gets tasks again.",
    "accepted": "Accepted as it is.",
    "added": "Added: it gets tasks once it is ready.",
    "removed": "Removed. What was done to it stays in the audit.",
    "called": "Its receiver is called at once.",
    "already": "This form had been sent before: nothing was sent again.",
}


def of(request: Request) -> str:
    """Returns what is to be said on a page."""
    return NOTICES.get(request.query_params.get("done", ""), "")
