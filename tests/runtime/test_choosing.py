"""Hosts that the coordinator chooses, on the real loop and store; and windows of hosts."""

from __future__ import annotations

from datetime import timedelta

import pytest

from coordinator.agents.orders import CALLS_IN_FLIGHT_MAX
from coordinator.runtime import loop
from coordinator.runtime.ports import HostRecord, Order
from coordinator.saga.commands import Withdraw
from coordinator.saga.events import Ask, PauseRequested, ResumeRequested
from coordinator.saga.states import TaskState, WorkflowState
from countermand.client.spec import parallel, policy, retry, workflow_spec
from countermand.v1.attempt_pb2 import Attempt
from tests.runtime.rig import (
    NOW,
    Agent,
    Coordinator,
    coordinator,
    copy,
    noop,
    series,
    until,
)


def name(workflow_id: str, task: str, number: int = 1) -> str:
    return f"workflows/{workflow_id}/tasks/{task}/attempts/{number}"


def side_by_side(*members):
    return workflow_spec("test", parallel("all", *members))


async def ready(one: Coordinator, *hosts: str) -> None:
    await until(lambda: all(one.fleet.all()[host].state == "READY" for host in hosts))


# -- which ----------------------------------------------------------------------------------------


async def test_a_task_without_a_host_goes_to_one_that_reaches_its_pools(tmp_path) -> None:
    agents = {"a": Agent(pools=("slow",)), "b": Agent(pools=("slow", "fast"))}
    async with coordinator(tmp_path, agents) as one:
        await ready(one, "a", "b")
        await one.start("w", series(copy("only", "slow/base", "fast/vm")))
        await until(lambda: agents["b"].tasks == ["only"])
        assert agents["a"].tasks == []
        workflow = one.known("w")
        assert workflow.task(workflow.plan.by_name["only"]).last.host == "b"


async def test_what_the_pools_are_may_come_from_the_input_and_from_tasks(tmp_path) -> None:
    agents = {"a": Agent(pools=("slow",)), "b": Agent(pools=("slow", "fast"))}
    task = copy("only", "slow/base", "slow/vm", bindings={"target.pool_id": "input.pool"})
    async with coordinator(tmp_path, agents) as one:
        await ready(one, "a", "b")
        await one.start("w", series(task), pool="fast")
        await until(lambda: agents["b"].tasks == ["only"])


async def test_tasks_are_spread_over_hosts_although_nothing_of_them_is_heard_yet(tmp_path) -> None:
    """All are chosen for in one turn: what was just placed counts."""
    agents = {host: Agent(pools=("p",)) for host in ("a", "b", "c")}
    tasks = [copy(f"copy-{n}", "p/base", f"p/vm-{n}") for n in range(9)]
    async with coordinator(tmp_path, agents) as one:
        await ready(one, *agents)
        await one.start("w", side_by_side(*tasks))
        await until(lambda: sum(len(agent.sent) for agent in agents.values()) == 9)
        assert [len(agent.sent) for agent in agents.values()] == [3, 3, 3]
        assert not any(one.fleet.expected(host) for host in agents), "all of it is durable now"


async def test_a_retry_goes_to_a_host_on_which_it_has_not_failed(tmp_path) -> None:
    """S-G7: and back to the first only if there is no other."""
    agents = {"a": Agent(), "b": Agent()}
    again = policy(retry=retry(3, delay=timedelta(milliseconds=1), reasons=[""]))
    async with coordinator(tmp_path, agents) as one:
        await ready(one, "a", "b")
        task = noop("only", "a", candidate_hosts=["b"], policy=again)
        await one.start("w", series(task))
        await until(lambda: agents["a"].sent)
        agents["a"].end(name("w", "only", 1), Attempt.STATE_FAILED)
        await until(lambda: agents["b"].sent)
        agents["b"].end(name("w", "only", 2), Attempt.STATE_FAILED)
        await until(lambda: len(agents["a"].sent) == 2)


