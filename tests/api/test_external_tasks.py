"""External tasks over gRPC: asked for, taken on, reported, ended, and made up for."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

from google.protobuf.struct_pb2 import Struct
from grpc import StatusCode
from grpc.aio import AioRpcError

from countermand.client.spec import parallel, policy, sequence, workflow_spec
from countermand.rpc.names import attempt_name, task_name, workflow_name
from countermand.v1 import workflow_pb2 as wpb
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.external_task_pb2 import ListExternalTasksRequest
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_spec_pb2 import Policy
from tests.api.calls import BASE, Stubs, cancel, refused, state
from tests.api.steering import events, states, task
from tests.api.vendors import (
    ARRAY_FULL,
    CANCEL,
    COMPENSATE,
    READ_ONLY,
    START,
    Vendor,
    beside,
    external,
    opened,
    plan_of,
    seconds,
    struct,
    vendor_at,
    word,
)
from tests.endtoend.cluster import Cluster, copy, until

# -- one task -------------------------------------------------------------------------------------


async def test_what_is_asked_says_everything(stubs: Stubs, acme: Vendor):
    spec = plan_of(
        external(
            "says",
            kind="clone-volume",
            arguments={"size": "5", "name": "disk"},
            heartbeat_timeout=seconds(60),
            policy=policy(run_timeout=seconds(600)),
        )
    )
    started = await stubs.start("says", spec, labels={"vm": "7"})
    asked = await acme.asked("says", "says")
    assert asked.attempt == attempt_name("says", "says", 1)
    assert (asked.kind, asked.task_kind, asked.accepted) == (START, "clone-volume", False)
    assert dict(asked.arguments) == {"size": "5", "name": "disk"}
    assert dict(asked.labels) == {"vm": "7"}
    assert (asked.heartbeat_timeout.seconds, asked.run_timeout.seconds) == (60, 600)
    assert started.trace_id in asked.traceparent
    assert asked.capability_token
    assert asked.HasField("create_time")
    accepted = await acme.accept(asked.attempt)
    assert word(accepted.attempt.state) == "RUNNING"
    assert accepted.request.accepted
    asked.accepted = True
    assert accepted.request == asked
    again = await acme.accept(asked.attempt)
    assert again == accepted
    ended = await acme.end(asked.attempt, output=struct(a="x", n=3, flag=True))
    assert word(ended.state) == "SUCCEEDED"
    assert state(await stubs.wait("says")) == "SUCCEEDED"
    shown = await task(stubs, "says", "says")
    assert shown.output.external == struct(a="x", n=3, flag=True)
    assert (shown.kind, shown.owner_id, shown.host_id) == (Task.KIND_EXTERNAL, "acme", "")
    assert shown.verb == "acme/clone-volume"


async def test_its_output_goes_into_typed_fields_and_values_into_its_arguments(
    cluster: Cluster, stubs: Stubs, acme: Vendor
):
    """S-V26: two of ours and one of a vendor's, bound to each other both ways."""
    verb = copy("then", "a", "bound/bound", "pool-a/bound-then")
    verb.task.action.copy_image.ClearField("source")
    for field in ("pool_id", "image_id"):
        verb.task.bindings.add(field=f"source.{field}", source=f"tasks.theirs.output.{field}")
    spec = plan_of(
        copy("first", "a", BASE, "pool-a/bound-first"),
        external(
            "theirs",
            outputs={"pool_id": "string", "image_id": "string", "size": "int64"},
            arguments={"said": "plain", "flag": "", "size": "", "vm": ""},
            bindings={
                "arguments.vm": "input.vm",
                "arguments.flag": "input.flag",
                "arguments.size": "tasks.first.output.virtual_size_bytes",
            },
        ),
        verb,
    )
    await stubs.start("bound", spec, input=struct(vm="vm-7", flag=True))
    asked = await acme.asked("bound", "theirs")
    size = cluster.data_of("pool-a/bound-first").stat().st_size
    assert dict(asked.arguments) == {
        "said": "plain",
        "flag": "true",
        "size": str(size),
        "vm": "vm-7",
    }
    await acme.accept(asked.attempt)
    await acme.end(
        asked.attempt, output=struct(pool_id="pool-a", image_id="bound-first", size=2**40)
    )
    assert state(await stubs.wait("bound")) == "SUCCEEDED"
    made = cluster.data_of("pool-a/bound-then").read_bytes()
    assert made == cluster.data_of("pool-a/bound-first").read_bytes()
    shown = await task(stubs, "bound", "then")
    assert {each.origin for each in shown.inbound} == {
        "tasks.theirs.output.pool_id",
        "tasks.theirs.output.image_id",
    }


