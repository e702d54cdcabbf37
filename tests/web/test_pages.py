"""What the pages say, as text: lists, one workflow in each state, tasks, hosts, owners, errors."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import quote

import aiohttp
import pytest

from coordinator.saga import leftovers
from coordinator.saga.states import TaskState
from coordinator.web import address, reading, shown
from coordinator.web.pages import workflows
from countermand.client.spec import image, parallel, policy, sequence, task, workflow_spec
from countermand.drawing import phrases
from countermand.v1.image_pb2 import Pool
from countermand.v1.task_pb2 import Task
from countermand.v1.verb_pb2 import DeleteImage, Noop
from countermand.v1.workflow_spec_pb2 import Policy
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.api.vendors import external, plan_of, seconds, vendor_at
from tests.endtoend.cluster import until
from tests.web import stories
from tests.web.reading import Reader

ATTENTION = {"held", "stuck"}
SETTLED = {"good", "undone", "left"}


async def test_what_others_write_turns_no_direction(reader, client) -> None:
    hidden = "\u202etxet\x9b2J"
    spec = workflow_spec("noop", sequence("all", task("one", action=Noop())))
    run = await client.submit(spec, workflow_id="turned", labels={"team": hidden})
    await run.result()
    for path in ("/workflows/turned", "/workflows"):
        assert not set(hidden[:1] + hidden[5:6]) & set((await reader(path)).words), path
    assert r"\u202etxet\u009b2J" in (await reader("/workflows/turned")).words


# -- the list -------------------------------------------------------------------------------------


async def test_what_needs_somebody_comes_first(reader) -> None:
    page = await reader("/workflows")
    parts = [id_ for id_ in page.ids if id_.startswith("part-")]
    assert parts == ["part-attention", "part-open", "part-settled"]
    assert set(page.workflows[:2]) == ATTENTION
    assert set(page.workflows[3:]) >= SETTLED


async def test_a_workflow_is_listed_with_its_kind_state_and_reason(reader) -> None:
    page = (await reader("/workflows?state=compensated")).part("workflow-undone")
    assert "undone add-vm-from-template ↺ compensated 0 of 4 ↺ 3 made up for" in page.words
    assert "NO_SPACE: Pool tiny has no room" in page.words


async def test_what_is_left_is_told_in_the_list(reader) -> None:
    page = (await reader("/workflows?state=failed")).part("workflow-left")
    assert "✗ failed 0 of 2 ∅ 1 left" in page.words


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("state=compensated", {"undone"}),
        ("state=failed&state=compensated", {"undone", "left"}),
        ("label=site%3Dnorth", {"good", "undone"}),
        ("kind=move-disk", {"stuck", "left"}),
        ("host=host-b&kind=move-disk&state=blocked", {"stuck"}),
        ("part=attention", ATTENTION),
        ("part=settled&older=7d", set()),
    ],
)
async def test_a_filter_is_a_link(reader, query: str, found: set[str]) -> None:
    page = await reader(f"/workflows?{query}")
    assert set(page.workflows) == found


async def test_filters_are_kept_by_the_links_and_the_form(reader) -> None:
    page = await reader("/workflows?state=failed&kind=move-disk")
    assert "/workflows?state=failed&state=compensated&kind=move-disk" in page.links
    assert "/workflows?state=failed&kind=move-disk&older=1h" in page.links
    assert '<input type="hidden" name="state" value="failed">' in page.html
    assert '<input name="kind" value="move-disk"' in page.html


async def test_a_wrong_filter_is_said_field_by_field(reader) -> None:
    page = await reader("/workflows?state=fine&older=soon&label=north")
    assert page.status == 400
    assert "state: 'fine' is no state; there are: running, pausing" in page.words
    assert "older: 'soon' is no age: write 30m, 12h or 7d" in page.words
    assert "label: 'north' is no label: write key=value" in page.words
    assert "For programs: FIELD_INVALID" in page.words


async def test_pages_follow_the_tokens_of_the_api(cluster, monkeypatch) -> None:
    """The same page before a coordinator in another process, with shorter lists."""
    monkeypatch.setattr(workflows, "PAGE", 2)
    stop = asyncio.Event()
    settings = address.WebSettings(listen="127.0.0.1:0", asked_for=True)
    listening = address.take_address(settings)
    assert listening is not None
    served = asyncio.create_task(
        address.serve(listening, cluster.coordinator.address, settings, stop)
    )
    async with aiohttp.ClientSession(address.url_of(listening)) as session:
        reader = Reader(session)
        found, path = [], "/workflows?part=settled"
        while path:
            page = await reader(path)
            assert len(page.workflows) <= 2
            found += page.workflows
            following = [link for link in page.links if "settled_after" in link]
            path = following[0] if following else ""
    assert set(found) >= SETTLED
    assert len(found) == len(set(found))
    stop.set()
    await served


# -- one workflow ---------------------------------------------------------------------------------


async def test_a_compensated_workflow_is_understood_at_once(reader) -> None:
    banner = (await reader("/workflows/undone")).part("banner")
    assert banner.words.startswith("↺ compensated undone add-vm-from-template submitted ")
    assert "swap-disk failed on host-b: pool tiny has no room" in banner.words
    assert "What failed ✗ swap-disk on host-b" in banner.words
    made_up = banner.words.partition("What was made up for ")[2].partition(" What is left")[0]
    assert "↺ system-disk on host-a delete the copy" in made_up
    assert "↺ log-disk on host-b delete the copy" in made_up
    assert made_up.endswith("↺ data-disk on host-a delete the image")
    assert "What is left ✓ Nothing." in banner.words
    assert "countermand workflow fork undone --id NEW" in banner.words


async def test_what_is_left_is_named_with_what_to_do(reader) -> None:
    banner = (await reader("/workflows/left")).part("banner")
    why = "the copy pool-a/left (the array is gone for good)"
    assert f"What is left ∅ made on host-a {why}" in banner.words
    assert "What was made up for Nothing. What is left" in banner.words
    look = "! Look after what made left on host-a: the copy pool-a/left. It was given up: remove it"
    assert look in banner.words


async def test_what_somebody_made_up_for_by_hand_is_not_said_to_be_gone(reader, client) -> None:
    await client.submit(stories.stuck("handled"), workflow_id="handled")
    await stories.arrived(client, "handled", WorkflowState.WORKFLOW_STATE_BLOCKED)
    run = client.run("handled")
    await run.decide_compensation("made", "done", reason="deleted on the array")
    await run.wait()
    banner = (await reader("/workflows/handled")).part("banner")
    assert "made on host-a marked done by local: deleted on the array" in banner.words
    assert "; nothing is known to be left." in banner.words
    assert "What is left ✓ Nothing is known to be left." in banner.words
    picture = (await reader("/workflows/handled")).part("timeline")
    assert "WHAT IS LEFT" not in picture.words  # the banner says it


async def test_every_reason_for_a_leftover_is_in_words_with_what_to_do(reader, client) -> None:
    """What a policy keeps, what should have been removed, and what somebody gave up."""
    kept = stories.create("kept", "host-a", "pool-a/stopped-kept")
    fails = task("fails", host="host-a", action=Noop(failure_message="as asked"))
    stops = workflow_spec("drill", sequence("all", kept, fails))
    stops.policy.on_failure = Policy.ON_FAILURE_STOP
    of_another_time = DeleteImage(target=image("pool-a/good-data"), expected_generation=99)
    may_fail = policy(on_failure=Policy.ON_FAILURE_IGNORE)
    away = task("away", host="host-a", action=of_another_time, policy=may_fail)
    spares = workflow_spec("drill", sequence("all", away))
    told = {
        "STOPPED": (
            stops,
            "the image pool-a/stopped-kept (kept, as its policy says)",
            "use it, or",
        ),
        "NOT_REMOVED": (spares, "the image pool-a/good-data (it was to be removed)", "do that by"),
    }
    for reason, (spec, words, to_do) in told.items():
        workflow_id = reason.lower().replace("_", "-")
        run = await client.submit(spec, workflow_id=workflow_id)
        await run.wait()
        assert [left.reason for left in (await run.get()).leftovers] == [reason]
        banner = (await reader(f"/workflows/{workflow_id}")).part("banner")
        assert f"on host-a {words}" in banner.words
        assert to_do in banner.words.partition("What to do next")[2]
    known = {leftovers.STOPPED, leftovers.NOT_REMOVED, TaskState.ABANDONED}
    assert {*told, TaskState.ABANDONED} == known
    assert {phrases.kept(reason) for reason in known}.isdisjoint(known)


async def test_many_that_failed_leave_room_for_what_to_do(reader, client) -> None:
    spec, given = stories.fanned("fanned", *("gone" for _ in range(8)))
    await client.submit(spec, workflow_id="fanned", input=given)
    await stories.arrived(client, "fanned", WorkflowState.WORKFLOW_STATE_PAUSED)
    banner = (await reader("/workflows/fanned")).part("banner")
    assert "copy.0 failed on host-a: there is no image gone" in banner.words
    assert "7 others failed, too. 0 of 8 tasks done on 1 host; it is paused." in banner.words
    assert "and 3 more" in banner.words.partition("What was made up for")[0]
    to_do = banner.words.partition("What to do next")[2]
    assert to_do.count("Possible: rerun, skip, or compensate.") == 3
    assert "5 more tasks need a decision: Resume asks for each, or for a group at once." in to_do
    group = await reader("/workflows/fanned/tasks/disks")
    rows = [id_ for id_ in group.ids if id_.startswith("task-")]
    assert rows == [f"task-copy.{index}" for index in range(8)]


async def test_of_very_many_that_failed_all_are_counted(reader, client) -> None:
    steps = [
        task(f"step-{n}", host="host-a", action=Noop(failure_message="It fails."))
        for n in range(160)
    ]
    spec = workflow_spec("drill", sequence("all", parallel("steps", *steps)))
    spec.policy.CopyFrom(policy(on_failure=Policy.ON_FAILURE_PAUSE))
    run = await client.submit(spec, workflow_id="very-many")
    await stories.arrived(client, "very-many", WorkflowState.WORKFLOW_STATE_PAUSED)
    failed = len([t for t in await run.tasks(states=[Task.STATE_FAILED]) if t.verb])
    banner = (await reader("/workflows/very-many")).part("banner")
    assert "step-0 failed on host-a: it fails." in banner.words
    assert f"{failed - 1} others failed, too." in banner.words
    assert f"and {failed - 5} more" in banner.words
    assert "At least 17 more tasks need a decision" in banner.words


async def test_what_must_be_decided_is_said_once(reader) -> None:
    banner = (await reader("/workflows/stuck")).part("banner")
    assert "Somebody must decide. 0 of 1 made up for" in banner.words
    assert (
        "What was made up for Nothing so far. What could not be made up for ! made" in banner.words
    )
    assert "noop, as its spec says: the array is read-only since 09:12 Decide" in banner.words
    assert "/workflows/stuck/tasks/made/compensation" in banner.links
    assert "! made: Its compensation has failed" in banner.words
    assert banner.words.count("The array is read-only since 09:12.") == 1
    assert "countermand workflow compensation retry|replace|done|abandon stuck made" in banner.words


@pytest.mark.parametrize("others", [0, reading.TASKS_WHOLE])
async def test_what_still_stands_is_counted_and_named(reader, client, others: int) -> None:
    """Of a large one as well."""
    name = f"stands-{others}"
    spec = stories.stuck(name)
    steps = [task(f"step-{n}", host="host-a", action=Noop()) for n in range(others)]
    spec.root.members.insert(0, stories.create("data-disk", "host-a", f"pool-a/{name}-data"))
    if steps:
        spec.root.members.insert(0, parallel("steps", *steps))
    await client.submit(spec, workflow_id=name)
    await stories.arrived(client, name, WorkflowState.WORKFLOW_STATE_BLOCKED)
    banner = (await reader(f"/workflows/{name}")).part("banner")
    assert f"0 of {others + 2} made up for" in banner.words
    assert "Still to be made up for · data-disk on host-a delete the image" in banner.words
    assert ("and 146 more" in banner.words) == bool(others)
    await client.run(name).decide_compensation("made", "abandon", reason="seen enough")


async def test_what_a_command_does_is_a_link_where_it_can_be_done_here(reader) -> None:
    assert "/workflows/undone/fork" in (await reader("/workflows/undone")).part("banner").links
    drawn = str(shown.doable("Go on: `countermand workflow resume a`. <b> `countermand host get`."))
    assert '<a href="/workflows/a/resume"' in drawn
    assert drawn.count("<a ") == 1
    assert "&lt;b&gt; <code>countermand host get</code>." in drawn


async def test_a_paused_workflow_says_what_is_possible(reader) -> None:
    banner = (await reader("/workflows/held")).part("banner")
    assert "‖ paused held" in banner.words
    assert "Possible: rerun, skip, or compensate." in banner.words
    assert "What is left Not known before it has ended." in banner.words


async def test_what_is_waited_for_is_told_as_what_is_next(reader) -> None:
    banner = (await reader("/workflows/asked")).part("banner")
    assert "What to do next clone-volume: waits for acme, which has not accepted it" in banner.words


async def test_where_an_owner_is_silent_its_task_is_ended_or_given_up(
    reader, client, cluster
) -> None:
    asked = external("clone-volume", owner="mute", heartbeat_timeout=seconds(1))
    run = await client.submit(plan_of(asked), workflow_id="mute")
    async with vendor_at(cluster.coordinator.address, "mute") as vendor:
        await until(vendor.requests, "that it is asked for")
        [request] = await vendor.requests()
        await vendor.accept(request.attempt)

    async def silent() -> bool:
        return [need.reason for need in (await run.get()).needs] == ["OWNER_SILENT"]

    await until(silent, "that its owner is missed")
    actions = (await reader("/workflows/mute")).part("actions")
    assert "End clone-volume for its owner" in actions.words
    assert "Give up clone-volume" in actions.words
    for form in ("end", "compensation"):
        path = f"/workflows/mute/tasks/clone-volume/{form}"
        assert path in actions.links
        assert '<button type="submit"' in (await reader(path)).html
    assert "/workflows/asked/tasks/clone-volume/end" not in (await reader("/workflows/asked")).links
    await run.cancel("seen enough")


async def test_the_timeline_has_a_lane_and_says_every_bar_in_full(reader) -> None:
    timeline = (await reader("/workflows/undone")).part("timeline")
    assert {"Actions", "Compensations"} <= set(timeline.labels)
    assert "/workflows/undone/tasks/data-disk" in timeline.links
    made_up = [label for label in timeline.labels if label.startswith("compensation of ")]
    assert len(made_up) == 3
    assert any(
        re.fullmatch(
            r"swap-disk on host-b, attempt 1: copy_image, failed, .* to .*\. Pool tiny .*", label
        )
        for label in timeline.labels
    ), timeline.labels


async def test_now_is_marked_while_it_goes_on_and_only_then(reader) -> None:
    assert ">now</text>" in (await reader("/workflows/stuck")).html
    assert ">now</text>" not in (await reader("/workflows/undone")).html


async def test_tasks_stand_in_their_tree_with_what_makes_up_for_them(reader) -> None:
    tasks = (await reader("/workflows/undone")).part("tasks")
    rows = [id_ for id_ in tasks.ids if id_.startswith("task-")]
    assert rows == [
        f"task-{name}" for name in ("data-disk", "disks", "system-disk", "log-disk", "swap-disk")
    ]
    assert "data-disk ↺ compensated host-a create image ↶ delete the image" in tasks.words
    assert 'class="depth-1 made-up"' in tasks.html


async def test_a_trace_is_linked_where_it_can_be_seen(reader, client) -> None:
    trace_id = (await client.run("good").get()).trace_id
    page = await reader("/workflows/good")
    assert f"http://127.0.0.1:16686/trace/{trace_id}" in page.links


async def test_the_history_is_paged_by_sequence(reader, client) -> None:
    last = (await client.run("undone").get()).last_sequence
    page = await reader("/workflows/undone/events?after=5")
    assert next(id_ for id_ in page.ids if id_.startswith("event-")) == "event-6"
    assert f"event-{last}" in page.ids
    assert (await reader("/workflows/undone/events?after=x")).status == 400


async def test_a_task_shows_where_its_values_came_from_and_each_attempt(reader) -> None:
    page = await reader("/workflows/undone/tasks/system-disk")
    assert page.words.count("compensation of 1") == 1
    assert "Made up for by ↶ delete the copy" in page.words
    kept = await reader("/workflows/good/tasks/system-disk")
    assert "written_bytes" in kept.words
    failed = await reader("/workflows/undone/tasks/swap-disk")
    assert "✗ failed swap-disk copy image host-b" in failed.words
    assert "NO_SPACE: Pool tiny has no room" in failed.words


async def test_who_decided_what_is_told_of_a_task(reader) -> None:
    page = await reader("/workflows/left/tasks/made")
    assert "Decided abandon, by local" in page.words.replace("abandon-compensation", "abandon")
    assert "the array is gone for good" in page.words


async def test_a_large_workflow_is_folded_and_paged(reader, client) -> None:
    held = policy(pause_before=True)
    first = task("t000", host="host-a", action=Noop(), policy=held)
    others = (task(f"t{n:03}", host="host-a", action=Noop()) for n in range(1, 160))
    spec = sequence("all", first, *others)
    run = await client.submit(workflow_spec("long", spec), workflow_id="long")
    await run.wait(until_attention=True)
    await run.resume("a look at the first")
    await run.wait()
    page = await reader("/workflows/long")
    marked = page.part("timeline").words  # although it was hundreds of events ago
    assert '"a look at the first"' in marked
    assert "160 of 160 tasks took effect." in page.part("banner").words
    assert "50 tasks ✓ succeeded, from t000 on" in page.part("tasks").words
    everything = await reader("/workflows/long/tasks?state=succeeded")
    assert sum(id_.startswith("task-") for id_ in everything.ids) == 160


# -- the rest -------------------------------------------------------------------------------------


async def test_hosts_are_shown_with_pools_load_and_audit(reader, client) -> None:
    page = await reader("/hosts")
    assert re.search(r"host-a ✓ ready \d+ of 64 ", page.words)
    assert "host-b added local" in page.words
    one = await reader("/hosts/host-b")
    assert re.search(r"tiny file \d+ \S+ of 256 KiB", one.words)
    assert re.search(r'aria-label="tiny: \d+ \S+ of 256 KiB used"', one.html)
    [used] = re.findall(r'<meter [^>]* value="(\d+)" aria-label="pool-b:', one.html)
    [pool] = [p for p in (await client.hosts.get("host-b")).pools if p.pool_id == "pool-b"]
    # Of the file system, which others fill as well: not only of what is ours in it.
    assert abs(int(used) - shown.taken(pool)) < pool.capacity_bytes / 100
    assert (await reader("/hosts/nobody")).status == 404


async def test_coordinators_are_shown_where_the_hosts_are(reader, cluster, client) -> None:
    [only] = [each async for each in client.coordinators.list()]
    page = await reader("/hosts")
    told = page.words[page.words.index("Coordinators") :]
    assert cluster.coordinator.address in only.place
    for said in (only.place, only.version, "alive", "keeps the house, answers here"):
        assert said in told


def test_what_others_put_on_a_file_system_is_taken_too() -> None:
    pool = Pool(capacity_bytes=252, used_bytes=24, free_bytes=27)
    assert shown.taken(pool) == 225
    assert shown.taken(Pool()) == 0  # one that does not serve


async def test_who_waits_for_an_owner_and_since_when(reader, cluster) -> None:
    page = await reader("/owners")
    assert re.search(r"acme · does not watch 1 attempt 1 \S+", page.words)
    one = await reader("/owners/acme")
    assert re.search(r"clone-volume asked ▸ start clone-volume not yet", one.words)
    async with vendor_at(cluster.coordinator.address, "acme") as vendor:
        [asked] = await vendor.requests()
    assert asked.capability_token
    assert asked.capability_token not in one.html


async def test_no_webhooks_says_how_to_add_one(reader) -> None:
    assert "/add-webhook" in (await reader("/webhooks")).links


# -- errors and bounds ----------------------------------------------------------------------------


async def test_errors_are_pages_that_say_what_to_do(reader) -> None:
    page = await reader("/workflows/nothing")
    assert page.status == 404
    assert "There is no workflow workflows/nothing: check the name" in page.words
    assert (await reader("/nowhere")).status == 404
    assert (await reader("/live/workflows/nothing")).status == 404


async def test_what_others_wrote_is_text(reader, client) -> None:
    spec = workflow_spec(
        "drill",
        sequence(
            "all",
            task(
                "one", host="host-a", action=Noop(failure_message="<script>alert(1)</script> `x`")
            ),
        ),
    )
    await client.submit(spec, workflow_id="odd", labels={"who": "<b>ann</b>"})
    await client.run("odd").wait()
    page = await reader("/workflows/odd")
    assert "<script>alert" not in page.html
    assert "<b>ann" not in page.html
    assert f"/workflows?label={quote('who=<b>ann</b>', safe='')}" in page.links


async def test_only_this_machines_names_are_answered(reader) -> None:
    assert (await reader("/workflows", Host="attacker.example")).status == 421
    assert (await reader("/workflows", Host="localhost:7780")).status == 200


async def test_a_browser_is_told_to_run_nothing_of_others(reader) -> None:
    page = await reader("/workflows/undone")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
    assert "unsafe" not in policy
    assert page.headers["Cache-Control"] == "no-store"
    assert not re.search(r"\sstyle=|\son\w+=|<style|<script>", page.html)


async def test_files_are_kept_by_browsers_until_they_change(reader) -> None:
    page = await reader("/workflows")
    names = re.findall(r'"(/static/[^"]+)"', page.html)
    assert len(names) >= 6
    for name in names:
        found = await reader(name)
        assert (found.status, "immutable" in found.headers["Cache-Control"]) == (200, True)
