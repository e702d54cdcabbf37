"""A fence on the page where it works: hosts that share a pool, and one of them lost in its work."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from countermand.client.spec import image, policy, retry, sequence, task, workflow_spec
from countermand.v1.host_pb2 import Host
from countermand.v1.task_pb2 import Task
from countermand.v1.verb_pb2 import CopyImage
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.endtoend.cluster import SMALL, Cluster, running, until
from tests.web import stories
from tests.web.filling import Filler, values

HOSTS = {"a": {"work": "bandwidth=256KiB,shared"}, "b": {"work": "shared"}, "c": {}}
WHY = "host a has lost its power"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory, web: str) -> AsyncIterator[Cluster]:
    folder = tmp_path_factory.mktemp("fence")
    options = {"coordinator": ("--web", web)}
    async with running(lives, folder, HOSTS, base=SMALL, options=options) as cluster:
        yield cluster


@pytest.fixture
async def form(cluster, web: str) -> AsyncIterator[Filler]:
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(f"http://{web}", cookie_jar=jar) as session:
        yield Filler(session)


async def test_a_lost_copy_is_settled_by_another_host_and_made_again_there(
    form, client, cluster
) -> None:
    action = CopyImage(source=image(stories.BASE), target=image("work/fenced"))
    twice = policy(retry=retry(2))
    copies = task("copies", action=action, candidate_hosts=["a", "b"], policy=twice)
    run = await client.submit(workflow_spec("f", sequence("all", copies)), workflow_id="fenced")
    staging = cluster.pool("work") / "staging"
    await until(lambda: list(staging.glob("*@fenced@*/*/data.raw")), "the slow copy at work")
    path = "/workflows/fenced/tasks/copies/fence"
    answering = await form.open(path)
    assert "a answers: wait for it, unless it is stuck." in answering.words
    await cluster.agents["a"].kill()

    async def lost() -> bool:
        host: Host = await client.hosts.get("a")
        return host.state != Host.STATE_READY

    await until(lost, "that the host is missed")
    assert path in (await form.open("/workflows/fenced/tasks/copies")).links
    first = await form.open(path)
    assert "Another host that reaches the same shared pool settles the attempt." in first.words
    assert "a answers" not in first.words
    assert set(values(first)) >= {"host_id", "reason"}
    cannot = await form.again(path, first, host_id="c", reason=WHY)
    assert cannot.page.status == 400
    assert WHY in cannot.page.html  # what was typed stays
    assert "c" in cannot.problems
    done = await form.again(path, cannot.page, host_id="b")
    assert (done.location, done.word) == ("/workflows/fenced/tasks/copies", "fenced")
    assert "Another host was asked to settle the attempt" in (await form.open(done.location)).words
    await stories.arrived(client, "fenced", WorkflowState.WORKFLOW_STATE_SUCCEEDED)
    lost_one, made = (await run.task("copies")).attempts
    assert (lost_one.failure.reason, lost_one.host_id) == ("ATTEMPT_FENCED", "a")
    assert (lost_one.failure.metadata["settled_by"], made.host_id) == ("b", "b")
    page = await form.open("/workflows/fenced/tasks/copies")
    assert WHY in (await form.open("/workflows/fenced/events")).words
    assert "ATTEMPT_FENCED" in page.words
    assert (await run.task("copies")).state == Task.STATE_SUCCEEDED
    assert "no outcome of it is still to come" in (await form.open(path)).words
