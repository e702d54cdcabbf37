"""Workflows of a vendor's own: injected, grown, ended, forced to an end, cleared."""

from __future__ import annotations

from uuid import uuid4

from countermand.client.spec import policy
from countermand.rpc.names import task_name, workflow_name
from countermand.v1 import workflow_pb2 as wpb
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_spec_pb2 import Policy
from tests.api.calls import Stubs, cancel, refused, state
from tests.api.steering import events, interventions, states, task
from tests.api.vendors import (
    ARRAY_FULL,
    REVERSIBLE,
    Vendor,
)
from tests.endtoend.cluster import until


async def test_it_is_started_once_grows_and_ends(stubs: Stubs, acme: Vendor, other: Vendor):
    """S-V26, S-V31: two vendors in it; the same start and the same end again change nothing."""
    first = await acme.starts("own", description="Moves disks.", labels={"array": "7"})
    assert (state(first), first.owner_id, first.kind) == ("RUNNING", "acme", "rebalance")
    token = acme.tokens[task_name("own", "main")]
    again = await acme.starts("own", description="Moves disks.", labels={"array": "7"})
    assert (again, acme.tokens[task_name("own", "main")]) == (first, token)
    main = await task(stubs, "own", "main")
    assert (main.description, main.owner_id) == ("Moves disks.", "acme")
    attempt = await acme.take("own", "main")
    root, under = workflow_name("own"), task_name("own", "main")
    step = await acme.adds(root, "step", effect=REVERSIBLE, weight=3, description="One disk.")
    assert (step.task.description, step.task.weight, step.task.parent) == ("One disk.", 3, "")
    assert step.task.state == Task.STATE_STARTING
    later = await acme.adds(root, "later", owner_id="other", after=["step"])
    assert later.task.state == Task.STATE_PENDING
    assert (await acme.adds(under, "part")).task.parent == under
    assert await other.requests() == []
    await acme.does("own", "step")
    await other.does("own", "later")
    open_ = await refused(acme.ends_all("own"))
    assert (open_.code, open_.reason) == ("FAILED_PRECONDITION", "STATE_FORBIDS")
    assert "part must end first" in open_.metadata["because"]
    await acme.does("own", "part")
    request_id = str(uuid4())
    ended = await acme.ends_all("own", request_id=request_id)
    assert state(await stubs.wait("own")) == "SUCCEEDED"
    ended = await acme.ends_all("own", request_id=request_id)
    assert state(ended) == "SUCCEEDED"
    assert ended.expire_time.seconds > ended.end_time.seconds
    assert set((await states(stubs, "own")).values()) == {"SUCCEEDED"}
    assert (await refused(acme.end(attempt, failure=ARRAY_FULL))).reason == "ATTEMPT_CLOSED"
    with_another = await refused(acme.ends_all("own"))
    assert (with_another.reason, with_another.code) == ("STATE_FORBIDS", "FAILED_PRECONDITION")


async def test_a_failed_step_ends_it_and_closes_what_is_open(stubs: Stubs, acme: Vendor):
    """S-V27: what has finished stays; what may have left something is asked to stop first."""
    await acme.starts("fails")
    root = workflow_name("fails")
    for name in ("done", "breaks", "reads", "waits"):
        await acme.adds(root, name)
    await acme.adds(root, "writes", effect=REVERSIBLE)
    await acme.adds(root, "later", after=["breaks"])
    await acme.does("fails", "done")
    await acme.take("fails", "reads")
    writes = await acme.take("fails", "writes")
    await acme.does("fails", "breaks", failure=ARRAY_FULL)

    async def are_closed() -> bool:
        found = await states(stubs, "fails")
        return [found[n] for n in ("main", "reads", "waits", "later")] == ["CANCELLED"] * 4

    await until(are_closed, "the end of what needs nobody's answer")
    assert (await states(stubs, "fails"))["writes"] == "CANCELLING"
    added = await refused(acme.adds(root, "too-late"))
    assert (added.code, added.reason) == ("FAILED_PRECONDITION", "STATE_FORBIDS")
    await acme.end(writes, cancelled=True)
    ended = await stubs.wait("fails")
    assert (state(ended), ended.cause.reason) == ("FAILED", "ARRAY_FULL")
    found = await states(stubs, "fails")
    assert (found["done"], found["breaks"], found["writes"]) == (
        "SUCCEEDED",
        "FAILED",
        "CANCELLED",
    )
    assert list(ended.leftovers) == []


