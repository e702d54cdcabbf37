"""An engine and two vendors, each a process of its own, in one workflow; any of them killed.

A vendor's effects are files, each made once and removed once, whatever died meanwhile (S-V26,
S-V29, S-B14, S-Z32).
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from coordinator.runtime.crash_points import (
    AFTER_COMMIT,
    AFTER_COMPENSATION_COMMIT,
    BEFORE_COMMIT,
)
from countermand.client.spec import parallel
from countermand.rpc.channel import open_channel
from countermand.rpc.names import attempt_name, task_name, workflow_name
from countermand.v1 import workflow_pb2 as wpb
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from tests.api.calls import Stubs, cancel, refused, state
from tests.api.steering import states
from tests.api.vendors import (
    CANCEL,
    COMPENSATE,
    READ_ONLY,
    Vendor,
    beside,
    decided,
    external,
    plan_of,
    seconds,
    struct,
    word,
)
from tests.endtoend.checks import labels
from tests.endtoend.cluster import SMALL, Cluster, copy, running, until
from tests.endtoend.lives import Life, Lives
from tests.endtoend.plans import BASE
from tests.endtoend.stories import kept_alive, patient

pytestmark = pytest.mark.slow

HOSTS = {"a": {"pool-a": ""}}
GO = "go"  # the file that a vendor waits for


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    # Everything is kept for ever, but what was ended by force.
    options = {"coordinator": ("--retention", "0")}
    folder = tmp_path_factory.mktemp("external")
    async with running(lives, folder, HOSTS, options=options, base=SMALL) as cluster:
        yield cluster


@dataclass(slots=True)
class Outside:
    """A process that is none of ours: a vendor, or an engine."""

    lives: Lives
    name: str
    arguments: list[str]
    logs: Path
    life: Life | None = None

    def start(self) -> None:
        self.life = self.lives.start(self.name, self.arguments, self.logs, {})

    async def kill(self) -> None:
        assert self.life is not None
        self.lives.signal(self.life, signal.SIGKILL)
        await self.ended()

    async def ended(self) -> int:
        """Returns its code once it has ended."""
        life = self.life
        assert life is not None

        def is_over() -> bool:
            self.lives.look()
            return life.code is not None

        await until(is_over, f"the end of {self.name}")
        assert life.code is not None
        return life.code


def folder_of(cluster: Cluster, owner: str) -> Path:
    return cluster.folder / "vendors" / owner


def vendor(cluster: Cluster, owner: str) -> Outside:
    address, folder = cluster.coordinator.address, str(folder_of(cluster, owner))
    arguments = ["tests.endtoend.vendor", owner, address, folder]
    return Outside(cluster.lives, owner, arguments, cluster.folder / "logs")


def engine(cluster: Cluster, workflow_id: str, spec: WorkflowSpec) -> Outside:
    file = cluster.folder / f"{workflow_id}.spec"
    file.write_bytes(spec.SerializeToString())
    arguments = ["tests.endtoend.engine", cluster.coordinator.address, workflow_id, str(file)]
    return Outside(cluster.lives, f"engine-{workflow_id}", arguments, cluster.folder / "logs")


@asynccontextmanager
async def vendors(cluster: Cluster, *owners: str) -> AsyncIterator[list[Outside]]:
    """Yields vendors at work; none outlives the test."""
    started = [vendor(cluster, owner) for owner in owners]
    for each in started:
        each.start()
    try:
        yield started
    finally:
        for each in started:
            if each.life is not None and each.life.code is None:
                await each.kill()


def effects(cluster: Cluster, *owners: str) -> Counter[str]:
    """Returns what vendors did to the world: made and unmade, each with its attempt."""
    found: Counter[str] = Counter()
    for owner in owners:
        file = folder_of(cluster, owner) / "effects"
        found.update(file.read_text().splitlines() if file.exists() else ())
    return found


def hybrid(name: str, *, hold: str = "", fails: bool = False) -> WorkflowSpec:
    """Returns a copy of ours, two vendors' work at once, and one bound to what the other left."""
    silent = {"heartbeat_timeout": seconds(1)}
    last = {"fail": "yes"} if fails else {}
    return plan_of(
        copy("ours", "a", BASE, f"pool-a/{name}"),
        parallel(
            "both",
            external("clone", f"{name}-acme", arguments={"hold": hold}, **silent),
            external("inject", f"{name}-other"),
        ),
        external("map", f"{name}-acme", arguments={"v": ""}, bindings=BOUND),
        external("ends", f"{name}-other", effect=READ_ONLY, arguments=last),
    )


BOUND = {"arguments.v": "tasks.clone.output.file"}


@asynccontextmanager
async def called(cluster: Cluster) -> AsyncIterator[Stubs]:
    async with open_channel(cluster.coordinator.address) as channel:
        yield Stubs(channel)


