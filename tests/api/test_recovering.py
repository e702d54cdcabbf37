"""A coordinator whose database went back in time shows what is stored, and decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from google.protobuf.descriptor_pool import Default
from google.protobuf.message_factory import GetMessageClass
from grpc.aio import AioRpcError, Channel

from coordinator.api.coordinator_service import REASON_MAX
from coordinator.api.recovering import ANSWERED
from coordinator.runtime.ports import STORE, Store, StoreChange, StoreFencedError
from coordinator.runtime.webhooks import WebhookProgress, WebhookRecord
from coordinator.store.database import sqlite
from coordinator.store.run import Threads
from coordinator.store.sql import SqlStore
from coordinator.wire.event_types import ENDS
from countermand.client import Client
from countermand.client.external import AcceptedTask, Handler, Owner
from countermand.rpc.crash import never
from countermand.rpc.errors import RecoveryRequired
from countermand.rpc.status import error_from_rpc
from countermand.v1 import coordinator_pb2 as cpb
from countermand.v1 import doctor_pb2 as dpb
from countermand.v1 import external_task_pb2 as epb
from countermand.v1 import host_pb2 as hpb
from countermand.v1 import webhook_pb2 as hooks
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.task_pb2 import Task
from tests.api.calls import refused, state
from tests.api.recovering import WHY, Life, life, new_id
from tests.api.vendors import external
from tests.contract import calls
from tests.runtime.replicas import Shared
from tests.runtime.rig import NOW, Agent, noop, until

# What is not answered: each changes something, or has something done.
REFUSED = """
WorkflowService: StartWorkflow PauseWorkflow ResumeWorkflow CancelWorkflow DecideCompensation
WorkflowService: FenceTask ForkWorkflow
HostService: AcceptHost RemoveHost
ExternalTaskService: StartExternalWorkflow AddExternalTask ListExternalTasks WatchExternalTasks
ExternalTaskService: AcceptExternalTask ReportExternalTask HeartbeatExternalTasks EndExternalTask
ExternalTaskService: EndExternalWorkflow ClearExternalWorkflow
DoctorService: Repair
WebhookService: AddWebhook PingWebhook ResumeWebhook RotateWebhookSecret RemoveWebhook
"""
REFUSED_CALLS = {
    f"{service}.{method}"
    for service, methods in (line.split(": ") for line in REFUSED.strip().splitlines())
    for method in methods.split()
}
HELD = "workflows/held"
ATTEMPT = "workflows/asked/tasks/use/attempts/1"
HOOK = WebhookRecord(
    id="hook",
    url="http://127.0.0.1:9/in",
    secret="s",
    create_time=NOW,
    event_types=ENDS,
    progress=WebhookProgress(position=0),
)


def test_of_every_call_it_is_known_whether_it_is_answered():
    answered = {name.removeprefix("countermand.v1.").replace("/", ".") for name in ANSWERED}
    assert answered | REFUSED_CALLS == set(calls())
    assert not answered & REFUSED_CALLS


def on_sqlite(folder: Path) -> Store:
    return SqlStore(sqlite(folder / "store.db"), Threads(), new_id=new_id, crash=never)


@pytest.fixture(params=["memory", "sqlite"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Returns what opens a store for one more life: one of several coordinators', or the only."""
    if request.param == "memory":
        return Shared({}).store
    return partial(on_sqlite, tmp_path)


@pytest.fixture
async def agents(opened: Callable[[], Store]) -> dict[str, Agent]:
    """Returns an agent that is at work for a workflow, of which it then knows nothing more."""
    agents = {"a": Agent()}
    async with life(opened(), agents) as before:
        await before.start("held", noop("one", "a"), noop("two", "a"))
        await before.start("asked", external("use"))
        await before.start("over", external("use"))
        end = pb.CancelWorkflowRequest(name="workflows/over", request_id="c", reason="a test")
        await before.workflows.CancelWorkflow(end)
        drain = hpb.DrainHostRequest(name="hosts/a", request_id="d", reason="a test")
        await before.hosts.DrainHost(drain)
        await before.store.put_webhook(HOOK)
        await until(lambda: agents["a"].sent)
        await before.store.require_recovery(WHY)
        with pytest.raises(StoreFencedError):
            await before.store.put_webhook(HOOK)
    return agents