async def test_a_failure_that_may_be_ends_nothing(stubs: Stubs, acme: Vendor):
    """S-V27: ignored, it is shown, and the workflow goes on to its end."""
    await acme.starts("goes-on")
    root = workflow_name("goes-on")
    await acme.adds(root, "optional", on_failure=Policy.ON_FAILURE_IGNORE)
    await acme.adds(root, "then", after=["optional"])
    await acme.does("goes-on", "optional", failure=ARRAY_FULL)
    await acme.does("goes-on", "then")
    await acme.take("goes-on", "main")
    await acme.ends_all("goes-on")
    assert state(await stubs.wait("goes-on")) == "SUCCEEDED"
    found = await states(stubs, "goes-on")
    assert (found["optional"], found["then"]) == ("FAILED", "SUCCEEDED")


async def test_it_may_make_up_for_what_it_did(stubs: Stubs, acme: Vendor):
    """S-V27: its own policy says so; then it is no other than an engine's."""
    back = policy(on_failure=Policy.ON_FAILURE_COMPENSATE)
    await acme.starts("back", policy=back)
    root = workflow_name("back")
    await acme.adds(root, "made", effect=REVERSIBLE, arguments={"size": "5"})
    await acme.does("back", "made")
    await acme.adds(root, "breaks")
    await acme.does("back", "breaks", failure=ARRAY_FULL)
    asked = await acme.makes_up("back", "made")
    assert dict(asked.arguments) == {"size": "5"}
    assert state(await stubs.wait("back")) == "COMPENSATED"
    assert (await states(stubs, "back"))["made"] == "COMPENSATED"


async def test_a_forced_end_closes_what_is_open(stubs: Stubs, acme: Vendor):
    """S-V28: CANCELLED; what may have left something is listed; it is to go at once."""
    await acme.starts("forced", auto_clear=False)
    root = workflow_name("forced")
    for name in ("done", "begun", "waits"):
        await acme.adds(root, name)
    await acme.adds(root, "effect", effect=REVERSIBLE)
    await acme.adds(root, "untaken", effect=REVERSIBLE)
    await acme.adds(root, "later", after=["effect"])
    await acme.does("forced", "done")
    begun = await acme.take("forced", "begun")
    effect = await acme.take("forced", "effect")
    ended = await acme.ends_all("forced", force=True, succeeded=False, failure=ARRAY_FULL)
    assert (state(ended), ended.cause.reason) == ("FAILED", "ARRAY_FULL")
    assert ended.expire_time == ended.end_time
    assert await states(stubs, "forced") == {
        "main": "FAILED",
        "done": "SUCCEEDED",
        "begun": "CANCELLED",
        "waits": "CANCELLED",
        "effect": "ABANDONED",
        "untaken": "CANCELLED",
        "later": "CANCELLED",
    }
    [left] = ended.leftovers
    assert (left.task, left.attempt) == (task_name("forced", "effect"), effect)
    assert "ended by force" in left.reason
    assert not [each for each in await acme.requests() if "/forced/" in each.attempt]
    for attempt in (begun, effect):
        assert (await refused(acme.end(attempt))).reason == "ATTEMPT_CLOSED"
    said = [each.verb for each in interventions(await events(stubs, "forced"))]
    assert said == ["end", "close"]
    # Nobody told why: then it is said by whom.
    await acme.starts("silent")
    ended = await acme.ends_all("silent", force=True, succeeded=False)
    assert (state(ended), ended.cause.reason) == ("FAILED", "ENDED")
    await acme.starts("well")
    await acme.adds(workflow_name("well"), "waits")
    ended = await acme.ends_all("well", force=True)
    assert (state(ended), (await states(stubs, "well"))["waits"]) == ("SUCCEEDED", "CANCELLED")


