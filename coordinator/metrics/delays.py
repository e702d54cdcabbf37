"""How late the event loop is: whatever holds it up holds up every call and every decision."""

from __future__ import annotations

import asyncio

from countermand.rpc.metrics import Histogram

LOOK_S = 0.05  # what holds it up for less is felt by nobody


async def watch_for_ever(delays: Histogram) -> None:
    """Asks for its turn again and again, and notes how many seconds late it came."""
    now = asyncio.get_running_loop().time
    while True:
        due = now() + LOOK_S
        await asyncio.sleep(LOOK_S)
        delays.observe(max(0.0, now() - due))
