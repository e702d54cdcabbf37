"""Asks other coordinators what a read can do without: briefly, and whoever is away seldom."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from coordinator.api.deciding import ElsewhereError
from coordinator.runtime.ports import StoreError
from countermand.rpc.errors import CallUnsupported, CountermandError, OwnerUnavailable

log = logging.getLogger(__name__)
T = TypeVar("T")

ANSWER_S = 1.0  # a letter takes some hundredths; who reads must not wait for one that is away
AGAIN_S = 10.0  # until a session that has not answered is asked again


class Briefly:
    """Asks sessions, and remembers who has not answered."""

    def __init__(self) -> None:
        """Has asked nobody yet."""
        self._quiet: dict[int, float] = {}  # sessions that have not answered, and until when

    async def ask(
        self, session: int, ask: Callable[[float], Awaitable[T]], until: float
    ) -> T | None:
        """Returns what a session answers until a time of the event loop's clock, at the latest.

        None if it does not say.
        """
        now = asyncio.get_running_loop().time
        if self._quiet.get(session, 0.0) > now():
            return None
        self._quiet.pop(session, None)
        end = now() + ANSWER_S
        try:
            return await ask(min(until, end))
        except OwnerUnavailable:
            if until >= end:  # else it had no time to
                self._leave_alone(session)
        except CallUnsupported:
            self._leave_alone(session)
        except (ElsewhereError, StoreError, CountermandError) as error:
            log.info("session.not_asked", extra={"session": session, "error": str(error)})
        return None

    def _leave_alone(self, session: int) -> None:
        now = asyncio.get_running_loop().time()
        self._quiet = {each: end for each, end in self._quiet.items() if end > now}
        self._quiet[session] = now + AGAIN_S
