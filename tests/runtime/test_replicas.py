"""Z7, I6: several coordinators on one store: each workflow has one owner, and never two."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from coordinator.agents import fleet
from coordinator.runtime import session
from coordinator.runtime.ports import AuditEvent, HostChange, HostRecord, StoreFencedError
from coordinator.saga.events import ResumeRequested
from coordinator.saga.spec import Lock
from coordinator.saga.states import TaskState, WorkflowState
from countermand.rpc.errors import ImageBusy
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from tests.runtime import replicas
from tests.runtime.replicas import Shared, replica
from tests.runtime.rig import ASK, NOW, Agent, World, copy, noop, series, until

LAPSED = timedelta(seconds=16)
FURTHER = Lock(pool="p", image="further", exclusive=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has replicas look more often: what is waited for is the same."""
    for name in ("RENEW_S", "CLAIM_S", "OTHERS_S"):
        monkeypatch.setattr(session, name, 0.01)
    monkeypatch.setattr(fleet, "FOLLOW_S", 0.01)


DRAINED = AuditEvent(subject="hosts/a", change=HostChange.DRAINED, time=NOW, principal="p")


def first(workflow_id: str, task: str = "t") -> str:
    return f"workflows/{workflow_id}/tasks/{task}/attempts/1"


async def test_each_owns_what_it_started_and_nothing_else():
    agent = Agent()
    async with replica(Shared({"a": agent})) as one:
        shared = Shared({"a": agent}, kept=one.store._kept)
        async with replica(shared) as other:
            await one.start("x", series(noop("t", "a")))
            await other.start("y", series(noop("t", "a")))
            await until(lambda: len(agent.sent) == 2)

            assert [w.id for w in one.loop.open_workflows()] == ["x"]
            assert [w.id for w in other.loop.open_workflows()] == ["y"]
            agent.end(first("x"))
            agent.end(first("y"))
            await until(lambda: one.state("x") is WorkflowState.SUCCEEDED)
            await until(lambda: other.state("y") is WorkflowState.SUCCEEDED)


async def test_what_a_lapsed_session_left_is_claimed_and_its_agents_are_asked_before_anything():
    agent = Agent()
    shared = Shared({"a": agent})
    async with replica(shared) as one:
        await one.start("x", series(noop("t", "a")))
        await until(lambda: agent.sent)
        await one.freeze()
        async with replica(shared) as other:
            await until(lambda: other.keeper.sessions)
            assert other.loop.workflow("x") is None
            shared.ahead += LAPSED
            await until(lambda: other.loop.workflow("x"))
            await until(lambda: other.known("x").owner_epoch == 2)
            agent.end(first("x"))
            await until(lambda: other.state("x") is WorkflowState.SUCCEEDED)
            assert agent.sent == [first("x")]


async def test_a_session_that_was_ended_is_claimed_at_once():
    agent = Agent()
    shared = Shared({"a": agent})
    async with replica(shared) as one, replica(shared) as other:
        await one.start("x", series(noop("t", "a")))
        await one.freeze()
        await one.store.end_session()
        await until(lambda: other.loop.workflow("x"))


async def test_a_coordinator_whose_session_has_ended_commits_nothing_and_stops():
    agent = Agent()
    shared = Shared({"a": agent})
    async with replica(shared) as one, replica(shared) as other:
        await one.start("x", series(noop("t", "a"), noop("u", "a")))
        await until(lambda: agent.sent)
        await one.store.end_session()
        await until(lambda: other.loop.workflow("x"))
        agent.end(first("x"))
        await until(one.running.done)
        assert isinstance(one.running.exception(), StoreFencedError)
        await until(lambda: first("x", "u") in agent.sent)
        agent.end(first("x", "u"))
        await until(lambda: other.state("x") is WorkflowState.SUCCEEDED)
        assert agent.sent == [first("x"), first("x", "u")]


async def test_who_could_not_renew_in_time_sends_nothing(monkeypatch: pytest.MonkeyPatch):
    agent = Agent()
    async with replica(Shared({"a": agent})) as one:
        await one.start("sent", series(noop("t", "a")))
        await until(lambda: agent.sent)
        monkeypatch.setattr(session, "TRUST_MARGIN_S", session.LASTS_S)
        await until(lambda: not one.keeper.trusted())
        await one.start("not", series(noop("t", "a")))
        await until(lambda: one.task("not", "t") is TaskState.STARTING)
        agent.end(first("sent"))
        await until(lambda: one.state("sent") is WorkflowState.SUCCEEDED)  # what is heard counts
        assert agent.sent == [first("sent")]


# -- hosts ----------------------------------------------------------------------------------------


async def test_who_is_held_up_by_the_store_judges_nobody(monkeypatch: pytest.MonkeyPatch):
    """All others may have been held up, too: each gets the time to say that it is there."""
    shared = Shared({"a": Agent()})
    async with replica(shared) as one:
        await one.start("x", series(noop("t", "a")))
        await one.freeze()
        monkeypatch.setattr(session, "SLOW_S", 0.0)  # any renewal takes longer
        async with replica(shared) as other:
            await until(lambda: not other.keeper.judges)
            shared.ahead += LAPSED
            await until(lambda: other.keeper.sessions)
            assert other.loop.workflow("x") is None
            monkeypatch.setattr(session, "SLOW_S", 5.0)
            await until(lambda: other.loop.workflow("x"))


