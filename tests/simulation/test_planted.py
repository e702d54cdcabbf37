"""Planted bugs, each found within so many seeds: a simulator that finds nothing proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from agent import attempts
from coordinator.agents.fleet import Fleet
from coordinator.agents.forgetting import Forgetting
from coordinator.agents.line import Line
from coordinator.agents.orders import Orders
from coordinator.agents.placing import Offer
from coordinator.api.deciding import Deciding
from coordinator.runtime.locks import stands_in_line
from coordinator.runtime.loop import Loop
from coordinator.runtime.timers import Timers
from coordinator.runtime.watermark import Watermarks
from coordinator.saga import (
    advance,
    back,
    events,
    forward,
    reports,
    resume,
    retracing,
    starting,
)
from coordinator.saga.commands import SendAction, SetTimer
from coordinator.saga.plan import Node
from coordinator.saga.states import AttemptKind, TaskState
from coordinator.saga.turn import Step, Turn
from coordinator.saga.workflow import Workflow
from tests.simulation.disk import LiveFiles
from tests.simulation.planted import expect_violation
from tests.simulation.world import Faults

Patch = pytest.MonkeyPatch


def test_finds_a_request_that_leaves_before_its_commit(monkeypatch: Patch) -> None:
    """Planted: the loop delivers before it commits (I5)."""
    commit = Loop._commit

    async def deliver_first(self: Loop, batch: Any) -> None:
        for decision in batch.decisions:
            self._deliver(decision, ask_first=False)
        await commit(self, batch)

    monkeypatch.setattr(Loop, "_commit", deliver_first)
    expect_violation("I5", seeds=20)


def test_finds_a_missing_tombstone(monkeypatch: Patch) -> None:
    """Planted: the agent forgets to bury what it compensates (S-Z2)."""
    monkeypatch.setattr("agent.admission._bury", lambda *_: None)
    # What is lost comes after all, much later; the watermark keeps most of it out as well, not all.
    late = Faults(
        message_lost=0.3,
        lost_found_again=1.0,
        crash_point=0.0,
        kill_every_s=1e9,
        cut_every_s=1e9,
    )
    # One seed of two hundred: it begins a few before one, so that few are played.
    expect_violation("I3|I1", first=365, seeds=60, faults=late)


def test_finds_a_missing_flush(monkeypatch: Patch) -> None:
    """Planted: data is renamed into place before it is durable."""
    monkeypatch.setattr(LiveFiles, "flush", lambda *_: None)
    expect_violation("I3|never settled", seeds=40)


# -- pauses and resumes ---------------------------------------------------------------------------


def test_finds_a_branch_that_a_resume_begins_twice(monkeypatch: Patch) -> None:
    """Planted: what begins by a resume is sent under a second number as well (I2)."""
    go_on = retracing.go_on

    def twice(turn: Turn) -> None:
        go_on(turn)
        turn.run()
        for leaf in turn.plan.leaves:
            task = turn.task(leaf.index)
            begun = len(task.attempts) > len(turn.before.task(leaf.index).attempts)
            if begun and task.state is TaskState.STARTING:
                kind, host = AttemptKind.ACTION, task.last.host
                number = turn.new_attempt(leaf.index, kind, host, inbound=task.last.inbound)
                turn.commands.append(SendAction(task=leaf.index, number=number, host=host))

    monkeypatch.setattr(retracing, "go_on", twice)
    expect_violation("STARTING", seeds=60)


def test_finds_a_retry_that_a_pause_lets_through(monkeypatch: Patch) -> None:
    """Planted: a wait that is over starts its attempt although the workflow is held (S-A1)."""
    monkeypatch.setattr(reports, "_wait_is_over", _heedless(reports._wait_is_over))
    expect_violation("AttemptStarted|S-A1", first=120, seeds=60)


def _heedless(wait_is_over: Callable[..., None]) -> Callable[..., None]:
    def over(turn: Turn, event: events.TimerFired) -> None:
        task = turn.task(event.task)
        waits = task.state in (TaskState.READY, TaskState.RETRY_WAIT)
        if task.due_time is not None and waits and turn.holding:
            starting.go(turn, event.task)
        else:
            wait_is_over(turn, event)

    return over


def test_finds_a_timer_that_fires_early(monkeypatch: Patch) -> None:
    """Planted: waits before an attempt are cut short."""
    set_ = Timers.set

    def early(self: Timers, workflow_id: str, command: SetTimer) -> None:
        set_(self, workflow_id, replace(command, time=command.time - timedelta(seconds=0.5)))

    monkeypatch.setattr(Timers, "set", early)
    expect_violation("before its time", seeds=20)


def test_finds_outputs_of_skipped_tasks_that_nobody_asks_for(monkeypatch: Patch) -> None:
    """Planted: a task may be skipped without what others are bound to (S-R12)."""
    monkeypatch.setattr(resume, "_output_violations", lambda *_: iter(()))
    expect_violation("skipped without", seeds=150)


def test_finds_a_patch_that_is_lost(monkeypatch: Patch) -> None:
    """Planted: an operator's values reach no attempt (S-R3)."""
    monkeypatch.setattr(starting, "patched", lambda inbound, _patch: inbound)
    expect_violation("without the patch", seeds=60)


