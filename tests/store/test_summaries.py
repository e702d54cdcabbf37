"""What lists show of workflows, and how long they are kept: of every store."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from coordinator.runtime.ports import (
    LeftoverSummary,
    Store,
    UsedIdError,
    WorkflowQuery,
    WorkflowSummary,
)
from coordinator.saga import events
from coordinator.saga.commands import Timer
from coordinator.saga.states import TaskState, WorkflowState
from coordinator.saga.workflow import STOPS_LATE, Failure, Workflow
from countermand.client.spec import parallel, policy, retry, sequence, task, workflow_spec
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_spec_pb2 import Policy, WorkflowSpec
from tests.store import external
from tests.store.conftest import commit
from tests.store.specs import HOSTS, three_tasks
from tests.store.walks import BEGIN, Walk, ask, cancel, failure

ALL = WorkflowQuery()
ATTENTION = WorkflowQuery(needs_attention=True)


def placed_anywhere(attempts_max: int = 1) -> WorkflowSpec:
    """Returns a task that names no host."""
    node = task("a", action=Noop(), policy=policy(retry=retry(attempts_max)))
    return workflow_spec("placed", sequence("root", node))


async def listed(store: Store, query: WorkflowQuery = ALL) -> list[str]:
    return [each.id for each in (await store.query(query)).workflows]


async def shown(store: Store, workflow_id: str) -> WorkflowSummary:
    page = await store.query(WorkflowQuery())
    return next(each for each in page.workflows if each.id == workflow_id)


def short(workflow_id: str, *, later: timedelta = timedelta(0)) -> Walk:
    """Returns a workflow that is to run to its end."""
    return Walk(workflow_id, spec=three_tasks(), begin=BEGIN + later)


async def run(store: Store, walk: Walk) -> None:
    """Commits a workflow of three tasks from its start to its end."""
    await commit(store, walk.change, walk.succeed(), walk.succeed(), walk.succeed())


# -- what is shown --------------------------------------------------------------------------------


async def test_a_summary_says_of_a_workflow_what_its_record_says(store: Store):
    walks = [Walk(f"w-{n}", seed=n, labels={"vm": "7", "env": "test"}) for n in range(20)]
    for walk in walks:
        await commit(store, walk.change)
        for _ in range(60):
            if change := walk.step():
                await commit(store, change)

    page = await store.query(WorkflowQuery(limit=100))

    assert [each.id for each in page.workflows] == [walk.workflow.id for walk in reversed(walks)]
    for summary, walk in zip(page.workflows, reversed(walks), strict=True):
        _agrees(summary, walk.workflow)
    assert len({summary.state for summary in page.workflows}) > 2


def _agrees(summary: WorkflowSummary, workflow: Workflow) -> None:
    own = ("state", "version", "sequence", "owner_epoch", "cause", "verdict", "locked", "pause")
    for name in (*own, "create_time", "update_time", "end_time", "settled"):
        assert getattr(summary, name) == getattr(workflow, name), name
    about = workflow.about
    assert summary.about.labels == tuple(sorted(about.labels))
    assert not summary.about.input
    for name in ("kind", "principal", "traceparent", "forked_from"):
        assert getattr(summary.about, name) == getattr(about, name), name
    tasks = [task for _, task in workflow.tasks()]
    assert summary.counts == Counter(task.state for task in tasks)
    actions = [task.action for task in tasks]
    assert summary.done == sum(a.done for a in actions if a and a.state == "SUCCEEDED")
    if not workflow.settled:
        stuck = TaskState.COMPENSATION_BLOCKED
        assert summary.needs == sum(t.needs_decision or t.state is stuck for t in tasks)


async def test_effects_that_a_settled_workflow_left_are_listed(store: Store):
    first = task("first", host="host-1", action=Noop())
    second = task("second", host="host-1", action=Noop())
    stops = policy(on_failure=Policy.ON_FAILURE_STOP)
    walk = Walk("a", spec=workflow_spec("stops", sequence("root", first, second), policy=stops))
    await commit(store, walk.change, walk.succeed())
    assert (await shown(store, "a")).leftovers == ()

    wrong = failure(walk.random)
    await commit(store, walk.must(events.AttemptFailed(task=2, number=1, failure=wrong)))

    assert walk.workflow.state is WorkflowState.FAILED
    end = walk.workflow.task(1).last.end_time
    assert end
    assert (await shown(store, "a")).leftovers == (
        LeftoverSummary(
            task="first", attempt=1, host="host-1", verb="noop", reason="STOPPED", time=end
        ),
    )


# -- which are shown ------------------------------------------------------------------------------


async def test_the_host_of_a_task_is_where_it_was_last_placed(store: Store):
    """S-G7: a retry goes to another host, and lists follow it there."""
    walk = Walk("a", spec=placed_anywhere(attempts_max=2))
    await commit(store, walk.change)
    on = {host: WorkflowQuery(host=host) for host in HOSTS}
    assert [await listed(store, query) for query in on.values()] == [[], [], []]

    await commit(store, walk.must(events.HostChosen(task=1, number=1, host="host-1")))
    assert [await listed(store, query) for query in on.values()] == [[], ["a"], []]

    busy = failure(walk.random)
    while not busy.retriable:
        busy = failure(walk.random)
    await commit(store, walk.must(events.AttemptFailed(task=1, number=1, failure=busy)))
    due = events.TimerFired(timer=Timer.DUE, task=1, number=2)
    await commit(
        store, walk.must(due), walk.must(events.HostChosen(task=1, number=2, host="host-2"))
    )
    assert [await listed(store, query) for query in on.values()] == [[], [], ["a"]]


async def test_those_that_need_somebody_are_listed(store: Store):
    paused, going, done, held = (
        Walk(name, spec=three_tasks()) for name in ("paused", "going", "done", "held")
    )
    await run(store, done)
    await commit(store, going.change, held.change, held.quarantine(), paused.change)
    await commit(store, paused.must(events.PauseRequested(ask=ask())), paused.succeed())
    assert paused.workflow.state is WorkflowState.PAUSED

    assert await listed(store, ATTENTION) == ["paused", "held"]
    states = frozenset({WorkflowState.RUNNING, WorkflowState.SUCCEEDED, WorkflowState.PAUSED})
    assert await listed(store, WorkflowQuery(needs_attention=True, states=states)) == ["paused"]
    assert await listed(store, WorkflowQuery(needs_attention=True, kind="four")) == []


async def test_a_task_that_needs_a_decision_has_its_workflow_listed_while_others_run(store: Store):
    """S-R14: a branch has failed, the other one still runs: PAUSING, and somebody may look."""
    members = [task(f"task-{n}", host=f"host-{n}", action=Noop()) for n in range(2)]
    pauses = policy(on_failure=Policy.ON_FAILURE_PAUSE)
    walk = Walk(
        "a", spec=workflow_spec("p", sequence("root", parallel("g", *members)), policy=pauses)
    )
    await commit(store, walk.change)
    assert await listed(store, ATTENTION) == []

    wrong = failure(walk.random)
    await commit(store, walk.must(events.AttemptFailed(task=2, number=1, failure=wrong)))

    assert walk.workflow.state is WorkflowState.PAUSING
    assert await listed(store, ATTENTION) == ["a"]
    assert await listed(store, WorkflowQuery(needs_attention=True, host="host-1")) == ["a"]
    assert await listed(store, WorkflowQuery(needs_attention=True, host="host-9")) == []
    assert (await shown(store, "a")).needs == 1


async def test_a_task_whose_owner_is_silent_has_its_workflow_listed_while_it_runs(store: Store):
    """S-V29: a host that is silent is told of hosts; of an owner only its tasks can tell."""
    walk = Walk("a", spec=external.own())
    await commit(store, walk.change)
    accepted = external.accept(walk)
    lost = events.AttemptLost(task=accepted.task, number=1, failure=failure(walk.random))
    await commit(store, walk.must(accepted))
    assert await listed(store, ATTENTION) == []
    await commit(store, walk.must(lost))
    assert await listed(store, ATTENTION) == ["a"]
    assert (await shown(store, "a")).needs == 1
    await commit(store, walk.must(accepted))
    assert await listed(store, ATTENTION) == []

    host = Walk("b", spec=three_tasks())
    await commit(store, host.change, host.must(replace(lost, task=1)))
    assert host.workflow.task(1).state is TaskState.UNKNOWN
    assert await listed(store, ATTENTION) == []


async def test_a_task_whose_owner_does_not_stop_has_its_workflow_listed(store: Store):
    """It is at work, as it says: nobody but people can do anything about that."""
    walk = Walk("a", spec=external.own())
    await commit(store, walk.change)
    accepted = external.accept(walk)
    await commit(store, walk.must(accepted), walk.must(cancel(walk.random)))
    assert await listed(store, ATTENTION) == []
    why = Failure(reason=STOPS_LATE, message="It is still at work.")
    late = events.OwnerSilent(task=accepted.task, number=1, failure=why)
    await commit(store, walk.must(late))
    assert walk.workflow.task(accepted.task).stops_late
    assert await listed(store, ATTENTION) == ["a"]
    assert (await shown(store, "a")).needs == 1
    stopped = events.AttemptCancelled(task=accepted.task, number=1)
    await commit(store, walk.must(stopped))
    assert await listed(store, ATTENTION) == []


# -- how long they are kept -----------------------------------------------------------------------


async def test_what_settled_before_a_time_is_removed_the_oldest_first(store: Store):
    """S-V33: the result stays readable for the retention time."""
    day = timedelta(days=1)
    for days, name in ((2, "young"), (1, "old"), (0, "older")):
        await run(store, short(name, later=days * day))
    going = Walk("going", spec=three_tasks())
    stop = short("stopped", later=timedelta(hours=1))
    await commit(store, going.change, stop.change)
    asked = stop.must(cancel(stop.random))
    await commit(store, asked)
    await commit(store, stop.must(events.AttemptCancelled(task=1, number=1)))
    assert stop.workflow.settled
    position = await store.position()
    before = BEGIN + 2 * day

    assert await store.expire(before=BEGIN, limit=10) == 0
    assert await store.expire(before=before, limit=1) == 1
    assert await listed(store) == ["stopped", "going", "old", "young"]
    assert await store.expire(before=before, limit=10) == 2
    assert await store.expire(before=before, limit=10) == 0

    assert await listed(store) == ["going", "young"]
    assert await store.load("old") is None
    assert await store.history("old", after=0, limit=10) == []
    assert await store.request("stopped-1") is None
    assert {e.workflow_id for e in await store.events(after=0, limit=1_000)} == {"young", "going"}
    assert await store.position() == position


async def test_positions_of_what_was_removed_are_not_given_again(store: Store):
    await run(store, short("a"))
    position = await store.position()
    await store.expire(before=BEGIN + timedelta(days=1), limit=10)
    assert (await store.position(), await listed(store)) == (position, [])

    await commit(store, short("b").change)

    assert [e.position for e in await store.events(after=position, limit=1)] == [position + 1]


async def test_a_removed_id_is_never_given_again(store: Store):
    """S-H10: what the first workflow of that name made, with its name on it, is still there."""
    await run(store, short("a"))
    await run(store, short("b"))
    await store.expire(before=BEGIN + timedelta(days=1), limit=1)
    await store.expire(before=BEGIN + timedelta(days=1), limit=1)
    await store.forgotten("host-1", ["a", "b"])

    for name in ("a", "b"):
        with pytest.raises(UsedIdError, match=f"workflow id '{name}' was used before"):
            await commit(store, short("c").change, short(name).change)
    assert await listed(store) == []


async def test_what_has_settled_is_known_for_ever(store: Store):
    """S-Z28: an agent is told to forget what is known to be over, and not what is not known."""
    await run(store, short("removed"))
    await store.expire(before=BEGIN + timedelta(days=1), limit=10)
    await run(store, short("over"))
    await commit(store, Walk("open", spec=three_tasks()).change)

    assert await store.settled(["open", "over", "removed", "unknown"]) == {"over", "removed"}
    assert await store.settled([]) == frozenset()


async def test_pages_go_on_where_workflows_were_removed_meanwhile(store: Store):
    for n in range(4):
        await run(store, short(f"w-{n}"))
    page = await store.query(WorkflowQuery(limit=2))

    await store.expire(before=BEGIN + timedelta(days=1), limit=3)

    assert await listed(store, WorkflowQuery(limit=2, after=page.next)) == []
    assert await listed(store) == ["w-3"]