async def test_a_task_waits_until_a_host_can_take_it_and_says_why(tmp_path) -> None:
    agents = {"a": Agent(pools=("slow",)), "b": Agent(pools=("fast",), up=False)}
    async with coordinator(tmp_path, agents) as one:
        await ready(one, "a")
        await one.start("w", series(copy("only", "fast/base", "fast/vm")))
        await until(lambda: one.waits("w", "only"))
        assert one.task("w", "only") is TaskState.READY
        assert one.waits("w", "only") == (
            "no READY host reaches pool 'fast'; a reaches 'slow'; b is connecting"
        )
        agents["b"].up = True
        await until(lambda: agents["b"].tasks == ["only"])
        assert one.waits("w", "only") == ""


async def test_a_host_that_is_added_gets_what_waits(tmp_path) -> None:
    agents = {"a": Agent()}
    async with coordinator(tmp_path, agents) as one:
        await one.fleet.end("a")
        await one.start("w", series(noop("only")))
        await until(lambda: one.waits("w", "only"))
        agents["new"] = Agent()
        await one.fleet.begin(HostRecord(id="new", address="new", create_time=NOW), wait_s=5)
        await until(lambda: agents["new"].tasks == ["only"])


async def test_what_turned_round_is_looked_for_no_more(tmp_path) -> None:
    agents = {"a": Agent(pools=("p",)), "b": Agent(pools=("fast",), up=False)}
    async with coordinator(tmp_path, agents) as one:
        await one.start("w", series(copy("only", "fast/base", "fast/vm")))
        await until(lambda: one.waits("w", "only"))
        await one.cancel("w")
        await until(lambda: one.state("w") is WorkflowState.COMPENSATED)
        assert one.fleet._wishes == {}
        agents["b"].up = True
        await ready(one, "b")
        assert agents["b"].sent == []


async def test_what_is_quarantined_is_looked_for_no_more(tmp_path, monkeypatch) -> None:
    """S-V25: nor does it count as a task that its host will get."""
    agents = {"b": Agent(up=False)}
    async with coordinator(tmp_path, agents) as one:
        await one.start("w", series(noop("only")))
        await until(lambda: one.waits("w", "only"))
        monkeypatch.setattr(loop, "advance", lambda *_: 1 / 0)
        await one.cancel("w")
        assert one.state("w") is WorkflowState.QUARANTINED
        agents["b"].up = True
        await ready(one, "b")
        assert (one.fleet.expected("b"), agents["b"].sent) == ((), [])


async def test_what_is_paused_gets_no_host_before_it_goes_on(tmp_path) -> None:
    agents = {"b": Agent(up=False)}
    async with coordinator(tmp_path, agents) as one:
        await one.start("w", series(noop("only")))
        await until(lambda: one.waits("w", "only"))
        await one.pause("w")
        agents["b"].up = True
        await ready(one, "b")
        assert (one.state("w"), agents["b"].sent) == (WorkflowState.PAUSED, [])
        assert one.fleet.expected("b") == ()
        await one.resume("w")
        await until(lambda: agents["b"].tasks == ["only"])


async def test_what_waits_for_a_host_waits_on_after_a_restart(tmp_path) -> None:
    agents = {"b": Agent(up=False)}
    async with coordinator(tmp_path, agents) as one:
        await one.start("w", series(noop("only")))
    agents["b"].up = True
    async with coordinator(tmp_path, agents) as one:
        await until(lambda: agents["b"].tasks == ["only"])


# -- draining -------------------------------------------------------------------------------------


