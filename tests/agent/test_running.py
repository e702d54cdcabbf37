"""What counts as progress of an attempt's work."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from agent.attempts import AttemptRecord, Kind, State
from agent.drivers.driver import Step
from agent.running import Running
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
