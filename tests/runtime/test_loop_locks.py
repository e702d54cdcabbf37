"""S-V24: two workflows on one image, on a real store: who waits, who is refused, who is next."""

from __future__ import annotations

import pytest

from coordinator.runtime import loop
from coordinator.runtime.ports import StoreError
from coordinator.saga.advance import Decision
from coordinator.saga.advance import advance as sound
from coordinator.saga.events import Event, LocksGranted, Now, ResumeRequested
from coordinator.saga.spec import Lock
from coordinator.saga.states import TaskState, WorkflowState
from coordinator.saga.workflow import Workflow
from countermand.rpc.errors import ImageBusy
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from tests.runtime.rig import ASK, Agent, Coordinator, coordinator, copy, series, until


def writes(*targets: str, **said: bool) -> WorkflowSpec:
    """Returns a plan that reads p/base and makes some images, one after the other."""
    tasks = (
        copy(f"make-{number}", "p/base", f"p/{target}", "a")
        for number, target in enumerate(targets)
    )
    return series(*tasks, **said)


def first(workflow_id: str) -> str:
    return f"workflows/{workflow_id}/tasks/make-0/attempts/1"


async def waiting(one: Coordinator, workflow_id: str) -> None:
    assert not one.known(workflow_id).locked
    assert one.task(workflow_id, "make-0") is TaskState.PENDING


async def test_the_second_waits_in_line_and_begins_when_the_first_has_settled(tmp_path) -> None:
    agent = Agent(pools=("p",))
    async with coordinator(tmp_path, {"a": agent}) as one:
        assert (await one.start("first", writes("vm"))).workflow.locked
        await one.start("second", writes("vm"))
        one.loop.hear("second", LocksGranted())  # as if said before the store refused a batch
        await one.start("other", writes("elsewhere"))  # a source is shared
        await waiting(one, "second")
        await until(lambda: len(agent.sent) == 2)
        [base, vm] = one.loop.lock_view("second")
        assert (base.lock.image, base.held, base.position) == ("base", False, 1)
        assert (vm.lock.image, vm.holders, vm.position) == ("vm", ("first",), 1)
        agent.end(first("first"))
        await until(lambda: first("second") in agent.sent)
        assert one.state("first") is WorkflowState.SUCCEEDED
        assert all(view.held for view in one.loop.lock_view("second"))
        assert one.loop.lock_view("first") == ()


async def test_who_does_not_want_to_wait_is_refused_with_the_holders_name(tmp_path) -> None:
    agent = Agent(pools=("p",))
    async with coordinator(tmp_path, {"a": agent}) as one:
        await one.start("first", writes("vm"))
        with pytest.raises(ImageBusy) as raised:
            await one.start("second", writes("vm", refuse_when_locked=True))
        assert raised.value.metadata == {
            "pool": "p",
            "image": "vm",
            "holder": "workflows/first",
        }
        assert one.loop.workflow("second") is None
        await until(lambda: agent.sent)
        agent.end(first("first"))
        await until(lambda: one.state("first") is WorkflowState.SUCCEEDED)
        again = await one.start("second", writes("vm", refuse_when_locked=True))
        assert again.workflow.locked


async def test_who_is_cancelled_in_line_leaves_it_and_lets_the_next_go_on(tmp_path) -> None:
    """S-V19: nothing of it ever starts."""
    agent = Agent(pools=("p",))
    async with coordinator(tmp_path, {"a": agent}) as one:
        await one.start("holder", writes("vm"))
        await one.start("waits", writes("vm", "other"))
        await one.start("behind", writes("other"))
        await waiting(one, "behind")
        await one.cancel("waits")
        await until(lambda: one.known("waits").settled)
        await until(lambda: first("behind") in agent.sent)
        assert first("waits") not in agent.sent


async def test_the_same_holder_holds_and_the_same_line_stands_after_a_restart(tmp_path) -> None:
    agent = Agent(pools=("p",))
    async with coordinator(tmp_path, {"a": agent}) as one:
        await one.start("first", writes("vm"))
        await one.start("second", writes("vm"))
        await one.start("third", writes("vm"))
    async with coordinator(tmp_path, {"a": agent}) as one:
        await waiting(one, "second")
        assert [view.position for view in one.loop.lock_view("third")] == [2, 2]
        with pytest.raises(ImageBusy):
            await one.start("fourth", writes("vm", refuse_when_locked=True))
        await until(lambda: first("first") in agent.sent)
        agent.end(first("first"))
        await until(lambda: first("second") in agent.sent)
        await waiting(one, "third")
        agent.end(first("second"))
        await until(lambda: first("third") in agent.sent)


async def test_who_was_not_told_that_its_turn_had_come_is_told_by_the_next_life(
    tmp_path, monkeypatch
) -> None:
    """The holder's end is durable, and the process stops before the next in line hears of it."""
    agent = Agent(pools=("p",))
    async with coordinator(tmp_path, {"a": agent}) as one:
        await one.start("first", writes("vm"))
        await one.start("second", writes("vm"))
        monkeypatch.setattr(one.loop, "_pass_locks_on", lambda *_, **__: iter(()))
        await until(lambda: agent.sent)
        agent.end(first("first"))
        await until(lambda: one.state("first") is WorkflowState.SUCCEEDED)
    async with coordinator(tmp_path, {"a": agent}) as one:
        await until(lambda: first("second") in agent.sent)