async def test_a_draining_host_gets_nothing_new_also_after_a_restart(tmp_path) -> None:
    """S-V34."""
    agents = {"a": Agent()}
    async with coordinator(tmp_path, agents) as one:
        await ready(one, "a")
        await one.fleet.drain("a")
        await one.start("w", series(noop("only")))
        await until(lambda: one.waits("w", "only"))
        assert one.waits("w", "only") == "no READY host can noop; a is draining"
    async with coordinator(tmp_path, agents) as one:
        await ready(one, "a")
        assert one.fleet.all()["a"].record.draining
        await until(lambda: one.waits("w", "only"))
        assert agents["a"].sent == []
        await one.fleet.undrain("a")
        await until(lambda: agents["a"].tasks == ["only"])


async def test_a_task_goes_to_a_draining_host_only_if_it_can_go_nowhere_else(tmp_path) -> None:
    """Who named it before the drain is not locked out: the drain waits for the task."""
    agents = {"a": Agent(), "b": Agent(up=False), "c": Agent()}
    async with coordinator(tmp_path, agents) as one:
        await ready(one, "a", "c")
        await one.fleet.drain("a")
        await one.start("w", series(noop("only", "a", candidate_hosts=["b"])))
        await until(lambda: one.waits("w", "only"))
        assert "a is draining; b is connecting" in one.waits("w", "only")
        await one.fleet.drain("b")
        await one.start("v", series(noop("only", "a", candidate_hosts=["b"])))
        await until(lambda: agents["a"].tasks == ["only"])


@pytest.mark.parametrize(
    ("host", "pool", "said"),
    [
        ("a", "fast", None),
        ("b", "fast", "host 'b' is draining: it gets no new tasks; choose another"),
        ("c", "fast", "host 'c' reaches no pool 'fast'; it reaches: slow"),
        ("silent", "fast", None),
        ("nobody", "fast", "there is no host 'nobody'; known: a, b, c, silent"),
        ("", "fast", None),
    ],
)
async def test_where_something_new_may_run_is_known_when_it_is_submitted(
    tmp_path, host, pool, said
) -> None:
    agents = {
        "a": Agent(pools=("fast",)),
        "b": Agent(pools=("fast",)),
        "c": Agent(pools=("slow",)),
        "silent": Agent(up=False),
    }
    async with coordinator(tmp_path, agents) as one:
        await ready(one, "a", "b", "c")
        await one.fleet.drain("b")
        assert one.fleet.placement_problem(host, frozenset({pool}), "copy_image") == said


async def test_where_nobody_can_do_it_every_host_is_told(tmp_path) -> None:
    agents = {"a": Agent(pools=("fast",)), "c": Agent(pools=("slow",))}
    async with coordinator(tmp_path, agents) as one:
        await ready(one, "a", "c")
        await one.fleet.drain("a")
        assert one.fleet.placement_problem("", frozenset({"fast"}), "copy_image") == (
            "no host reaches pool 'fast'; a is draining; c reaches 'slow'"
        )


# -- windows --------------------------------------------------------------------------------------


async def test_a_host_is_asked_for_so_much_at_once_and_the_rest_goes_by_priority(tmp_path) -> None:
    agent = Agent()
    urgent = noop("urgent", "a", policy=policy(priority=10))
    async with coordinator(tmp_path, {"a": agent}, window=2) as one:
        await ready(one, "a")
        await one.start("out", side_by_side(noop("one", "a"), noop("two", "a")))
        await until(lambda: len(agent.sent) == 2)
        await one.start("w", side_by_side(noop("first", "a"), noop("second", "a"), urgent))
        await until(lambda: one.fleet.all()["a"].waiting == 3)
        host = one.fleet.all()["a"]
        assert (host.open_attempts, host.window) == (2, 2)
        for number in range(5):
            await until(lambda number=number: len(agent.sent) == min(5, 2 + number))  # type: ignore[misc]
            agent.end(agent.sent[number])
        assert agent.tasks == ["one", "two", "urgent", "first", "second"]