@pytest.fixture
async def now(opened: Callable[[], Store], agents: dict[str, Agent]) -> AsyncIterator[Life]:
    """Yields the life in which somebody has to look."""
    async with life(opened(), agents) as now:
        yield now


async def code_of(channel: Channel, name: str) -> str:
    """Returns the reason for which a call with an empty request is refused."""
    service, _, method = name.partition(".")
    found = Default().FindServiceByName(f"countermand.v1.{service}").methods_by_name[method]
    kind: Any = channel.unary_stream if found.server_streaming else channel.unary_unary
    call = kind(
        f"/countermand.v1.{service}/{method}",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=GetMessageClass(found.output_type).FromString,
    )(GetMessageClass(found.input_type)())
    with pytest.raises(AioRpcError) as raised:
        await anext(aiter(call)) if found.server_streaming else await call
    error = error_from_rpc(raised.value)
    assert error.metadata == {"why": WHY}
    return error.reason


async def test_whatever_would_decide_something_is_refused_and_says_why(now):
    reasons = {name: await code_of(now.channel, name) for name in REFUSED_CALLS}
    assert reasons == dict.fromkeys(REFUSED_CALLS, "RECOVERY_REQUIRED")


async def test_what_is_open_is_shown_as_it_is_stored_though_it_is_nobodys(now):
    get = pb.GetWorkflowRequest(name=HELD, view=pb.WORKFLOW_VIEW_FULL)
    full = (await now.workflows.GetWorkflow(get)).workflow
    assert (state(full), [task.name for task in full.tasks]) == (
        "RUNNING",
        [f"{HELD}/tasks/one", f"{HELD}/tasks/two"],
    )
    listed = (await now.workflows.ListWorkflows(pb.ListWorkflowsRequest())).workflows
    states = {each.name.removeprefix("workflows/"): state(each) for each in listed}
    assert states == {"held": "RUNNING", "asked": "RUNNING", "over": "COMPENSATED"}
    [held] = [each for each in listed if each.name == HELD]
    assert sum(each.count for each in held.task_counts) == 2
    asked = pb.WaitWorkflowRequest(name=HELD)
    asked.wait_timeout.FromTimedelta(timedelta(0))
    assert not (await now.workflows.WaitWorkflow(asked)).reached


async def test_a_watch_of_what_is_open_stays_as_long_as_that_is(now):
    watch = now.workflows.WatchWorkflow(pb.WatchWorkflowRequest(name=HELD))
    seen = []
    async for update in watch:
        seen.append(update)
        if update.HasField("bookmark"):
            break
    assert seen[-1].bookmark == seen[-2].event.sequence
    with pytest.raises(TimeoutError):  # it has not ended
        async with asyncio.timeout(0.05):
            await anext(aiter(watch))
    watch.cancel()
    over = now.workflows.WatchWorkflow(pb.WatchWorkflowRequest(name="workflows/over"))
    assert [update async for update in over][-1].bookmark > 0


async def test_hosts_owners_and_webhooks_are_shown_as_they_are_stored(now):
    get = hpb.HostServiceGetHostRequest(name="hosts/a")
    blocking = (await now.hosts.GetHost(get)).host.blocking_tasks
    assert list(blocking) == [f"{HELD}/tasks/one", f"{HELD}/tasks/two"]
    [owner] = (await now.external.ListExternalOwners(epb.ListExternalOwnersRequest())).owners
    assert (owner.owner_id, owner.waiting) == ("acme", 1)
    [hook] = (await now.webhooks.ListWebhooks(hooks.ListWebhooksRequest())).webhooks
    assert (hook.name, hook.position) == ("webhooks/hook", 0)
    assert hook.behind == await now.store.position()


