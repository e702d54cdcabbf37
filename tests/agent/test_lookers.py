"""Those who look at storage beside the attempts, while it hangs: nobody else waits for it."""

from __future__ import annotations

import asyncio
import errno
import threading
from dataclasses import replace

import pytest

from agent import lookers
from agent.executors import ThreadExecutor
from agent.lookers import DIGESTS_MAX, LOOKS_MAX, THREADS_PER_POOL, Lookers
from agent.service import AgentService
from countermand.rpc.errors import Busy
from countermand.v1.agent_pb2 import (
    GetHostRequest,
    InspectRequest,
    RemoveOrphansRequest,
    SurveyPoolRequest,
)
from tests.agent.requests import CLUSTER, address, attempt_name
from tests.agent.rig import Rig


class Hanging:
    """A pool's driver of which each call may be held up."""

    def __init__(self, driver) -> None:
        self._driver = driver
        self.free = threading.Event()
        self.free.set()
        self.calls: list[str] = []
        self.broken = False

    def __getattr__(self, name):
        return getattr(self._driver, name)

    def report(self):
        self.calls.append("report")
        self.free.wait()
        if self.broken:
            raise OSError(errno.EIO, "gone")
        return self._driver.report()

    def find(self, image_id):
        self.calls.append("find")
        self.free.wait()
        return self._driver.find(image_id)

    def survey(self):
        self.free.wait()
        return self._driver.survey()

    def discard(self, attempt):
        self.free.wait()
        self._driver.discard(attempt)

    def digest(self, image_id):
        self.free.wait()
        return (yield from self._driver.digest(image_id))


@pytest.fixture
async def hanging(tmp_path, monkeypatch):
    """Yields who looks at two pools, the one that may hang, and the other."""
    monkeypatch.setattr(lookers, "REPORT_WAIT_S", 0.05)
    rig = Rig(tmp_path, options={"fast": {}, "slow": {}})
    await rig.start()
    for pool_id in rig.pools:
        rig.put("base", b"x" * 512, pool_id=pool_id)
    slow = Hanging(rig.pools["slow"])
    executor = ThreadExecutor(2 * THREADS_PER_POOL, name="look")
    yield Lookers({**rig.pools, "slow": slow}, executor), slow, rig.pools["fast"]
    slow.free.set()
    executor.close()
    await rig.runner.stop()


async def test_a_pool_that_hangs_is_told_of_as_it_was(hanging):
    looking, slow, _ = hanging
    slow.free.clear()
    unknown = await looking.report(slow)
    assert (unknown.capacity_bytes, unknown.verbs) == (0, slow.verbs)
    slow.free.set()
    while not (known := await looking.report(slow)).capacity_bytes:
        pass
    slow.free.clear()
    slow.calls.clear()
    for _ in range(3):
        told = await looking.report(slow)
        assert told.problem is not None
        assert replace(told, problem=None) == known
    assert slow.calls == ["report"]  # never two at once


async def test_a_pool_that_fails_is_told_of_as_it_was(hanging):
    looking, slow, _ = hanging
    known = await looking.report(slow)
    slow.broken = True
    told = await looking.report(slow)
    assert told.problem is not None
    assert told.problem.metadata["error"] == "EIO"
    assert replace(told, problem=None) == known
    slow.broken = False
    assert (await looking.report(slow)).problem is None


async def test_a_pool_that_hangs_holds_up_no_other(hanging):
    looking, slow, fast = hanging
    slow.free.clear()
    gone = [asyncio.ensure_future(looking.find(slow, "base")) for _ in range(3 * LOOKS_MAX)]
    digest = asyncio.ensure_future(looking.digest(slow, "base"))
    await asyncio.sleep(0)
    assert (await looking.find(fast, "base")).image_id == "base"
    assert [found.image_id for found in await looking.list_images(fast, after="", count_max=9)] == [
        "base"
    ]
    assert (await looking.digest(fast, "base")).startswith("blake3-4m:")
    assert (await looking.report(fast)).capacity_bytes
    for call in (*gone, digest):
        call.cancel()
    await asyncio.gather(*gone, digest, return_exceptions=True)
    slow.free.set()
    assert (await looking.find(slow, "base")).image_id == "base"
    assert slow.calls.count("find") == LOOKS_MAX + 1  # whoever went away while waiting left


async def test_more_digests_than_a_pool_can_take_are_refused(hanging):
    looking, slow, _ = hanging
    slow.free.clear()
    digests = [asyncio.ensure_future(looking.digest(slow, "base")) for _ in range(DIGESTS_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await looking.digest(slow, "base")
    slow.free.set()
    await asyncio.gather(*digests)
    assert (await looking.digest(slow, "base")).startswith("blake3-4m:")


async def test_whatever_is_asked_of_a_pool_that_hangs_holds_up_no_other(tmp_path):
    rig = Rig(tmp_path, options={"fast": {}, "slow": {}})
    await rig.start()
    for pool_id in rig.pools:
        rig.put("base", b"x" * 512, pool_id=pool_id)
    slow = rig.pools["slow"] = Hanging(rig.pools["slow"])
    executor = ThreadExecutor(len(rig.pools) * THREADS_PER_POOL, name="look")
    service = AgentService(rig.runner, now=lambda: rig.now, version="0", lookers=executor)
    reads, stale = attempt_name("reads"), attempt_name("stale")
    serve = rig.requests.serve(reads, "slow/base")
    remove = RemoveOrphansRequest(cluster_id=CLUSTER, pool_id="slow", staged=[stale])
    slow.free.clear()
    waiting = [
        asyncio.ensure_future(call)
        for _ in range(THREADS_PER_POOL)
        for call in (
            service.ServeImage(serve, None),
            service.SurveyPool(SurveyPoolRequest(pool_id="slow"), None),
            service.RemoveOrphans(remove, None),
        )
    ]
    await service.GetHost(GetHostRequest(), None)  # by then all of them have been begun
    inspected = await service.Inspect(InspectRequest(address=address("fast/base")), None)
    assert inspected.image.address == address("fast/base")
    slow.free.set()
    await asyncio.gather(*waiting)
    executor.close()
    await rig.runner.stop()