async def test_progress_is_kept_and_never_goes_back(stubs: Stubs, acme: Vendor):
    await stubs.start("far", plan_of(external("far")))
    attempt = await acme.take("far", "far")
    first = await acme.report(attempt, 5, 10, message="half of it", rate=7)
    assert (first.progress.done, first.progress.total) == (5, 10)
    assert (first.progress.unit, first.progress.rate) == ("blocks", 7)
    back = await acme.report(attempt, 3, 10, message="still there")
    assert (back.progress.done, back.progress.message) == (5, "still there")
    shown = await task(stubs, "far", "far")
    assert (shown.progress.done, shown.progress.message) == (5, "still there")
    [asked] = [each for each in await acme.requests() if each.attempt == attempt]
    assert (asked.progress.done, asked.progress.unit) == (5, "blocks")
    await acme.end(attempt)
    shown = await task(stubs, "far", "far")
    [ended] = shown.attempts
    assert (ended.progress.done, ended.progress.unit) == (5, "blocks")
    assert ended.progress.total == 0  # that there were 5 to do nobody has said


async def test_a_report_heard_twice_is_one_and_another_under_its_id_is_refused(
    stubs: Stubs, acme: Vendor
):
    """S-B14: also when both come at once; a contradiction is written into the history."""
    await stubs.start("twice", plan_of(external("one"), external("two")))
    attempt, report_id = await acme.take("twice", "one"), str(uuid4())
    first, again = await asyncio.gather(
        *(acme.end(attempt, report_id, output=struct(a=1)) for _ in range(2))
    )
    assert first == again
    assert first == await acme.end(attempt, report_id, output=struct(a=1))
    assert first == await acme.end(attempt, output=struct(a=1))
    before = await stubs.get("twice")
    reused = await refused(acme.end(attempt, report_id, failure=ARRAY_FULL))
    assert (reused.code, reused.reason) == ("ALREADY_EXISTS", "REPORT_REUSED")
    assert reused.metadata["report_id"] == report_id
    assert await stubs.get("twice") == before
    late = await refused(acme.end(attempt, failure=ARRAY_FULL))
    assert (late.code, late.reason) == ("FAILED_PRECONDITION", "ATTEMPT_CLOSED")
    assert late.metadata["attempt"] == attempt
    assert (await states(stubs, "twice"))["one"] == "SUCCEEDED"

    assert await contradictions(stubs, "twice") == ["FAILED"]
    await acme.does("twice", "two")
    await stubs.wait("twice")


async def contradictions(stubs: Stubs, workflow_id: str) -> list[str]:
    """Returns what the history says of reports that came too late."""
    found = await events(stubs, workflow_id)
    return [word(each.late_report.state) for each in found if each.HasField("late_report")]


async def test_whoever_repeats_a_contradiction_cannot_fill_the_history(stubs: Stubs, acme: Vendor):
    """S-B14: each outcome of an attempt is noted once, however often and under whatever id."""
    await stubs.start("stubborn", plan_of(external("one"), external("two")))
    attempt, report_id = await acme.does("stubborn", "one"), str(uuid4())
    ends: list[dict[str, Any]] = [{"failure": ARRAY_FULL}, {"cancelled": True}]
    for outcome in ends:
        for _ in range(3):
            for again in (report_id, str(uuid4())):
                late = await refused(acme.end(attempt, again, **outcome))
                assert late.reason == "ATTEMPT_CLOSED"
    more = (acme.end(attempt, failure=ARRAY_FULL) for _ in range(20))
    assert len(await asyncio.gather(*map(refused, more))) == 20
    assert await contradictions(stubs, "stubborn") == ["FAILED", "CANCELLED"]
    await acme.does("stubborn", "two")
    assert state(await stubs.wait("stubborn")) == "SUCCEEDED"


async def test_of_two_ends_that_contradict_each_other_one_counts_however_often_they_are_said(
    stubs: Stubs, acme: Vendor
):
    """S-B14: the one that came too late is refused, and so is a repeat of it."""
    names = [f"t-{number}" for number in range(10)]
    optional = Policy(on_failure=Policy.ON_FAILURE_IGNORE)
    await stubs.start("torn", beside(*map(external, names), policy=optional))
    attempts = [await acme.take("torn", name) for name in names]
    outcomes: tuple[dict[str, Any], ...] = ({"output": Struct()}, {"failure": ARRAY_FULL})
    ends = [(each, str(uuid4()), how) for each in attempts for how in outcomes]

    async def said() -> list[str]:
        calls = (acme.end(attempt, report_id, **how) for attempt, report_id, how in ends)
        found = await asyncio.gather(*calls, return_exceptions=True)
        return [word(each.state) if isinstance(each, Attempt) else "refused" for each in found]

    first = await said()
    assert first.count("refused") == len(names)
    assert await said() == first
    assert state(await stubs.wait("torn")) == "SUCCEEDED"


