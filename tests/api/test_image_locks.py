"""S-V24 over gRPC: two workflows on one image, and what each is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from google.protobuf.struct_pb2 import Struct

from countermand.client.spec import (
    action_of,
    compensate_by,
    image,
    policy,
    retry,
    sequence,
    task,
    workflow_spec,
)
from countermand.rpc.names import task_name, workflow_name
from countermand.v1 import workflow_pb2
from countermand.v1.verb_pb2 import CreateImage, DeleteImage, Noop
from countermand.v1.workflow_spec_pb2 import Node, WorkflowSpec
from tests.api.calls import BASE, Stubs, at_work, cancel, refused, state
from tests.api.steering import bound, pause, paused, rerun, resume, skip, value
from tests.endtoend.checks import labels
from tests.endtoend.cluster import MIB, Cluster, copy, until


def onto_the_same(*, refuses: bool) -> WorkflowSpec:
    """Returns a plan that makes the image which `at_work` is making, in no time."""
    made = CreateImage(target=image("crawling/held-slow"), virtual_size_bytes=MIB)
    again = task("again", host="b", action=made)
    return workflow_spec("k", sequence("s", again), refuse_when_locked=refuses)


async def test_who_comes_second_is_refused_or_waits_and_sees_who_is_in_the_way(
    cluster, stubs
) -> None:
    async with at_work(cluster, stubs, "held"):
        error = await refused(stubs.start("refused", onto_the_same(refuses=True)))
        assert (error.code, error.reason) == ("ABORTED", "IMAGE_BUSY")
        assert error.metadata == {
            "pool": "crawling",
            "image": "held-slow",
            "holder": "workflows/held",
        }
        await stubs.start("waits", onto_the_same(refuses=False))
        request = workflow_pb2.GetWorkflowRequest(
            name="workflows/waits", view=workflow_pb2.WORKFLOW_VIEW_FULL
        )
        shown = (await stubs.workflows.GetWorkflow(request)).workflow
        locks = {lock.image.image_id: lock for lock in shown.locks}
        assert list(locks["held-slow"].holders) == ["workflows/held"]
        assert (locks["held-slow"].position, locks["held-slow"].held) == (1, False)
        assert shown.waits_for
        await stubs.workflows.CancelWorkflow(cancel("held"))
        assert state(await stubs.wait("waits")) == "SUCCEEDED"
    get = workflow_pb2.GetWorkflowRequest(name="workflows/refused")
    assert (await refused(stubs.workflows.GetWorkflow(get))).reason == "WORKFLOW_NOT_FOUND"


# -- images that an operator's decision brings ----------------------------------------------------


def before(*nodes: Node, name: str = "before") -> WorkflowSpec:
    """Returns a plan that is paused before its first task, and before it ends."""
    last = task("last", host="a", action=Noop())
    for node in (nodes[0], last):
        node.policy.pause_before = True
    return workflow_spec(name, sequence("all", *nodes, last))


def deletes(target: str, **node) -> Node:
    return task("one", host="a", action=DeleteImage(target=image(target)), **node)


def onto(image_id: str) -> dict[str, object]:
    return {"target.pool_id": "pool-a", "target.image_id": image_id}


async def end(stubs: Stubs, workflow_id: str) -> None:
    await stubs.workflows.CancelWorkflow(cancel(workflow_id))
    await stubs.wait(workflow_id)


async def assert_busy(call: Awaitable[object], image_id: str, holder: str) -> None:
    error = await refused(call)
    assert (error.code, error.reason) == ("ABORTED", "IMAGE_BUSY")
    assert error.metadata == {"pool": "pool-a", "image": image_id, "holder": workflow_name(holder)}


@asynccontextmanager
async def holds(cluster: Cluster, stubs: Stubs, workflow_id: str) -> AsyncIterator[None]:
    """Keeps a workflow paused that has made an image of its own name and holds it."""
    last = task("last", host="a", action=Noop())
    last.policy.pause_before = True
    made = copy("made", "a", BASE, f"pool-a/{workflow_id}")
    await stubs.start(workflow_id, workflow_spec("holds", sequence("all", made, last)))
    await paused(stubs, workflow_id)
    assert f"pool-a/{workflow_id}" in labels(cluster)
    yield
    assert f"pool-a/{workflow_id}" in labels(cluster)
    await end(stubs, workflow_id)


@pytest.mark.parametrize("verb", ["copy", "delete"])
async def test_a_patch_onto_an_image_of_another_is_refused(cluster, stubs, verb) -> None:
    mine, other = f"patched-{verb}", f"x-{verb}"
    target = f"pool-a/{mine}"
    node = copy("one", "a", BASE, target) if verb == "copy" else deletes(target)
    async with holds(cluster, stubs, other):
        await stubs.start(mine, before(node))
        was = await paused(stubs, mine)
        asked = resume(mine, rerun(mine, "one", onto(other)))
        await assert_busy(stubs.workflows.ResumeWorkflow(asked), other, other)
        asked.validate_only = True
        await assert_busy(stubs.workflows.ResumeWorkflow(asked), other, other)
        assert await stubs.get(mine) == was
        await end(stubs, mine)


async def test_a_patch_onto_a_free_image_holds_it_to_the_end(cluster, stubs) -> None:
    await stubs.start("free", before(copy("one", "a", BASE, "pool-a/first-thought")))
    await paused(stubs, "free")
    asked = resume("free", rerun("free", "one", onto("second-thought")))
    await stubs.workflows.ResumeWorkflow(asked)
    await paused(stubs, "free")
    assert "pool-a/second-thought" in labels(cluster)
    third = sequence("all", deletes("pool-a/second-thought"))
    waits = (await stubs.start("third", workflow_spec("third", third))).waits_for
    assert "second-thought (held by workflows/free" in waits
    await stubs.workflows.ResumeWorkflow(resume("free", request_id="once-more"))
    assert state(await stubs.wait("free")) == "SUCCEEDED"
    assert state(await stubs.wait("third")) == "SUCCEEDED"
    for image_id in ("first-thought", "second-thought"):
        again = sequence("all", copy("one", "a", BASE, f"pool-a/{image_id}"))
        spec = workflow_spec("again", again, refuse_when_locked=True)
        await stubs.start(f"again-{image_id}", spec)
        assert state(await stubs.wait(f"again-{image_id}")) == "SUCCEEDED"


async def test_an_input_or_an_output_that_names_an_image_of_another_is_refused(
    cluster, stubs
) -> None:
    first = copy("one", "a", BASE, "pool-a/given")
    first.task.bindings.add(field="target.image_id", source="input.image")
    first.task.action.copy_image.target.image_id = ""
    given = Struct()
    given.update({"image": "given"})
    then = bound("then", "a", "one", "pool-a/given-then")
    async with holds(cluster, stubs, "y"):
        await stubs.start("given", before(first, then), input=given)
        await paused(stubs, "given")
        by_input = resume("given", input={"image": value("y")})
        await assert_busy(stubs.workflows.ResumeWorkflow(by_input), "y", "y")
        left = {"image.pool_id": "pool-a", "image.image_id": "y"}
        by_output = resume("given", skip("given", "one", left))
        await assert_busy(stubs.workflows.ResumeWorkflow(by_output), "y", "y")
        await end(stubs, "given")


async def test_a_replacement_that_names_an_image_of_another_is_refused(cluster, stubs) -> None:
    by_noop = compensate_by(Noop(failure_message="stuck"))
    made = copy("made", "a", BASE, "pool-a/stuck", compensation=by_noop)
    fails = task("fails", host="a", action=Noop(failure_message="as asked"))
    patience = retry(1, delay=timedelta(minutes=1), delay_max=timedelta(minutes=1))
    spec = workflow_spec("stuck", sequence("all", made, fails))
    spec.policy.CopyFrom(policy(compensation_retry=patience))

    def by(image_id: str) -> workflow_pb2.DecideCompensationRequest:
        action = action_of(DeleteImage(target=image(f"pool-a/{image_id}")))
        name = task_name("stuck", "made")
        return workflow_pb2.DecideCompensationRequest(
            task=name, request_id=image_id, reason="a test", replacement=action
        )

    async with holds(cluster, stubs, "z"):
        await stubs.start("stuck", spec)

        async def is_blocked() -> bool:
            return state(await stubs.get("stuck")) == "BLOCKED"

        await until(is_blocked, "a compensation that is stuck")
        was = await stubs.get("stuck")
        await assert_busy(stubs.workflows.DecideCompensation(by("z")), "z", "z")
        assert await stubs.get("stuck") == was
        await stubs.workflows.DecideCompensation(by("stuck"))
        assert state(await stubs.wait("stuck")) == "COMPENSATED"


async def test_who_waits_in_line_is_given_no_further_image(cluster, stubs) -> None:
    async with holds(cluster, stubs, "v"):
        await stubs.start("behind", workflow_spec("behind", sequence("all", deletes("pool-a/v"))))
        await stubs.workflows.PauseWorkflow(pause("behind"))
        await paused(stubs, "behind")
        asked = resume("behind", rerun("behind", "one", onto("elsewhere")))
        error = await refused(stubs.workflows.ResumeWorkflow(asked))
        assert (error.code, error.reason) == ("FAILED_PRECONDITION", "STATE_FORBIDS")
        await end(stubs, "behind")


@pytest.mark.parametrize("item", [-7, 7])
async def test_values_for_an_item_that_there_is_none_of_are_unmet(cluster, stubs, item) -> None:
    workflow_id = f"item{item}"
    group = sequence("all-of-it", copy("one", "a", BASE, f"pool-a/{workflow_id}"))
    await stubs.start(workflow_id, before(group))
    await paused(stubs, workflow_id)
    asked = resume(workflow_id, rerun(workflow_id, "all-of-it", onto("free"), indices=[item]))
    error = await refused(stubs.workflows.ResumeWorkflow(asked))
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "REQUIREMENTS_UNMET")
    await end(stubs, workflow_id)
