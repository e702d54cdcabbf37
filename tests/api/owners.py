"""Owners of external tasks as our client makes them, and the loop that they serve in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from countermand.client.external import Handler, Owner


@asynccontextmanager
async def serving(owner: Owner, **handlers: Handler) -> AsyncIterator[None]:
    """Serves while the block runs."""
    task = asyncio.create_task(owner.serve(handlers))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
