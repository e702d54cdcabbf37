"""Tasks that leave their host open, hosts that drain, and attempts that take too long.

Two hosts reach the same pools; on one of them a pool is small, and another crawls.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
import pytest_asyncio

from countermand.client.spec import image, parallel, policy, retry, sequence, task, workflow_spec
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.host_pb2 import Host
from countermand.v1.task_pb2 import Task
from countermand.v1.verb_pb2 import CopyImage, Noop
from countermand.v1.workflow_spec_pb2 import Node
from tests.endtoend.checks import journals, labels, recorded, staged
from tests.endtoend.cluster import SMALL, Cluster, copy, running, until
from tests.endtoend.effects import assert_at_rest, attempts, purged
from tests.endtoend.plans import BASE
from tests.endtoend.stories import ON_FAILURE, QUICK, ends, word

pytestmark = pytest.mark.slow

HOSTS = {
    "a": {
        "work": "shared",
        "tight": "quota=100KiB,shared",
        "crawling": "bandwidth=256KiB,shared",
        "endless": "bandwidth=32KiB,shared",  # for what is stopped
    },
    "b": {"work": "shared", "tight": "shared", "crawling": "shared", "endless": "shared"},
}
SOON = timedelta(seconds=2)  # longer than anything takes that is not held up
LATE = {Task.STATE_CANCELLING, Task.STATE_UNKNOWN, Task.STATE_COMPENSATING}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("placement")
    async with running(lives, folder, HOSTS, base=SMALL) as cluster:
        yield cluster


def open_copy(name: str, target: str, **node: object) -> Node:
    """Returns a copy for which the coordinator chooses a host."""
    action = CopyImage(source=image(BASE), target=image(target))
    return task(name, action=action, **node)  # type: ignore[arg-type]


async def begun(cluster: Cluster, workflow_id: str) -> None:
    """Returns once the crawling copy of a workflow has something in its pool."""
    await until(lambda: any(f"@{workflow_id}@" in one for one in staged(cluster)), "the slow copy")


async def test_a_drained_host_gets_nothing_new_and_says_what_it_waits_for(cluster, client):
    """S-V34, S-V20: what runs there is listed and goes on; the drain outlives the coordinator."""
    crawls = copy("crawls", "a", BASE, "crawling/stays")
    run = await client.submit(workflow_spec("s", sequence("all", crawls)), workflow_id="stays")
    await begun(cluster, "stays")
    answer = await client.hosts.drain("a", "new disks")
    assert answer.host.state == Host.STATE_DRAINING
    assert list(answer.blocking_tasks) == ["workflows/stays/tasks/crawls"]

    await cluster.coordinator.kill()
    await cluster.coordinator.start()
    copies = [open_copy(f"copy-{n}", f"work/drained-{n}") for n in range(3)]
    spec = workflow_spec("placed", sequence("all", parallel("copies", *copies)))
    placed = await client.submit(spec, workflow_id="placed")
    await ends(placed, "SUCCEEDED")
    workflow = assert_at_rest(
        cluster, "placed", "SUCCEEDED", {f"work/drained-{n}" for n in range(3)}
    )
    assert {attempt.host for attempt in workflow.attempts.values()} == {"b"}

    states = [host.state async for host in client.hosts.follow_drain("a")]
    assert states[-1] == Host.STATE_DRAINED
    await ends(run, "SUCCEEDED")
    assert_at_rest(cluster, "stays", "SUCCEEDED", {"crawling/stays"})
    assert (await client.hosts.undrain("a", "done")).host.state == Host.STATE_READY
    spec = workflow_spec("back", sequence("all", open_copy("copies", "work/back")))
    await ends(await client.submit(spec, workflow_id="back"), "SUCCEEDED")
    assert recorded(cluster, "back").attempts.popitem()[1].host == "a"  # as idle, and the first


async def test_a_drain_is_complete_when_what_blocks_it_is_cancelled(cluster, client):
    """S-V34, S-V19."""
    crawls = copy("crawls", "a", BASE, "endless/cancelled")
    run = await client.submit(workflow_spec("c", sequence("all", crawls)), workflow_id="cancelled")
    await begun(cluster, "cancelled")
    assert (await client.hosts.drain("a", "new disks")).blocking_tasks
    await run.cancel("the disks are here")
    await ends(run, "COMPENSATED")
    answer = await client.hosts.drain("a", "new disks")  # a repeat only looks
    assert answer.host.state == Host.STATE_DRAINED
    assert not answer.blocking_tasks
    await client.hosts.undrain("a", "done")
    assert_at_rest(cluster, "cancelled", "COMPENSATED")


async def test_a_retry_goes_to_another_host_once_the_first_has_failed(cluster, client):
    """S-G7, S-F1, S-V23: the pool is full by one host's quota; nothing is left of that try."""
    again = retry(2, delay=QUICK, reasons=["NO_SPACE"])
    node = open_copy("tries", "tight/tried", candidate_hosts=["a", "b"], policy=policy(retry=again))
    run = await client.submit(workflow_spec("t", sequence("all", node)), workflow_id="tried")
    await ends(run, "SUCCEEDED")
    workflow = assert_at_rest(cluster, "tried", "SUCCEEDED", {"tight/tried"})
    assert attempts(workflow, "tries") == ["FAILED", "SUCCEEDED"]
    assert [one.host_id for one in (await run.task("tries")).attempts] == ["a", "b"]