def promises_outputs(spec: WorkflowSpec) -> WorkflowSpec:
    """Says what the first vendor leaves, so that the next may be bound to it."""
    spec.root.members[1].group.members[0].external_task.outputs["file"] = "string"
    return spec


async def test_a_killed_vendor_comes_back_and_ends_what_it_had_begun(cluster: Cluster):
    """S-V26, S-V29: an engine and two vendors, three processes; one dies with its effect made."""
    owners = ("back-acme", "back-other")
    spec = promises_outputs(hybrid("back", hold=GO))
    async with vendors(cluster, *owners) as (acme, _), called(cluster) as stubs:
        asks = engine(cluster, "back", spec)
        asks.start()
        await until(lambda: len(effects(cluster, owners[0])) == 1, "the vendor's effect")
        await acme.kill()

        async def is_unknown() -> bool:
            return (await states(stubs, "back"))["clone"] == "UNKNOWN"

        await until(is_unknown, "its silence to be noticed")
        assert state(await stubs.get("back")) == "RUNNING"
        (folder_of(cluster, owners[0]) / GO).touch()
        acme.start()
        assert await asks.ended() == 0
        assert asks.life is not None
        assert asks.life.output.read_text() == "SUCCEEDED\n"
    assert effects(cluster, *owners) == {
        f"made {attempt_name('back', task, 1)}": 1 for task in ("clone", "inject", "map", "ends")
    }
    assert "pool-a/back" in labels(cluster)


async def test_a_killed_vendor_that_never_comes_back_leaves_it_to_an_operator(cluster: Cluster):
    """S-V29: UNKNOWN, then BLOCKED with what to do; the other vendor makes up for its own."""
    owners = ("gone-acme", "gone-other")
    spec = promises_outputs(hybrid("gone", hold=GO))
    async with vendors(cluster, *owners) as (acme, _), called(cluster) as stubs:
        asks = engine(cluster, "gone", spec)
        asks.start()
        made = folder_of(cluster, owners[0]) / "gone.clone"
        injected = folder_of(cluster, owners[1]) / "gone.inject"
        # A file is made before its line is written: a death between them would be told as none.
        await until(lambda: len(effects(cluster, *owners)) == 2, "the vendors' effects")
        await acme.kill()
        await until(lambda: _is(stubs, "gone", "inject", "SUCCEEDED"), "the other's end")
        await stubs.workflows.CancelWorkflow(cancel("gone"))

        async def is_blocked() -> bool:
            return state(await stubs.get("gone")) == "BLOCKED"

        await until(is_blocked, "a need")
        await until(lambda: not injected.exists(), "the other vendor's compensation")
        [need] = (await stubs.get("gone")).needs
        assert need.task == task_name("gone", "clone")
        assert "does not answer" in need.message
        assert made.exists()
        made.unlink()  # by hand
        await stubs.workflows.DecideCompensation(decided("gone", "clone", "done"))
        assert await asks.ended() == 0
        assert asks.life is not None
        assert asks.life.output.read_text() == "COMPENSATED\n"
    done = effects(cluster, *owners)
    inject = attempt_name("gone", "inject", 1)
    assert done == {
        f"made {attempt_name('gone', 'clone', 1)}": 1,
        f"made {inject}": 1,
        f"unmade {inject}": 1,
    }
    assert "pool-a/gone" not in labels(cluster)


async def _is(stubs: Stubs, workflow_id: str, task_id: str, word_: str) -> bool:
    return (await states(stubs, workflow_id))[task_id] == word_


@pytest.mark.parametrize(
    ("crash_point", "fails"),
    [
        (f"{AFTER_COMMIT}:3", False),
        (f"{BEFORE_COMMIT}:4", True),
        (f"{AFTER_COMPENSATION_COMMIT}:2", True),  # a start that finds one passes it, too
    ],
)
async def test_the_coordinator_dies_again_and_again(
    cluster: Cluster, crash_point: str, fails: bool
):
    """S-V29, S-B14: each life of it a few commits long; vendors say again what was not heard."""
    name = crash_point.partition(".")[2].replace("_", "-").replace(":", "-")
    owners = (f"{name}-acme", f"{name}-other")
    for owner in owners:
        folder_of(cluster, owner).mkdir(parents=True)
        (folder_of(cluster, owner) / GO).touch()
    spec = promises_outputs(hybrid(name, hold=GO, fails=fails))
    await cluster.coordinator.stop()
    async with vendors(cluster, *owners):
        deadly = {"coordinator": crash_point}
        await cluster.coordinator.try_start(crash_point)
        async with kept_alive(cluster, deadly) as deaths, patient(cluster) as client:
            asks = engine(cluster, name, spec)
            asks.start()
            assert await asks.ended() == 0
            assert asks.life is not None
            wanted = "COMPENSATED" if fails else "SUCCEEDED"
            assert asks.life.output.read_text() == f"{wanted}\n"
            assert (await client.run(name).get()).HasField("end_time")
    print(f"{crash_point}: {deaths['coordinator']} deaths")
    assert deaths["coordinator"] >= (1 if "compensation" in crash_point else 2)
    if cluster.coordinator.alive:
        await cluster.coordinator.kill()
    await cluster.coordinator.start()
    tasks = ("clone", "inject", "map") + (() if fails else ("ends",))
    verbs = ("made", "unmade") if fails else ("made",)
    assert effects(cluster, *owners) == {
        f"{verb} {attempt_name(name, task, 1)}": 1 for verb in verbs for task in tasks
    }
    assert (f"pool-a/{name}" in labels(cluster)) is not fails


