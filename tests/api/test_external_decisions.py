"""What operators and policies decide about external tasks, as about any others."""

from __future__ import annotations

from uuid import uuid4

import pytest

from countermand.client.spec import parallel, policy, sequence
from countermand.rpc.names import attempt_name, task_name, workflow_name
from countermand.v1 import workflow_pb2 as wpb
from countermand.v1.annotation_pb2 import EFFECT_REVERSIBLE
from countermand.v1.failure_pb2 import Failure
from countermand.v1.workflow_spec_pb2 import Policy
from tests.api.calls import Stubs, cancel, refused, state
from tests.api.steering import (
    PAUSE,
    events,
    pause,
    paused,
    rerun,
    resume,
    skip,
    states,
    task,
    unmet,
    verbs,
)
from tests.api.vendors import (
    ARRAY_FULL,
    COMPENSATE,
    READ_ONLY,
    Vendor,
    beside,
    decided,
    external,
    opened,
    plan_of,
    struct,
    word,
)
from tests.endtoend.cluster import until

CHECKLIST = "Delete the volume on the array, then its export."


async def blocked(stubs: Stubs, workflow_id: str) -> wpb.Workflow:
    """Returns a workflow once it needs an operator."""
    found: list[wpb.Workflow] = []

    async def is_blocked() -> bool:
        found.append(await stubs.get(workflow_id))
        return state(found[-1]) == "BLOCKED"

    await until(is_blocked, f"{workflow_id} to be blocked")
    return found[-1]


# -- pause, rerun, skip ---------------------------------------------------------------------------


async def test_a_pause_takes_back_what_was_not_accepted_and_lets_the_rest_end(
    stubs: Stubs, acme: Vendor
):
    """What was taken back is asked again, as another attempt, when it is resumed."""
    await stubs.start("held", beside(external("taken"), external("waits")))
    taken = await acme.take("held", "taken")
    waits = (await acme.asked("held", "waits")).attempt
    await stubs.workflows.PauseWorkflow(pause("held"))
    async with acme.watching() as watch:
        await watch.when(lambda known: watch.said and waits not in known and taken in known)
    assert state(await stubs.get("held")) == "PAUSING"
    assert (await refused(acme.accept(waits))).reason == "ATTEMPT_CLOSED"
    assert await acme.beat(taken) == {}
    await acme.end(taken)
    await paused(stubs, "held")
    await stubs.workflows.ResumeWorkflow(resume("held"))
    again = await acme.asked("held", "waits")
    assert again.attempt == attempt_name("held", "waits", 2)
    await acme.accept(again.attempt)
    await acme.end(again.attempt)
    assert state(await stubs.wait("held")) == "SUCCEEDED"


async def test_a_failed_task_is_run_again_with_other_arguments(stubs: Stubs, acme: Vendor):
    spec = plan_of(external("one", arguments={"pool": "fast"}), policy=PAUSE)
    await stubs.start("again", spec)
    await acme.does("again", "one", failure=ARRAY_FULL)
    held = await paused(stubs, "again")
    assert "ARRAY_FULL" in held.needs[0].message
    patch = {"arguments.pool": "slow"}
    await stubs.workflows.ResumeWorkflow(resume("again", rerun("again", "one", patch)))
    asked = await acme.asked("again", "one")
    assert dict(asked.arguments) == {"pool": "slow"}
    await acme.accept(asked.attempt)
    await acme.end(asked.attempt)
    assert state(await stubs.wait("again")) == "SUCCEEDED"
    shown = await task(stubs, "again", "one")
    assert [word(each.state) for each in shown.attempts] == ["FAILED", "SUCCEEDED"]
    assert shown.attempts[0].action.custom.arguments == struct(pool="fast")