async def test_who_runs_too_long_is_stopped_swept_and_only_then_failed(cluster, client):
    """S-V21, S-F2: and the workflow goes by its policy; here another host is quicker."""
    patience = policy(run_timeout=SOON, retry=retry(2, delay=QUICK))
    node = open_copy("slow", "endless/late", candidate_hosts=["a", "b"], policy=patience)
    run = await client.submit(workflow_spec("l", sequence("all", node)), workflow_id="late")
    await ends(run, "SUCCEEDED")
    workflow = assert_at_rest(cluster, "late", "SUCCEEDED", {"endless/late"})
    first, second = (await run.task("slow")).attempts
    assert (first.state, first.failure.reason) == (Attempt.STATE_FAILED, "RUN_TIMEOUT")
    assert (first.host_id, second.host_id) == ("a", "b")
    assert attempts(workflow, "slow") == ["FAILED", "SUCCEEDED"]
    ran = first.end_time.ToNanoseconds() - first.start_time.ToNanoseconds()
    assert ran >= SOON.total_seconds() * 1e9


async def test_who_never_starts_is_fenced_before_anything_else_is_done(cluster, client):
    """S-V21, S-V5: nothing is concluded from a host that hangs, not even by a timeout.

    The copy is tried elsewhere only after its agent has said that the first try never will run.
    """
    patience = policy(start_timeout=SOON, retry=retry(2, delay=QUICK))
    node = open_copy("starts", "crawling/starts", candidate_hosts=["a", "b"], policy=patience)
    cluster.agents["a"].freeze()
    try:
        run = await client.submit(workflow_spec("s", sequence("all", node)), workflow_id="starts")

        async def is_late() -> bool:
            return (await run.task("starts")).state in LATE

        await until(is_late, "the timeout")
        assert len((await run.task("starts")).attempts) == 1
        assert not any("/starts/" in name for name in journals(cluster))
    finally:
        cluster.agents["a"].thaw()
    await ends(run, "SUCCEEDED")
    workflow = assert_at_rest(cluster, "starts", "SUCCEEDED", {"crawling/starts"})
    first, *_, last = (await run.task("starts")).attempts
    assert (first.failure.reason, first.host_id, last.host_id) == ("START_TIMEOUT", "a", "b")
    assert attempts(workflow, "starts")[-1] == "SUCCEEDED"


async def test_a_workflow_that_takes_too_long_is_made_up_for(cluster, client):
    """S-F2, S-Z16: by its own timeout, and what makes up for it is bounded by none."""
    spec = workflow_spec(
        "t",
        sequence(
            "all",
            copy("done", "b", BASE, "work/timed"),
            copy("crawls", "a", BASE, "endless/timed"),
        ),
        timeout=SOON,
    )
    run = await client.submit(spec, workflow_id="timed")
    await ends(run, "COMPENSATED")
    assert (await run.get()).cause.reason == "TIMED_OUT"
    await purged(cluster)
    workflow = assert_at_rest(cluster, "timed", "COMPENSATED")
    assert workflow.tasks == {"done": "COMPENSATED", "crawls": "CANCELLED"}


async def test_a_task_waits_for_a_host_that_comes_back(cluster, client):
    """S-V20, S-V18: the only candidate is dead; others go on, and so does it, once it is there."""
    host = cluster.agents["b"]
    await host.kill()
    waits = open_copy("waits", "work/waits", candidate_hosts=["b"])
    run = await client.submit(workflow_spec("w", sequence("all", waits)), workflow_id="waits")
    other = workflow_spec("o", sequence("all", copy("other", "a", BASE, "work/other")))
    await ends(await client.submit(other, workflow_id="other"), "SUCCEEDED")
    assert word(await run.get()) == "RUNNING"
    await cluster.coordinator.kill()
    await host.start()
    await cluster.coordinator.start()
    await ends(run, "SUCCEEDED")
    assert_at_rest(cluster, "waits", "SUCCEEDED", {"work/waits"})


async def test_policies_on_real_disks(cluster, client):
    """S-V17, S-F3, S-G8: optional work, a quorum, and a group made up for, all in one workflow."""
    fails = Noop(failure_message="as asked")
    spec = workflow_spec(
        "policies",
        sequence(
            "all",
            task("optional", host="a", action=fails, policy=ON_FAILURE["IGNORE"]),
            parallel(
                "two-of-three",
                copy("one", "a", BASE, "work/quorum-1"),
                copy("two", "b", BASE, "work/quorum-2"),
                copy("three", "a", BASE, "tight/quorum-3"),
                min_success=2,
            ),
            sequence(
                "group",
                copy("in-vain", "b", BASE, "work/in-vain"),
                task("breaks", host="b", action=fails),
                policy=ON_FAILURE["COMPENSATE_GROUP"],
            ),
            copy("after", "b", BASE, "work/after"),
        ),
    )
    run = await client.submit(spec, workflow_id="policies")
    await ends(run, "SUCCEEDED")
    await purged(cluster)
    images = {"work/quorum-1", "work/quorum-2", "work/after"}
    workflow = assert_at_rest(cluster, "policies", "SUCCEEDED", images)
    assert workflow.tasks["three"] == "FAILED"
    assert workflow.tasks["in-vain"] == "COMPENSATED"
    optional = await run.task("optional")
    assert optional.optional_by_policy
    assert "work/in-vain" not in labels(cluster)


async def test_what_is_stopped_is_kept_and_listed(cluster, client):
    """S-R3, policy STOP: ends as FAILED, keeps what was done, and says so."""
    spec = workflow_spec(
        "stops",
        sequence(
            "all",
            copy("kept", "b", BASE, "work/kept"),
            task("fails", host="a", action=Noop(failure_message="as asked")),
        ),
        policy=ON_FAILURE["STOP"],
        on_failure=[copy("tells", "b", BASE, "work/told")],
    )
    run = await client.submit(spec, workflow_id="stops")
    await ends(run, "FAILED")
    [left] = (await run.get()).leftovers
    assert (left.task, left.reason) == ("workflows/stops/tasks/kept", "STOPPED")
    assert {"work/kept", "work/told"} <= set(labels(cluster))