def test_finds_a_request_that_is_not_remembered(monkeypatch: Patch) -> None:
    """Planted: the id of a request is not stored with what it changed (I8)."""
    ask = Deciding.ask

    async def forgetting(self: Deciding, workflow_id: str, what: Any, _: Any = None) -> Any:
        return await ask(self, workflow_id, what)

    monkeypatch.setattr(Deciding, "ask", forgetting)
    expect_violation("I8", seeds=20)


# -- groups, images, hosts ------------------------------------------------------------------------


def test_finds_a_round_that_begins_too_early(monkeypatch: Patch) -> None:
    """Planted: a group begins anew before what it did is made up for (I2)."""
    make_up_for = back.make_up_for

    def skipping(turn: Turn, index: int) -> None:
        alone = back.scope_of(turn, index) >= 0 and turn.cause is None
        record = turn.nodes[index]
        if alone and turn.plan.nodes[index].task and record.state is TaskState.SUCCEEDED:
            turn.nodes[index] = replace(record, compensation_due=True)
            turn.later(Step.MADE_UP_FOR, index)
        else:
            make_up_for(turn, index)

    monkeypatch.setitem(advance._STEPS, Step.MAKE_UP_FOR, skipping)
    expect_violation("made up for|Attempt|AGAIN|closed|I", seeds=60)


def test_finds_a_quorum_that_passes_too_early(monkeypatch: Patch) -> None:
    """Planted: one member fewer than the quorum is enough."""

    def need(node: Node) -> int:
        return max(1, node.rules.min_success - 1) if node.rules.min_success else len(node.forward)

    monkeypatch.setattr(Node, "need", property(need))
    expect_violation("order|I4", seeds=200)


def test_finds_more_at_work_than_allowed(monkeypatch: Patch) -> None:
    """Planted: the places of a bounded group are counted one too high."""
    fill = forward.fill

    def overfull(turn: Turn, parent: int) -> None:
        group = turn.group(parent)
        turn.nodes[parent] = replace(group, at_work=group.at_work - 1)
        fill(turn, parent)
        group = turn.group(parent)
        turn.nodes[parent] = replace(group, at_work=group.at_work + 1)

    monkeypatch.setattr(forward, "fill", overfull)
    expect_violation("at work in", seeds=100)


def test_finds_locks_that_are_passed_on_too_early(monkeypatch: Patch) -> None:
    """Planted: images are let go of with the verdict, before the end actions have run (S-V19)."""

    def stands(workflow: Workflow) -> bool:
        return stands_in_line(workflow) and (workflow.verdict is None or not workflow.locked)

    monkeypatch.setattr("coordinator.runtime.loop.stands_in_line", stands)
    expect_violation("locks", seeds=200)


