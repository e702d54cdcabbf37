"""Our own client, for those who write Python: the same verbs, in one line each."""

from __future__ import annotations

from datetime import timedelta

import pytest
import pytest_asyncio

from countermand.client import Client
from countermand.client.decisions import rerun
from countermand.client.spec import compensate_by, policy, retry, sequence, task, workflow_spec
from countermand.rpc.errors import RequirementsUnmet, StateForbids
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_pb2 import ResumeRequirement
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.api.calls import BASE, copies, crawling, state
from tests.api.steering import PAUSE, failing
from tests.endtoend.cluster import copy, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def client(cluster):
    async with Client(cluster.coordinator.address, patience=timedelta(seconds=30)) as client:
        yield client


async def test_open_failures_are_listed_and_mended(client):
    """S-R12, S-R13, S-R14, S-R18."""
    run = await client.submit(failing("mended"), workflow_id="mended")
    held = await run.wait(until_attention=True)
    assert held.state in {
        WorkflowState.WORKFLOW_STATE_PAUSING,
        WorkflowState.WORKFLOW_STATE_PAUSED,
    }

    async def both_failed() -> bool:
        return state(await run.get()) == "PAUSED"

    await until(both_failed, "the pause")
    kinds = [each.kind for each in await run.requirements()]
    assert kinds.count(ResumeRequirement.KIND_DECISION) == 2
    with pytest.raises(RequirementsUnmet) as raised:
        await run.resume("too early", skip=["two"])
    assert [v.field for v in raised.value.violations] == ["workflows/mended/tasks/one"]
    skipped = {"image.pool_id": "pool-a", "image.image_id": "mended-first"}
    mend = {"rerun": {"two": {"source.image_id": "base"}}, "skip": {"one": skipped}}
    dry = await run.resume(**mend, validate_only=True)
    assert {c.key for c in dry.changes} == {"source.image_id", "image.pool_id", "image.image_id"}
    answer = await run.resume("mended", **mend)
    assert answer.changes == dry.changes
    assert state(await run.wait()) == "SUCCEEDED"


async def test_a_decision_may_say_more(client):
    """Another host, chosen by an operator: the next attempt goes there."""
    spec = workflow_spec(
        "moved",
        sequence("all", task("fails", host="a", action=Noop(failure_message="as asked"))),
        policy=PAUSE,
    )
    run = await client.submit(spec, workflow_id="moved")
    await run.wait(until_attention=True)
    decision = rerun("fails", {"failure_message": ""}, host="b")
    answer = await run.resume("moved", decisions=[decision])
    assert {c.key: c.after.string_value for c in answer.changes} == {
        "failure_message": "",
        "host_id": "b",
    }
    assert state(await run.wait()) == "SUCCEEDED"
    fails = await run.task("fails")
    assert [attempt.host_id for attempt in fails.attempts] == ["a", "b"]


async def test_a_pause_outlives_the_coordinator(cluster, client):
    """Sent again by itself, under the same request id; and the workflow stays held."""
    run = await client.submit(crawling("paused", "slow"), workflow_id="paused")
    await until(lambda: copies(cluster, "paused", "slow"), "the slow copy")
    await run.pause("maintenance")
    await cluster.coordinator.kill()
    await cluster.coordinator.start()

    async def is_paused() -> bool:
        return state(await run.get()) == "PAUSED"

    await until(is_paused, "the pause")
    await run.resume()
    settled = await run.wait()
    assert state(settled) == "SUCCEEDED"
    kept = settled.expire_time.ToDatetime() - settled.end_time.ToDatetime()
    assert kept == timedelta(days=30)


async def test_a_compensation_is_decided_about_and_the_workflow_forked(client):
    by_noop = compensate_by(Noop(failure_message="stuck"))
    spec = workflow_spec(
        "left",
        sequence(
            "all",
            copy("made", "a", BASE, "pool-a/left", compensation=by_noop),
            task("fails", host="a", action=Noop(failure_message="as asked")),
        ),
        policy=policy(compensation_retry=retry(1, delay=timedelta(minutes=1))),
    )
    run = await client.submit(spec, workflow_id="left", labels={"team": "storage"})
    blocked = await run.wait(until_attention=True)
    assert state(blocked) == "BLOCKED"
    with pytest.raises(StateForbids, match="fails is FAILED"):
        await run.decide_compensation("fails", "done", "a test")
    await run.decide_compensation("made", "abandon", "the pool is lost")
    settled = await run.wait()
    assert (state(settled), len(settled.leftovers)) == ("FAILED", 1)
    again = await run.fork("left-again", labels={"team": "network"})
    forked = await again.get()
    assert (forked.forked_from, dict(forked.labels)) == (run.name, {"team": "network"})
    await again.wait(until_attention=True)
