"""What a task or a workflow waits for, in words, as far as its record says so.

What only the runtime knows is added by those who show it: a host that is looked for, a slot on one,
a place in line for images.
"""

from __future__ import annotations

from bisect import bisect_left
from datetime import datetime

from coordinator.saga.parts import is_over, unsettled
from coordinator.saga.reports import SILENT_SINCE
from coordinator.saga.spec import owner_of
from coordinator.saga.states import BEING_COMPENSATED, TaskState
from coordinator.saga.workflow import BY_POLICY, PAUSE_BEFORE, Decided, Group, Task, Workflow

PARTS_NAMED_MAX = 3  # more would not help
ITS_IMAGES = "its images"  # whoever knows more of them says behind whom
_NOT_BEGUN = frozenset({TaskState.READY, TaskState.RETRY_WAIT})  # what a pause keeps from starting

_PAUSED_BY_POLICY = {
    PAUSE_BEFORE: "paused before {task}, as its spec asks",
    "pause-on-success": "paused after {task}, as its spec asks",
    "on-failure": "paused because {task} failed",
}


def pause_words(pause: Decided) -> str:
    """Returns who or what paused a workflow, and why."""
    if pause.principal == BY_POLICY and pause.verb in _PAUSED_BY_POLICY:
        return _PAUSED_BY_POLICY[pause.verb].format(task=pause.reason)
    return f"paused by {pause.principal}: {pause.reason}"


def workflow_waits_for(workflow: Workflow) -> str:
    """Returns what a whole workflow waits for."""
    if workflow.settled:
        return ""
    if workflow.holding and workflow.pause:
        return f"a resume: {pause_words(workflow.pause)}"
    return "" if workflow.locked else ITS_IMAGES


def task_waits_for(workflow: Workflow, index: int) -> str:
    """Returns what a task or a group waits for."""
    if workflow.settled:
        return ""
    record = workflow.nodes[index]
    if isinstance(record, Task):
        if parts := _parts(workflow, index):
            return parts
        if record.due_time is not None:
            return _held(workflow, record) or _time(record, record.due_time)
        if record.needs_decision:
            return "a decision"
        if record.state is TaskState.READY and workflow.holding:
            return "a resume"
        if record.state is not TaskState.PENDING:
            return _owner(workflow, index, record)
    return _turn(workflow, index)


def _parts(workflow: Workflow, index: int) -> str:
    """Returns which parts of a task whose attempt is over are made up for before it goes on."""
    if index not in workflow.plan.parts or not is_over(workflow.task(index)):
        return ""
    left = list(unsettled(workflow, index))[::-1]
    if not left or workflow.verdict is not None:
        return ""
    names = ", ".join(workflow.plan.nodes[part].name for part in left[:PARTS_NAMED_MAX])
    more = f" and {len(left) - PARTS_NAMED_MAX} more" if len(left) > PARTS_NAMED_MAX else ""
    return f"its parts: {names}{more}, to be made up for"


_ASKED = {
    TaskState.STARTING: "{owner}, which has not accepted it yet",
    TaskState.UNKNOWN: "{owner}{silent}",
    TaskState.CANCELLING: "{owner}, which was asked to stop it",
    TaskState.COMPENSATING: "{owner}, which was asked to make up for it",
}


def _owner(workflow: Workflow, index: int, task: Task) -> str:
    """Returns what an external task waits for that its owner was asked for, or nothing."""
    external = workflow.plan.task(index).external
    if external is None:
        return ""
    if task.state is TaskState.COMPENSATION_BLOCKED:
        return "people, by its checklist" if external.checklist else "a decision, or its owner"
    asked = _ASKED.get(task.state, "")
    owner = owner_of(workflow.plan.task(index).host)
    since = silent_since(task)
    return asked.format(owner=owner, silent=f", silent{since}" if since else ", which is silent")


def silent_since(task: Task) -> str:
    """Returns since when a task's owner is silent, as " since …"; empty if that is not known."""
    failure = task.last.failure if task.attempts else None
    since = dict(failure.metadata).get(SILENT_SINCE) if failure else None
    return f" since {since.replace('+00:00', 'Z')}" if since else ""


def _held(workflow: Workflow, task: Task) -> str:
    """Returns that what waits for a time is held by a pause, or nothing."""
    if not workflow.holding:
        return ""
    if task.state in BEING_COMPENSATED:
        return "a resume: the pause holds it" if workflow.compensation_held else ""
    if task.state in _NOT_BEGUN and not task.needs_decision and task.due_time is not None:
        # No clock is read here: which of the two comes last nobody knows.
        return f"a resume, and not before {task.due_time.isoformat(timespec='seconds')}"
    return ""


def _time(task: Task, due: datetime) -> str:
    """Returns which time a task waits for; retries begin as those who read them expect."""
    when = due.isoformat(timespec="seconds")
    if task.state is TaskState.READY:
        return f"a delay before it starts, until {when}"
    if task.state is TaskState.SUCCEEDED:
        return f"a delay before what follows, until {when}"
    attempt = f"attempt {len(task.attempts) + 1}, due {when}"
    blocked = task.needs_decision or task.state is TaskState.COMPENSATION_BLOCKED
    return f"{attempt}, or a decision" if blocked else attempt


def _turn(workflow: Workflow, index: int) -> str:
    """Returns what keeps a node that has not begun from beginning."""
    node = workflow.plan.nodes[index]
    pause = workflow.pause
    if workflow.holding and pause and pause.verb == PAUSE_BEFORE and pause.reason == node.name:
        return "a resume: paused before it"
    parent = workflow.nodes[node.parent] if node.parent >= 0 else None
    if isinstance(parent, Group) and parent.waiting:
        place = bisect_left(parent.waiting, index)
        if place < len(parent.waiting) and parent.waiting[place] == index:
            most = workflow.plan.nodes[node.parent].rules.concurrency_max
            name = workflow.plan.nodes[node.parent].name
            return f"a place in {name}, {most} at a time; {place} before it"
    return ""