async def test_a_skipped_task_needs_what_others_are_bound_to(stubs: Stubs, acme: Vendor):
    spec = plan_of(
        external("one", outputs={"volume": "string", "size": "int64"}),
        external(
            "two",
            arguments={"v": "", "s": ""},
            bindings={
                "arguments.v": "tasks.one.output.volume",
                "arguments.s": "tasks.one.output.size",
            },
        ),
        policy=PAUSE,
    )
    await stubs.start("skipped", spec)
    await acme.does("skipped", "one", failure=ARRAY_FULL)
    held = await paused(stubs, "skipped")
    assert "skip with size (int64), volume (string)" in held.needs[0].message  # as is promised
    without = resume("skipped", skip("skipped", "one"), request_id="none")
    assert {each.kind for each in await unmet(stubs.workflows.ResumeWorkflow(without))} == {
        "OUTPUT"
    }
    wrong = skip("skipped", "one", {"volume": "v", "size": "large"})
    request = resume("skipped", wrong, request_id="wrong")
    error = await refused(stubs.workflows.ResumeWorkflow(request))
    assert error.fields == ("decisions[0].skip.outputs['size']",)
    assert "must be a whole number" in error.metadata["summary"]
    none = skip("skipped", "one", {"nothing": "x"})
    request = resume("skipped", none, request_id="nothing")
    unknown = await refused(stubs.workflows.ResumeWorkflow(request))
    assert unknown.fields == ("decisions[0].skip.outputs['nothing']",)
    assert "there is size, volume" in unknown.metadata["summary"]
    right = skip("skipped", "one", {"volume": "v7", "size": 5})
    await stubs.workflows.ResumeWorkflow(resume("skipped", right))
    asked = await acme.asked("skipped", "two")
    assert dict(asked.arguments) == {"v": "v7", "s": "5"}
    await acme.accept(asked.attempt)
    await acme.end(asked.attempt)
    assert state(await stubs.wait("skipped")) == "SUCCEEDED"


async def test_a_failed_part_is_done_again_with_its_whole(stubs: Stubs, acme: Vendor):
    """What a rerun needs names the whole; what it did before is made up for before it begins."""
    await stubs.start("part", plan_of(external("whole", policy=PAUSE)))
    whole = await acme.take("part", "whole")
    under = task_name("part", "whole")
    await acme.adds(under, "made", effect=EFFECT_REVERSIBLE)
    await acme.does("part", "made")
    await acme.adds(under, "piece")
    await acme.does("part", "piece", failure=ARRAY_FULL)
    assert await _is(stubs, "part", "RUNNING")  # its owner says what comes of it
    await acme.end(whole, failure=ARRAY_FULL)
    await acme.makes_up("part", "made")
    held = await paused(stubs, "part")
    assert [need.task for need in held.needs] == [under]
    alone = resume("part", rerun("part", "piece"), request_id="alone")
    error = await refused(stubs.workflows.ResumeWorkflow(alone))
    assert "a part of whole and cannot be rerun alone: rerun whole" in error.metadata["summary"]
    await stubs.workflows.ResumeWorkflow(resume("part", rerun("part", "whole")))
    again = await acme.take("part", "whole")
    await acme.adds(under, "piece.2")
    assert (await refused(acme.end(again))).reason == "STATE_FORBIDS"
    await acme.does("part", "piece.2")
    await acme.end(again)
    assert state(await stubs.wait("part")) == "SUCCEEDED"


async def test_a_whole_is_tried_again_by_policy_after_what_it_did(stubs: Stubs, acme: Vendor):
    """What its parts did is made up for first, however long that takes: nothing is left of it."""
    twice = policy(retry=Policy().retry)
    twice.retry.attempts_max = 2
    await stubs.start("twice", plan_of(external("whole", policy=twice)))
    whole, under = await acme.take("twice", "whole"), task_name("twice", "whole")
    await acme.adds(under, "made", effect=EFFECT_REVERSIBLE)
    await acme.does("twice", "made")
    await acme.end(whole, failure=Failure(reason="BUSY", message="not now", retriable=True))
    attempt = await acme.take("twice", "made", COMPENSATE)
    shown = await task(stubs, "twice", "whole")
    assert (await states(stubs, "twice"))["whole"] == "RETRY_WAIT"
    assert shown.waits_for == "its parts: made, to be made up for"
    await acme.end(attempt)
    again = await acme.take("twice", "whole")
    await acme.end(again)
    done = await stubs.wait("twice")
    assert (state(done), list(done.leftovers)) == ("SUCCEEDED", [])


