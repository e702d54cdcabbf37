"""What a workflow is shown as: groups by their members, waits and needs in words. No I/O."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from coordinator.api.deciding import ALLOWED
from coordinator.api.shown import _line
from coordinator.api.summary import summary_to_proto
from coordinator.runtime.locks import Lines
from coordinator.saga import external, requests
from coordinator.saga.advance import advance, start
from coordinator.saga.commands import Timer
from coordinator.saga.events import (
    Ask,
    AttemptAccepted,
    AttemptFailed,
    AttemptLost,
    AttemptSucceeded,
    Event,
    Now,
    PauseRequested,
    TimerFired,
)
from coordinator.saga.spec import Lock
from coordinator.saga.workflow import About, Failure, Workflow
from coordinator.store.summaries import summary_of
from coordinator.wire import view
from coordinator.wire.spec import plan_of
from countermand.client.spec import (
    equals,
    for_each,
    nested,
    parallel,
    policy,
    retry,
    sequence,
    task,
    workflow_spec,
)
from countermand.v1.task_pb2 import Task
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_spec_pb2 import Node, Policy

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
IGNORE = policy(on_failure=Policy.ON_FAILURE_IGNORE)
PAUSE = policy(on_failure=Policy.ON_FAILURE_PAUSE)
NO_SPACE = Failure(reason="NO_SPACE", message="Pool fast is full.", host="a")


def now() -> Now:
    return Now(time=NOON, jitter=0.0, intent=1)


def noop(name: str, **fields) -> Node:
    return task(name, host="a", action=Noop(), **fields)


class Told:
    """A workflow that is told what happens to it."""

    def __init__(self, *members: Node, input_: dict[str, object] | None = None, **spec) -> None:
        given = json_format.ParseDict(input_ or {}, Struct())
        plan = plan_of(workflow_spec("told", sequence("all", *members), **spec), given)
        made = start(workflow_id="w", about=About(kind="told"), plan=plan, owner_epoch=1, now=now())
        self.workflow: Workflow = made.workflow

    def hear(self, event: Event) -> None:
        decision = advance(self.workflow, event, now())
        assert decision.refusal is None, decision.refusal
        self.workflow = decision.workflow

    def index(self, name: str) -> int:
        return self.workflow.plan.by_name[name]

    def number(self, name: str) -> int:
        return len(self.workflow.task(self.index(name)).attempts)

    def done(self, name: str) -> None:
        self.hear(AttemptSucceeded(task=self.index(name), number=self.number(name)))

    def fails(self, name: str) -> None:
        number = self.number(name)
        self.hear(AttemptFailed(task=self.index(name), number=number, failure=NO_SPACE))

    def works(self, name: str) -> None:
        self.hear(AttemptAccepted(task=self.index(name), number=self.number(name)))

    def pause(self, **fields) -> None:
        ask = Ask(principal="ann", reason="maintenance", request_id="r")
        self.hear(PauseRequested(ask=ask, **fields))

    def shown(self, name: str) -> Task:
        return view.task_to_proto(self.workflow, self.index(name), {}, full=True)

    def state(self, name: str) -> str:
        return Task.State.Name(self.shown(name).state).removeprefix("STATE_")


def test_a_task_that_nobody_knows_about_says_what_is_known():
    told = Told(noop("one"))
    told.hear(AttemptLost(task=told.index("one"), number=1, failure=NO_SPACE))
    assert (told.state("one"), told.shown("one").failure.reason) == ("UNKNOWN", "NO_SPACE")
    told.works("one")
    assert (told.state("one"), told.shown("one").HasField("failure")) == ("RUNNING", False)


# -- groups -------------------------------------------------------------------------------------


def test_a_failure_that_is_allowed_does_not_make_its_group_fail():
    """S-V17: the task shows it, and that it was optional."""
    told = Told(parallel("both", noop("one", policy=IGNORE), noop("two")), noop("then"))
    told.fails("one")
    told.done("two")
    assert (told.state("one"), told.shown("one").optional_by_policy) == ("FAILED", True)
    assert told.state("both") == "SUCCEEDED"
    assert told.shown("both").failure.message == (
        "1 of 2 failed: one: NO_SPACE: Pool fast is full."
    )


def test_a_group_with_enough_successes_has_succeeded():
    told = Told(
        parallel("three", *(noop(f"t{n}") for n in range(3)), min_success=2, policy=IGNORE),
        noop("then"),
    )
    told.fails("t0")
    told.done("t1")
    assert told.state("three") == "STARTING"
    told.done("t2")
    assert told.state("three") == "SUCCEEDED"


def test_what_became_of_a_group_counts_more_than_its_members():
    """A recovery that succeeded closes the failure; until then the group is at work."""
    recover = policy(on_failure=Policy.ON_FAILURE_RECOVER)
    told = Told(sequence("tried", noop("one"), recovery=[noop("mend")], policy=recover))
    told.fails("one")
    assert (told.state("tried"), told.state("mend")) == ("RUNNING", "STARTING")
    told.done("mend")
    assert told.state("tried") == "SUCCEEDED"


def test_a_group_that_begins_again_says_which_round():
    """S-G6, as far as it shows."""
    told = Told(sequence("tried", noop("one"), noop("two"), rounds_max=3))
    assert told.shown("tried").round == 1
    told.done("one")
    told.fails("two")
    assert told.state("tried") == "COMPENSATING"
    told.done("one")
    assert (told.state("tried"), told.shown("tried").round) == ("STARTING", 2)
    assert told.shown("one").round == 0


def test_a_condition_that_does_not_hold_skips_its_group():
    told = Told(
        sequence("maybe", noop("one"), when=equals("input.mode", "fast")),
        noop("then"),
        input_={"mode": "slow"},
    )
    assert (told.state("maybe"), told.state("one")) == ("SKIPPED", "SKIPPED")


@pytest.mark.parametrize("items", [[], ["x", "y"]])
def test_items_and_nested_workflows_are_groups(items):
    """S-C6: a fan-out over nothing has succeeded at once."""
    inner = workflow_spec("inner", sequence("in", noop("deep")))
    told = Told(
        for_each(parallel("each", noop("it")), "input.items", "item"),
        nested("child", inner),
        input_={"items": items},
    )
    for place in range(len(items)):
        told.done(f"it.{place}")
    assert told.state("each") == "SUCCEEDED"
    assert told.shown("child").kind == Task.KIND_WORKFLOW
    assert told.shown("child.deep").parent == "workflows/w/tasks/child"


def test_end_actions_that_do_not_run_are_skipped():
    told = Told(noop("one"), on_success=[noop("yes")], on_failure=[noop("no")])
    told.done("one")
    assert (told.state("on-success"), told.state("on-failure")) == ("STARTING", "SKIPPED")
    assert (told.shown("yes").end_action, told.shown("one").end_action) == (True, False)
    told.done("yes")
    assert told.workflow.settled


def test_of_many_failures_a_group_names_the_first_ones():
    """S-C7."""
    told = Told(parallel("many", *(noop(f"t{n}") for n in range(20)), policy=PAUSE))
    for place in range(12):
        told.fails(f"t{place}")
    said = told.shown("many").failure
    assert said.message.startswith("12 of 20 failed: t0: NO_SPACE: Pool fast is full. t1: ")
    assert said.message.endswith("t7: NO_SPACE: Pool fast is full. And 4 more.")
    assert dict(said.metadata) == {"failed": "12", "members": "20"}


# -- waits --------------------------------------------------------------------------------------


def test_each_wait_is_told_in_words():
    """A delay before or after, a place in a group, a pause, a retry: each says which."""
    before, after = timedelta(minutes=1), timedelta(minutes=2)
    told = Told(
        noop("late", policy=policy(wait_before=before, wait_after=after)),
        parallel("few", *(noop(f"t{n}") for n in range(4)), concurrency_max=2),
        noop("held", policy=policy(pause_before=True)),
    )
    assert told.shown("late").waits_for == (
        "a delay before it starts, until 2026-03-02T12:01:00+00:00"
    )
    told.hear(TimerFired(timer=Timer.DUE, task=told.index("late"), number=1))
    assert told.shown("late").waits_for == ""
    told.done("late")
    assert told.shown("late").waits_for == (
        "a delay before what follows, until 2026-03-02T12:02:00+00:00"
    )
    told.hear(TimerFired(timer=Timer.DUE, task=told.index("late"), number=2))
    assert [told.shown(f"t{n}").waits_for for n in range(4)] == [
        "",
        "",
        "a place in few, 2 at a time; 0 before it",
        "a place in few, 2 at a time; 1 before it",
    ]
    for place in range(4):
        told.done(f"t{place}")
    assert told.shown("held").waits_for == "a resume: paused before it"
    shown = view.workflow_to_proto(told.workflow, {})
    assert shown.waits_for == "a resume: paused before held, as its spec asks"
    [need] = shown.needs
    assert (need.reason, need.message) == (
        "PAUSED",
        "Paused before held, as its spec asks. Go on: `countermand workflow resume w`.",
    )


def test_a_retry_is_told_as_the_commands_expect_it():
    told = Told(noop("one"), noop("two"))
    told.done("one")
    told.fails("two")
    told.fails("one")
    assert told.shown("one").waits_for.startswith("attempt 3, due 2026-03-02T12:00:")


def test_a_delay_that_ends_in_a_pause_is_not_all_that_is_waited_for():
    """The time may be past: what a paused task waits for is the resume."""
    told = Told(
        parallel(
            "both",
            noop("late", policy=policy(wait_before=timedelta(minutes=1))),
            noop("failing", policy=policy(retry=retry(3))),
            noop("ended", policy=policy(wait_after=timedelta(minutes=2))),
        )
    )
    told.done("ended")
    again = replace(NO_SPACE, retriable=True)
    told.hear(AttemptFailed(task=told.index("failing"), number=1, failure=again))
    told.pause()
    assert told.shown("late").waits_for == "a resume, and not before 2026-03-02T12:01:00+00:00"
    waits_for = told.shown("failing").waits_for
    assert waits_for.startswith("a resume, and not before 2026-03-02T12:00:")
    # What has succeeded starts nothing: its delay goes on.
    assert told.shown("ended").waits_for.startswith("a delay before what follows, until ")


def test_a_compensation_that_a_pause_holds_says_so():
    told = Told(noop("one"), noop("two"))
    told.done("one")
    told.fails("two")
    told.fails("one")
    told.pause(hold_compensation=True)
    assert told.shown("one").waits_for == "a resume: the pause holds it"


def test_a_line_for_images_names_the_holder_and_the_place():
    """S-V24."""
    lines = Lines()
    disk = (Lock(pool="fast", image="disk", exclusive=True),)
    for workflow_id in ("first", "second", "third"):
        lines.ask(workflow_id, disk)
    assert _line(lines.view("third")) == (
        "images held by others: fast/disk (held by workflows/first; 2 before it in line)"
    )


# -- lists and refusals -------------------------------------------------------------------------


def test_a_list_tells_what_it_can_without_the_plan():
    """The same as the workflow itself, but for what only its tasks could tell."""
    told = Told(noop("one", policy=PAUSE), noop("two"))
    told.fails("one")
    whole = view.workflow_to_proto(told.workflow, {})
    listed = summary_to_proto(summary_of(told.workflow))
    for field in ("state", "name", "kind", "etag", "trace_id", "task_counts", "last_sequence"):
        assert getattr(listed, field) == getattr(whole, field), field
    reasons = [need.reason for need in listed.needs]
    assert reasons == ["PAUSED", "DECISION"]


def test_where_a_verb_is_possible_is_what_the_saga_says():
    assert ALLOWED == {
        "cancel": requests._CANCELLABLE,
        "pause": requests._PAUSABLE,
        "resume": requests._RESUMABLE,
        "fence": requests._FENCEABLE,
        "add": external._GROWING,
        "end": external._ENDABLE,
    }


def test_only_so_many_needs_are_told():
    told = Told(parallel("many", *(noop(f"t{n}") for n in range(50)), policy=PAUSE))
    for place in range(50):
        told.fails(f"t{place}")
    needs = view.workflow_to_proto(told.workflow, {}).needs
    assert len(needs) == 21
    assert "workflow requirements w" in needs[-1].message