async def test_who_stood_still_itself_judges_nobody_before_it_has_renewed(
    monkeypatch: pytest.MonkeyPatch,
):
    """In the middle of a transaction it may have held up all others until now."""
    shared = Shared({"a": Agent()})
    async with replica(shared) as one:
        await one.start("x", series(noop("t", "a")))
        await one.freeze()
        async with replica(shared) as other:
            monkeypatch.setattr(session, "LATE_S", 0.0)  # any renewal is too long ago
            assert not other.keeper.judges
            shared.ahead += LAPSED
            await until(lambda: other.keeper.sessions)
            assert other.loop.workflow("x") is None
            monkeypatch.setattr(session, "LATE_S", 7.5)
            await until(lambda: other.loop.workflow("x"))


async def test_what_one_does_with_a_host_the_others_hear():
    a, b = Agent(), Agent()
    shared = Shared({"a": a})
    async with replica(shared) as one, replica(shared) as other:
        shared.agents["b"] = b
        b.incarnation = "of-b"
        await one.store.put_host(HostRecord(id="b", address="b", create_time=NOW))
        await until(lambda: "b" in other.fleet.all())
        assert await one.fleet.drain("a", DRAINED)
        assert not await other.fleet.drain("a", DRAINED), "it is, whether heard of or not"
        await until(lambda: other.fleet.all()["a"].record.draining)
        await other.start("x", series(noop("t")))
        await until(lambda: b.sent == [first("x")])
        await one.store.remove_host("a")
        await until(lambda: "a" not in other.fleet.all())


async def test_a_host_that_is_added_while_all_are_read_keeps_its_line(
    monkeypatch: pytest.MonkeyPatch,
):
    shared = Shared({"a": Agent()})
    async with replica(shared) as one:
        shared.agents["b"] = Agent()
        added = HostRecord(id="b", address="b", create_time=NOW)
        read = one.store.hosts
        await until(lambda: one.keeper.sessions)

        async def slowly() -> Sequence[HostRecord]:
            found: Sequence[HostRecord] = await read()
            monkeypatch.undo()
            await one.store.put_host(added)
            await one.fleet.begin(added, wait_s=0.0)
            return found

        monkeypatch.setattr(one.store, "hosts", slowly)
        await one.fleet.look()
        assert "b" in one.fleet.all()


async def test_of_two_that_meet_a_new_journal_one_settles_it_and_the_other_goes_on_from_there():
    agent = Agent()
    shared = Shared({"a": agent})
    async with replica(shared) as one, replica(shared) as other:
        await one.start("x", series(noop("t", "a")))
        await other.start("y", series(noop("t", "a")))
        await until(lambda: len(agent.sent) == 2)
        agent.journal.clear()
        agent.incarnation = "of-another"
        agent.go_down()
        agent.up = True
        await until(lambda: len(agent.sent) == 4)  # asked for again, by each its own
        records = {each.fleet.all()["a"].record.incarnation for each in (one, other)}
        assert records == {"of-another"}
        [done] = await one.store.audit("hosts/a", before=1 << 60, limit=9)
        assert done.change is HostChange.RECONCILED


async def test_an_agent_forgets_nothing_above_what_another_may_still_send():
    agent = Agent()
    shared = Shared({"a": agent})
    async with replica(shared) as one, replica(shared) as other:
        await one.start("open", series(noop("t", "a")))
        await until(lambda: agent.sent)
        [lowest] = [a.intent for a in one.known("open").task(1).attempts]
        await other.start("over", series(noop("t", "a")))
        await until(lambda: first("over") in agent.sent)
        agent.end(first("over"))
        await until(lambda: other.state("over") is WorkflowState.SUCCEEDED)
        looks = len(other.keeper.sessions)
        await until(lambda: other.loop.low_watermark("a") == lowest)
        assert looks == 2
        assert not agent.forgets
        agent.end(first("open"))
        await until(lambda: "workflows/over" in {w for f in agent.forgets for w in f.workflows})


async def test_who_was_alone_has_agents_forget_nothing_above_what_one_that_has_come_may_send(
    monkeypatch: pytest.MonkeyPatch,
):
    shared = Shared({"a": Agent()})
    monkeypatch.setattr(session, "RENEW_S", 1e6)
    async with replica(shared) as one:
        await until(lambda: one.keeper.sessions)
        async with replica(shared) as other:
            may_send = other.loop.floor().next_intent
            await one.loop.unsent_intent()  # as when a journal was lost
            await until(lambda: one.loop.floor().next_intent > may_send)

            assert one.loop.low_watermark("a") <= may_send
            assert one.loop.fence_low_watermark() <= may_send


