"""The answer in ten seconds of a workflow of which only the tasks are known, as lists have them.

The facts and their words are those of a drawing (`verdict.py`): each task stands for its last
attempt. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from countermand.drawing.made_up import how_made_up
from countermand.drawing.model import Bar, Fact, LaneRow, Row, Verdict
from countermand.drawing.phrases import count
from countermand.drawing.tasks import GROUPS, SETTLED, task_id
from countermand.drawing.verdict import verdict, went_well
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.failure_pb2 import Failure
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow

SHOWN_MAX: Final = 8  # facts of one kind; the table of tasks has them all
GIVEN_UP: Final = "compensate"  # the verb of a decision

_ENDS: Final = {
    Task.STATE_SUCCEEDED: Attempt.STATE_SUCCEEDED,
    Task.STATE_FAILED: Attempt.STATE_FAILED,
    Task.STATE_CANCELLED: Attempt.STATE_CANCELLED,
}
_LANE: Final = frozenset(
    {
        Task.STATE_COMPENSATING,
        Task.STATE_COMPENSATED,
        Task.STATE_COMPENSATION_BLOCKED,
        Task.STATE_ABANDONED,
    }
)


def answer(workflow: Workflow, tasks: Sequence[Task]) -> Verdict:
    """Returns how it stands so far, or how it ended."""
    rows = [_row(task) for task in tasks]
    lane = [_lane_row(task) for task in tasks if task.kind not in GROUPS and task.state in _LANE]
    return verdict(workflow, rows, lane, tasks)


def lines(workflow: Workflow, tasks: Sequence[Task]) -> Iterator[str]:
    """Yields the facts as lines, each kind with its name; of one that went well the sentence."""
    told = answer(workflow, tasks)
    if not workflow.HasField("cause"):
        # What it needs says itself what failed, and why.
        rows = [_row(task) for task in tasks]
        yield went_well(workflow, rows) if workflow.needs else told.sentence
        return
    if told.is_order:
        yield from _listed("why it ended", told.failed)
    else:
        first, *others = told.failed
        coded = replace(first, words=f"{first.words} ({workflow.cause.reason})")
        yield from _listed("what failed", [coded, *others])
    for task in tasks:
        if task.decided.verb == GIVEN_UP:
            who = task.decided.principal or "somebody"
            yield f"given up by {who}: {task.decided.reason}"
    settled = workflow.state in SETTLED
    yield from _listed("made up for", told.made_up_for)
    if not told.made_up_for:
        yield "made up for: nothing" if settled else "made up for: nothing so far"
    yield from _listed("not made up for", told.blocked)
    yield from _listed("still to be made up for", told.to_make_up)
    if settled and not told.left:
        # What somebody did by hand nobody has looked at.
        known = " is known to be" if told.is_by_hand else ""
        kept = any(task.state == Task.STATE_SUCCEEDED and task.opposite for task in tasks)
        yield "what was done is kept" if kept else f"left: nothing{known}"


def _listed(name: str, facts: Sequence[Fact]) -> Iterator[str]:
    """Yields a line for each of the first facts, the others below the first."""
    lead = f"{name}: "
    for fact in facts[:SHOWN_MAX]:
        about = f"{fact.task_id}{fact.where}".strip()
        yield f"{lead}{': '.join(filter(None, (about, fact.words)))}"
        lead = " " * len(lead)
    if len(facts) > SHOWN_MAX:
        yield f"{lead}and {count(len(facts) - SHOWN_MAX, 'other')}"


def _row(task: Task) -> Row:
    state = _ENDS.get(task.state)
    began = state is not None and task.HasField("start_time")
    return Row(
        task_id=task_id(task.name),
        depth=0,
        state=task.state,
        host_id=task.owner_id or task.host_id,
        verb=task.verb,
        bars=(_bar(task, state, task.failure),) if state is not None and began else (),
        is_group=task.kind in GROUPS,
        is_external=bool(task.owner_id),
    )


def _lane_row(task: Task) -> LaneRow:
    state = Attempt.STATE_SUCCEEDED
    if task.state == Task.STATE_COMPENSATION_BLOCKED:
        state = Attempt.STATE_FAILED
    return LaneRow(
        task_id=task_id(task.name),
        state=task.state,
        host_id=task.owner_id or task.host_id,
        phrase=how_made_up(task) or "compensate",
        effect_s=0.0,
        waits=(),
        bars=(_bar(task, state, task.compensation_failure),),
        is_external=bool(task.owner_id),
    )


def _bar(task: Task, state: Attempt.State.ValueType, failure: Failure) -> Bar:
    """Returns what stands for the last attempt of a task: when it ended, and how."""
    end_s = task.end_time.ToNanoseconds() / 1e9
    return Bar(
        number=1,
        host_id=task.owner_id or task.host_id,
        is_external=bool(task.owner_id),
        start_s=end_s,
        end_s=end_s,
        state=state,
        segments=(),
        done=task.progress.done,
        unit=task.progress.unit or "bytes",
        reason=failure.reason,
        message=failure.message,
    )
