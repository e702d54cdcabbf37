"""A copy from another host owes what every verb owes, wherever the power is cut (S-V6, S-V7).

The other host is real, and stays: an agent in a thread of its own, over gRPC. The one that pulls is
inside the test, so that its power can be cut at every place it passes.
"""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from agent import crash_points, frames, serving
from agent.drivers.copying import CHUNK_BYTES
from agent.service import AgentService
from countermand.rpc import crash
from countermand.rpc.server import Service, serve
from countermand.v1.agent_pb2 import SourceAccess
from countermand.v1.attempt_pb2 import Attempt
from tests.agent.requests import attempt_name, copy_action
from tests.agent.rig import Gate, Rig
from tests.agent.test_conformance import Power, until_cut

DO = attempt_name("do")
UNDO = attempt_name("do", 2)
ACTION = copy_action("fast/base", "near/made", take_digest=True, source_host_id="elsewhere")
CONTENT = os.urandom(CHUNK_BYTES) + bytes(CHUNK_BYTES) + os.urandom(CHUNK_BYTES + 512)


class Elsewhere:
    """Another host, in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.start()
        self._ready.wait()

    async def _serve(self) -> None:
        rig = self._rig = Rig(self._folder)
        await rig.start()
        rig.put("base", CONTENT)
        self._service = AgentService(rig.runner, now=lambda: rig.now, version="0")
        add = Service("countermand.v1.AgentService", frames.add_to_server, self._service)
        server = await serve(listen="127.0.0.1:0", services=[add])
        self._address = server.address
        self._over = asyncio.Event()
        self._ready.set()
        await self._over.wait()
        await server.stop(0)
        await rig.runner.stop()

    def access(self) -> SourceAccess:
        """Returns the way to its image, for the attempt."""
        request = self._rig.requests.serve(DO, "fast/base")
        asked = self._service.ServeImage(request, None)
        answer = asyncio.run_coroutine_threadsafe(asked, self._loop).result()
        return SourceAccess(address=self._address, ticket=answer.ticket)

    def stop(self) -> None:
        """Ends it."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def elsewhere(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    host = Elsewhere(folder)
    yield host
    host.stop()


async def start(folder: Path, power: crash.Crash, *, gate: Gate | None = None) -> Rig:
    rig = rig_in(folder, power)
    await rig.start(gate=gate)
    return rig


def rig_in(folder: Path, power: crash.Crash) -> Rig:
    folder.mkdir(exist_ok=True)
    return Rig(folder, options={"near": {"flush_bytes": CHUNK_BYTES}}, crash_at=power)


async def act(rig: Rig, elsewhere: Elsewhere) -> None:
    header = rig.requests.for_action(DO, ACTION)
    await rig.runner.accept(header, ACTION, access=elsewhere.access())
    await rig.settled(DO)


async def make_up(rig: Rig) -> None:
    await rig.make_up(UNDO, DO, ACTION)


def left(rig: Rig) -> tuple[list[str], list[str]]:
    return rig.images("near"), rig.staged("near")


def places(power: Power) -> list[tuple[str, int]]:
    return [(name, time + 1) for name, count in power.passed.items() for time in range(count)]


async def test_succeeds_wherever_the_power_was_cut(elsewhere, tmp_path):
    """What was journalled finds its source by itself; what was not is sent again."""
    power = Power()
    rig = await start(tmp_path / "calm", power)
    await act(rig, elsewhere)
    calm = await rig.settled(DO)
    assert calm.state == Attempt.STATE_SUCCEEDED, calm
    await rig.runner.stop()
    assert set(crash_points.OF_ACTIONS) <= set(power.passed)
    for index, place in enumerate(places(power)):
        power = Power(place)
        rig = await start(tmp_path / str(index), power)
        await until_cut(rig, power, lambda rig: act(rig, elsewhere))
        rig = await start(tmp_path / str(index), crash.never)
        if place[0] == crash_points.BEFORE_JOURNAL:
            await act(rig, elsewhere)
        again = await rig.settled(DO)
        assert again.output == calm.output, (place, again)
        assert left(rig) == (["made"], []), place
        assert rig.data("made", "near").read_bytes() == CONTENT, place
        await rig.runner.stop()


async def test_can_be_made_up_for_wherever_the_power_was_cut(elsewhere, tmp_path):
    power = Power()
    rig = await start(tmp_path / "calm", power)
    await act(rig, elsewhere)
    await make_up(rig)
    await rig.runner.stop()
    for index, place in enumerate(places(power)):
        power = Power(place)
        rig = await start(tmp_path / str(index), power)
        await until_cut(rig, power, lambda rig: act(rig, elsewhere), make_up)
        rig = await start(tmp_path / str(index), crash.never)
        await make_up(rig)
        undone = await rig.settled(UNDO)
        assert undone.state == Attempt.STATE_SUCCEEDED, (place, undone)
        assert left(rig) == ([], []), place
        await rig.runner.stop()


async def test_fails_and_leaves_nothing_when_its_data_was_damaged(elsewhere, tmp_path, monkeypatch):
    """Its host takes the digest while it reads, and the two are compared block by block."""

    def damaged(offset: int, data: memoryview) -> frames.Frame:
        copy = bytearray(data)
        copy[-1] ^= offset > CHUNK_BYTES
        return frames.frame_of(offset, memoryview(copy))

    monkeypatch.setattr(serving, "frame_of", damaged)
    rig = await start(tmp_path / "here", crash.never)
    await act(rig, elsewhere)
    failed = await rig.settled(DO)
    assert failed.state == Attempt.STATE_FAILED
    assert (failed.failure.reason, failed.failure.retriable) == ("DIGEST_MISMATCH", True)
    assert left(rig) == ([], [])
    await rig.runner.stop()


async def test_can_be_cancelled_at_every_step(elsewhere, tmp_path):
    states = []
    for steps in range(1, 24):
        gate = Gate()
        rig = await start(tmp_path / str(steps), crash.never, gate=gate)
        header = rig.requests.for_action(DO, ACTION)
        await rig.runner.accept(header, ACTION, access=elsewhere.access())
        held = asyncio.ensure_future(gate.arrival(steps))
        ended = asyncio.ensure_future(rig.settled(DO))
        await asyncio.wait([held, ended], return_when=asyncio.FIRST_COMPLETED)
        await rig.cancel(DO)
        gate.open()
        states.append((await ended).state)
        held.cancel()
        expected = ["made"] if states[-1] == Attempt.STATE_SUCCEEDED else []
        assert left(rig) == (expected, []), steps
        await rig.runner.stop()
        if states[-1] == Attempt.STATE_SUCCEEDED:
            break
    assert states[-1] == Attempt.STATE_SUCCEEDED
    assert set(states[:-1]) == {Attempt.STATE_CANCELLED}
