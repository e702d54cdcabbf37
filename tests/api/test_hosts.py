"""Draining hosts, over gRPC: no new task is placed there, and what blocks the drain is listed."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager

import pytest

from countermand.client.spec import sequence, workflow_spec
from countermand.rpc.names import host_name
from countermand.v1 import host_pb2 as pb
from countermand.v1 import workflow_pb2
from tests.api.calls import BASE, at_work, cancel, copies, crawling, refused, state
from tests.api.steering import failing, paused
from tests.endtoend.cluster import copy, until


def host_state(host: pb.Host) -> str:
    return pb.Host.State.Name(host.state).removeprefix("STATE_")


async def drain(stubs, host: str, *, undrain: bool = False) -> pb.DrainHostResponse:
    request = pb.DrainHostRequest(
        name=host_name(host), request_id="r", reason="a test", undrain=undrain
    )
    answer: pb.DrainHostResponse = await stubs.hosts.DrainHost(request)
    return answer


async def state_of(stubs, host: str) -> str:
    request = pb.HostServiceGetHostRequest(name=host_name(host))
    return host_state((await stubs.hosts.GetHost(request)).host)


@asynccontextmanager
async def draining(stubs, host: str):
    yield await drain(stubs, host)
    await drain(stubs, host, undrain=True)


async def test_what_runs_on_a_draining_host_is_listed_until_it_has_ended(cluster, stubs) -> None:
    """S-V34."""
    async with at_work(cluster, stubs, "drained"), draining(stubs, "b") as answer:
        assert host_state(answer.host) == "DRAINING"
        assert list(answer.blocking_tasks) == ["workflows/drained/tasks/slow"]
        again = await drain(stubs, "b")
        assert again.blocking_tasks == answer.blocking_tasks
        await stubs.workflows.CancelWorkflow(cancel("drained"))

        async def is_drained() -> bool:
            return await state_of(stubs, "b") == "DRAINED"

        await until(is_drained, "the end of the drain")
        assert (await drain(stubs, "b")).blocking_tasks == []
        assert await state_of(stubs, "a") == "READY"
    assert await state_of(stubs, "b") == "READY"


async def test_the_log_tells_what_has_changed_of_a_host_and_nothing_else(cluster, stubs) -> None:
    def told() -> list[object]:
        found = (each for each in cluster.coordinator.events() if each.get("host") == "b")
        changes = ("host.drained", "host.undrained", "host.accepted")
        return [each["event"] for each in found if each["event"] in changes]

    before = len(told())
    async with draining(stubs, "b"):
        await drain(stubs, "b")
        await stubs.hosts.AcceptHost(accept("hosts/b"))
    assert told()[before:] == ["host.drained", "host.undrained"]


async def test_a_draining_host_refuses_workflows_that_name_it(stubs) -> None:
    """S-V34: before anything of them is stored."""
    spec = crawling("refused")
    async with draining(stubs, "b") as answer:
        assert (host_state(answer.host), list(answer.blocking_tasks)) == ("DRAINED", [])
        error = await refused(stubs.start("refused", spec))
        assert (error.reason, error.code) == ("FIELD_INVALID", "INVALID_ARGUMENT")
        assert "host 'b' is draining" in error.metadata["summary"]
        nowhere = copy("only", "", BASE, "pool-b/refused")
        error = await refused(stubs.start("refused", workflow_spec("k", sequence("s", nowhere))))
        assert "b is draining" in error.metadata["summary"]
    get = workflow_pb2.GetWorkflowRequest(name="workflows/refused")
    assert (await refused(stubs.workflows.GetWorkflow(get))).code == "NOT_FOUND"


async def test_a_task_without_a_host_runs_where_its_pools_are(cluster, stubs) -> None:
    chosen = copy("only", "", BASE, "pool-b/chosen")
    await stubs.start("chosen", workflow_spec("k", sequence("s", chosen)))
    assert state(await stubs.wait("chosen")) == "SUCCEEDED"
    assert cluster.data_of("pool-b/chosen").exists()


async def test_a_host_that_somebody_was_placed_on_is_not_removed(cluster, stubs) -> None:
    """It named no host, and yet what it did there may have to be made up for."""
    placed = copy("slow", "", BASE, "crawling/placed")
    await stubs.start("placed", workflow_spec("k", sequence("s", placed)))
    await until(lambda: copies(cluster, "placed", "crawling"), "the slow copy")
    request = pb.RemoveHostRequest(name="hosts/b", request_id="r", reason="a test")
    error = await refused(stubs.hosts.RemoveHost(request))
    assert (error.reason, error.metadata["workflow"]) == ("HOST_BUSY", "workflows/placed")
    await stubs.workflows.CancelWorkflow(cancel("placed"))
    await stubs.wait("placed")


async def test_a_drain_outlives_the_coordinator(cluster, stubs) -> None:
    await drain(stubs, "b")
    await cluster.coordinator.kill()
    await cluster.coordinator.start()
    async with cluster.client() as client:
        host = await client.hosts.get("b")
        assert host_state(host) == "DRAINED"
        await client.hosts.undrain("b", "a test")


@pytest.mark.parametrize(
    ("name", "request_id", "reason", "error"),
    [
        ("hosts/nobody", "r", "why", "HOST_NOT_FOUND"),
        ("b", "r", "why", "FIELD_INVALID"),
        ("hosts/b", "", "why", "FIELD_INVALID"),
        ("hosts/b", "r", " ", "FIELD_INVALID"),
    ],
)
async def test_a_drain_that_says_too_little_changes_nothing(
    stubs, name, request_id, reason, error
) -> None:
    async def is_ready() -> bool:
        return await state_of(stubs, "b") == "READY"

    await until(is_ready, "the host")  # the coordinator may have been started a moment ago
    request = pb.DrainHostRequest(name=name, request_id=request_id, reason=reason)
    assert (await refused(stubs.hosts.DrainHost(request))).reason == error
    assert await state_of(stubs, "b") == "READY"


async def test_the_window_and_what_is_out_are_shown(stubs) -> None:
    request = pb.HostServiceGetHostRequest(name="hosts/a")
    host = (await stubs.hosts.GetHost(request)).host
    assert (host.window, host.open_attempts) == (64, 0)


async def command(cluster, *words: str) -> tuple[int | None, str, str]:
    """Runs a command as a person would; returns its code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "countermand.cli", "--coordinator", cluster.coordinator.address),
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    return process.returncode, out.decode(), errors.decode()


