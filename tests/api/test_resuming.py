"""Pause and resume, point by point, as an engine or an operator sees them."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from grpc.aio import AioRpcError

from countermand.client.spec import (
    for_each,
    nested,
    parallel,
    policy,
    retry,
    sequence,
    workflow_spec,
)
from countermand.client.spec import task as leaf_of
from countermand.rpc.names import task_name, workflow_name
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_pb2 import ResumeRequirement as Needed
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from tests.api.calls import BASE, at_work, cancel, refused, state
from tests.api.steering import (
    FIXED,
    MISSING,
    PAUSE,
    Unmet,
    events,
    failing,
    give_up,
    interventions,
    pause,
    paused,
    rerun,
    resume,
    skip,
    states,
    task,
    unmet,
    value,
    verbs,
)
from tests.endtoend.checks import assert_clean, labels, same
from tests.endtoend.cluster import copy

# -- an operator pauses -------------------------------------------------------------------------


async def test_a_pause_lets_attempts_end_and_a_resume_goes_on(cluster, stubs):
    """S-A1, S-R1, S-R4, S-R7: PAUSING while the copy runs, PAUSED after it, then on by itself."""
    async with at_work(cluster, stubs, "held", "slow"):
        answer = await stubs.workflows.PauseWorkflow(pause("held", reason="switch maintenance"))
        assert state(answer.workflow) == "PAUSING"
        assert answer.workflow.waits_for == "a resume: paused by local: switch maintenance"
        held = await paused(stubs, "held")
        [need] = held.needs
        assert (need.reason, need.task) == ("PAUSED", "")
        assert "countermand workflow resume held" in need.message
        assert (await stubs.workflows.GetResumeRequirements(asked("held"))).requirements == []
        await stubs.workflows.ResumeWorkflow(resume("held"))
        assert state(await stubs.wait("held")) == "SUCCEEDED"
    assert verbs(await events(stubs, "held")) == ["pause", "resume"]
    assert_clean(cluster, "held", "SUCCEEDED")


def asked(workflow_id: str) -> pb.GetResumeRequirementsRequest:
    return pb.GetResumeRequirementsRequest(name=workflow_name(workflow_id))


async def test_what_comes_after_a_pause_starts_once(cluster, stubs):
    """S-A2, S-A4, S-R2, S-R8: paused before a task; a value given at resume is what it sees."""
    spec = workflow_spec(
        "stops",
        sequence(
            "all",
            copy("one", "a", BASE, "pool-a/stops-one"),
            copy("two", "a", BASE, "pool-a/stops-two", policy=policy(pause_before=True)),
        ),
    )
    await stubs.start("stops", spec)
    held = await paused(stubs, "stops")
    assert "paused before two" in held.waits_for
    two = await task(stubs, "stops", "two")
    assert (two.waits_for, list(two.attempts)) == ("a resume: paused before it", [])
    patch = rerun("stops", "two", {"target.image_id": "stops-other"})
    answer = await stubs.workflows.ResumeWorkflow(resume("stops", patch))
    assert [(c.key, c.after.string_value) for c in answer.changes] == [
        ("target.image_id", "stops-other")
    ]
    assert state(await stubs.wait("stops")) == "SUCCEEDED"
    two = await task(stubs, "stops", "two")
    [attempt] = two.attempts
    assert attempt.action.copy_image.target.image_id == "stops-other"
    assert "pool-a/stops-two" not in labels(cluster)


async def test_a_verb_in_the_wrong_state_says_which_are_right(stubs):
    """S-A11: nothing is recorded."""
    await stubs.start("over", workflow_spec("o", sequence("s", copy("c", "a", BASE, "pool-a/o"))))
    await stubs.wait("over")
    before = await events(stubs, "over")
    for call in (
        stubs.workflows.PauseWorkflow(pause("over")),
        stubs.workflows.ResumeWorkflow(resume("over")),
        stubs.workflows.ResumeWorkflow(resume("over", validate_only=True)),
    ):
        error = await refused(call)
        assert (error.code, error.reason) == ("FAILED_PRECONDITION", "STATE_FORBIDS")
        assert error.metadata["state"] == "SUCCEEDED"
        assert "PAUS" in error.metadata["allowed"] or "RUNNING" in error.metadata["allowed"]
    assert await events(stubs, "over") == before


# -- failures are open --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counter():
    return iter(range(1000))


@pytest.fixture
async def stuck(cluster, stubs, counter):
    """A workflow with two open failures; whatever a test leaves of it is made up for."""
    workflow_id = f"stuck-{next(counter)}"
    await stubs.start(workflow_id, failing(workflow_id))
    await paused(stubs, workflow_id)
    yield workflow_id
    if not (await stubs.get(workflow_id)).HasField("end_time"):
        cancel = pb.CancelWorkflowRequest(
            name=workflow_name(workflow_id), request_id=f"end-{workflow_id}", reason="over"
        )
        await stubs.workflows.CancelWorkflow(cancel)
        await stubs.wait(workflow_id)


def assert_copied(cluster, *targets: str) -> None:
    """Checks that images are there and are what the template is."""
    for target in targets:
        assert same(cluster.data_of(BASE), cluster.data_of(target)), target


async def test_an_open_failure_says_what_may_be_done(stubs, stuck):
    """S-R3, S-R12: the workflow's needs, the tasks, and the requirements tell the same story."""
    held = await stubs.get(stuck)
    needs = {need.task.rpartition("/")[2]: need.message for need in held.needs}
    assert sorted(needs) == ["one", "two"]
    assert needs["one"].startswith("one failed on a (IMAGE_NOT_FOUND): ")
    assert needs["one"].endswith(
        "Possible: rerun, skip with image.image_id (string), image.pool_id (string), or compensate."
    )
    assert needs["two"].endswith("Possible: rerun, skip, or compensate.")
    one = await task(stubs, stuck, "one")
    assert (one.needs_decision, one.waits_for) == (True, "a decision")
    both = await task(stubs, stuck, "both")
    assert both.failure.message.startswith("2 of 2 failed: one: IMAGE_NOT_FOUND: ")
    answer = await stubs.workflows.GetResumeRequirements(asked(stuck))
    assert answer.etag == held.etag
    found = [(r.task.rpartition("/")[2], r.kind, r.key, r.type) for r in answer.requirements]
    assert found == [
        ("one", Needed.KIND_DECISION, "", ""),
        ("one", Needed.KIND_OUTPUT, "image.image_id", "string"),
        ("one", Needed.KIND_OUTPUT, "image.pool_id", "string"),
        ("two", Needed.KIND_DECISION, "", ""),
    ]
    assert list(answer.requirements[1].consumers) == [task_name(stuck, "then")]
    waited = await stubs.workflows.WaitWorkflow(
        pb.WaitWorkflowRequest(name=held.name, until_attention=True)
    )
    assert waited.reached


