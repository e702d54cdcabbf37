"""The coordinator killed with SIGKILL at every passing of every crash point, while people decide.

Three stories hold most of what an engine may do after a failure. Wherever the coordinator dies in
them, they end as they end without: nobody decides twice, each effect happens once, nothing is left
but what is listed, and no image stays locked (S-V3, S-V14, S-V16, S-V18, S-V24, S-V33, S-R15,
S-E8, S-G6, S-H2, S-H3, S-H7, S-H8).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from itertools import count

import pytest
import pytest_asyncio

from agent import crash_points as of_agents
from coordinator.runtime.crash_points import (
    AFTER_COMMIT,
    AFTER_COMPENSATION_COMMIT,
    AFTER_SEND,
    BEFORE_COMMIT,
    CRASH_POINTS,
    HOST_CHOSEN,
    LOCKS_PASSED_ON,
    WAITS_FOR_SLOT,
)
from countermand.client import Run
from countermand.client.decisions import rerun, skip
from countermand.client.spec import (
    action_of,
    compensate_by,
    for_each,
    image,
    parallel,
    policy,
    retry,
    sequence,
    task,
    workflow_spec,
)
from countermand.v1.verb_pb2 import DeleteImage, Noop
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from tests.endtoend.cluster import TEMPLATES, Cluster, copy
from tests.endtoend.effects import assert_at_rest, attempts, purged, verbs
from tests.endtoend.plans import BASE
from tests.endtoend.stories import (
    ON_FAILURE,
    QUICK,
    answered,
    bound,
    kept_alive,
    needs,
    patient,
    stubborn,
    word,
)

pytestmark = pytest.mark.slow

HOSTS = {"a": {"pool-a": ""}, "b": {"pool-b": ""}}
FAILS = Noop(failure_message="as asked")
TWICE = retry(2, delay=QUICK, reasons=["DRILL"])
PATIENCE = timedelta(minutes=1)  # somebody decides long before it is tried again


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    cluster = Cluster(lives, tmp_path_factory.mktemp("engine"), HOSTS)
    cluster.coordinator.arguments = ("--window", "1")
    await cluster.add_template("base", size_mib=1, extents=2)
    await cluster.start()
    await cluster.coordinator.stop()
    yield cluster
    await cluster.end()


# -- mended: it fails in every way that is not its end, and succeeds --------------------------


def mended(name: str) -> WorkflowSpec:
    """Returns branches begun again, recovered and ignored; copies to decide about; a pivot."""
    return workflow_spec(
        "mended",
        sequence(
            "all",
            parallel(
                "branches",
                sequence(
                    "rounds",
                    copy("round", "b", BASE, f"pool-b/{name}-round"),
                    task("flaky", host="b", action=FAILS),
                    rounds_max=2,
                    policy=ON_FAILURE["COMPENSATE_GROUP"],
                ),
                sequence(
                    "recovers",
                    task("breaks", host="a", action=FAILS, policy=policy(retry=TWICE)),
                    recovery=[copy("mends", "", BASE, f"pool-a/{name}-mends")],
                    policy=ON_FAILURE["RECOVER"],
                ),
            ),
            parallel(
                "held",
                copy("one", "b", "templates/nowhere", f"pool-b/{name}-one"),
                copy("two", "b", "templates/nowhere", f"pool-b/{name}-two"),
                policy=ON_FAILURE["PAUSE"],
            ),
            bound("then", "b", "two", f"pool-b/{name}-then"),
            task("pivot", host="a", action=DeleteImage(target=image(f"pool-a/{name}-mends"))),
            task(
                "clean-up",
                host="a",
                action=DeleteImage(target=image(BASE)),
                policy=ON_FAILURE["IGNORE"],
            ),
        ),
        on_success=[task("tells", host="a", action=Noop())],
    )


async def mend(run: Run) -> None:
    """Decides about what fails of `mended`, once."""
    await needs(run, "PAUSED")
    given = {"image.pool_id": "templates", "image.image_id": "base"}
    again = [rerun("one", {"source.image_id": "base"}), skip("two", given)]
    await run.resume("the image is elsewhere", decisions=again)
    settled = await run.wait()
    assert (word(settled), [left.reason for left in settled.leftovers]) == (
        "SUCCEEDED",
        ["NOT_REMOVED"],
    )


async def tell_mended(cluster: Cluster, name: str) -> None:
    async with patient(cluster) as client:
        run = await client.submit(mended(name), workflow_id=name)
        await mend(run)


async def check_mended(cluster: Cluster, name: str) -> None:
    await purged(cluster)
    images = {f"pool-b/{name}-one", f"pool-b/{name}-then"}
    workflow = assert_at_rest(cluster, name, "SUCCEEDED", images)
    assert verbs(workflow) == ["resume", "rerun", "skip"]
    assert attempts(workflow, "breaks") == ["FAILED", "FAILED"]
    assert attempts(workflow, "one") == ["FAILED", "SUCCEEDED"]
    assert attempts(workflow, "round") == ["SUCCEEDED", "SUCCEEDED"]
    assert attempts(workflow, "round", "COMPENSATION") == ["SUCCEEDED", "SUCCEEDED"]
    for task_id in ("then", "pivot", "mends", "tells"):
        assert attempts(workflow, task_id) == ["SUCCEEDED"], task_id


# -- given up: what cannot be made up for, and somebody who waits for its images --------------


def given_up(name: str) -> WorkflowSpec:
    """Returns a plan that fails, of which one copy cannot be made up for."""
    cannot = compensate_by(Noop(failure_message="never"))
    return workflow_spec(
        "given-up",
        sequence(
            "all",
            copy("done", "b", BASE, f"pool-b/{name}-done"),
            copy("kept", "a", BASE, f"pool-a/{name}-kept", compensation=cannot),
            task("fails", host="b", action=FAILS),
        ),
        policy=stubborn(1, PATIENCE),
        on_failure=[task("tells", host="b", action=Noop())],
    )


def next_in_line(name: str) -> WorkflowSpec:
    """Returns a plan that reads what the other one has left."""
    copies = copy("reads", "a", f"pool-a/{name}-kept", f"pool-a/{name}-next")
    return workflow_spec("next", sequence("all", copies))


async def tell_given_up(cluster: Cluster, name: str) -> None:
    async with patient(cluster) as client:
        run = await client.submit(given_up(name), workflow_id=name)
        behind = await client.submit(next_in_line(name), workflow_id=f"{name}-next")
        blocked = await needs(run, "BLOCKED")
        assert [need.task.rpartition("/")[2] for need in blocked.needs] == ["kept"]
        assert word(await answered(behind.get)) == "RUNNING"  # in line
        await run.decide_compensation("kept", "abandon", "the storage is gone")
        settled = await run.wait()
        assert word(settled) == "FAILED", settled
        assert [left.reason for left in settled.leftovers] == ["the storage is gone"]
        assert word(await behind.wait()) == "SUCCEEDED"


async def check_given_up(cluster: Cluster, name: str) -> None:
    await purged(cluster)
    workflow = assert_at_rest(cluster, name, "FAILED", {f"pool-a/{name}-kept"})
    assert verbs(workflow) == ["abandon"]
    assert attempts(workflow, "done", "COMPENSATION") == ["SUCCEEDED"]
    assert set(attempts(workflow, "kept", "COMPENSATION")) == {"FAILED"}
    assert attempts(workflow, "tells") == ["SUCCEEDED"]
    assert_at_rest(cluster, f"{name}-next", "SUCCEEDED", {f"pool-a/{name}-next"})


# -- taken back: a group is reset, a compensation is held, another verb is put in its place ------


def taken_back(name: str) -> WorkflowSpec:
    """Returns items of which one fails, behind a copy that cannot be made up for by itself."""
    item = copy("item", "b", f"{TEMPLATES}/bound", f"pool-b/{name}-item")
    item.task.bindings.add(field="source.image_id", source="disk.source")
    item.task.bindings.add(field="target.image_id", source="disk.target")
    return workflow_spec(
        "taken-back",
        sequence(
            "all",
            copy("stuck", "a", BASE, f"pool-a/{name}-stuck", compensation=compensate_by(FAILS)),
            for_each(parallel("items", item), "input.disks", "disk"),
            policy=stubborn(1, PATIENCE),
        ),
        policy=ON_FAILURE["PAUSE"],
    )


async def tell_taken_back(cluster: Cluster, name: str) -> None:
    sources = ("base", "nowhere")
    disks = [{"source": source, "target": f"{name}-{source}"} for source in sources]
    async with patient(cluster) as client:
        run = await client.submit(taken_back(name), workflow_id=name, input={"disks": disks})
        await needs(run, "PAUSED")
        await run.resume("all of them again", decisions=[rerun("items", reset=True)])
        await needs(run, "PAUSED")
        await run.resume("in vain", give_up=["item.1"])
        await needs(run, "BLOCKED")
        await run.pause("not now", hold_compensation=True)
        await needs(run, "PAUSED")
        await run.resume()
        await needs(run, "BLOCKED")
        delete = action_of(DeleteImage(target=image(f"pool-a/{name}-stuck")))
        await run.decide_compensation("stuck", "replace", "delete it", replacement=delete)
        assert word(await run.wait()) == "COMPENSATED"


async def check_taken_back(cluster: Cluster, name: str) -> None:
    await purged(cluster)
    workflow = assert_at_rest(cluster, name, "COMPENSATED")
    assert attempts(workflow, "item.0") == ["SUCCEEDED", "SUCCEEDED"]
    assert attempts(workflow, "item.0", "COMPENSATION") == ["SUCCEEDED", "SUCCEEDED"]
    assert attempts(workflow, "item.1") == ["FAILED", "FAILED"]
    assert verbs(workflow) == [
        *("resume", "rerun", "compensate"),
        *("pause", "resume", "replace-compensation"),
    ]


STORIES = {
    "mended": (tell_mended, check_mended),
    "given-up": (tell_given_up, check_given_up),
    "taken-back": (tell_taken_back, check_taken_back),
}
PASSED = {
    "mended": (*CRASH_POINTS, HOST_CHOSEN, WAITS_FOR_SLOT),
    "given-up": (*CRASH_POINTS, LOCKS_PASSED_ON),
    "taken-back": (AFTER_COMMIT, AFTER_COMPENSATION_COMMIT),
}

# Between two of their passings lies one of a neighbour, at each of which it dies: some will do.
STRIDES = {BEFORE_COMMIT: 3, AFTER_SEND: 3}


@pytest.mark.parametrize(
    ("story", "crash_point"), [(story, point) for story in STORIES for point in PASSED[story]]
)
async def test_killed_at_each_passing_of_a_crash_point(cluster, story, crash_point):
    tell, check = STORIES[story]
    place = crash_point.removeprefix("coordinator.").replace("_", "-")
    for times in count(1, STRIDES.get(crash_point, 1)):
        name = f"{story}-{place}-{times}"
        await begin(cluster, f"{crash_point}:{times}")
        async with kept_alive(cluster) as deaths:
            await tell(cluster, name)
        await cluster.coordinator.stop()
        await check(cluster, name)
        if not deaths:
            break
        assert deaths == {"coordinator": 1}
    assert times > 1


# Where each life of each service ends: it takes over, does one thing and dies.
SHORT_LIVES = {
    "commits": {"coordinator": f"{AFTER_COMMIT}:2"},
    "sends": {"coordinator": f"{AFTER_SEND}:1"},
    "agents": {"a": of_agents.AFTER_RENAME, "b": of_agents.AFTER_JOURNAL},
    "everybody": {
        "coordinator": f"{AFTER_COMMIT}:3",
        "a": of_agents.AFTER_JOURNAL,
        "b": of_agents.AFTER_RENAME,
    },
}


@pytest.mark.parametrize("lived", SHORT_LIVES)
@pytest.mark.parametrize("story", STORIES)
async def test_no_life_is_longer_than_a_step(cluster, story, lived):
    """S-V6, S-V7, S-Z9: all of the lives together come to the same end."""
    tell, check = STORIES[story]
    name = f"{story}-{lived}"
    dying = SHORT_LIVES[lived]
    await begin(cluster, dying.get("coordinator", ""))
    await renew(cluster, dying)
    async with kept_alive(cluster, dying) as deaths:
        await tell(cluster, name)
    if cluster.coordinator.alive:
        await cluster.coordinator.kill()
    await renew(cluster, {})
    await check(cluster, name)
    assert deaths.keys() >= dying.keys(), deaths


async def renew(cluster: Cluster, crash_points: Mapping[str, str]) -> None:
    """Starts the agents anew, to die at a crash point if they are given one."""
    for agent in cluster.agents.values():
        if agent.alive:
            await agent.kill()
        await agent.start(crash_points.get(agent.name, ""))


async def begin(cluster: Cluster, crash_point: str) -> None:
    """Starts a coordinator that is to die."""
    if cluster.coordinator.alive:  # another case has failed
        await cluster.coordinator.kill()
    await cluster.coordinator.try_start(crash_point)
