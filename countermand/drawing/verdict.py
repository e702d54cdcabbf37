"""What became of a workflow, in one sentence and a few facts.

What failed, where, why, what was made up for, what is left. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from countermand.drawing import phrases
from countermand.drawing.made_up import is_by_hand
from countermand.drawing.model import Bar, Fact, LaneRow, Row, Verdict
from countermand.drawing.tasks import GROUPS, task_id
from countermand.drawing.words import workflow_look
from countermand.rpc import names
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.event_pb2 import Leftover
from countermand.v1.failure_pb2 import Failure
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState

OTHERS_NAMED_MAX: Final = 3  # that failed beside the first: more is no sentence
CLEAN: Final[Mapping[int, str]] = {
    Attempt.STATE_FAILED: "failed, left nothing",
    Attempt.STATE_CANCELLED: "stopped, left nothing",
}
# With a cause: what took effect is made up for, now or once somebody has decided.
GOING_BACK: Final = frozenset(
    {
        WorkflowState.WORKFLOW_STATE_COMPENSATING,
        WorkflowState.WORKFLOW_STATE_BLOCKED,
        WorkflowState.WORKFLOW_STATE_PAUSING,
        WorkflowState.WORKFLOW_STATE_PAUSED,
    }
)
# What stands apart: of the one somebody must decide, the other is left.
NOT_MADE_UP_FOR: Final = frozenset({Task.STATE_COMPENSATION_BLOCKED, Task.STATE_ABANDONED})


def verdict(
    workflow: Workflow, rows: Sequence[Row], lane: Sequence[LaneRow], tasks: Iterable[Task]
) -> Verdict:
    """Returns how it stands so far, or how it ended; the tasks are those of which rows are made."""
    tasks = tuple(tasks)
    failed = _failed(workflow, rows)
    going_back = _in_order(lane)
    made_up_for = tuple(
        _lane_fact(row, row.phrase + ("" if row.state == Task.STATE_COMPENSATED else ": under way"))
        for row in going_back
        if row.state not in NOT_MADE_UP_FOR
    )
    blocked = tuple(
        _lane_fact(row, ": ".join(filter(None, (row.phrase, _last_said(row)))))
        for row in going_back
        if row.state == Task.STATE_COMPENSATION_BLOCKED
    )
    clean = tuple(
        Fact(task_id=row.task_id, host_id=row.host_id, is_external=row.is_external, words=words)
        for row in rows
        if workflow.HasField("cause") and row.bars and (words := CLEAN.get(row.bars[-1].state))
    )
    left = tuple(
        Fact(
            task_id=(names.parse_task(leftover.task) or ("", leftover.task))[1],
            host_id=leftover.host_id,
            words=_left_words(leftover),
            state=Task.STATE_ABANDONED,
        )
        for leftover in workflow.leftovers
    )
    found = Verdict(
        state=workflow.state,
        sentence="",
        failed=failed,
        made_up_for=made_up_for,
        blocked=blocked,
        to_make_up=to_make_up(workflow, tasks),
        clean=clean,
        left=left,
        is_order=workflow.HasField("cause") and _is_order(workflow.cause),
        is_by_hand=any(map(is_by_hand, tasks)),
    )
    needs = " ".join(need.message for need in workflow.needs)
    return replace(
        found,
        sentence=_sentence(workflow, rows, lane, found, needs),
        brief=_sentence(workflow, rows, lane, found, ""),
    )


def goes_back(workflow: Workflow) -> bool:
    """Returns whether all that took effect is still being made up for, or held on the way."""
    return workflow.HasField("cause") and workflow.state in GOING_BACK


def to_make_up(workflow: Workflow, tasks: Iterable[Task]) -> tuple[Fact, ...]:
    """Returns what took effect and whose turn to be made up for is still to come, newest first."""
    if not goes_back(workflow):
        return ()
    stands = [
        task
        for task in tasks
        if task.state == Task.STATE_SUCCEEDED
        and task.opposite
        and task.kind not in GROUPS
        and not task.end_action
    ]
    stands.sort(key=lambda task: task.end_time.ToNanoseconds(), reverse=True)
    return tuple(
        Fact(
            task_id=task_id(task.name),
            host_id=task.owner_id or task.host_id,
            is_external=bool(task.owner_id),
            words=task.opposite,
        )
        for task in stands
    )


def _lane_fact(row: LaneRow, words: str) -> Fact:
    return Fact(
        task_id=row.task_id,
        host_id=row.host_id,
        is_external=row.is_external,
        words=words,
        state=row.state,
    )


def _last_said(row: LaneRow) -> str:
    """Returns why a compensation failed last."""
    said = (phrases.why(bar.message) or bar.reason for bar in reversed(row.bars))
    return next(filter(None, said), "")


def _left_words(leftover: Leftover) -> str:
    """Returns what is left, and why: "the copy pool/disk (it was to be removed)"."""
    because = f" ({phrases.kept(leftover.reason)})" if leftover.reason else ""
    return f"{leftover.description}{because}"


def _failed(workflow: Workflow, rows: Sequence[Row]) -> tuple[Fact, ...]:
    """Returns the cause first, then whatever else failed."""
    facts = [
        Fact(
            task_id=row.task_id,
            host_id=bar.host_id,
            is_external=bar.is_external,
            words=phrases.why(bar.message) or bar.reason,
        )
        for row in rows
        if (bar := _last_failed(row))
    ]
    if not workflow.HasField("cause"):
        return tuple(facts)
    cause = _order(workflow.cause) if _is_order(workflow.cause) else _fact(workflow.cause, rows)
    if _is_order(workflow.cause):
        return (cause,)  # whatever else failed is not why
    others = [fact for fact in facts if fact.task_id != cause.task_id]
    return (cause, *others)


def _last_failed(row: Row) -> Bar | None:
    """Returns the attempt that a task has failed with; none of one that is tried again."""
    failed = row.state == Task.STATE_FAILED and row.bars
    return row.bars[-1] if failed and row.bars[-1].state == Attempt.STATE_FAILED else None


def _is_order(cause: Failure) -> bool:
    """Returns whether somebody wanted it so: nothing failed."""
    return cause.reason == "CANCELLED" and not cause.attempt


def _order(cause: Failure) -> Fact:
    """Returns who stopped it and why: "cancelled by ann", "wrong template"."""
    who, _, why = cause.message.partition(": ")
    return Fact(task_id=who[:1].lower() + who[1:] or "cancelled", host_id="", words=why.rstrip("."))


def _fact(cause: Failure, rows: Sequence[Row]) -> Fact:
    attempt = names.parse_attempt(cause.attempt)
    task_id = attempt.task_id if attempt else ""
    row = next((row for row in rows if row.task_id == task_id), None)
    return Fact(
        task_id=task_id,
        host_id=cause.host_id or (row.host_id if row else ""),
        is_external=bool(row and row.is_external),
        words=phrases.why(cause.message) or cause.reason,
    )


def _sentence(
    workflow: Workflow,
    rows: Sequence[Row],
    lane: Sequence[LaneRow],
    found: Verdict,
    needs: str,
) -> str:
    if not workflow.HasField("cause"):
        return open_failures(workflow, found.failed) + went_well(workflow, rows)
    cause = found.failed[0]
    if found.is_order:
        who = cause.task_id[:1].upper() + cause.task_id[1:]
        ordered = ": ".join(filter(None, (who, cause.words)))
        return f"{ordered}. {_since_then(workflow, lane, found, needs)}"
    what = f"{cause.task_id} failed" if cause.task_id else "The workflow failed"
    others = found.failed[1:]
    more = _too(others, len(others))
    return f"{what}{cause.where}: {cause.words}.{more} {_since_then(workflow, lane, found, needs)}"


def open_failures(workflow: Workflow, failed: Sequence[Fact]) -> str:
    """Returns what failed and waits for somebody, as a sentence; nothing where nothing does."""
    undecided = {need.task for need in workflow.needs if need.reason == "DECISION"}
    ids = {parsed[1] for name in undecided if (parsed := names.parse_task(name))}
    waiting = [fact for fact in failed if fact.task_id in ids]
    if not waiting:
        return ""
    first, others = waiting[0], len(waiting) - 1
    if any(need.reason == "MORE" for need in workflow.needs):  # not all of them are named
        by = {count.state: count.count for count in workflow.task_counts}
        others = max(others, by.get(Task.STATE_FAILED, 0) - 1)
    return f"{first.task_id} failed{first.where}: {first.words}.{_too(waiting[1:], others)} "


def _too(others: Sequence[Fact], number: int) -> str:
    """Returns what failed beside the first, by name if it is a few."""
    if number > min(len(others), OTHERS_NAMED_MAX):
        return f" {phrases.count(number, 'other')} failed, too."
    named = phrases.listing([f"{fact.task_id}{fact.where}" for fact in others])
    return f" {named} failed, too." if others else ""


def _since_then(workflow: Workflow, lane: Sequence[LaneRow], found: Verdict, needs: str) -> str:
    done = [
        f"{row.task_id}{phrases.on(row.host_id, is_owner=row.is_external)}"
        for row in _in_order(lane)
        if row.state == Task.STATE_COMPENSATED
    ]
    nothing = "Nothing was made up for" if found.left else "Nothing had taken effect"
    made = f"Made up for: {phrases.listing(done)}" if done else nothing
    match workflow.state:
        case WorkflowState.WORKFLOW_STATE_COMPENSATED:
            return f"{made}; {found.nothing_left}."
        case WorkflowState.WORKFLOW_STATE_FAILED:
            return f"{made}; {phrases.count(len(found.left), 'effect')} left behind."
        case WorkflowState.WORKFLOW_STATE_BLOCKED:
            decide = f"Somebody must decide: {needs}" if needs else "Somebody must decide."
            return f"{decide}{_still(found)}"
        case WorkflowState.WORKFLOW_STATE_COMPENSATING:
            number = len(lane) + len(found.to_make_up)
            return f"Making up for it: {len(done)} of {max(number, 1)} done."
        case _:
            return f"It is {workflow_look(workflow.state).word}.{_still(found)}"


def _still(found: Verdict) -> str:
    """Returns what still stands although all is to be made up for, as a sentence of its own."""
    facts = [f"{fact.task_id}{fact.where}" for fact in found.to_make_up]
    return f" Still to be made up for: {phrases.some(facts)}." if facts else ""


def _in_order(lane: Sequence[LaneRow]) -> list[LaneRow]:
    """Returns the rows in the order in which they were made up for, as `WorkflowFailed` has it."""
    return sorted(lane, key=lambda row: row.bars[-1].end_s)


def went_well(workflow: Workflow, rows: Sequence[Row]) -> str:
    """Returns the sentence for a workflow that has not failed."""
    tasks = [row for row in rows if not row.is_group]
    rested = [row for row in tasks if row.state in {Task.STATE_SUCCEEDED, Task.STATE_SKIPPED}]
    if workflow.state != WorkflowState.WORKFLOW_STATE_SUCCEEDED:
        word = workflow_look(workflow.state).word
        tried = f"{len(rested)} of {phrases.count(len(tasks), 'task')}"
        return f"{tried} done{_places(tasks)}; it is {word}."
    done = [row for row in tasks if row.state == Task.STATE_SUCCEEDED]
    copied = sum(bar.done for row in done for bar in row.bars[-1:] if row.verb == "copy_image")
    data = f", {phrases.size(copied)} copied" if copied else ""
    skipped = sum(row.state == Task.STATE_SKIPPED for row in tasks)
    failed = sum(row.state == Task.STATE_FAILED for row in tasks)
    parts = [f"{skipped} skipped" if skipped else "", f"{failed} failed" if failed else ""]
    rest = "; ".join(["", *filter(None, parts)])
    return f"{phrases.count(len(done), 'task')}{_places(done)} took effect{data}{rest}."


def _places(rows: Sequence[Row]) -> str:
    """Returns on how many hosts and with how many owners rows are, as the end of some words."""
    hosts = {row.host_id for row in rows if row.host_id and not row.is_external}
    owners = {row.host_id for row in rows if row.is_external}
    return f" {phrases.on_places(len(hosts), len(owners))}".rstrip()