async def test_what_is_missing_is_listed_whole_and_nothing_moves(stubs, stuck):
    """S-R13, S-R14, S-R23, S-R9, S-E5: names the tasks, the key, its consumer."""
    before = await stubs.get(stuck)
    plain = await unmet(stubs.workflows.ResumeWorkflow(resume(stuck)))
    assert [(u.kind, u.task) for u in plain] == [("DECISION", "one"), ("DECISION", "two")]
    assert "Decide: rerun, skip or compensate" in plain[0].words
    found = await unmet(stubs.workflows.ResumeWorkflow(resume(stuck, skip(stuck, "one"))))
    assert [(u.kind, u.task) for u in found] == [
        ("DECISION", "two"),
        ("OUTPUT", "one"),
        ("OUTPUT", "one"),
    ]
    assert found[1] == Unmet(
        "OUTPUT",
        "one",
        "if one is skipped, give image.image_id, a string: then is bound to it.",
    )
    wrong = skip(stuck, "one", {"image.image_id": 7, "image.pool_id": "pool-a"})
    found = await unmet(
        stubs.workflows.ResumeWorkflow(resume(stuck, wrong, rerun(stuck, "two", FIXED)))
    )
    assert found == [Unmet("OUTPUT", "one", "image.image_id of one must be a string.")]
    assert await stubs.get(stuck) == before


