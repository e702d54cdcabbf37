"""A host is lost in the middle of its work, and another one settles that on the storage they share.

Hosts a and b reach the same pools; a is slow, so that it is found at work. What a says once it is
back changes nothing, and nothing of what it had begun is ever seen.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
import pytest_asyncio

from agent import crash_points
from countermand.client import Client
from countermand.client.spec import (
    image,
    policy,
    retry,
    sequence,
    task,
    workflow_spec,
)
from countermand.rpc.channel import open_channel
from countermand.rpc.errors import FieldInvalid, StateForbids
from countermand.rpc.names import attempt_name
from countermand.v1.agent_pb2 import InspectRequest
from countermand.v1.agent_pb2_grpc import AgentServiceStub
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.host_pb2 import Host
from countermand.v1.task_pb2 import Task
from countermand.v1.verb_pb2 import (
    CopyImage,
    CreateSnapshot,
    DeleteImage,
    Noop,
    RevertImage,
)
from countermand.v1.workflow_spec_pb2 import Node
from tests.endtoend.checks import journal, labels, recorded, staged
from tests.endtoend.cluster import SMALL, Cluster, copy, running, until
from tests.endtoend.effects import attempts, interventions
from tests.endtoend.plans import BASE
from tests.endtoend.stories import QUICK, ends, word

pytestmark = pytest.mark.slow

HOSTS = {
    "a": {"work": "bandwidth=256KiB,shared", "fast": "shared", "own": ""},
    "b": {"work": "shared", "fast": "shared"},
    "c": {},
}
TWICE = policy(retry=retry(2, delay=QUICK))
LONG = timedelta(minutes=10)
WHY = "host a has lost its power"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fences")
    async with running(lives, folder, HOSTS, base=SMALL) as cluster:
        yield cluster


def lost(name: str, target: str, **node: object) -> Node:
    """Returns a copy that goes to a first, and to b if it has to."""
    action = CopyImage(source=image(BASE), target=image(target))
    return task(name, action=action, candidate_hosts=["a", "b"], **node)  # type: ignore[arg-type]


async def at_ease(client: Client) -> None:
    """Returns once every host answers and has nothing to do: then it is a that is chosen."""

    async def are_ready() -> bool:
        hosts = [host async for host in client.hosts.list()]
        return all(h.state == Host.STATE_READY and not h.open_attempts for h in hosts)

    await until(are_ready, "every host")


async def at_work(cluster: Cluster, workflow_id: str) -> None:
    """Returns once an attempt of a workflow has something half-made."""
    pool = cluster.pool("work") / "staging"
    await until(lambda: list(pool.glob(f"*@{workflow_id}@*/*/data.raw")), "the slow copy")


def fences(cluster: Cluster, workflow_id: str) -> list[str]:
    """Returns the attempts of a workflow that are fenced; nothing else of it may be staged."""
    found = [name for name in staged(cluster) if f"@{workflow_id}@" in name]
    for name in found:
        [path] = (path for pool in cluster.pools for path in pool.glob(f"staging/{name}"))
        assert path.is_file(), path
    return [name.replace("@", "/") for name in found]


async def heard_out(cluster: Cluster, name: str) -> str:
    """Returns what the lost host's journal says of an attempt in the end."""

    def state() -> str:
        found = journal(cluster, "a").get(name)
        return found.state if found else ""

    await until(lambda: state() in {"SUCCEEDED", "FAILED"}, f"the end of {name}")
    return state()


def digest(cluster: Cluster, address: str) -> str:
    return hashlib.sha256(cluster.data_of(address).read_bytes()).hexdigest()


