"""What an agent does first: finds out what its journal left open, and sweeps what is nobody's.

It sweeps again every few minutes: what could not be removed when its attempt ended, since the disk
did not let it, goes as soon as it can.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial

from agent import attempts
from agent.attempts import AttemptRecord, Event, Kind, State
from agent.closed import ClosedPool
from agent.drivers.driver import Driver
from agent.executors import Executor
from agent.journal import Transaction, Transactor
from countermand.rpc import names
from countermand.rpc.errors import CountermandError

log = logging.getLogger(__name__)

# Nothing that is left half-made harms anybody; it only takes room.
SWEEP_S = 300.0


async def replay(
    journal: Transactor,
    pools: Mapping[str, Driver],
    executor: Executor,
    *,
    now: Callable[[], datetime],
) -> list[AttemptRecord]:
    """Returns the attempts to go on with: actions first, then what makes up for them.

    What never started and is tombstoned is closed here. What was running goes on even if it is
    tombstoned: only its own work knows what it had made, stops at its first step, and sweeps.
    """
    unsettled = await journal.transact(partial(_settle_unstarted, now=now))
    await sweep(journal, pools, executor)
    return sorted(unsettled, key=lambda record: record.kind is Kind.COMPENSATION)


def _settle_unstarted(tx: Transaction, *, now: Callable[[], datetime]) -> list[AttemptRecord]:
    left: list[AttemptRecord] = []
    for record in tx.unsettled():
        if record.state is State.ACCEPTED and record.tombstoned:
            tx.put(attempts.move(record, Event.STOPPED, now=now()))
        elif record.state is State.UNKNOWN:
            left.append(tx.put(attempts.move(record, Event.STARTED, now=now())))
        else:
            left.append(record)
    return left


async def sweep_for_ever(
    journal: Transactor, pools: Mapping[str, Driver], executor: Executor
) -> None:
    """Sweeps every few minutes, until cancelled."""
    while True:
        await asyncio.sleep(SWEEP_S)
        try:
            await sweep(journal, pools, executor)
        except sqlite3.Error:  # the journal cannot be read: nothing is known to be nobody's
            log.exception("journal.failed")


async def sweep(journal: Transactor, pools: Mapping[str, Driver], executor: Executor) -> None:
    """Removes what closed attempts have left half-made."""
    for driver in pools.values():
        if isinstance(driver, ClosedPool):
            continue
        try:
            await _sweep_pool(driver, journal, executor)
        except sqlite3.Error:
            raise
        except Exception:  # one pool's disk or driver keeps us from none of the others
            log.exception("staging.sweep_failed", extra={"pool": driver.config.pool_id})


async def _sweep_pool(driver: Driver, journal: Transactor, executor: Executor) -> None:
    # Listed first, asked second: whatever was begun before the listing is in the journal by then.
    staged = await executor.call(driver.staged)
    if driver.config.read_only:
        return  # asked all the same: a driver may have to let go of what it had open there
    for attempt in staged:
        if names.parse_attempt(attempt) is None:
            continue  # an import's, which may be at work right now: one that succeeds removes it
        if await journal.transact(
            partial(_is_done_with, name=attempt, shared=driver.config.shared)
        ):
            about = {"attempt": attempt, "pool": driver.config.pool_id}
            try:
                await executor.call(partial(driver.discard, attempt))
            except (OSError, CountermandError):  # one that cannot be removed keeps none of the rest
                log.exception("staging.kept", extra=about)
            else:
                log.info("staging.swept", extra=about)


def _is_done_with(tx: Transaction, *, name: str, shared: bool) -> bool:
    """Returns whether nobody works in the staging of an attempt any more."""
    record = tx.get(name)
    if record is None:
        return not shared  # else it may be another agent's
    may_go_on = record.is_open or attempts.can_look_again(record)
    return not may_go_on and not tx.is_made_up_for_now(name)