async def test_a_task_that_succeeded_is_not_decided_about(stubs, stuck):
    """S-B3, S-R15: the error names the task and its state, beside all the rest."""
    decisions = [
        rerun(stuck, "first"),
        rerun(stuck, "one"),
        rerun(stuck, "one"),
        rerun(stuck, "two", indices=[1]),
    ]
    found = await unmet(stubs.workflows.ResumeWorkflow(resume(stuck, *decisions)))
    said = {(u.kind, u.task): u.words for u in found}
    assert said["MISFIT", "first"].startswith("first is SUCCEEDED and cannot be decided.")
    assert "one has two decisions" in said["MISFIT", "one"]
    assert "two is no group" in said["MISFIT", "two"]


async def test_failures_are_run_again_together(cluster, stubs, stuck):
    """S-B1, S-B2, S-B5, S-R5, S-R8, S-R14, S-R16, S-R17, S-R20: each attempt keeps its own."""
    answer = await stubs.workflows.ResumeWorkflow(
        resume(stuck, rerun(stuck, "one", FIXED), rerun(stuck, "two", FIXED), reason="mended")
    )
    assert state(answer.workflow) == "RUNNING"
    assert [(c.task.rpartition("/")[2], c.key, c.after.string_value) for c in answer.changes] == [
        ("one", "source.image_id", "base"),
        ("two", "source.image_id", "base"),
    ]
    assert state(await stubs.wait(stuck)) == "SUCCEEDED"
    one = await task(stubs, stuck, "one")
    assert [attempt.state for attempt in one.attempts] == [
        Attempt.STATE_FAILED,
        Attempt.STATE_SUCCEEDED,
    ]
    sources = [attempt.action.copy_image.source.image_id for attempt in one.attempts]
    assert sources == ["not-there-yet", "base"]
    [patched] = one.inbound
    assert (patched.field, patched.origin, patched.principal) == (
        "source.image_id",
        "patch",
        "local",
    )
    assert patched.HasField("time")
    assert (one.decided.verb, one.decided.reason) == ("rerun", "mended")
    assert len((await task(stubs, stuck, "first")).attempts) == 1
    history = await events(stubs, stuck)
    assert verbs(history) == ["resume", "rerun", "rerun"]
    changed = [c for e in history for c in e.intervention.changes]
    assert {c.value.string_value for c in changed} == {"base"}
    assert_copied(cluster, f"pool-a/{stuck}-one", f"pool-b/{stuck}-two", f"pool-a/{stuck}-then")


async def test_a_skipped_task_gives_what_others_read(cluster, stubs, stuck):
    """S-E1, S-E4, S-R6, S-R21: the next task reads the given outputs; the audit has them."""
    outputs = {"image.pool_id": "pool-a", "image.image_id": f"{stuck}-first"}
    decisions = [skip(stuck, "one", outputs), skip(stuck, "two")]
    await stubs.workflows.ResumeWorkflow(resume(stuck, *decisions, reason="copied by hand"))
    assert state(await stubs.wait(stuck)) == "SUCCEEDED"
    assert await states(stubs, stuck) == {
        "first": "SUCCEEDED",
        "both": "SKIPPED",
        "one": "SKIPPED",
        "two": "SKIPPED",
        "then": "SUCCEEDED",
    }
    one = await task(stubs, stuck, "one")
    assert one.output.copy_image.image.image_id == f"{stuck}-first"
    assert one.opposite == ""  # nothing is made up for in its place
    then = await task(stubs, stuck, "then")
    assert [v.value.string_value for v in then.inbound] == ["pool-a", f"{stuck}-first"]
    asked_for = interventions(await events(stubs, stuck))
    assert [i.verb for i in asked_for] == ["resume", "skip", "skip"]
    assert {i.reason for i in asked_for} == {"copied by hand"}
    assert len(asked_for[1].changes) == 2


async def test_giving_up_makes_up_for_everything(cluster, stubs, stuck):
    await stubs.workflows.ResumeWorkflow(resume(stuck, give_up(stuck, "one")))
    settled = await stubs.wait(stuck)
    assert (state(settled), settled.cause.reason) == ("COMPENSATED", "IMAGE_NOT_FOUND")
    assert_clean(cluster, stuck, "COMPENSATED")


