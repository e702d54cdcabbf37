"""Plans in plans: items, rounds, recoveries, nested workflows and end actions, on real images."""

from __future__ import annotations

import pytest
import pytest_asyncio

from countermand.client import Run
from countermand.client.decisions import rerun
from countermand.client.spec import for_each, nested, parallel, sequence, task, workflow_spec
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_spec_pb2 import Node, WorkflowSpec
from tests.endtoend.checks import same
from tests.endtoend.cluster import SMALL, copy, running
from tests.endtoend.effects import assert_at_rest, attempts, purged
from tests.endtoend.plans import BASE
from tests.endtoend.stories import ON_FAILURE, bound, ends, needs

pytestmark = pytest.mark.slow

HOSTS = {"a": {"pool-a": "", "small": "quota=100KiB"}, "b": {"pool-b": ""}}
FAILS = Noop(failure_message="as asked")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    async with running(lives, folder, HOSTS, base=SMALL) as cluster:
        yield cluster


def items(name: str, sources: list[str], **group: object) -> tuple[Node, dict[str, object]]:
    """Returns a group that copies each source and then its copy, and the input."""
    one = copy("copy", "a", "bound/bound", "bound/bound")
    one.task.action.copy_image.Clear()
    one.task.action.copy_image.source.pool_id = "templates"
    one.task.action.copy_image.target.pool_id = "pool-a"
    one.task.bindings.add(field="source.image_id", source="disk.source")
    one.task.bindings.add(field="target.image_id", source="disk.target")
    disks = [{"source": source, "target": f"{name}-{n}"} for n, source in enumerate(sources)]
    whole = for_each(parallel("disks", one, **group), "input.disks", "disk")  # type: ignore[arg-type]
    return whole, {"disks": disks}


async def test_a_leaf_three_levels_down_is_run_again(cluster, client):
    """S-D1, S-D4, S-A9, S-R11: the same workflow ends, no new one exists; then one that is not."""

    def three(name: str) -> WorkflowSpec:
        leaf = copy("leaf", "a", f"templates/{name}", f"pool-a/{name}")
        inner = workflow_spec(
            "inner", sequence("in", leaf, bound("next", "a", "leaf", f"pool-a/{name}-next"))
        )
        middle = workflow_spec("middle", sequence("mid", nested("inner", inner)))
        first = copy("first", "b", BASE, f"pool-b/{name}-first")
        return workflow_spec(
            "outer", sequence("all", first, nested("middle", middle)), policy=ON_FAILURE["PAUSE"]
        )

    run = await client.submit(three("nested"), workflow_id="nested")
    held = await needs(run, "PAUSED")
    assert [need.task.rpartition("/")[2] for need in held.needs] == ["middle.inner.leaf"]
    await cluster.add_template("nested", size_mib=1, extents=2, seed=4)
    await run.resume("imported", rerun=["middle.inner.leaf"])
    await ends(run, "SUCCEEDED")
    images = {"pool-a/nested", "pool-a/nested-next", "pool-b/nested-first"}
    workflow = assert_at_rest(cluster, "nested", "SUCCEEDED", images)
    assert attempts(workflow, "middle.inner.leaf") == ["FAILED", "SUCCEEDED"]
    assert attempts(workflow, "first") == ["SUCCEEDED"]
    assert same(cluster.data_of("templates/nested"), cluster.data_of("pool-a/nested-next"))

    other = await client.submit(three("never"), workflow_id="never")
    await needs(other, "PAUSED")
    await other.cancel("never mind")
    await ends(other, "COMPENSATED")
    await purged(cluster)
    assert_at_rest(cluster, "never", "COMPENSATED")


async def test_items_run_again_with_and_without_a_reset(cluster, client):
    """S-C2, S-R19, I2: 3, 5, 8, 10, 12 attempts; what a reset takes back is made up for first."""
    group, given = items("totals", ["base", "gone", "lost"])
    spec = workflow_spec("totals", sequence("all", group), policy=ON_FAILURE["PAUSE"])
    run = await client.submit(spec, workflow_id="totals", input=given)
    await needs(run, "PAUSED")
    totals = [await _actions(run)]
    for reset in (False, True, False, False):
        await run.resume("again", decisions=[rerun("disks", reset=reset)])
        await needs(run, "PAUSED")
        totals.append(await _actions(run))
    assert totals == [3, 5, 8, 10, 12]
    await run.resume("enough", skip=["disks"])
    await ends(run, "SUCCEEDED")
    await purged(cluster)
    workflow = assert_at_rest(cluster, "totals", "SUCCEEDED", {"pool-a/totals-0"})
    assert attempts(workflow, "copy.0") == ["SUCCEEDED", "SUCCEEDED"]
    assert attempts(workflow, "copy.0", "COMPENSATION") == ["SUCCEEDED"]


