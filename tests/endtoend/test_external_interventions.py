"""What people do from outside: decide about compensations, change pools by hand, spoil a record."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from countermand.client import Client, Run
from countermand.client.decisions import rerun
from countermand.client.run import CompensationVerb
from countermand.client.spec import (
    action_of,
    compensate_by,
    image,
    parallel,
    sequence,
    task,
    workflow_spec,
)
from countermand.rpc.errors import StateForbids
from countermand.v1.verb_pb2 import DeleteImage, Noop
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from tests.endtoend.checks import database, labels
from tests.endtoend.cluster import SMALL, Cluster, copy, running, until
from tests.endtoend.effects import assert_at_rest, attempts, interventions, purged
from tests.endtoend.plans import BASE
from tests.endtoend.stories import ON_FAILURE, ends, kept_alive, needs, patient, stubborn, word
from tests.endtoend.test_compensation import immutable

pytestmark = pytest.mark.slow

HOSTS = {"a": {"pool-a": ""}, "b": {"pool-b": ""}}
FAILS = Noop(failure_message="as asked")
LONG = timedelta(minutes=1)  # nothing here waits for it: people decide before


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(lives, tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    async with running(lives, folder, HOSTS, base=SMALL) as cluster:
        yield cluster


def folder_of(cluster: Cluster, address: str) -> Path:
    return cluster.data_of(address).parent


# -- decisions about compensations --------------------------------------------------------------


def fails_behind(name: str) -> WorkflowSpec:
    """Returns two copies and a failure."""
    return workflow_spec(
        "fails-behind",
        sequence(
            "all",
            parallel(
                "copies",
                copy("stuck", "a", BASE, f"pool-a/{name}"),
                copy("free", "b", BASE, f"pool-b/{name}"),
            ),
            task("fails", host="b", action=FAILS, policy=ON_FAILURE["PAUSE"]),
        ),
        policy=stubborn(1, LONG),
    )


@asynccontextmanager
async def blocked(cluster: Cluster, client: Client, name: str) -> AsyncIterator[Run]:
    """Yields a workflow of which one copy cannot be removed; outside, it can be again."""
    run = await client.submit(fails_behind(name), workflow_id=name)
    await needs(run, "PAUSED")
    with immutable(folder_of(cluster, f"pool-a/{name}")):
        await run.resume("hopeless", give_up=["fails"])
        shown = await needs(run, "BLOCKED")
        assert [need.task.rpartition("/")[2] for need in shown.needs] == ["stuck"]
        yield run


async def decide(run: Run, verb: CompensationVerb, why: str) -> None:
    await run.decide_compensation("stuck", verb, why)


async def test_what_could_not_be_removed_is_tried_again_when_told(cluster, client):
    """S-V13, S-Z13: long before its slow retry; every attempt is kept, the verb is audited."""
    async with blocked(cluster, client, "retried") as run:
        pass
    await decide(run, "retry", "the storage is mended")
    await ends(run, "COMPENSATED")
    await purged(cluster)
    workflow = assert_at_rest(cluster, "retried", "COMPENSATED")
    assert attempts(workflow, "stuck", "COMPENSATION") == ["FAILED", "SUCCEEDED"]
    assert attempts(workflow, "free", "COMPENSATION") == ["SUCCEEDED"]
    last = interventions(workflow)[-1]
    assert (last.verb, last.principal, last.reason) == (
        "retry-compensation",
        "local",
        "the storage is mended",
    )


async def test_what_somebody_removed_by_hand_is_said_to_be_done(cluster, client):
    """S-V13: and its retry, which is not due yet, never comes."""
    async with blocked(cluster, client, "by-hand") as run:
        pass
    shutil.rmtree(folder_of(cluster, "pool-a/by-hand"))
    await decide(run, "done", "removed by hand")
    await ends(run, "COMPENSATED")
    workflow = assert_at_rest(cluster, "by-hand", "COMPENSATED")
    assert attempts(workflow, "stuck", "COMPENSATION") == ["FAILED"]


async def test_what_is_abandoned_is_listed_and_can_be_removed_later(cluster, client):
    """S-V13: FAILED with the leftover; its images are free, and another workflow removes it."""
    async with blocked(cluster, client, "abandoned") as run:
        await decide(run, "abandon", "no time")
        await ends(run, "FAILED")
        [left] = (await run.get()).leftovers
        assert (left.task, left.host_id) == ("workflows/abandoned/tasks/stuck", "a")
        assert (left.attempt, left.reason) == (
            "workflows/abandoned/tasks/stuck/attempts/1",
            "no time",
        )
        assert_at_rest(cluster, "abandoned", "FAILED", {"pool-a/abandoned"})
    away = task("away", host="a", action=DeleteImage(target=image("pool-a/abandoned")))
    spec = workflow_spec("away", sequence("all", away))
    await ends(await client.submit(spec, workflow_id="abandoned-away"), "SUCCEEDED")
    assert "pool-a/abandoned" not in labels(cluster)
    with pytest.raises(StateForbids):
        await decide(run, "retry", "too late")


async def test_another_verb_makes_up_for_it(cluster, client):
    """S-V13: the operator's verb goes out instead, under a coordinator that dies meanwhile."""
    cannot = compensate_by(Noop(failure_message="never"))
    spec = workflow_spec(
        "replaced",
        sequence(
            "all",
            copy("stuck", "a", BASE, "pool-a/replaced", compensation=cannot),
            task("fails", host="b", action=FAILS),
        ),
        policy=stubborn(1, LONG),
    )
    run = await client.submit(spec, workflow_id="replaced")
    await needs(run, "BLOCKED")
    await cluster.coordinator.kill()
    async with kept_alive(cluster), patient(cluster) as waits:
        again = waits.run("replaced")
        await needs(again, "BLOCKED")
        delete = action_of(DeleteImage(target=image("pool-a/replaced")))
        await again.decide_compensation("stuck", "replace", "delete it", replacement=delete)
        await ends(again, "COMPENSATED")
    await purged(cluster)
    workflow = assert_at_rest(cluster, "replaced", "COMPENSATED")
    assert attempts(workflow, "stuck", "COMPENSATION") == ["FAILED", "SUCCEEDED"]