async def test_a_dry_run_shows_before_and_after_and_changes_nothing(stubs, stuck):
    """S-R12, S-R18: nothing is recorded, not even the request id."""
    before = await stubs.get(stuck)
    decisions = [
        rerun(stuck, "one", FIXED, host_id="a"),
        skip(stuck, "two", {"written_bytes": 3}),
    ]
    dry = resume(stuck, *decisions, validate_only=True, reason="")
    answer = await stubs.workflows.ResumeWorkflow(dry)
    assert [
        (c.task.rpartition("/")[2], c.key, c.before.string_value, c.after.string_value)
        for c in answer.changes
    ] == [
        ("one", "source.image_id", "not-there-yet", "base"),
        ("two", "written_bytes", "", ""),
        ("one", "host_id", "a", "a"),
    ]
    assert answer.changes[1].after.number_value == 3
    assert answer.workflow == before
    assert await stubs.get(stuck) == before
    assert [
        u.kind
        for u in await unmet(stubs.workflows.ResumeWorkflow(resume(stuck, validate_only=True)))
    ] == ["DECISION", "DECISION"]


# -- the request itself -------------------------------------------------------------------------


async def test_every_field_that_is_wrong_is_named(stubs, stuck):
    """S-B16: and nothing has happened."""
    before = await stubs.get(stuck)
    decisions = [
        rerun(stuck, "one", {"source.colour": "red", "sparse": "yes", "target.image_id": "../x"}),
        rerun(stuck, "two", host_id="nobody"),
        skip(stuck, "two", {"colour": 1}),
        pb.ResumeDecision(task="workflows/other/tasks/one", give_up=pb.ResumeDecision.GiveUp()),
        pb.ResumeDecision(task=task_name(stuck, "one")),
    ]
    call = stubs.workflows.ResumeWorkflow(resume(stuck, *decisions, input={"x": value(1)}))
    error = await refused(call)
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "FIELD_INVALID")
    assert error.fields == (
        "decisions[0].rerun.patch['source.colour']",
        "decisions[0].rerun.patch['sparse']",
        "decisions[0].rerun.patch['target.image_id']",
        "decisions[1].rerun.host_id",
        "decisions[2].skip.outputs['colour']",
        "decisions[3].task",
        "decisions[4].decision",
        "input['x']",
    )
    assert await stubs.get(stuck) == before


async def test_a_task_that_there_is_none_of_is_not_found(stubs, stuck):
    error = await refused(stubs.workflows.ResumeWorkflow(resume(stuck, rerun(stuck, "nobody"))))
    assert (error.code, error.reason) == ("NOT_FOUND", "TASK_NOT_FOUND")
    assert error.metadata["name"] == task_name(stuck, "nobody")


async def test_decisions_need_a_reason_and_an_id(stubs, stuck):
    """S-R22: an intervention without a word about why is none."""
    asked_for = resume(stuck, rerun(stuck, "one"), reason="")
    asked_for.request_id = ""
    error = await refused(stubs.workflows.ResumeWorkflow(asked_for))
    assert (error.reason, error.fields) == ("FIELD_INVALID", ("request_id", "reason"))


async def test_an_etag_that_moved_is_a_conflict(stubs, stuck):
    decisions = [rerun(stuck, "one", FIXED), rerun(stuck, "two", FIXED)]
    for only in (False, True):
        old = resume(stuck, *decisions, etag="1", validate_only=only)
        error = await refused(stubs.workflows.ResumeWorkflow(old))
        assert (error.code, error.reason) == ("ABORTED", "CONFLICT")


async def test_a_resume_takes_effect_once(cluster, stubs, stuck):
    """S-H10: a repeat gets the workflow as it is; another request under its id is refused."""
    first = resume(stuck, rerun(stuck, "one", FIXED), rerun(stuck, "two", FIXED), request_id="id")
    await stubs.workflows.ResumeWorkflow(first)
    other = resume(stuck, skip(stuck, "one"), request_id="id")
    of_another_call = pause(stuck, "id")
    for call in (
        stubs.workflows.ResumeWorkflow(other),
        stubs.workflows.PauseWorkflow(of_another_call),
    ):
        error = await refused(call)
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")
    await stubs.wait(stuck)
    again = await stubs.workflows.ResumeWorkflow(first)
    assert state(again.workflow) == "SUCCEEDED"
    assert verbs(await events(stubs, stuck)) == ["resume", "rerun", "rerun"]