async def test_what_the_store_refuses_changes_no_line(tmp_path) -> None:
    agent = Agent(pools=("p",))
    async with coordinator(tmp_path, {"a": agent}) as one:
        one.store.failures = 1
        with pytest.raises(StoreError):
            await one.start("lost", writes("vm"))
        assert (await one.start("first", writes("vm"))).workflow.locked
        await one.start("second", writes("vm"))
        await until(lambda: agent.sent)
        one.store.failures = 2  # the holder's end is kept, and decided again each time
        agent.end(first("first"))
        await until(lambda: first("second") in agent.sent)
        assert one.state("first") is WorkflowState.SUCCEEDED
        with pytest.raises(ImageBusy):
            await one.start("third", writes("vm", refuse_when_locked=True))


async def test_a_line_of_many_moves_on_one_by_one(tmp_path) -> None:
    agent = Agent(pools=("p",))
    names = [f"w-{number:02}" for number in range(30)]
    async with coordinator(tmp_path, {"a": agent}) as one:
        for name in names:
            await one.start(name, writes("vm"))
        for name in names:
            await until(lambda name=name: first(name) in agent.sent)  # type: ignore[misc]
            assert agent.sent == [first(other) for other in names[: names.index(name) + 1]]
            agent.end(first(name))
        await until(lambda: one.known(names[-1]).settled)


async def test_who_is_quarantined_in_line_keeps_nobody_waiting(tmp_path, monkeypatch) -> None:
    """S-V25: it has not begun, so nothing of it can be in anybody's way."""
    agent = Agent(pools=("p",))
    async with coordinator(tmp_path, {"a": agent}) as one:
        await one.start("holder", writes("vm"))
        await one.start("poisoned", writes("vm"))
        await one.start("behind", writes("vm"))

        def advance(workflow: Workflow, event: Event, now: Now) -> Decision:
            assert workflow.id != "poisoned"
            return sound(workflow, event, now)

        monkeypatch.setattr(loop, "advance", advance)
        await one.cancel("poisoned")
        assert one.state("poisoned") is WorkflowState.QUARANTINED
        assert [view.position for view in one.loop.lock_view("behind")] == [1, 1]
        agent.end(first("holder"))
        await until(lambda: first("behind") in agent.sent)
    async with coordinator(tmp_path, {"a": agent}) as one:
        assert all(view.held for view in one.loop.lock_view("behind"))
        assert one.loop.lock_view("poisoned") == ()


async def test_who_is_quarantined_as_a_holder_holds_on(tmp_path, monkeypatch) -> None:
    """What it did is not known to be over: its images are nobody else's."""
    agent = Agent(pools=("p",))
    async with coordinator(tmp_path, {"a": agent}) as one:
        await one.start("holder", writes("vm"))
        await one.start("behind", writes("vm"))
        await until(lambda: agent.sent)
        monkeypatch.setattr(loop, "advance", lambda *_: 1 / 0)
        agent.end(first("holder"))
        await until(lambda: one.state("holder") is WorkflowState.QUARANTINED)
        monkeypatch.undo()
        await one.start("last", writes("vm"))
        assert [view.position for view in one.loop.lock_view("last")] == [2, 2]
        await waiting(one, "behind")


def given(image: str) -> ResumeRequested:
    """Returns a resume by which a workflow names one more image."""
    return ResumeRequested(ask=ASK, locks=(Lock(pool="p", image=image, exclusive=True),))


async def test_a_resume_takes_the_images_that_it_brings_or_changes_nothing(tmp_path) -> None:
    """Also over a restart, and when the store fails first; at the end nothing stays locked."""
    agent = Agent(pools=("p",))
    async with coordinator(tmp_path, {"a": agent}) as one:
        await one.start("other", writes("vm"))
        await one.start("first", writes("own"))
        await until(lambda: len(agent.sent) == 2)
        await one.pause("first")
        before = one.known("first")
        with pytest.raises(ImageBusy) as raised:
            await one.loop.ask("first", given("vm"))
        assert raised.value.metadata["holder"] == "workflows/other"
        assert one.known("first") == before
        one.store.failures = 1
        with pytest.raises(StoreError):
            await one.loop.ask("first", given("more"))
        assert [view.lock.image for view in one.loop.lock_view("first")] == ["base", "own"]
        await one.loop.ask("first", given("more"))
        await one.start("late", writes("more"))
        await waiting(one, "late")
    async with coordinator(tmp_path, {"a": agent}) as one:
        await waiting(one, "late")
        assert [v.lock.image for v in one.loop.lock_view("first") if v.held] == [
            "base",
            "more",
            "own",
        ]
        agent.end(first("first"))
        await until(lambda: first("late") in agent.sent)
        assert one.state("first") is WorkflowState.SUCCEEDED


async def test_an_image_that_is_being_repaired_is_given_to_nobody_meanwhile(tmp_path) -> None:
    """Nor once the lines are built anew, because the store has failed."""
    agent = Agent(pools=("p",))
    async with coordinator(tmp_path, {"a": agent}) as one:
        with one.loop.withheld("p", "vm"):
            await one.start("waits", writes("vm"))
            with pytest.raises(ImageBusy) as raised:
                await one.start("refused", writes("vm", refuse_when_locked=True))
            assert "a repair of p/vm" in raised.value.metadata["holder"]
            with pytest.raises(ImageBusy), one.loop.withheld("p", "vm"):
                raise AssertionError
            one.store.failures = 1
            with pytest.raises(StoreError):
                await one.start("lost", writes("vm"))
            await waiting(one, "waits")
            [_, vm] = one.loop.lock_view("waits")
            assert (vm.position, vm.holders) == (1, ())
        await until(lambda: first("waits") in agent.sent)
        with pytest.raises(ImageBusy) as raised, one.loop.withheld("p", "vm"):
            raise AssertionError
        assert raised.value.metadata["holder"] == "workflows/waits"
        agent.end(first("waits"))
        await until(lambda: one.state("waits") is WorkflowState.SUCCEEDED)
        with one.loop.withheld("p", "vm"):
            pass
