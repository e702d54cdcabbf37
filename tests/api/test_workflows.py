"""Workflows as an engine meets them: started once, followed without a gap, cancelled."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from grpc.aio import AioRpcError

from countermand.client import Client
from countermand.rpc.channel import open_channel
from countermand.rpc.names import task_name, workflow_name
from countermand.v1 import host_pb2
from countermand.v1 import workflow_pb2 as pb
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.event_pb2 import HistoryEvent
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.api.calls import (
    BASE,
    Stubs,
    at_work,
    cancel,
    copies,
    crawling,
    quick,
    refused,
    state,
)
from tests.endtoend.checks import assert_clean, assert_ran_once, labels, read, recorded
from tests.endtoend.cluster import until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


# -- starting -----------------------------------------------------------------------------------


async def test_the_same_submission_is_the_same_workflow(cluster, stubs):
    started = await stubs.start("same", quick("same"))
    await stubs.wait("same")
    again = await stubs.start("same", quick("same"))
    assert (again.name, again.create_time) == (started.name, started.create_time)
    assert state(again) == "SUCCEEDED"
    assert_clean(cluster, "same", "SUCCEEDED")
    assert_ran_once(cluster, "same")


async def test_another_submission_under_the_id_is_refused(stubs):
    """S-H10: another spec, or the same one with another input."""
    await stubs.start("taken", quick("taken"))
    another_spec = pb.StartWorkflowRequest(workflow_id="taken", spec=quick("other"))
    another_input = pb.StartWorkflowRequest(workflow_id="taken", spec=quick("taken"))
    another_input.input["x"] = 1
    for asked in (another_spec, another_input):
        error = await refused(stubs.workflows.StartWorkflow(asked))
        assert (error.code, error.reason) == ("ALREADY_EXISTS", "WORKFLOW_ID_TAKEN")
    await stubs.wait("taken")


async def test_of_many_submissions_at_once_one_counts(cluster, stubs):
    """All that are the same get the same workflow; of those that differ one kind wins."""
    specs = [quick("race"), quick("race-other")]
    asked = [
        pb.StartWorkflowRequest(workflow_id="race", spec=specs[number % 2]) for number in range(20)
    ]
    answers = await asyncio.gather(
        *(stubs.workflows.StartWorkflow(request) for request in asked), return_exceptions=True
    )
    won = {number % 2 for number, answer in enumerate(answers) if not isinstance(answer, Exception)}
    assert len(won) == 1
    kinds = Counter(type(answer) for answer in answers)
    assert kinds == {pb.StartWorkflowResponse: 10, AioRpcError: 10}
    await stubs.wait("race")
    assert_clean(cluster, "race", "SUCCEEDED")
    assert_ran_once(cluster, "race")


# -- reading ------------------------------------------------------------------------------------


async def test_when_a_wait_returns_the_result_can_be_read(cluster, stubs):
    """S-V33: at once, from the coordinator and on the disks."""
    await stubs.start("waited", quick("waited"))
    waited = await stubs.wait("waited")
    read_back = await stubs.get("waited")
    assert state(waited) == "SUCCEEDED"
    assert read_back == waited
    assert read_back.HasField("end_time")
    assert "pool-a/waited-then" in labels(cluster)
    listed = await stubs.workflows.ListEvents(pb.ListEventsRequest(parent=waited.name))
    assert listed.events[-1].workflow_state_changed.after == waited.state
    assert listed.events[-1].sequence == waited.last_sequence


async def test_a_wait_that_is_over_says_so(cluster, stubs):
    async with at_work(cluster, stubs, "long"):
        asked = pb.WaitWorkflowRequest(
            name=workflow_name("long"), wait_timeout=Duration(nanos=1_000_000)
        )
        answer = await stubs.workflows.WaitWorkflow(asked)
        assert not answer.reached
        assert state(answer.workflow) == "RUNNING"


async def test_a_task_shows_its_context(stubs):
    """S-R17: what came in and from where, what it left, every attempt."""
    await stubs.start("context", quick("context"))
    await stubs.wait("context")
    answer = await stubs.workflows.GetTask(pb.GetTaskRequest(name=task_name("context", "then")))
    task = answer.task
    assert task.state == Task.STATE_SUCCEEDED
    assert [(v.field, v.value.string_value, v.origin) for v in task.inbound] == [
        ("source.pool_id", "pool-a", "tasks.one.output.image.pool_id"),
        ("source.image_id", "context-one", "tasks.one.output.image.image_id"),
    ]
    assert task.output.copy_image.image.image_id == "context-then"
    [attempt] = task.attempts
    assert attempt.name == "workflows/context/tasks/then/attempts/1"
    assert (attempt.state, attempt.host_id) == (Attempt.STATE_SUCCEEDED, "a")
    error = await refused(
        stubs.workflows.GetTask(pb.GetTaskRequest(name=task_name("context", "nobody")))
    )
    assert (error.code, error.reason) == ("NOT_FOUND", "TASK_NOT_FOUND")


async def names_of(stubs, **fields) -> list[str]:
    """Returns what ListWorkflows lists, page by page."""
    found: list[str] = []
    asked = pb.ListWorkflowsRequest(**fields)
    while True:
        page = await stubs.workflows.ListWorkflows(asked)
        assert len(page.workflows) <= (asked.page_size or 50)
        found += [workflow.name.removeprefix("workflows/") for workflow in page.workflows]
        if not page.next_page_token:
            return found
        asked.page_token = page.next_page_token


async def test_lists_are_filtered_and_come_in_pages(cluster, stubs):
    mine = {"suite": "lists"}
    for number in range(5):
        labels_ = {**mine, "parity": "even" if number % 2 == 0 else "odd"}
        await stubs.start(f"list-{number}", quick(f"list-{number}"), labels=labels_)
        await stubs.wait(f"list-{number}")
    newest_first = [f"list-{number}" for number in reversed(range(5))]
    for page_size in (0, 1, 2, 5, 1000):
        assert await names_of(stubs, labels=mine, page_size=page_size) == newest_first
    even = {**mine, "parity": "even"}
    assert await names_of(stubs, labels=even, page_size=1) == ["list-4", "list-2", "list-0"]
    assert await names_of(stubs, labels=mine, kind="quick", host_id="b") == newest_first
    assert await names_of(stubs, labels=mine, kind="crawling") == []
    assert await names_of(stubs, labels=mine, host_id="nobody") == []
    assert await names_of(stubs, labels=mine, needs_attention=True) == []
    assert await names_of(stubs, labels=mine, min_age=Duration(seconds=3600)) == []
    succeeded = [WorkflowState.WORKFLOW_STATE_SUCCEEDED]
    assert await names_of(stubs, labels=mine, states=succeeded, page_size=2) == newest_first
    running = [WorkflowState.WORKFLOW_STATE_RUNNING]
    async with at_work(cluster, stubs, "listed"):
        assert "listed" in await names_of(stubs, states=running)
        assert "listed" not in await names_of(stubs, states=succeeded)


async def test_history_comes_in_pages(stubs):
    await stubs.start("pages", quick("pages"))
    last = (await stubs.wait("pages")).last_sequence
    found: list[int] = []
    more = True
    while more:
        asked = pb.ListEventsRequest(
            parent=workflow_name("pages"), after_sequence=len(found), page_size=3
        )
        page = await stubs.workflows.ListEvents(asked)
        found += [event.sequence for event in page.events]
        more = page.more
    assert found == list(range(1, last + 1))


async def test_a_workflows_own_events_come_without_those_of_its_tasks(stubs):
    parent = workflow_name("own")
    await stubs.start("own", quick("own"))
    await stubs.wait("own")
    all_ = (await stubs.workflows.ListEvents(pb.ListEventsRequest(parent=parent))).events
    found: list[HistoryEvent] = []
    more = True
    while more:  # in pages, too: what is left out counts for none
        asked = pb.ListEventsRequest(parent=parent, page_size=1, without_tasks=True)
        asked.after_sequence = found[-1].sequence if found else 0
        page = await stubs.workflows.ListEvents(asked)
        found += page.events
        more = page.more
    assert found == [event for event in all_ if not event.task]
    assert found[-1].HasField("workflow_state_changed")


async def test_tasks_are_listed_with_their_context_where_that_is_asked_for(stubs):
    await stubs.start("whole", quick("whole"))
    await stubs.wait("whole")
    asked = pb.ListTasksRequest(parent=workflow_name("whole"), view=pb.TASK_VIEW_FULL)
    listed = (await stubs.workflows.ListTasks(asked)).tasks
    one_by_one = [
        (await stubs.workflows.GetTask(pb.GetTaskRequest(name=each.name))).task for each in listed
    ]
    assert list(listed) == one_by_one
    assert any(each.attempts for each in listed)


# -- following ----------------------------------------------------------------------------------


async def watched(stubs, workflow_id: str, after: int) -> list[int]:
    """Returns the sequences of a watch until it ends by itself."""
    asked = pb.WatchWorkflowRequest(name=workflow_name(workflow_id), after_sequence=after)
    return [
        update.event.sequence
        async for update in stubs.workflows.WatchWorkflow(asked)
        if update.HasField("event")
    ]


async def test_a_watch_begins_anywhere_and_ends_by_itself(stubs):
    await stubs.start("watched", quick("watched"))
    live = await watched(stubs, "watched", 0)
    assert live == list(range(1, live[-1] + 1))
    assert state(await stubs.get("watched")) == "SUCCEEDED"
    for after in range(live[-1] + 2):
        assert await watched(stubs, "watched", after) == live[after:]


async def test_a_watch_outlives_the_coordinator(cluster, stubs):
    """Each event once, none left out, though the coordinator was killed in the middle."""
    async with Client(cluster.coordinator.address, patience=timedelta(seconds=30)) as client:
        run = await client.submit(crawling("outlives", "slow"), workflow_id="outlives")
        seen: list[int] = []

        async def follow() -> None:
            async for update in run.watch():
                if update.HasField("event"):
                    seen.append(update.event.sequence)  # noqa: PERF401 - it is looked at meanwhile

        following = asyncio.create_task(follow())
        await until(lambda: seen and copies(cluster, "outlives", "slow"), "the slow copy")
        await cluster.coordinator.kill()
        await cluster.coordinator.start()
        await following
        last = (await run.get()).last_sequence
    assert seen == list(range(1, last + 1))
    workflow = assert_clean(cluster, "outlives", "SUCCEEDED")
    assert sum(event.HasField("owner_changed") for event in workflow.events) == 1


async def test_all_events_can_be_followed_from_a_position(stubs):
    await stubs.start("everything-1", quick("everything-1"))
    await stubs.wait("everything-1")
    stream = stubs.workflows.WatchEvents(pb.WatchEventsRequest(after_position=0))
    positions: list[int] = []
    sequences: list[int] = []
    async for update in stream:
        positions.append(update.event.position or update.bookmark)
        if update.event.workflow == workflow_name("everything-1"):
            sequences.append(update.event.sequence)
            if update.event.workflow_state_changed.after:
                break
    stream.cancel()
    assert positions[0] == 0  # the bookmark that says where it begins
    assert positions == sorted(set(positions))
    assert sequences == list(range(1, len(sequences) + 1))


# -- cancelling ---------------------------------------------------------------------------------


async def test_a_cancelled_workflow_is_made_up_for(cluster, stubs):
    """S-V19, in the middle of a copy: nothing is left, and the cause says who and why."""
    async with at_work(cluster, stubs, "cancelled"):
        answer = await stubs.workflows.CancelWorkflow(cancel("cancelled", reason="not needed"))
        assert state(answer.workflow) == "COMPENSATING"
    settled = await stubs.wait("cancelled")
    assert (state(settled), settled.cause.reason) == ("COMPENSATED", "CANCELLED")
    assert "not needed" in settled.cause.message
    workflow = assert_clean(cluster, "cancelled", "COMPENSATED")
    assert workflow.tasks == {"first": "COMPENSATED", "slow": "CANCELLED"}
    [intervention] = [e.intervention for e in workflow.events if e.HasField("intervention")]
    assert (intervention.verb, intervention.reason) == ("cancel", "not needed")


async def test_cancel_takes_effect_once(cluster, stubs):
    """A repeat gets the first answer; another request under its id, or a second one, does not."""
    async with at_work(cluster, stubs, "once"), at_work(cluster, stubs, "another"):
        first = cancel("once", "the-id")
        await stubs.workflows.CancelWorkflow(first)
        repeated = await stubs.workflows.CancelWorkflow(first)
        assert repeated.workflow.name == "workflows/once"
        for asked in (cancel("once", "the-id", reason="another"), cancel("another", "the-id")):
            error = await refused(stubs.workflows.CancelWorkflow(asked))
            assert (error.code, error.reason) == ("INVALID_ARGUMENT", "REQUEST_ID_REUSED")
        assert state(await stubs.get("another")) == "RUNNING"
    await stubs.wait("once")
    assert (await stubs.workflows.CancelWorkflow(first)).workflow.name == "workflows/once"
    error = await refused(stubs.workflows.CancelWorkflow(cancel("once", "second")))
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "STATE_FORBIDS")
    assert error.metadata["state"] == "COMPENSATED"
    workflow = assert_clean(cluster, "once", "COMPENSATED")
    assert sum(event.HasField("intervention") for event in workflow.events) == 1


async def test_one_cancel_sent_many_times_at_once_is_one(cluster, stubs):
    """A repeat that overtakes the answer gets the same answer."""
    async with at_work(cluster, stubs, "repeats"):
        answers = await asyncio.gather(
            *(stubs.workflows.CancelWorkflow(cancel("repeats", "one")) for _ in range(10))
        )
    assert {state(answer.workflow) for answer in answers} <= {"COMPENSATING", "COMPENSATED"}
    workflow = assert_clean(cluster, "repeats", "COMPENSATED")
    assert sum(event.HasField("intervention") for event in workflow.events) == 1


async def test_of_many_cancels_at_once_one_counts(cluster, stubs):
    async with at_work(cluster, stubs, "many"):
        answers = await asyncio.gather(
            *(stubs.workflows.CancelWorkflow(cancel("many", f"{n}")) for n in range(10)),
            return_exceptions=True,
        )
    kinds = Counter(type(answer) for answer in answers)
    assert kinds == {pb.CancelWorkflowResponse: 1, AioRpcError: 9}
    workflow = assert_clean(cluster, "many", "COMPENSATED")
    assert sum(event.HasField("intervention") for event in workflow.events) == 1


async def test_a_settled_workflow_stays_as_it_is(cluster, stubs):
    """S-A11, S-V19 after completion: the answer says which state won, and nothing is recorded."""
    await stubs.start("settled", quick("settled"))
    before = await stubs.wait("settled")
    error = await refused(stubs.workflows.CancelWorkflow(cancel("settled")))
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "STATE_FORBIDS")
    assert (error.metadata["state"], error.metadata["verb"]) == ("SUCCEEDED", "cancel")
    assert await stubs.get("settled") == before
    assert_clean(cluster, "settled", "SUCCEEDED")


async def test_an_etag_that_is_out_of_date_changes_nothing(cluster, stubs):
    old = await stubs.start("etag", crawling("etag"))
    await until(lambda: copies(cluster, "etag", "crawling"), "the slow copy")
    error = await refused(stubs.workflows.CancelWorkflow(cancel("etag", "old", etag=old.etag)))
    assert (error.code, error.reason) == ("ABORTED", "CONFLICT")
    error = await refused(stubs.workflows.CancelWorkflow(cancel("etag", "bad", etag="garbage")))
    assert (error.reason, error.fields) == ("FIELD_INVALID", ("etag",))
    now = await stubs.get("etag")
    assert state(now) == "RUNNING"
    while True:  # it may have moved on since it was read
        try:
            await stubs.workflows.CancelWorkflow(cancel("etag", "new", etag=now.etag))
        except AioRpcError:
            now = await stubs.get("etag")
            continue
        break
    await stubs.wait("etag")
    assert_clean(cluster, "etag", "COMPENSATED")


async def test_a_host_that_is_needed_is_not_removed(cluster, stubs):
    async with at_work(cluster, stubs, "needed"):
        asked = host_pb2.RemoveHostRequest(name="hosts/b", request_id="r", reason="a test")
        error = await refused(stubs.hosts.RemoveHost(asked))
        assert (error.code, error.reason) == ("FAILED_PRECONDITION", "HOST_BUSY")


# -- traces -------------------------------------------------------------------------------------


async def test_the_engines_trace_is_remembered_and_the_workflows_own_reaches_agents(cluster, stubs):
    asked = pb.StartWorkflowRequest(workflow_id="traced", spec=quick("traced"))
    traceparent = f"00-{TRACE}-00f067aa0ba902b7-01"
    await stubs.workflows.StartWorkflow(
        asked, metadata=(("traceparent", traceparent), ("tracestate", "engine=7"))
    )
    workflow = await stubs.wait("traced")
    assert workflow.traceparent.split("-")[1] == TRACE
    assert workflow.trace_id != TRACE
    journal = cluster.agents["a"].data / "journal.sqlite"
    query = "SELECT name, traceparent, tracestate FROM attempts WHERE workflow = ?"
    rows = read(journal, query, "workflows/traced")
    assert [row["traceparent"].split("-")[1] for row in rows] == [workflow.trace_id] * 2
    assert {row["tracestate"] for row in rows} == {"engine=7"}
    assert len({row["traceparent"] for row in rows}) == 2  # a span for each attempt
    started = recorded(cluster, "traced").events[0].workflow_started
    assert started.traceparent == workflow.traceparent


async def test_a_trace_context_that_is_none_is_not_taken(cluster, stubs):
    asked = pb.StartWorkflowRequest(workflow_id="untraced", spec=quick("untraced"))
    await stubs.workflows.StartWorkflow(asked, metadata=(("traceparent", "garbage"),))
    workflow = await stubs.wait("untraced")
    assert len(workflow.trace_id) == 32
    assert state(workflow) == "SUCCEEDED"
    assert BASE in labels(cluster)


# -- ids: last, since what has settled is removed ------------------------------------------------


async def test_an_id_is_not_given_out_again_once_its_workflow_is_removed(cluster):
    """S-H10: what it made has its name on it, and stays."""
    async with open_channel(cluster.coordinator.address) as channel:
        stubs = Stubs(channel)
        await stubs.start("used", quick("used"))
        await stubs.wait("used")
    await cluster.coordinator.stop()
    cluster.coordinator.arguments += ("--retention", "0.001s")
    await cluster.coordinator.start()

    async with open_channel(cluster.coordinator.address) as channel:
        stubs = Stubs(channel)
        get = pb.GetWorkflowRequest(name=workflow_name("used"))

        async def removed() -> bool:
            try:
                await stubs.workflows.GetWorkflow(get)
            except AioRpcError:
                return True
            return False

        await until(removed, "retention removes it")
        again = pb.StartWorkflowRequest(workflow_id="used", spec=quick("used"))
        error = await refused(stubs.workflows.StartWorkflow(again))
    assert (error.code, error.reason) == ("ALREADY_EXISTS", "WORKFLOW_ID_TAKEN")
    assert "used before" in error.metadata["why"]
