"""Past the point of no return: what fails there is tried again, and somebody may decide."""

from __future__ import annotations

import pytest

from countermand.client.spec import image, sequence, task, workflow_spec
from countermand.rpc.names import workflow_name
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.verb_pb2 import DeleteImage, Noop
from tests.api.calls import refused, state
from tests.api.steering import events, give_up, rerun, resume, skip, unmet, verbs
from tests.api.steering import task as context_of
from tests.endtoend.cluster import until


@pytest.fixture
async def past(stubs, request):
    """A workflow whose last task fails after an image has been deleted for good."""
    workflow_id = f"past-{request.node.name.rpartition('_')[2]}"
    gone = DeleteImage(target=image("pool-a/nothing"))
    spec = workflow_spec(
        "past",
        sequence(
            "all",
            task("gone", host="a", action=gone),
            task("fails", host="a", action=Noop(failure_message="as asked")),
        ),
    )
    await stubs.start(workflow_id, spec)

    async def is_blocked() -> bool:
        return state(await stubs.get(workflow_id)) == "BLOCKED"

    await until(is_blocked, f"{workflow_id} blocked")
    return workflow_id


async def test_it_says_what_may_be_done(stubs, past):
    """S-R12: there is no way back, so nobody offers one; and nobody can ask for it."""
    workflow = await stubs.get(past)
    [need] = workflow.needs
    assert need.reason == "DECISION"
    assert need.message.startswith("fails is past the point of no return and has failed on")
    assert need.message.endswith("Possible: rerun now, or skip.")
    assert (await context_of(stubs, past, "fails")).waits_for.startswith("attempt 2, due ")
    request = pb.GetResumeRequirementsRequest(name=workflow_name(past))
    [needed] = (await stubs.workflows.GetResumeRequirements(request)).requirements
    assert needed.message.endswith("Decide: rerun or skip.")
    found = await unmet(stubs.workflows.ResumeWorkflow(resume(past, give_up(past, "fails"))))
    assert "gone has taken effect and cannot be made up for" in found[0].words
    cancel = pb.CancelWorkflowRequest(name=workflow.name, request_id="c", reason="a test")
    error = await refused(stubs.workflows.CancelWorkflow(cancel))
    assert error.reason == "STATE_FORBIDS"
    assert error.metadata["because"].startswith("gone cannot be made up for")
    await stubs.workflows.ResumeWorkflow(resume(past, skip(past, "fails")))
    assert state(await stubs.wait(past)) == "SUCCEEDED"


async def test_it_runs_again_with_other_arguments(stubs, past):
    """S-R5, S-R8: without a pause in between."""
    mended = rerun(past, "fails", {"failure_message": ""})
    await stubs.workflows.ResumeWorkflow(resume(past, mended, reason="mended"))
    assert state(await stubs.wait(past)) == "SUCCEEDED"
    assert verbs(await events(stubs, past)) == ["resume", "rerun"]


async def test_a_plain_resume_is_refused(stubs, past):
    """S-R7, S-R23: nothing is paused; what is needed is a decision."""
    error = await refused(stubs.workflows.ResumeWorkflow(resume(past)))
    assert (error.reason, error.metadata["state"]) == ("STATE_FORBIDS", "BLOCKED")
    await stubs.workflows.ResumeWorkflow(resume(past, skip(past, "fails"), request_id="s"))
    await stubs.wait(past)