async def test_a_forced_end_of_a_task_closes_its_parts(stubs: Stubs, acme: Vendor):
    """S-V28: and theirs; what stands beside it is none of its business."""
    await acme.starts("parts")
    root = workflow_name("parts")
    await acme.adds(root, "whole")
    await acme.adds(root, "beside")
    whole = await acme.take("parts", "whole")
    under = task_name("parts", "whole")
    await acme.adds(under, "a")
    await acme.adds(under, "b", effect=REVERSIBLE)
    await acme.take("parts", "a")
    await acme.adds(task_name("parts", "a"), "deep", effect=REVERSIBLE)
    await acme.take("parts", "deep")
    assert (await refused(acme.end(whole))).reason == "STATE_FORBIDS"
    await acme.end(whole, force=True)
    found = await states(stubs, "parts")
    assert {name: found[name] for name in ("whole", "a", "b", "deep", "beside")} == {
        "whole": "SUCCEEDED",
        "a": "CANCELLED",
        "b": "CANCELLED",
        "deep": "ABANDONED",
        "beside": "STARTING",
    }
    [left] = (await stubs.get("parts")).leftovers
    assert left.task == task_name("parts", "deep")
    await acme.does("parts", "beside")
    await acme.take("parts", "main")
    await acme.ends_all("parts")
    assert state(await stubs.wait("parts")) == "SUCCEEDED"


async def test_it_stays_until_it_is_cleared(stubs: Stubs, acme: Vendor):
    """S-V28: kept unless told; cleared twice is cleared once, and its id is not given again."""
    kept = await acme.starts("kept", auto_clear=False)
    await acme.take("kept", "main")
    assert state(kept) == "RUNNING"
    await acme.ends_all("kept")
    ended = await stubs.wait("kept")
    assert not ended.HasField("expire_time")
    assert (await refused(acme.clears("kept", capability_token="x"))).reason == "NOT_OWNER"
    await acme.clears("kept")
    for _ in range(2):
        gone = await refused(stubs.get("kept"))
        assert (gone.code, gone.reason) == ("NOT_FOUND", "WORKFLOW_NOT_FOUND")
        await acme.clears("kept")
    taken = await refused(acme.starts("kept"))
    assert (taken.code, taken.reason) == ("ALREADY_EXISTS", "WORKFLOW_ID_TAKEN")


async def test_an_operator_may_pause_and_cancel_it(stubs: Stubs, acme: Vendor):
    """Cancel makes up for it, as for any; its own end no longer counts then."""
    await acme.starts("stopped")
    await acme.adds(workflow_name("stopped"), "made", effect=REVERSIBLE)
    await acme.does("stopped", "made")
    await stubs.workflows.CancelWorkflow(cancel("stopped"))
    late = await refused(acme.ends_all("stopped"))
    assert (late.code, late.reason) == ("FAILED_PRECONDITION", "STATE_FORBIDS")
    await acme.makes_up("stopped", "made")
    ended = await stubs.wait("stopped")
    assert (state(ended), ended.cause.reason) == ("COMPENSATED", "CANCELLED")


async def test_a_page_of_a_growing_list_begins_where_the_last_one_ended(stubs: Stubs, acme: Vendor):
    """What is added between two pages comes twice or not at all; nothing else is missed."""
    await acme.starts("growing")
    root = workflow_name("growing")
    names = [f"t-{number}" for number in range(5)]
    for name in names:
        await acme.adds(root, name)
    seen: list[str] = []
    page = ""
    while True:
        request = wpb.ListTasksRequest(parent=root, page_size=2, page_token=page)
        answer = await stubs.workflows.ListTasks(request)
        seen += [each.name.rpartition("/")[2] for each in answer.tasks]
        page = answer.next_page_token
        if len(seen) == 2:
            await acme.take("growing", "main")
            await acme.adds(task_name("growing", "main"), "part-of-main")
            await acme.adds(root, "last")
        if not page:
            break
    assert set(seen) >= {"main", *names, "last"}
    await acme.ends_all("growing", force=True)