# -- pools changed by hand ----------------------------------------------------------------------


async def held_at_the_end(client: Client, name: str) -> Run:
    """Returns a workflow that has copied to both pools and waits for somebody."""
    run = await client.submit(fails_behind(name), workflow_id=name)
    await needs(run, "PAUSED")
    return run


async def test_what_is_gone_already_is_made_up_for(cluster, client):
    """S-V22: somebody removed the copy; there is nothing to do, and that is a success."""
    run = await held_at_the_end(client, "gone")
    shutil.rmtree(folder_of(cluster, "pool-a/gone"))
    await run.resume("hopeless", give_up=["fails"])
    await ends(run, "COMPENSATED")
    await purged(cluster)
    workflow = assert_at_rest(cluster, "gone", "COMPENSATED")
    assert attempts(workflow, "stuck", "COMPENSATION") == ["SUCCEEDED"]


async def test_what_somebody_else_has_put_there_is_left_alone(cluster, client):
    """S-Z30, S-Z8: the name is the same, the image is another: it is not ours to remove."""
    run = await held_at_the_end(client, "swapped")
    folder = folder_of(cluster, "pool-a/swapped")
    shutil.rmtree(folder)
    theirs = workflow_spec("other", sequence("all", copy("x", "a", BASE, "pool-a/other")))
    await ends(await client.submit(theirs, workflow_id="other"), "SUCCEEDED")
    shutil.copytree(folder_of(cluster, "pool-a/other"), folder)
    before = (folder / "image.json").read_bytes()
    try:
        await run.resume("hopeless", give_up=["fails"])
        await ends(run, "COMPENSATED")
        assert (folder / "image.json").read_bytes() == before
        assert (folder / "data.raw").exists()
    finally:
        shutil.rmtree(folder)
    assert_at_rest(cluster, "swapped", "COMPENSATED")


