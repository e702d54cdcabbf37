"""Owners that say nothing: nobody takes it for an outcome, and whoever speaks again is heard."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from countermand.client.spec import parallel, policy
from countermand.rpc.names import attempt_name, task_name, workflow_name
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_spec_pb2 import Policy
from tests.api.calls import Stubs, cancel, refused, state
from tests.api.steering import events, states, task
from tests.api.vendors import (
    ARRAY_FULL,
    CANCEL,
    COMPENSATE,
    READ_ONLY,
    Vendor,
    awake,
    beside,
    decided,
    external,
    plan_of,
    seconds,
    struct,
    word,
)
from tests.endtoend.cluster import Cluster, until

SHORT = seconds(1)  # the shortest that may be said


async def becomes(stubs: Stubs, workflow_id: str, task_id: str, word_: str) -> Task:
    async def is_so() -> bool:
        return (await states(stubs, workflow_id))[task_id] == word_

    await until(is_so, f"{task_id} of {workflow_id} to be {word_}")
    return await task(stubs, workflow_id, task_id)


async def comes_back(
    stubs: Stubs, workflow_id: str, task_id: str, sign: Callable[[], Awaitable[object]]
) -> Task:
    """Returns a task that a sign of life has brought back; a slow test gives more than one."""
    found: list[Task] = []

    async def is_back() -> bool:
        await sign()
        found.append(await task(stubs, workflow_id, task_id))
        return found[-1].state == Task.STATE_RUNNING

    await until(is_back, f"{task_id} of {workflow_id} to be back")
    return found[-1]


async def test_a_lapsed_heartbeat_is_no_outcome(stubs: Stubs, acme: Vendor):
    """S-V29: UNKNOWN; a heartbeat, a report, an accept, or the end itself brings it back."""
    names = ("beats", "reports", "accepts", "ends", "fails", "cancels")
    tasks = (external(name, heartbeat_timeout=SHORT) for name in names)
    calm = external("calm", effect=READ_ONLY)  # of one that promised no heartbeat none is expected
    waits = external("waits", heartbeat_timeout=SHORT)  # nor of one that was not accepted
    optional = policy(on_failure=Policy.ON_FAILURE_IGNORE)
    await stubs.start("lapses", beside(*tasks, calm, waits, policy=optional))
    attempts = {name: await acme.take("lapses", name) for name in (*names, "calm")}
    await asyncio.gather(*(becomes(stubs, "lapses", name, "UNKNOWN") for name in names))
    shown = await task(stubs, "lapses", "beats")
    assert shown.failure.reason == "HEARTBEAT_LAPSED"
    assert "acme has given no sign of life" in shown.failure.message
    since = shown.attempts[0].failure.metadata["silent_since"]
    assert shown.waits_for == f"acme, silent since {since.replace('+00:00', 'Z')}"
    assert shown.open
    found = await states(stubs, "lapses")
    assert (found["calm"], found["waits"]) == ("RUNNING", "STARTING")
    assert state(await stubs.get("lapses")) == "RUNNING"

    async def beats() -> None:
        assert await acme.beat(attempts["beats"]) == {}

    async def accepts() -> None:
        assert (await acme.accept(attempts["accepts"])).request.accepted

    signs: dict[str, Callable[[], Awaitable[object]]] = {
        "beats": beats,
        "reports": partial(acme.report, attempts["reports"], 1, 2),
        "accepts": accepts,
    }
    for name, sign in signs.items():
        back = await comes_back(stubs, "lapses", name, sign)
        assert back.failure.reason == ""
        [one] = back.attempts
        assert one.start_time.ToDatetime() >= one.create_time.ToDatetime()
        await acme.end(attempts[name])
    await acme.end(attempts["ends"], output=struct(a=1))
    await acme.end(attempts["fails"], failure=ARRAY_FULL)
    await acme.end(attempts["cancels"], cancelled=True)  # by nobody's wish: it has failed
    await acme.end(attempts["calm"])
    await acme.does("lapses", "waits")
    assert state(await stubs.wait("lapses")) == "SUCCEEDED"
    found = await states(stubs, "lapses")
    assert {found[name] for name in ("beats", "reports", "accepts", "ends")} == {"SUCCEEDED"}
    assert (found["fails"], found["cancels"]) == ("FAILED", "FAILED")


async def test_a_vendor_that_never_comes_back_is_found_by_whoever_looks(stubs: Stubs, acme: Vendor):
    """Its workflow is RUNNING, and says who is silent since when, and what can be done."""
    await stubs.start("left", plan_of(external("gone", heartbeat_timeout=SHORT)))
    looked = pb.ListWorkflowsRequest(needs_attention=True, page_size=1000)
    attempt = await acme.take("left", "gone")

    async def is_well() -> bool:
        assert await acme.beat(attempt) == {}
        return "workflows/left" not in [w.name for w in await listed(stubs, looked)]

    await until(is_well, "nobody to be needed")
    await becomes(stubs, "left", "gone", "UNKNOWN")

    [found] = [w for w in await listed(stubs, looked) if w.name == "workflows/left"]
    assert state(found) == "RUNNING"
    [need] = found.needs
    assert (need.task, need.reason) == (task_name("left", "gone"), "OWNER_SILENT")
    assert need.message.startswith("acme has been silent since 20"), need.message
    for way in ("external end left/gone --failed", "workflow cancel left --reason"):
        assert f"`countermand {way}" in need.message

    async def needs_nobody() -> bool:
        return await is_well() and not (await stubs.get("left")).needs

    await comes_back(stubs, "left", "gone", partial(acme.beat, attempt))
    await until(needs_nobody, "nobody to be needed again")
    await acme.end(attempt)


async def listed(stubs: Stubs, request: pb.ListWorkflowsRequest) -> list[pb.Workflow]:
    return list((await stubs.workflows.ListWorkflows(request)).workflows)


async def test_heartbeats_keep_it_at_work(stubs: Stubs, acme: Vendor):
    """While another one, which is silent, lapses again and again."""
    spec = beside(*(external(name, heartbeat_timeout=SHORT) for name in ("lively", "silent")))
    await stubs.start("beats", spec)
    lively, silent = [await acme.take("beats", name) for name in ("lively", "silent")]

    async def beat() -> None:
        while True:
            await acme.beat(lively)
            await asyncio.sleep(0.2)

    beating = asyncio.create_task(beat())
    async with awake() as is_awake:
        await becomes(stubs, "beats", "silent", "UNKNOWN")
        await comes_back(stubs, "beats", "silent", partial(acme.beat, silent))
        await becomes(stubs, "beats", "silent", "UNKNOWN")
    beating.cancel()
    history = await events(stubs, "beats")
    lost = {
        e.task.rpartition("/")[2]
        for e in history
        if e.task_state_changed.after == Task.STATE_UNKNOWN
    }
    assert (lost if is_awake() else lost - {"lively"}) == {"silent"}
    await acme.end(lively)
    await acme.end(silent)
    assert state(await stubs.wait("beats")) == "SUCCEEDED"


async def test_a_run_timeout_asks_it_to_stop_and_is_then_the_failure(stubs: Stubs, acme: Vendor):
    """One that was done before it heard of that has succeeded; the same of any other verb."""
    spec = plan_of(external("slow", policy=policy(run_timeout=seconds(0.3))))
    await stubs.start("slow", spec)
    attempt = await acme.take("slow", "slow")
    asked = await acme.asked("slow", "slow", CANCEL)
    assert asked.attempt == attempt
    await acme.end(attempt, cancelled=True)
    ended = await stubs.wait("slow")
    assert (state(ended), ended.cause.reason) == ("COMPENSATED", "RUN_TIMEOUT")
    assert "acme" in ended.cause.message

    await stubs.start("slower", spec)
    attempt = await acme.take("slower", "slow")
    await acme.asked("slower", "slow", CANCEL)
    await acme.end(attempt, output=struct(volume="v"))
    assert state(await stubs.wait("slower")) == "SUCCEEDED"


async def test_an_owner_that_never_stops_is_asked_to_make_up_and_then_people_are(
    stubs: Stubs, acme: Vendor
):
    """Its late answer is still taken; and what it says of the first attempt changes nothing."""
    await stubs.start("deaf", plan_of(external("deaf", heartbeat_timeout=SHORT)))
    attempt = await acme.take("deaf", "deaf")
    await stubs.workflows.CancelWorkflow(cancel("deaf"))
    asked = await acme.asked("deaf", "deaf", COMPENSATE)
    assert (asked.attempt, asked.compensates) == (attempt_name("deaf", "deaf", 2), attempt)
    assert [each.reason for each in asked.causes][-1:] == ["CANCELLED"], asked.causes
    shown = await becomes(stubs, "deaf", "deaf", "COMPENSATION_BLOCKED")
    assert shown.compensation_failure.reason == "OWNER_SILENT"
    assert shown.waits_for == "a decision, or its owner"
    blocked = await stubs.get("deaf")
    assert state(blocked) == "BLOCKED"
    assert "does not answer" in blocked.needs[0].message
    assert [r.attempt for r in await acme.requests() if "/deaf/" in r.attempt] == [asked.attempt]
    late = await refused(acme.end(attempt))
    assert late.reason == "ATTEMPT_CLOSED"
    assert state(await stubs.get("deaf")) == "BLOCKED"

    async def is_at_it() -> bool:
        await acme.accept(asked.attempt)
        shown = await task(stubs, "deaf", "deaf")
        if shown.state != Task.STATE_COMPENSATING:
            return False
        assert shown.compensation_failure.reason == ""
        return state(await stubs.get("deaf")) == "COMPENSATING"

    await until(is_at_it, "its accept to be heard")
    await becomes(stubs, "deaf", "deaf", "COMPENSATION_BLOCKED")
    assert word((await acme.end(asked.attempt)).state) == "SUCCEEDED"
    assert state(await stubs.wait("deaf")) == "COMPENSATED"


async def test_what_only_reads_is_asked_to_stop_and_over_once_its_owner_is_silent(
    stubs: Stubs, acme: Vendor
):
    """Nothing is left of it: nobody has to make up for it, or decide."""
    # Not as short as the others: it must not be silent already when it is asked.
    reads = external("reads", effect=READ_ONLY, heartbeat_timeout=seconds(3))
    await stubs.start("mute", plan_of(reads))
    async with acme.watching() as watch:
        attempt = (await watch.until("mute", "reads")).attempt
        await acme.accept(attempt)
        await stubs.workflows.CancelWorkflow(cancel("mute"))
        assert (await watch.until("mute", "reads", CANCEL)).attempt == attempt
    assert state(await stubs.wait("mute")) == "COMPENSATED"
    assert (await states(stubs, "mute"))["reads"] == "CANCELLED"
    assert (await refused(acme.end(attempt))).reason == "ATTEMPT_CLOSED"


async def test_an_operator_decides_in_the_place_of_a_silent_owner(stubs: Stubs, acme: Vendor):
    """S-V13: whatever is decided, what the owner says after it changes nothing."""
    await asyncio.gather(*(_is_decided(stubs, acme, how) for how in ("done", "abandon")))


async def _is_decided(stubs: Stubs, acme: Vendor, how: str) -> None:
    name = f"gone-{how}"
    await stubs.start(name, plan_of(external("gone", heartbeat_timeout=SHORT)))
    attempt = await acme.take(name, "gone")
    await becomes(stubs, name, "gone", "UNKNOWN")
    await stubs.workflows.CancelWorkflow(cancel(name))
    await becomes(stubs, name, "gone", "COMPENSATION_BLOCKED")
    await stubs.workflows.DecideCompensation(decided(name, "gone", how))
    ended = await stubs.wait(name)
    assert state(ended) == {"done": "COMPENSATED", "abandon": "FAILED"}[how]
    left = [(each.task, each.host_id, each.description) for each in ended.leftovers]
    said = (task_name(name, "gone"), "", "what acme did in gone (gone)")
    assert left == ([said] if how == "abandon" else [])
    for late in (acme.end(attempt), acme.end(attempt_name(name, "gone", 2))):
        assert (await refused(late)).reason == "ATTEMPT_CLOSED"
    assert (await stubs.get(name)).state == ended.state


async def test_its_own_workflow_can_be_ended_although_it_was_silent(stubs: Stubs, acme: Vendor):
    """S-V29: "main" is UNKNOWN, what is under it goes on, and it ends as it is told."""
    await acme.starts("quiet", heartbeat_timeout=SHORT)
    await acme.take("quiet", "main")
    await becomes(stubs, "quiet", "main", "UNKNOWN")
    assert state(await stubs.get("quiet")) == "RUNNING"
    await acme.adds(workflow_name("quiet"), "step")
    await acme.adds(task_name("quiet", "main"), "part")
    await acme.does("quiet", "step")
    await acme.does("quiet", "part")
    await acme.ends_all("quiet")
    assert state(await stubs.wait("quiet")) == "SUCCEEDED"


async def test_a_silence_of_ours_judges_nobody(cluster: Cluster, stubs: Stubs, acme: Vendor):
    """The coordinator stands still for longer than any heartbeat may stay out; they go on."""
    names = [f"t-{number}" for number in range(20)]
    tasks = (external(name, heartbeat_timeout=SHORT, effect=READ_ONLY) for name in names)
    await stubs.start("frozen", plan_of(parallel("all-of-them", *tasks)))
    await acme.asked("frozen", names[-1])
    await acme.requests()
    attempts = [attempt_name("frozen", name, 1) for name in names]
    await asyncio.gather(*map(acme.accept, attempts))
    answered: list[dict[str, str]] = []

    async def beat() -> None:
        while True:
            answered.append(await acme.beat(*attempts))
            await asyncio.sleep(0.2)

    beating = asyncio.create_task(beat())
    async with awake() as is_awake:
        await until(lambda: len(answered) > 1, "the first heartbeats")
        cluster.coordinator.freeze()
        await asyncio.sleep(1.2)  # what is tested is that this passes: a little more than SHORT
        seen = len(answered)
        cluster.coordinator.thaw()
        await until(lambda: len(answered) > seen + 6, "heartbeats after it")
    beating.cancel()
    history = await events(stubs, "frozen")
    if is_awake():
        assert [each for each in answered if each] == []
        assert not [e for e in history if e.task_state_changed.after == Task.STATE_UNKNOWN]
    await asyncio.gather(*map(acme.end, attempts))
    assert state(await stubs.wait("frozen")) == "SUCCEEDED"
