"""Each shipped template on real agents and images: to its end, and failing on the way.

Two hosts reach the same pools, and no task names one: the coordinator chooses. What must be left
and what must not is read from the disks: after a failure every byte of every pool is as before.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from countermand.client.external import AcceptedTask, Handler, Owner, TaskFailed
from countermand.client.spec_json import Json
from countermand.client.templates import load
from countermand.v1.workflow_pb2 import Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.endtoend.checks import assert_clean, labels, recorded, staged
from tests.endtoend.cluster import HANG_S, Cluster, until
from tests.endtoend.test_compensation import immutable
from tests.endtoend.tour import DOCS, follow

pytestmark = pytest.mark.slow

POOLS = {"fast": "shared", "slow": "shared", "small": "shared,quota=256KiB"}
HOSTS = {"a": POOLS, "b": POOLS}
BASE, DATA = "templates/base", "templates/data"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    cluster = Cluster(lives, tmp_path_factory.mktemp("templates"), HOSTS)
    await cluster.add_template("base", seed=1)
    await cluster.add_template("data", seed=2)
    await cluster.start()
    yield cluster
    await cluster.end()


async def submit(cluster: Cluster, template: str, workflow_id: str, **given: Json) -> Workflow:
    """Submits a template, and returns its workflow once it is settled."""
    found = load(template)
    async with cluster.client() as client:
        await client.submit(found.spec(), workflow_id=workflow_id, input=found.fill(given))
    return await cluster.settled(workflow_id)


def disks(*pairs: str) -> list[Json]:
    """Returns the disks of an input, each written as "source target"."""
    return [dict(zip(("source", "target"), pair.split(), strict=True)) for pair in pairs]


def images(*addresses: str) -> list[Json]:
    return [{"image": address} for address in addresses]


def contents(cluster: Cluster) -> dict[str, str]:
    """Returns a digest of every image and snapshot; nothing else is in any pool."""
    return {
        address: hashlib.sha256(cluster.data_of(address).read_bytes()).hexdigest()
        for address in labels(cluster)
    }


async def succeeded(cluster: Cluster, run: Awaitable[Workflow]) -> Workflow:
    """Checks that every task took effect, and once."""
    workflow = await run
    assert workflow.state == WorkflowState.WORKFLOW_STATE_SUCCEEDED, workflow
    found = recorded(cluster, workflow.name.partition("/")[2])
    assert set(found.tasks.values()) == {"SUCCEEDED"}, found.tasks
    assert {a.state for a in found.attempts.values()} == {"SUCCEEDED"}, found.attempts
    assert len(found.attempts) == len(found.tasks)
    assert not workflow.leftovers
    await until(lambda: not staged(cluster), "what was deleted is purged")
    return workflow


async def made_up_for(cluster: Cluster, run: Awaitable[Workflow], reason: str) -> dict[str, str]:
    """Checks that a failure left every pool as it was; returns the states of the tasks."""
    before = contents(cluster)
    workflow = await run
    assert workflow.state == WorkflowState.WORKFLOW_STATE_COMPENSATED, workflow
    assert workflow.cause.reason == reason, workflow.cause
    assert contents(cluster) == before
    return assert_clean(cluster, workflow.name.partition("/")[2], "COMPENSATED").tasks


@pytest_asyncio.fixture
async def machine(cluster, request):
    """Returns a machine of two disks in pool slow, by its name; its disks are of its own."""
    name = request.node.name.removeprefix("test_").partition("[")[0].replace("_", "-")[:40]
    pairs = disks(f"{BASE} slow/{name}.0", f"{DATA} slow/{name}.1")
    await succeeded(cluster, submit(cluster, "add-vm-from-template", f"make.{name}", disks=pairs))
    return name


# -- add-vm-from-template -----------------------------------------------------------------------


async def test_a_template_is_copied_whole(cluster):
    pairs = disks(f"{BASE} fast/added.0", f"{DATA} slow/added.1")
    await succeeded(cluster, submit(cluster, "add-vm-from-template", "added", disks=pairs))

    found = contents(cluster)
    assert (found["fast/added.0"], found["slow/added.1"]) == (found[BASE], found[DATA])


async def test_of_a_template_nothing_is_left_when_one_pool_is_full(cluster):
    """S-V1: a full pool takes the other copies with it."""
    pairs = disks(f"{BASE} fast/full.0", f"{DATA} small/full.1")
    run = submit(cluster, "add-vm-from-template", "full", disks=pairs)
    tasks = await made_up_for(cluster, run, "NO_SPACE")

    assert tasks["copy.1"] == "FAILED"


# -- clone-vm -----------------------------------------------------------------------------------


async def test_a_machine_is_cloned(cluster, machine):
    pairs = disks(*(f"slow/{machine}.{n} slow/{machine}.clone.{n}" for n in range(2)))
    run = submit(cluster, "clone-vm", machine, disks=pairs, copy_allowed=True)
    await succeeded(cluster, run)

    found = contents(cluster)
    for n in range(2):
        assert found[f"slow/{machine}.{n}"] == found[f"slow/{machine}.clone.{n}"]


async def test_no_clone_is_left_when_a_source_is_missing(cluster, machine):
    pairs = disks(f"slow/{machine}.0 slow/cloned.0", "slow/nowhere slow/cloned.1")
    run = submit(cluster, "clone-vm", machine, disks=pairs, copy_allowed=True)
    tasks = await made_up_for(cluster, run, "IMAGE_NOT_FOUND")

    assert tasks["clone.1"] == "FAILED"


# -- move-disk ----------------------------------------------------------------------------------


async def test_disks_are_moved(cluster, machine):
    before = contents(cluster)
    pairs = disks(*(f"slow/{machine}.{n} fast/{machine}.{n}" for n in range(2)))
    await succeeded(cluster, submit(cluster, "move-disk", machine, disks=pairs))

    moved = {f"fast/{machine}.{n}": before.pop(f"slow/{machine}.{n}") for n in range(2)}
    assert contents(cluster) == before | moved


async def test_no_disk_is_moved_when_one_has_no_room(cluster, machine):
    pairs = disks(f"slow/{machine}.0 fast/{machine}.0", f"slow/{machine}.1 small/{machine}.1")
    run = submit(cluster, "move-disk", machine, disks=pairs)
    tasks = await made_up_for(cluster, run, "NO_SPACE")

    assert tasks["delete-source.0"] == tasks["delete-source.1"] == "CANCELLED"


async def test_a_copy_that_is_not_its_source_is_never_moved_to(cluster, machine):
    """What storage has spoilt between copy and verification costs the copy, not the source."""
    before = contents(cluster)
    template = load("move-disk")
    spec = template.spec()
    spec.root.members[0].group.members[1].policy.pause_before = True
    given = template.fill({"disks": disks(f"slow/{machine}.0 fast/{machine}.0")})
    async with cluster.client() as client:
        run = await client.submit(spec, workflow_id=machine, input=given)
        paused = await run.wait(timedelta(seconds=HANG_S), until_attention=True)
        assert paused.state == WorkflowState.WORKFLOW_STATE_PAUSED, paused
        with cluster.data_of(f"fast/{machine}.0").open("r+b") as file:
            first = file.read(1)[0]
            file.seek(0)
            file.write(bytes([first ^ 1]))
        await run.resume("spoilt")
    settled = await cluster.settled(machine)

    assert settled.cause.reason == "DIGEST_MISMATCH", settled
    tasks = assert_clean(cluster, machine, "COMPENSATED").tasks
    assert tasks["delete-source.0"] == "CANCELLED"
    assert contents(cluster) == before


async def test_a_source_that_cannot_be_deleted_is_left_and_named(cluster, machine):
    """S-V16: after the pivot nothing is taken back; the workflow succeeds and says what is left."""
    held = f"slow/{machine}.1"
    run = submit(cluster, "create-snapshot", f"{machine}.s", disks=images(held), snapshot_id="kept")
    await succeeded(cluster, run)
    before = contents(cluster)

    pairs = disks(*(f"slow/{machine}.{n} fast/{machine}.{n}" for n in range(2)))
    workflow = await submit(cluster, "move-disk", machine, disks=pairs)

    assert workflow.state == WorkflowState.WORKFLOW_STATE_SUCCEEDED, workflow
    [left] = workflow.leftovers
    assert f"{machine}.1" in left.description, left
    tasks = recorded(cluster, machine).tasks
    assert (tasks["delete-source.0"], tasks["delete-source.1"]) == ("SUCCEEDED", "FAILED")
    copies = {f"fast/{machine}.{n}": before[f"slow/{machine}.{n}"] for n in range(2)}
    del before[f"slow/{machine}.0"]
    assert contents(cluster) == before | copies
    assert staged(cluster) == []


# -- live-storage-migration ---------------------------------------------------------------------


async def test_a_machine_is_migrated(cluster, machine):
    before = contents(cluster)
    pairs = disks(*(f"slow/{machine}.{n} fast/{machine}.{n}" for n in range(2)))
    run = submit(cluster, "live-storage-migration", machine, disks=pairs, snapshot_id="moving")
    await succeeded(cluster, run)

    moved = {f"fast/{machine}.{n}": before.pop(f"slow/{machine}.{n}") for n in range(2)}
    assert contents(cluster) == before | moved


async def test_a_migration_that_fails_leaves_neither_copies_nor_snapshots(cluster, machine):
    pairs = disks(f"slow/{machine}.0 fast/{machine}.0", f"slow/{machine}.1 small/{machine}.1")
    run = submit(cluster, "live-storage-migration", machine, disks=pairs, snapshot_id="moving")
    tasks = await made_up_for(cluster, run, "NO_SPACE")

    assert tasks["snapshot.0"] == tasks["snapshot.1"] == "COMPENSATED"
    assert tasks["delete-snapshot.0"] == tasks["delete-source.0"] == "CANCELLED"


# -- snapshots ----------------------------------------------------------------------------------


async def test_snapshots_are_taken_and_removed(cluster, machine):
    before = contents(cluster)
    both = images(f"slow/{machine}.0", f"slow/{machine}.1")
    run = submit(cluster, "create-snapshot", f"{machine}.1", disks=both, snapshot_id="monday")
    await succeeded(cluster, run)
    taken = {
        snapshot: digest for snapshot, digest in contents(cluster).items() if snapshot not in before
    }
    assert sorted(taken.values()) == sorted(before[f"slow/{machine}.{n}"] for n in range(2))

    run = submit(cluster, "remove-snapshot", f"{machine}.2", disks=both, snapshot_id="monday")
    await succeeded(cluster, run)
    assert contents(cluster) == before


async def test_no_snapshot_is_left_when_a_disk_is_missing(cluster, machine):
    both = images(f"slow/{machine}.0", "slow/nowhere")
    run = submit(cluster, "create-snapshot", machine, disks=both, snapshot_id="monday")
    tasks = await made_up_for(cluster, run, "IMAGE_NOT_FOUND")

    assert tasks["snapshot.1"] == "FAILED"


async def test_a_removal_that_fails_at_once_has_done_nothing(cluster, machine):
    both = images(BASE, f"slow/{machine}.0")
    run = submit(cluster, "remove-snapshot", machine, disks=both, snapshot_id="monday")
    tasks = await made_up_for(cluster, run, "POOL_READ_ONLY")

    assert tasks == {"delete-snapshot.0": "FAILED", "delete-snapshot.1": "CANCELLED"}


async def test_a_removal_goes_on_once_its_cause_is_gone(cluster, machine):
    """After the first snapshot is gone it only goes forward: BLOCKED, and never taken back."""
    before = contents(cluster)
    both = images(f"slow/{machine}.0", f"slow/{machine}.1")
    run = submit(cluster, "create-snapshot", f"{machine}.1", disks=both, snapshot_id="monday")
    await succeeded(cluster, run)
    [stuck] = [a for a in contents(cluster).keys() - before.keys() if f"{machine}.1" in a]

    template = load("remove-snapshot")
    given = template.fill({"disks": both, "snapshot_id": "monday"})
    async with cluster.client() as client:
        with immutable(cluster.data_of(stuck).parent):
            submitted = await client.submit(
                template.spec(), workflow_id=f"{machine}.2", input=given
            )
            waited = await submitted.wait(timedelta(seconds=HANG_S), until_attention=True)
            assert waited.state == WorkflowState.WORKFLOW_STATE_BLOCKED, waited
            assert contents(cluster).keys() - before.keys() == {stuck}
    settled = await cluster.settled(f"{machine}.2")

    assert settled.state == WorkflowState.WORKFLOW_STATE_SUCCEEDED, settled
    assert contents(cluster) == before


# -- rapid-clone --------------------------------------------------------------------------------


class Outside:
    """An array and an engine: what they hold are files, and machines that run."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.machines = {"old"}
        self.running = {"old"}
        self.attached: set[str] = set()
        self.full = ""  # the volume for which the array has no room
        folder.mkdir()

    @property
    def volumes(self) -> dict[str, str]:
        """Returns a digest of every volume and note of the array."""
        found = sorted(self.folder.iterdir())
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    async def clone(self, task: AcceptedTask) -> dict[str, object]:
        said = task.arguments
        task.report(1, 2, unit="extents", message="half of it")
        if said["volume"] == self.full:
            raise TaskFailed("ARRAY_FULL", "There is no room on the array.")
        base = self.cluster.data_of(f"{said['base_pool']}/{said['base_image']}")
        shutil.copyfile(base, self.folder / said["volume"])
        return {"volume_id": f"lun-{said['volume']}"}

    async def drop(self, task: AcceptedTask) -> None:
        (self.folder / task.arguments["volume"]).unlink(missing_ok=True)

    async def note(self, task: AcceptedTask) -> None:
        said = task.arguments
        (self.folder / f"{said['volume_id']}.of").write_text(said["vm"], encoding="utf-8")

    async def forget(self, task: AcceptedTask) -> None:
        (self.folder / f"{task.arguments['volume_id']}.of").unlink(missing_ok=True)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Has both at work."""

        def done(things: set[str], field: str, *, adds: bool) -> Handler:
            async def put(task: AcceptedTask) -> None:
                things.add(task.arguments[field])

            async def take(task: AcceptedTask) -> None:
                things.discard(task.arguments[field])

            return Handler(put, take) if adds else Handler(take, put)

        address = self.cluster.coordinator.address
        array = {
            "clone-volume": Handler(start=self.clone, compensate=self.drop),
            "update-metadata": Handler(start=self.note, compensate=self.forget),
        }
        engine = {
            "shut-down-vm": done(self.running, "vm", adds=False),
            "create-vm": done(self.machines, "vm", adds=True),
            "attach-volume": done(self.attached, "volume", adds=True),
        }
        async with Owner(address, "array") as one, Owner(address, "engine") as other:
            serving = [
                asyncio.create_task(owner.serve(kinds))
                for owner, kinds in ((one, array), (other, engine))
            ]
            try:
                yield
            finally:
                for each in serving:
                    each.cancel()
                await asyncio.wait(serving)


def clones(machine: str) -> list[Json]:
    return [
        {"source": f"slow/{machine}.{n}", "base": f"fast/{machine}.base.{n}", "volume": f"new.{n}"}
        for n in range(2)
    ]


async def test_a_machine_is_cloned_by_an_array(cluster, machine, tmp_path):
    """S-V26: three parties, one workflow; what each of them says is one tree."""
    outside = Outside(cluster, tmp_path / "array")
    given: dict[str, Json] = {"vm": "old", "new_vm": "new", "disks": clones(machine)}
    async with outside.serving():
        await succeeded(cluster, submit(cluster, "rapid-clone", machine, **given))

    found = contents(cluster)
    for n in range(2):
        base = found[f"fast/{machine}.base.{n}"]
        assert found[f"slow/{machine}.{n}"] == base == outside.volumes[f"new.{n}"]
    assert (outside.running, outside.machines) == (set(), {"old", "new"})
    assert outside.attached == {"new.0", "new.1"}
    assert {"lun-new.0.of", "lun-new.1.of"} < outside.volumes.keys()
    async with cluster.client() as client:
        clone = await client.run(machine).task("clone.0")
    assert (clone.owner_id, clone.progress.unit, clone.weight) == ("array", "extents", 4)


async def test_of_a_clone_nothing_is_left_on_either_side_when_the_array_is_full(
    cluster, machine, tmp_path
):
    outside = Outside(cluster, tmp_path / "array")
    outside.full = "new.1"
    given: dict[str, Json] = {"vm": "old", "new_vm": "new", "disks": clones(machine)}
    async with outside.serving():
        run = submit(cluster, "rapid-clone", machine, **given)
        tasks = await made_up_for(cluster, run, "ARRAY_FULL")

    assert (tasks["shut-down"], tasks["coalesce.1"]) == ("COMPENSATED", "COMPENSATED")
    assert (tasks["clone.1"], tasks["create-vm"]) == ("FAILED", "CANCELLED")
    assert outside.volumes == {}
    assert (outside.running, outside.machines, outside.attached) == ({"old"}, {"old"}, set())


# -- the pages ----------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("bash") is None, reason="the pages are written for bash")
@pytest.mark.parametrize("name", ["reference/templates.md", "how-to/workflow-files.md"])
def test_every_command_of_a_page_works_and_says_what_the_page_says(name, tmp_path):
    follow(DOCS / name, tmp_path)
