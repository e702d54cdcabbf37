"""Attempts that are out of time on a silent host are fenced, where another host can (S-V21)."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import timedelta

import pytest

from coordinator.runtime.overdue import Overdue
from coordinator.runtime.ports import HostRecord, HostState, HostView
from coordinator.saga.advance import Decision, advance
from coordinator.saga.events import FenceRefused, FenceRequested, Now
from coordinator.saga.states import TaskState
from coordinator.saga.workflow import Failure, Workflow
from countermand.client.spec import policy
from tests.runtime.rig import Agent, coordinator, noop, series, until
from tests.saga.language import EPOCH, OTHER, play

LATE = "a:run+lost+hang/hang"
NOW = Now(time=EPOCH + timedelta(hours=1), jitter=0.0, intent=1_000)


class Hosts:
    """Hosts that are as a test says; of the others each can fence that was not asked before."""

    def __init__(self, state: HostState, *others: str) -> None:
        self.state, self.others = state, others

    def all(self) -> Mapping[str, HostView]:
        view = HostView(
            record=HostRecord(id="host-a", address="a:1", create_time=EPOCH),
            state=self.state,
            problem=None,
            report=None,
            open_attempts=1,
            waiting=0,
            window=1,
            seen_time=EPOCH,
            silent_s=20.0,
        )
        return {"host-a": view}

    def fencer(
        self, lost: str, pools: frozenset[str], wanted: str, asked: Collection[str] = ()
    ) -> tuple[str, str]:
        assert (lost, wanted) == ("host-a", "")
        left = [host for host in self.others if host not in asked]
        return (left[0], "") if left else ("", "there is no other host")


class Loop:
    """A loop that decides about what it is asked, and keeps it."""

    def __init__(self, *workflows: Workflow) -> None:
        self.workflows = {workflow.id: workflow for workflow in workflows}
        self.asked: list[FenceRequested] = []

    def late_workflows(self) -> tuple[Workflow, ...]:
        return tuple(self.workflows.values())

    async def ask(self, workflow_id: str, what: FenceRequested) -> Decision:
        decision = advance(self.workflows[workflow_id], what, NOW)
        self.workflows[workflow_id] = decision.workflow
        self.asked.append(what)
        return decision

    def refused(self, workflow_id: str = "w") -> None:
        """Has the host that was asked last say that it cannot."""
        host, failure = self.asked[-1].host, Failure(reason="CALL_UNSUPPORTED", message="no fences")
        event = FenceRefused(task=1, number=1, host=host, failure=failure)
        self.workflows[workflow_id] = advance(self.workflows[workflow_id], event, NOW).workflow


def overdue(loop: Loop, hosts: Hosts, pools: frozenset[str] = frozenset({"fast"})) -> Overdue:
    return Overdue(loop=loop, hosts=hosts, pools=lambda _w, _i: pools)


async def asked(workflow: Workflow, hosts: Hosts, pool: str = "fast") -> list[FenceRequested]:
    loop = Loop(workflow)
    await overdue(loop, hosts, frozenset({pool} - {""})).look()
    return loop.asked


@pytest.mark.parametrize("state", [HostState.SUSPECT, HostState.UNREACHABLE])
async def test_what_is_out_of_time_on_a_silent_host_is_fenced(state):
    workflow = play("a:runs=9", LATE).workflow
    assert workflow.task(1).state is TaskState.CANCELLING
    [wish] = await asked(workflow, Hosts(state, OTHER))
    assert (wish.task, wish.host) == (1, OTHER)
    assert (wish.ask.principal, wish.ask.version) == ("policy", workflow.version)


async def test_nothing_else_is_fenced_by_itself():
    """Not where the host answers, nobody can, it is being done, or no policy wants it stopped."""
    late = play("a:runs=9", LATE).workflow
    fenced = play("a:runs=9", LATE + " fence-a:hang fence-a@cancel:a").workflow
    lost = play("a", "a:run+lost+hang").workflow
    cancelled = play("a", "a:run+lost+hang/hang cancel@lost:a").workflow
    silent = Hosts(HostState.UNREACHABLE, OTHER)
    assert await asked(late, Hosts(HostState.READY, OTHER)) == []
    assert await asked(late, Hosts(HostState.QUARANTINED, OTHER)) == []
    assert await asked(late, Hosts(HostState.UNREACHABLE)) == []
    assert await asked(late, silent, pool="") == []
    for workflow in (fenced, lost, cancelled):
        assert not workflow.settled
        assert await asked(workflow, silent) == []


async def test_each_other_host_is_asked_once_and_then_somebody_has_to_look(caplog):
    """One that cannot fence would say so for ever, and every round would be in the history."""
    caplog.set_level(logging.WARNING)
    loop = Loop(play("a:runs=9", LATE).workflow)
    looks = overdue(loop, Hosts(HostState.UNREACHABLE, "host-b", "host-c"))
    for host in ("host-b", "host-c"):
        await looks.look()
        assert loop.asked[-1].host == host
        loop.refused()
    settled_for_now = loop.workflows["w"]
    for _ in range(3):
        await looks.look()
    assert [each.host for each in loop.asked] == ["host-b", "host-c"]
    assert loop.workflows["w"] is settled_for_now
    [told] = [each for each in caplog.records if each.message == "attempt.not_fenced"]
    assert told.__dict__["attempt"] == "workflows/w/tasks/a/attempts/1"


async def test_whom_the_loop_did_not_take_up_is_asked_again():
    """The workflow had moved on meanwhile."""
    workflow = play("a:runs=9", LATE).workflow
    loop = Loop(replace(workflow, version=workflow.version + 1))
    seen = loop.late_workflows
    loop.late_workflows = lambda: (workflow,)  # type: ignore[method-assign]
    looks = overdue(loop, Hosts(HostState.UNREACHABLE, OTHER))
    await looks.look()
    assert not loop.workflows["w"].task(1).last.fence_host
    loop.late_workflows = seen  # type: ignore[method-assign]
    await looks.look()
    assert loop.workflows["w"].task(1).last.fence_host == OTHER


async def test_one_that_cannot_be_processed_keeps_no_other_from_its_fence(caplog):
    late = play("a:runs=9", LATE).workflow
    broken = replace(late, id="broken", nodes=(late.nodes[0], replace(late.task(1), attempts=())))
    loop = Loop(broken, late)
    await overdue(loop, Hosts(HostState.UNREACHABLE, OTHER)).look()
    assert [each.host for each in loop.asked] == [OTHER]
    assert [each.message for each in caplog.records] == ["overdue.failed"]


async def test_the_loop_knows_what_is_late_also_after_a_restart(tmp_path):
    """Nothing else is looked at: there may be thousands."""
    agents = {"a": Agent(mute=True)}
    soon = noop("late", "a", policy=policy(start_timeout=timedelta(milliseconds=1)))
    async with coordinator(tmp_path, agents) as one:
        await until(lambda: one.fleet.all()["a"].state is HostState.READY)
        await one.start("w", series(soon))
        await one.start("v", series(noop("not", "a")))
        await until(one.loop.late_workflows)
        assert [each.id for each in one.loop.late_workflows()] == ["w"]
    async with coordinator(tmp_path, agents) as one:
        assert [each.id for each in one.loop.late_workflows()] == ["w"]
        agents["a"].speak()
        await until(lambda: not one.loop.late_workflows())
