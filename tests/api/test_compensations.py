"""Decisions about what cannot be made up for by itself, and workflows that are run anew."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from google.protobuf.struct_pb2 import Struct
from grpc.aio import AioRpcError

from countermand.client.spec import (
    action_of,
    compensate_by,
    policy,
    retry,
    sequence,
    task,
    workflow_spec,
)
from countermand.rpc.names import task_name, workflow_name
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.verb_pb2 import DeleteImage, Noop
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from tests.api.calls import BASE, quick, refused, state
from tests.api.steering import events, pause, resume, states, verbs
from tests.api.steering import task as context_of
from tests.endtoend.checks import labels
from tests.endtoend.cluster import copy, until

QUICK = timedelta(milliseconds=50)


def stubborn(workflow_id: str) -> WorkflowSpec:
    """Returns a copy that cannot be made up for, and a task that fails after it."""
    by_noop = compensate_by(Noop(failure_message="stuck"))
    made = copy("made", "a", BASE, f"pool-a/{workflow_id}", compensation=by_noop)
    fails = task("fails", host="a", action=Noop(failure_message="as asked"))
    # Its next try comes after a minute: by then the test has decided.
    patience = retry(1, delay=timedelta(minutes=1), delay_max=timedelta(minutes=1))
    spec = workflow_spec("stubborn", sequence("all", made, fails))
    spec.policy.CopyFrom(policy(compensation_retry=patience))
    return spec


@pytest.fixture(scope="module")
def counter():
    return iter(range(1000))


@pytest.fixture
async def blocked(cluster, stubs, counter):
    """A workflow that is BLOCKED; what a test leaves of it is abandoned."""
    workflow_id = f"blocked-{next(counter)}"
    await stubs.start(workflow_id, stubborn(workflow_id))

    async def is_blocked() -> bool:
        return state(await stubs.get(workflow_id)) == "BLOCKED"

    await until(is_blocked, f"{workflow_id} blocked")
    yield workflow_id
    if not (await stubs.get(workflow_id)).HasField("end_time"):
        await stubs.workflows.DecideCompensation(abandon(workflow_id, request_id=f"z{workflow_id}"))
        await stubs.wait(workflow_id)


def decide(workflow_id: str, task_id: str = "made", **fields) -> pb.DecideCompensationRequest:
    given = {"request_id": f"decide-{workflow_id}", "reason": "a test", **fields}
    return pb.DecideCompensationRequest(task=task_name(workflow_id, task_id), **given)


def abandon(workflow_id: str, **fields) -> pb.DecideCompensationRequest:
    return decide(workflow_id, abandon=pb.DecideCompensationRequest.Abandon(), **fields)


def retry_now(workflow_id: str, **fields) -> pb.DecideCompensationRequest:
    return decide(workflow_id, retry_now=pb.DecideCompensationRequest.RetryNow(), **fields)


def done(workflow_id: str, **fields) -> pb.DecideCompensationRequest:
    return decide(workflow_id, mark_done=pb.DecideCompensationRequest.MarkDone(), **fields)


async def test_a_blocked_workflow_says_what_may_be_done(stubs, blocked):
    """S-V13, S-Z13: with the cause, where, and the four verbs."""
    workflow = await stubs.get(blocked)
    [need] = workflow.needs
    assert (need.task, need.reason) == (task_name(blocked, "made"), "COMPENSATION_BLOCKED")
    assert "stuck" in need.message
    assert f"compensation retry|replace|done|abandon {blocked} made" in need.message
    made = await context_of(stubs, blocked, "made")
    assert made.waits_for.startswith("attempt 3, due ")
    assert made.opposite == "noop, as its spec says"
    waited = await stubs.workflows.WaitWorkflow(
        pb.WaitWorkflowRequest(name=workflow.name, until_attention=True)
    )
    assert waited.reached
    listed = await stubs.workflows.ListWorkflows(pb.ListWorkflowsRequest(needs_attention=True))
    assert workflow.name in [one.name for one in listed.workflows]


async def test_a_retry_now_is_one_more_attempt(stubs, blocked):
    await stubs.workflows.DecideCompensation(retry_now(blocked, reason="it is back"))

    async def has_failed_again() -> bool:
        made = await context_of(stubs, blocked, "made")
        return [a.state for a in made.attempts[1:]] == [Attempt.STATE_FAILED] * 2

    await until(has_failed_again, "the next try")
    made = await context_of(stubs, blocked, "made")
    assert (made.decided.verb, made.decided.reason) == ("retry-compensation", "it is back")


async def test_what_was_made_up_for_by_hand_is_done(stubs, blocked):
    await stubs.workflows.DecideCompensation(done(blocked))
    settled = await stubs.wait(blocked)
    assert (state(settled), list(settled.leftovers)) == ("COMPENSATED", [])
    assert (await states(stubs, blocked))["made"] == "COMPENSATED"
    assert verbs(await events(stubs, blocked)) == ["mark-compensated"]


async def test_a_replacement_is_sent_instead(cluster, stubs, blocked):
    """With other arguments, or another verb: what it says is what the host gets."""
    action = action_of(DeleteImage())
    action.delete_image.target.pool_id = "pool-a"
    action.delete_image.target.image_id = blocked
    assert f"pool-a/{blocked}" in labels(cluster)
    await stubs.workflows.DecideCompensation(decide(blocked, replacement=action))
    assert state(await stubs.wait(blocked)) == "COMPENSATED"
    assert f"pool-a/{blocked}" not in labels(cluster)
    made = await context_of(stubs, blocked, "made")
    assert made.opposite == f"delete image pool-a/{blocked}, as local decided"
    first, *_, last = made.attempts[1:]
    assert (first.action.WhichOneof("verb"), last.action) == ("noop", action)


@pytest.mark.parametrize("pool_id", ["no-such-pool", "no pool"])
async def test_a_replacement_that_its_host_can_never_do_is_refused(stubs, blocked, pool_id):
    """Else it would be tried for ever."""
    action = action_of(DeleteImage())
    action.delete_image.target.pool_id, action.delete_image.target.image_id = pool_id, "x"
    request = decide(blocked, replacement=action)
    error = await refused(stubs.workflows.DecideCompensation(request))
    fields = ("replacement.delete_image.target.pool_id",)
    assert (error.reason, error.fields) == ("FIELD_INVALID", fields)
    made = await context_of(stubs, blocked, "made")
    assert (made.opposite, len(made.attempts)) == ("noop, as its spec says", 2)


async def test_what_is_abandoned_is_listed(cluster, stubs, blocked):
    """Of the workflow, in lists, and in the history: what, where, why."""
    answer = await stubs.workflows.DecideCompensation(abandon(blocked, reason="the pool is lost"))
    [left] = (await stubs.wait(blocked)).leftovers
    assert (left.host_id, left.reason) == ("a", "the pool is lost")
    assert left.description == f"the copy pool-a/{blocked}"
    assert left.attempt == f"{task_name(blocked, 'made')}/attempts/1"
    assert answer.workflow.name == workflow_name(blocked)
    settled = await stubs.get(blocked)
    assert state(settled) == "FAILED"
    recorded = [e for e in await events(stubs, blocked) if e.HasField("leftover_recorded")]
    assert len(recorded) == 1
    listed = await stubs.workflows.ListWorkflows(pb.ListWorkflowsRequest(kind="stubborn"))
    [shown] = [one for one in listed.workflows if one.name == settled.name]
    assert [(one.task, one.reason) for one in shown.leftovers] == [(left.task, left.reason)]


async def test_a_decision_takes_effect_once(stubs, blocked):
    """S-H10: and of many at once one counts."""
    first = done(blocked, request_id=f"id-{blocked}")
    answers = await asyncio.gather(
        *(stubs.workflows.DecideCompensation(first) for _ in range(5)),
        *(
            stubs.workflows.DecideCompensation(done(blocked, request_id=f"{blocked}-{n}"))
            for n in range(5)
        ),
        return_exceptions=True,
    )
    kinds = Counter(type(answer) for answer in answers)
    assert kinds in (
        {pb.DecideCompensationResponse: 5, AioRpcError: 5},  # the same request, five times
        {pb.DecideCompensationResponse: 1, AioRpcError: 9},  # one of the others was first
    )
    await stubs.wait(blocked)
    assert verbs(await events(stubs, blocked)) == ["mark-compensated"]
    other = abandon(blocked, request_id=f"id-{blocked}")
    if kinds[pb.DecideCompensationResponse] > 1:
        error = await refused(stubs.workflows.DecideCompensation(other))
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")


async def test_what_cannot_be_decided_is_refused_in_words(stubs, blocked):
    error = await refused(stubs.workflows.DecideCompensation(abandon_of(blocked, "fails")))
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "STATE_FORBIDS")
    assert error.metadata["because"].startswith("fails is FAILED: ")
    assert error.metadata["state"] == "BLOCKED"
    error = await refused(stubs.workflows.DecideCompensation(abandon_of(blocked, "nobody")))
    assert (error.code, error.reason) == ("NOT_FOUND", "TASK_NOT_FOUND")
    for call, fields in (
        (decide(blocked), ("decision",)),
        (done(blocked, reason="", request_id=""), ("request_id", "reason")),
    ):
        error = await refused(stubs.workflows.DecideCompensation(call))
        assert (error.reason, error.fields) == ("FIELD_INVALID", fields)
    nothing = decide(blocked)
    nothing.replacement.SetInParent()
    error = await refused(stubs.workflows.DecideCompensation(nothing))
    assert (error.reason, error.fields) == ("FIELD_INVALID", ("replacement",))
    bad = decide(blocked, replacement=action_of(DeleteImage()))
    error = await refused(stubs.workflows.DecideCompensation(bad))
    assert error.fields == (
        "replacement.delete_image.target.pool_id",
        "replacement.delete_image.target.image_id",
    )
    old = done(blocked, etag="1")
    assert (await refused(stubs.workflows.DecideCompensation(old))).reason == "CONFLICT"


def abandon_of(workflow_id: str, task_id: str) -> pb.DecideCompensationRequest:
    return decide(workflow_id, task_id, abandon=pb.DecideCompensationRequest.Abandon())


async def test_nothing_goes_forward_once_it_is_made_up_for(stubs, blocked):
    """A pause that does not say so holds no compensation; a resume says that it is too late."""
    error = await refused(stubs.workflows.PauseWorkflow(pause(blocked)))
    assert error.reason == "STATE_FORBIDS"
    assert "only if it says so" in error.metadata["because"]
    error = await refused(stubs.workflows.ResumeWorkflow(resume(blocked)))
    assert error.reason in {"STATE_FORBIDS", "REQUIREMENTS_UNMET"}
    request = pb.GetResumeRequirementsRequest(name=workflow_name(blocked))
    [needed] = (await stubs.workflows.GetResumeRequirements(request)).requirements
    assert needed.kind == pb.ResumeRequirement.KIND_COMPENSATING


async def test_a_pause_that_says_so_holds_compensation(stubs, blocked):
    held = await stubs.workflows.PauseWorkflow(pause(blocked, hold_compensation=True))
    assert state(held.workflow) in {"PAUSING", "PAUSED"}
    resumed = await stubs.workflows.ResumeWorkflow(resume(blocked))
    assert state(resumed.workflow) in {"COMPENSATING", "BLOCKED"}


# -- forks --------------------------------------------------------------------------------------


def fork(workflow_id: str, new: str, **fields) -> pb.ForkWorkflowRequest:
    given = {"request_id": f"fork-{new}", **fields}
    return pb.ForkWorkflowRequest(name=workflow_name(workflow_id), workflow_id=new, **given)


async def test_a_fork_is_a_new_workflow_from_the_same_spec(stubs):
    """Repeatable by its id; linked; with the input and the labels of the first, or others."""
    spec = quick("forked-from")
    await stubs.start("forked-from", spec, labels={"team": "storage"})
    await stubs.wait("forked-from")
    # The images of the first are there: whatever the new one does, it takes nothing of theirs.
    for _ in range(2):
        answer = await stubs.workflows.ForkWorkflow(fork("forked-from", "forked"))
        assert answer.workflow.forked_from == "workflows/forked-from"
        assert dict(answer.workflow.labels) == {"team": "storage"}
    await stubs.wait("forked")
    whole = pb.GetWorkflowRequest(name="workflows/forked", view=pb.WORKFLOW_VIEW_FULL)
    assert (await stubs.workflows.GetWorkflow(whole)).workflow.spec == spec
    again = fork("forked-from", "forked", input=Struct())
    assert (await stubs.workflows.ForkWorkflow(again)).workflow.name == "workflows/forked"
    for taken in (fork("forked", "forked"), fork("forked", "forked-from")):
        error = await refused(stubs.workflows.ForkWorkflow(taken))
        assert (error.code, error.reason) == ("ALREADY_EXISTS", "WORKFLOW_ID_TAKEN")


async def test_a_fork_is_checked_as_a_start_is(stubs):
    await stubs.start("source", quick("source"))
    await stubs.wait("source")
    error = await refused(stubs.workflows.ForkWorkflow(fork("source", "../x")))
    assert (error.reason, error.fields) == ("FIELD_INVALID", ("workflow_id",))
    error = await refused(stubs.workflows.ForkWorkflow(fork("nobody", "new")))
    assert error.reason == "WORKFLOW_NOT_FOUND"
    error = await refused(stubs.workflows.ForkWorkflow(fork("source", "new", request_id="")))
    assert (error.reason, error.fields) == ("FIELD_INVALID", ("request_id",))
