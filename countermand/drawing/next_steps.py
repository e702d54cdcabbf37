"""What to do next about a workflow, in words: what it needs, or what its end asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from countermand.drawing import phrases
from countermand.drawing.tasks import GROUPS, IN_FLIGHT, task_id, waits
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState

WAITS_MAX: Final = 3  # of many that wait, so many say what for
LIKE_MAX: Final = 3  # of many that need the same, so many are told; the lists have them all


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do, or to know."""

    words: str
    task: str = ""  # the task that it is about, by its name
    reason: str = ""  # as programs know it
    is_urgent: bool = False


def of(workflow: Workflow, tasks: Iterable[Task] = ()) -> list[Step]:
    """Returns what is to be done, the most urgent first; some tasks say what it waits for."""
    if workflow.needs:
        return _told_once(list(_needed(workflow)), "DECISION")
    left = _told_once(list(_left(workflow)), "LEFT")
    return [*left, *(_ended(workflow) or _under_way(workflow, tasks))]


# Of tasks without which a workflow may still succeed.
_NOT_DONE: Final = {Task.STATE_SKIPPED: "was skipped", Task.STATE_FAILED: "failed"}
_MORE: Final = {
    "DECISION": "{} more tasks need a decision: Resume asks for each, or for a group at once.",
    "LEFT": "{} more effects are left, as is listed above.",
}


def _told_once(steps: list[Step], reason: str) -> list[Step]:
    """Returns the first of many steps for one reason, and how many more there are."""
    alike = [step for step in steps if step.reason == reason]
    more = len(alike) - LIKE_MAX
    if more <= 1:
        return steps
    others = [step for step in steps if step.reason != reason]
    # The list of needs itself may be cut.
    number = f"At least {more}" if any(step.reason == "MORE" for step in others) else more
    return [*alike[:LIKE_MAX], Step(words=_MORE[reason].format(number), is_urgent=True), *others]


def _needed(workflow: Workflow) -> Iterator[Step]:
    for need in workflow.needs:
        # Most messages name their task themselves; a command that does is not read first.
        said = " ".join(need.message.split("`")[::2])
        task = "" if re.search(rf"(?<!\S){re.escape(task_id(need.task))}\b", said) else need.task
        yield Step(words=need.message, task=task, reason=need.reason, is_urgent=True)


def _left(workflow: Workflow) -> Iterator[Step]:
    for left in workflow.leftovers:
        where = f" on {left.host_id}" if left.host_id else ""
        what = f"Look after what {task_id(left.task)} left{where}: {left.description}."
        words = f"{what} {phrases.about_leftover(left.reason)}"
        yield Step(words=words, reason="LEFT", is_urgent=True)


def _ended(workflow: Workflow) -> list[Step]:
    """Returns what a settled workflow asks for; nothing for one that is not."""
    again = f"`countermand workflow fork {workflow.name.removeprefix('workflows/')} --id NEW`"
    match workflow.state:
        case WorkflowState.WORKFLOW_STATE_SUCCEEDED if workflow.leftovers:
            words = f"{_what_took(workflow).capitalize()} took effect."
        case WorkflowState.WORKFLOW_STATE_SUCCEEDED:
            words = f"Nothing: {_what_took(workflow)} took effect."
        case WorkflowState.WORKFLOW_STATE_COMPENSATED | WorkflowState.WORKFLOW_STATE_FAILED:
            words = f"Once the cause is gone, run it anew: {again}."
        case _:
            return []
    return [Step(words=words)]


def _what_took(workflow: Workflow) -> str:
    """Returns of how much of a workflow that succeeded it is true that it took effect."""
    counts = {each.state: each.count for each in workflow.task_counts}
    but = [word for state, word in _NOT_DONE.items() if counts.get(state)]
    return f"everything but what {' or '.join(but)}" if but else "everything"


def _under_way(workflow: Workflow, tasks: Iterable[Task]) -> list[Step]:
    """Returns what one waits for that goes on by itself."""
    if workflow.state == WorkflowState.WORKFLOW_STATE_COMPENSATING:
        return [Step(words="Nothing: what it did is being made up for, until all of it is.")]
    if workflow.waits_for:
        return [Step(words=f"Nothing yet: it waits for {workflow.waits_for}.")]
    waiting = [task for task in tasks if task.waits_for and task.kind not in GROUPS]
    found = [Step(words=f"{_waits(task)}.", task=task.name) for task in waiting[:WAITS_MAX]]
    return found or [Step(words="Nothing: it goes on by itself.")]


def _waits(task: Task) -> str:
    return waits(task) if task.state in IN_FLIGHT else f"waits for {task.waits_for}"


def resume_command(workflow: Workflow) -> str:
    """Returns the command by which a held workflow goes on; nothing where a need has said it.

    On a terminal it asks for each decision; elsewhere it lists what is needed, and the options.
    """
    command = f"countermand workflow resume {workflow.name.removeprefix('workflows/')}"
    is_held = workflow.state == WorkflowState.WORKFLOW_STATE_PAUSED
    return command if is_held and not any(command in n.message for n in workflow.needs) else ""