async def test_a_report_that_fails_ends_as_the_policy_says(stubs: Stubs, acme: Vendor):
    """S-V27: a retry is another attempt under the same right, and what is late stays late."""
    again = policy(retry=Policy().retry)
    again.retry.attempts_max = 2
    again.retry.delay.FromTimedelta(seconds(0))
    again.retry.reasons.append("ARRAY_FULL")
    await stubs.start("retried", plan_of(external("one", policy=again)))
    first = await acme.take("retried", "one")
    await acme.end(first, failure=ARRAY_FULL)
    second = await acme.asked("retried", "one")
    assert second.attempt == attempt_name("retried", "one", 2)
    late = await refused(acme.end(first))
    assert (late.reason, late.code) == ("ATTEMPT_CLOSED", "FAILED_PRECONDITION")
    assert (await refused(acme.accept(first))).reason == "ATTEMPT_CLOSED"
    assert (await refused(acme.report(first, 1))).reason == "ATTEMPT_CLOSED"
    assert await acme.beat(first) == {first: "UNSPECIFIED"}
    await acme.accept(second.attempt)
    await acme.end(second.attempt, output=struct(volume="v2"))
    assert state(await stubs.wait("retried")) == "SUCCEEDED"
    shown = await task(stubs, "retried", "one")
    assert [word(each.state) for each in shown.attempts] == ["FAILED", "SUCCEEDED"]
    assert shown.attempts[0].failure.reason == "ARRAY_FULL"
    assert shown.attempts[0].failure.message == ARRAY_FULL.message


# -- two vendors ----------------------------------------------------------------------------------


async def test_two_vendors_and_an_agent_in_one_workflow(
    cluster: Cluster, stubs: Stubs, acme: Vendor, other: Vendor
):
    """S-V26, S-V30: each sees and touches its own; what was done is made up for in order."""
    spec = plan_of(
        copy("ours", "a", BASE, "pool-a/mixed"),
        external("clone", "acme", outputs={"volume": "string"}),
        external(
            "map",
            "other",
            arguments={"v": ""},
            bindings={"arguments.v": "tasks.clone.output.volume"},
        ),
        external("last", "acme", effect=READ_ONLY),
    )
    await stubs.start("mixed", spec)
    clone = await acme.take("mixed", "clone")
    mine = {each.attempt for each in await other.requests() if "/mixed/" in each.attempt}
    assert mine == set()
    await acme.end(clone, output=struct(volume="v9"))
    mapped = await other.asked("mixed", "map")
    assert dict(mapped.arguments) == {"v": "v9"}
    foreign = await refused(acme.accept(mapped.attempt, capability_token=acme.token(clone)))
    assert (foreign.code, foreign.reason) == ("PERMISSION_DENIED", "NOT_OWNER")
    await other.accept(mapped.attempt)
    await other.end(mapped.attempt)
    await acme.does("mixed", "last", failure=ARRAY_FULL)
    asked = await other.makes_up("mixed", "map")
    assert asked.compensates == attempt_name("mixed", "map", 1)
    assert [each.reason for each in asked.causes] == ["ARRAY_FULL"]
    assert dict(asked.arguments) == {"v": "v9"}
    asked = await acme.makes_up("mixed", "clone")
    assert asked.output == struct(volume="v9")
    done = await stubs.wait("mixed")
    assert (state(done), done.cause.reason) == ("COMPENSATED", "ARRAY_FULL")
    assert not cluster.data_of("pool-a/mixed").exists()