async def test_a_copy_never_replaces_what_is_whole(cluster, client):
    """S-V23: refused; under another name it goes, and what was there is as it was."""
    folder = folder_of(cluster, "pool-a/taken")
    taken = workflow_spec("first", sequence("all", copy("first", "a", BASE, "pool-a/taken")))
    await ends(await client.submit(taken, workflow_id="taken"), "SUCCEEDED")
    before = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
    spec = workflow_spec(
        "second",
        sequence("all", copy("second", "a", BASE, "pool-a/taken")),
        policy=ON_FAILURE["PAUSE"],
    )
    run = await client.submit(spec, workflow_id="taken-too")
    held = await needs(run, "PAUSED")
    assert "IMAGE_EXISTS" in held.needs[0].message
    await run.resume("again", rerun=["second"])
    await until_failed_twice(run)
    elsewhere = {"target.image_id": "not-taken"}
    await run.resume("elsewhere", decisions=[rerun("second", elsewhere)])
    await ends(run, "SUCCEEDED")
    workflow = assert_at_rest(cluster, "taken-too", "SUCCEEDED", {"pool-a/not-taken"})
    assert attempts(workflow, "second") == ["FAILED", "FAILED", "SUCCEEDED"]
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == before


async def until_failed_twice(run: Run) -> None:
    async def failed() -> bool:
        shown = await run.task("second")
        return len(shown.attempts) == 2 and shown.needs_decision

    await until(failed, "the second failure")


# -- a spoilt record ----------------------------------------------------------------------------


@contextmanager
def spoilt(cluster: Cluster, workflow_id: str) -> Iterator[None]:
    """Makes what the attempts of a workflow have left unreadable, and puts it right again."""
    whose = "WHERE workflow_key = (SELECT key FROM workflows WHERE id = ?)"
    with closing(sqlite3.connect(database(cluster))) as connection:
        spoils = f"UPDATE attempts SET output = output || '{{' {whose}"
        assert connection.execute(spoils, (workflow_id,)).rowcount
        connection.commit()
        yield
        mends = f"UPDATE attempts SET output = substr(output, 1, length(output) - 1) {whose}"
        connection.execute(mends, (workflow_id,))
        connection.commit()


async def test_one_spoilt_record_stops_no_other(cluster, client):
    """S-V25, S-Z17: shown as held, keeps its images; once it is put right it goes on."""
    run = await held_at_the_end(client, "spoilt")
    waits = workflow_spec("w", sequence("all", copy("x", "a", "pool-a/spoilt", "pool-a/waits")))
    behind = await client.submit(waits, workflow_id="behind")
    await cluster.coordinator.stop()
    with spoilt(cluster, "spoilt"):
        await cluster.coordinator.start()
        assert word(await run.get()) == "QUARANTINED"
        other = workflow_spec("o", sequence("all", copy("x", "b", BASE, "pool-b/unharmed")))
        await ends(await client.submit(other, workflow_id="unharmed"), "SUCCEEDED")
        assert word(await behind.get()) == "RUNNING"
        assert "pool-a/waits" not in labels(cluster)
        await cluster.coordinator.stop()
    await cluster.coordinator.start()
    await needs(run, "PAUSED")
    await run.resume("mended", skip=["fails"])
    await ends(run, "SUCCEEDED")
    await ends(behind, "SUCCEEDED")
    assert_at_rest(cluster, "spoilt", "SUCCEEDED", {"pool-a/spoilt", "pool-b/spoilt"})
    assert_at_rest(cluster, "behind", "SUCCEEDED", {"pool-a/waits"})