async def test_who_waits_for_a_drain_sees_what_goes(cluster, stubs) -> None:
    async with at_work(cluster, stubs, "waited"):
        words = ("host", "drain", "b", "--wait", "--reason", "kernel", "--timeout", "60s")
        waiting = asyncio.create_task(command(cluster, *words))

        async def is_draining() -> bool:
            return await state_of(stubs, "b") == "DRAINING"

        await until(is_draining, "the drain")
        await stubs.workflows.CancelWorkflow(cancel("waited"))
        code, out, errors = await waiting
        assert code == 0, errors
        assert "⊘ drained" in out
        said = errors.splitlines()
        assert said[0] == "still runs: workflows/waited/tasks/slow"
        assert "gone: workflows/waited/tasks/slow" in said
    code, out, _ = await command(cluster, "host", "undrain", "b", "--reason", "kernel is in")
    assert (code, "✓ ready" in out) == (0, True)


async def test_who_waits_for_a_drain_that_is_taken_back_is_told(cluster, stubs) -> None:
    async with at_work(cluster, stubs, "back"):
        words = ("host", "drain", "b", "--wait", "--reason", "kernel", "--timeout", "60s")
        waiting = asyncio.create_task(command(cluster, *words))

        async def is_draining() -> bool:
            return await state_of(stubs, "b") == "DRAINING"

        await until(is_draining, "the drain")
        await drain(stubs, "b", undrain=True)
        code, out, errors = await waiting
        assert (code, "✓ ready" in out) == (1, True)
        assert errors.endswith("The drain was taken back meanwhile.\n")


async def test_a_host_is_not_drained_while_it_may_have_to_make_up_for_something(stubs) -> None:
    """S-V34: whoever trusts it and switches the host off would block the compensation."""
    await stubs.start("may-go-back", failing("may-go-back"))
    await paused(stubs, "may-go-back")
    async with draining(stubs, "a") as answer:
        assert host_state(answer.host) == "DRAINING"
        assert "workflows/may-go-back/tasks/first" in answer.blocking_tasks
        await stubs.workflows.CancelWorkflow(cancel("may-go-back"))

        async def is_drained() -> bool:
            return await state_of(stubs, "a") == "DRAINED"

        await until(is_drained, "the end of the drain")


# -- accepting ------------------------------------------------------------------------------------


def accept(name: str, *, reason: str = "a test") -> pb.AcceptHostRequest:
    return pb.AcceptHostRequest(name=name, request_id="r", reason=reason)


async def test_a_host_that_is_not_held_is_left_as_it_is(stubs) -> None:
    """Hence a repeat of AcceptHost changes nothing."""
    before = await stubs.hosts.GetHost(pb.HostServiceGetHostRequest(name=host_name("a")))
    answer = await stubs.hosts.AcceptHost(accept(host_name("a")))
    assert host_state(answer.host) == "READY"
    assert answer.host.incarnation == before.host.incarnation
    assert [pool.identity for pool in answer.host.pools] == [
        pool.identity for pool in before.host.pools
    ]
    # One that nobody has ever written to has none.
    assert all(pool.identity or pool.read_only for pool in answer.host.pools)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (accept("hosts/nobody"), "HOST_NOT_FOUND"),
        (accept("nobody"), "FIELD_INVALID"),
        (accept("hosts/a", reason=" "), "FIELD_INVALID"),
    ],
    ids=["unknown", "no name", "no reason"],
)
async def test_an_accept_that_makes_no_sense_is_refused(stubs, request_, reason) -> None:
    assert (await refused(stubs.hosts.AcceptHost(request_))).reason == reason