async def test_what_waits_for_a_slot_says_where_it_stands(tmp_path) -> None:
    agent = Agent()
    async with coordinator(tmp_path, {"a": agent}, window=1) as one:
        await ready(one, "a")
        for number in range(4):
            await one.start(f"w-{number}", series(noop("only", "a")))
            await until(lambda: agent.sent)
        await until(lambda: one.waits("w-3", "only"))
        assert [one.waits(f"w-{number}", "only") for number in range(4)] == [
            "",
            "a slot on a, 1st in line",
            "a slot on a, 2nd in line",
            "a slot on a, 3rd in line",
        ]
        agent.end(name("w-0", "only"))
        await until(lambda: len(agent.sent) == 2)
        assert one.waits("w-3", "only") == "a slot on a, 2nd in line"


async def test_what_is_cancelled_in_line_never_went_out_and_ends_cancelled(tmp_path) -> None:
    """S-V19: nobody asks the agent about it, and nothing is compensated."""
    agent = Agent()
    async with coordinator(tmp_path, {"a": agent}, window=1) as one:
        await ready(one, "a")
        await one.start("out", series(noop("only", "a")))
        await until(lambda: agent.sent)
        await one.start("in-line", series(noop("only", "a")))
        await until(lambda: one.waits("in-line", "only"))
        await one.cancel("in-line")
        await until(lambda: one.known("in-line").settled)
        assert one.task("in-line", "only") is TaskState.CANCELLED
        assert (agent.tasks, agent.cancelled) == (["only"], [])


async def test_what_is_cancelled_before_its_call_has_begun_is_not_sent_afterwards(tmp_path) -> None:
    """S-Z2: it has a slot, and waits behind calls that an agent does not answer."""
    agent = Agent(mute=True)
    stuck = [noop(f"t-{n}", "a") for n in range(CALLS_IN_FLIGHT_MAX)]
    async with coordinator(tmp_path, {"a": agent}, window=2 * CALLS_IN_FLIGHT_MAX) as one:
        await ready(one, "a")
        await one.start("stuck", side_by_side(*stuck))
        await one.start("late", series(noop("only", "a")))
        await until(lambda: one.fleet.all()["a"].open_attempts == CALLS_IN_FLIGHT_MAX + 1)
        await one.cancel("late")
        await until(lambda: one.known("late").settled)
        assert one.task("late", "only") is TaskState.CANCELLED
        agent.speak()
        for number in range(CALLS_IN_FLIGHT_MAX):
            await until(lambda number=number: len(agent.sent) > number)  # type: ignore[misc]
            agent.end(agent.sent[number])
        await until(lambda: one.known("stuck").settled)
        assert "only" not in agent.tasks


async def test_compensations_and_cancels_need_no_slot(tmp_path) -> None:
    agent = Agent(pools=("p",))
    async with coordinator(tmp_path, {"a": agent}, window=1) as one:
        await ready(one, "a")
        both = series(copy("first", "p/base", "p/vm", "a"), noop("then", "a"))
        await one.start("w", both)
        await until(lambda: agent.sent)
        agent.end(name("w", "first"))
        await until(lambda: agent.tasks == ["first", "then"])
        await one.start("other", series(noop("only", "a")))
        await one.cancel("w")  # its task holds the only slot
        await until(lambda: agent.tasks.count("first") == 2)  # the second is its compensation
        assert agent.cancelled == [name("w", "then")]


async def test_what_was_out_before_a_restart_takes_its_slot_again(tmp_path) -> None:
    agent = Agent()
    tasks = [noop(f"t-{n}", "a") for n in range(6)]
    async with coordinator(tmp_path, {"a": agent}, window=2) as one:
        await ready(one, "a")
        await one.start("w", side_by_side(*tasks))
        await until(lambda: len(agent.sent) == 2)
    async with coordinator(tmp_path, {"a": agent}, window=2) as one:
        await until(lambda: one.fleet.all()["a"].waiting == 4)
        assert len(agent.sent) == 2, "the rest was not sent before, and still waits"
        for number in range(6):
            await until(lambda number=number: len(agent.sent) > number)  # type: ignore[misc]
            agent.end(agent.sent[number])
        await until(lambda: one.known("w").settled)
        assert len(agent.sent) == len(set(agent.sent)) == 6


