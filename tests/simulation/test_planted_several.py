"""Planted bugs about several coordinators on one store, each found within so many seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from agent import attempts
from coordinator.runtime.floors import UNHEARD
from coordinator.runtime.locks import Standing, stands_in_line
from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import Change, Claim
from coordinator.saga.workflow import Workflow
from coordinator.store import memory
from coordinator.store.memory import MemoryStore
from tests.simulation.planted import expect_violation
from tests.simulation.replicas import QUIET
from tests.simulation.world import Faults

Patch = pytest.MonkeyPatch

# The store's clock takes leases from those who are well.
LAPSES = Faults(kill_every_s=60.0, trouble=replace(QUIET, jump_every_s=4.0, jump_s_max=40.0))
# Nobody dies, and hosts are away for long: many wait for images.
SLOW = Faults(crash_point=0, kill_every_s=1e9, cut_every_s=3.0, trouble=QUIET)

_expect_violation = partial(expect_violation, several=True)


# -- sessions -------------------------------------------------------------------------------------


def test_finds_a_claim_that_does_not_end_the_session(monkeypatch: Patch) -> None:
    """Planted: whoever has lapsed loses its workflows, and goes on with its session (I6)."""
    claim = MemoryStore.claim

    async def leaving(self: MemoryStore, limit: int) -> Claim | None:
        were = {number: replace(each) for number, each in self._kept.sessions.items()}
        answer = await claim(self, limit)
        self._kept.sessions = were
        return answer

    monkeypatch.setattr(MemoryStore, "claim", leaving)
    _expect_violation("I6|sessions", seeds=5, faults=LAPSES)


def test_finds_a_commit_that_does_not_compare_the_session(monkeypatch: Patch) -> None:
    """Planted: a version that fits is enough to change a workflow (I6).

    Nor does anything else, or else it would tell a coordinator sooner that it is not in charge.
    """
    check = MemoryStore._check

    def blindly(self: MemoryStore, merged: dict[str, Any], changes: Sequence[Change]) -> None:
        records = [self._kept.records[each] for each in merged if each in self._kept.records]
        were = [record.session for record in records]
        for record in records:
            record.session = self._session
        try:
            check(self, merged, changes)
        finally:
            for record, session in zip(records, were, strict=True):
                record.session = session

    def lasting(self: MemoryStore) -> None:
        now = self._now()
        lasts = memory._Session(name=self._name, start_time=now, expire_time=now, floor=UNHEARD)
        self._kept.sessions.setdefault(self._session, lasts)

    monkeypatch.setattr(MemoryStore, "_check_session", lasting)
    monkeypatch.setattr(MemoryStore, "_check", blindly)
    _expect_violation("I6", seeds=20, faults=LAPSES)


def test_finds_a_claim_without_a_new_epoch(monkeypatch: Patch) -> None:
    """Planted: who takes a workflow over goes on under the epoch of who had it before (I6)."""
    adopt = Loop._adopt

    def as_it_was(self: Loop, claim: Claim) -> None:
        for stored in claim.workflows:
            epoch = stored.workflow.owner_epoch
            adopt(self, replace(claim, workflows=(stored,), owner_epoch=epoch))

    monkeypatch.setattr(Loop, "_adopt", as_it_was)
    _expect_violation("I6", seeds=20)


def test_finds_an_agent_that_hears_whoever_calls(monkeypatch: Patch) -> None:
    """Planted: an agent takes what comes under an earlier epoch (I6)."""
    admit = attempts.admit

    def blindly(header: Any, facts: Any, **more: Any) -> Any:
        return admit(header, replace(facts, highest_epoch=0), **more)

    monkeypatch.setattr(attempts, "admit", blindly)
    _expect_violation("I6", seeds=60)


# -- intents --------------------------------------------------------------------------------------


def test_finds_intents_that_two_coordinators_take(monkeypatch: Patch) -> None:
    """Planted: what was taken is not noted (I5)."""

    async def taking(self: MemoryStore) -> tuple[int, int]:
        return self._kept.next_intent, self._kept.next_intent + memory.INTENTS

    monkeypatch.setattr(MemoryStore, "take_intents", taking)
    _expect_violation("I5", seeds=5)


def test_finds_intents_that_fall(monkeypatch: Patch) -> None:
    """Planted: who claims a workflow goes on with intents that it had taken before (Z28)."""
    monkeypatch.setattr("coordinator.runtime.loop._highest_intent", lambda _: 0)
    _expect_violation(r"\[\d+|Z28", first=30, seeds=60, faults=LAPSES)


def test_finds_a_watermark_that_only_knows_its_own(monkeypatch: Patch) -> None:
    """Planted: agents forget below what one coordinator still sends, whatever others do (Z28)."""
    monkeypatch.setattr(Loop, "low_watermark", lambda self, host: self._watermarks.of(host))
    _expect_violation("Z28", seeds=20)


# -- images ---------------------------------------------------------------------------------------


def test_finds_lines_in_the_order_of_arrival(monkeypatch: Patch) -> None:
    """Planted: whoever stands somewhere else was there before: two wait for each other for ever."""

    def all_of_them(self: MemoryStore, workflow: Workflow) -> Iterator[Standing]:
        for record in self._kept.records.values():
            other = record.workflow
            is_there = self._is_others(record) and stands_in_line(other)
            if is_there and memory._clash(workflow, other):
                yield Standing(workflow_id=other.id, locks=other.locks, held=other.locked)

    monkeypatch.setattr(MemoryStore, "_in_the_way", all_of_them)
    monkeypatch.setattr("tests.simulation.world.PATIENCE_S", 300.0)
    _expect_violation("never settled", first=11, seeds=40, faults=SLOW)


def test_finds_images_that_each_coordinator_gives_away(monkeypatch: Patch) -> None:
    """Planted: nobody asks who of other coordinators holds an image."""
    monkeypatch.setattr(MemoryStore, "_check_images", lambda *_: None)
    monkeypatch.setattr(MemoryStore, "_check_writers", lambda *_: None)
    _expect_violation("locks", seeds=40)