@pytest.mark.parametrize("way", ["frozen", "killed"])
async def test_a_lost_copy_is_fenced_and_made_again_elsewhere(cluster, client, way):
    """S-V8, S-G7: whether its process still runs or not; late, it leaves and shows nothing."""
    target, agent = f"work/{way}", cluster.agents["a"]
    spec = workflow_spec("f", sequence("all", lost("copies", target, policy=TWICE)))
    await at_ease(client)
    run = await client.submit(spec, workflow_id=way)
    await at_work(cluster, way)
    if way == "frozen":
        agent.freeze()
    else:
        await agent.kill()
    await run.fence("copies", WHY)
    await ends(run, "SUCCEEDED")

    first, second = (await run.task("copies")).attempts
    assert (first.failure.reason, first.host_id) == ("ATTEMPT_FENCED", "a")
    assert (first.failure.host_id, first.failure.metadata["settled_by"]) == ("a", "b")
    assert second.host_id == "b"
    assert fences(cluster, way) == [first.name]
    shown = cluster.data_of(target).stat().st_ino, labels(cluster)[target]
    assert shown[1]["attempt"] == second.name
    assert digest(cluster, target) == digest(cluster, BASE)

    if way == "frozen":
        agent.thaw()
    else:
        await agent.start()
    assert await heard_out(cluster, first.name) == "FAILED"
    assert (cluster.data_of(target).stat().st_ino, labels(cluster)[target]) == shown
    assert fences(cluster, way) == [first.name]
    assert attempts(recorded(cluster, way), "copies") == ["FAILED", "SUCCEEDED"]
    [asked] = interventions(recorded(cluster, way))
    assert (asked.verb, asked.reason) == ("fence", WHY)
    assert [(each.field, each.value.string_value) for each in asked.changes] == [("host_id", "b")]


async def test_what_had_come_to_its_effect_succeeded_and_is_made_up_for_by_who_knows(
    cluster, client
):
    """S-V9, S-V5, I1: its answer is lost for good, its effect is found; a stays dead all along."""
    agent = cluster.agents["a"]
    await agent.stop()
    await agent.start(crash_points.AFTER_RENAME)
    made = copy("makes", "a", BASE, "fast/made")
    fails = task("fails", host="b", action=Noop(failure_message="no"))
    spec = workflow_spec(
        "m", sequence("all", made, copy("after", "b", "fast/made", "fast/x"), fails)
    )
    run = await client.submit(spec, workflow_id="made")
    await agent.died()
    await run.fence("makes", WHY)
    await ends(run, "COMPENSATED")
    task_shown = await run.task("makes")
    assert [one.host_id for one in task_shown.attempts] == ["a", "b"]
    workflow = recorded(cluster, "made")
    assert attempts(workflow, "makes") == ["SUCCEEDED"]
    assert attempts(workflow, "makes", "COMPENSATION") == ["SUCCEEDED"]
    assert not {"fast/made", "fast/x"} & labels(cluster).keys()
    await agent.start()
    assert await heard_out(cluster, attempt_name("made", "makes", 1)) == "FAILED"
    assert not {"fast/made", "fast/x"} & labels(cluster).keys()
    assert fences(cluster, "made") == [attempt_name("made", "makes", 1)]


async def test_an_intent_to_fence_outlives_the_coordinator(cluster, client):
    """S-H1, I5: it is durable before it is sent, and sent by the next one, to a host that hangs."""
    run = await client.submit(
        workflow_spec("i", sequence("all", copy("copies", "a", BASE, "work/intent", policy=TWICE))),
        workflow_id="intent",
    )
    await at_work(cluster, "intent")
    cluster.agents["a"].freeze()
    cluster.agents["b"].freeze()
    try:
        await run.fence("copies", WHY, host="b")
        await cluster.coordinator.kill()
        await cluster.coordinator.start()
        cluster.agents["b"].thaw()
        async with cluster.client() as anew:
            run = anew.run("intent")

            async def is_fenced() -> bool:
                first, *_ = (await run.task("copies")).attempts
                return bool(first.state == Attempt.STATE_FAILED)

            await until(is_fenced, "the fence")
            cluster.agents["a"].thaw()
            await ends(run, "SUCCEEDED")
    finally:
        cluster.agents["a"].thaw()
        cluster.agents["b"].thaw()
    assert attempts(recorded(cluster, "intent"), "copies") == ["FAILED", "SUCCEEDED"]
    assert await heard_out(cluster, attempt_name("intent", "copies", 1)) == "FAILED"


