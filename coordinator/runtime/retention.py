"""Removes what settled long ago, a little at a time: nobody who commits waits long for it."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import Clock, Store, StoreError, StoreFencedError

log = logging.getLogger(__name__)

RETENTION = timedelta(days=30)  # long enough to look into what went wrong last month
RETENTION_MAX = timedelta(days=36_500)  # before the first workflow: the same as for ever

SWEEP_S = 300.0  # a result that stays a few minutes longer harms nobody
BATCH_MAX = 20  # in one transaction: a commit that comes meanwhile waits for some milliseconds
REST_S = 0.05  # between two of them: whoever waits comes first


async def sweep_for_ever(*, store: Store, loop: Loop, clock: Clock, retention: timedelta) -> None:
    """Removes what has expired, now and again, until cancelled.

    Raises:
        StoreFencedError: Another coordinator is in charge.
    """
    while True:
        try:
            await sweep(store=store, loop=loop, clock=clock, retention=retention)
        except StoreFencedError:
            raise
        except StoreError as error:
            log.warning("retention.failed", extra={"error": str(error)})
        await asyncio.sleep(SWEEP_S)


async def sweep(*, store: Store, loop: Loop, clock: Clock, retention: timedelta) -> int:
    """Removes every workflow that settled longer ago than the retention; returns how many."""
    before = clock.now() - retention
    removed = 0
    while found := await store.expire(before=before, limit=BATCH_MAX):
        removed += found
        if found < BATCH_MAX:
            break
        await asyncio.sleep(REST_S)
    loop.forget_settled(before)
    if removed:
        log.info("retention.removed", extra={"workflows": removed})
    return removed
