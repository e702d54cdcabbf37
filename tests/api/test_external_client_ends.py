"""Ends that the coordinator refuses: work is not done again and again for a word too long."""

from __future__ import annotations

import logging
import re
from functools import partial

import pytest

from coordinator.api.ends import failure_of as taken_by_the_coordinator
from coordinator.saga.spec import External
from coordinator.wire.external import left, left_problems
from countermand.client.external import Handler, Owner, TaskFailed
from countermand.client.external.outcome import failure_of, left_by
from countermand.rpc.errors import FieldInvalid
from countermand.v1.annotation_pb2 import Effect
from tests.api.calls import state
from tests.api.owners import serving, wait
from tests.api.vendors import external, plan_of
from tests.endtoend.cluster import until

pytestmark = pytest.mark.slow

READ_ONLY = Effect.EFFECT_READ_ONLY


HOSTS: dict[str, dict[str, str]] = {}  # owners need none


async def says(run, task: str, words: str) -> bool:
    return words in (await run.task(task)).progress.message


# -- what fits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("容" * 1400),
        RuntimeError("€" * 5000),
        TaskFailed("FULL", "no room", metadata={"log": "z" * 5000, "pool": "ssd"}),
        TaskFailed("FULL", "no room", metadata={f"key-{n}": "容" * 90 for n in range(100)}),
        TaskFailed("FULL", "no room", metadata={"k" * 5000: "v"}),
        FileNotFoundError(2, "no such file", "/a/\udcff"),
    ],
    ids=["1,400 of 3 bytes", "5,000 of 3 bytes", "one long word", "many", "a long key", "no text"],
)
def test_whatever_an_exception_says_fits_into_a_failure(error):
    failure = taken_by_the_coordinator(failure_of(error), "workflows/w/tasks/a/attempts/1")
    assert failure.message.startswith(str(error)[:20])


def test_of_what_varies_the_short_is_kept_whole_and_the_long_is_cut():
    error = TaskFailed("FULL", "no room", metadata={"log": "z" * 5000, "pool": "ssd"})
    kept = failure_of(error).metadata
    assert kept["pool"] == "ssd"
    assert set(kept["log"]) == {"z"}
    assert len(kept["log"]) > 4000


def test_a_number_is_carried_as_it_is():
    """JSON's whole numbers, which carry outputs, are exact up to 2^53."""
    promised = {"size": "int64", "ratio": "double", "small": "int64"}
    outputs = {"size": 2**53 + 1, "ratio": 2**60, "small": -5, "more": -(2**63), "thin": True}
    said = left_by(outputs, promised)
    read = External(outputs=tuple(promised.items()))
    assert not list(left_problems(read, said))
    assert left(read, said) == outputs | {"more": str(-(2**63))}


def test_a_name_that_is_no_text_can_still_be_read():
    failure = failure_of(FileNotFoundError(2, "no such file", "/a/\udcff"))
    assert r"/a/\udcff" in failure.message


# -- what does not --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        ({"size": "int64"}, {"size": "much"}, "FIELD_INVALID"),
        ({}, {"found": "z" * 70000}, "PAYLOAD_TOO_LARGE"),
        ({"found": "string"}, {"found": 7, "besides": [1]}, "FIELD_INVALID"),
        ({}, {"found": [1]}, "FIELD_INVALID"),
        ({}, {"found": {"a": None}}, "FIELD_INVALID"),
        ({}, {"found": None}, "FIELD_INVALID"),
        ({}, {"found": object()}, "FIELD_INVALID"),
        ({}, {7: "x"}, "FIELD_INVALID"),
    ],
    ids=["promise", "size", "both", "a list", "a map", "nothing", "no value", "no key"],
)
async def test_what_only_reads_fails_by_an_output_that_is_refused(
    client, owner, name, case, request
):
    word = re.sub(r"[^a-z]+", "-", request.node.callspec.id)
    promised, left, reason = case
    begun: list[str] = []

    async def look(task):
        begun.append(task.attempt)
        return left

    plan = plan_of(external("look", name, effect=READ_ONLY, outputs=promised))
    async with serving(owner, look=Handler(look)):
        run = await client.submit(plan, workflow_id=word)
        assert (await wait(run)).cause.reason == reason
    assert len(begun) == 1


