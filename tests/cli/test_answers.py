"""What `workflow get` says first: the banner of the page, from tasks alone."""

from __future__ import annotations

import pytest

from countermand.drawing import answers, next_steps
from countermand.drawing.next_steps import resume_command
from countermand.v1.event_pb2 import Leftover
from countermand.v1.failure_pb2 import Failure
from countermand.v1.task_pb2 import Task, TaskDecision
from countermand.v1.workflow_pb2 import Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState as W


def task(name: str, state: str, host: str = "host-a", **fields: object) -> Task:
    given: dict[str, object] = {"opposite": "delete the copy", **fields}
    made = Task(
        name=f"workflows/w/tasks/{name}",
        kind=Task.KIND_VERB,
        verb="copy_image",
        state=Task.State.Value(f"STATE_{state}"),
        host_id=host,
        **given,  # type: ignore[arg-type]
    )
    if state not in ("PENDING", "SKIPPED"):
        made.start_time.seconds = 1
    return made


def failed(name: str, message: str, host: str = "host-b") -> Task:
    failure = Failure(reason="NO_SPACE", message=message, host_id=host)
    return task(name, "FAILED", host, failure=failure)


def workflow(state: str, cause: Failure | None = None, **fields: object) -> Workflow:
    number = W.Value(f"WORKFLOW_STATE_{state}")
    made = Workflow(name="workflows/w", state=number, cause=cause, **fields)  # type: ignore[arg-type]
    if state in ("COMPENSATED", "FAILED", "SUCCEEDED"):
        made.end_time.seconds = 9
    return made


def cause(of: str, message: str) -> Failure:
    name = f"workflows/w/tasks/{of}/attempts/1"
    return Failure(reason="NO_SPACE", message=message, attempt=name, host_id="host-b")


def test_every_task_that_failed_is_named_and_what_was_made_up_for_in_its_order() -> None:
    tasks = [
        task("a", "COMPENSATED"),
        task("b", "COMPENSATED", "host-b"),
        failed("c", "Pool small has no room. Free space in it."),
        failed("d", "Pool small has no room either."),
    ]
    tasks[0].end_time.seconds, tasks[1].end_time.seconds = 8, 7
    one = workflow("COMPENSATED", cause("c", "Pool small has no room. Free space in it."))
    assert list(answers.lines(one, tasks)) == [
        "what failed: c on host-b: pool small has no room (NO_SPACE)",
        "             d on host-b: pool small has no room either",
        "made up for: b on host-b: delete the copy",
        "             a on host-a: delete the copy",
        "left: nothing",
    ]


def test_who_gave_up_and_what_was_done_by_hand_is_said() -> None:
    by_hand = TaskDecision(verb="mark-compensated", principal="ann", reason="removed")
    gave_up = TaskDecision(verb="compensate", principal="bob", reason="no use")
    tasks = [task("a", "COMPENSATED", decided=by_hand), failed("c", "No room.")]
    tasks[1].decided.CopyFrom(gave_up)
    assert list(answers.lines(workflow("COMPENSATED", cause("c", "No room.")), tasks)) == [
        "what failed: c on host-b: no room (NO_SPACE)",
        "given up by bob: no use",
        "made up for: a on host-a: marked done by ann: removed",
        "left: nothing is known to be",
    ]


def test_what_is_blocked_stands_apart_and_nothing_is_said_of_what_is_left() -> None:
    why = Failure(reason="POOL_READ_ONLY", message="The array is read-only.")
    tasks = [task("a", "COMPENSATION_BLOCKED", compensation_failure=why), failed("c", "No room.")]
    assert list(answers.lines(workflow("BLOCKED", cause("c", "No room.")), tasks)) == [
        "what failed: c on host-b: no room (NO_SPACE)",
        "made up for: nothing so far",
        "not made up for: a on host-a: delete the copy: the array is read-only",
    ]


def test_what_is_still_to_be_made_up_for_is_named() -> None:
    why = Failure(reason="POOL_READ_ONLY", message="The array is read-only.")
    tasks = [
        task("a", "SUCCEEDED"),
        task("b", "COMPENSATION_BLOCKED", compensation_failure=why),
        failed("c", "No room."),
    ]
    assert list(answers.lines(workflow("BLOCKED", cause("c", "No room.")), tasks)) == [
        "what failed: c on host-b: no room (NO_SPACE)",
        "made up for: nothing so far",
        "not made up for: b on host-a: delete the copy: the array is read-only",
        "still to be made up for: a on host-a: delete the copy",
    ]


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ((), "Nothing: everything took effect."),
        (("SKIPPED",), "Nothing: everything but what was skipped took effect."),
        (("SKIPPED", "FAILED"), "Nothing: everything but what was skipped or failed took effect."),
    ],
)
def test_what_was_never_done_is_not_said_to_have_taken_effect(states, said) -> None:
    one = workflow("SUCCEEDED")
    for state in ("SUCCEEDED", *states):
        one.task_counts.add(state=Task.State.Value(f"STATE_{state}"), count=1)
    assert [step.words for step in next_steps.of(one)] == [said]


def test_an_order_is_why_it_ended_and_what_policy_keeps_is_not_nothing() -> None:
    stopped = Failure(reason="CANCELLED", message="Cancelled by ann: wrong template.")
    assert list(answers.lines(workflow("COMPENSATED", stopped), [task("a", "COMPENSATED")])) == [
        "why it ended: cancelled by ann: wrong template",
        "made up for: a on host-a: delete the copy",
        "left: nothing",
    ]
    kept = Leftover(task="workflows/w/tasks/a", description="the copy p/a", reason="STOPPED")
    one = workflow("FAILED", cause("c", "No room."), leftovers=[kept])
    assert list(answers.lines(one, [task("a", "SUCCEEDED"), failed("c", "No room.")])) == [
        "what failed: c on host-b: no room (NO_SPACE)",
        "made up for: nothing",
    ]


def test_how_a_held_one_goes_on_is_said_once() -> None:
    command = "countermand workflow resume w"
    paused = workflow("PAUSED")
    paused.needs.add(reason="DECISION", message="c failed. Possible: rerun.")
    assert resume_command(paused) == command
    paused.needs[0].message = f"Paused by ann: later. Go on: `{command}`."
    assert resume_command(paused) == ""
    assert resume_command(workflow("RUNNING")) == ""


def test_of_what_went_well_the_sentence_counts() -> None:
    done = task("a", "SUCCEEDED")
    done.progress.done = 4 << 20
    said = list(answers.lines(workflow("SUCCEEDED"), [done, task("b", "SKIPPED")]))
    assert said == ["1 task on 1 host took effect, 4.00 MiB copied; 1 skipped."]
