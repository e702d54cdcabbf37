"""Planted bugs about external tasks, each found within so many seeds in which owners take part."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from coordinator.api.deciding import Deciding
from coordinator.api.tokens import Tokens
from coordinator.owners.owners import Owners
from coordinator.owners.reported import Reported
from coordinator.owners.silence import Silence
from coordinator.saga import advance, events, external, parts
from coordinator.saga.commands import SendCompensation
from coordinator.saga.events import Now
from coordinator.saga.states import IN_FLIGHT, TaskState
from coordinator.saga.turn import Turn
from tests.simulation.planted import expect_violation

Patch = pytest.MonkeyPatch

_expect_violation = partial(expect_violation, external=1.0)


def test_finds_an_accept_that_answers_before_its_commit(monkeypatch: Patch) -> None:
    """Planted: an owner may begin, and a restart knows nothing of it (I5)."""
    ask = Deciding.ask

    async def early(self: Deciding, workflow_id: str, what: Any, request: Any = None) -> Any:
        workflow = self._loop.workflow(workflow_id)
        if not isinstance(what, events.AttemptAccepted) or workflow is None:
            return await ask(self, workflow_id, what, request)
        self._loop.hear(workflow_id, what)
        return advance.advance(workflow, what, Now(time=self._clock.now(), jitter=0.0, intent=1))

    monkeypatch.setattr(Deciding, "ask", early)
    _expect_violation("I5", seeds=10)


def test_finds_a_contradiction_that_is_taken_for_a_repeat(monkeypatch: Patch) -> None:
    """Planted: whoever ends what has ended is told that it has ended so (S-B14, S-Z32)."""
    monkeypatch.setattr("coordinator.api.reporting.is_known", lambda *_: True)
    _expect_violation("B14|Z32|I8", seeds=20)


def test_finds_an_end_that_is_not_remembered(monkeypatch: Patch) -> None:
    """Planted: the id of a report is not stored with what it changed (I8)."""
    ask = Deciding.ask

    async def forgetting(self: Deciding, workflow_id: str, what: Any, request: Any = None) -> Any:
        is_end = isinstance(what, events.EndRequested)
        return await ask(self, workflow_id, what, None if is_end else request)

    monkeypatch.setattr(Deciding, "ask", forgetting)
    # Only what ends others by force tells in the history whose wish it was: few do.
    _expect_violation("I8", first=10, seeds=60)


def test_finds_a_lapse_that_fails_its_task(monkeypatch: Patch) -> None:
    """Planted: who gives no sign of life has failed, for certain (S-V29)."""
    init = Owners.__init__

    def judging(self: Owners, *, say: Any, **more: Any) -> None:
        def judged(workflow_id: str, event: Any) -> None:
            if isinstance(event, events.AttemptLost):
                event = events.AttemptFailed(
                    task=event.task, number=event.number, failure=event.failure
                )
            say(workflow_id, event)

        init(self, say=judged, **more)

    monkeypatch.setattr(Owners, "__init__", judging)
    _expect_violation("I3|I2", seeds=40)


def test_finds_heartbeats_that_do_not_count(monkeypatch: Patch) -> None:
    """Planted: only what is accepted anew begins a heartbeat timeout (S-V29)."""
    monkeypatch.setattr(Silence, "hear", lambda *_: None)
    _expect_violation("V29", seeds=10)


def test_finds_a_restart_that_judges_everybody_silent(monkeypatch: Patch) -> None:
    """Planted: whatever is at work counts as silent for as long as the coordinator was (S-V29)."""
    open_ = Owners.open

    def judging(self: Owners, workflows: Any) -> None:
        open_(self, workflows)
        for waiting in tuple(self._by_slot.values()):
            external = waiting.spec.external
            timed = external is not None and external.heartbeat_timeout is not None
            if waiting.state is TaskState.RUNNING and timed:
                self._is_silent(waiting.name)

    monkeypatch.setattr(Owners, "open", judging)
    _expect_violation("V29", seeds=10)


def test_finds_compensations_that_owners_are_never_asked_for(monkeypatch: Patch) -> None:
    """Planted: what an owner is to make up for counts as made up for (I3)."""
    deliver = Owners.deliver

    def hasty(self: Owners, order: Any) -> None:
        deliver(self, order)
        command = order.command
        if isinstance(command, SendCompensation):
            self._say(
                order.workflow.id,
                events.AttemptSucceeded(task=command.task, number=command.number),
            )

    monkeypatch.setattr(Owners, "deliver", hasty)
    _expect_violation("I3|I2", seeds=20)


def test_finds_a_token_of_another_that_is_taken(monkeypatch: Patch) -> None:
    """Planted: any token will do (S-Z32)."""
    monkeypatch.setattr(Tokens, "is_of", lambda _self, token, *_: bool(token))
    _expect_violation("Z32", seeds=20)


def test_finds_progress_that_a_restart_forgets(monkeypatch: Patch) -> None:
    """Planted: what owners have reported is not read again (I8)."""

    async def nothing(_self: Reported) -> None:
        pass

    monkeypatch.setattr(Reported, "open", nothing)
    monkeypatch.setattr(Reported, "seek", lambda *_: None)
    _expect_violation("lost its progress", first=4, seeds=40)


def test_finds_a_forced_end_that_forgets_an_effect(monkeypatch: Patch) -> None:
    """Planted: whatever is closed by force counts as cancelled (I3)."""
    close = external._close_one

    def forgetful(turn: Turn, index: int, decided: Any) -> None:
        if turn.task(index).state in IN_FLIGHT:
            turn.put(index, replace(turn.task(index), decided=decided))
            external._take_back(turn, index)
        else:
            close(turn, index, decided)

    monkeypatch.setattr(external, "_close_one", forgetful)
    _expect_violation("I3", seeds=60)


def test_finds_a_part_that_is_not_made_up_for(monkeypatch: Patch) -> None:
    """Planted: what is done as a part of a task stays when that is made up for (I3)."""
    deliver = Owners.deliver

    def partly(self: Owners, order: Any) -> None:
        deliver(self, order)
        command, plan = order.command, order.workflow.plan
        if isinstance(command, SendCompensation) and plan.nodes[command.task].under >= 0:
            self._say(
                order.workflow.id,
                events.AttemptSucceeded(task=command.task, number=command.number),
            )

    monkeypatch.setattr(Owners, "deliver", partly)
    _expect_violation("I3|I2", seeds=60)


def test_finds_a_whole_that_is_tried_again_beside_its_parts(monkeypatch: Patch) -> None:
    """Planted: parts that took effect are not in the way of another attempt of their whole (I2)."""
    is_over = parts.is_over

    def but_for_retries(task: Any) -> bool:
        return task.state is not TaskState.RETRY_WAIT and is_over(task)

    monkeypatch.setattr(parts, "is_over", but_for_retries)
    _expect_violation("a part, stands|I3", first=75, seeds=60)