async def test_what_a_lost_host_reached_is_known_after_a_restart(cluster, client):
    """S-V8: not heard in this life of the coordinator, and its storage the same for certain."""
    spec = workflow_spec(
        "k", sequence("all", copy("copies", "a", BASE, "work/known", policy=TWICE))
    )
    run = await client.submit(spec, workflow_id="known")
    await at_work(cluster, "known")
    cluster.agents["a"].freeze()
    try:
        await cluster.coordinator.kill()
        await cluster.coordinator.start()
        async with cluster.client() as anew:
            run = anew.run("known")

            async def is_there() -> bool:
                return bool((await anew.hosts.get("b")).state == Host.STATE_READY)

            await until(is_there, "the other host")
            await run.fence("copies", WHY)

            async def is_fenced() -> bool:
                first, *_ = (await run.task("copies")).attempts
                return bool(first.state == Attempt.STATE_FAILED)

            await until(is_fenced, "the fence")
            cluster.agents["a"].thaw()
            await ends(run, "SUCCEEDED")
    finally:
        cluster.agents["a"].thaw()
    assert attempts(recorded(cluster, "known"), "copies") == ["FAILED", "SUCCEEDED"]


async def test_what_cannot_be_fenced_says_why(cluster, client):
    """S-V21: in a pool of one host nobody else can tell; the task shows what it waits for."""
    run = await client.submit(
        workflow_spec("w", sequence("all", copy("copies", "a", BASE, "own/why"))),
        workflow_id="why",
    )
    cluster.agents["a"].freeze()
    try:

        async def is_out() -> bool:
            return (await run.task("copies")).state in {Task.STATE_STARTING, Task.STATE_RUNNING}

        await until(is_out, "the copy")
        with pytest.raises(StateForbids, match="b reaches no pool 'own'"):
            await run.fence("copies", WHY)
        for host, why in {"a": "is the one", "b": "no pool 'own'", "x": "there is no x"}.items():
            with pytest.raises(FieldInvalid, match=why):
                await run.fence("copies", WHY, host=host)
    finally:
        cluster.agents["a"].thaw()
    await ends(run, "SUCCEEDED")
    with pytest.raises(StateForbids):
        await run.fence("copies", WHY)


def delete(name: str, address: str, generation: int, **node: object) -> Node:
    action = DeleteImage(target=image(address), expected_generation=generation)
    return task(name, host="b", action=action, **node)  # type: ignore[arg-type]


async def test_a_generation_that_others_moved_on_is_no_endless_loop(cluster, client):
    """S-V10: Inspect names who did it; what is planned for an older one fails at its first try.

    Where there is no way back any more it needs somebody, within its budget.
    """
    on_disk = image("fast/disk")
    moves = [
        copy("makes", "b", BASE, "fast/disk"),
        task("remembers", host="b", action=CreateSnapshot(target=on_disk, snapshot_id="old")),
        task("reverts", host="b", action=RevertImage(target=on_disk, snapshot_id="old")),
    ]
    mover = attempt_name("mover", "reverts", 1)
    run = await client.submit(workflow_spec("m", sequence("all", *moves)), workflow_id="mover")
    await ends(run, "SUCCEEDED")
    async with open_channel(cluster.agents["b"].address) as channel:
        found = await AgentServiceStub(channel).Inspect(InspectRequest(address=on_disk))
    assert (found.image.generation, found.image.moved_by) == (2, mover)

    again = policy(retry=retry(3, delay=QUICK))
    snapshot = CreateSnapshot(target=on_disk, snapshot_id="new", expected_generation=1)
    stale = task("stale", host="b", action=snapshot, policy=again)
    run = await client.submit(workflow_spec("s", sequence("all", stale)), workflow_id="stale")
    await ends(run, "COMPENSATED")
    cause = (await run.get()).cause
    assert (cause.reason, cause.metadata["owner"]) == ("GENERATION_MISMATCH", mover)
    assert attempts(recorded(cluster, "stale"), "stale") == ["FAILED"]

    nodes = [
        copy("gone", "b", BASE, "fast/gone"),
        delete("pivot", "fast/gone", 1),
        delete("stale", "fast/disk", 1, policy=policy(retry=retry(3, delay=LONG))),
    ]
    run = await client.submit(workflow_spec("b", sequence("all", *nodes)), workflow_id="blocked")

    async def is_blocked() -> bool:
        return word(await run.get()) == "BLOCKED"

    await until(is_blocked, "the block")
    [need] = (await run.get()).needs
    assert mover in need.message
    assert attempts(recorded(cluster, "blocked"), "stale") == ["FAILED"]
