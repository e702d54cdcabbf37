"""Who does not answer a read is left alone for a while, unless it had no time to."""

from __future__ import annotations

import asyncio

from coordinator.api.briefly import Briefly
from countermand.rpc.errors import OwnerUnavailable


async def test_who_had_less_time_than_others_would_have_is_asked_again():
    briefly, asked, now = Briefly(), [], asyncio.get_running_loop().time()

    async def ask(until: float) -> str:
        asked.append(until)
        raise OwnerUnavailable(name="workflows/w", why="a test")

    for until in (now + 0.1, now + 60, now + 60):
        assert await briefly.ask(7, ask, until) is None

    assert len(asked) == 2
