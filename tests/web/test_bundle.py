"""A workflow as one file: all of it, in bounded memory, and opened again without a coordinator."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import io
import json
import os
import re
import sys
import zipfile
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from click.testing import CliRunner
from google.protobuf import json_format

from countermand.bundle import page as drawn_page
from countermand.bundle import writing
from countermand.cli.main import main
from countermand.client import Client
from countermand.v1.event_pb2 import HistoryEvent, WorkflowStarted
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import TaskCount, Workflow, WorkflowView
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.endtoend.cluster import Cluster, running
from tests.web import stories

COUNTERMAND = Path(sys.executable).with_name("countermand")
SHAPE = {"size_mib": 1, "extents": 2}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory, web: str) -> AsyncIterator[Cluster]:
    """Yields a coordinator with one workflow that failed and was made up for."""
    options = {"coordinator": ("--web", web)}
    folder = tmp_path_factory.mktemp("bundle")
    async with running(lives, folder, stories.HOSTS, base=SHAPE, options=options) as cluster:
        async with Client(cluster.coordinator.address) as client:
            await client.submit(stories.undone("undone"), workflow_id="undone")
            await stories.arrived(client, "undone", WorkflowState.WORKFLOW_STATE_COMPENSATED)
        yield cluster


@pytest.fixture
async def downloaded(cluster: Cluster, web: str, tmp_path: Path) -> Path:
    """Returns the file as a browser saves it."""
    async with (
        aiohttp.ClientSession(f"http://{web}") as session,
        session.get("/workflows/undone/bundle") as answer,
    ):
        assert answer.status == 200
        assert answer.content_type == "application/zip"
        assert answer.headers["Content-Disposition"] == 'attachment; filename="undone.zip"'
        path = tmp_path / "undone.zip"
        path.write_bytes(await answer.read())
    return path


def read(path: Path, name: str) -> str:
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        return file.read(f"undone/{name}").decode()


async def ran(cluster: Cluster, *args: str | Path, cwd: Path | None = None) -> tuple[int, str, str]:
    """Returns how a command ended, and what it said."""
    environment = {**os.environ, "COUNTERMAND_COORDINATOR": cluster.coordinator.address}
    process = await asyncio.create_subprocess_exec(
        COUNTERMAND,
        *args,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        cwd=cwd,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


def aged(text: str) -> str:
    """Returns a text without how long ago it was."""
    return re.sub(r"submitted .* ago", "submitted ago", text)


async def test_it_holds_the_whole_workflow_as_the_contract_says_it(downloaded, cluster) -> None:
    async with cluster.client() as client:
        run = client.run("undone")
        whole = await run.get(WorkflowView.WORKFLOW_VIEW_FULL)
        tasks = [await run.task(task.name.rpartition("/")[2]) for task in await run.tasks()]
        events = [event async for event in run.events()]
    del whole.tasks[:]
    whole.tasks.extend(tasks)
    assert json_format.Parse(read(downloaded, "workflow.json"), Workflow()) == whole
    assert '"lastSequence":"' in read(downloaded, "workflow.json")  # canonical: names and numbers
    lines = read(downloaded, "events.jsonl").splitlines()
    assert [json_format.Parse(line, HistoryEvent()) for line in lines] == events
    assert "countermand open undone.zip" in read(downloaded, "README.txt")


async def test_its_page_needs_nothing_from_anywhere(downloaded) -> None:
    page = read(downloaded, "page.html")
    assert "swap-disk failed on host-b" in page
    assert "Made up for:" in page
    assert "<svg" in page
    assert "default-src 'none'" in page
    links = re.findall(r"(?:src|href)\s*=\s*\"([^\"]*)\"", page)
    assert [link for link in links if not link.startswith("#")] == []
    assert "<script" not in page
    assert "url(http" not in page


def opened(*args: str | Path) -> tuple[int, str, str]:
    """Returns how `countermand open` ended, and what it said; nobody is asked."""
    done = CliRunner().invoke(main, ["open", *map(str, args)])
    return done.exit_code, done.stdout, done.stderr


async def test_open_shows_what_get_showed(cluster, tmp_path) -> None:
    code, out, err = await ran(cluster, "workflow", "bundle", "undone", cwd=tmp_path)
    assert (code, out.split(".")[0]) == (0, "Wrote undone"), err
    again = await ran(cluster, "workflow", "bundle", "undone", cwd=tmp_path)
    assert "in place of" not in out
    assert again[1].startswith("Wrote undone.zip, in place of what was there. Look at it: "), again
    path = tmp_path / "undone.zip"
    assert [each.name for each in tmp_path.iterdir()] == ["undone.zip"]
    got, task, events = await asyncio.gather(
        ran(cluster, "workflow", "get", "undone"),
        ran(cluster, "workflow", "task", "undone", "swap-disk"),
        ran(cluster, "workflow", "events", "undone"),
    )
    assert aged(opened(path)[1]) == aged(got[1])
    assert opened(path, "--task", "swap-disk") == task
    assert opened(path, "--events") == events
    code, drawn, _ = opened(path, "--timeline")
    assert (code, "swap-disk" in drawn) == (0, True)
    code, out, _ = opened(path, "-o", "json")
    assert json.loads(out)["name"] == "workflows/undone"
    assert opened(path, "--timeline", "-o", "json")[0] == 2
    written = await ran(cluster, "workflow", "bundle", "undone", tmp_path / "b.zip", "-o", "json")
    assert json.loads(written[1]) == {"file": str(tmp_path / "b.zip")}


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    text, empty = tmp_path / "a.zip", tmp_path / "b.zip"
    text.write_text("no zip")
    with zipfile.ZipFile(empty, "w") as file:
        file.writestr("x/other.txt", "nothing")
    for path, word in ((text, "it is no zip file"), (empty, "there is no workflow.json in it")):
        code, _, err = opened(path)
        assert (code, word in err) == (1, True)


async def test_half_a_file_is_no_file(cluster, tmp_path) -> None:
    (code, _, err), (other, _, no_folder) = await asyncio.gather(
        ran(cluster, "workflow", "bundle", "nothing", cwd=tmp_path),
        ran(cluster, "workflow", "bundle", "undone", tmp_path / "no/such.zip"),
    )
    assert (code, "WORKFLOW_NOT_FOUND" in err) == (1, True)
    assert (other, "No such file or directory" in no_folder) == (1, True)
    assert list(tmp_path.iterdir()) == []


# -- large ones ------------------------------------------------------------------------------------

TASKS, EVENTS, HELD = 2000, 10_000, 250


def noise(number: int) -> str:
    """Returns a text that no zip file makes small."""
    return hashlib.sha512(str(number).encode()).hexdigest()


class Large:
    """A source of more than anybody wants in memory."""

    def __init__(self) -> None:
        self.asked_alone = 0

    async def workflow(self) -> Workflow:
        counts = [TaskCount(state=Task.STATE_SUCCEEDED, count=TASKS)]
        return Workflow(name="workflows/large", last_sequence=EVENTS, task_counts=counts)

    async def tasks(self, token: str) -> tuple[Sequence[Task], str]:
        first = int(token or 0)
        found = [
            Task(
                name=f"workflows/large/tasks/t-{n}",
                kind=Task.KIND_VERB,
                verb="noop",
                state=Task.STATE_FAILED if n % 3 == 0 else Task.STATE_SUCCEEDED,
                description=noise(n),
            )
            for n in range(first, min(first + HELD, TASKS))
        ]
        return found, str(first + HELD) if first + HELD < TASKS else ""

    async def task(self, task_id: str) -> Task:
        self.asked_alone += 1
        name = f"workflows/large/tasks/{task_id}"
        return Task(name=name, verb="noop", state=Task.STATE_FAILED, description="whole")

    async def events(self, after: int) -> Sequence[HistoryEvent]:
        last = min(after + HELD, EVENTS + 500)  # it goes on meanwhile
        return [
            HistoryEvent(sequence=n, workflow_started=WorkflowStarted(kind=noise(n)))
            for n in range(after + 1, last + 1)
        ]


async def test_a_large_one_is_made_in_small_pieces_and_is_whole() -> None:
    source = Large()
    made = [piece async for piece in writing.pieces(source, datetime(2026, 1, 2, tzinfo=UTC))]
    assert max(map(len, made)) < 128 * 1024
    assert len(made) > TASKS // HELD
    assert source.asked_alone == writing.WHOLE_TASKS  # those that tell something, up to a bound
    with zipfile.ZipFile(io.BytesIO(b"".join(made))) as file:
        assert file.testzip() is None
        whole = json_format.Parse(file.read("large/workflow.json"), Workflow())
        last = file.read("large/events.jsonl").splitlines()[-1]
        page = file.read("large/page.html").decode()
        readme = file.read("large/README.txt").decode()
    assert len(whole.tasks) == TASKS
    assert sum(task.description == "whole" for task in whole.tasks) == writing.WHOLE_TASKS
    assert json_format.Parse(last, HistoryEvent()).sequence == EVENTS  # as it was when begun
    assert page.count('<th scope="row">') == TASKS
    assert f"The last {drawn_page.LAST_EVENTS} events: events.jsonl has all" in page
    assert "with their attempts those that have something to tell" in readme


async def test_a_tiny_one_is_a_whole_file_too() -> None:
    class Empty(Large):
        async def workflow(self) -> Workflow:
            return Workflow(name="workflows/large")

        async def tasks(self, token: str) -> tuple[Sequence[Task], str]:
            return [], ""

    made = b"".join([piece async for piece in writing.pieces(Empty(), datetime.now(UTC))])
    with zipfile.ZipFile(io.BytesIO(made)) as file:
        found = json_format.Parse(file.read("large/workflow.json"), Workflow())
        assert (found.name, file.read("large/events.jsonl")) == ("workflows/large", b"")


async def test_one_that_breaks_off_is_let_go() -> None:
    class Breaks(Large):
        error: Exception

        async def tasks(self, token: str) -> tuple[Sequence[Task], str]:
            self.error = ZeroDivisionError()  # a cycle
            raise self.error

    async def read() -> None:
        with suppress(ZeroDivisionError):
            async for _ in writing.pieces(Breaks(), datetime.now(UTC)):
                pass

    await asyncio.create_task(read())
    gc.collect()  # what is taken apart in the wrong order complains, which no test may
