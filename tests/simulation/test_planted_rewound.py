"""Planted bugs about a store that goes back in time, each found within so many seeds."""

from __future__ import annotations

import pytest

from coordinator.agents import orders
from coordinator.agents.orders import Orders
from coordinator.runtime.floors import NOBODYS
from coordinator.runtime.guard import Guard
from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import Claim, Opening
from coordinator.store import memory
from coordinator.store.memory import MemoryStore
from tests.simulation.planted import expect_violation

Patch = pytest.MonkeyPatch


def expect(words: str, *, seeds: int, first: int = 1, several: bool = False) -> None:
    expect_violation(words, seeds=seeds, first=first, several=several, rewound=True)


def test_finds_that_nobody_compares_at_the_greeting(monkeypatch: Patch) -> None:
    """Planted: what an agent has heard of is not looked at (R4)."""

    async def nothing(_self: Guard, _host: str, **_heard: int) -> None:
        return

    monkeypatch.setattr(Guard, "compare", nothing)
    expect("R4", seeds=30)


def test_finds_what_was_forgotten_taken_for_failed(monkeypatch: Patch) -> None:
    """Planted: that an agent was told to forget what is open proves nothing (Z28).

    It is all that there is to notice by where only the end of a workflow was lost.
    """
    monkeypatch.setattr(Orders, "_proves_loss", lambda *_: False)
    expect("Z28", seeds=20, first=280)


def test_finds_a_standby_that_was_behind_under_living_ones(monkeypatch: Patch) -> None:
    """Planted: a store does not look whether it is the one of which more was heard (I5)."""
    monkeypatch.setattr(MemoryStore, "_check_newest", lambda _: None)
    expect("I5", seeds=40, first=10, several=True)


def test_finds_a_recovery_that_raises_nothing(monkeypatch: Patch) -> None:
    """Planted: epochs and intents go on from where the store stands (R3)."""
    monkeypatch.setattr(memory, "EPOCHS", 0)
    monkeypatch.setattr(memory, "ABOVE", 0)
    expect("R3", seeds=30)


def test_finds_workflows_that_are_not_held(monkeypatch: Patch) -> None:
    """Planted: what was open goes on by itself once an operator has confirmed (R1)."""
    monkeypatch.setattr(Loop, "_hold", lambda *_: None)
    expect("R1", seeds=60, first=18)


def test_finds_a_life_that_goes_on_while_an_operator_is_awaited(monkeypatch: Patch) -> None:
    """Planted: a coordinator takes over what is open although it knows (R2)."""
    open_ = Loop.open

    async def heedless(self: Loop) -> Opening:
        opening = await open_(self)
        workflows = tuple(await self._store.load_open())
        claim = Claim(owner_epoch=opening.owner_epoch, workflows=workflows, floor=NOBODYS)
        if opening.recovery is not None:
            self._adopt(claim)
        return opening

    monkeypatch.setattr(Loop, "open", heedless)
    expect("R2", seeds=30)


def test_finds_what_was_made_up_for_taken_for_done(monkeypatch: Patch) -> None:
    """Planted: how an attempt of a store that is no more ended is how the own one ended (I3)."""
    monkeypatch.setattr(orders, "_was_made_up_for", lambda *_: False)
    expect("I3", seeds=20, first=45)


def test_finds_a_guard_that_cries_for_nothing(monkeypatch: Patch) -> None:
    """Planted: what was heard of last counts as more than was given (R5)."""
    compare = Guard.compare

    async def strictly(self: Guard, host_id: str, *, owner_epoch: int, intent: int) -> None:
        await compare(self, host_id, owner_epoch=owner_epoch, intent=intent and intent + 1)

    monkeypatch.setattr(Guard, "compare", strictly)
    expect("R5", seeds=5)
