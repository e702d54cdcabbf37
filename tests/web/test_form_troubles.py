"""Forms that meet trouble: nobody answers, somebody came first, several things are wrong."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from coordinator.web.address import WebSettings
from coordinator.web.forms import groups, outlook, workflows
from coordinator.web.server import serve
from countermand.client import Client, Run
from countermand.client.spec import for_each, image, parallel, sequence, task, workflow_spec
from countermand.v1.task_pb2 import Task
from countermand.v1.verb_pb2 import DeleteImage, Noop
from countermand.v1.workflow_spec_pb2 import Policy
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.api.vendors import external
from tests.endtoend.cluster import Cluster, free_address, until
from tests.web import stories
from tests.web.filling import Filler, beside, values
from tests.webhooks.receiver import receiver

PAUSED = WorkflowState.WORKFLOW_STATE_PAUSED
COMPENSATED = WorkflowState.WORKFLOW_STATE_COMPENSATED


@asynccontextmanager
async def filling(address: str) -> AsyncIterator[Filler]:
    """Yields a browser of somebody who fills in forms."""
    jar = aiohttp.CookieJar(unsafe=True)  # hosts without a name have cookies, too
    async with aiohttp.ClientSession(f"http://{address}", cookie_jar=jar) as session:
        yield Filler(session)


@pytest.fixture
async def form(cluster: Cluster, web: str) -> AsyncIterator[Filler]:
    async with filling(web) as filler:
        yield filler


@asynccontextmanager
async def page_before(coordinator: str, port: int = 0) -> AsyncIterator[Filler]:
    """Yields a browser before a page that outlives its coordinator."""
    listening = socket.create_server(("127.0.0.1", port))
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(listening, coordinator, WebSettings(), stop, ()))
    try:
        async with filling(f"127.0.0.1:{listening.getsockname()[1]}") as filler:
            yield filler
    finally:
        stop.set()
        await serving


# -- somebody came first ---------------------------------------------------------------------------


async def test_who_came_first_is_said_and_what_was_typed_is_kept(form, client: Client) -> None:
    await client.submit(stories.patient("first"), workflow_id="first")
    await stories.arrived(client, "first", PAUSED)
    path = "/workflows/first/resume"
    before = await form.open(path)
    await client.run("first").cancel("it is not wanted any more")
    await stories.arrived(client, "first", COMPENSATED)
    typed = {
        "decide:swap-disk": "rerun",
        "reason": "the pool was made larger",
        "rerun:swap-disk:target.pool_id": "pool-b",
    }
    answer = await form.again(path, before, "check", **typed)
    assert answer.page.status == 409
    assert "Compensated: there is nothing to resume." in answer.page.words
    assert "local asked to cancel: it is not wanted any more" in answer.page.words
    assert '<time datetime="20' in answer.page.part("latest").html
    kept = answer.page.part("typed")
    for text in typed.values():
        assert text in kept.words
    assert "pool_id" in kept.words
    assert before.words.count("it is not wanted any more") == 0


async def test_a_changed_basis_says_who_changed_it(form, client: Client) -> None:
    await client.submit(stories.stuck("second"), workflow_id="second")
    await stories.arrived(client, "second", WorkflowState.WORKFLOW_STATE_BLOCKED)
    path = "/workflows/second/tasks/made/compensation"
    before = await form.open(path)
    await client.run("second").decide_compensation("made", "retry", "perhaps now")
    answer = await form.again(path, before, decision="abandon", reason="given up")
    assert answer.page.status == 409
    assert "local asked to" in answer.page.part("latest").words
    assert "perhaps now" in answer.page.part("latest").words
    assert values(answer.page)["reason"] == "given up"


async def test_who_drained_a_host_first_is_said(form, client: Client) -> None:
    before = await form.open("/hosts/host-b/drain")
    await client.hosts.drain("host-b", reason="new disks")
    answer = await form.again("/hosts/host-b/drain", before, reason="new fans")
    assert answer.page.status == 409
    assert "new disks" in answer.page.part("latest").words
    assert "new fans" in answer.page.html
    assert "Undrain" in (await form.open("/hosts/host-b")).part("main").words
    taken_back = await form.fill("/hosts/host-b/undrain", reason="they are in")
    assert "Undrained, as you asked" in (await form.open(taken_back.location)).words


async def test_what_is_wrong_with_an_address_is_said_once(form) -> None:
    page = await form.open("/workflows?settled_after=x")
    assert page.status == 400
    assert page.words.count("is not one that was handed out") == 1


async def test_a_decision_holds_although_more_was_done_meanwhile(form, client: Client) -> None:
    spec = stories.undone("onward")
    waits = external("waits", owner="acme")
    spec = workflow_spec("onward", sequence("all", *spec.root.members, waits))
    spec.policy.on_failure = Policy.ON_FAILURE_PAUSE
    await client.submit(spec, workflow_id="onward")
    await stories.arrived(client, "onward", PAUSED)
    before = await form.open("/workflows/onward/cancel")
    await client.run("onward").resume("on", skip={"swap-disk": {}})
    await stories.arrived(client, "onward", WorkflowState.WORKFLOW_STATE_RUNNING)
    assert values(await form.open("/workflows/onward/cancel"))["etag"] != values(before)["etag"]
    answer = await form.again("/workflows/onward/cancel", before, reason="all the same")
    assert (answer.location, answer.word) == ("/workflows/onward", "cancelled")
    await stories.arrived(client, "onward", COMPENSATED)


# -- several things are wrong ----------------------------------------------------------------------


async def test_everything_that_is_wrong_is_named_at_once_and_beside_its_field(form) -> None:
    path = "/workflows/good/fork"
    typed = {"workflow_id": "Not So", "input": "{", "labels": "site"}
    answer = await form.fill(path, **typed)
    assert answer.page.status == 400
    assert "must match" in beside(answer.page, "workflow_id")
    assert "JSON" in beside(answer.page, "input")
    assert "is no label" in beside(answer.page, "labels")
    nameless = await form.fill(path, **typed | {"workflow_id": ""})
    assert beside(nameless.page, "workflow_id") == "is required"
    assert "is no label" in beside(nameless.page, "labels")


async def test_an_id_that_is_taken_is_said_beside_the_id(form) -> None:
    taken = await form.fill("/workflows/good/fork", workflow_id="held")
    assert taken.page.status == 409
    assert "choose another workflow id" in beside(taken.page, "workflow_id")
    host = await form.fill("/add-host", host_id="host-a", address="127.0.0.1:9")
    assert host.page.status == 409
    assert "choose another host id" in beside(host.page, "host_id")


async def test_a_wrong_value_and_a_missing_reason_are_told_together(form, client: Client) -> None:
    await client.webhooks.add("wrong", "http://127.0.0.1:9/in")
    answer = await form.fill("/webhooks/wrong/resume", since_position="soon")
    assert beside(answer.page, "since_position") == "'soon' is no position"
    assert beside(answer.page, "reason") == "is required"
    await client.webhooks.remove("wrong", reason="over")


# -- what is said is what would happen -------------------------------------------------------------


async def test_what_cannot_be_decided_any_more_is_not_called_giving_up(form) -> None:
    page = await form.open("/workflows/good/tasks/data-disk/compensation")
    assert "there is no decision to take" in page.words
    assert "Give the task up" not in page.words
    assert "Decide about the compensation" in page.words


async def test_whether_it_can_be_cancelled_is_the_coordinators_to_say(
    client: Client, cluster: Cluster, monkeypatch
) -> None:
    """Of a workflow of thousands, what stands against it may be on no page that was read."""
    gone = task("shrink", host="host-a", action=DeleteImage(target=image("pool-a/said-data")))
    made = stories.create("data", "host-a", "pool-a/said-data")
    fails = task("fails", host="host-b", action=Noop(failure_message="The check fails."))
    spec = workflow_spec("delete-vm", sequence("all", made, gone, fails))
    spec.policy.on_failure = Policy.ON_FAILURE_PAUSE
    run = await client.submit(spec, workflow_id="said")

    async def needs() -> bool:
        return bool((await run.get()).needs)

    await until(needs, "a need")
    nothing = outlook.outlook((), {})
    monkeypatch.setattr(outlook, "outlook", lambda *_, **__: nothing)
    async with page_before(cluster.coordinator.address) as form:
        page = await form.open("/workflows/said/cancel")
        assert "shrink cannot be made up for and may have taken effect" in page.words
        assert "<form method" not in page.html
        monkeypatch.setattr(workflows, "IMAGINED_MAX", 0)  # of thousands that is seen when sent
        answer = await form.fill("/workflows/said/cancel", reason="not wanted")
    assert answer.page.status == 400
    assert "shrink cannot be made up for and may have taken effect" in answer.page.words


async def test_whether_it_can_be_paused_is_the_coordinators_to_say(form, client: Client) -> None:
    assert "Paused: there is nothing to pause." in (await form.open("/workflows/held/pause")).words
    page = await form.open("/workflows/good/pause")
    assert "Succeeded: there is nothing to pause." in page.words
    assert values(await form.open("/workflows/stuck/pause"))["hold_compensation"] == "yes"
    assert "hold_compensation" not in values(await form.open("/workflows/asked/pause"))


# -- the page itself is away ----------------------------------------------------------------------


async def test_with_a_script_a_form_is_not_left_while_nobody_answers(
    client: Client, cluster: Cluster, browser
) -> None:
    from playwright.async_api import expect

    await client.submit(stories.asked(), workflow_id="gone")
    address = free_address()
    port = int(address.rpartition(":")[2])
    async with page_before(cluster.coordinator.address, port):
        tab = await (await browser.new_context(base_url=f"http://{address}")).new_page()
        await tab.goto("/workflows/gone/pause")
        await tab.get_by_label("Reason").fill("the array is moved")
    await tab.get_by_role("button", name="Pause").click()
    await expect(tab.get_by_role("alert")).to_contain_text("nothing was sent")
    await expect(tab.get_by_label("Reason")).to_have_value("the array is moved")
    async with page_before(cluster.coordinator.address, port):
        await tab.get_by_role("button", name="Pause").click()
        await expect(tab.get_by_role("alert")).to_contain_text("older than the coordinator")
        await expect(tab.get_by_label("Reason")).to_have_value("the array is moved")
        await tab.get_by_role("button", name="Pause").click()
        await expect(tab.locator(".notice")).to_contain_text("Your pause was taken")
        await tab.context.close()


# -- secrets ---------------------------------------------------------------------------------------


async def test_a_webhook_is_added_with_a_secret_that_is_shown_while_it_is_typed(
    form, client: Client
) -> None:
    """It is made before it is sent: however often that is, nobody has another one than they saw."""
    assert "/add-webhook" in (await form.open("/webhooks")).links
    first = await form.open("/add-webhook")
    assert first.headers["Cache-Control"] == "no-store"
    secret = values(first)["secret"]
    assert secret.startswith("whsec_")
    assert values(await form.open("/add-webhook"))["secret"] != secret
    wrong = {"webhook_id": "Not So", "url": "ftp://x", "event_types": "task.*\nnothing.ever"}
    answer = await form.again("/add-webhook", first, **wrong, labels="site")
    assert "must match" in beside(answer.page, "webhook_id")
    assert "is no label" in beside(answer.page, "labels")
    assert values(answer.page)["secret"] == secret
    answer = await form.again("/add-webhook", answer.page, webhook_id="paged", labels="")
    assert beside(answer.page, "url")
    assert "nothing.ever" in beside(answer.page, "event_types")
    async with receiver(secret=secret) as hook:
        right = {"url": hook.url, "event_types": "task.*", "labels": "site=nowhere"}
        done = await form.again("/add-webhook", answer.page, **right)
        assert (done.location, done.word) == ("/webhooks", "told-from-now"), done.problems
        assert secret not in (await form.open("/webhooks")).html
        added = await client.webhooks.get("paged")
        assert (list(added.event_types), dict(added.labels)) == (["task.*"], {"site": "nowhere"})
        await client.webhooks.ping("paged")
        assert (len(hook.taken), hook.refused) == (1, [])
        other = await form.open("/webhooks/paged/secret")
        hook.secret = values(other)["secret"]
        assert hook.secret != secret
        done = await form.again("/webhooks/paged/secret", other)
        assert (done.location, done.word) == ("/webhooks", "rotated"), done.problems
        await client.webhooks.ping("paged")
        assert (len(hook.taken), hook.refused) == (2, [])
    taken = await form.fill("/add-webhook", webhook_id="paged", url="http://127.0.0.1:9/other")
    assert "choose another webhook id" in beside(taken.page, "webhook_id")
    await client.webhooks.remove("paged", reason="over")


# -- what was checked ------------------------------------------------------------------------------


async def test_what_was_checked_is_a_page_of_its_own_that_one_can_come_back_to(
    form, client: Client, web: str
) -> None:
    await client.submit(stories.patient("back"), workflow_id="back")
    await stories.arrived(client, "back", PAUSED)
    path = "/workflows/back/resume"
    typed = {"decide:swap-disk": "rerun", "rerun:swap-disk:target.pool_id": "pool-b"}
    lacking = await form.again(path, await form.open(path), "check", **typed)
    assert lacking.page.status == 400
    assert beside(lacking.page, "reason") == "is required"
    checked = await form.again(path, lacking.page, "check", reason="there is room")
    assert checked.page.status == 200
    assert checked.location.startswith(f"{path}?draft=")
    again = await form.open(checked.location)
    assert "swap-disk target.pool_id tiny pool-b" in again.words
    assert values(again) == values(checked.page)
    async with filling(web) as stranger:
        other = await stranger.open(checked.location)
    assert "there is room" not in other.html
    assert "What you had typed is not known any more" in other.words
    done = await form.again(path, again)
    assert (done.location, done.word) == ("/workflows/back", "resumed")


# -- more than anybody ticks -----------------------------------------------------------------------


async def test_more_items_than_are_shown_are_taken_all_or_by_their_numbers(
    client: Client, cluster: Cluster, monkeypatch
) -> None:
    number = 24
    monkeypatch.setattr(groups, "ITEMS_MAX", 8)
    item = task("bad", host="host-a", action=Noop(failure_message="It fails."))
    disks = for_each(parallel("disks", item), "input.disks", "disk")
    spec = workflow_spec("many", sequence("all", disks))
    spec.policy.on_failure = Policy.ON_FAILURE_PAUSE
    spec.policy.on_sibling_failure = Policy.ON_SIBLING_FAILURE_AWAIT
    run = await client.submit(spec, workflow_id="numbers", input={"disks": ["x"] * number})
    await stories.arrived(client, "numbers", PAUSED)
    async with page_before(cluster.coordinator.address) as form:
        await _choose_items(form, run, number)
    await stories.arrived(client, "numbers", WorkflowState.WORKFLOW_STATE_SUCCEEDED)


async def _choose_items(form: Filler, run: Run, number: int) -> None:
    path = "/workflows/numbers/resume"
    first = await form.open(f"{path}?task=disks&decide=rerun")
    assert f"Run again all {number} failed items" in first.words
    assert f"Skip all {number} failed items" in first.words
    assert f"Of {number} the first {groups.ITEMS_MAX} are shown" in first.words
    wrong = await form.again(path, first, "check", reason="try", **{"items:disks": "5, x, 999"})
    said = beside(wrong.page, "items:disks")
    assert "'x' is no number of an item, nor a range of them" in said
    assert "999 is no item that failed" in said
    chosen = {"items:disks": f"{number - 3}-{number - 1}", "item:disks:1:bad.1": "yes"}
    lacking = await form.again(path, wrong.page, "check", **chosen)
    said = beside(lacking.page, "others:disks")
    assert said.startswith(f"bad.0, bad.2, bad.3, bad.4, bad.5, bad.6 and {number - 10} others are")
    answer = await form.again(path, lacking.page, "check", **{"others:disks": "yes"})
    assert answer.page.status == 200, answer.problems
    last = f"{number - 3}, {number - 2} and {number - 1}"
    assert f"Items 1, {last} of disks run again." in answer.page.words
    assert f"{number - 4} others that failed are skipped." in answer.page.words
    assert (await form.again(path, answer.page)).page.status == 303

    async def tried_again() -> bool:
        tasks = await run.tasks(states=[Task.STATE_FAILED])
        return len([each for each in tasks if each.verb]) == 4 and await held()

    async def held() -> bool:
        return (await run.get()).state == PAUSED

    await until(tried_again, "four that failed again")
    assert len((await run.task(f"bad.{number - 1}")).attempts) == 2
    assert len((await run.task("bad.2")).attempts) == 1
    every = await form.again(path, await form.open(f"{path}?task=disks&decide=skip"), "check")
    assert beside(every.page, "reason") == "is required"
    every = await form.again(path, every.page, "check", reason="enough")
    assert "disks is skipped." in every.page.words
    assert (await form.again(path, every.page)).page.status == 303


# -- nobody answers --------------------------------------------------------------------------------


async def test_what_was_typed_outlives_a_coordinator_that_does_not_answer(
    client: Client, cluster: Cluster
) -> None:
    """From here on things are killed."""
    await client.submit(stories.asked(), workflow_id="away")
    path = "/workflows/away/pause"
    async with page_before(cluster.coordinator.address) as form:
        first = await form.open(path)
        await cluster.coordinator.kill()
        lost = await form.again(path, first, reason="the array is moved")
        assert lost.page.status == 503
        assert "The coordinator does not answer" in lost.problems
        assert "it is done once" in lost.problems
        assert values(lost.page)["reason"] == "the array is moved"
        still = await form.again(path, lost.page, reason="the array is moved away")
        assert still.page.status == 503
        await cluster.coordinator.start()
        done = await form.again(path, still.page)
        while done.page.status == 503:  # until the page has found it again
            done = await form.again(path, still.page)
        assert (done.location, done.word) == ("/workflows/away", "paused"), done.problems
        again = await form.again(path, lost.page)  # whoever sends the first once more
        assert (again.location, again.word) == ("/workflows/away", "already"), again.problems
    events = client.run("away").events()
    reasons = [e.intervention.reason async for e in events if e.HasField("intervention")]
    assert reasons == ["the array is moved away"]
