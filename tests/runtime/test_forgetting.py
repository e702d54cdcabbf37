"""Agents are told to forget what has settled: in time, in order, and nothing too early (S-Z28)."""

from __future__ import annotations

import asyncio
import contextlib

from coordinator.agents import forgetting
from coordinator.runtime import watermark
from coordinator.runtime.ports import HostState
from countermand.client.spec import parallel, workflow_spec
from countermand.rpc.errors import HostUnreachable
from countermand.v1.agent_pb2 import ForgetRequest, ForgetResponse, ListAttemptsResponse
from tests.runtime.rig import Agent, Coordinator, coordinator, noop, series, until
from tests.runtime.test_line import ears

FORGET_S = 0.01


def intents(one: Coordinator, workflow_id: str) -> list[int]:
    return [a.intent for _, t in one.known(workflow_id).tasks() for a in t.attempts]


async def ready(one: Coordinator) -> None:
    await until(lambda: one.fleet.all()["a"].state is HostState.READY)


async def forgotten_on(one: Coordinator, host: str) -> None:
    """Returns once nothing is left to be told to a host."""
    async with asyncio.timeout(20):
        while await one.store.evidence(host, below=1 << 40, limit=9):  # noqa: ASYNC110  # no event
            await asyncio.sleep(0)


def side_by_side(*names: str):
    return workflow_spec("test", parallel("all", *(noop(name, "a") for name in names)))


# -- the watermark --------------------------------------------------------------------------------


async def test_the_watermark_is_the_lowest_intent_that_may_still_be_sent(tmp_path) -> None:
    agent = Agent()
    async with coordinator(tmp_path, {"a": agent, "b": Agent()}) as one:
        await ready(one)
        assert one.loop.low_watermark("a") == 1
        await one.start("w", side_by_side("x", "y"))
        await until(lambda: len(agent.sent) == 2)
        first, second = sorted(intents(one, "w"))
        assert one.loop.low_watermark("a") == first
        agent.end(agent.sent[0])
        await until(lambda: one.loop.low_watermark("a") == second)
        assert one.loop.low_watermark("b") == second + 1, "nothing is open there"
        agent.end(agent.sent[1])
        await until(lambda: one.known("w").settled)
        assert one.loop.low_watermark("a") == second + 1


async def test_what_waits_for_a_slot_keeps_the_watermark_down_after_a_restart(tmp_path) -> None:
    """S-Z28: it was placed and never sent; it must not be refused as late when its turn comes."""
    agent = Agent()
    async with coordinator(tmp_path, {"a": agent}, window=1) as one:
        await ready(one)
        await one.start("w", side_by_side("x", "y"))
        await until(lambda: len(agent.sent) == 1)
        lowest = min(intents(one, "w"))
    agent.up = False
    async with coordinator(tmp_path, {"a": agent}, window=1) as one:
        assert one.loop.low_watermark("a") == lowest


