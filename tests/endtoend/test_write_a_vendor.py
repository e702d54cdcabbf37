"""The page on external tasks, followed to the letter; and its program, killed and asked to stop."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from countermand.client import Client, Run
from countermand.client.spec import sequence, workflow_spec
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.task_pb2 import Task
from tests.api.calls import state
from tests.api.vendors import external
from tests.endtoend.cluster import HANG_S, MIB, Cluster, until
from tests.endtoend.tour import DOCS, follow

PAGE = DOCS / "how-to/do-external-tasks.md"
EXAMPLE = DOCS / "examples/vendor-clone"

pytestmark = pytest.mark.slow


@pytest.mark.skipif(shutil.which("bash") is None, reason="the pages are written for bash")
def test_the_page_works_and_says_what_it_shows(tmp_path):
    follow(PAGE, tmp_path)
    assert {path.name for path in (tmp_path / "mirror").iterdir()} == {"clone-1", ".attempts"}
    assert len(list((tmp_path / "mirror/.attempts").iterdir())) == 1


# -- the program, in trouble ----------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    cluster = Cluster(lives, tmp_path_factory.mktemp("vendors"), {})
    await cluster.coordinator.start()
    yield cluster
    await cluster.end()


@pytest.fixture
async def client(cluster):
    async with Client(cluster.coordinator.address) as client:
        yield client


class Array:
    """A vendor's two folders, and the program that serves them."""

    def __init__(self, folder: Path, owner: str, address: str) -> None:
        self.folder = folder
        self.owner = owner
        self.address = address
        for name in ("from", "to"):
            (folder / name).mkdir()
        self.source.write_bytes(os.urandom(16 * MIB))  # so much that its middle lasts for seconds

    @property
    def source(self) -> Path:
        return self.folder / "from/disk"

    @property
    def target(self) -> Path:
        return self.folder / "to/clone"

    def parts(self) -> list[Path]:
        """Returns what is being written."""
        found = []
        for path in self.folder.glob("to/.attempts/*.part"):
            with suppress(FileNotFoundError):  # it has its name by now
                if path.stat().st_size >= MIB:
                    found.append(path)
        return found

    def left(self) -> list[str]:
        """Returns the names of whatever is on its second folder."""
        return sorted(path.name for path in (self.folder / "to").rglob("*") if path.is_file())

    @contextmanager
    def served(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """Runs the program while the block runs."""
        command = [sys.executable, "-m", "countermand_vendor_clone", *options]
        command += ["--coordinator", self.address, "--owner", self.owner]
        command += ["--from", str(self.folder / "from"), "--to", str(self.folder / "to")]
        environment = os.environ | {"PYTHONPATH": f"{EXAMPLE}:{DOCS.parent}"}
        with (
            (self.folder / "log").open("ab") as log,
            subprocess.Popen(command, stderr=log, env=environment) as process,
        ):
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def array(cluster, tmp_path, request):
    name = request.node.name.removeprefix("test_").replace("_", "-")[:50]
    return Array(tmp_path, name, cluster.coordinator.address)


SLOWLY = ("--pause", "0.25")


async def submit(client: Client, array: Array, *then, **fields) -> Run:
    arguments = {"source": "disk", "target": "clone"}
    clone = external("clone", array.owner, kind="clone-file", arguments=arguments, **fields)
    plan = workflow_spec("hybrid", sequence("all", clone, *then))
    return await client.submit(plan, workflow_id=array.owner)


async def has_state(run: Run, word: str) -> bool:
    return (await run.task("clone")).state == Task.State.Value(f"STATE_{word}")


async def test_killed_in_the_middle_it_is_unknown_until_its_next_life_ends_it(client, array):
    """S-V29: a lapsed heartbeat is no verdict, and the work is done once."""
    run = await submit(client, array, heartbeat_timeout=timedelta(seconds=1))
    with array.served(*SLOWLY) as process:
        await until(array.parts, "the middle of the copy")
        process.kill()
        process.wait()
    await until(lambda: has_state(run, "UNKNOWN"), "silence")
    with array.served():
        assert state(await run.wait(timedelta(seconds=HANG_S))) == "SUCCEEDED"
    assert array.target.read_bytes() == array.source.read_bytes()
    assert len((await run.task("clone")).attempts) == 1
    assert len(array.left()) == 2  # the clone, and its other name


async def test_told_to_stop_in_the_middle_it_leaves_nothing(client, array):
    run = await submit(client, array)
    with array.served(*SLOWLY):
        await until(array.parts, "the middle of the copy")
        await run.cancel("a test")
        assert state(await run.wait(timedelta(seconds=HANG_S))) == "COMPENSATED"
    assert array.left() == []
    assert await has_state(run, "CANCELLED")


async def test_killed_and_then_cancelled_its_next_life_cleans_up(client, array):
    run = await submit(client, array)
    with array.served(*SLOWLY) as process:
        await until(array.parts, "the middle of the copy")
        process.kill()
        process.wait()
    await run.cancel("a test")
    with array.served():
        assert state(await run.wait(timedelta(seconds=HANG_S))) == "COMPENSATED"
    assert array.left() == []


async def test_it_ends_by_itself_and_leaves_its_work_to_the_next_life(client, array):
    run = await submit(client, array)
    with array.served("--pause", "0.05") as process:
        await until(array.parts, "the middle of the copy")
        process.send_signal(signal.SIGTERM)
        await until(lambda: process.poll() is not None, "its end")
        assert process.returncode == 0, (array.folder / "log").read_text()
    assert await has_state(run, "RUNNING")
    with array.served():
        assert state(await run.wait(timedelta(seconds=HANG_S))) == "SUCCEEDED"


async def test_a_coordinator_killed_in_the_middle_loses_nothing(client, cluster, array):
    """S-V29."""
    run = await submit(client, array)
    with array.served("--pause", "0.05"):
        await until(array.parts, "the middle of the copy")
        await cluster.coordinator.kill()
        await cluster.coordinator.start()
        assert state(await run.wait(timedelta(seconds=HANG_S))) == "SUCCEEDED"
    ended = [event async for event in run.events() if event.HasField("attempt_ended")]
    assert len(ended) == 1


async def test_what_it_made_is_made_up_for_and_nothing_else(client, array):
    later = external("look", f"{array.owner}-2", effect=Effect.EFFECT_READ_ONLY)
    run = await submit(client, array, later)
    (array.folder / "to/other").write_bytes(array.source.read_bytes())
    with array.served():
        await until(lambda: has_state(run, "SUCCEEDED"), "the clone")
        await run.cancel("a test")
        assert state(await run.wait(timedelta(seconds=HANG_S))) == "COMPENSATED"
    assert array.left() == ["other"]


async def test_a_target_of_somebody_else_is_not_touched(client, array):
    array.target.write_bytes(b"precious")
    run = await submit(client, array)
    with array.served():
        workflow = await run.wait(timedelta(seconds=HANG_S))
    assert workflow.cause.reason == "TARGET_EXISTS"
    assert array.left() == ["clone"]
    assert array.target.read_bytes() == b"precious"
