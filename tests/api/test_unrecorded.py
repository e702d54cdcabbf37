"""What only the owner of a workflow knows is shown at every replica; nobody waits for it long."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest

from coordinator.api import briefly
from coordinator.owners import elsewhere
from countermand.rpc.names import attempt_name, task_name, workflow_name
from countermand.v1 import external_task_pb2 as epb
from countermand.v1 import host_pb2 as hpb
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from tests.api.replicas import Replica, look_often, replica, shared_on
from tests.api.vendors import Vendor, external, plan_of
from tests.runtime.replicas import Shared
from tests.runtime.rig import PATIENCE_S, Agent, copy, noop, series, until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    look_often(monkeypatch)
    monkeypatch.setattr(briefly, "ANSWER_S", PATIENCE_S)
    monkeypatch.setattr(elsewhere, "LOOK_S", 0.01)


@pytest.fixture
def agent() -> Agent:
    return Agent(pools=("p",))


@pytest.fixture(params=["memory", "postgres"])
def shared(request: pytest.FixtureRequest, agent: Agent) -> Shared:
    return shared_on(request, {"a": agent})


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


async def get(at: Replica, workflow_id: str) -> pb.Workflow:
    name = workflow_name(workflow_id)
    request = pb.GetWorkflowRequest(name=name, view=pb.WORKFLOW_VIEW_FULL)
    return (await at.workflows.GetWorkflow(request)).workflow


async def basic(at: Replica, workflow_id: str) -> pb.Workflow:
    request = pb.GetWorkflowRequest(name=workflow_name(workflow_id))
    return (await at.workflows.GetWorkflow(request)).workflow


async def listed(at: Replica, workflow_id: str) -> pb.Workflow:
    request = pb.ListWorkflowsRequest(id_prefix=workflow_id)
    return (await at.workflows.ListWorkflows(request)).workflows[0]


async def task(at: Replica, workflow_id: str, name: str) -> Task:
    request = pb.GetTaskRequest(name=task_name(workflow_id, name))
    return (await at.workflows.GetTask(request)).task


async def tasks(at: Replica, workflow_id: str) -> list[Task]:
    request = pb.ListTasksRequest(parent=workflow_name(workflow_id), view=pb.TASK_VIEW_FULL)
    return list((await at.workflows.ListTasks(request)).tasks)


async def eventually(condition: Callable[[], Awaitable[object]]) -> None:
    """Returns once a condition that has to be asked for holds."""
    while not await condition():
        pass


async def start(at: Replica, workflow_id: str, spec: WorkflowSpec) -> None:
    request = pb.StartWorkflowRequest(workflow_id=workflow_id, spec=spec)
    await at.workflows.StartWorkflow(request)


async def test_who_holds_images_is_told_at_every_replica(one, other, agent):
    await start(one, "x", series(copy("t", "p/1", "p/2", "a")))
    await until(lambda: agent.sent)
    await start(one, "y", series(copy("t", "p/1", "p/2", "a")))
    for show in (get, basic, listed):
        here = await show(one, "y")
        assert "workflows/x" in here.waits_for
        assert await show(other, "y") == here


async def test_why_there_is_no_host_is_told_at_every_replica(one, other, agent):
    await start(one, "x", series(noop("t", "a"), noop("u")))
    await until(lambda: agent.sent)
    await one.hosts.DrainHost(hpb.DrainHostRequest(name="hosts/a", request_id="d", reason="r"))
    agent.end(attempt_name("x", "t", 1))
    await eventually(lambda: is_waiting(one, "x", "u"))
    why = (await task(one, "x", "u")).waits_for
    assert "draining" in why
    assert (await task(other, "x", "u")).waits_for == why
    assert [each.waits_for for each in await tasks(other, "x")] == ["", why]
    assert [each.waits_for for each in (await get(other, "x")).tasks] == ["", why]


async def is_waiting(at: Replica, workflow_id: str, name: str) -> bool:
    return "draining" in (await task(at, workflow_id, name)).waits_for


async def test_how_far_a_vendor_is_is_told_at_every_replica(one, other):
    await start(one, "x", plan_of(external("snap")))
    vendor = Vendor(one.channel)
    name = (await vendor.requests())[0].attempt
    await vendor.accept(name)
    await vendor.report(name, 3, 5)
    for show in (get, basic, listed):
        here = await show(one, "x")
        assert here.progress.done == 60
        assert await show(other, "x") == here
    assert (await task(one, "x", "snap")).attempts[0].progress.done == 3
    assert await task(other, "x", "snap") == await task(one, "x", "snap")
    assert await tasks(other, "x") == await tasks(one, "x")


async def test_an_owner_that_is_away_holds_up_no_reader(one, other, agent, monkeypatch):
    monkeypatch.setattr(briefly, "ANSWER_S", 0.05)
    await start(one, "x", series(copy("t", "p/1", "p/2", "a")))
    await until(lambda: agent.sent)
    await start(one, "y", series(copy("t", "p/1", "p/2", "a")))
    await one.freeze()
    assert (await basic(other, "y")).waits_for == "its images"
    monkeypatch.setattr(briefly, "ANSWER_S", None)  # whoever asked again would fail
    assert (await basic(other, "y")).waits_for == "its images"
    assert (await listed(other, "y")).name == "workflows/y"


async def test_how_far_a_vendor_is_is_watched_at_every_replica(one, other):
    await start(one, "x", plan_of(external("snap")))
    vendor = Vendor(one.channel)
    name = (await vendor.requests())[0].attempt
    await vendor.accept(name)
    watch = other.workflows.WatchWorkflow(pb.WatchWorkflowRequest(name="workflows/x"))
    for done in (3, 4):
        await vendor.report(name, done, 5)
        while not (update := await watch.read()).HasField("progress"):
            pass
        assert (update.progress.attempt, update.progress.progress.done) == (name, done)
    watch.cancel()
    await vendor.end(name)
    await until(lambda: not other.watches.topics())


async def test_who_watches_for_an_owner_is_told_at_every_replica(one, other, shared):
    async def stands(at: Replica) -> list[tuple[str, bool]]:
        found: list[tuple[str, bool]] = []
        request = epb.ListExternalOwnersRequest(page_size=1)
        while not found or request.page_token:
            page = await at.external.ListExternalOwners(request)
            found += [(each.owner_id, each.watching) for each in page.owners]
            request.page_token = page.next_page_token
        return found

    await start(one, "x", plan_of(external("snap")))
    async with replica(shared) as third:
        assert await stands(third) == [("acme", False)]
        watches = [
            at.external.WatchExternalTasks(epb.WatchExternalTasksRequest(owner_id=owner))
            for at, owner in ((other, "acme"), (one, "zeta"))
        ]
        for watch in watches:
            await watch.read()
        for at in (one, other, third):
            await eventually(partial(is_told, stands, at, [("acme", True), ("zeta", True)]))
        watches[0].cancel()
        for at in (one, other, third):
            await eventually(partial(is_told, stands, at, [("acme", False), ("zeta", True)]))
        watches[1].cancel()


async def is_told(ask: Callable[[Replica], Awaitable[object]], at: Replica, what: object) -> bool:
    return await ask(at) == what
