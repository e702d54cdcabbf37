"""A pool that fails on one host keeps new work away from it, for as long as it fails."""

from __future__ import annotations

import logging

from coordinator.agents import line as lines
from coordinator.agents.placing import Needs, Offer, choose, problem_of, why_none
from coordinator.runtime.ports import HostState
from countermand.v1.agent_pb2 import AttemptUpdate, HostReport, WatchAttemptsResponse
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.failure_pb2 import Failure
from countermand.v1.image_pb2 import Pool
from tests.runtime.rig import Agent, coordinator, copy, series, until

NEEDS = Needs(pools=frozenset({"fast"}), verb="copy_image")
GONE = Failure(reason="STORAGE_FAILED", message="Pool fast answered EIO.")


def offer(host: str, *, load: int = 0, problem: Failure | None = None) -> Offer:
    pool = Pool(pool_id="fast", verbs=["copy_image"], problem=problem)
    aside = Pool(pool_id="aside", verbs=["copy_image"], problem=GONE)
    return Offer(
        host=host,
        state=HostState.READY,
        draining=False,
        report=HostReport(pools=[pool, aside]),
        load=load,
    )


def chosen(*offers: Offer) -> str | None:
    return choose(offers, NEEDS, named=(), avoid=())


def test_work_goes_where_the_pool_serves():
    assert chosen(offer("a", problem=GONE), offer("b", load=9)) == "b"
    assert chosen(offer("a"), offer("b", load=9)) == "a"


def test_where_it_serves_nowhere_the_task_waits_and_says_why():
    alone = offer("a", problem=GONE)
    assert chosen(alone) is None
    assert why_none([alone], NEEDS, ()) == (
        "no READY host reaches pool 'fast'; pool 'fast' fails on a (STORAGE_FAILED)"
    )


async def test_what_waits_goes_on_once_the_pool_serves_again(monkeypatch, tmp_path):
    monkeypatch.setattr(lines, "RESYNC_S", 0.01)
    agent = Agent(pools=("fast",), failing={"fast": GONE})
    async with coordinator(tmp_path, {"a": agent}) as one:
        await until(lambda: one.fleet.all()["a"].state == "READY")
        await one.start("w", series(copy("only", "fast/base", "fast/vm")))
        await until(lambda: "fails on a" in one.fleet.waiting_for_host("w", 1))
        assert agent.sent == []
        agent.failing.clear()
        await until(lambda: agent.tasks == ["only"])


def test_nothing_is_refused_for_a_pool_that_may_come_back():
    assert problem_of(offer("a", problem=GONE), NEEDS) is None


async def test_the_log_tells_once_when_a_pool_failed_and_once_when_it_healed(
    monkeypatch, tmp_path, caplog
):
    def told() -> list[tuple[str, str]]:
        records = [vars(each) for each in caplog.records]
        return [(r["message"], r["pool"]) for r in records if r["message"].startswith("pool.")]

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(lines, "RESYNC_S", 0.01)
    agent = Agent(pools=("fast", "slow"), failing={"fast": GONE})
    async with coordinator(tmp_path, {"a": agent}):
        await until(lambda: told() == [("pool.failing", "fast")])
        agent.failing["slow"] = GONE
        await until(lambda: told()[1:] == [("pool.failing", "slow")])
        agent.failing.clear()
        await until(lambda: len(told()) == 4)
    assert told()[2:] == [("pool.healed", "fast"), ("pool.healed", "slow")]


async def test_what_fails_for_its_pool_has_the_host_asked_how_its_pools_are(monkeypatch, tmp_path):
    """At once: what comes next waits for the pool, and people see why."""
    for each in ("RESYNC_S", "SUSPECT_S"):
        monkeypatch.setattr(lines, each, 3600.0)
    agent = Agent(pools=("fast",))
    async with coordinator(tmp_path, {"a": agent}) as one:
        await until(lambda: one.fleet.all()["a"].state == "READY")
        await one.start("w", series(copy("only", "fast/base", "fast/vm")))
        await until(lambda: agent.sent)
        agent.failing["fast"] = GONE
        [name] = agent.sent
        lost = Attempt(name=name, state=Attempt.STATE_UNKNOWN, failure=GONE)
        update = AttemptUpdate(sequence=1, attempt=lost)
        agent.streams[0].put_nowait(WatchAttemptsResponse(updates=[update]))
        await until(lambda: "problem" in str(one.fleet.all()["a"].report))
