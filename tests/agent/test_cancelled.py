"""A copy that is asked to stop at each boundary of its chunks: nothing is left, and all say so.

S-V19, S-Z15. Inside the test, so that it can be held exactly there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.drivers.copying import CHUNK_BYTES
from agent.drivers.driver import Step
from agent.drivers.files import RealFiles
from countermand.v1.attempt_pb2 import Attempt
from tests.agent.requests import attempt_name, copy_action
from tests.agent.rig import Rig

COPY = attempt_name("copy")
AGAIN = attempt_name("copy", 2)
ACTION = copy_action("fast/base", "fast/disk", take_digest=True)
CHUNKS = 5

SUCCEEDED = Attempt.STATE_SUCCEEDED
CANCELLED = Attempt.STATE_CANCELLED
CANCELLING = Attempt.STATE_CANCELLING


class Held:
    """Holds the work once it is so far, until the test lets it go on."""

    def __init__(self, at_bytes: int) -> None:
        """Begins with nothing done."""
        self.at_bytes = at_bytes
        self.boundaries: list[int] = []
        self.arrived = asyncio.Event()
        self.leave = asyncio.Event()

    async def __call__(self, step: Step) -> None:
        """Is awaited after each step."""
        if step.total:
            self.boundaries.append(step.done)
        if not self.arrived.is_set() and self.boundaries and step.done == self.at_bytes:
            self.arrived.set()
            await self.leave.wait()
        await asyncio.sleep(0)


class Unshared(RealFiles):
    """Files of a file system where every byte of a copy is written."""

    def share(self, source: int, target: int) -> bool:
        """Shares nothing."""
        return False


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """Yields an agent that keeps a note after each chunk, with an image of five."""
    rig = Rig(tmp_path, options={"fast": {"flush_bytes": CHUNK_BYTES}})
    rig.files = Unshared()
    await rig.start()
    rig.put("base", b"x" * CHUNK_BYTES * CHUNKS)
    yield rig
    await rig.runner.stop()


async def held(rig: Rig, chunk: int) -> Held:
    """Returns once a copy is so many chunks far, and is held there."""
    hold = Held(chunk * CHUNK_BYTES)
    await rig.restart(gate=hold)
    await rig.accept(COPY, ACTION)
    await hold.arrived.wait()
    return hold


async def nothing_is_left(rig: Rig) -> None:
    """Raises unless everything is as before, and a repeat is told the same."""
    assert (rig.images(), rig.staged()) == (["base"], [])
    assert (await rig.run(COPY, ACTION)).state == CANCELLED
    assert rig.images() == ["base"]


@pytest.mark.parametrize("chunk", range(1, CHUNKS + 1))
async def test_a_copy_is_cancelled_at_each_boundary_of_its_chunks(rig, chunk):
    hold = await held(rig, chunk)
    assert sorted(set(hold.boundaries) - {0}) == [
        number * CHUNK_BYTES for number in range(1, chunk + 1)
    ]
    assert (await rig.cancel(COPY)).state == CANCELLING
    hold.leave.set()
    assert (await rig.settled(COPY)).state == CANCELLED
    await nothing_is_left(rig)
    assert (await rig.run(AGAIN, ACTION)).state == SUCCEEDED  # the name is free
    assert rig.data("disk").read_bytes() == rig.data("base").read_bytes()


@pytest.mark.parametrize("chunk", range(1, CHUNKS + 1))
async def test_it_stays_cancelled_if_the_agent_stops_before_it_has(rig, chunk):
    """The flag is durable as soon as it was answered, whatever of the copy is."""
    hold = await held(rig, chunk)
    assert (await rig.cancel(COPY)).state == CANCELLING
    rig.runner.running[COPY].interrupt()  # as when the agent stops: it leaves its work as it is
    hold.leave.set()
    await rig.restart()
    assert rig.resumed == [COPY]  # the log says that it goes on
    assert (await rig.settled(COPY)).state == CANCELLED
    await nothing_is_left(rig)
