"""What keeps a host from being drained and removed: also what it settles for another (S-V34)."""

from __future__ import annotations

import pytest

from coordinator.runtime.draining import blocking, names
from coordinator.runtime.ports import HostState
from coordinator.saga.events import Ask, FenceRequested
from coordinator.saga.workflow import has_been_on
from tests.runtime.rig import Agent, coordinator, noop, series, until
from tests.saga.language import OTHER, play

LOST = "a:run+lost+hang"


@pytest.mark.parametrize(
    ("tree", "world"),
    [
        ("a", f"{LOST} fence-a:hang fence-a@lost:a"),
        # It was found there, and would be made up for there.
        ("a; b", f"{LOST} fence-a:ok fence-a@lost:a b:hang"),
    ],
)
def test_a_host_that_fences_is_needed(tree, world):
    workflow = play(tree, world).workflow
    assert names(workflow, OTHER)
    assert list(blocking(workflow, OTHER, {OTHER})) == [1]


def test_a_host_that_has_fenced_blocks_its_drain_no_more_and_is_kept():
    """Its journal knows of the workflow: what forgets that has to reach it."""
    workflow = play("a:retry=2", f"{LOST},hang fence-a:fenced fence-a@lost:a").workflow
    assert names(workflow, OTHER)
    assert list(blocking(workflow, OTHER, {OTHER})) == []


def test_who_cannot_fence_is_not_needed():
    workflow = play("a", f"{LOST} fence-a:refused fence-a@lost:a").workflow
    assert not names(workflow, OTHER)
    assert list(blocking(workflow, OTHER, {OTHER})) == []


async def test_a_host_that_fences_does_not_go_on_with_another_storage(tmp_path):
    """Once its journal is lost, its pools must be the same: the fence has to be on the old one."""
    agents = {"a": Agent(mute=True), "b": Agent(mute=True)}
    async with coordinator(tmp_path, agents) as one:
        await until(lambda: one.fleet.all()["a"].state is HostState.READY)
        await one.start("w", series(noop("only", "a")))
        assert not has_been_on(one.known("w"), "b")
        ask = Ask(principal="eve", reason="it is lost", request_id="r")
        await one.loop.ask("w", FenceRequested(ask=ask, task=1, host="b"))
        assert has_been_on(one.known("w"), "b")
