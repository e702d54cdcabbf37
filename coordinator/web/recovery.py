"""Whether the database went back in time: a word on every page, until an operator has looked.

Asked at most every second or so, and never for long: a page is drawn without it as well.
"""

from __future__ import annotations

import asyncio
import math
from typing import Final

from coordinator.web.calls import Calls
from countermand.rpc.errors import CountermandError
from countermand.v1.coordinator_pb2 import Recovery

KEPT_S: Final = 2.0
ANSWER_S: Final = 1.0


class Recoveries:
    """What the coordinator last said of it."""

    def __init__(self, calls: Calls) -> None:
        """Has not asked yet."""
        self._calls = calls
        self._known: Recovery | None = None
        self._ask_again = -math.inf

    async def now(self) -> Recovery | None:
        """Returns why nothing is decided; None if all is well, or nothing is known."""
        clock = asyncio.get_running_loop()
        if clock.time() >= self._ask_again:
            self._ask_again = clock.time() + KEPT_S  # others do not ask meanwhile
            try:
                self._known = await self._calls.recovery(timeout_s=ANSWER_S)
            except CountermandError:
                self._known = None  # the page itself says what is wrong
        return self._known
