"""How often and how long one caller asks again, and whom.

Where there are several coordinators the next is asked at once; who waits, waits once all of them
have been asked.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random

from grpc import StatusCode

from countermand.rpc import status
from countermand.rpc.addresses import together
from countermand.rpc.errors import (
    Busy,
    CoordinatorUnavailable,
    CountermandError,
    HostUnreachable,
    NoCoordinatorAnswers,
    WatcherTooSlow,
)

log = logging.getLogger(__name__)

# A restart takes a second or two; the first try again should not wait for the last.
RETRY_DELAY_S = 0.1
RETRY_DELAY_S_MAX = 5.0
# After a failure longer ago than this, others are asked at once again: a watch that is cut as soon
# as it has begun, wherever it begins, must not be asked for in a ring.
MOVES_AGAIN_S = 1.0

# Whether it is over or was never heard is not known: ask again where asking is harmless.
_WORTH_ASKING_AGAIN = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)


class Patience:
    """How often and how long one caller asks again."""

    def __init__(
        self,
        limit_s: float,
        randomness: random.Random,
        *,
        others: int = 0,
        bears_with: tuple[type[CountermandError], ...] = (),
    ) -> None:
        """Starts with no failure seen.

        Args:
            limit_s: How long to ask again, once everybody was asked.
            randomness: Where jitter comes from.
            others: How many others can be asked at once.
            bears_with: What is waited for besides.
        """
        self._limit_s = limit_s
        self._random = randomness
        self._others = others
        self._bears_with: tuple[type[CountermandError], ...] = (Busy, WatcherTooSlow, *bears_with)
        self._moves = others
        self._said: dict[str, str] = {}  # by address, what was said there last
        self._failed_at = -math.inf
        self._told = False
        self.failures = 0
        self.reset()

    def reset(self) -> None:
        """Forgets the failures: something worked."""
        self._delay_s = RETRY_DELAY_S
        self._give_up_at: float | None = None
        if self._moves < self._others and _now() - self._failed_at > MOVES_AGAIN_S:
            self._forget_who_failed()

    def has_news(self) -> None:
        """Forgets the failures, however young: what has come does not come again."""
        self.reset()
        self._forget_who_failed()

    def _forget_who_failed(self) -> None:
        self._moves = self._others
        self._said.clear()

    @property
    def is_last(self) -> bool:
        """Returns whether nobody else is asked at once if the next call fails."""
        return not self._moves

    async def wait_or_raise(self, error: CountermandError) -> None:
        """Waits before the next try, or raises the error if asking again is no use."""
        self.failures += 1
        if isinstance(error, HostUnreachable):
            raise error  # the coordinator has answered: its host does not
        if not (isinstance(error, self._bears_with) or error.code in _WORTH_ASKING_AGAIN):
            raise error
        if self._moves_on(error):
            return
        delay_s = self._delay_after(error)
        now = _now()
        if self._give_up_at is None:
            self._give_up_at = now + self._limit_s
            if self._limit_s > 0 and not self._told:
                self._told = True  # once: somebody wonders why nothing happens
                log.info(
                    "client.waits", extra={"reason": error.reason, "patience_s": self._limit_s}
                )
        if now + delay_s > self._give_up_at:
            error = self.all_said(error)
            if self._limit_s > 0:
                error.add_note(
                    f"Asked again and again for {self._limit_s:g} s, the patience given."
                )
            raise error
        await asyncio.sleep(delay_s)

    def _delay_after(self, error: CountermandError) -> float:
        if isinstance(error, Busy):
            return error.retry_delay.total_seconds()
        if isinstance(error, WatcherTooSlow):
            return 0.0
        # Half of it at random: a thousand clients must not come back in one instant.
        delay_s = self._delay_s * (0.5 + self._random.random() / 2)
        self._delay_s = min(self._delay_s * 2, RETRY_DELAY_S_MAX)
        return delay_s

    def _moves_on(self, error: CountermandError) -> bool:
        """Notes who has said what; returns whether another is to be asked at once."""
        if error.asked_at is None:
            return False
        self._said[error.asked_at] = _words(error)
        self._failed_at = _now()
        if not self._moves:
            return False
        self._moves -= 1
        return True

    def all_said(self, error: CountermandError) -> CountermandError:
        """Returns the last error, or one that tells what each of several has said."""
        if len(self._said) <= 1:
            return error
        asked, tried = together([*self._said]), "; ".join(map(": ".join, self._said.items()))
        if isinstance(error, CoordinatorUnavailable):
            return NoCoordinatorAnswers(address=asked, tried=tried)
        if error.code is not StatusCode.DEADLINE_EXCEEDED:
            error.add_note(f"Asked were {tried}.")
            return error
        message = (
            f"No coordinator answered in time: {tried}. "
            "What was asked may have happened all the same: look before asking again."
        )
        return status.RemoteError(
            code=error.code, reason=error.reason, message=message, metadata={"address": asked}
        )


def _words(error: CountermandError) -> str:
    if isinstance(error, CoordinatorUnavailable):
        return error.metadata.get("why", "does not answer")
    if isinstance(error, status.RemoteError) and error.code is StatusCode.DEADLINE_EXCEEDED:
        return "did not answer in time"
    return f"{error.message.rstrip('.')} ({error.reason})"


def _now() -> float:
    return asyncio.get_running_loop().time()
