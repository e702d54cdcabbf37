"""What a line makes of a journal that is another one, or an older one (S-Z10, S-Z11)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from coordinator.agents.line import Line
from coordinator.agents.reconciling import can_ask_again, is_in_doubt, why_not
from coordinator.runtime.ports import Delivery, HostChange, HostRecord, HostState
from coordinator.saga import events
from coordinator.saga.advance import start
from coordinator.saga.commands import SendCancel
from coordinator.saga.workflow import About, Workflow
from coordinator.wire.spec import plan_of
from countermand.client.spec import image, sequence, task, workflow_spec
from countermand.rpc.crash import never
from countermand.rpc.errors import (
    AgentTaken,
    AttemptNotFound,
    CountermandError,
    SequenceAhead,
    VerbForbidden,
)
from countermand.v1.agent_pb2 import (
    GetHostResponse,
    HostReport,
    NoopResponse,
    WatchAttemptsRequest,
    WatchAttemptsResponse,
)
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.image_pb2 import Pool
from countermand.v1.verb_pb2 import (
    CopyImage,
    DeleteImage,
    DeleteSnapshot,
    Noop,
    ResizeImage,
    RevertImage,
)
from tests.runtime.test_line import ATTEMPT, NOW, Frozen, Stored, ears

IMAGE = image("fast/disk")
COPY = CopyImage(source=image("fast/base"), target=IMAGE)
DELETE = DeleteImage(target=IMAGE)
FAST = (("fast", "one"),)
RECORD = HostRecord(id="a", address="a:1", create_time=NOW, incarnation="i-1", pools=FAST)


def sent(action: Any) -> tuple[Workflow, Delivery]:
    """Returns a workflow whose only task is out, with what is asked for."""
    spec = workflow_spec("test", sequence("all", task("only", host="a", action=action)))
    decision = start(
        workflow_id="w",
        about=About(kind="k"),
        plan=plan_of(spec, Struct()),
        owner_epoch=1,
        now=events.Now(time=NOW, jitter=0.0, intent=5),
    )
    return decision.workflow, delivery(decision.commands)


def stopped(action: Any) -> tuple[Workflow, Delivery]:
    """Returns the same, with a wish to stop it."""
    workflow, command = sent(action)
    return workflow, SendCancel(task=command.task, number=command.number, host=command.host)


def delivery(commands: Any) -> Delivery:
    [command] = (each for each in commands if isinstance(each, Delivery))
    return command


def reported(**pools: str) -> HostReport:
    return HostReport(
        incarnation="i-2", pools=[Pool(pool_id=p, identity=i) for p, i in pools.items()]
    )


# -- whether it goes on by itself -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "fine"),
    [
        (sent(COPY), True),
        (sent(DELETE), True),
        (sent(Noop()), True),
        (sent(RevertImage(target=IMAGE, snapshot_id="s", safety_snapshot_id="t")), True),
        (sent(DeleteSnapshot(target=IMAGE, snapshot_id="s")), True),
        (sent(DeleteSnapshot(target=IMAGE, snapshot_id="s", expected_generation=3)), False),
        (sent(ResizeImage(target=IMAGE, virtual_size_bytes=2**30)), True),
        (stopped(COPY), True),
        (stopped(DELETE), False),
        (stopped(RevertImage(target=IMAGE, snapshot_id="s")), False),
    ],
)
def test_what_can_be_settled_by_asking_again(order, fine) -> None:
    """To stop or to fence what has no opposite proves nothing: nothing on the storage tells."""
    assert can_ask_again(*order) is fine


@pytest.mark.parametrize(
    ("pools", "report", "said"),
    [
        (FAST, reported(fast="one", more="two"), ""),
        (FAST, reported(), "its pool fast is missing"),
        (FAST, reported(fast="two"), "its pool fast is another one than before"),
        ((("fast", ""),), reported(fast=""), "its pool fast cannot be told from another"),
        (None, reported(fast="one"), "which pools it had before is not known"),
        ((), reported(), ""),
    ],
)
def test_every_pool_it_had_must_be_there_and_the_same(pools, report, said) -> None:
    record = replace(RECORD, pools=pools)
    assert why_not(record, report, in_flight=[sent(COPY)], has_been_there=True) == said
    assert why_not(record, report, in_flight=(), has_been_there=False) == "", "nothing is lost"


def test_one_attempt_that_cannot_be_settled_holds_the_host() -> None:
    report = reported(fast="one")
    said = why_not(RECORD, report, in_flight=[sent(COPY), stopped(DELETE)], has_been_there=True)
    assert said == f"whether {ATTEMPT} took effect cannot be found out"


@pytest.mark.parametrize(
    ("lost", "accepted", "doubted"), [(0, 0, False), (5, 0, False), (6, 0, True), (6, 6, False)]
)
def test_doubt_ends_with_what_an_operator_has_accepted(lost, accepted, doubted) -> None:
    record = replace(RECORD, lost_intent=lost, accepted_intent=accepted)
    assert is_in_doubt(record, *stopped(DELETE)) is doubted
    assert not is_in_doubt(record, *stopped(COPY))


# -- the line -------------------------------------------------------------------------------------


@dataclass
class Agent:
    """An agent whose journal the test changes between two connections."""

    incarnation: str = "i-1"
    identity: str = "one"
    sequence: int = 9
    has: bool = True  # the attempt
    calls: list[str] = field(default_factory=list)
    watched: list[int | None] = field(default_factory=list)
    cut: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(
        self, rpc: str, request: Message, *, timeout_s: float, traceparent: str = ""
    ) -> Any:
        if rpc == "GetHost":
            report = reported(fast=self.identity)
            report.incarnation, report.journal_sequence = self.incarnation, self.sequence
            return GetHostResponse(host=report)
        self.calls.append(rpc)
        if rpc == "GetAttempt" and not self.has:
            raise AttemptNotFound(attempt=ATTEMPT, incarnation=self.incarnation)
        self.has = True
        return NoopResponse(attempt=Attempt(name=ATTEMPT, state=Attempt.STATE_RUNNING))

    async def watch(self, request: WatchAttemptsRequest) -> AsyncIterator[WatchAttemptsResponse]:
        after = request.after_sequence if request.HasField("after_sequence") else None
        self.watched.append(after)
        if after is not None and after > self.sequence:
            raise SequenceAhead(after_sequence=after, journal_sequence=self.sequence)
        yield WatchAttemptsResponse(bookmark=self.sequence)
        await self.cut.wait()
        self.cut.clear()

    async def close(self) -> None:
        pass


class Kept(Stored):
    """What a line keeps of its host, and which facts it tells."""

    def __init__(self, workflow: Workflow | None = None) -> None:
        super().__init__(RECORD)
        self.facts: list[events.AttemptEvent] = []
        self.workflow = workflow

    def event(self, _workflow: str, event: Any) -> None:
        self.facts.append(event)

    async def open_on(self, _host: str) -> list[Workflow]:
        return [self.workflow] if self.workflow else []


@contextlib.asynccontextmanager
async def line_to(
    agent: Agent, kept: Kept, record: HostRecord = RECORD, **ports: Any
) -> AsyncIterator[Line]:
    kept.records = [record]
    line = Line(
        record,
        connect=lambda _: agent,
        cluster_id="c",
        clock=Frozen(),
        chance=Frozen(),
        crash=never,
        ears=ears(
            event=kept.event,
            record=kept.change,
            workflow=lambda _: kept.workflow,
            open_on=kept.open_on,
        ),
        forget_s=0,
        **ports,
    )
    running = asyncio.create_task(line.run())
    try:
        async with asyncio.timeout(20):
            yield line
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110  # what is waited for has no event of its own
        await asyncio.sleep(0)


async def test_a_line_watches_from_the_highest_sequence_it_has_heard_of() -> None:
    agent, kept = Agent(), Kept()
    async with line_to(agent, kept, replace(RECORD, heard_sequence=4)) as line:
        await line.ready(20)
        agent.cut.set()
        await until(lambda: len(agent.watched) == 2)
    assert agent.watched == [4, 9]
    assert kept.records[-1].heard_sequence == 9, "kept when the connection had gone"


async def test_an_older_journal_holds_the_host_until_it_is_accepted() -> None:
    """S-Z11: durably, although the journal may have come further by then."""
    agent, kept = Agent(), Kept()
    async with line_to(agent, kept, replace(RECORD, heard_sequence=12)) as line:
        await until(lambda: kept.records and kept.records[-1].held)
        agent.sequence = 20
        assert line.state is HostState.QUARANTINED
    held = kept.records[-1]
    async with line_to(agent, kept, held) as line:
        assert line.state is HostState.QUARANTINED
        await until(lambda: line._seen is not None)
        assert line.view().problem is not None
        await line.accept()
        await line.ready(20)
        await line.accept()  # a repeat changes nothing
        assert line.view().state is HostState.READY
    assert agent.watched == [12, 20]
    accepted = kept.records[-1]
    assert (accepted.held, accepted.heard_sequence, accepted.accepted_intent) == ("", 20, 100)


async def test_an_attempt_that_was_taken_and_is_gone_holds_the_host() -> None:
    """S-Z11: its sequence has come further again; nothing is concluded, and nothing sent."""
    agent, kept = Agent(), Kept()
    workflow, command = kept.workflow, _ = sent(Noop())
    async with line_to(agent, kept) as line:
        line.orders.deliver(workflow, command, ask_first=False)
        await until(lambda: kept.facts)
        agent.has = False
        agent.cut.set()
        await until(lambda: line.state is HostState.QUARANTINED)
        await until(lambda: kept.records[-1].held)
    assert agent.calls == ["Noop", "GetAttempt"]
    assert kept.records[-1].held == f"it had {ATTEMPT}, and has it no more"
    assert [type(fact) for fact in kept.facts] == [events.AttemptAccepted, events.AttemptLost]


async def test_news_that_overtakes_an_answer_does_not_hold_the_host() -> None:
    """It was asked for before it arrived, and the watch tells of it before that is answered."""

    class Overtaken(Agent):
        async def call(self, rpc: str, request: Message, **more: Any) -> Any:
            if rpc == "GetAttempt" and not self.has:
                line.orders.heard(Attempt(name=ATTEMPT, state=Attempt.STATE_RUNNING))
            return await super().call(rpc, request, **more)

    agent, kept = Overtaken(has=False), Kept()
    workflow, command = kept.workflow, _ = sent(Noop())
    async with line_to(agent, kept) as line:
        line.orders.deliver(workflow, command, ask_first=True)
        await until(lambda: agent.has)
        assert line.state is HostState.READY
    assert agent.calls == ["GetAttempt", "Noop"], "it is asked for again, and is there"
    assert [type(fact) for fact in kept.facts] == [events.AttemptAccepted]


async def test_a_lost_journal_is_asked_again_under_its_new_incarnation() -> None:
    """S-Z10: the pool is there; "not received" is read as no more than "ask again"."""
    agent, kept = Agent(), Kept()
    workflow, command = kept.workflow, _ = sent(Noop())
    async with line_to(agent, kept) as line:
        line.orders.deliver(workflow, command, ask_first=False)
        await until(lambda: kept.facts)
        agent.incarnation, agent.has, agent.sequence = "i-2", False, 1
        agent.cut.set()
        await until(lambda: len(agent.calls) == 3)
        assert line.state is HostState.READY
    assert agent.calls == ["Noop", "GetAttempt", "Noop"]
    assert agent.watched == [None, None]
    adopted = next(record for record in kept.records if record.incarnation == "i-2")
    assert (adopted.lost_intent, adopted.accepted_intent, adopted.held) == (100, 0, "")
    [event] = kept.done
    assert (event.change, event.principal) == (HostChange.RECONCILED, "policy")
    assert "journal i-1 is lost" in event.reason


async def test_the_journal_of_another_host_is_no_lost_one() -> None:
    """Its address has passed on to another machine: nothing is sent there, nothing concluded."""
    agent, kept = Agent(incarnation="i-2"), Kept()
    workflow, command = kept.workflow, _ = sent(Noop())
    async with line_to(agent, kept, owner_of={"i-2": "other"}.get) as line:
        line.orders.deliver(workflow, command, ask_first=True)
        await until(lambda: isinstance(line.problem, AgentTaken))
        assert line.state is not HostState.READY
    assert (agent.calls, kept.records, kept.facts) == ([], [RECORD], [])


async def test_another_pool_holds_the_host_and_accepting_it_goes_on() -> None:
    """S-Z10, "and both"."""
    agent, kept = Agent(incarnation="i-2", identity="two"), Kept()
    workflow, command = kept.workflow, _ = sent(Noop())
    async with line_to(agent, kept) as line:
        line.orders.deliver(workflow, command, ask_first=True)
        await until(lambda: kept.facts)
        assert isinstance(kept.facts[0], events.AttemptLost)
        assert kept.facts[0].failure.reason == "JOURNAL_LOST"
        assert (line.state, agent.calls) == (HostState.QUARANTINED, [])
        await line.accept()
        await line.ready(20)
    assert kept.records[-1].pools == (("fast", "two"),)


async def test_a_host_that_was_never_heard_cannot_be_accepted() -> None:
    class Silent(Agent):
        async def call(self, rpc: str, request: Message, **_: Any) -> Any:
            raise CountermandError

    async with line_to(Silent(), Kept(), replace(RECORD, held="it went back")) as line:
        with pytest.raises(VerbForbidden, match="has not answered so far"):
            await line.accept()