async def test_of_many_resumes_at_once_one_counts(cluster, stubs, stuck):
    """S-R15: whoever comes second is told, and each task has one more attempt."""
    decisions = [rerun(stuck, "one", FIXED), rerun(stuck, "two", FIXED)]
    answers = await asyncio.gather(
        *(
            stubs.workflows.ResumeWorkflow(resume(stuck, *decisions, request_id=f"{stuck}-{n}"))
            for n in range(10)
        ),
        return_exceptions=True,
    )
    kinds = Counter(type(answer) for answer in answers)
    assert kinds == {pb.ResumeWorkflowResponse: 1, AioRpcError: 9}
    await stubs.wait(stuck)
    for name in ("one", "two"):
        assert len((await task(stubs, stuck, name)).attempts) == 2
    assert verbs(await events(stubs, stuck)).count("resume") == 1
    assert_copied(cluster, f"pool-a/{stuck}-one", f"pool-b/{stuck}-two", f"pool-a/{stuck}-then")


async def test_one_resume_sent_many_times_at_once_is_one(cluster, stubs, stuck):
    decisions = [rerun(stuck, "one", FIXED), rerun(stuck, "two", FIXED)]
    same = resume(stuck, *decisions, request_id=f"{stuck}-same")
    answers = await asyncio.gather(*(stubs.workflows.ResumeWorkflow(same) for _ in range(10)))
    assert {state(answer.workflow) for answer in answers} <= {"RUNNING", "SUCCEEDED"}
    await stubs.wait(stuck)
    assert verbs(await events(stubs, stuck)).count("resume") == 1


# -- input and items ----------------------------------------------------------------------------


async def test_a_changed_input_is_seen_by_what_starts_from_now_on(stubs):
    """S-R8, S-A4: the copy that failed reads the new image; the one before keeps the old."""
    one, two = (copy(name, "a", "bound/bound", f"pool-a/input-{name}") for name in ("one", "two"))
    for node, field in ((one, "first"), (two, "second")):
        node.task.action.copy_image.ClearField("source")
        node.task.action.copy_image.source.pool_id = "templates"
        node.task.bindings.add(field="source.image_id", source=f"input.{field}")
    spec = workflow_spec("input", sequence("all", one, two), policy=PAUSE)
    given = {"first": "base", "second": "not-there-yet"}
    await stubs.start("input", spec, input=given)
    await paused(stubs, "input")
    answer = await stubs.workflows.ResumeWorkflow(
        resume("input", rerun("input", "two"), input={"second": value("base")})
    )
    [change] = answer.changes
    assert (change.task, change.key) == ("", "second")
    assert (change.before.string_value, change.after.string_value) == ("not-there-yet", "base")
    assert state(await stubs.wait("input")) == "SUCCEEDED"
    [inbound] = (await task(stubs, "input", "two")).inbound
    assert inbound.value.string_value == "base"


def fan_out(workflow_id: str):
    """Returns a copy for each disk of the input, and the input: two of three fail."""
    item = copy("copy", "a", "bound/bound", "bound/bound")
    item.task.action.copy_image.ClearField("source")
    item.task.action.copy_image.ClearField("target")
    item.task.action.copy_image.source.pool_id = "templates"
    item.task.action.copy_image.target.pool_id = "pool-a"
    item.task.bindings.add(field="source.image_id", source="disk.source")
    item.task.bindings.add(field="target.image_id", source="disk.target")
    group = for_each(parallel("disks", item), "input.disks", "disk")
    names = ["base", "not-there-yet", "not-there-either"]
    disks = [{"source": n, "target": f"{workflow_id}-{i}"} for i, n in enumerate(names)]
    return workflow_spec("fan-out", sequence("all", group), policy=PAUSE), {"disks": disks}


