"""Past the point of no return: what was done stays, what is left is done or listed.

Each plan moves an image: copied, verified, and then its source is deleted, which is the pivot.
"""

from __future__ import annotations

import pytest
import pytest_asyncio

from countermand.client import Client
from countermand.client.spec import image, sequence, task, workflow_spec
from countermand.rpc.errors import RequirementsUnmet, StateForbids
from countermand.v1.verb_pb2 import DeleteImage, Noop, VerifyImage
from countermand.v1.workflow_spec_pb2 import Node, WorkflowSpec
from tests.endtoend.checks import journals, labels
from tests.endtoend.cluster import SMALL, copy, running
from tests.endtoend.effects import assert_at_rest, attempts, purged
from tests.endtoend.plans import BASE
from tests.endtoend.stories import ends, kept_alive, needs, patient
from tests.endtoend.test_compensation import immutable

pytestmark = pytest.mark.slow

HOSTS = {"a": {"pool-a": ""}, "b": {"pool-b": ""}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pivot")
    async with running(lives, folder, HOSTS, evidence_kept=True, base=SMALL) as cluster:
        yield cluster


async def have(client: Client, *names: str) -> None:
    """Makes images in pool-a."""
    copies = [copy(f"make-{name}", "a", BASE, f"pool-a/{name}") for name in names]
    spec = workflow_spec("have", sequence("all", *copies))
    await ends(await client.submit(spec, workflow_id=f"have-{names[0]}"), "SUCCEEDED")


def delete(name: str, address: str) -> Node:
    return task(name, host="a", action=DeleteImage(target=image(address)))


def moves(name: str, *between: Node) -> WorkflowSpec:
    """Returns a copy, its source's deletion, and the deletion of another image beside that."""
    return workflow_spec(
        "moves",
        sequence(
            "all",
            copy("copies", "a", f"pool-a/{name}", f"pool-a/{name}-moved"),
            task("verifies", host="a", action=VerifyImage(target=image(f"pool-a/{name}-moved"))),
            *between,
            delete("pivot", f"pool-a/{name}"),
            delete("cleans-up", f"pool-a/{name}-old"),
            copy("after", "b", BASE, f"pool-b/{name}-after"),
        ),
    )


async def test_a_failure_before_the_pivot_takes_everything_back(cluster, client):
    """S-V16, I10, S-F5: the pivot was never sent, so nothing is lost."""
    await have(client, "early", "early-old")
    before = set(labels(cluster))
    fails = task("fails", host="a", action=Noop(failure_message="as asked"))
    run = await client.submit(moves("early", fails), workflow_id="early")
    await ends(run, "COMPENSATED")
    await purged(cluster)
    workflow = assert_at_rest(cluster, "early", "COMPENSATED")
    assert workflow.tasks["pivot"] == workflow.tasks["cleans-up"] == "CANCELLED"
    assert not any("/early/tasks/pivot/" in name for name in journals(cluster))
    assert set(labels(cluster)) == before


async def test_past_the_pivot_it_waits_for_somebody_and_never_goes_back(cluster, client):
    """S-V16, I10: BLOCKED over a kill -9, no cancel, no giving up; skipped, it is a leftover."""
    await have(client, "late", "late-old")
    folder = cluster.data_of("pool-a/late-old").parent
    with immutable(folder):
        run = await client.submit(moves("late"), workflow_id="late")
        shown = await needs(run, "BLOCKED")
        assert [need.task.rpartition("/")[2] for need in shown.needs] == ["cleans-up"]
        assert "pool-a/late" not in labels(cluster)
        await cluster.coordinator.kill()
        async with kept_alive(cluster), patient(cluster) as waits:
            again = waits.run("late")
            await needs(again, "BLOCKED")
            with pytest.raises(StateForbids):
                await again.cancel("back, please")
            with pytest.raises((StateForbids, RequirementsUnmet)):
                await again.resume("back, please", give_up=["cleans-up"])
            await again.pause("to decide")
            await again.resume("leave it", skip=["cleans-up"])
            await ends(again, "SUCCEEDED")
            [left] = (await again.get()).leftovers
        assert left.reason == "NOT_REMOVED"
        assert "late-old" in left.description
        assert folder.exists()
    images = {"pool-a/late-moved", "pool-b/late-after"}
    workflow = assert_at_rest(cluster, "late", "SUCCEEDED", images)
    assert not any(a.kind == "COMPENSATION" for a in workflow.attempts.values())
    assert attempts(workflow, "pivot") == attempts(workflow, "after") == ["SUCCEEDED"]


async def test_past_the_pivot_it_goes_on_once_it_is_mended(cluster, client):
    """S-V16: an operator runs it again, as soon as its cause is gone."""
    await have(client, "mended", "mended-old")
    with immutable(cluster.data_of("pool-a/mended-old").parent):
        run = await client.submit(moves("mended"), workflow_id="mended")
        await needs(run, "BLOCKED")
        await run.pause("to decide")  # else it may be tried again, once it can succeed
        await needs(run, "PAUSED")
    await run.resume("mended", rerun=["cleans-up"])
    await ends(run, "SUCCEEDED")
    await purged(cluster)
    images = {"pool-a/mended-moved", "pool-b/mended-after"}
    workflow = assert_at_rest(cluster, "mended", "SUCCEEDED", images)
    assert attempts(workflow, "cleans-up")[-1] == "SUCCEEDED"
    assert not (await run.get()).leftovers
