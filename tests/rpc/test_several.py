"""A client of several coordinators: calls go round, and past whoever does not answer."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import cast

import pytest
from grpc import StatusCode
from grpc.aio import Channel

from countermand.client import Client, coordinators
from countermand.client.external import BlockingOwner, Owner
from countermand.client.spec import sequence, task, workflow_spec
from countermand.rpc.channel import open_channel_of_several
from countermand.rpc.errors import (
    Busy,
    CoordinatorUnavailable,
    FieldInvalid,
    NoCoordinatorAnswers,
    WorkflowNotFound,
)
from countermand.rpc.server import ListenRefused, RunningServer, Service, serve
from countermand.rpc.status import RemoteError
from countermand.v1 import workflow_pb2 as pb
from countermand.v1 import workflow_pb2_grpc as pb_grpc
from countermand.v1.event_pb2 import TaskStateChanged
from countermand.v1.task_pb2 import Task
from countermand.v1.verb_pb2 import Noop
from tests.endtoend.cluster import free_address, until
from tests.proxy import Proxy
from tests.rpc.scripted import SUCCEEDED, Scripted, start
from tests.tls import Authority, needs_openssl

SPEC = workflow_spec("drill", sequence("all", task("one", action=Noop())))
NOW = timedelta(0)  # nobody waits


class Replica(Scripted):
    """One of several coordinators: what is stored is one, what is asked here is its own."""

    running: RunningServer
    proxy: Proxy

    def __init__(self, stored: Scripted | None = None) -> None:
        super().__init__()
        if stored is not None:
            self.__dict__ |= {
                name: vars(stored)[name]
                for name in ("workflows", "requests", "events", "tasks", "changed", "cancels")
            }
        self.asked: Counter[str] = Counter()
        self.refusals: list[Exception | StatusCode] = []
        self.address = ""
        self.watching = 0

    async def _heard(self, call, context):
        self.asked[call] += 1
        if self.refusals:
            refusal = self.refusals.pop(0)
            if isinstance(refusal, Exception):
                raise refusal
            await context.abort(refusal, "so it is")

    async def GetWorkflow(self, request, context):
        await self._heard("get", context)
        return pb.GetWorkflowResponse(workflow=self._find(request.name))

    async def WatchWorkflow(self, request, context):
        self.watching += 1
        try:
            async for update in super().WatchWorkflow(request, context):
                yield update
        finally:
            self.watching -= 1

    async def StartWorkflow(self, request, context):
        answer = await super().StartWorkflow(request, context)
        await self._heard("start", context)
        return answer


@pytest.fixture
async def stack():
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def replicas(stack):
    """Returns two coordinators of one store, each behind a proxy."""
    first = Replica()  # type: ignore[abstract]  # the other calls are not served
    made = [first, Replica(first)]  # type: ignore[abstract]  # as above
    for replica in made:
        replica.running = await start(replica)
        stack.push_async_callback(replica.running.stop, 0)
        replica.proxy = await stack.enter_async_context(Proxy(replica.running.address))
        replica.address = replica.proxy.address
    first.add("w")
    return made


@pytest.fixture
async def client(replicas):
    async with opened(replicas) as client:
        yield client


def opened(replicas, *, patience=NOW, **more):
    addresses = [replica.address for replica in replicas]
    return Client(addresses, patience=patience, randomness=random.Random(7), **more)


async def asked(client, replicas, times=10):
    """Returns how often each was asked of so many calls."""
    before = [replica.asked["get"] for replica in replicas]
    for _ in range(times):
        await client.run("w").get()
    return [replica.asked["get"] - n for replica, n in zip(replicas, before, strict=True)]


async def both_asked(client, replicas):
    """Returns once calls go to both."""

    async def look():
        return 0 not in await asked(client, replicas, 2)

    await until(look, "both are asked")


async def only_asked(client, replicas, one):
    """Returns once calls go to one only."""

    async def look():
        found = await asked(client, replicas, 4)
        return found == [4 * (replica is one) for replica in replicas]

    await until(look, "only one is asked")


# -- calls go round -----------------------------------------------------------------------------


async def test_calls_go_round(client, replicas):
    await both_asked(client, replicas)

    assert await asked(client, replicas) == [5, 5]


async def test_one_that_is_not_there_is_not_waited_for(replicas):
    for addresses in (f"127.0.0.1:1,{replicas[0].address}", f"{replicas[0].address},127.0.0.1:1"):
        async with Client(addresses, patience=NOW) as client:
            assert await asked(client, replicas[:1]) == [10]


async def test_one_that_hangs_is_not_waited_for(replicas):
    replicas[0].proxy.hold()
    async with opened(replicas) as client:
        assert await asked(client, replicas) == [0, 10]


async def test_one_that_ends_gets_no_calls_until_it_is_back(client, replicas):
    await both_asked(client, replicas)
    first = replicas[0]
    await first.running.stop(0)

    assert await asked(client, replicas) == [0, 10]

    first.running = await start(first, listen=first.running.address)
    await both_asked(client, replicas)
    await first.running.stop(0)


async def test_one_that_says_it_does_not_serve_gets_no_calls_until_it_does(client, replicas):
    await both_asked(client, replicas)
    first, second = replicas
    await first.running.set_serving(serving=False)
    await only_asked(client, replicas, second)

    await first.running.set_serving(serving=True)
    await both_asked(client, replicas)


async def test_a_name_stands_for_all_its_addresses(replicas):
    port = replicas[0].running.address.rpartition(":")[2]
    async with Client(f"localhost:{port}", patience=NOW) as client:
        assert await asked(client, replicas[:1]) == [10]


async def test_calls_go_round_among_the_addresses_of_a_name(replicas):
    """Of localhost there are two, where there is IPv6."""
    first, second = replicas
    address = free_address()
    port = address.rpartition(":")[2]
    four = await start(first, listen=address)
    try:
        six = await start(second, listen=f"[::1]:{port}")
    except ListenRefused:
        await four.stop(0)
        pytest.skip("there is no IPv6 here")
    async with Client(f"localhost:{port}", patience=NOW) as client:
        await both_asked(client, replicas)
        await six.stop(0)
        assert await asked(client, replicas) == [10, 0]
        six = await start(second, listen=f"[::1]:{port}")
        await both_asked(client, replicas)
    await asyncio.gather(four.stop(0), six.stop(0))


@needs_openssl
async def test_each_certificate_is_for_its_own_address(replicas, stack, tmp_path):
    authority = Authority(tmp_path)
    channels = []
    for replica, host, names in zip(
        replicas, ("127.0.0.1", "localhost"), ("IP:127.0.0.1", "DNS:localhost"), strict=True
    ):
        credentials = authority.certificate(host, names_what=names).read()
        add = pb_grpc.add_WorkflowServiceServicer_to_server
        served = await serve(
            listen="127.0.0.1:0",
            services=[Service("countermand.v1.WorkflowService", add, replica)],
            credentials=credentials,
        )
        stack.push_async_callback(served.stop, 0)
        address = f"{host}:{served.address.rpartition(':')[2]}"
        opened = open_channel_of_several(address, credentials=credentials)
        channels.append(coordinators.Coordinator(address, opened))
    several = coordinators.Coordinators(channels, random.Random(7))
    stub = pb_grpc.WorkflowServiceStub(cast("Channel", several))  # it uses no more of one

    async def both_answer():
        await stub.GetWorkflow(pb.GetWorkflowRequest(name="workflows/w"), timeout=10)
        return all(replica.asked["get"] for replica in replicas)

    await until(both_answer, "an answer of each")
    await several.close()


# -- nothing is lost when one goes --------------------------------------------------------------


async def test_a_change_whose_answer_is_lost_is_asked_of_another(client, replicas):
    await both_asked(client, replicas)
    replicas[client_next(client)].refusals = [StatusCode.UNAVAILABLE]

    run = await client.submit(SPEC, workflow_id="vm-1")

    assert run.name == "workflows/vm-1"
    assert [replica.asked["start"] for replica in replicas] == [1, 1]


def client_next(client):
    """Returns who is asked next."""
    return client._calls._several._next


async def test_a_change_is_asked_of_another_when_one_is_full(client, replicas):
    await both_asked(client, replicas)
    replicas[client_next(client)].refusals = [Busy(retry_delay=timedelta(hours=1))]

    await client.submit(SPEC, workflow_id="vm-1")

    assert [replica.asked["start"] for replica in replicas] == [1, 1]


async def test_calls_go_on_when_one_begins_to_hang(client, replicas, monkeypatch):
    monkeypatch.setattr(coordinators, "TRY_S_MAX", 0.2)
    monkeypatch.setattr(coordinators, "PASSED_OVER_S", 1.0)
    await both_asked(client, replicas)
    replicas[0].proxy.hold()

    assert await asked(client, replicas) == [0, 10]  # the held one hears of nothing

    await replicas[0].proxy.pass_on()
    await both_asked(client, replicas)


async def test_a_refusal_is_an_answer(client, replicas):
    await both_asked(client, replicas)
    before = sum(replica.asked["get"] for replica in replicas)
    with pytest.raises(WorkflowNotFound):
        await client.run("nowhere").get()

    assert sum(replica.asked["get"] for replica in replicas) == before + 1


async def test_what_each_has_said_is_told():
    nobody = free_address()
    async with Proxy(nobody) as deaf:
        deaf.hold()
        async with Client([nobody, deaf.address], patience=NOW) as client:
            with pytest.raises(NoCoordinatorAnswers) as raised:
                await client.run("w").get()

    assert isinstance(raised.value, CoordinatorUnavailable)
    assert f"{nobody}: refuses connections" in raised.value.message
    assert f"{deaf.address}: takes connections and says nothing" in raised.value.message
    assert set(raised.value.metadata["address"].split(",")) == {nobody, deaf.address}


async def test_one_deadline_is_over_all_tries(client, replicas):
    await both_asked(client, replicas)
    for replica in replicas:
        replica.proxy.hold()

    method, request = client._calls.workflows.GetWorkflow, pb.GetWorkflowRequest(name="workflows/w")
    with pytest.raises(RemoteError) as raised:
        await client._calls.unary(method, request, timeout_s=0.3)

    assert raised.value.code is StatusCode.DEADLINE_EXCEEDED
    for replica in replicas:
        assert f"{replica.address}: did not answer in time" in raised.value.message


async def test_patience_is_for_all_of_them(replicas):
    addresses = [replica.address for replica in replicas]
    for replica in replicas:
        await replica.proxy.refuse()
    async with Client(addresses, patience=timedelta(minutes=1)) as client:
        submitting = asyncio.create_task(client.submit(SPEC, workflow_id="vm-1"))
        await asyncio.wait({submitting}, timeout=0.2)
        await replicas[1].proxy.pass_on()
        await submitting


# -- watches ------------------------------------------------------------------------------------


async def move(replicas, number):
    workflow = replicas[0].workflows["workflows/w"]
    changed = TaskStateChanged(after=Task.STATE_RUNNING)
    await replicas[0].say(
        workflow, task=f"{workflow.name}/tasks/t{number}", task_state_changed=changed
    )


async def unwatched(replica):
    await until(lambda: not replica.watching, "the end of its watch")


@pytest.mark.parametrize("how", ["refuse", "cut"])
async def test_a_watch_goes_on_at_another_without_gap_or_repeat(replicas, how):
    seen = []
    for number in range(3):
        await move(replicas, number)
    async with opened(replicas, patience=timedelta(minutes=1)) as client:
        async for update in client.run("w").watch():
            if not update.HasField("event"):
                continue
            seen.append(update.event.sequence)
            if update.event.sequence in {3, 6}:
                [here] = [replica for replica in replicas if replica.watching]
                if how == "refuse" and here is replicas[0]:
                    await here.proxy.refuse()
                else:
                    here.proxy.cut()
                await unwatched(here)
                for number in range(3):
                    await move(replicas, number)
                if update.event.sequence == 6:
                    await replicas[0].move(replicas[0].workflows["workflows/w"], SUCCEEDED)

    assert seen == [*range(1, 11)]


# -- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "there is none: write host:port, as in 10.0.0.1:7700"),
        ("", "'' is not an address: write host:port, as in 10.0.0.1:7700"),
        ("host-a", "'host-a' is not an address: write host:port, as in 10.0.0.1:7700"),
        (["host-a:7700", "host-b"], "'host-b' is not an address: write host:port, as in 10.0.0.1"),
        ("host-a:7700,", "one is empty: write them as in 10.0.0.1:7700,10.0.0.2:7700"),
        ("host-a:70000", "'host-a:70000' is not an address"),
        ("fd00::1:7700", "an IPv6 address stands in brackets, as in [fd00::1]:7700"),
        ("[fd00::x]:7700", "an IPv6 address stands in brackets"),
        ("10.0.0.256:7700", "'10.0.0.256' is neither a name nor a number of a host"),
        ("host a:7700", "'host a' is neither a name nor a number of a host"),
        ([7700], "7700 is not an address: write host:port, as in '10.0.0.1:7700'"),
    ],
)
@pytest.mark.parametrize(
    "door",
    [Client, lambda given: Owner(given, "acme"), lambda given: BlockingOwner(given, "acme")],
    ids=["client", "owner", "blocking owner"],
)
def test_what_is_no_address_is_refused_with_an_example(door, given, said):
    with pytest.raises(FieldInvalid) as raised:
        door(given)

    [violation] = raised.value.violations
    assert violation.field == "address"
    assert said in violation.description


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("host-a:7700", "host-a:7700"),
        ("host-a:7700, host-b:7700", "host-a:7700,host-b:7700"),
        (["host-a:7700", "host-b:7700", "host-a:7700"], "host-a:7700,host-b:7700"),
        (("[::1]:7700", "10.0.0.1:7700"), "[::1]:7700,10.0.0.1:7700"),
        ("unix:/run/countermand.sock", "unix:/run/countermand.sock"),
        ("coordinators.storage.example.:7700", "coordinators.storage.example.:7700"),
    ],
)
def test_addresses_are_kept_as_they_can_be_given(given, kept):
    assert Client(given).address == kept
    assert Client(kept).address == kept


async def test_one_address_is_one_channel_as_ever(replicas):
    async with opened(replicas[:1]) as client:
        assert await asked(client, replicas[:1]) == [10]
        assert client._calls._several is None
    assert replicas[0].proxy.accepted == 1