async def everything(stubs: Stubs, acme: Vendor, *workflows: str) -> object:
    """Returns all that a restart of the coordinator must leave as it is."""
    shown = []
    for name in workflows:
        request = wpb.ListTasksRequest(parent=workflow_name(name))
        tasks = (await stubs.workflows.ListTasks(request)).tasks
        workflow = await stubs.get(name)
        shown.append((state(workflow), workflow.progress.done, list(workflow.needs), list(tasks)))
    asked = sorted(await acme.requests(), key=lambda each: each.attempt)
    return shown, asked


async def test_open_tasks_are_the_same_after_a_restart(cluster: Cluster):
    """S-V29: states, progress, rights, what is asked: in each state that a task can wait in."""
    async with called(cluster) as stubs, open_channel(cluster.coordinator.address) as channel:
        acme = Vendor(channel, "kept")
        brief = {"heartbeat_timeout": seconds(1)}
        tasks = [external(name, "kept") for name in ("waits", "works", "calm")]
        await stubs.start("kept", beside(*tasks, external("silent", "kept", **brief)))
        works, silent = await acme.take("kept", "works"), await acme.take("kept", "silent")
        await acme.report(works, 2, 5, message="two of five", unit="disks")
        part = await acme.adds(task_name("kept", "works"), "part", weight=2, description="Deep.")
        assert part.task.state == Task.STATE_STARTING
        back = beside(
            *(external(name, "kept") for name in ("stops", "undone", "begun")),
            external("by-people", "kept", operator_checklist="Remove it."),
        )
        await stubs.start("back-then", back)
        stops = await acme.take("back-then", "stops")
        for name in ("undone", "begun", "by-people"):
            await acme.does("back-then", name, output=struct(of=name))
        await stubs.workflows.CancelWorkflow(cancel("back-then"))
        begun = await acme.take("back-then", "begun", COMPENSATE)
        await acme.report(begun, 1, 2)
        await acme.asked("back-then", "undone", COMPENSATE)
        await acme.asked("back-then", "stops", CANCEL)
        await acme.starts("its-own", auto_clear=False, heartbeat_timeout=seconds(600))
        await acme.adds(workflow_name("its-own"), "step", after=["main"])
        await acme.starts("forced", auto_clear=False)
        assert state(await acme.ends_all("forced", force=True)) == "SUCCEEDED"
        await until(lambda: _is(stubs, "kept", "silent", "UNKNOWN"), "the silence")
        names = ("kept", "back-then", "its-own")
        assert state(await stubs.get("back-then")) == "BLOCKED"

        before = await everything(stubs, acme, *names)
        await cluster.coordinator.kill()
        await cluster.coordinator.start()
        await until(lambda: _answers(stubs), "an answer")
        assert await everything(stubs, acme, *names) == before
        await cluster.coordinator.stop()
        await cluster.coordinator.start()
        await until(lambda: _answers(stubs), "an answer")
        assert await everything(stubs, acme, *names) == before

        # What was ended by force is gone although everything else is kept for ever (S-V28).
        gone = await refused(stubs.get("forced"))
        assert gone.reason == "WORKFLOW_NOT_FOUND"
        # Every right holds, and every task goes on from where it was.
        assert await acme.beat(works, begun, silent) == {}
        assert (await acme.report(works, 1, 5, unit="disks")).progress.done == 2
        assert word((await acme.end(stops, cancelled=True)).state) == "CANCELLED"
        await acme.end(begun)
        await acme.makes_up("back-then", "undone")
        await stubs.workflows.DecideCompensation(decided("back-then", "by-people", "done"))
        assert state(await stubs.wait("back-then")) == "COMPENSATED"
        await acme.does("kept", "part")
        for attempt in (works, silent):
            await acme.end(attempt)
        for name in ("waits", "calm"):
            await acme.does("kept", name)
        assert state(await stubs.wait("kept")) == "SUCCEEDED"
        await acme.take("its-own", "main")
        await acme.end(attempt_name("its-own", "main", 1))
        await acme.does("its-own", "step")
        assert state(await stubs.wait("its-own")) == "SUCCEEDED"


async def _answers(stubs: Stubs) -> bool:
    try:
        await stubs.get("kept")
    except Exception:  # noqa: BLE001 - whatever it is: not yet
        return False
    return True
