"""Copies that fail for real under PAUSE: looked at, mended outside, and gone on with.

A pool is full, a source is missing: what is wrong is put right by other workflows and by imports,
as an administrator would, and the workflow that was held knows nothing of it until it is told.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Awaitable
from datetime import timedelta
from functools import partial

import pytest
import pytest_asyncio

from countermand.client import Client, Run
from countermand.client.decisions import rerun, skip
from countermand.client.spec import (
    for_each,
    image,
    parallel,
    sequence,
    task,
    workflow_spec,
)
from countermand.rpc.errors import CountermandError, FieldInvalid, RequirementsUnmet, StateForbids
from countermand.v1.image_pb2 import ImageFormat
from countermand.v1.task_pb2 import Task
from countermand.v1.verb_pb2 import CopyImage, DeleteImage, Noop, VerifyImage
from countermand.v1.workflow_pb2 import ResumeRequirement as Needed
from countermand.v1.workflow_pb2 import ResumeWorkflowResponse
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from tests.api.vendors import READ_ONLY, external, vendor_at
from tests.endtoend.checks import journals, labels, same
from tests.endtoend.cluster import HANG_S, SMALL, Cluster, copy, running, until
from tests.endtoend.effects import assert_at_rest, attempts, interventions, purged, verbs
from tests.endtoend.plans import BASE
from tests.endtoend.stories import ON_FAILURE, bound, ends, needs, word

pytestmark = pytest.mark.slow

HOSTS = {
    "a": {"pool-a": "", "small": "quota=600KiB"},  # room for one copy, not for two
    "b": {"pool-b": "", "crawling": "bandwidth=256KiB"},
}
PAUSE = ON_FAILURE["PAUSE"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fix")
    async with running(lives, folder, HOSTS, evidence_kept=True, base=SMALL) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def hog(cluster, client):
    """Fills the small pool; returns what gives it room again, which is done at the end anyway."""
    spec = workflow_spec("hog", sequence("all", copy("fills", "a", BASE, "small/hog")))
    await done(client, spec, f"hog-{len(journals(cluster))}")
    yield partial(make_room, cluster, client)
    await make_room(cluster, client)


async def make_room(cluster: Cluster, client: Client) -> None:
    """Deletes whatever is in the small pool."""
    for address in labels(cluster):
        if address.startswith("small/"):
            away = task("away", host="a", action=DeleteImage(target=image(address)))
            spec = workflow_spec("room", sequence("all", away))
            await done(client, spec, f"room-{len(journals(cluster))}")
    await purged(cluster)


async def done(client: Client, spec: WorkflowSpec, workflow_id: str) -> None:
    await (await client.submit(spec, workflow_id=workflow_id)).result(timedelta(seconds=HANG_S))


async def unmet(resume: Awaitable[ResumeWorkflowResponse]) -> list[tuple[str, str]]:
    """Returns what a refused resume lacks: kind and task of each, in its order."""
    with pytest.raises(RequirementsUnmet) as raised:
        await resume
    return [(one.kind, one.field.rpartition("/")[2]) for one in raised.value.violations]


async def state_of(run: Run, task_id: str) -> str:
    return Task.State.Name((await run.task(task_id)).state).removeprefix("STATE_")


def full(name: str) -> WorkflowSpec:
    """Returns a copy into the full pool, beside a slow one, and one that reads the first.

    The first waits for a gate: what has not left when it fails is taken back by the pause.
    """
    return workflow_spec(
        "full",
        sequence(
            "all",
            parallel(
                "both",
                external("gate", "gate", effect=READ_ONLY),
                copy("full", "a", BASE, f"small/{name}", after=["gate"]),
                copy("slow", "b", BASE, f"crawling/{name}-slow"),
            ),
            bound("then", "a", "full", f"pool-a/{name}-then"),
        ),
        policy=PAUSE,
    )


async def submitted(cluster: Cluster, client: Client, name: str, *, held: bool = False) -> Run:
    """Starts the plan above, and opens its gate once the slow copy is at work.

    To be held there, the host that copies is frozen.
    """
    run = await client.submit(full(name), workflow_id=name)
    staging = cluster.pool("crawling") / "staging"
    await until(lambda: any(staging.glob(f"*@{name}@*/*/data.raw")), "the slow copy")
    if held:
        cluster.agents["b"].freeze()
    async with vendor_at(cluster.coordinator.address, "gate") as gate:
        await gate.does(name, "gate")
    return run


async def test_a_full_pool_is_given_room_and_the_copy_runs_again(cluster, client, hog):
    """S-R1, S-R2, S-R3, S-R5, S-R12, S-R13, S-R16, S-R22, S-R23, S-B1, S-A1."""
    try:
        run = await submitted(cluster, client, "room", held=True)
        shown = await run.wait(timedelta(seconds=HANG_S), until_attention=True)
        assert word(shown) == "PAUSING", "the failure is shown while its sibling still copies"
        assert shown.waits_for == "a resume: paused because full failed"
        assert await state_of(run, "slow") in ("STARTING", "RUNNING")
    finally:
        cluster.agents["b"].thaw()

    held = await needs(run, "PAUSED")
    assert [need.task.rpartition("/")[2] for need in held.needs] == ["full"]
    assert "NO_SPACE" in held.needs[0].message
    assert await state_of(run, "slow") == "SUCCEEDED"
    required = [(r.kind, r.task.rpartition("/")[2], r.key) for r in await run.requirements()]
    assert required == [
        (Needed.KIND_DECISION, "full", ""),
        (Needed.KIND_OUTPUT, "full", "image.image_id"),
        (Needed.KIND_OUTPUT, "full", "image.pool_id"),
    ]
    assert await unmet(run.resume()) == [("DECISION", "full")]
    assert await run.get() == held
    assert not any("/room/tasks/then/" in name for name in journals(cluster))

    await hog()
    await run.resume("room was made", rerun=["full"])
    await ends(run, "SUCCEEDED")
    images = {"small/room", "crawling/room-slow", "pool-a/room-then"}
    workflow = assert_at_rest(cluster, "room", "SUCCEEDED", images)
    assert attempts(workflow, "full") == ["FAILED", "SUCCEEDED"]
    assert attempts(workflow, "slow") == attempts(workflow, "then") == ["SUCCEEDED"]
    assert all(same(cluster.data_of(BASE), cluster.data_of(made)) for made in images)
    assert verbs(workflow) == ["resume", "rerun"]
    assert {(one.principal, one.reason) for one in interventions(workflow)} == {
        ("local", "room was made")
    }


async def test_failures_in_two_branches_are_decided_together(cluster, client):
    """S-R11, S-R14, S-R5, S-B5: an image is imported, and both tasks go on in one request."""
    spec = workflow_spec(
        "late",
        sequence(
            "all",
            parallel(
                "both",
                copy("one", "a", "templates/late", "pool-a/late-one"),
                copy("two", "b", "templates/late", "pool-b/late-two"),
            ),
            bound("then", "b", "two", "pool-b/late-then"),
        ),
        policy=PAUSE,
    )
    run = await client.submit(spec, workflow_id="late")
    await needs(run, "PAUSED")
    await cluster.add_template("late", size_mib=1, extents=2, seed=7)
    assert await unmet(run.resume("imported", rerun=["one"])) == [("DECISION", "two")]
    assert await state_of(run, "one") == "FAILED"
    await run.resume("imported", rerun=["one", "two"])
    await ends(run, "SUCCEEDED")
    images = {"pool-a/late-one", "pool-b/late-two", "pool-b/late-then"}
    workflow = assert_at_rest(cluster, "late", "SUCCEEDED", images)
    assert attempts(workflow, "one") == attempts(workflow, "two") == ["FAILED", "SUCCEEDED"]
    assert all(same(cluster.data_of("templates/late"), cluster.data_of(m)) for m in images)


async def test_a_copy_goes_elsewhere_with_a_patch(cluster, client, hog):
    """S-R8, S-R16, S-R18, S-R20, S-B2: to another pool of another host; both attempts tell."""
    run = await submitted(cluster, client, "patched")
    await needs(run, "PAUSED")
    elsewhere = [rerun("full", {"target.pool_id": "pool-b"}, host="b")]
    for dry in (True, False):
        answer = await run.resume("no room", decisions=elsewhere, validate_only=dry)
        changed = {c.key: (c.before.string_value, c.after.string_value) for c in answer.changes}
        assert changed == {"target.pool_id": ("small", "pool-b"), "host_id": ("a", "b")}
    # What comes after it reads where the copy went: on a host that does not reach that pool.
    held = await needs(run, "PAUSED")
    assert held.needs[0].task.endswith("/then"), held
    await run.resume("there", decisions=[rerun("then", {"target.pool_id": "pool-b"}, host="b")])
    await ends(run, "SUCCEEDED")
    images = {"pool-b/patched", "crawling/patched-slow", "pool-b/patched-then"}
    assert_at_rest(cluster, "patched", "SUCCEEDED", images)
    tried = (await run.task("full")).attempts
    assert [(one.action.copy_image.target.pool_id, one.host_id) for one in tried] == [
        ("small", "a"),
        ("pool-b", "b"),
    ]
    assert journals(cluster)[tried[1].name].host == "b"


async def test_a_skipped_copy_gives_what_a_real_copy_reads(cluster, client, hog):
    """S-R6, S-R9, S-R21, S-E4, S-E5: the outputs are required, typed, and used."""
    by_hand = workflow_spec("hand", sequence("all", copy("hand", "a", BASE, "pool-a/by-hand")))
    await done(client, by_hand, "by-hand")
    run = await submitted(cluster, client, "skipped")
    held = await needs(run, "PAUSED")
    given = {"image.pool_id": "pool-a", "image.image_id": "by-hand"}
    lacking = {"image.pool_id": "pool-a"}
    assert await unmet(run.resume("by hand", skip={"full": lacking})) == [("OUTPUT", "full")]
    with pytest.raises(FieldInvalid):
        await run.resume("by hand", skip={"full": given | {"colour": "red"}})
    wrong = given | {"image.image_id": 7}
    assert await unmet(run.resume("by hand", skip={"full": wrong})) == [("OUTPUT", "full")]
    assert await run.get() == held
    await run.resume("by hand", skip={"full": given})
    await ends(run, "SUCCEEDED")
    images = {"crawling/skipped-slow", "pool-a/skipped-then"}
    workflow = assert_at_rest(cluster, "skipped", "SUCCEEDED", images)
    assert workflow.tasks["full"] == "SKIPPED"
    assert attempts(workflow, "full") == ["FAILED"]
    assert same(cluster.data_of("pool-a/by-hand"), cluster.data_of("pool-a/skipped-then"))


async def test_giving_up_leaves_nothing(cluster, client, hog):
    """S-R13, S-G1: what was kept while it was held is made up for; it cannot go on any more."""
    before = set(labels(cluster))
    run = await submitted(cluster, client, "given-up")
    await needs(run, "PAUSED")
    await run.resume("not worth it", give_up=["full"])
    settled = await run.wait(timedelta(seconds=HANG_S))
    assert (word(settled), settled.cause.reason) == ("COMPENSATED", "NO_SPACE")
    await purged(cluster)
    workflow = assert_at_rest(cluster, "given-up", "COMPENSATED")
    assert attempts(workflow, "slow", "COMPENSATION") == ["SUCCEEDED"]
    assert set(labels(cluster)) == before
    with pytest.raises(StateForbids) as raised:
        await run.resume("again", rerun=["full"])
    assert raised.value.metadata["state"] == "COMPENSATED"


def fan_out(name: str, *sources: str) -> tuple[WorkflowSpec, dict[str, object]]:
    """Returns a copy for each of several sources, and the input."""
    item = copy("copy", "a", "bound/bound", "bound/bound")
    item.task.action.copy_image.Clear()
    item.task.action.copy_image.source.pool_id = "templates"
    item.task.action.copy_image.target.pool_id = "pool-a"
    item.task.bindings.add(field="source.image_id", source="disk.source")
    item.task.bindings.add(field="target.image_id", source="disk.target")
    group = for_each(parallel("disks", item), "input.disks", "disk")
    disks = [{"source": source, "target": f"{name}-{n}"} for n, source in enumerate(sources)]
    return workflow_spec("fan-out", sequence("all", group), policy=PAUSE), {"disks": disks}


async def test_chosen_items_of_a_fan_out_run_again(cluster, client):
    """S-R19, S-C1, S-C4, S-C5, S-C7: those in the range that failed; the others keep theirs."""
    spec, given = fan_out("items", "base", "later", "base", "gone", "base")
    run = await client.submit(spec, workflow_id="items", input=given)
    held = await needs(run, "PAUSED")
    assert sorted(need.task.rpartition("/")[2] for need in held.needs) == ["copy.1", "copy.3"]
    for items in ([5], [0]):  # there is none; it has succeeded
        violations = await unmet(run.resume("x", decisions=[rerun("disks", items=items)]))
        assert ("MISFIT", "disks") in violations
    await cluster.add_template("later", size_mib=1, extents=2, seed=9)
    one = rerun("disks", items=[1])
    assert await unmet(run.resume("imported", decisions=[one])) == [("DECISION", "copy.3")]
    await run.resume("imported", decisions=[one, skip("copy.3")])
    await ends(run, "SUCCEEDED")
    workflow = assert_at_rest(
        cluster, "items", "SUCCEEDED", {f"pool-a/items-{n}" for n in (0, 1, 2, 4)}
    )
    tried = [len(attempts(workflow, f"copy.{n}")) for n in range(5)]
    assert tried == [1, 2, 1, 1, 1]
    assert same(cluster.data_of("templates/later"), cluster.data_of("pool-a/items-1"))


async def test_of_many_resumes_at_once_one_takes_effect(cluster, client, hog):
    """S-R15: ten people decide, each with a request of their own, and the copy runs once more."""
    run = await submitted(cluster, client, "crowd")
    await needs(run, "PAUSED")
    await hog()
    answers = await asyncio.gather(
        *(run.resume(f"person {n}", rerun=["full"]) for n in range(10)), return_exceptions=True
    )
    kinds = Counter(isinstance(answer, CountermandError) for answer in answers)
    assert kinds == {False: 1, True: 9}, answers
    await ends(run, "SUCCEEDED")
    images = {"small/crowd", "crawling/crowd-slow", "pool-a/crowd-then"}
    workflow = assert_at_rest(cluster, "crowd", "SUCCEEDED", images)
    assert attempts(workflow, "full") == ["FAILED", "SUCCEEDED"]
    assert verbs(workflow) == ["resume", "rerun"]


async def test_a_pause_of_an_operator_outlives_the_coordinator(cluster, client):
    """S-R1, S-R4, S-R7, S-A2, S-V18: PAUSED over a kill -9; then on without an argument, once."""
    spec = workflow_spec(
        "held",
        sequence(
            "all",
            copy("slow", "b", BASE, "crawling/held-slow"),
            parallel(
                "both",
                copy("one", "a", BASE, "pool-a/held-one"),
                bound("two", "b", "slow", "pool-b/held-two"),
            ),
        ),
    )
    run = await client.submit(spec, workflow_id="held")
    await until(lambda: cluster_has(cluster, "/held/tasks/slow/"), "the slow copy")
    assert word(await run.pause("switch maintenance")) == "PAUSING"
    await cluster.coordinator.kill()  # the copy goes on without it
    await cluster.coordinator.start()
    await needs(run, "PAUSED")
    assert await run.requirements() == []
    assert not cluster_has(cluster, "/held/tasks/one/")
    await run.resume()
    await ends(run, "SUCCEEDED")
    images = {"crawling/held-slow", "pool-a/held-one", "pool-b/held-two"}
    workflow = assert_at_rest(cluster, "held", "SUCCEEDED", images)
    assert verbs(workflow) == ["pause", "resume"]
    for task_id in ("slow", "one", "two"):
        assert attempts(workflow, task_id) == ["SUCCEEDED"]


def cluster_has(cluster: Cluster, part: str) -> bool:
    """Returns whether any agent has journalled such an attempt."""
    return any(part in name for name in journals(cluster))


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="there is no qemu-img")
async def test_a_qcow2_copy_is_mended_like_any_other(cluster, client):
    """S-R5: made from what was imported meanwhile, looked at with qemu-img, and made up for."""
    made = CopyImage(
        source=image("templates/wanted"),
        target=image("pool-a/qcow2"),
        format=ImageFormat.IMAGE_FORMAT_QCOW2,
    )
    spec = workflow_spec(
        "qcow2",
        sequence(
            "all",
            task("copies", host="a", action=made),
            task("verifies", host="a", action=VerifyImage(target=image("pool-a/qcow2"))),
            task("fails", host="a", action=Noop(failure_message="as asked")),
        ),
        policy=PAUSE,
    )
    run = await client.submit(spec, workflow_id="qcow2")
    await needs(run, "PAUSED")
    await cluster.add_template("wanted", size_mib=1, extents=2, seed=3)
    await run.resume("imported", rerun=["copies"])
    await needs(run, "PAUSED")
    folder = cluster.pool("pool-a") / "images" / "qcow2"
    source = cluster.data_of("templates/wanted")
    compares = await asyncio.create_subprocess_exec(
        "qemu-img", "compare", "-q", str(source), str(folder / "data.qcow2")
    )
    assert await compares.wait() == 0
    await run.resume("enough", give_up=["fails"])
    assert word(await run.wait(timedelta(seconds=HANG_S))) == "COMPENSATED"
    await purged(cluster)
    assert_at_rest(cluster, "qcow2", "COMPENSATED")
    assert not folder.exists()