async def test_a_whole_that_only_reads_fails_by_its_outputs_and_its_parts_are_made_up_for(
    client, owner, name
):
    made: list[str] = []

    async def build(task):
        async with task.part("copy", reversible=True) as copying:
            made.append(copying.action)
        return {"volume": [1]}

    async def remove(task):
        made.remove(task.action)

    plan = plan_of(external("build", name, effect=READ_ONLY, outputs={"volume": "string"}))
    async with serving(owner, build=Handler(build), copy=Handler(compensate=remove)):
        run = await client.submit(plan, workflow_id=name)
        assert (await wait(run)).cause.reason == "FIELD_INVALID"
    assert not made


async def test_an_effect_whose_outputs_are_refused_is_not_begun_again_in_this_life(
    client, cluster, name, caplog
):
    begun: list[str] = []

    async def clone(task):
        begun.append(task.attempt)
        return {"size": "much"}

    async def mended(task):
        return {"size": 5}

    async def attach(_):
        return None

    people = {"operator_checklist": "Delete the clone.", "outputs": {"size": "int64"}}
    run = await client.submit(plan_of(external("clone", name, **people)), workflow_id=name)
    async with (
        Owner(cluster.coordinator.address, name) as owner,
        serving(owner, clone=Handler(clone), attach=Handler(attach)),
    ):
        await until(partial(says, run, "clone", "output.size"), "the reason")
        await cluster.coordinator.kill()
        await cluster.coordinator.start()
        # All that waits is told anew; this is younger.
        other = await client.submit(plan_of(external("attach", name)), workflow_id=f"{name}-2")
        assert state(await wait(other)) == "SUCCEEDED"
        assert state(await run.get()) == "RUNNING"
    assert len(begun) == 1
    refused = [each for each in caplog.records if each.msg == "owner.end_refused"]
    assert [each.levelno for each in refused] == [logging.ERROR]

    async with (
        Owner(cluster.coordinator.address, name) as owner,
        serving(owner, clone=Handler(mended)),
    ):
        assert state(await wait(run)) == "SUCCEEDED"


async def test_an_effect_whose_outputs_are_refused_is_stopped_when_that_is_asked(
    client, owner, name
):
    async def clone(task):
        task.check()
        return {"size": "much"}

    people = {"operator_checklist": "Delete the clone.", "outputs": {"size": "int64"}}
    run = await client.submit(plan_of(external("clone", name, **people)), workflow_id=name)
    async with serving(owner, clone=Handler(clone)):
        await until(partial(says, run, "clone", "output.size"), "the reason")
        await run.cancel("a test")
        assert state(await wait(run)) == "COMPENSATED"


async def test_a_block_that_has_an_effect_says_what_was_refused_of_its_end(client, owner, name):
    run = await client.submit(
        plan_of(external("clone", name, outputs={"size": "int64"})), workflow_id=name
    )
    requests = owner.requests()
    request = await anext(requests)
    with pytest.raises(FieldInvalid, match=r"output\.size"):
        async with owner.accept(request):
            pass
    assert (await run.task("clone")).progress.message.startswith("It is done, but")
    async with owner.accept(request) as task:
        task.outputs["size"] = 5
    assert state(await wait(run)) == "SUCCEEDED"
    await requests.aclose()


async def test_a_compensation_leaves_nothing_whatever_it_returns(client, owner, name):
    async def nothing(_):
        return None

    async def delete(task):
        return {"deleted": task.action}

    async def fail(_):
        raise TaskFailed("NO", "no")

    plan = plan_of(external("clone", name), external("fail", name))
    async with serving(owner, clone=Handler(nothing, delete), fail=Handler(fail)):
        run = await client.submit(plan, workflow_id=name)
        assert state(await wait(run)) == "COMPENSATED"