async def test_what_is_over_does_not_gather_behind_a_lasting_attempt(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(watermark, "COMPACT_AT", 8)
    agent = Agent()
    async with coordinator(tmp_path, {"a": agent}, forget_s=FORGET_S) as one:
        await ready(one)
        await one.start("lasts", series(noop("x", "a")))
        await until(lambda: agent.sent)
        for number in range(30):
            await one.start(f"w-{number}", series(noop("x", "a")))
            await until(lambda number=number: len(agent.sent) == number + 2)  # type: ignore[misc]
            agent.end(agent.sent[-1])
            await until(lambda number=number: one.known(f"w-{number}").settled)  # type: ignore[misc]
        assert one.loop.low_watermark("a") == intents(one, "lasts")[0]
        assert len(one.loop._watermarks._placed["a"]) <= 9
        assert len(one.loop._watermarks._known) <= 9


# -- telling --------------------------------------------------------------------------------------


async def test_an_agent_is_told_of_what_settled_once_nothing_older_is_open(tmp_path) -> None:
    """S-Z28, I12: with a watermark above everything that it ever had of it."""
    agent = Agent()
    async with coordinator(tmp_path, {"a": agent}, forget_s=FORGET_S) as one:
        await ready(one)
        await one.start("older", series(noop("x", "a")))
        await until(lambda: agent.sent)
        await one.start("later", series(noop("x", "a")))
        await until(lambda: len(agent.sent) == 2)
        agent.end(agent.sent[1])
        await until(lambda: one.known("later").settled)
        assert await one.store.evidence("a", below=1 << 40, limit=9) == ["later"]
        agent.end(agent.sent[0])
        await until(lambda: one.known("older").settled)
        highest = max(intents(one, "older") + intents(one, "later"))

        await forgotten_on(one, "a")
    named = {name for request in agent.forgets for name in request.workflows}
    assert named == {"workflows/older", "workflows/later"}
    assert all(request.low_watermark > highest for request in agent.forgets if request.workflows)


async def test_a_host_that_does_not_answer_keeps_its_rows(tmp_path) -> None:
    agent = Agent()
    async with coordinator(tmp_path, {"a": agent}, forget_s=FORGET_S) as one:
        await ready(one)
        await one.start("w", series(noop("x", "a")))
        await until(lambda: agent.sent)
        agent.deaf = True  # to Forget
        agent.end(agent.sent[0])
        await until(lambda: agent.forgets)
        assert await one.store.evidence("a", below=1 << 40, limit=9) == ["w"]
    agent.deaf = False
    asked = len(agent.forgets)
    async with coordinator(tmp_path, {"a": agent}, forget_s=FORGET_S) as one:
        await until(lambda: len(agent.forgets) > asked)
        await forgotten_on(one, "a")


async def test_a_workflow_of_which_an_agent_keeps_something_is_told_of_again(tmp_path) -> None:
    """S-Z28: somebody has abandoned it, and it is still at work."""
    agent = Agent(keeps={"workflows/at-work"})
    async with coordinator(tmp_path, {"a": agent}, forget_s=FORGET_S) as one:
        await ready(one)
        for number, name in enumerate(("at-work", "over")):
            await one.start(name, series(noop("x", "a")))
            await until(lambda number=number: len(agent.sent) == number + 1)  # type: ignore[misc]
        for sent in tuple(agent.sent):
            agent.end(sent)
        await until(lambda: one.known("at-work").settled and one.known("over").settled)
        await until(lambda: sum("workflows/at-work" in r.workflows for r in agent.forgets) > 1)
        assert await one.store.evidence("a", below=1 << 40, limit=9) == ["at-work"]
        agent.keeps.clear()
        await forgotten_on(one, "a")


class Told:
    """A connection on which somebody is told to forget."""

    def __init__(
        self, pages: dict[str, ListAttemptsResponse] | None = None, *, keeps: tuple[str, ...] = ()
    ) -> None:
        self.keeps = keeps
        self.requests: list[ForgetRequest] = []
        self.pages = pages or {}

    async def call(self, rpc: str, request, *, timeout_s: float, traceparent: str = ""):
        if rpc == "ListAttempts":
            return self.pages[request.page_token]
        self.requests.append(request)
        return ForgetResponse(kept=[name for name in request.workflows if name in self.keeps])


def forgets(connection: Told, **said) -> forgetting.Forgetting:
    return forgetting.Forgetting(connection, host="a", cluster_id="c", ears=ears(**said))  # type: ignore[arg-type]


async def test_many_are_told_of_in_batches(monkeypatch) -> None:
    monkeypatch.setattr(forgetting, "FORGET_MAX", 2)
    rows = ["v", "w", "x"]

    async def evidence(_host: str, *, below: int, limit: int) -> list[str]:
        assert below == 7
        return rows[:limit]

    async def forgotten(_host: str, workflows) -> None:
        del rows[: len(workflows)]

    told = Told()
    one = forgets(told, low_watermark=lambda _: 7, evidence=evidence, forgotten=forgotten)
    assert [await one.forget() for _ in range(3)] == [True, False, False]
    assert [list(request.workflows) for request in told.requests] == [
        ["workflows/v", "workflows/w"],
        ["workflows/x"],
    ]


async def test_a_line_with_nothing_to_tell_looks_at_no_other_host() -> None:
    """With thousands of hosts, of which each has a line, all would look at all."""
    asked: list[str] = []

    def of_all_hosts() -> int:
        asked.append("all hosts")
        return 1

    told = Told({"": ListAttemptsResponse()})
    one = forgets(told, fence_low_watermark=of_all_hosts)
    assert not await one.forget()
    assert not await one.look()
    assert not asked


async def test_what_an_agent_has_of_nothing_open_is_told_of_as_well() -> None:
    """It came with an older journal, or is older than the store: no row is there for it."""
    pages = {"": ListAttemptsResponse(next_page_token="more"), "more": ListAttemptsResponse()}
    for page, workflow in zip(pages.values(), ("open", "over"), strict=True):
        page.attempts.add(name=f"workflows/{workflow}/tasks/t/attempts/1")
    told = Told(pages)
    one = forgets(told, workflow=lambda name: object() if name == "open" else None)
    assert [await one.look() for _ in range(3)] == [True, False, False]
    assert [list(request.workflows) for request in told.requests] == [["workflows/over"]]


async def test_what_an_agent_keeps_does_not_stand_before_what_it_may_forget(monkeypatch) -> None:
    monkeypatch.setattr(forgetting, "FORGET_MAX", 2)
    rows = ["v", "w", "x", "y"]

    async def evidence(_host: str, *, below: int, limit: int) -> list[str]:
        return rows[:limit]

    async def forgotten(_host: str, workflows) -> None:
        rows[:] = [row for row in rows if row not in workflows]

    told = Told(keeps=("workflows/v", "workflows/w"))
    one = forgets(told, evidence=evidence, forgotten=forgotten)
    assert [await one.forget() for _ in range(3)] == [True, True, False]
    assert rows == ["v", "w"]


async def test_what_the_store_does_not_know_to_be_over_stays_and_is_said_once(caplog) -> None:
    """S-Z28: a store that was restored from a backup does not have what is open since."""
    page = ListAttemptsResponse()
    for workflow, epoch in (("newer", 3), ("owned-later", 4), ("over", 3)):
        page.attempts.add(name=f"workflows/{workflow}/tasks/t/attempts/1", owner_epoch=epoch)

    async def settled(_workflows) -> frozenset[str]:
        return frozenset({"over", "owned-later"})

    told = Told({"": page})
    one = forgets(told, settled=settled)
    for _ in range(2):
        await one.look()
        one._page = ""  # another look is due
    assert [list(request.workflows) for request in told.requests] == [["workflows/over"]] * 2
    said = [record for record in caplog.records if record.getMessage() == "forget.held_back"]
    assert [record.attempt for record in said] == ["workflows/newer/tasks/t/attempts/1"]


async def test_a_defect_keeps_nobody_from_forgetting_later(caplog) -> None:
    asked = asyncio.Event()
    failures: list[Exception] = [HostUnreachable(address="a:1"), ValueError("a defect")]

    async def evidence(_host: str, *, below: int, limit: int) -> list[str]:
        if failures:
            raise failures.pop(0)
        asked.set()
        return []

    running = asyncio.create_task(
        forgets(Told({"": ListAttemptsResponse()}), evidence=evidence).run(0.001)
    )
    async with asyncio.timeout(20):
        await asked.wait()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == ["forget.defect"]