async def events(stubs, name: str = "", **page) -> pb.ListHostEventsResponse:
    request = pb.ListHostEventsRequest(name=name, **page)
    answer: pb.ListHostEventsResponse = await stubs.hosts.ListHostEvents(request)
    return answer


async def test_who_did_what_to_a_host_and_why_is_kept(cluster, stubs) -> None:
    """Once for each change, over kill -9, and longer than the host (S-R22, I13)."""
    agent = cluster.agents["b"].address

    def add(host: str, address: str) -> pb.AddHostRequest:
        return pb.AddHostRequest(host_id=host, address=address, unreachable_allowed=True)

    await stubs.hosts.AddHost(add("kept", "127.0.0.1:9"))
    await stubs.hosts.AddHost(add("kept", "127.0.0.1:9"))
    await drain(stubs, "kept")
    await drain(stubs, "kept")
    await drain(stubs, "kept", undrain=True)
    assert (await refused(stubs.hosts.AddHost(add("kept", agent)))).reason == "HOST_ID_TAKEN"
    remove = pb.RemoveHostRequest(name="hosts/kept", request_id="r", reason="sold")
    await stubs.hosts.RemoveHost(remove)
    assert (await refused(stubs.hosts.RemoveHost(remove))).reason == "HOST_NOT_FOUND"
    await cluster.coordinator.kill()
    await cluster.coordinator.start()

    async with cluster.client() as client:
        found = [event async for event in client.hosts.events("kept")]
        everything = [event async for event in client.hosts.events()]
    assert [
        (pb.HostEvent.Kind.Name(event.kind), event.principal, event.reason)
        for event in reversed(found)
    ] == [
        ("KIND_ADDED", "local", ""),
        ("KIND_DRAINED", "local", "a test"),
        ("KIND_UNDRAINED", "local", "a test"),
        ("KIND_REMOVED", "local", "sold"),
    ]
    assert [event for event in everything if event.host == "hosts/kept"] == found
    assert {event.host for event in everything} >= {"hosts/a", "hosts/b"}


async def test_events_of_hosts_come_in_pages(cluster, stubs) -> None:
    async with cluster.client() as client:
        everything = [event async for event in client.hosts.events()]
    answer = await events(stubs, page_size=2)
    assert list(answer.events) == everything[:2]
    answer = await events(stubs, page_size=1, page_token=answer.next_page_token)
    assert list(answer.events) == everything[2:3]
    assert (await refused(events(stubs, "b"))).reason == "FIELD_INVALID"
    assert (await refused(events(stubs, page_token="x"))).reason == "FIELD_INVALID"


async def test_one_agent_is_one_host(cluster, stubs) -> None:
    """By its address, and by another one that leads to it; also if it could not be asked first."""
    address = cluster.agents["b"].address
    _, _, port = address.rpartition(":")
    for other in (address, f"localhost:{port}"):
        request = pb.AddHostRequest(host_id="twin", address=other)
        error = await refused(stubs.hosts.AddHost(request))
        assert (error.code, error.reason) == ("ALREADY_EXISTS", "AGENT_TAKEN")
        assert error.metadata["name"] == "hosts/b"
    assert [host.name for host in (await stubs.hosts.ListHosts(pb.ListHostsRequest())).hosts] == [
        "hosts/a",
        "hosts/b",
    ]


async def test_an_agent_that_turns_out_to_be_anothers_gets_nothing(cluster, stubs) -> None:
    await cluster.agents["b"].kill()
    _, _, port = cluster.agents["b"].address.rpartition(":")
    request = pb.AddHostRequest(
        host_id="twin", address=f"localhost:{port}", unreachable_allowed=True
    )
    await stubs.hosts.AddHost(request)
    await cluster.agents["b"].start()

    async def is_told() -> bool:
        host = (await stubs.hosts.GetHost(pb.HostServiceGetHostRequest(name="hosts/twin"))).host
        return (host.problem.reason, host.problem.metadata["name"]) == ("AGENT_TAKEN", "hosts/b")

    await until(is_told, "the refusal")
    assert await state_of(stubs, "twin") != "READY"
    remove = pb.RemoveHostRequest(name="hosts/twin", request_id="r", reason="a test")
    await stubs.hosts.RemoveHost(remove)

    async def is_back() -> bool:
        return await state_of(stubs, "b") == "READY"

    await until(is_back, "host b")
