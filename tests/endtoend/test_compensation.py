"""Compensation on real processes: its order, its patience, and what it leaves alone."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from countermand.client import Run
from countermand.client.spec import policy, retry, sequence, task, workflow_spec
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.endtoend.checks import assert_clean, assert_made_up_for_before, journals
from tests.endtoend.cluster import Cluster, copy, running, until
from tests.endtoend.plans import AWAIT, BASE, HOSTS, failure, slow

pytestmark = pytest.mark.slow

SLOW = "workflows/cancels/tasks/slow/"
QUICK = timedelta(milliseconds=50)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compensation")
    async with running(lives, folder, HOSTS, evidence_kept=True) as cluster:
        yield cluster


@contextmanager
def immutable(path: Path) -> Iterator[None]:
    """Makes a file or folder that not even root can rename or remove."""
    made = subprocess.run(["chattr", "+i", path], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no immutable files here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", path], capture_output=True, check=False)


def ended(events: list[HistoryEvent], task_id: str, state: Attempt.State.ValueType) -> list[int]:
    """Returns the sequences at which attempts of a task ended in a state."""
    return [
        event.sequence
        for event in events
        if event.task.endswith(f"/tasks/{task_id}") and event.attempt_ended.state == state
    ]


async def test_a_running_sibling_is_cancelled_and_then_left_alone(cluster):
    """S-V2, CANCEL: what was stopped has left nothing, so nothing is made up for."""
    spec = failure("cancels")
    spec.root.members[1].group.members[1].task.action.copy_image.target.pool_id = "endless"
    async with cluster.client() as client:
        await client.submit(spec, workflow_id="cancels")
    await cluster.settled("cancels")
    workflow = assert_clean(cluster, "cancels", "COMPENSATED")
    assert workflow.tasks == {
        "first": "COMPENSATED",
        "done": "COMPENSATED",
        "slow": "CANCELLED",
        "fails": "FAILED",
        "never": "CANCELLED",
    }
    assert ended(workflow.events, "slow", Attempt.STATE_CANCELLED)
    assert [
        attempt.kind for name, attempt in journals(cluster).items() if name.startswith(SLOW)
    ] == ["ACTION"]
    assert_made_up_for_before(workflow, "done", "first")


async def test_a_running_sibling_is_awaited_and_then_made_up_for(cluster):
    """S-V2, AWAIT: only after its outcome is known is anything compensated on its host."""
    async with cluster.client() as client:
        await client.submit(failure("awaits", AWAIT), workflow_id="awaits")
    await cluster.settled("awaits")
    workflow = assert_clean(cluster, "awaits", "COMPENSATED")
    assert workflow.tasks["slow"] == "COMPENSATED"
    [succeeded, made_up_for] = ended(workflow.events, "slow", Attempt.STATE_SUCCEEDED)
    begun = [
        event.sequence
        for event in workflow.events
        if event.task.endswith("/slow") and event.attempt_started.kind == Attempt.KIND_COMPENSATION
    ]
    assert succeeded < begun[0] < made_up_for
    assert_made_up_for_before(workflow, "slow", "first")


async def test_a_chain_is_made_up_for_in_reverse(cluster):
    """S-V15: s3 fails, so s2 and then s1 are made up for, and s4 is never sent."""
    spec = workflow_spec(
        "chain",
        sequence(
            "all",
            copy("s1", "a", BASE, "pool-a/s1"),
            copy("s2", "b", BASE, "pool-b/s2"),
            task("s3", host="c", action=Noop(failure_message="as asked")),
            copy("s4", "a", BASE, "pool-a/s4"),
        ),
    )
    async with cluster.client() as client:
        await client.submit(spec, workflow_id="chain")
    settled = await cluster.settled("chain")
    assert (settled.cause.reason, settled.cause.message) == ("DRILL", "as asked")
    workflow = assert_clean(cluster, "chain", "COMPENSATED")
    assert list(workflow.tasks.values()) == ["COMPENSATED", "COMPENSATED", "FAILED", "CANCELLED"]
    assert_made_up_for_before(workflow, "s2", "s1")
    assert not any("chain/tasks/s4" in name for name in journals(cluster))


@asynccontextmanager
async def cancelled_with_an_immutable_copy(
    cluster: Cluster, workflow_id: str, *, attempts_max: int
) -> AsyncIterator[Run]:
    """Cancels a workflow whose first copy cannot be removed; yields, then lets it be removed."""
    spec = slow(workflow_id)
    spec.root.members[1].task.action.copy_image.target.pool_id = "endless"
    patience = policy(compensation_retry=retry(attempts_max, delay=QUICK, delay_max=QUICK))
    spec.policy.CopyFrom(patience)
    async with cluster.client() as client:
        run = await client.submit(spec, workflow_id=workflow_id)
        await until(lambda: cluster.half_made_bytes("endless", workflow_id), "the second copy")
        with immutable(cluster.pool("pool-a") / "images" / f"{workflow_id}-first"):
            await run.cancel("a test")
            yield run
    await cluster.settled(workflow_id)


def failed_compensations(cluster: Cluster, workflow_id: str) -> int:
    return sum(
        (attempt.kind, attempt.state) == ("COMPENSATION", "FAILED")
        for attempt in journals(cluster).values()
        if attempt.workflow == workflow_id
    )


def has_failed(cluster: Cluster, workflow_id: str, times: int) -> bool:
    return failed_compensations(cluster, workflow_id) >= times


async def test_a_compensation_fails_three_times_and_then_succeeds(cluster):
    """S-V12: it is tried again and again, the state says so, and every try is kept."""
    async with cancelled_with_an_immutable_copy(cluster, "stubborn", attempts_max=1000) as run:
        await until(partial(has_failed, cluster, "stubborn", 3), "three failures")
        assert (await run.get()).state == WorkflowState.WORKFLOW_STATE_COMPENSATING
    workflow = assert_clean(cluster, "stubborn", "COMPENSATED")
    failed = ended(workflow.events, "first", Attempt.STATE_FAILED)
    assert len(failed) >= 3
    [_, made_up_for] = ended(workflow.events, "first", Attempt.STATE_SUCCEEDED)
    assert failed[-1] < made_up_for
    async with cluster.client() as client:
        shown = await client.run("stubborn").task("first")
    assert [attempt.state for attempt in shown.attempts] == [
        Attempt.STATE_SUCCEEDED,
        *(Attempt.STATE_FAILED for _ in failed),
        Attempt.STATE_SUCCEEDED,
    ]
    assert {attempt.failure.reason for attempt in shown.attempts[1:-1]} == {"STORAGE_FAILED"}


async def test_over_its_budget_a_compensation_asks_for_somebody_and_goes_on(cluster):
    """S-V13, S-Z13: BLOCKED says what for; once the cause is gone it ends by itself."""
    async with cancelled_with_an_immutable_copy(cluster, "blocked", attempts_max=2) as run:
        waited = await run.wait(until_attention=True)
        assert waited.state == WorkflowState.WORKFLOW_STATE_BLOCKED
        [need] = waited.needs
        assert (need.task, need.reason) == (
            "workflows/blocked/tasks/first",
            "COMPENSATION_BLOCKED",
        )
        # The coordinator may die meanwhile: the slow tries go on.
        await cluster.coordinator.kill()
        again = failed_compensations(cluster, "blocked") + 1
        await cluster.coordinator.start()
        await until(partial(has_failed, cluster, "blocked", again), "another try")
    assert_clean(cluster, "blocked", "COMPENSATED")
