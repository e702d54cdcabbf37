"""The doctor, on real hosts: all agrees after any kills, and what does not is told (S-V35)."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys

import pytest
import pytest_asyncio

from countermand.v1.doctor_pb2 import Finding
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.endtoend.cluster import Cluster, running, until
from tests.endtoend.plans import HOSTS, PLANS

pytestmark = pytest.mark.slow

ORPHAN = "workflows/success-1/tasks/copy-a/attempts/9"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("doctor")
    async with running(lives, folder, HOSTS) as cluster:
        yield cluster


async def diagnose(cluster: Cluster) -> list[Finding]:
    async with cluster.client() as client:
        return [told.finding async for told in client.doctor.diagnose() if told.HasField("finding")]


async def run(cluster: Cluster, plan: str, workflow_id: str) -> None:
    make, state = PLANS[plan]
    async with cluster.client() as client:
        await client.submit(make(workflow_id), workflow_id=workflow_id)
    settled = await cluster.settled(workflow_id)
    assert WorkflowState.Name(settled.state) == f"WORKFLOW_STATE_{state}"


def command(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    cli = [sys.executable, "-m", "countermand.cli", "--coordinator", cluster.coordinator.address]
    return subprocess.run([*cli, *arguments], capture_output=True, text=True, check=False)


def doctor(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command(cluster, "doctor", *arguments)


@pytest.mark.asyncio(loop_scope="module")
async def test_everything_agrees_after_kills_at_random(cluster):
    chance = random.Random(35)
    ids = []
    for number in range(4):
        plan = chance.choice(list(PLANS))
        ids.append(f"{plan}-kill-{number}")
        async with cluster.client() as client:
            await client.submit(PLANS[plan][0](ids[-1]), workflow_id=ids[-1])
        victims = [cluster.coordinator, *cluster.agents.values()]
        victim = chance.choice(victims)
        await victim.kill()
        # While work is under way, and somebody is dead, nothing is taken for a difference.
        if victim is not cluster.coordinator:
            kinds = {finding.kind for finding in await diagnose(cluster)}
            assert kinds <= {Finding.KIND_HOST_AWAY}
        await victim.start()
    for workflow_id in ids:
        await cluster.settled(workflow_id)
    assert await diagnose(cluster) == []


@pytest.mark.asyncio(loop_scope="module")
async def test_each_difference_is_told_and_what_is_safe_is_mended(cluster):
    await run(cluster, "success", "success-1")
    images = cluster.pool("pool-a") / "images"
    shutil.copytree(images / "success-1-a", images / "orphan")
    label = json.loads((images / "orphan" / "image.json").read_text())
    label["attempt"] = ORPHAN
    (images / "orphan" / "image.json").write_text(json.dumps(label))
    staged = cluster.pool("pool-a") / "staging" / ORPHAN.replace("/", "@")
    staged.mkdir()
    (staged / "data.raw").write_bytes(bytes(4096))
    (images / "notes.txt").write_text("somebody's")

    found = await diagnose(cluster)
    assert {(finding.kind, finding.subject) for finding in found} == {
        (Finding.KIND_IMAGE_ORPHAN, "orphan"),
        (Finding.KIND_STAGED_LEFT, f"staging/{staged.name}"),
        (Finding.KIND_IMAGE_UNSAFE, "images/notes.txt"),
    }
    told = await asyncio.to_thread(doctor, cluster)
    assert told.returncode == 4, told
    assert "image orphan  pool-a/orphan" in told.stdout
    assert "3 differences" in told.stdout

    fixed = await asyncio.to_thread(doctor, cluster, "--fix", "--yes", "--reason", "a test")
    assert fixed.returncode == 4, fixed  # one is for a person
    assert fixed.stdout.count("repaired") == 2
    assert not (images / "orphan").exists()
    assert not staged.exists()
    assert (images / "success-1-a").exists()
    audit = await asyncio.to_thread(command, cluster, "host", "events", "a")
    assert audit.returncode == 0, audit
    repaired = [
        line for line in audit.stdout.splitlines() if " repaired image-orphan/pool-a/" in line
    ]
    assert len(repaired) == 1
    assert "a test" in repaired[0]
    (images / "notes.txt").unlink()
    clean = await asyncio.to_thread(doctor, cluster, "-o", "json")
    assert clean.returncode == 0, clean
    told = json.loads(clean.stdout)
    assert (told["findings"], told["repaired"]) == ([], [])
    assert {host["version"] for host in told["hosts"]} == {told["diagnosis"]["version"]}
    assert abs(told["coordinator"]["clock_offset_s"]) < 60  # one machine, one clock


@pytest.mark.asyncio(loop_scope="module")
async def test_a_repair_looks_again_first(cluster):
    await run(cluster, "success", "success-2")
    images = cluster.pool("pool-a") / "images"
    shutil.copytree(images / "success-2-a", images / "twin")
    label = json.loads((images / "twin" / "image.json").read_text())
    label["attempt"] = "workflows/success-2/tasks/copy-a/attempts/9"
    (images / "twin" / "image.json").write_text(json.dumps(label))
    [finding] = await diagnose(cluster)
    label["attempt"] = ""  # meanwhile an administrator has made it his own
    (images / "twin" / "image.json").write_text(json.dumps(label))
    async with cluster.client() as client:
        [kept] = [one async for one in client.doctor.repair([finding.name], "a test")]
    assert not kept.HasField("kept")  # it is no difference any more
    assert (images / "twin").exists()
    shutil.rmtree(images / "twin")


@pytest.mark.asyncio(loop_scope="module")
async def test_an_image_that_an_open_workflow_relies_on_is_missed(cluster):
    async with cluster.client() as client:
        make, _ = PLANS["success"]
        await cluster.agents["b"].kill()  # who has to copy as well: the workflow stays open
        workflow = await client.submit(make("success-3"), workflow_id="success-3")
        folder = cluster.pool("pool-a") / "images" / "success-3-a"
        await until(folder.exists, "the first copy")
        shutil.rmtree(folder)

        async def missed() -> bool:
            kinds = {(found.kind, found.subject) for found in await diagnose(cluster)}
            return (Finding.KIND_IMAGE_MISSING, "success-3-a") in kinds

        await until(missed, "the finding")
        await workflow.cancel("a test")
        await cluster.agents["b"].start()
    assert (await cluster.settled("success-3")).state


@pytest.mark.asyncio(loop_scope="module")
async def test_bad_names_are_refused(cluster):
    refused = await asyncio.to_thread(doctor, cluster, "nobody")
    assert refused.returncode == 1
    assert "There is no host hosts/nobody" in refused.stderr
    usage = await asyncio.to_thread(doctor, cluster, "--fix")
    assert usage.returncode == 2
    assert "--fix needs --reason" in usage.stderr