async def _is(stubs: Stubs, workflow_id: str, word_: str) -> bool:
    return state(await stubs.get(workflow_id)) == word_


# -- made up for ----------------------------------------------------------------------------------


async def test_parts_are_made_up_for_with_what_they_belong_to(stubs: Stubs, acme: Vendor):
    """Nested parts and members of an open group go back like any, the whole one too."""
    spec = plan_of(opened(parallel("open", external("whole"))), external("last", effect=READ_ONLY))
    await stubs.start("nested", spec)
    whole = await acme.take("nested", "whole")
    for name in ("part", "more"):
        await acme.adds(task_name("nested", "whole"), name, effect=2)
        await acme.does("nested", name, output=struct(volume=name))
    await acme.end(whole)
    await acme.does("nested", "last", failure=ARRAY_FULL)
    seen = [await acme.makes_up("nested", name) for name in ("more", "part", "whole")]
    assert [dict(each.output) for each in seen] == [{"volume": "more"}, {"volume": "part"}, {}]
    assert state(await stubs.wait("nested")) == "COMPENSATED"


async def test_a_compensation_that_fails_is_asked_for_again(stubs: Stubs, acme: Vendor):
    """Then an operator is shown what for; a retry that he asks for is another attempt."""
    stubborn = policy(compensation_retry=Policy().retry)
    stubborn.compensation_retry.attempts_max = 1
    stubborn.compensation_retry.delay.FromSeconds(3600)
    stubborn.compensation_retry.delay_max.FromSeconds(3600)
    spec = plan_of(external("made"), external("breaks", effect=READ_ONLY), policy=stubborn)
    await stubs.start("stubborn", spec)
    await acme.does("stubborn", "made")
    await acme.does("stubborn", "breaks", failure=ARRAY_FULL)
    attempt = await acme.take("stubborn", "made", COMPENSATE)
    stopped = await refused(acme.end(attempt, cancelled=True))
    assert (stopped.reason, stopped.fields) == ("FIELD_INVALID", ("cancelled",))
    await acme.end(attempt, failure=ARRAY_FULL)
    held = await blocked(stubs, "stubborn")
    assert "no room on the array" in held.needs[0].message
    assert (await refused(acme.end(attempt))).reason == "ATTEMPT_CLOSED"
    await stubs.workflows.DecideCompensation(decided("stubborn", "made", "retry"))
    again = await acme.makes_up("stubborn", "made")
    assert again.attempt == attempt_name("stubborn", "made", COMPENSATE)
    assert again.compensates == attempt_name("stubborn", "made", 1)
    assert state(await stubs.wait("stubborn")) == "COMPENSATED"


def by_people(workflow_id: str):
    """Returns a plan whose first task people make up for, and whose last one fails."""
    first = external("made", operator_checklist=CHECKLIST)
    return plan_of(first, external("breaks", effect=READ_ONLY))


@pytest.mark.parametrize("how", ["done", "abandon"])
async def test_people_make_up_for_it_by_its_checklist(stubs: Stubs, acme: Vendor, how: str):
    """S-V13: its owner is not asked; the workflow says what to do, and waits for who did it."""
    name = f"people-{how}"
    await stubs.start(name, by_people(name))
    await acme.does(name, "made")
    await acme.does(name, "breaks", failure=ARRAY_FULL)
    held = await blocked(stubs, name)
    [need] = held.needs
    assert CHECKLIST in need.message
    assert f"countermand workflow compensation done {name} made" in need.message
    assert not [each for each in await acme.requests() if f"/{name}/" in each.attempt]
    asked = attempt_name(name, "made", 2)
    for late in (acme.accept(asked), acme.end(asked), acme.end(asked, failure=ARRAY_FULL)):
        assert (await refused(late)).reason == "ATTEMPT_CLOSED"
    assert await acme.beat(asked) == {asked: "UNSPECIFIED"}
    assert (await states(stubs, name))["made"] == "COMPENSATION_BLOCKED"
    await stubs.workflows.DecideCompensation(decided(name, "made", how))
    ended = await stubs.wait(name)
    assert state(ended) == {"done": "COMPENSATED", "abandon": "FAILED"}[how]
    left = [(each.task, each.reason) for each in ended.leftovers]
    assert left == ([] if how == "done" else [(task_name(name, "made"), "seen to")])
    assert len(verbs(await events(stubs, name))) == 1


