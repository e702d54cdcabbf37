"""Any replica answers any call, as if it owned every workflow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Self

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.status_pb2 import Status
from grpc.aio import AioRpcError

from coordinator.runtime.ports import Letter, LetterAnswer
from coordinator.store.memory import MemoryStore
from countermand.rpc.names import attempt_name, task_name, workflow_name
from countermand.rpc.status import DETAILS_KEY
from countermand.v1 import external_task_pb2 as epb
from countermand.v1 import host_pb2 as hpb
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.annotation_pb2 import EFFECT_READ_ONLY
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from countermand.v1.workflow_state_pb2 import WORKFLOW_STATE_RUNNING
from tests.api.calls import refused, state
from tests.api.replicas import Database, Replica, look_often, replica, shared_on
from tests.api.vendors import ARRAY_FULL, Vendor, beside, decided, external, plan_of
from tests.runtime.replicas import Shared
from tests.runtime.rig import Agent, noop, series, until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    look_often(monkeypatch)


@pytest.fixture
def agent() -> Agent:
    return Agent(pools=("p",))


@pytest.fixture(params=["memory", "postgres"])
def shared(request: pytest.FixtureRequest, agent: Agent) -> Shared:
    return shared_on(request, {"a": agent})


@pytest.fixture
def in_memory(shared: Shared) -> Shared:
    """Returns what replicas share where a test keeps letters back."""
    if isinstance(shared, Database):
        pytest.skip("letters are kept back in memory only")
    return shared


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
            task="workflows/x/tasks/t",
            request_id="n",
            reason="r",
            retry_now=pb.DecideCompensationRequest.RetryNow(),
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


async def test_an_owner_that_dies_with_a_letter_is_followed_by_who_claims(in_memory, agent):
    shared = in_memory
    gated = Gated(shared)
    async with replica(shared, gated) as one, replica(shared) as other, replica(shared) as third:
        await start(one, "x")
        await until(lambda: agent.sent)
        asked = asyncio.ensure_future(other.workflows.PauseWorkflow(pause("x")))
        await gated.taken.wait()
        await until(lambda: (w := one.loop.workflow("x")) and w.state == "PAUSING")
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
    await until(lambda: other.beside.routing.under_way)
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
async def test_a_workflow_that_settles_while_the_letter_is_under_way(in_memory, agent, delivered):
    shared = in_memory
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


# -- reading and watching -------------------------------------------------------------------------


async def followed(at: Replica, workflow_id: str, after: int = 0) -> list[int]:
    """Returns the sequences that a watch has shown by its end."""
    request = pb.WatchWorkflowRequest(
        name=workflow_name(workflow_id), after_sequence=after, events_only=True
    )
    watch = at.workflows.WatchWorkflow(request)
    return [update.event.sequence async for update in watch if update.HasField("event")]


async def test_a_watch_goes_on_when_its_workflow_is_claimed_by_another(shared, agent):
    async with replica(shared) as one, replica(shared) as other, replica(shared) as third:
        await start(one, "x")
        watches = [asyncio.ensure_future(followed(at, "x")) for at in (other, third)]
        await until(lambda: agent.sent)
        await until(lambda: "x" in other.watches.topics() and "x" in third.watches.topics())
        await one.die()
        await until(lambda: other.loop.workflow("x") or third.loop.workflow("x"))
        agent.end(attempt_name("x", "t", 1))
        await until(lambda: attempt_name("x", "u", 1) in agent.sent)
        agent.end(attempt_name("x", "u", 1))
        last = len(await other.store.history("x", after=0, limit=1000))
        for watch in watches:
            seen = await watch
            last = len(await other.store.history("x", after=0, limit=1000))
            assert seen == list(range(1, last + 1))


async def test_a_watch_from_beyond_what_is_known_waits_for_it(one, other, agent):
    started = await start(one, "x")
    await until(lambda: agent.sent)
    ahead = (await get(one, "x")).last_sequence + 2
    assert started.last_sequence < ahead
    watch = asyncio.ensure_future(followed(other, "x", ahead))
    for name in (attempt_name("x", "t", 1), attempt_name("x", "u", 1)):
        await until(partial(agent.sent.__contains__, name))
        agent.end(name)
    seen = await watch
    assert seen[0] == ahead + 1


async def test_everything_is_watched_at_every_replica(one, other, agent):
    watch = other.workflows.WatchEvents(pb.WatchEventsRequest(after_position=0))
    assert (await watch.read()).bookmark == 0
    await start(one, "x", series(noop("t", "a")))
    await start(other, "y", series(noop("t", "a")))
    await until(lambda: len(agent.sent) == 2)
    for workflow_id in ("x", "y"):
        agent.end(attempt_name(workflow_id, "t", 1))
    positions: list[int] = []
    settled: set[str] = set()
    while settled != {"x", "y"}:
        event = (await watch.read()).event
        positions.append(event.position)
        if event.workflow_state_changed.after not in (0, WORKFLOW_STATE_RUNNING):
            settled.add(event.workflow.split("/")[1])
    watch.cancel()
    assert positions == list(range(1, len(positions) + 1))


async def test_a_workflow_is_waited_for_at_every_replica(one, other, agent):
    await start(one, "x", series(noop("t", "a")))
    request = pb.WaitWorkflowRequest(name="workflows/x", until_attention=True)
    waits = asyncio.ensure_future(other.workflows.WaitWorkflow(request))
    await until(lambda: "x" in other.watches.topics())
    await one.workflows.PauseWorkflow(pause("x"))
    await until(lambda: agent.sent)
    agent.end(attempt_name("x", "t", 1))
    answer = await waits
    assert answer.reached
    assert state(answer.workflow) in ("PAUSED", "SUCCEEDED")
    await one.workflows.ResumeWorkflow(resume("x"))
    again = await other.workflows.WaitWorkflow(pb.WaitWorkflowRequest(name="workflows/x"))
    assert (again.reached, state(again.workflow)) == (True, "SUCCEEDED")


async def test_a_wait_that_is_over_says_so_of_anothers_workflow(one, other):
    await start(one, "x")
    request = pb.WaitWorkflowRequest(name="workflows/x")
    request.wait_timeout.FromMilliseconds(1)
    answer = await other.workflows.WaitWorkflow(request)
    assert (answer.reached, state(answer.workflow)) == (False, "RUNNING")


async def test_progress_is_seen_at_every_replica(one, other, agent):
    await start(one, "x", series(noop("t", "a")))
    await until(lambda: agent.sent)
    watch = other.workflows.WatchWorkflow(pb.WatchWorkflowRequest(name="workflows/x"))
    name = attempt_name("x", "t", 1)
    await until(lambda: len(agent.streams) == 2)
    agent.progress(name, 7)
    while not (update := await watch.read()).HasField("progress"):
        pass
    watch.cancel()
    assert (update.progress.attempt, update.progress.progress.done) == (name, 7)
    agent.end(name)
    await until(lambda: not other.watches.topics())


async def test_what_was_cleared_through_another_replica_is_gone(one, other):
    vendor = Vendor(one.channel)
    request = epb.StartExternalWorkflowRequest(workflow_id="x", owner_id="acme", kind="backup")
    token = (await one.external.StartExternalWorkflow(request)).capability_token
    ended = epb.EndExternalWorkflowRequest(
        name="workflows/x", request_id="end", succeeded=True, capability_token=token
    )
    answer = await other.external.EndExternalWorkflow(ended)
    assert answer.workflow.name == "workflows/x"
    for asked in await vendor.requests():
        await vendor.accept(asked.attempt)
        await vendor.end(asked.attempt)
    await until(lambda: one.loop.workflow("x") is None)
    cleared = epb.ClearExternalWorkflowRequest(name="workflows/x", capability_token=token)
    await other.external.ClearExternalWorkflow(cleared)
    gone = pb.GetWorkflowRequest(name="workflows/x")
    assert (await refused(one.workflows.GetWorkflow(gone))).reason == "WORKFLOW_NOT_FOUND"


# -- hosts ----------------------------------------------------------------------------------------


async def test_what_blocks_a_host_is_told_by_every_replica(one, other, agent):
    await start(one, "x")
    await until(lambda: agent.sent)
    asked = hpb.DrainHostRequest(name="hosts/a", request_id="d", reason="r")
    drained = await other.hosts.DrainHost(asked)
    assert "workflows/x/tasks/t" in drained.blocking_tasks
    assert drained.host.state == hpb.Host.STATE_DRAINING
    listed = (await other.hosts.ListHosts(hpb.ListHostsRequest())).hosts
    assert [host.state for host in listed] == [hpb.Host.STATE_DRAINING]
    removed = hpb.RemoveHostRequest(name="hosts/a", request_id="r", reason="r")
    error = await refused(other.hosts.RemoveHost(removed))
    assert (error.reason, error.metadata["workflow"]) == ("HOST_BUSY", "workflows/x")


# -- owners of external tasks ---------------------------------------------------------------------


async def test_a_vendor_reports_through_a_replica_that_does_not_own_the_workflow(one, other):
    await start(one, "x", plan_of(external("snap"), external("copy")))
    near, far = Vendor(one.channel), Vendor(other.channel)
    name = (await near.requests())[0].attempt
    far.tokens = near.tokens
    wrong = await refused(far.accept(name, capability_token="wrong"))
    assert wrong == await refused(near.accept(name, capability_token="wrong"))
    assert wrong.reason == "NOT_OWNER"
    early = await refused(far.report(name, 1))
    assert early == await refused(near.report(name, 1))
    answer = await far.accept(name)
    assert answer == await near.accept(name)
    assert (await far.report(name, 3, 5)).progress.done == 3
    assert await far.beat(name) == {}
    await far.end(name)
    await until(lambda: one.loop.workflow("x").task(2).attempts)
    late = await refused(far.accept(name))
    assert late == await refused(near.accept(name))
    assert late.reason == "ATTEMPT_CLOSED"


async def test_a_compensation_is_decided_about_through_another_replica(one, other):
    await start(one, "x", plan_of(external("snap"), external("copy")))
    vendor = Vendor(other.channel)
    snap, again = (attempt_name("x", "snap", number) for number in (1, 2))
    await vendor.requests()
    await vendor.accept(snap)
    await vendor.end(snap)
    await other.workflows.CancelWorkflow(cancel("x"))
    async with Seen(other) as seen:
        await until(lambda: again in seen.open)
    await vendor.requests()
    await vendor.accept(again)
    await vendor.end(again, failure=ARRAY_FULL)
    request = pb.WaitWorkflowRequest(name="workflows/x", until_attention=True)
    assert state((await other.workflows.WaitWorkflow(request)).workflow) == "BLOCKED"
    await other.workflows.DecideCompensation(decided("x", "snap", "done"))
    answer = await other.workflows.WaitWorkflow(pb.WaitWorkflowRequest(name="workflows/x"))
    assert state(answer.workflow) == "COMPENSATED"


async def test_heartbeats_reach_the_owners_of_their_workflows(one, other, shared):
    async with replica(shared) as third:
        vendor = Vendor(one.channel)
        for at, workflow_id in ((one, "x"), (other, "y"), (third, "z")):
            await start(at, workflow_id, plan_of(external("snap")))
        attempts = {i: attempt_name(i, "snap", 1) for i in ("x", "y", "z")}
        for at, workflow_id in ((one, "x"), (other, "y"), (third, "z")):
            mine = Vendor(at.channel)
            await until(partial(at.loop.workflow, workflow_id))
            asked = [a for a in await mine.requests() if a.attempt == attempts[workflow_id]]
            mine.tokens = vendor.tokens = vendor.tokens | mine.tokens
            if workflow_id != "z":
                await mine.accept(asked[0].attempt)
        gone = attempt_name("gone", "snap", 1)
        answers = await vendor.beat(*attempts.values(), gone)
        assert answers == {attempts["z"]: "STARTING", gone: "UNSPECIFIED"}
        assert list(answers) == [attempts["z"], gone]


async def test_a_task_is_added_through_another_replica(one, other):
    request = epb.StartExternalWorkflowRequest(workflow_id="x", owner_id="acme", kind="backup")
    token = (await one.external.StartExternalWorkflow(request)).capability_token
    added = epb.AddExternalTaskRequest(
        parent="workflows/x",
        request_id="add",
        task_id="part",
        owner_id="acme",
        kind="part",
        effect=EFFECT_READ_ONLY,
        capability_token=token,
    )
    first = await other.external.AddExternalTask(added)
    assert first.task.name == task_name("x", "part")
    assert (await one.external.AddExternalTask(added)).capability_token == first.capability_token


async def waiting(at: Replica, owner: str = "acme", size: int = 0) -> list[str]:
    """Returns the names of what waits for an owner, as a replica lists it page by page."""
    names: list[str] = []
    request = epb.ListExternalTasksRequest(owner_id=owner, page_size=size)
    while True:
        answer = await at.external.ListExternalTasks(request)
        names += [each.attempt for each in answer.requests]
        request.page_token = answer.next_page_token
        if not request.page_token:
            return names


async def test_what_waits_for_an_owner_is_listed_at_every_replica(one, other, shared):
    async with replica(shared) as third:
        for at, workflow_id in ((one, "x"), (other, "y"), (third, "z")):
            await start(at, workflow_id, beside(external("snap"), external("copy")))
        every = {attempt_name(w, t, 1) for w in ("x", "y", "z") for t in ("snap", "copy")}
        for at in (one, other, third):
            for size in (0, 1, 4):
                names = await waiting(at, size=size)
                assert len(names) == len(every)
                assert set(names) == every
        here = await one.external.ListExternalTasks(epb.ListExternalTasksRequest(owner_id="acme"))
        there = await third.external.ListExternalTasks(
            epb.ListExternalTasksRequest(owner_id="acme")
        )
        assert here == there
        asked = epb.ListExternalOwnersRequest()
        standings = [(await at.external.ListExternalOwners(asked)).owners for at in (one, third)]
        assert standings[0] == standings[1]
        assert [(s.owner_id, s.waiting, s.unaccepted) for s in standings[0]] == [("acme", 6, 6)]


class Seen:
    """What a watch of an owner has told so far."""

    def __init__(self, at: Replica) -> None:
        self.open: dict[str, epb.ExternalRequest] = {}
        self.bookmarks: list[int] = []
        request = epb.WatchExternalTasksRequest(owner_id="acme")
        self.call = at.external.WatchExternalTasks(request)
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for told in self.call:
            match told.WhichOneof("update"):
                case "request":
                    self.open[told.request.attempt] = told.request
                case "closed":
                    self.open.pop(told.closed, None)
                case "bookmark":
                    self.bookmarks.append(told.bookmark)
                case None:
                    raise AssertionError(told)

    def has(self, *names: str) -> bool:
        """Returns whether all that it has told, and no more, waits still."""
        return list(self.open) == list(names) and self.bookmarks[-1] == len(names)

    async def __aenter__(self) -> Self:
        await until(lambda: self.bookmarks)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()
        await asyncio.gather(self.reading, return_exceptions=True)


async def test_what_waits_for_an_owner_is_watched_at_every_replica(one, other):
    await start(one, "x", plan_of(external("snap"), external("copy")))
    snap, copy = (attempt_name("x", task, 1) for task in ("snap", "copy"))
    async with Seen(other) as seen:
        assert list(seen.open) == [snap]
        assert seen.bookmarks[0] == 1
        vendor = Vendor(other.channel)
        vendor.tokens[task_name("x", "snap")] = seen.open[snap].capability_token
        await vendor.accept(snap)
        await until(lambda: seen.open[snap].accepted)
        await vendor.end(snap)
        await until(lambda: list(seen.open) == [copy])
        await start(other, "y", plan_of(external("snap")))
        await until(lambda: len(seen.open) == 2 and seen.bookmarks[-1] == 2)
        await other.workflows.CancelWorkflow(cancel("x"))
        again, own = attempt_name("x", "snap", 2), attempt_name("y", "snap", 1)
        await until(lambda: seen.open.keys() == {again, own} and seen.bookmarks[-1] == 2)
        assert seen.open[again].kind == epb.ExternalRequest.KIND_COMPENSATE
        await vendor.accept(again)
        await vendor.end(again)
        await until(lambda: list(seen.open) == [own] and seen.bookmarks[-1] == 1)


async def test_what_was_reported_is_known_to_who_claims(one, other):
    await start(one, "x", plan_of(external("snap")))
    name = attempt_name("x", "snap", 1)
    vendor = Vendor(other.channel)
    assert [each.attempt for each in await vendor.requests()] == [name]
    await vendor.accept(name)
    await vendor.report(name, 2, 5)
    await one.die()
    await until(lambda: other.watches.progress("x"))
    asked = (await vendor.requests())[0]
    assert (asked.progress.done, asked.progress.total) == (2, 5)
    assert (await vendor.report(name, 1, 5)).progress.done == 2


async def test_a_watch_of_an_owner_goes_on_when_a_workflow_is_claimed(one, other, shared):
    async with replica(shared) as third:
        await start(one, "x", plan_of(external("snap"), external("copy")))
        snap, copy = (attempt_name("x", task, 1) for task in ("snap", "copy"))
        async with Seen(other) as seen, Seen(third) as also:
            await one.die()
            await until(lambda: other.loop.workflow("x") or third.loop.workflow("x"))
            vendor = Vendor(third.channel)
            vendor.tokens[task_name("x", "snap")] = seen.open[snap].capability_token
            await vendor.accept(snap)
            await vendor.report(snap, 2, 5)
            await vendor.end(snap)
            for each in (seen, also):
                await until(partial(each.has, copy))
            assert await waiting(other) == [copy]