async def test_the_doctor_looks_at_what_is_open(now):
    told = [each async for each in now.diagnoses.Diagnose(dpb.DiagnoseRequest())]
    [found] = [each.finding for each in told if each.HasField("finding")]
    assert f"{HELD}/tasks/one/attempts/1" in found.name


async def test_hosts_that_came_since_may_be_added(now, agents):
    agents["127.0.0.1:9"] = Agent(incarnation="new")
    add = hpb.AddHostRequest(host_id="b", address="127.0.0.1:9", request_id="b")
    added = (await now.hosts.AddHost(add)).host
    assert added.name == "hosts/b"


# -- going on -------------------------------------------------------------------------------------


async def listed(at: Life) -> cpb.ListCoordinatorsResponse:
    return await at.coordinators.ListCoordinators(cpb.ListCoordinatorsRequest())


async def confirm(at: Life, reason: str) -> cpb.ConfirmRecoveryResponse:
    return await at.coordinators.ConfirmRecovery(cpb.ConfirmRecoveryRequest(reason=reason))


async def test_whoever_goes_on_says_why_and_is_told_how_much_is_paused(now):
    shown = (await listed(now)).recovery
    assert (shown.why, shown.open_workflows) == (WHY, 2)
    assert shown.HasField("notice_time")
    for wrong in ("", "  ", "x" * (REASON_MAX + 1)):
        answer = await refused(confirm(now, wrong))
        assert (answer.reason, answer.fields) == ("FIELD_INVALID", ("reason",))

    done = await confirm(now, "é" * REASON_MAX)
    assert done.paused_workflows == 2
    assert done.owner_epoch > now.loop.owner_epoch
    assert not (await listed(now)).HasField("recovery")
    assert (await refused(confirm(now, "again"))).reason == "RECOVERY_NOT_REQUIRED"
    [last, *_] = await now.store.audit(STORE, before=2**62, limit=9)
    assert (last.change, last.principal) == (StoreChange.RECOVERED, "local")
    assert last.reason == "é" * REASON_MAX


# -- those who call -------------------------------------------------------------------------------


def is_end(record: logging.LogRecord) -> bool:
    """Returns whether the end of an external task was refused."""
    return "EndExternalTask" in getattr(record, "method", "")


async def test_an_owner_goes_on_trying_until_coordinators_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """What it did is not lost; an engine hears at once why nothing is taken."""
    caplog.set_level(logging.INFO)
    agents: dict[str, Agent] = {}
    begun, done = asyncio.Event(), asyncio.Event()

    async def use(_: AcceptedTask) -> None:
        begun.set()
        await done.wait()

    async with contextlib.AsyncExitStack() as stack:
        async with life(on_sqlite(tmp_path), agents) as before:
            address = before.server.address
            await before.start("asked", external("use"))
            owner = await stack.enter_async_context(Owner(address, "acme"))
            served = asyncio.create_task(owner.serve({"use": Handler(start=use)}))
            stack.callback(served.cancel)
            await begun.wait()
            await before.store.require_recovery(WHY)

        async with life(on_sqlite(tmp_path), agents, listen=address) as now:
            client = await stack.enter_async_context(Client(address))
            with pytest.raises(RecoveryRequired, match="coordinator list"):
                await client.run("asked").pause("a test")
            done.set()
            await until(lambda: cast("Any", owner._ties.waiting._held[ATTEMPT])._ending)
            await until(lambda: any(map(is_end, caplog.records)))  # refused, and not given up
            assert not served.done()
            await confirm(now, "the backup of noon")
        async with life(on_sqlite(tmp_path), agents, listen=address) as after:
            await until(lambda: not owner._ties.waiting.is_held(ATTEMPT))
            assert (await client.run("asked").task("use")).state == Task.STATE_SUCCEEDED
            assert after.loop.owner_epoch > now.loop.owner_epoch
