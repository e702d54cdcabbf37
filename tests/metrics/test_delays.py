"""What holds up the event loop is seen."""

from __future__ import annotations

import asyncio
import time

from coordinator.metrics.delays import watch_for_ever
from countermand.rpc.metrics import Histogram


class Noted(Histogram):
    """Tells whoever waits for it what was observed last."""

    def __init__(self) -> None:
        super().__init__((0.2,))
        self.observed: asyncio.Queue[float] = asyncio.Queue()

    def observe(self, value: float) -> None:
        super().observe(value)
        self.observed.put_nowait(value)


async def test_what_holds_up_the_event_loop_is_noted():
    delays = Noted()
    watching = asyncio.create_task(watch_for_ever(delays))
    await delays.observed.get()
    asyncio.get_running_loop().call_soon(time.sleep, 0.5)  # what nobody should do there
    while await delays.observed.get() <= 0.2:
        pass
    watching.cancel()
    assert delays.counts[1] >= 1
