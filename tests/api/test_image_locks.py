"""S-V24 over gRPC: two workflows on one image, and what each is told."""

from __future__ import annotations

from countermand.client.spec import sequence, workflow_spec
from countermand.v1 import workflow_pb2
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from tests.api.calls import BASE, at_work, cancel, refused, state
from tests.endtoend.cluster import copy


def onto_the_same(*, refuses: bool) -> WorkflowSpec:
    """Returns a plan that makes the image which `at_work` is making."""
    again = copy("again", "b", BASE, "crawling/held-slow")
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
