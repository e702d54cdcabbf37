"""What is not known is asked for before anything is done about it.

After a restart, or a reply that was lost, the coordinator asks the agent what has become of an
attempt before it sends, sends again, stops or makes up for anything (S-V5, S-H1, S-Z1, S-Z5).
"""

from __future__ import annotations

import contextlib

import pytest

from coordinator.runtime import crash_points
from countermand.client.spec import parallel, sequence, task, workflow_spec
from countermand.rpc.errors import CountermandError
from countermand.rpc.names import attempt_name
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.endtoend.between import Recorder, Wire
from tests.endtoend.checks import assert_clean, assert_ran_once, journals, recorded
from tests.endtoend.cluster import Cluster, copy, until
from tests.endtoend.plans import BASE, HOSTS, slow, success

pytestmark = pytest.mark.slow


@pytest.fixture
async def cluster(lives, tmp_path):
    cluster = Cluster(lives, tmp_path, HOSTS, evidence_kept=True)
    await cluster.add_template("base")
    yield cluster
    await cluster.end()


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize(
    "crash_point",
    [crash_points.AFTER_COMMIT, crash_points.BEFORE_SEND, crash_points.AFTER_SEND],
)
async def test_a_new_coordinator_asks_about_everything_that_may_have_gone_out(
    cluster, crash_point, times
):
    """S-H1: each intent of the dead coordinator is asked about before anything else is said."""
    recorders = [Recorder(agent.address) for agent in cluster.agents.values()]
    async with contextlib.AsyncExitStack() as stack:
        for host, recorder in zip(cluster.agents, recorders, strict=True):
            await stack.enter_async_context(recorder)
            cluster.addresses[host] = recorder.address
        await cluster.start()
        await cluster.coordinator.stop()
        await cluster.coordinator.start(f"{crash_point}:{times}")
        with contextlib.suppress(CountermandError):
            async with cluster.client() as client:
                run = await client.submit(success("asks"), workflow_id="asks")
                await run.wait()
        await cluster.coordinator.died()
        unsettled = [
            attempt.name
            for attempt in recorded(cluster, "asks").attempts.values()
            if attempt.state in {"STARTING", "RUNNING"}
        ]
        for recorder in recorders:
            recorder.calls.clear()
        await cluster.coordinator.start()
        await cluster.settled("asks")
        assert_clean(cluster, "asks", "SUCCEEDED")
        assert_ran_once(cluster, "asks")
        for attempt in unsettled:
            [calls] = [found for recorder in recorders if (found := recorder.about(attempt))]
            assert calls[0] == "GetAttempt", (attempt, calls)


async def test_a_running_attempt_is_asked_about_and_not_sent_again(cluster):
    """S-H1: kill -9 with an attempt running."""
    async with Recorder(cluster.agents["b"].address) as recorder:
        cluster.addresses["b"] = recorder.address
        await cluster.start()
        async with cluster.client() as client:
            await client.submit(slow("running"), workflow_id="running")
            attempt = attempt_name("running", "slow", 1)
            await until(lambda: recorder.about(attempt), "the slow copy")
        await cluster.coordinator.kill()
        assert recorder.about(attempt) == ["CopyImage"]
        await cluster.coordinator.start()
        await cluster.settled("running")
        assert recorder.about(attempt) == ["CopyImage", "GetAttempt"]
        assert_clean(cluster, "running", "SUCCEEDED")
        assert_ran_once(cluster, "running")


@pytest.mark.parametrize("sibling", ["succeeds", "fails"])
async def test_a_lost_reply_is_asked_about_before_anything_else(cluster, sibling):
    """S-V5, S-Z1: not sent again, not made up for, not sent elsewhere before its fate is known."""
    attempt = attempt_name("lost", "copied", 1)
    noop = Noop(failure_message="as asked" if sibling == "fails" else "")
    spec = workflow_spec(
        "lost",
        sequence(
            "all",
            parallel(
                "both",
                copy("copied", "a", BASE, "pool-a/lost"),
                task("other", host="c", action=noop),
            ),
        ),
    )
    async with Recorder(cluster.agents["a"].address) as recorder, Wire(recorder.address) as wire:
        cluster.addresses["a"] = wire.address
        await cluster.start()
        wire.swallow_from(b"CopyImage")
        async with cluster.client() as client:
            run = await client.submit(spec, workflow_id="lost")
            await wire.swallowed.wait()
            await until(lambda: attempt in journals(cluster), "the attempt in the journal")
            wire.cut()
            await until(lambda: "other" in ended(cluster), "the end of the other task")
            # Everything else is known. Of this attempt nothing is, so nothing is done about it.
            assert recorder.about(attempt) == ["CopyImage"]
            waiting = await run.get()
            assert waiting.state == (
                WorkflowState.WORKFLOW_STATE_COMPENSATING
                if sibling == "fails"
                else WorkflowState.WORKFLOW_STATE_RUNNING
            )
        wire.heal()
        await cluster.settled("lost")
        assert recorder.about(attempt)[:2] == ["CopyImage", "GetAttempt"]
        assert recorder.about(attempt).count("CopyImage") == 1
        assert_clean(cluster, "lost", "COMPENSATED" if sibling == "fails" else "SUCCEEDED")


def ended(cluster: Cluster) -> list[str]:
    tasks = recorded(cluster, "lost").tasks
    return [task for task, state in tasks.items() if state in {"SUCCEEDED", "FAILED"}]


async def test_a_host_that_hangs_holds_up_no_other(cluster):
    """S-V20, S-Z21: nothing is concluded from silence, and other hosts go on."""
    await cluster.start()
    agent = cluster.agents["b"]
    agent.freeze()
    async with cluster.client() as client:
        waiting = await client.submit(slow("hangs"), workflow_id="hangs")
        spec = workflow_spec("free", sequence("all", copy("copied", "c", BASE, "pool-c/free")))
        await client.submit(spec, workflow_id="free")
        await cluster.settled("free")
        assert (await waiting.get()).state == WorkflowState.WORKFLOW_STATE_RUNNING
    agent.thaw()
    await cluster.settled("hangs")
    assert_clean(cluster, "free", "SUCCEEDED")
    assert_clean(cluster, "hangs", "SUCCEEDED")
