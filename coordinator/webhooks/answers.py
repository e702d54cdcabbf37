"""What an answer of a receiver means: taken, to be tried again, or gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from coordinator.runtime.webhooks import Answer
from coordinator.wire.failure import failure_from_proto
from countermand.rpc.errors import (
    CountermandError,
    ReceiverGone,
    ReceiverRefused,
    ReceiverUnreachable,
)

RETRY_AFTER_MAX = timedelta(days=1)  # a receiver that means longer says 410
SAID_CHARACTERS_MAX = 200  # of its words: enough for the reason, not for its page

NO_TIME = timedelta(0)

_RETRY_S = 0.5
_RETRY_S_MAX = 60.0  # a receiver that comes back is told within a minute


def answered(
    status: int, *, said: str, location: str, retry_after: str, took: timedelta, now: datetime
) -> Answer:
    """Returns what came of a call that was answered."""
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return Answer(status=status, failure=None, took=took)
    error: CountermandError = ReceiverRefused(answer=_words(status, said, location))
    gone = status == HTTPStatus.GONE
    if gone:
        error = ReceiverGone()
    return Answer(
        status=status,
        failure=failure_from_proto(error.failure()),
        took=took,
        retry_after=_span(retry_after, now),
        gone=gone,
    )


def unanswered(why: str, took: timedelta) -> Answer:
    """Returns what came of a call that was not answered."""
    error = ReceiverUnreachable(why=why)
    return Answer(status=0, failure=failure_from_proto(error.failure()), took=took)


def wait(failures: int, jitter: float, answer: Answer) -> timedelta:
    """Returns how long to wait before the next try: never less than the receiver asks for."""
    # The exponent is bounded: a receiver may be away for a year.
    longest_s = min(_RETRY_S * 2 ** min(failures - 1, 32), _RETRY_S_MAX)
    # Half of it at random: the webhooks of one receiver should not come in one instant.
    backoff = timedelta(seconds=longest_s * (0.5 + jitter / 2))
    return max(backoff, answer.retry_after or backoff)


def _words(status: int, said: str, location: str) -> str:
    """Returns an answer in words, with what it says of itself."""
    try:
        phrase = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = str(status)
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        to = f" to {_printable(location)}" if location else ""
        return f"{phrase}, a redirect{to}, which is not followed"
    said = _printable(said)
    return f"{phrase}, {said!r}" if said else phrase


def _printable(text: str) -> str:
    """Returns a stranger's text as it may be shown on a terminal: in one line, and bounded."""
    shown = "".join(each if each.isprintable() else " " for each in text[:SAID_CHARACTERS_MAX])
    return " ".join(shown.split())


def _span(retry_after: str, now: datetime) -> timedelta | None:
    """Returns how long a receiver asks to be left alone: seconds, or until a date."""
    text = retry_after.strip()
    if text.isascii() and text.isdecimal():
        # Of many digits only that they are many counts.
        return min(timedelta(seconds=int(text[:9])), RETRY_AFTER_MAX)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return min(max(until - now, timedelta(0)), RETRY_AFTER_MAX)