async def test_chosen_items_of_a_fan_out_run_again(cluster, stubs):
    """S-C1, S-C4, S-C5, S-C7, S-R19: an index out of range or not failed is an error."""
    spec, given = fan_out("items")
    await stubs.start("items", spec, input=given)
    await paused(stubs, "items")
    group = await task(stubs, "items", "disks")
    assert group.failure.message.startswith("2 of 3 failed: copy.1: IMAGE_NOT_FOUND: ")
    assert " copy.2: IMAGE_NOT_FOUND: " in group.failure.message
    found = await unmet(
        stubs.workflows.ResumeWorkflow(
            resume("items", rerun("items", "disks", indices=[7]), request_id="r")
        )
    )
    assert found[0].words == "disks has no item 7: it has 3, from 0."
    found = await unmet(
        stubs.workflows.ResumeWorkflow(
            resume("items", rerun("items", "disks", indices=[0]), request_id="r")
        )
    )
    assert found[0].words == "item 0 (copy.0) has not failed."
    decisions = [
        rerun("items", "disks", {"source.image_id": "base"}, indices=[1]),
        skip("items", "copy.2"),
    ]
    await stubs.workflows.ResumeWorkflow(resume("items", *decisions))
    assert state(await stubs.wait("items")) == "SUCCEEDED"
    attempts = [len((await task(stubs, "items", f"copy.{n}")).attempts) for n in range(3)]
    assert attempts == [1, 2, 1]
    assert (await states(stubs, "items"))["copy.2"] == "SKIPPED"


# -- branches, nesting, budgets -----------------------------------------------------------------


async def test_branches_that_both_pause_go_on_together(stubs):
    """S-A5: one resume, and each task starts once."""
    stop = policy(pause_before=True)
    spec = workflow_spec(
        "branches",
        parallel(
            "both",
            copy("one", "a", BASE, "pool-a/branches-one", policy=stop),
            copy("two", "b", BASE, "pool-b/branches-two", policy=stop),
        ),
    )
    await stubs.start("branches", spec)
    await paused(stubs, "branches")
    await stubs.workflows.ResumeWorkflow(resume("branches"))
    assert state(await stubs.wait("branches")) == "SUCCEEDED"
    for name in ("one", "two"):
        assert len((await task(stubs, "branches", name)).attempts) == 1


async def test_a_nested_task_is_run_again_where_it_failed(stubs):
    """S-A9, S-D1: the workflow shows PAUSED and why; the same tasks end, and no new ones."""
    deep = workflow_spec("deep", sequence("d", copy("leaf", "a", MISSING, "pool-a/nested-leaf")))
    middle = workflow_spec("middle", sequence("m", nested("inner", deep)))
    spec = workflow_spec("outer", sequence("all", nested("child", middle)), policy=PAUSE)
    await stubs.start("nested", spec)
    held = await paused(stubs, "nested")
    leaf = "child.inner.leaf"
    assert held.needs[0].task == task_name("nested", leaf)
    assert held.waits_for == f"a resume: paused because {leaf} failed"
    before = await states(stubs, "nested")
    await stubs.workflows.ResumeWorkflow(resume("nested", rerun("nested", leaf, FIXED)))
    assert state(await stubs.wait("nested")) == "SUCCEEDED"
    after = await states(stubs, "nested")
    assert list(after) == list(before) == ["child", "child.inner", leaf]
    assert set(after.values()) == {"SUCCEEDED"}


async def test_a_rerun_has_its_own_budget(stubs):
    """S-B9: three attempts, and up to three more."""
    thrice = policy(retry=retry(3, delay=timedelta(milliseconds=10), reasons=["DRILL"]))
    fails = leaf_of("fails", host="a", action=Noop(failure_message="as asked"), policy=thrice)
    await stubs.start("budget", workflow_spec("budget", sequence("all", fails), policy=PAUSE))
    for attempts in (3, 6):
        await paused(stubs, "budget")
        shown = await task(stubs, "budget", "fails")
        assert [a.state for a in shown.attempts] == [Attempt.STATE_FAILED] * attempts
        request = resume("budget", rerun("budget", "fails"), request_id=f"budget-{attempts}")
        await stubs.workflows.ResumeWorkflow(request)
    await paused(stubs, "budget")
    await stubs.workflows.ResumeWorkflow(resume("budget", skip("budget", "fails")))
    assert state(await stubs.wait("budget")) == "SUCCEEDED"