async def test_the_tree_shows_weights_states_and_one_trace(stubs: Stubs, acme: Vendor):
    """S-V26: parts of a task, and parts of these; a parent is as far as they are together."""
    spec = plan_of(
        external("small"),
        opened(parallel("open", external("big", weight=3), external("side", "acme"))),
    )
    started = await stubs.start("tree", spec)
    await acme.does("tree", "small")
    attempt = await acme.take("tree", "big")
    big = task_name("tree", "big")
    part = await acme.adds(big, "part", weight=1)
    await acme.adds(big, "part-2", weight=3)
    assert part.task.parent == big
    part_attempt = await acme.take("tree", "part")
    acme.tokens[task_name("tree", "part")] = part.capability_token
    nested = await acme.adds(task_name("tree", "part"), "nested")
    assert nested.task.parent == task_name("tree", "part")

    async def far() -> dict[str, int]:
        answer = await stubs.workflows.ListTasks(wpb.ListTasksRequest(parent=workflow_name("tree")))
        return {each.name.rpartition("/")[2]: each.progress.done for each in answer.tasks}

    assert list(await far()) == ["small", "open", "big", "part", "nested", "part-2", "side"]
    await acme.does("tree", "nested")
    assert (await far())["part"] == 100  # all of its parts
    assert (await far())["big"] == 25
    assert (await far())["open"] == 18  # 3/4 of a quarter
    await acme.end(part_attempt)
    part_2 = await acme.take("tree", "part-2")
    await acme.report(part_2, 1, 3)
    assert (await far())["big"] == 50
    assert (await stubs.get("tree")).progress.done == (100 + 37) // 2
    still = await refused(acme.end(attempt))
    assert (still.reason, still.code) == ("STATE_FORBIDS", "FAILED_PRECONDITION")
    assert "part-2" in still.metadata["because"]
    await acme.end(part_2)
    await acme.end(attempt)
    await acme.does("tree", "side")
    assert state(await stubs.wait("tree")) == "SUCCEEDED"
    for name in ("small", "big", "nested"):
        shown = await task(stubs, "tree", name)
        assert started.trace_id in shown.attempts[0].traceparent


# -- lists and watches ----------------------------------------------------------------------------


async def test_lists_are_paged_oldest_first(cluster: Cluster, stubs: Stubs):
    async with vendor_at(cluster.coordinator.address, "many") as vendor:
        names = [f"t-{number:02}" for number in range(7)]
        await stubs.start("many", beside(*(external(name, "many") for name in names)))
        seen: list[str] = []
        page = ""
        sizes = []
        while True:
            answer = await vendor.stub.ListExternalTasks(
                ListExternalTasksRequest(owner_id="many", page_size=3, page_token=page)
            )
            sizes.append(len(answer.requests))
            seen += [each.attempt.split("/")[3] for each in answer.requests]
            page = answer.next_page_token
            if len(seen) == 3:  # what ends between two pages shifts nothing
                await vendor.requests()
                await vendor.accept(attempt_name("many", "t-00", 1))
                await vendor.end(attempt_name("many", "t-00", 1))
            if not page:
                break
        assert (seen, sizes) == (names, [3, 3, 1])
        await stubs.workflows.CancelWorkflow(cancel("many"))
        await vendor.makes_up("many", "t-00")
        assert await vendor.requests() == []
        assert state(await stubs.wait("many")) == "COMPENSATED"


async def test_a_watch_tells_what_is_and_then_what_changes(cluster: Cluster, stubs: Stubs):
    """Start, cancel, compensate, closed: the latest counts; any number of watchers see the same."""
    address = cluster.coordinator.address
    async with vendor_at(address, "seer") as vendor, vendor_at(address, "seer") as second:
        first_watch, second_watch = vendor.watching(), second.watching()
        async with first_watch as watch, second_watch as beside_it:
            first = await watch.next()
            assert first.HasField("bookmark")
            await stubs.start("seen", plan_of(external("one", "seer"), external("two", "seer")))
            one = await watch.until("seen", "one")
            await vendor.accept(one.attempt)
            await watch.when(lambda known: known[one.attempt].accepted)
            await vendor.end(one.attempt)
            await watch.when(lambda known: one.attempt not in known)
            two = (await watch.until("seen", "two")).attempt
            await vendor.accept(two)
            await stubs.workflows.CancelWorkflow(cancel("seen"))
            asked = await watch.until("seen", "two", CANCEL)
            assert (asked.attempt, asked.accepted) == (two, True)
            assert await vendor.beat(two) == {two: "CANCELLING"}
            forbidden = await refused(vendor.accept(two))
            assert (forbidden.code, forbidden.reason) == ("FAILED_PRECONDITION", "STATE_FORBIDS")
            assert "end it as cancelled" in forbidden.metadata["because"]
            ended = await vendor.end(two, cancelled=True)
            assert word(ended.state) == "CANCELLED"
            makes_up = await watch.until("seen", "one", COMPENSATE)
            assert makes_up.attempt == attempt_name("seen", "one", 2)
            # Whoever begins to watch late is told what is, not what was.
            await beside_it.when(lambda known: makes_up.attempt in known)
            await vendor.accept(makes_up.attempt)
            await vendor.end(makes_up.attempt)
            await watch.when(lambda known: not known)
            await beside_it.when(lambda known: not known)
            assert state(await stubs.wait("seen")) == "COMPENSATED"


