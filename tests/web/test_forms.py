"""What people do on the page: said before it happens, done once, and nothing typed is lost."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from uuid import uuid4

import aiohttp
import pytest

from coordinator.web.forms import replacing, resume
from countermand.client import Client, Run
from countermand.client.spec import (
    image,
    parallel,
    policy,
    sequence,
    task,
    workflow_spec,
)
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.host_pb2 import Host
from countermand.v1.task_pb2 import Task
from countermand.v1.verb_pb2 import Action, DeleteImage, Noop
from countermand.v1.workflow_spec_pb2 import Policy
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.api.vendors import vendor_at
from tests.endtoend.checks import labels
from tests.endtoend.cluster import Cluster, copy, free_address, until
from tests.web import stories
from tests.web.filling import NOTICE, Filler, beside, values

PAUSED = WorkflowState.WORKFLOW_STATE_PAUSED
COMPENSATED = WorkflowState.WORKFLOW_STATE_COMPENSATED
SUCCEEDED = WorkflowState.WORKFLOW_STATE_SUCCEEDED
WHY = "the pool was made larger"
HARM = "</textarea><script>alert(1)</script>"


@pytest.fixture
async def form(cluster, web: str) -> AsyncIterator[Filler]:
    """Yields a browser of somebody who fills in forms."""
    jar = aiohttp.CookieJar(unsafe=True)  # hosts without a name have cookies, too
    async with aiohttp.ClientSession(f"http://{web}", cookie_jar=jar) as session:
        yield Filler(session)


async def state_of(client: Client, workflow_id: str) -> WorkflowState.ValueType:
    return (await client.run(workflow_id).get()).state


async def paused(client, workflow_id: str) -> None:
    await client.submit(stories.patient(workflow_id), workflow_id=workflow_id)
    await stories.arrived(client, workflow_id, PAUSED)


# -- what will happen ------------------------------------------------------------------------------


async def test_a_cancel_says_what_will_be_made_up_for_and_where(form) -> None:
    page = await form.open("/workflows/held/cancel")
    assert page.status == 200
    assert "3 tasks will be compensated on host-a, host-b." in page.words
    assert "data-disk on host-a: delete the image" in page.words
    assert "log-disk on host-b: delete the copy" in page.words


async def test_what_was_said_before_a_cancel_is_what_comes_of_it(form, client) -> None:
    await client.submit(stories.held("foretold"), workflow_id="foretold")
    await stories.arrived(client, "foretold", PAUSED)
    page = await form.open("/workflows/foretold/cancel")
    said = set(re.findall(r"(\S+) on host-\w: delete the", page.words))
    await form.again("/workflows/foretold/cancel", page, reason="to see")
    await stories.arrived(client, "foretold", COMPENSATED)
    tasks = await client.run("foretold").tasks(states=[Task.STATE_COMPENSATED])
    assert {task.name.rpartition("/")[2] for task in tasks if task.verb} == said


async def test_what_is_at_work_may_be_stopped_or_fenced_and_what_is_to_come_never_begins(
    form, client
) -> None:
    spec = stories.slow("at-work")
    spec.root.members.append(stories.create("never", "host-a", "pool-a/at-work-never"))
    run = await client.submit(spec, workflow_id="at-work")
    await until(lambda: at_work(run), "the slow copy at work")
    page = await form.open("/workflows/at-work/cancel")
    assert "1 task will be compensated on host-a." in page.words
    assert "1 task at work on host-a will be stopped" in page.words
    assert "1 task that has not begun never will." in page.words
    page = await form.open("/workflows/at-work/tasks/crawls")
    assert "/workflows/at-work/tasks/crawls/fence" in page.links
    answer = await form.fill("/workflows/at-work/tasks/crawls/fence", reason="it hangs")
    assert answer.page.status == 400  # its pool is no shared one
    assert "it hangs" in answer.page.html
    assert answer.problems
    await run.cancel("seen enough")


async def at_work(run: Run) -> bool:
    return (await run.task("crawls")).state == Task.STATE_RUNNING


async def test_what_cannot_be_made_up_for_is_named_and_nothing_is_offered(form, client) -> None:
    gone = task("shrink", host="host-a", action=DeleteImage(target=image("pool-a/final-data")))
    made = stories.create("data", "host-a", "pool-a/final-data")
    fails = task("fails", host="host-b", action=Noop(failure_message="The check fails."))
    spec = workflow_spec("delete-vm", sequence("all", made, gone, fails))
    spec.policy.CopyFrom(policy(on_failure=Policy.ON_FAILURE_PAUSE))
    run = await client.submit(spec, workflow_id="final")
    await until(lambda: needs(run), "a need")
    page = await form.open("/workflows/final/cancel")
    assert "shrink on host-a took effect and cannot be made up for" in page.words
    assert "<form method" not in page.html


async def needs(run: Run) -> bool:
    return bool((await run.get()).needs)


async def test_only_what_can_be_done_is_offered(form) -> None:
    offered = {
        "held": {"resume", "cancel", "fork", "bundle"},
        "good": {"fork", "bundle"},
        "asked": {"pause", "cancel", "fork", "bundle"},
        "stuck": {"compensation", "pause", "fork", "bundle"},
    }
    for workflow_id, words in offered.items():
        page = (await form.open(f"/workflows/{workflow_id}")).part("actions")
        assert {link.rpartition("/")[2] for link in page.links} == words, workflow_id


async def test_of_what_cannot_be_done_nothing_is_said_to_happen(form, client) -> None:
    await client.submit(stories.held("late"), workflow_id="late")
    await stories.arrived(client, "late", PAUSED)
    before = await form.open("/workflows/late/cancel")
    await client.run("late").resume("not needed", skip=["swap-disk"])
    await stories.arrived(client, "late", SUCCEEDED)
    answer = await form.again("/workflows/late/cancel", before, reason="it is not wanted")
    for page in (answer.page, await form.open("/workflows/late/cancel")):
        assert "Succeeded: it is settled, and nothing is changed any more." in page.words
        assert "What will happen" not in page.words
        assert "will be compensated" not in page.words
        assert "It then ends as compensated" not in page.words
    page = await form.open("/workflows/late")
    assert "Nothing: everything but what was skipped took effect." in page.words
    assert "» skipped after NO_SPACE" in page.part("timeline").words


# -- done once, and seen ---------------------------------------------------------------------------


async def test_a_pause_is_sent_with_its_reason_and_leads_back(form, client) -> None:
    answer = await form.fill("/workflows/asked/pause", reason="the array is moved")
    assert (answer.page.status, answer.location) == (303, "/workflows/asked")
    other = await form.open("/workflows/good")
    assert "Your pause" not in other.words  # it is said where it happened
    assert "Your pause was taken." in (await form.open(answer.location)).words
    assert "Your pause" not in (await form.open(answer.location)).words  # and once
    assert await intervened(client, "asked") == [("pause", "the array is moved")]
    answer = await form.fill("/workflows/asked/resume", reason="it stands again")
    assert (answer.location, answer.word) == ("/workflows/asked", "resumed")  # one step


async def test_nothing_is_said_to_have_happened_that_has_not(form) -> None:
    for made_up in ("cancelled", "cancelled.", f"cancelled.{'0' * 32}"):
        form.session.cookie_jar.update_cookies({NOTICE: made_up})
        page = await form.open("/workflows/good?done=cancelled")
        assert page.status == 200
        assert "Your cancel was taken" not in page.words
    form.session.cookie_jar.clear()


async def intervened(client, workflow_id: str) -> list[tuple[str, str]]:
    events = [
        e.intervention async for e in client.run(workflow_id).events() if e.HasField("intervention")
    ]
    return [(each.verb, each.reason) for each in events]


async def test_a_double_submit_is_one_request(form, client) -> None:
    await client.submit(stories.asked(), workflow_id="twice")
    typed = values(await form.open("/workflows/twice/pause")) | {"reason": "once"}
    first, second = await asyncio.gather(
        form.send("/workflows/twice/pause", typed), form.send("/workflows/twice/pause", typed)
    )
    assert first.location == second.location == "/workflows/twice"
    assert first.word == second.word == "paused"
    assert await intervened(client, "twice") == [("pause", "once")]
    other = await form.send("/workflows/twice/pause", typed | {"reason": "another"})
    assert (other.location, other.word) == ("/workflows/twice", "already")
    assert "nothing was sent again" in (await form.open(other.location)).words
    await client.run("twice").cancel("over")


async def test_what_somebody_else_did_meanwhile_is_said_and_not_overwritten(form, client) -> None:
    await paused(client, "raced")
    before = await form.open("/workflows/raced/resume")
    await client.run("raced").cancel("it is not wanted any more")
    await stories.arrived(client, "raced", COMPENSATED)
    answer = await form.again("/workflows/raced/resume", before, reason=WHY, step="check")
    assert "Compensated: there is nothing to resume." in answer.page.words
    fresh = await form.open("/workflows/raced/cancel")
    assert "it is settled, and nothing is changed any more" in fresh.words


async def test_a_decision_that_somebody_took_first_is_asked_for_anew(form, client) -> None:
    await client.submit(stories.stuck("decided"), workflow_id="decided")
    await stories.arrived(client, "decided", WorkflowState.WORKFLOW_STATE_BLOCKED)
    path = "/workflows/decided/tasks/made/compensation"
    before = await form.open(path)
    assert "The array is read-only since 09:12." in before.words
    assert "What it made stays on host-a" in before.words
    await client.run("decided").decide_compensation("made", "retry", "perhaps now")
    answer = await form.again(path, before, decision="abandon", reason="given up")
    assert answer.page.status == 409
    assert "It has changed since you looked, and nothing was sent" in answer.problems
    assert "given up" in answer.page.html  # what was typed is still there
    assert values(answer.page)["decision"] == "abandon"
    await stories.arrived(client, "decided", WorkflowState.WORKFLOW_STATE_BLOCKED)
    done = await form.again(path, (await form.open(path)), decision="abandon", reason="given up")
    assert (done.location, done.word) == ("/workflows/decided", "retried")
    await stories.arrived(client, "decided", WorkflowState.WORKFLOW_STATE_FAILED)


async def test_a_compensation_is_replaced_by_another_verb(form, client, cluster) -> None:
    await client.submit(stories.stuck("replaced"), workflow_id="replaced")
    await stories.arrived(client, "replaced", WorkflowState.WORKFLOW_STATE_BLOCKED)
    path = "/workflows/replaced/tasks/made/replacement"
    assert path in (await form.open("/workflows/replaced/tasks/made/compensation")).links
    assert path in (await form.open("/workflows/replaced/tasks/made")).links
    first = await form.open(path)
    assert "So far it is made up for by: noop, as its spec says." in first.words
    filled_in = values(first)
    assert filled_in["verb"] == "noop"  # what was tried, with what it had
    assert filled_in["noop:failure_message"] == "The array is read-only since 09:12."
    assert filled_in["delete_image:target.image_id"] == "replaced"  # what the task made
    typed = {"verb": "delete_image", "delete_image:expected_generation": "last"}
    wrong = await form.again(path, first, "check", **typed)
    assert beside(wrong.page, "delete_image:expected_generation") == "'last' is no whole number"
    assert beside(wrong.page, "reason") == "is required"
    typed = {"delete_image:expected_generation": "", "delete_image:target.pool_id": ""}
    empty = await form.again(path, wrong.page, "check", reason="it is a drill", **typed)
    assert empty.page.status == 400
    assert beside(empty.page, "delete_image:target.pool_id") == "is required"
    assert "Replace it" not in empty.page.part("main").words
    typed = {"delete_image:target.pool_id": "pool-b"}
    checked = await form.again(path, empty.page, "check", **typed)
    assert checked.page.status == 200, checked.problems
    told = "Instead of “noop, as its spec says”, delete image runs on host-a"
    assert told in checked.page.words
    assert "delete_image target.image_id - replaced" in checked.page.words
    assert "delete_image verb noop delete_image" in checked.page.words
    same = await form.again(path, checked.page, "check", verb="noop")
    cleared = "noop failure_message The array is read-only since 09:12."
    assert f"{cleared} The array is read-only since 09:12." in same.page.words
    refused = await form.again(path, checked.page)  # only the coordinator knows that
    assert refused.page.status == 400
    assert await state_of(client, "replaced") == WorkflowState.WORKFLOW_STATE_BLOCKED
    said = beside(refused.page, "delete_image:target.pool_id")
    assert "'host-a' reaches no pool 'pool-b'" in said
    right = {"delete_image:target.pool_id": "pool-a"}
    unseen = await form.again(path, checked.page, **right)
    assert unseen.page.status == 200  # what was changed since is looked at again
    done = await form.again(path, unseen.page)
    assert (done.location, done.word) == ("/workflows/replaced", "replaced")
    await stories.arrived(client, "replaced", COMPENSATED)
    assert "pool-a/replaced" not in labels(cluster)
    assert ("replace-compensation", "it is a drill") in await intervened(client, "replaced")
    made_up = "delete image pool-a/replaced, as local decided"
    assert f"made on host-a: {made_up}" in (await form.open("/workflows/replaced")).words
    assert made_up in (await form.open("/workflows/replaced/tasks/made")).words
    assert "there is no compensation to replace" in (await form.open(path)).words


async def test_an_owners_way_of_making_up_is_not_replaced() -> None:
    task_ = Task(state=Task.STATE_COMPENSATION_BLOCKED, owner_id="acme")
    assert "acme makes up for it in its own way" in replacing.possible(task_)
    task_.owner_id = ""
    task_.attempts.add(kind=Attempt.KIND_ACTION, state=Attempt.STATE_UNKNOWN)
    assert "Nobody knows whether it took effect" in replacing.possible(task_)
    task_.attempts[0].state = Attempt.STATE_SUCCEEDED
    assert replacing.possible(task_) == ""


async def test_any_verb_may_take_the_place_of_a_compensation() -> None:
    assert set(replacing.VERBS) == {each.name for each in Action.DESCRIPTOR.fields}


# -- what is wrong ---------------------------------------------------------------------------------


async def test_a_reason_is_asked_for_beside_its_field_and_first_in_line(form) -> None:
    answer = await form.fill("/workflows/held/cancel", reason="  ")
    assert answer.page.status == 400
    assert answer.page.part("problems").links == ["#field-reason"]
    assert beside(answer.page, "reason") == "is required"
    assert re.search(r"<textarea[^>]*autofocus", answer.page.html)
    assert "<title>Wrong: Cancel: held" in answer.page.html


async def test_a_form_of_another_page_is_refused(form, client) -> None:
    typed = values(await form.open("/workflows/held/cancel")) | {"reason": "harm"}
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        answer = await form.send("/workflows/held/cancel", typed, headers=headers)
        assert answer.page.status == 403, headers
    async with form.session.post("/workflows/held/cancel", json=typed) as response:
        assert response.status == 403
    assert await state_of(client, "held") == PAUSED


async def test_without_the_seal_nothing_is_sent_and_nothing_typed_is_lost(
    form, web, client
) -> None:
    typed = values(await form.open("/workflows/held/cancel")) | {"reason": "kept"}
    stolen = await form.send("/workflows/held/cancel", typed | {"token": "0" * 64})
    assert stolen.page.status == 403
    harm = await form.send("/workflows/held/cancel", typed | {"token": "", "reason": HARM})
    assert HARM not in harm.page.html
    assert values(harm.page)["reason"] == HARM
    assert "kept" in stolen.page.html
    async with aiohttp.ClientSession(f"http://{web}") as stranger:  # without the cookie
        answer = await Filler(stranger).send("/workflows/held/cancel", typed)
        assert "Nothing was sent" in answer.problems
    assert await state_of(client, "held") == PAUSED


async def test_a_form_is_bounded(form) -> None:
    typed = values(await form.open("/workflows/held/cancel"))
    answer = await form.send("/workflows/held/cancel", typed | {"reason": "x" * 300_000})
    assert answer.page.status == 413
    answer = await form.send("/workflows/held/cancel", typed | {"reason": "x" * 5000})
    assert beside(answer.page, "reason") == "is longer than 4096 bytes"


async def test_a_cookie_is_for_this_site_alone_and_for_no_script(form) -> None:
    page = await form.open("/workflows/held/cancel")
    cookie = page.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie


# -- resume ----------------------------------------------------------------------------------------


async def test_a_skip_is_given_the_outputs_that_others_need(form, client) -> None:
    await paused(client, "skipped")
    path = "/workflows/skipped/resume"
    first = await form.open(path)
    assert "a whole number; twin is bound to it" in first.words
    chosen = {"decide:swap-disk": "skip", "reason": "copied by hand", "step": "check"}
    answer = await form.again(path, first, **chosen)
    assert answer.page.status == 400
    lacking = "if swap-disk is skipped, give virtual_size_bytes, an integer"
    assert lacking in beside(answer.page, "skip:swap-disk:virtual_size_bytes")
    assert "Resume</button>" not in answer.page.html
    typed = {"skip:swap-disk:virtual_size_bytes": "much"}
    answer = await form.again(path, answer.page, step="check", **typed)
    assert beside(answer.page, "skip:swap-disk:virtual_size_bytes") == "'much' is no number"
    assert values(answer.page)["reason"] == "copied by hand"
    typed = {
        "skip:swap-disk:virtual_size_bytes": "1048576",
        "skip:swap-disk:image.image_id": "skipped-twin",
    }
    answer = await form.again(path, answer.page, step="check", **typed)
    assert answer.page.status == 200, answer.problems
    assert "swap-disk is skipped" in answer.page.words
    assert "swap-disk virtual_size_bytes - 1048576" in answer.page.words
    done = await form.again(path, answer.page)
    assert (done.location, done.word) == ("/workflows/skipped", "resumed")
    await stories.arrived(client, "skipped", SUCCEEDED)
    assert ("skip", "copied by hand") in await intervened(client, "skipped")
    page = await form.open("/workflows/skipped/tasks/swap-disk")
    assert "What it is taken to have left, given by local" in page.words
    assert "made up for by" not in page.words.lower()


async def test_a_rerun_takes_changed_values_and_another_host(form, client) -> None:
    await paused(client, "again")
    path = "/workflows/again/resume?task=swap-disk&decide=rerun"
    first = await form.open(path)
    assert values(first)["decide:swap-disk"] == "rerun"
    moved = {"rerun:swap-disk:target.pool_id": "pool-a", "host:swap-disk": "host-a"}
    answer = await form.again("/workflows/again/resume", first, "check", reason=WHY, **moved)
    assert "swap-disk runs again on host-a." in answer.page.words
    assert "swap-disk target.pool_id tiny pool-a" in answer.page.words
    assert "swap-disk host_id host-b host-a" in answer.page.words
    done = await form.again("/workflows/again/resume", answer.page)
    assert (done.location, done.word) == ("/workflows/again", "resumed")
    await stories.arrived(client, "again", SUCCEEDED)


async def test_where_no_host_was_named_one_is_chosen_anew_and_the_form_says_so(
    form, client
) -> None:
    spec = workflow_spec("copy-disk", sequence("all", copy("moves", "", stories.BASE, "tiny/far")))
    spec.policy.CopyFrom(policy(on_failure=Policy.ON_FAILURE_PAUSE))
    run = await client.submit(spec, workflow_id="chosen")
    await stories.arrived(client, "chosen", PAUSED)
    assert (await run.task("moves")).host_id == "host-b"
    path = "/workflows/chosen/resume"
    first = await form.open(path)
    assert "chosen anew (it was host-b)" in first.words
    assert "as before" not in first.words
    moved = {"decide:moves": "rerun", "rerun:moves:target.pool_id": "pool-a"}
    answer = await form.again(path, first, "check", reason=WHY, **moved)
    assert "moves runs again on a host that is chosen anew." in answer.page.words
    await form.again(path, answer.page)
    await stories.arrived(client, "chosen", SUCCEEDED)
    assert (await run.task("moves")).host_id == "host-a"


async def test_only_what_was_checked_is_sent(form, client) -> None:
    await paused(client, "checked")
    path = "/workflows/checked/resume"
    first = await form.open(path)
    moved = {"decide:swap-disk": "rerun", "rerun:swap-disk:target.pool_id": "nowhere"}
    answer = await form.again(path, first, reason=WHY, **moved)  # sent without a look
    assert answer.page.status == 400
    said = beside(answer.page, "rerun:swap-disk:target.pool_id")
    assert "nowhere" in said
    assert "pool-b" in said  # which there is instead
    moved |= {"rerun:swap-disk:target.pool_id": "pool-a", "host:swap-disk": "host-a"}
    answer = await form.again(path, answer.page, "check", **moved)
    assert "Resume</button>" in answer.page.html
    changed = await form.again(path, answer.page, **{"rerun:swap-disk:target.image_id": "other"})
    assert changed.page.status == 200  # looked at again, not sent
    assert "swap-disk target.image_id checked-swap other" in changed.page.words
    assert await state_of(client, "checked") == PAUSED
    done = await form.again(path, changed.page)
    assert done.page.status == 303
    await stories.arrived(client, "checked", SUCCEEDED)


async def test_an_input_is_changed_for_what_starts_from_now_on(form, client) -> None:
    made = stories.create("disk", "host-b", "nowhere/changed")
    made.task.bindings.add(field="target.pool_id", source="input.pool")
    made.task.bindings.add(field="virtual_size_bytes", source="input.disk.size")
    spec = workflow_spec("create", sequence("all", made))
    spec.policy.CopyFrom(policy(on_failure=Policy.ON_FAILURE_PAUSE))
    given = {"pool": "templates", "disk": {"size": 1 << 20}, "note": "of nobody"}
    await client.submit(spec, workflow_id="changed", input=given)
    await stories.arrived(client, "changed", PAUSED)
    path = "/workflows/changed/resume"
    first = await form.open(path)
    shown = {name: text for name, text in values(first).items() if name.startswith("input:")}
    assert shown == {
        "input:pool": "templates",
        "input:disk.size": "1048576",
        "input:note": "of nobody",
    }
    typed = {"decide:disk": "rerun", "reason": WHY, "input:note": "x", "input:disk.size": "big"}
    wrong = await form.again(path, first, "check", **typed)
    assert beside(wrong.page, "input:disk.size") == "'big' is no number"
    wrong = await form.again(path, wrong.page, "check", **{"input:disk.size": "2097152"})
    assert "nothing is bound to input.note" in beside(wrong.page, "input:note")
    assert re.search(r"<details[^>]* open", wrong.page.html)
    right = {"input:note": "of nobody", "input:pool": "pool-b"}
    answer = await form.again(path, wrong.page, "check", **right)
    assert "input pool templates pool-b" in answer.page.words
    assert "input disk.size 1048576 2097152" in answer.page.words
    assert (await form.again(path, answer.page)).page.status == 303
    await stories.arrived(client, "changed", SUCCEEDED)


async def test_giving_up_makes_up_for_all(form, client) -> None:
    await paused(client, "given-up")
    path = "/workflows/given-up/resume"
    chosen = {"decide:swap-disk": "give_up", "reason": "not wanted", "step": "check"}
    answer = await form.again(path, await form.open(path), **chosen)
    assert "The whole workflow is made up for, because swap-disk failed." in answer.page.words
    assert "1 task will be compensated on host-a. 1 task that has not begun" in answer.page.words
    assert (await form.again(path, answer.page)).page.status == 303
    await stories.arrived(client, "given-up", COMPENSATED)


async def test_a_task_without_a_decision_is_told_beside_it(form) -> None:
    answer = await form.fill("/workflows/held/resume", reason=WHY, step="check")
    assert beside(answer.page, "decide:swap-disk").startswith("choose one")


# -- fork, hosts, owners ---------------------------------------------------------------------------


async def test_a_fork_is_started_with_another_input_and_linked(form, client) -> None:
    path = "/workflows/good/fork"
    assert "north" in (await form.open(path)).html
    taken = await form.fill(path, workflow_id="held")
    assert taken.page.status == 409
    assert "workflows/held" in taken.problems
    wrong = await form.fill(path, workflow_id="Not So", labels="site")
    assert "is no label" in beside(wrong.page, "labels")
    spec = stories.asked()
    await client.submit(spec, workflow_id="stem")
    large = json.dumps({"note": "x" * 8000})  # a reason may not be that long
    done = await form.fill(
        "/workflows/stem/fork", workflow_id="branch", labels="site=south", input=large
    )
    assert (done.location, done.word) == ("/workflows/branch", "forked"), done.problems
    branch = await client.run("branch").get()
    assert (branch.forked_from, branch.labels["site"]) == ("workflows/stem", "south")
    for each in ("stem", "branch"):
        await client.run(each).cancel("over")


async def test_a_host_is_drained_and_taken_back_with_a_reason(form, client) -> None:
    assert "It gets no new tasks" in (await form.open("/hosts/host-b/drain")).words
    done = await form.fill("/hosts/host-b/drain", reason="new disks")
    assert (done.location, done.word) == ("/hosts/host-b", "drained")
    assert (await client.hosts.get("host-b")).state in (
        Host.STATE_DRAINED,
        Host.STATE_DRAINING,
    )
    page = await form.open(done.location)
    assert "new disks" in page.words
    assert "/hosts/host-b/undrain" in page.links
    assert (await form.fill("/hosts/host-b/undrain", reason="they are in")).page.status == 303
    assert (await client.hosts.get("host-b")).state == Host.STATE_READY
    assert "not quarantined" in (await form.open("/hosts/host-b/accept")).words


async def test_a_host_is_added_and_removed(form, client) -> None:
    assert "/add-host" in (await form.open("/hosts")).links
    address = free_address()
    silent = await form.fill("/add-host", host_id="spare", address=address)
    assert silent.page.status == 503
    assert "spare" in silent.page.html  # what was typed stays
    sent = {"unreachable_allowed": "yes"}
    done = await form.again("/add-host", silent.page, **sent)
    assert (done.location, done.word) == ("/hosts/spare", "added")
    assert "/hosts/spare/remove" in (await form.open(done.location)).links
    gone = await form.fill("/hosts/spare/remove", reason="it was a drill")
    assert (gone.location, gone.word) == ("/hosts", "removed")
    assert (await form.open("/hosts/spare")).status == 404
    assert "it was a drill" in (await form.open("/hosts")).words
    busy = await form.fill("/hosts/host-a/remove", reason="in use")
    assert busy.page.status == 400
    assert "workflows/" in busy.problems


async def test_a_webhook_is_resumed_from_a_position_and_removed(form, client) -> None:
    await client.webhooks.add("hook", f"http://{free_address()}/in")
    page = await form.open("/webhooks")
    assert {"/webhooks/hook/resume", "/webhooks/hook/remove"} <= set(page.links)
    wrong = await form.fill("/webhooks/hook/resume", since_position="soon", reason="again")
    assert beside(wrong.page, "since_position") == "'soon' is no position"
    done = await form.again("/webhooks/hook/resume", wrong.page, since_position="0")
    assert (done.location, done.word) == ("/webhooks", "called")
    changes = [change async for change in client.webhooks.changes("hook")]
    assert changes[0].reason == "again"
    gone = await form.fill("/webhooks/hook/remove", reason="nobody listens")
    assert (gone.location, gone.word) == ("/webhooks", "removed")
    assert "/webhooks/hook/remove" not in (await form.open("/webhooks")).links


async def test_a_vendors_own_workflow_is_ended_by_force(form, client, cluster) -> None:
    async with vendor_at(cluster.coordinator.address) as vendor:
        await vendor.starts("own")
    answer = await form.fill("/workflows/own/end", reason="the array is gone")
    assert answer.page.status == 303, answer.problems
    assert (await client.run("own").get()).cause.message == "the array is gone"


async def test_what_an_owner_will_never_end_is_ended_in_its_place(form, client, cluster) -> None:
    spec = stories.asked()
    spec.root.members[0].external_task.outputs["blocks"] = "int64"
    await client.submit(spec, workflow_id="silent")
    path = "/workflows/silent/tasks/clone-volume/end"
    assert path in (await form.open("/workflows/silent/tasks/clone-volume")).links
    async with vendor_at(cluster.coordinator.address) as vendor:
        [asked] = [one for one in await vendor.requests() if "/silent/" in one.attempt]
        await vendor.accept(asked.attempt)
    first = await form.open(path)
    wrong = await form.again(path, first, outcome="output", reason="seen", **{"output:blocks": "x"})
    assert beside(wrong.page, "output:blocks") == "must be a whole number"
    done = await form.again(path, wrong.page, **{"output:blocks": "12"})
    assert done.page.status == 303, done.problems
    await stories.arrived(client, "silent", SUCCEEDED)
    assert "nothing of it waits for acme" in (await form.open(path)).words


async def test_very_many_failures_are_decided_by_their_group(form, client) -> None:
    number = resume.CARDS_MAX + 5
    steps = [
        task(f"step-{n}", host="host-a", action=Noop(failure_message="It fails."))
        for n in range(number)
    ]
    spec = workflow_spec("many", sequence("all", parallel("steps", *steps)))
    spec.policy.CopyFrom(policy(on_failure=Policy.ON_FAILURE_PAUSE))
    spec.policy.on_sibling_failure = Policy.ON_SIBLING_FAILURE_AWAIT
    await client.submit(spec, workflow_id="many")
    await stories.arrived(client, "many", PAUSED)
    path = "/workflows/many/resume"
    first = await form.open(path)
    assert f"steps: {number} of {number} tasks failed" in first.words
    assert [name for name in values(first) if name.startswith("host:")] == ["host:steps"]
    lacking = await form.again(path, first, "check", reason="all")
    assert beside(lacking.page, "decide:steps").startswith("choose one")
    one = {"decide:step-0": "skip", "decide:steps": ""}
    apart = await form.again("/workflows/many/resume", lacking.page, "check", task="step-0", **one)
    assert beside(apart.page, "decide:steps").startswith("choose one")
    answer = await form.again(path, lacking.page, "check", **{"decide:steps": "skip"})
    assert "steps is skipped." in answer.page.words
    assert (await form.again(path, answer.page)).page.status == 303
    await stories.arrived(client, "many", SUCCEEDED)


async def test_chosen_items_of_a_fan_out_run_again_and_the_others_are_skipped(
    form, client, cluster
) -> None:
    run = await fanned_out(client, "items", "base", "later", "base", "gone", "never")
    assert (
        "/workflows/items/resume?task=disks&decide=rerun"
        in (await form.open("/workflows/items/tasks/disks")).links
    )
    path = "/workflows/items/resume"
    single = await form.open(path)
    assert {name for name in values(single) if name.startswith("host:")} == {
        f"host:copy.{index}" for index in (1, 3, 4)
    }
    assert f"{path}?task=disks" in single.links  # rather than one by one
    first = await form.open(f"{path}?task=disks&decide=rerun")
    assert "disks: 3 of 5 tasks failed" in first.words
    assert "Item 1: copy.1 on host-a" in first.words
    assert "Item 0" not in first.words  # it has succeeded
    typed = {"reason": "imported", "item:disks:1:copy.1": "yes"}
    lacking = await form.again(path, first, "check", **typed)
    said = beside(lacking.page, "others:disks")  # not a word was said about them
    assert said.startswith("copy.3 and copy.4 are not chosen, and must be decided, too: tick this")
    assert f'<a href="{path}">Decide task by task</a>' in lacking.page.html
    assert "Item 1 of disks runs again." not in lacking.page.words
    await cluster.add_template("later", size_mib=1, extents=2, seed=9)
    answer = await form.again(path, lacking.page, "check", **{"others:disks": "yes"})
    assert answer.page.status == 200, answer.problems
    for said in ("Item 1 of disks runs again.", "copy.3 is skipped.", "copy.4 is skipped."):
        assert said in answer.page.words
    assert (await form.again(path, answer.page)).page.status == 303
    await stories.arrived(client, "items", SUCCEEDED)
    tried = [len((await run.task(f"copy.{index}")).attempts) for index in range(5)]
    assert tried == [1, 2, 1, 1, 1]


async def fanned_out(client: Client, workflow_id: str, *sources: str) -> Run:
    """Returns a held copy for each of some sources, of which some are not there."""
    spec, given = stories.fanned(workflow_id, *sources)
    run = await client.submit(spec, workflow_id=workflow_id, input=given)
    await stories.arrived(client, workflow_id, PAUSED)
    return run


async def test_a_group_is_reset_and_what_succeeded_is_made_up_for_first(
    form: Filler, client: Client
) -> None:
    spec = stories.undone("reset")
    spec.root.members[2].task.action.copy_image.target.pool_id = "pool-b"
    spec.root.members[1].group.members.append(
        copy("swap-disk-2", "host-b", stories.BASE, "tiny/reset-swap")
    )
    spec.policy.CopyFrom(policy(on_failure=Policy.ON_FAILURE_PAUSE))
    spec.policy.on_sibling_failure = Policy.ON_SIBLING_FAILURE_AWAIT
    run = await client.submit(spec, workflow_id="reset")
    await stories.arrived(client, "reset", PAUSED)
    path = "/workflows/reset/resume"
    first = await form.open(f"{path}?task=disks&decide=rerun")
    assert "Item " not in first.words  # it is no fan-out
    done = "What succeeded is made up for first: system-disk on host-a and log-disk on host-b."
    assert done in first.words
    typed = {"reset:disks": "yes", "reason": WHY, "rerun:disks:target.pool_id": "pool-b"}
    wrong = await form.again(path, first, "check", **typed)
    said = beside(wrong.page, "rerun:disks:target.pool_id")
    assert "host 'host-a' reaches no pool 'pool-b'" in said
    answer = await form.again(path, wrong.page, "check", **{"rerun:disks:target.pool_id": ""})
    assert answer.page.status == 200, answer.problems
    assert (
        "All of disks runs again, from the start. This is made up for first:" in answer.page.words
    )
    assert "log-disk on host-b: delete the copy" in answer.page.words
    assert (await form.again(path, answer.page)).page.status == 303

    async def again() -> bool:
        return (await run.task("disks")).round == 2

    await until(again, "the second round")
    await stories.arrived(client, "reset", PAUSED)
    kinds = [each.kind for each in (await run.task("log-disk")).attempts]
    assert kinds == [Attempt.KIND_ACTION, Attempt.KIND_COMPENSATION, Attempt.KIND_ACTION]
    await run.cancel("seen enough")


async def test_compensations_are_held_only_if_that_is_said(form, client) -> None:
    await client.submit(stories.stuck("holding"), workflow_id="holding")
    await stories.arrived(client, "holding", WorkflowState.WORKFLOW_STATE_BLOCKED)
    path = "/workflows/holding/pause"
    page = await form.open(path)
    assert values(page)["hold_compensation"] == "yes"  # else there would be nothing to hold
    typed = {name: text for name, text in values(page).items() if name != "hold_compensation"}
    answer = await form.send(path, typed | {"reason": "wait"})
    assert "only if it says so" in answer.problems
    assert "hold_compensation" not in values(answer.page)  # as it was sent
    done = await form.fill(path, reason="wait")
    assert done.page.status == 303
    await stories.arrived(client, "holding", PAUSED)
    assert (await form.fill("/workflows/holding/resume", reason="on")).page.status == 303
    await stories.arrived(client, "holding", WorkflowState.WORKFLOW_STATE_BLOCKED)


async def test_a_form_that_is_sent_again_after_a_crash_is_still_one_request(
    form, client, cluster
) -> None:
    """From here on things are killed: first the coordinator."""
    await client.submit(stories.asked(), workflow_id="crashed")
    path = "/workflows/crashed/pause"
    typed = values(await form.open(path)) | {"reason": "once"}
    assert (await form.send(path, typed)).page.status == 303
    await cluster.coordinator.kill()
    await cluster.coordinator.start()
    answer = await form.send(path, typed)  # by a browser that never heard
    assert answer.page.status == 403
    assert "older than the coordinator that now runs" in answer.problems
    token = values(await form.open("/workflows/crashed/cancel"))["token"]
    again = await form.send(path, typed | {"token": token})
    assert (again.location, again.word) == ("/workflows/crashed", "paused")
    assert await intervened(client, "crashed") == [("pause", "once")]


async def test_a_host_that_has_lost_its_journal_is_accepted_as_it_is(
    form: Filler, client: Client, cluster: Cluster
) -> None:
    agent, pool = cluster.agents["host-a"], cluster.pool("slow")
    await agent.kill()
    for folder in (agent.data, pool):
        shutil.rmtree(folder)
    pool.mkdir()
    await agent.start()

    async def quarantined() -> bool:
        return (await client.hosts.get("host-a")).state == Host.STATE_QUARANTINED

    await until(quarantined, "the host in quarantine")
    assert "/hosts/host-a/accept" in (await form.open("/hosts/host-a")).links
    page = await form.open("/hosts/host-a/accept")
    assert "its pool slow is another one than before" in page.words
    assert "safe only if what is missing has gone for good" in page.words
    done = await form.again("/hosts/host-a/accept", page, reason="the pool was replaced")
    assert (done.location, done.word) == ("/hosts/host-a", "accepted")
    stale = values(page) | {"reason": "late", "request_id": str(uuid4())}
    late = await form.send("/hosts/host-a/accept", stale)  # of somebody who had looked, too
    assert late.page.status == 409
    assert "It has changed since you looked" in late.problems


async def test_what_does_not_exist_has_no_form(form) -> None:
    for path in ("/workflows/nothing/cancel", "/workflows/held/tasks/no/fence", "/hosts/no/drain"):
        assert (await form.open(path)).status == 404, path
