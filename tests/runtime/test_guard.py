"""S-Z19: what shows that the store went back in time, what does not, and what becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.message import Message

from coordinator.runtime.guard import Guard
from coordinator.runtime.ports import (
    HostState,
    Opening,
    Store,
    StoreFencedError,
    StoreRewoundError,
)
from coordinator.saga.events import AttemptFailed, AttemptSucceeded
from coordinator.store.memory import Kept, MemoryStore
from countermand.rpc.errors import AttemptReused, CountermandError, Expired, RecoveryRequired
from countermand.v1.agent_pb2 import GetAttemptResponse
from countermand.v1.attempt_pb2 import Attempt
from tests.runtime.test_line import ATTEMPT
from tests.runtime.test_line_errors import ASK, SEND, Agent, Heard, Standing, line_to, taken
from tests.store.conftest import memory_lives
from tests.store.specs import three_tasks
from tests.store.walks import Walk


@contextlib.asynccontextmanager
async def lives(store: Store) -> AsyncIterator[tuple[Guard, Opening]]:
    opening = await store.open()
    yield Guard(store, opening), opening


async def test_an_agent_may_have_heard_of_whatever_was_given_and_of_no_more():
    store = memory_lives()()
    async with lives(store) as (guard, opening):
        await store.commit([Walk("w", spec=three_tasks()).change])
        given = await store.given()
        assert given.owner_epoch == opening.owner_epoch
        await guard.compare("a", owner_epoch=0, intent=0)
        await guard.compare("a", owner_epoch=given.owner_epoch, intent=given.next_intent - 1)

        with pytest.raises(RecoveryRequired, match="host a has heard of epoch 2, and at most 1"):
            await guard.compare("a", owner_epoch=2, intent=0)
        with pytest.raises(StoreRewoundError, match="heard of epoch 2"):
            await guard.run()
        assert await store.recovery() is not None


async def test_what_an_agent_has_heard_between_two_lives_was_lost():
    """Although this life has given higher ones by the time that it is greeted."""
    live = memory_lives()
    await (store := live()).open()
    await store.commit([Walk("w", spec=three_tasks()).change])
    lost = (await store.given()).next_intent
    async with lives(live()) as (guard, _):
        await guard.compare("a", owner_epoch=1, intent=lost - 1)
        with pytest.raises(RecoveryRequired, match=f"heard of intent {lost}, and none from"):
            await guard.compare("a", owner_epoch=1, intent=lost)


async def test_a_store_that_knows_nothing_of_this_life_is_an_older_one():
    """Its session is over, for all that others say; in truth it has never been."""
    kept = Kept()
    store = MemoryStore(kept, new_id=lambda: "c", shared=True)
    async with lives(store) as (guard, _):
        kept.owner_epoch, kept.sessions = 0, {}
        error = await guard.why_ended(StoreFencedError("session 1 has ended"))
        assert isinstance(error, StoreRewoundError)
    assert kept.recovery is not None


async def test_a_life_that_waits_compares_nothing_and_ends_once_an_operator_has_looked():
    live = memory_lives()
    store = live()
    async with lives(store) as (guard, _):
        guard.notice("a test")
        with pytest.raises(StoreRewoundError):
            await guard.run()
    async with lives(store) as (guard, _):
        await guard.compare("a", owner_epoch=10**9, intent=10**9)
        running = asyncio.create_task(guard.run())
        recovered = await live().recover("admin", "looked")
        assert recovered is not None
        with pytest.raises(StoreRewoundError, match="an operator"):
            await running
    async with lives(store) as (guard, _):
        assert guard.may_be_lost(recovered.next_intent - 1)
        assert not guard.may_be_lost(recovered.next_intent)
        assert guard.is_from_before(recovered.owner_epoch - 1)
        assert not guard.is_from_before(recovered.owner_epoch)
        await guard.compare("a", owner_epoch=recovered.owner_epoch - 1, intent=10**9)


async def test_what_another_has_brought_to_its_end_meanwhile_proves_nothing():
    """Who stood still sends for a workflow that was claimed, has settled and was forgotten."""
    live = memory_lives(shared=True)
    frozen, other = live(name="frozen"), live(name="other")
    async with lives(frozen) as (guard, _), lives(other):
        await frozen.commit([Walk("claimed", spec=three_tasks()).change])
        await frozen.end_session()
        assert await other.claim(10) is not None
        guard.notice("a late refusal", own="claimed")
        guard.notice("of a workflow that has been removed", own="gone")
        guard.notice("something else")
        with pytest.raises(StoreRewoundError, match="something else"):
            await guard.run()


async def test_what_is_still_the_own_one_proves_it():
    store = memory_lives(shared=True)()
    async with lives(store) as (guard, _):
        await store.commit([Walk("w", spec=three_tasks()).change])
        guard.notice("a refusal", own="w")
        with pytest.raises(StoreRewoundError, match="a refusal"):
            await guard.run()


class Noted:
    """Stands in for the guard: it notes what it hears."""

    def __init__(self, *, lost_before: int = 0, epochs_before: int = 0) -> None:
        self.noticed: list[str] = []
        self.some = asyncio.Event()
        self._lost_before = lost_before
        self._epochs_before = epochs_before

    async def compare(self, host_id: str, *, owner_epoch: int, intent: int) -> None:
        if (owner_epoch, intent) != (0, 0):
            self.notice(f"{host_id}: {owner_epoch}, {intent}")
            raise RecoveryRequired(why="a test")

    def notice(self, why: str, *, own: str = "") -> None:
        self.noticed.append(f"{why}, of {own}" if own else why)
        self.some.set()

    def may_be_lost(self, intent: int) -> bool:
        return intent < self._lost_before

    def is_from_before(self, owner_epoch: int) -> bool:
        return owner_epoch < self._epochs_before


async def test_nothing_is_sent_to_an_agent_that_has_heard_of_more():
    agent, guard = Agent({}), Noted()
    agent.heard = 7, 9
    async with line_to(agent, Heard(), guard=guard) as line, asyncio.timeout(20):
        ASK.deliver(line)
        await guard.some.wait()
        assert line.state is not HostState.READY
    assert guard.noticed[0] == "a: 7, 9"
    assert set(agent.calls) == {"GetHost"}


async def test_an_agent_is_compared_once_more_where_another_server_may_have_taken_over():
    """One that was behind: who had the store open then may have ended with it."""
    agent, guard = Agent({}), Noted()
    async with line_to(agent, Heard(), guard=guard) as line, asyncio.timeout(20):
        await line.ready(20)
        agent.heard = 7, 9
        line.greet_anew()
        await guard.some.wait()
    assert guard.noticed[0] == "a: 7, 9"


async def test_what_was_given_is_asked_anew_of_a_store_that_another_server_may_serve():
    kept = Kept()
    store = MemoryStore(kept, new_id=lambda: "c")
    async with lives(store) as (guard, _):
        await store.commit([Walk("w", spec=three_tasks()).change])
        heard = (await store.given()).next_intent - 1
        await guard.compare("a", owner_epoch=1, intent=heard)
        kept.next_intent = 1
        guard.anew()
        with pytest.raises(RecoveryRequired):
            await guard.compare("a", owner_epoch=1, intent=heard)


async def test_what_was_forgotten_while_it_was_open_may_have_taken_effect():
    """It would be made up for what succeeded before it, and a good image removed."""
    agent = Agent({"Noop": [Expired(attempt=ATTEMPT), taken(Attempt.STATE_SUCCEEDED)]})
    heard, guard = Heard(), Noted()
    async with line_to(agent, heard, guard=guard) as line, asyncio.timeout(20):
        SEND.deliver(line)
        await guard.some.wait()
        assert guard.noticed == [f"host a was told to forget {ATTEMPT}, which is open, of w"]
        assert heard.facts == []


async def test_once_an_operator_has_looked_it_has_failed():
    """The workflow is paused by then: nothing follows from it."""
    agent, heard = Agent({"Noop": [Expired(attempt=ATTEMPT)]}), Heard()
    async with line_to(agent, heard, guard=Noted(lost_before=2)) as line, asyncio.timeout(20):
        SEND.deliver(line)
        await heard.some.wait()
    [fact] = heard.facts
    assert isinstance(fact, AttemptFailed)
    assert fact.failure.reason == "EXPIRED"


def said(**facts: Any) -> GetAttemptResponse:
    return GetAttemptResponse(attempt=Attempt(name=ATTEMPT, **facts))


async def failed_for(agent: Agent, guard: Noted) -> str:
    """Returns why an attempt fails that is sent, or asked about, once more."""
    heard = Heard()
    async with line_to(agent, heard, guard=guard) as line, asyncio.timeout(20):
        SEND.deliver(line)
        await heard.some.wait()
    [fact] = heard.facts
    assert isinstance(fact, AttemptFailed)
    return fact.failure.reason


async def test_what_was_lost_under_the_same_name_is_another_attempt():
    """An operator has it tried again with another source: the image is of the old one."""
    answers: dict[str, list[Message | CountermandError]] = {
        "Noop": [AttemptReused(attempt=ATTEMPT)],
        "GetAttempt": [said(state=Attempt.STATE_SUCCEEDED, owner_epoch=3)],
    }
    guard = Noted(lost_before=1, epochs_before=4)
    assert await failed_for(Agent(answers), guard) == "ATTEMPT_REUSED"


@pytest.mark.parametrize("order", [SEND, ASK], ids=["sent", "asked first"])
async def test_what_was_lost_and_is_the_same_request_is_found_done(order: Standing):
    """A workflow that an operator lets go on: the agent joins it, and does nothing twice."""
    done = taken(Attempt.STATE_SUCCEEDED)
    done.attempt.owner_epoch = 3
    agent = Agent({"Noop": [done], "GetAttempt": [said(state=Attempt.STATE_SUCCEEDED)]})
    heard = Heard()
    guard = Noted(lost_before=1, epochs_before=4)
    async with line_to(agent, heard, guard=guard) as line, asyncio.timeout(20):
        order.deliver(line)
        await heard.some.wait()
    assert isinstance(heard.facts[0], AttemptSucceeded)
    assert agent.calls[-1] == "Noop"


async def test_what_succeeded_and_was_made_up_for_shows_nothing():
    """By a store that is no more: this one would take its image to be there."""
    made_up_for = taken(Attempt.STATE_SUCCEEDED)
    made_up_for.attempt.tombstoned = True
    guard = Noted(lost_before=2, epochs_before=4)
    assert await failed_for(Agent({"Noop": [made_up_for]}), guard) == "COMPENSATED"