async def test_a_slow_host_delays_no_other(tmp_path) -> None:
    """S-V20."""
    agents = {"slow": Agent(mute=True), "quick": Agent()}
    async with coordinator(tmp_path, agents, window=2) as one:
        await ready(one, "slow", "quick")
        stuck = [noop(f"s-{n}", "slow") for n in range(200)]
        await one.start("stuck", side_by_side(*stuck))
        await one.start("goes", series(*(noop(f"q-{n}", "quick") for n in range(5))))
        for number in range(5):
            await until(lambda number=number: len(agents["quick"].sent) > number)  # type: ignore[misc]
            agents["quick"].end(agents["quick"].sent[number])
        await until(lambda: one.state("goes") is WorkflowState.SUCCEEDED)
        assert agents["slow"].sent == []


async def test_what_somebody_has_decided_about_is_seen_to_no_more(tmp_path) -> None:
    agent = Agent()
    async with coordinator(tmp_path, {"a": agent}, window=1) as one:
        await ready(one, "a")
        await one.start("w", series(noop("only", "a")))
        await until(lambda: agent.sent)
        await one.start("next", series(noop("only", "a")))
        workflow = one.known("w")
        index = workflow.plan.by_name["only"]
        command = Withdraw(task=index, number=1, host="a")
        one.fleet.deliver(Order(workflow=workflow, command=command))
        await until(lambda: agent.sent[1:] == [name("next", "only")])
        agent.end(name("w", "only"))
        agent.end(name("next", "only"))
        await until(lambda: one.known("next").settled)
        assert one.task("w", "only") is TaskState.RUNNING, "nobody listens to it any more"


async def test_what_a_restart_put_in_line_is_cancelled_by_asking_its_agent(tmp_path) -> None:
    """S-Z2: the life before may have sent it, and it may still be on its way."""
    agent = Agent()
    async with coordinator(tmp_path, {"a": agent}, window=1) as one:
        await ready(one, "a")
        await one.start("out", series(noop("only", "a")))
        await until(lambda: agent.sent)
        await one.start("in-line", series(noop("only", "a")))
    async with coordinator(tmp_path, {"a": agent}, window=1) as one:
        await until(lambda: one.waits("in-line", "only"))
        await one.cancel("in-line")
        await until(lambda: one.known("in-line").settled)
        assert agent.cancelled == [name("in-line", "only")]
        assert one.waits("in-line", "only") == ""


async def test_what_stands_in_line_is_taken_back_by_a_pause(tmp_path) -> None:
    """S-A1, S-R1: it has not been sent, and is not until the resume."""
    agent = Agent()
    async with coordinator(tmp_path, {"a": agent}, window=1) as one:
        await ready(one, "a")
        await one.start("w", side_by_side(noop("one", "a"), noop("two", "a"), noop("three", "a")))
        await until(lambda: agent.sent == [name("w", "one")])
        ask = Ask(principal="eve", reason="because", request_id="p")
        await one.loop.ask("w", PauseRequested(ask=ask))
        await until(lambda: one.task("w", "three") is TaskState.READY)
        assert one.task("w", "two") is TaskState.READY
        assert one.state("w") is WorkflowState.PAUSING, "what was sent ends by itself"
        agent.end(name("w", "one"))
        await until(lambda: one.state("w") is WorkflowState.PAUSED)
        assert agent.sent == [name("w", "one")]
        await one.loop.ask("w", ResumeRequested(ask=ask))
        for number, task in ((1, "two"), (2, "three")):
            await until(lambda number=number: len(agent.sent) > number)  # type: ignore[misc]
            assert agent.sent[number] == name("w", task, 2)
            agent.end(agent.sent[number])
        await until(lambda: one.state("w") is WorkflowState.SUCCEEDED)