async def test_a_group_is_reset_as_a_whole(cluster, stubs):
    """S-C2, as far as one reset goes: what succeeded is made up for first, then all run."""
    spec, given = fan_out("reset")
    await stubs.start("reset", spec, input=given)
    await paused(stubs, "reset")
    whole = rerun("reset", "disks", {"source.image_id": "base"}, reset=True)
    await stubs.workflows.ResumeWorkflow(resume("reset", whole))
    assert state(await stubs.wait("reset")) == "SUCCEEDED"
    kinds = [a.kind for a in (await task(stubs, "reset", "copy.0")).attempts]
    action, compensation = Attempt.KIND_ACTION, Attempt.KIND_COMPENSATION
    assert kinds == [action, compensation, action]
    assert (await task(stubs, "reset", "disks")).round == 2
    assert_copied(cluster, *(f"pool-a/reset-{number}" for number in range(3)))


async def test_a_pool_that_no_host_reaches_is_refused_at_once(stubs):
    """S-R13: else the task would wait for a host for ever, and nobody be told."""
    await stubs.start("nowhere", failing("nowhere"))
    await paused(stubs, "nowhere")
    elsewhere = rerun("nowhere", "one", {"target.pool_id": "no-such-pool"})
    request = resume("nowhere", elsewhere, skip("nowhere", "two"))
    error = await refused(stubs.workflows.ResumeWorkflow(request))
    assert error.reason == "FIELD_INVALID"
    assert error.fields == ("decisions[0].rerun.patch['target.pool_id']",)
    assert state(await stubs.get("nowhere")) == "PAUSED"


@pytest.mark.parametrize(
    ("outputs", "key"),
    [
        ({"image.image_id": "BAD ID!!", "image.pool_id": "pool-a"}, "image.image_id"),
        ({"image.image_id": "x", "image.pool_id": "no-such-pool"}, "image.pool_id"),
    ],
)
async def test_what_a_skipped_task_can_never_have_left_is_refused(stubs, stuck, outputs, key):
    """S-R13: else the skip is done, and what is bound to it can only fail."""
    request = resume(stuck, skip(stuck, "one", outputs), rerun(stuck, "two", FIXED))
    request.validate_only = True
    error = await refused(stubs.workflows.ResumeWorkflow(request))
    assert (error.reason, error.fields) == (
        "FIELD_INVALID",
        (f"decisions[0].skip.outputs[{key!r}]",),
    )


async def test_what_was_submitted_is_what_is_run_again(stubs):
    """S-B18: an engine that has changed its mind meanwhile submits under another id."""
    spec = failing("pinned")
    await stubs.start("pinned", spec)
    await paused(stubs, "pinned")
    changed = WorkflowSpec()
    changed.CopyFrom(spec)
    changed.root.members[0].name = "other"
    error = await refused(stubs.start("pinned", changed))
    assert error.reason == "WORKFLOW_ID_TAKEN"
    both = (rerun("pinned", "one", FIXED), rerun("pinned", "two", FIXED))
    await stubs.workflows.ResumeWorkflow(resume("pinned", *both))
    assert state(await stubs.wait("pinned")) == "SUCCEEDED"
    request = pb.GetWorkflowRequest(name=workflow_name("pinned"), view=pb.WORKFLOW_VIEW_FULL)
    assert (await stubs.workflows.GetWorkflow(request)).workflow.spec == spec


async def test_a_cancel_and_a_pause_are_imagined_by_the_same_rules(stubs, stuck):
    """S-A1: neither a request id nor a reason is needed, and nothing changes."""
    before = await stubs.get(stuck)
    name = workflow_name(stuck)
    cancelled = pb.CancelWorkflowRequest(name=name, validate_only=True)
    held = pb.PauseWorkflowRequest(name=name, validate_only=True)

    answer = await stubs.workflows.CancelWorkflow(cancelled)
    refusal = await refused(stubs.workflows.PauseWorkflow(held))
    assert (answer.workflow.etag, refusal.reason) == (before.etag, "STATE_FORBIDS")
    assert await stubs.get(stuck) == before

    await stubs.workflows.CancelWorkflow(cancel(stuck))
    assert (await refused(stubs.workflows.CancelWorkflow(cancelled))).reason == "STATE_FORBIDS"
    await stubs.wait(stuck)
