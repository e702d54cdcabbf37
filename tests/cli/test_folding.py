"""Timelines that are too long to be looked at: folded, or drawn in part."""

from __future__ import annotations

from countermand.drawing import svg
from countermand.drawing.excerpt import excerpt
from countermand.drawing.folding import folded
from countermand.drawing.timeline import timeline
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import TaskCount
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.cli.histories import NOON, Tale, no_space

COPIES = 40


def many(*, undone: bool = False) -> Tale:
    """Returns forty copies at once, of which one fails; or the others are made up for as well."""
    tale = Tale("many")
    tale.group("all")
    for number in range(COPIES):
        tale.plant(f"copy-{number}", parent="all", host="host-a")
    tale.begin()
    for number in range(COPIES):
        tale.starts(1.0, f"copy-{number}", run_s=1.0 + number / 10)
    failure = no_space("many", "copy-20", "host-a")
    for number in range(COPIES):
        if number == 20:
            tale.ends(9.0, "copy-20", "FAILED", failure=failure)
        else:
            tale.ends(8.0, f"copy-{number}", "SUCCEEDED", done=1024)
    if undone:
        tale.moves(9.0, WorkflowState.WORKFLOW_STATE_COMPENSATING, failure)
        for number in set(range(COPIES)) - {20}:
            tale.makes_up(9.5, f"copy-{number}")
            tale.ends(10.0, f"copy-{number}", "SUCCEEDED", n=2, to=Task.STATE_COMPENSATED)
        tale.moves(10.5, WorkflowState.WORKFLOW_STATE_COMPENSATED, failure)
    return tale


def test_what_went_well_stands_together_and_what_failed_alone() -> None:
    picture = folded(timeline(*many().told()), 12)
    assert [(row.task_id, row.folded) for row in picture.rows] == [
        ("copy-0", 20),
        ("copy-20", 0),
        ("copy-21", 19),
    ]
    [span] = picture.rows[0].bars
    assert (span.start_s, span.end_s) == (1.0, 8.0)
    drawn = svg.embedded(picture, lambda task_id: f"/tasks/{task_id}")
    assert "20 more that succeeded" in drawn
    assert 'href="/tasks/copy-20"' in drawn
    assert "<style" not in drawn


def test_a_short_timeline_stays_as_it_is() -> None:
    picture = timeline(*many().told())
    assert folded(picture, COPIES + 1) == picture


def test_the_lane_is_folded_too() -> None:
    picture = folded(timeline(*many(undone=True).told()), 12)
    assert [row.folded for row in picture.lane] == [COPIES - 1]
    drawn = svg.embedded(picture, lambda task_id: task_id)
    assert f"{COPIES - 1} more that were made up for" in drawn


def test_an_excerpt_counts_all_tasks_and_leaves_the_events_alone() -> None:
    workflow, events = many(undone=True).told()
    counts = {Task.STATE_COMPENSATED: COPIES - 1, Task.STATE_FAILED: 1}
    workflow.task_counts.extend(TaskCount(state=s, count=n) for s, n in counts.items())
    task = next(task for task in workflow.tasks if task.name.endswith("/copy-20"))
    attempt = Attempt(
        name=f"{task.name}/attempts/1",
        kind=Attempt.KIND_ACTION,
        host_id="host-a",
        state=Attempt.STATE_FAILED,
        failure=workflow.cause,
    )
    for moment, at_s in ((attempt.create_time, 1), (attempt.start_time, 3), (attempt.end_time, 9)):
        moment.FromDatetime(NOON)
        moment.seconds += at_s
    task.attempts.append(attempt)
    workflow.create_time.FromDatetime(NOON)
    before = [event.sequence for event in events]

    drawn = excerpt(workflow, [task], events, NOON.replace(tzinfo=None))

    assert [event.sequence for event in events] == before
    [row] = drawn.rows
    assert [(bar.start_s, bar.end_s, bar.reason) for bar in row.bars] == [(3.0, 9.0, "NO_SPACE")]
    assert drawn.verdict.sentence.startswith("copy-20 failed on host-a: ")
    assert drawn.verdict.sentence.endswith(
        f"{COPIES - 1} tasks made up for; nothing is known to be left."
    )
    assert [phase.state for phase in drawn.phases] == [
        WorkflowState.WORKFLOW_STATE_RUNNING,
        WorkflowState.WORKFLOW_STATE_COMPENSATING,
    ]