def test_finds_a_draining_host_that_is_chosen(monkeypatch: Patch) -> None:
    """Planted: the fleet offers draining hosts like any others."""
    offer = Fleet._offer

    def blindly(self: Fleet, line: Any) -> Offer:
        return replace(offer(self, line), draining=False)

    monkeypatch.setattr(Fleet, "_offer", blindly)
    expect_violation("which is draining", seeds=60)


def test_finds_a_leftover_that_is_not_listed(monkeypatch: Patch) -> None:
    """Planted: what a stopped or abandoned workflow keeps is not told (I3)."""
    monkeypatch.setattr("coordinator.wire.view.leftovers", lambda _: iter(()))
    monkeypatch.setattr("coordinator.store.summaries.leftovers", lambda _: iter(()))
    expect_violation("is not listed", seeds=60)


# -- evidence -------------------------------------------------------------------------------------


def test_finds_a_watermark_that_is_too_high(monkeypatch: Patch) -> None:
    """Planted: what is committed and not sent yet counts as closed (S-Z28).

    It looks as if the store had gone back in time (R5).
    """
    monkeypatch.setattr(Watermarks, "of", lambda self, _host: self.next_intent)
    expect_violation("Z28|R5", seeds=60)


def test_finds_evidence_that_goes_before_its_workflow_has_settled(monkeypatch: Patch) -> None:
    """Planted: an agent is told to forget whatever it has (I12)."""
    look = Forgetting.look

    async def everything(workflows: Sequence[str]) -> frozenset[str]:
        return frozenset(workflows)

    async def blindly(self: Forgetting) -> bool:
        self._ears = replace(self._ears, workflow=lambda _: None, settled=everything)
        return await look(self)

    monkeypatch.setattr(Forgetting, "look", blindly)
    expect_violation("I12", seeds=20)


def test_finds_agents_that_are_never_told_to_forget(monkeypatch: Patch) -> None:
    """Planted: what settles leaves no row for its hosts, and nobody looks."""

    async def nothing(_self: Forgetting) -> bool:
        return False

    monkeypatch.setattr("coordinator.store.memory.evidence_rows", lambda _: [])
    monkeypatch.setattr(Forgetting, "look", nothing)
    expect_violation("never forgotten", seeds=5)


def test_finds_an_agent_that_takes_late_requests_for_new(monkeypatch: Patch) -> None:
    """Planted: an agent does not keep the watermark (S-Z28)."""
    admit = attempts.admit

    def blindly(header: Any, facts: Any, **more: Any) -> Any:
        return admit(header, replace(facts, low_watermark=0), **more)

    monkeypatch.setattr(attempts, "admit", blindly)
    late = Faults(message_repeated=0.5, message_lost=0.1, lost_found_again=1.0)
    expect_violation("I1|I2|I3|I12|never", seeds=60, faults=late)


def test_finds_a_journal_that_goes_back_unnoticed(monkeypatch: Patch) -> None:
    """Planted: a line does not notice that an agent has lost what it had (S-Z11)."""
    monkeypatch.setattr(Orders, "_is_amiss", lambda *_: False)
    watch = Line._session

    async def from_now_on(self: Line, connection: Any) -> None:
        self._heard = 0
        await watch(self, connection)

    monkeypatch.setattr(Line, "_session", from_now_on)
    older = Faults(
        journal_lost=1e-9,
        journal_copied=0.4,
        journal_restored=0.9,
        kill_every_s=3.0,
        down_s_max=3.0,
    )
    expect_violation("S-Z11", seeds=60, faults=older)


def test_finds_a_lost_pool_that_nobody_is_asked_about(monkeypatch: Patch) -> None:
    """Planted: a host goes on by itself although its pool is another one (S-Z10)."""
    monkeypatch.setattr("coordinator.agents.reconciling._pool_problem", lambda *_: "")
    lost = Faults(journal_lost=0.6, pool_lost_too=1.0, kill_every_s=4.0, down_s_max=4.0)
    expect_violation("S-Z10", seeds=60, faults=lost)