async def test_only_a_group_is_made_up_for(stubs: Stubs, acme: Vendor):
    """S-V27: the policy of the group that a vendor's task is added to is the one that counts."""
    group = opened(parallel("group", external("made")))
    group.policy.on_failure = Policy.ON_FAILURE_COMPENSATE_GROUP
    await stubs.start("grouped", plan_of(external("before"), group, external("after")))
    await acme.does("grouped", "before")
    await acme.asked("grouped", "made")
    await acme.adds(task_name("grouped", "group"), "added")
    await acme.does("grouped", "made")
    await acme.does("grouped", "added", failure=ARRAY_FULL)
    await acme.makes_up("grouped", "made")
    await acme.does("grouped", "after")
    assert state(await stubs.wait("grouped")) == "SUCCEEDED"
    found = await states(stubs, "grouped")
    assert (found["group"], found["before"], found["made"], found["added"]) == (
        "COMPENSATED",
        "SUCCEEDED",
        "COMPENSATED",
        "FAILED",
    )


# -- what is of no use ----------------------------------------------------------------------------


async def test_what_only_hosts_can_do_is_refused_in_words(stubs: Stubs, acme: Vendor):
    """A fence, another host, other candidates, another verb: nothing of it reaches a vendor."""
    await stubs.start("no-host", plan_of(external("made"), external("breaks"), policy=PAUSE))
    await acme.does("no-host", "made")
    attempt = await acme.take("no-host", "breaks")
    name = workflow_name("no-host")
    before = await stubs.get("no-host")
    fence = wpb.FenceTaskRequest(
        task=task_name("no-host", "breaks"), request_id=str(uuid4()), reason="?", host_id="a"
    )
    error = await refused(stubs.workflows.FenceTask(fence))
    assert error.code in {"FAILED_PRECONDITION", "INVALID_ARGUMENT"}, error
    assert await stubs.get("no-host") == before
    await acme.end(attempt, failure=ARRAY_FULL)
    before = await paused(stubs, "no-host")
    for number, decision in enumerate(
        (
            rerun("no-host", "breaks", {"source.image_id": "x"}),
            rerun("no-host", "breaks", {"arguments.a.b": "x"}),
            rerun("no-host", "breaks", {"verb": "other"}),
            rerun("no-host", "breaks", host_id="a"),
        )
    ):
        request = resume("no-host", decision, request_id=f"no-host-{number}")
        error = await refused(stubs.workflows.ResumeWorkflow(request))
        assert error.code == "INVALID_ARGUMENT", (decision, error)
        assert await stubs.get("no-host") == before
    await stubs.workflows.CancelWorkflow(cancel("no-host"))
    asked = await acme.take("no-host", "made", COMPENSATE)
    replaced = decided("no-host", "made", "replace")
    error = await refused(stubs.workflows.DecideCompensation(replaced))
    assert error.code in {"FAILED_PRECONDITION", "INVALID_ARGUMENT"}, error
    await acme.end(asked)
    ended = await stubs.wait("no-host")
    assert (ended.name, state(ended)) == (name, "COMPENSATED")


async def test_a_sequence_of_two_is_still_one_tree(stubs: Stubs, acme: Vendor):
    await stubs.start("plain", plan_of(sequence("inner", external("a"), external("b"))))
    await acme.does("plain", "a")
    await acme.does("plain", "b")
    assert state(await stubs.wait("plain")) == "SUCCEEDED"
