"""What counts as progress of an attempt's work."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from agent.attempts import AttemptRecord, Kind, State
from agent.drivers.driver import Step
from agent.running import PASSED_MAX, Running, Slots
from countermand.rpc.errors import Stalled
from tests.agent.requests import attempt_name
from tests.agent.rig import NOW

RECORD = AttemptRecord(
    name=attempt_name("copy"),
    kind=Kind.ACTION,
    request=b"",
    request_hash=b"",
    state=State.RUNNING,
    owner_epoch=1,
    intent_sequence=1,
    create_time=NOW,
)
TIMEOUT = timedelta(seconds=60)


async def keep_note(running: Running, step: Step) -> None:
    """Keeps nothing."""


@pytest.mark.parametrize(
    ("step", "moves"),
    [
        (Step(done=50, total=100), False),  # as far as it was
        (Step(), False),
        (Step(note="note", note_needed=True), False),
        (Step(done=51, total=100), True),
        (Step(done=10, total=100), True),  # reads again what an earlier life had copied
        (Step(done=50, total=100, pulse=1), True),  # of a tool that tells whole percents only
        (Step(pulse=1), True),
        (Step(wait_s=0.1), True),  # keeps to the pool's bandwidth
    ],
    ids=repr,
)
async def test_only_what_moves_on_is_progress(step, moves, monkeypatch):
    now = 0.0
    slept: list[float] = []

    async def sleep(delay_s: float) -> None:
        nonlocal now
        slept.append(delay_s)
        now += delay_s / 2
        running.check(step)
        now += delay_s / 2
        if len(slept) == 2:
            raise asyncio.CancelledError

    monkeypatch.setattr("agent.running.asyncio.sleep", sleep)
    record = replace(RECORD, done_bytes=50, total_bytes=100)
    running = Running(record, monotonic=lambda: now, keep_note=keep_note)
    running.check(Step(done=50, total=100))
    now = 1000.0  # it waited for a slot
    if moves:
        with pytest.raises(asyncio.CancelledError):
            await running.stop_when_still(TIMEOUT)
        assert slept == [60, 30]
    else:
        await running.stop_when_still(TIMEOUT)
        assert slept == [60]
        assert isinstance(running.stop_error, Stalled)


# -- slots --------------------------------------------------------------------------------------


async def ready(slots: Slots, *pools: str) -> list[bool]:
    """Takes a place for one attempt of each pool, or pair of them; returns who has a slot."""
    tickets = [slots.take(frozenset(pool.split("+"))) for pool in pools]
    return [ticket is not None and ticket.ready.done() for ticket in tickets]


async def test_a_slow_pool_does_not_hold_the_slots_of_another():
    slots = Slots(running_max=4, waiting_max=10, pools_max={"slow": 1})
    names = ("slow", "slow", "slow", "fast", "fast")
    assert await ready(slots, *names) == [True, False, False, True, True]
    assert slots.running_in == {"slow": 1, "fast": 2}


async def test_whoever_waits_for_a_pool_is_served_in_order():
    slots = Slots(running_max=4, waiting_max=10, pools_max={"slow": 1})
    first, second, third = (slots.retake(frozenset({"slow"})) for _ in range(3))
    second.leave()  # out of the queue
    first.leave()
    assert third.ready.done()
    third.leave()
    assert slots.running_in["slow"] == 0


async def test_the_queue_is_bounded_whatever_it_waits_for():
    slots = Slots(running_max=4, waiting_max=1, pools_max={"slow": 1})
    assert [slots.take(frozenset({"slow"})) is None for _ in range(3)] == [False, False, True]
    assert slots.take(frozenset({"fast"})) is not None


async def test_who_needs_two_pools_is_not_passed_for_ever():
    """Others keep one of them or the other full all the time."""
    slots = Slots(running_max=4, waiting_max=1000, pools_max={"a": 1, "b": 1})
    held = {pool: slots.retake(frozenset({pool})) for pool in "ab"}
    both = slots.retake(frozenset({"a", "b"}))
    passes = 0
    while True:
        pool = "ab"[passes % 2]
        after = slots.retake(frozenset({pool}))
        held.pop(pool).leave()
        if not after.ready.done():
            break
        held[pool] = after
        passes += 1
    assert passes == PASSED_MAX
    [last] = held.values()
    last.leave()
    assert both.ready.done()
