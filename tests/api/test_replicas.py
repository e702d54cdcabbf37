"""Any replica answers any call, as if it owned every workflow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.status_pb2 import Status
from grpc.aio import AioRpcError

from coordinator.api import letters
from coordinator.runtime import session, tail
from coordinator.runtime.ports import LETTERS_LAST, Letter, LetterAnswer
from coordinator.store.memory import MemoryStore
from countermand.client.spec import sequence, workflow_spec
from countermand.rpc.names import attempt_name, task_name, workflow_name
from countermand.rpc.status import DETAILS_KEY
from countermand.v1 import external_task_pb2 as epb
from countermand.v1 import host_pb2 as hpb
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.failure_pb2 import Failure
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from countermand.v1.workflow_state_pb2 import WORKFLOW_STATE_RUNNING
from tests.api.calls import refused, state
from tests.api.replicas import Replica, replica
from tests.api.vendors import external, plan_of, struct
from tests.runtime.replicas import Shared
from tests.runtime.rig import Agent, noop, series, until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has replicas look more often: what is waited for is the same."""
    for module, names in (
        (session, ("RENEW_S", "CLAIM_S", "OTHERS_S")),
        (letters, ("LOOK_S", "LOOK_IDLE_S", "OWNERS_S")),
        (tail, ("LOOK_S",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, 0.01)


@pytest.fixture
def agent() -> Agent:
    return Agent(pools=("p",))


@pytest.fixture
def shared(agent: Agent) -> Shared:
    return Shared({"a": agent})


@pytest.fixture
async def one(shared: Shared) -> AsyncIterator[Replica]:
    """Yields the replica that owns what is started."""
    async with replica(shared) as one:
        yield one


@pytest.fixture
async def other(shared: Shared, one: Replica) -> AsyncIterator[Replica]:
    """Yields the replica that is asked."""
    async with replica(shared) as other:
        yield other


async def start(at: Replica, workflow_id: str, spec: WorkflowSpec | None = None) -> pb.Workflow:
    spec = spec or series(noop("t", "a"), noop("u", "a"))
    request = pb.StartWorkflowRequest(workflow_id=workflow_id, spec=spec)
    return (await at.workflows.StartWorkflow(request)).workflow


async def get(at: Replica, workflow_id: str) -> pb.Workflow:
    request = pb.GetWorkflowRequest(name=workflow_name(workflow_id))
    return (await at.workflows.GetWorkflow(request)).workflow


def pause(workflow_id: str, request_id: str = "pause", **said: Any) -> pb.PauseWorkflowRequest:
    name = workflow_name(workflow_id)
    return pb.PauseWorkflowRequest(name=name, request_id=request_id, **{"reason": "r", **said})


def resume(workflow_id: str, request_id: str = "resume") -> pb.ResumeWorkflowRequest:
    return pb.ResumeWorkflowRequest(name=workflow_name(workflow_id), request_id=request_id)


def cancel(workflow_id: str, request_id: str = "cancel") -> pb.CancelWorkflowRequest:
    name = workflow_name(workflow_id)
    return pb.CancelWorkflowRequest(name=name, request_id=request_id, reason="r")


# -- what an operator asks ------------------------------------------------------------------------


async def test_a_workflow_is_steered_through_a_replica_that_does_not_own_it(one, other, agent):
    await start(one, "x")
    await until(lambda: agent.sent)
    assert state((await other.workflows.PauseWorkflow(pause("x"))).workflow) == "PAUSING"
    assert state(await get(other, "x")) == "PAUSING"
    assert state((await other.workflows.ResumeWorkflow(resume("x"))).workflow) == "RUNNING"
    imagined = pause("x", validate_only=True)
    assert state((await other.workflows.PauseWorkflow(imagined)).workflow) == "RUNNING"
    assert (await other.workflows.CancelWorkflow(cancel("x"))).workflow.cause.reason == "CANCELLED"
    assert other.loop.workflow("x") is None
    await until(lambda: one.loop.workflow("x") is None)
    assert state(await get(other, "x")) == "COMPENSATED"


async def details(call: Any) -> tuple[Any, ...]:
    """Returns everything that an error says."""
    with pytest.raises(AioRpcError) as raised:
        await call
    error = raised.value
    trailing = {str(key): value for key, value in error.trailing_metadata() or ()}
    status = Status.FromString(trailing.pop(DETAILS_KEY))
    said = [_unpacked(detail) for detail in status.details]
    return error.code(), error.details(), status.code, status.message, said, trailing


def _unpacked(detail: AnyMessage) -> Message:
    kind = GetMessageClass(Default().FindMessageTypeByName(detail.TypeName()))
    return kind.FromString(detail.value)


WRONG = {
    "not now": ("ResumeWorkflow", resume("x", "never")),
    "no reason": ("PauseWorkflow", pause("x", "never", reason="")),
    "outdated": ("PauseWorkflow", pause("x", "never", etag="1")),
    "reused": ("PauseWorkflow", pause("x", "used")),
    "no such task": (
        "FenceTask",
        pb.FenceTaskRequest(task="workflows/x/tasks/no", request_id="n", reason="r"),
    ),
    "nothing to fence": (
        "FenceTask",
        pb.FenceTaskRequest(task="workflows/x/tasks/t", request_id="n", reason="r"),
    ),
    "nothing to decide": (
        "DecideCompensation",
        pb.DecideCompensationRequest(
            task="workflows/x/tasks/t", request_id="n", reason="r", retry_now={}
        ),
    ),
    "no such workflow": ("PauseWorkflow", pause("y", "never")),
    "no name": ("PauseWorkflow", pb.PauseWorkflowRequest(name="x", request_id="n", reason="r")),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_an_error_is_the_same_through_every_replica(one, other, agent, wrong):
    await start(one, "x")
    await until(lambda: agent.sent)
    await other.workflows.PauseWorkflow(pause("x", "first"))
    await other.workflows.ResumeWorkflow(resume("x", "used"))
    method, request = WRONG[wrong]
    here = await details(getattr(one.workflows, method)(request))
    there = await details(getattr(other.workflows, method)(request))
    assert there == here


async def test_a_repeat_through_another_replica_changes_nothing_more(one, other, agent):
    await start(one, "x")
    await until(lambda: agent.sent)
    first = await one.workflows.PauseWorkflow(pause("x"))
    assert await other.workflows.PauseWorkflow(pause("x")) == first
    both = await asyncio.gather(
        *(at.workflows.ResumeWorkflow(resume("x")) for at in (one, other, one, other))
    )
    assert {state(each.workflow) for each in both} == {"RUNNING"}
    assert len({each.workflow.etag for each in both}) == 1


async def test_the_same_start_through_two_replicas_is_one_workflow(one, other):
    both = await asyncio.gather(start(one, "x"), start(other, "x"))
    assert {each.name for each in both} == {"workflows/x"}
    assert (one.loop.workflow("x") is None) != (other.loop.workflow("x") is None)


async def test_a_settled_workflow_is_refused_where_it_is_asked_for(one, other, agent):
    await start(one, "x", series(noop("t", "a")))
    await until(lambda: agent.sent)
    agent.end(attempt_name("x", "t", 1))
    await until(lambda: one.loop.workflow("x") is None)
    error = await refused(other.workflows.PauseWorkflow(pause("x")))
    assert (error.reason, error.metadata["state"]) == ("STATE_FORBIDS", "SUCCEEDED")
    assert not other.store._kept.letters


# -- owners that go away --------------------------------------------------------------------------


class Gated(MemoryStore):
    """A store in which letters are taken, but answered only when the test lets them."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared.kept, new_id=lambda: "cluster", shared=True, now=shared.now)
        self.taken = asyncio.Event()
        self.gate = asyncio.Event()

    async def letters(self, limit: int) -> list[Letter]:
        found = await super().letters(limit)
        if found:
            self.taken.set()
        return found

    async def answer(self, answers: Sequence[LetterAnswer]) -> None:
        await self.gate.wait()
        await super().answer(answers)


class Held(MemoryStore):
    """A store in which letters are found only when the test lets them."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared.kept, new_id=lambda: "cluster", shared=True, now=shared.now)
        self.delivers = False

    async def letters(self, limit: int) -> list[Letter]:
        return await super().letters(limit) if self.delivers else []


async def test_an_owner_that_dies_with_a_letter_is_followed_by_who_claims(shared, agent):
    gated = Gated(shared)
    async with replica(shared, gated) as one, replica(shared) as other, replica(shared) as third:
        await start(one, "x")
        await until(lambda: agent.sent)
        asked = asyncio.ensure_future(other.workflows.PauseWorkflow(pause("x")))
        await gated.taken.wait()
        await until(lambda: one.loop.workflow("x").state == "PAUSING")
        await one.die()
        assert state((await asked).workflow) == "PAUSING"
        assert (other.loop.workflow("x") is None) != (third.loop.workflow("x") is None)
        said = await other.store.history("x", after=0, limit=100)
        kinds = [HistoryEvent.FromString(e.payload).WhichOneof("event") for e in said]
        assert kinds.count("intervention") == 1


async def test_what_nobody_owns_yet_is_waited_for(one, other, shared, agent):
    await start(one, "x")
    await until(lambda: agent.sent)
    await one.freeze()
    asked = asyncio.ensure_future(other.workflows.PauseWorkflow(pause("x")))
    await until(lambda: shared.kept.letters)
    await one.store.end_session()
    assert state((await asked).workflow) == "PAUSING"
    assert other.loop.workflow("x") is not None


async def test_an_owner_that_never_answers_is_told_of_before_the_deadline(one, other, agent):
    await start(one, "x")
    await until(lambda: agent.sent)
    await one.freeze()
    error = await refused(other.workflows.PauseWorkflow(pause("x"), timeout=1.0))
    assert (error.code, error.reason) == ("UNAVAILABLE", "OWNER_UNAVAILABLE")
    assert error.metadata["name"] == "workflows/x"


@pytest.mark.parametrize("delivered", [True, False])
async def test_a_workflow_that_settles_while_the_letter_is_under_way(shared, agent, delivered):
    held = Held(shared)
    async with replica(shared, held) as one, replica(shared) as other:
        await start(one, "x", series(noop("t", "a")))
        await until(lambda: agent.sent)
        asked = asyncio.ensure_future(refused(other.workflows.PauseWorkflow(pause("x"))))
        await until(lambda: shared.kept.letters)
        agent.end(attempt_name("x", "t", 1))
        await until(lambda: one.loop.workflow("x") is None)
        held.delivers = delivered
        error = await asked
        assert (error.reason, error.metadata["state"]) == ("STATE_FORBIDS", "SUCCEEDED")
