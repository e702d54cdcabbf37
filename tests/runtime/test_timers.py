"""The times that workflows wait for, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from coordinator.runtime.timers import Timers
from coordinator.saga.commands import SetTimer, Timer
from coordinator.saga.events import TimerFired
from tests.simulation.clock import EPOCH, VirtualClock, VirtualLoop

Said = list[tuple[float, str, TimerFired]]


@pytest.fixture
def virtual() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


def after(seconds: float, timer: Timer = Timer.DUE, task: int = 1, number: int = 1) -> SetTimer:
    return SetTimer(timer=timer, task=task, number=number, time=EPOCH + timedelta(seconds=seconds))


def told(virtual: VirtualLoop, wanted: list[tuple[str, SetTimer]], until_s: float) -> Said:
    """Returns what is said, and when, of timers that are set at the beginning."""
    said: Said = []

    async def story() -> None:
        timers = Timers(
            clock=VirtualClock(virtual),
            say=lambda workflow, fired: said.append((virtual.time(), workflow, fired)),
        )
        for workflow_id, command in wanted:
            timers.set(workflow_id, command)
        timers.cancel("settled")
        await asyncio.sleep(until_s)
        assert len(timers) == len(wanted) - len(said) - sum(w == "settled" for w, _ in wanted)

    virtual.run_until_complete(story())
    return said


def test_each_timer_of_each_task_fires_once(virtual) -> None:
    wanted = [("w", after(2.0)), ("w", after(1.0, Timer.START)), ("v", after(3.0, task=2))]
    assert told(virtual, wanted, 10) == [
        (1.0, "w", TimerFired(timer=Timer.START, task=1, number=1)),
        (2.0, "w", TimerFired(timer=Timer.DUE, task=1, number=1)),
        (3.0, "v", TimerFired(timer=Timer.DUE, task=2, number=1)),
    ]


def test_those_of_a_settled_workflow_never_fire(virtual) -> None:
    assert told(virtual, [("settled", after(1.0)), ("settled", after(1.0, task=2))], 10) == []


def test_a_time_that_is_over_fires_at_once(virtual) -> None:
    [(at_s, _, _)] = told(virtual, [("w", after(-5.0))], 1)
    assert at_s == 0.0


def test_a_timeout_of_days_fires_on_time_and_one_of_ages_harms_nothing(virtual) -> None:
    day_s = 86_400.0
    workflow = SetTimer(timer=Timer.WORKFLOW, time=EPOCH + timedelta(days=7))
    never = SetTimer(timer=Timer.WORKFLOW, time=EPOCH + timedelta(days=36_500))
    said = told(virtual, [("w", workflow), ("v", never)], 8 * day_s)
    fired = TimerFired(timer=Timer.WORKFLOW, task=-1, number=0)
    assert said == [(7 * day_s, "w", fired)]


def test_a_timeout_by_a_clock_that_was_set_back_is_not_said_too_early(virtual) -> None:
    """S-Z12: said before its time it would be lost, for the core goes by the clock."""
    said: list[float] = []

    class SetBack(VirtualClock):
        def now(self) -> datetime:
            return super().now() - timedelta(hours=virtual.time() >= 5)

    async def story() -> None:
        timers = Timers(clock=SetBack(virtual), say=lambda *_: said.append(virtual.time()))
        timers.set("w", SetTimer(timer=Timer.WORKFLOW, time=EPOCH + timedelta(seconds=10)))
        await asyncio.sleep(2 * 3600)

    virtual.run_until_complete(story())
    assert said == [3610.0]


def test_a_later_one_of_the_same_timer_and_task_counts(virtual) -> None:
    said: list[tuple[float, int]] = []

    async def story() -> None:
        timers = Timers(
            clock=VirtualClock(virtual),
            say=lambda _, fired: said.append((virtual.time(), fired.number)),
        )
        timers.set("w", after(1.0, number=1))
        timers.set("w", after(5.0, number=2))
        await asyncio.sleep(10)
        assert len(timers) == 0

    virtual.run_until_complete(story())
    assert said == [(5.0, 2)]
