"""What an agent does first: finds out what its journal left open, and sweeps what is nobody's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial

from agent import attempts
from agent.attempts import AttemptRecord, Event, Kind, State
from agent.drivers.driver import Driver
from agent.executors import Executor
from agent.journal import Transaction, Transactor

log = logging.getLogger(__name__)

IMPORT_PREFIX = "import/"  # the staging of an image that an administrator brings in


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
    kept = {record.name for record in unsettled}
    for driver in pools.values():
        if driver.config.read_only:
            continue
        try:
            await _sweep(driver, kept, journal, executor)
        except OSError:  # one pool's disk keeps the agent from none of the others
            log.exception("staging.sweep_failed", extra={"pool": driver.config.pool_id})
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


async def _sweep(driver: Driver, kept: set[str], journal: Transactor, executor: Executor) -> None:
    for attempt in await executor.call(driver.staged):
        if attempt in kept or attempt.startswith(IMPORT_PREFIX):
            continue  # an administrator may be importing right now; a repeat begins anew
        known = await journal.transact(partial(_is_known, name=attempt))
        if driver.config.shared and not known:
            continue  # it may be another agent's
        await executor.call(partial(driver.discard, attempt))
        log.info("staging.swept", extra={"attempt": attempt, "pool": driver.config.pool_id})


def _is_known(tx: Transaction, *, name: str) -> bool:
    return tx.get(name) is not None