async def test_a_slow_watcher_is_told_the_latest_and_misses_nothing(cluster: Cluster, stubs: Stubs):
    """It reads nothing while thousands of changes happen; then what is left is told."""
    address = cluster.coordinator.address
    async with vendor_at(address, "slow") as slow:
        quick = Vendor(slow.channel, "slow")
        async with slow.watching() as watch:
            assert (await watch.next()).HasField("bookmark")
            padding = {"pad": "x" * 6000}  # more than the window of one stream holds
            names = [f"t-{number}" for number in range(36)]
            await stubs.start(
                "slow",
                beside(*(external(n, "slow", effect=READ_ONLY, arguments=padding) for n in names)),
            )
            attempts = [attempt_name("slow", name, 1) for name in names]
            await quick.requests()
            for attempt in attempts:
                await quick.accept(attempt)
            for attempt in attempts[:-1]:
                await quick.end(attempt)
            last = attempts[-1]
            await watch.when(lambda known: list(known) == [last] and known[last].accepted)
            assert len(watch.said) < 200
            await quick.end(last)
            await watch.when(lambda known: not known)
    assert state(await stubs.wait("slow")) == "SUCCEEDED"


# -- what is pulled away --------------------------------------------------------------------------


async def test_never_accepted_is_cancelled_without_asking_accepted_is_asked(
    stubs: Stubs, acme: Vendor
):
    """S-V2: also what only reads: what it reads must not be made up for under it."""
    await stubs.start(
        "race", beside(external("not"), external("taken"), external("reads", effect=READ_ONLY))
    )
    taken = await acme.take("race", "taken")
    reads = await acme.take("race", "reads")
    not_taken = (await acme.asked("race", "not")).attempt
    await stubs.workflows.CancelWorkflow(cancel("race"))
    for name, attempt in (("taken", taken), ("reads", reads)):
        asked = await acme.asked("race", name, CANCEL)
        assert asked.attempt == attempt

    async def is_closed() -> bool:
        found = await states(stubs, "race")
        assert found["taken"] == found["reads"] == "CANCELLING"
        return found["not"] == "CANCELLED"

    await until(is_closed, "the end of what needs nobody's answer")
    assert (await refused(acme.accept(not_taken))).reason == "ATTEMPT_CLOSED"
    await acme.end(reads, cancelled=True)
    await acme.end(taken)  # it was quicker than the wish: then it is made up for
    await acme.makes_up("race", "taken")
    assert state(await stubs.wait("race")) == "COMPENSATED"


async def test_accepts_that_race_a_cancel_are_true_or_refused(stubs: Stubs, acme: Vendor):
    """S-Z32: whoever was told to begin is asked to stop; nobody else begins."""
    names = [f"t-{number}" for number in range(20)]
    await stubs.start("racing", beside(*(external(name) for name in names)))
    await acme.asked("racing", names[-1])
    await acme.requests()
    attempts = [attempt_name("racing", name, 1) for name in names]

    async def accept(attempt: str) -> bool:
        try:
            await acme.accept(attempt)
        except AioRpcError as error:
            return error.code() is not StatusCode.FAILED_PRECONDITION
        return True

    half = len(attempts) // 2
    first = [asyncio.create_task(accept(each)) for each in attempts[:half]]
    stopping = asyncio.create_task(
        asyncio.wait_for(stubs.workflows.CancelWorkflow(cancel("racing")), 30)
    )
    second = [asyncio.create_task(accept(each)) for each in attempts[half:]]
    begun = await asyncio.gather(*first, *second)
    await stopping
    for attempt, is_begun in zip(attempts, begun, strict=True):
        if is_begun:
            await acme.end(attempt, cancelled=True)
        else:
            assert (await refused(acme.end(attempt))).reason in {"ATTEMPT_CLOSED", "STATE_FORBIDS"}
    assert state(await stubs.wait("racing")) == "COMPENSATED"
    print(f"{sum(begun)} of {len(begun)} were accepted first")


async def test_output_is_empty_unless_promised(stubs: Stubs, acme: Vendor):
    await stubs.start("empty", workflow_spec("e", sequence("all", external("one"))))
    attempt = await acme.take("empty", "one")
    assert word((await acme.end(attempt, output=Struct())).state) == "SUCCEEDED"
    assert state(await stubs.wait("empty")) == "SUCCEEDED"