async def _actions(run: Run) -> int:
    """Returns how many actions were tried so far."""
    shown = [await run.task(f"copy.{n}") for n in range(3)]
    return sum(not attempt.compensates for one in shown for attempt in one.attempts)


async def test_rounds_of_real_copies_leave_one_of_each(cluster, client):
    """S-G6, S-G8, S-V15: three rounds, made up for newest first; then all of the workflow is."""
    spec = workflow_spec(
        "rounds",
        sequence(
            "all",
            copy("first", "b", BASE, "pool-b/rounds-first"),
            sequence(
                "rounds",
                copy("one", "a", BASE, "pool-a/rounds-one"),
                bound("two", "a", "one", "pool-a/rounds-two"),
                copy("full", "a", BASE, "small/rounds"),
                rounds_max=3,
            ),
        ),
    )
    run = await client.submit(spec, workflow_id="rounds")
    await ends(run, "COMPENSATED")
    await purged(cluster)
    workflow = assert_at_rest(cluster, "rounds", "COMPENSATED")
    for task_id in ("one", "two"):
        assert attempts(workflow, task_id) == ["SUCCEEDED"] * 3
        assert attempts(workflow, task_id, "COMPENSATION") == ["SUCCEEDED"] * 3
    assert attempts(workflow, "full") == ["FAILED"] * 3
    assert attempts(workflow, "first", "COMPENSATION") == ["SUCCEEDED"]
    assert _order(workflow.events) == [*["two", "one"] * 3, "first"]


def _order(events: object) -> list[str]:
    """Returns the tasks in the order in which they were made up for."""
    return [
        event.task.rpartition("/")[2]
        for event in events  # type: ignore[attr-defined]
        if event.attempt_started.compensates
    ]


@pytest.mark.parametrize("recovers", [True, False], ids=["recovers", "does-not"])
async def test_only_a_recovery_closes_a_failure(cluster, client, recovers):
    """S-R10, S-E8: it succeeds or not, and that decides; an end action that fails does not."""
    name = "recovers" if recovers else "does-not"
    tells = task("tells", host="b", action=Noop())
    tells.task.bindings.add(field="failure_message", source="failure.reason")
    spec = workflow_spec(
        "recovery",
        sequence(
            "all",
            sequence(
                "group",
                copy("kept", "a", BASE, f"pool-a/{name}-kept"),
                copy("full", "a", BASE, f"small/{name}"),
                recovery=[
                    copy("instead", "b", BASE, f"pool-b/{name}-instead"),
                    task("checks", host="b", action=Noop() if recovers else FAILS),
                ],
                policy=ON_FAILURE["RECOVER"],
            ),
            copy("after", "b", BASE, f"pool-b/{name}-after"),
        ),
        on_failure=[tells],
    )
    run = await client.submit(spec, workflow_id=name)
    state = "SUCCEEDED" if recovers else "COMPENSATED"
    await ends(run, state)
    await purged(cluster)
    images = {f"pool-a/{name}-kept", f"pool-b/{name}-instead", f"pool-b/{name}-after"}
    workflow = assert_at_rest(cluster, name, state, images if recovers else ())
    assert workflow.tasks["tells"] == ("SKIPPED" if recovers else "FAILED")
    if not recovers:
        assert (await run.task("tells")).failure.message == (await run.get()).cause.reason


async def test_some_items_of_many_are_enough(cluster, client):
    """S-F3, S-C6, S-C7, S-F5: a quorum of a fan-out, at most two at once; an empty list is none."""
    group, given = items("some", ["base", "gone", "base", "base"], min_success=2, concurrency_max=2)
    spec = workflow_spec("some", sequence("all", group))
    run = await client.submit(spec, workflow_id="some", input=given)
    await ends(run, "SUCCEEDED")
    await purged(cluster)
    workflow = assert_at_rest(cluster, "some", "SUCCEEDED", {f"pool-a/some-{n}" for n in (0, 2, 3)})
    assert workflow.tasks["copy.1"] == "FAILED"
    group, given = items("none", [])
    none = workflow_spec("none", sequence("all", group, copy("then", "b", BASE, "pool-b/none")))
    run = await client.submit(none, workflow_id="none", input=given)
    await ends(run, "SUCCEEDED")
    assert_at_rest(cluster, "none", "SUCCEEDED", {"pool-b/none"})