async def test_of_intents_that_were_taken_by_two_at_once_the_lower_ones_are_left():
    shared = Shared({"a": Agent()})
    async with replica(shared) as one:
        earlier, later = await one.store.take_intents(), await one.store.take_intents()
        one.loop.go_on_from(*later)
        await one.start("x", series(noop("t", "a")))
        told = one.loop.floor().next_intent
        one.loop.go_on_from(*earlier)
        await one.start("y", series(noop("t", "a")))

        tasks = [one.known(each).task(one.known(each).plan.by_name["t"]) for each in ("x", "y")]
        intents = [task.last.intent for task in tasks]
        assert earlier[1] <= later[0] <= intents[0] < intents[1]
        assert one.loop.floor().next_intent >= told


async def test_all_that_live_share_the_window_of_a_host():
    shared = Shared({"a": Agent()})
    async with replica(shared) as one:
        await until(lambda: one.keeper.live() == 1)
        whole = one.fleet.all()["a"].window
        async with replica(shared) as other:
            await until(lambda: one.fleet.all()["a"].window == whole // 2)
            await other.store.end_session()
            await until(lambda: one.fleet.all()["a"].window == whole)


# -- the house ------------------------------------------------------------------------------------


async def test_one_keeps_the_house_and_when_it_is_gone_another():
    shared = Shared({})
    async with replica(shared) as one:
        await one.keeper.keeps_house.wait()
        async with replica(shared) as other:
            await until(lambda: other.keeper.housekeeper)
            assert not other.keeper.keeps_house.is_set()
            await one.freeze()
            await one.store.end_session()
            await other.keeper.keeps_house.wait()


# -- images ---------------------------------------------------------------------------------------


def makes(target: str, **said: bool) -> WorkflowSpec:
    return series(copy("t", "p/base", f"p/{target}", "a"), **said)


async def test_an_image_that_anothers_workflow_holds_is_waited_for_and_then_had():
    """S-V24."""
    agent = Agent(pools=("p",))
    shared = Shared({"a": agent})
    async with replica(shared) as one, replica(shared) as other:
        await one.start("x", makes("vm"))
        decision = await other.start("y", makes("vm"))
        assert not decision.workflow.locked
        assert other.loop.lock_view("y")[1].holders == ("x",)
        await until(lambda: agent.sent)
        agent.end(first("x"))
        await until(lambda: first("y") in agent.sent)
        assert one.state("x") is WorkflowState.SUCCEEDED


async def test_who_does_not_wait_is_refused_with_the_name_of_anothers_workflow():
    agent = Agent(pools=("p",))
    shared = Shared({"a": agent})
    async with replica(shared) as one, replica(shared) as other:
        await one.start("x", makes("vm"))
        with pytest.raises(ImageBusy) as raised:
            await other.start("y", makes("vm", refuse_when_locked=True))
        assert raised.value.metadata["holder"] == "workflows/x"
        await until(lambda: agent.sent)
        agent.end(first("x"))
        await until(lambda: one.state("x") is WorkflowState.SUCCEEDED)
        again = await other.start("y", makes("vm", refuse_when_locked=True))
        assert again.workflow.locked


async def test_nobody_overtakes_and_nobody_waits_in_a_circle():
    agent = Agent(pools=("p",))
    shared = Shared({"a": agent})
    async with replica(shared) as one, replica(shared) as other:
        await one.start("a1", makes("vm"))
        await other.start("b1", makes("vm"))
        await one.start("a2", makes("vm"))
        await other.start("b2", makes("vm"))
        for name in ("a1", "b1", "a2", "b2"):
            await until(lambda: agent.sent)
            assert agent.sent.pop() == first(name)
            agent.end(first(name))
        await until(lambda: other.state("b2") is WorkflowState.SUCCEEDED)


class Ahead(World):
    """A machine whose clock is ahead of the others'."""

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=2)


async def test_who_holds_is_refused_further_images_while_an_older_one_waits_for_what_it_holds(
    monkeypatch: pytest.MonkeyPatch,
):
    """Older by its own clock; nobody asks for ever."""
    shared = Shared({"a": Agent(pools=("p",))})
    monkeypatch.setattr(replicas, "World", Ahead)
    async with replica(shared) as one:
        monkeypatch.setattr(replicas, "World", World)
        async with replica(shared) as other:
            await one.start("holds", makes("vm"))
            await until(lambda: shared.agents["a"].sent)
            await other.start("waits", makes("vm"))
            await one.pause("holds")
            assert other.known("waits").create_time < one.known("holds").create_time
            with pytest.raises(ImageBusy, match="waits"):
                await one.loop.ask("holds", ResumeRequested(ask=ASK, locks=(FURTHER,)))
            assert not one.known("holds").more_locks


async def test_who_waits_in_line_is_claimed_with_its_place():
    agent = Agent(pools=("p",))
    shared = Shared({"a": agent})
    async with replica(shared) as one, replica(shared) as other:
        await one.start("x", makes("vm"))
        await one.start("y", makes("vm"))
        await until(lambda: agent.sent)
        await one.freeze()
        await one.store.end_session()
        await until(lambda: other.loop.workflow("y"))
        assert other.task("y", "t") is TaskState.PENDING
        agent.end(first("x"))
        await until(lambda: first("y") in agent.sent)
