"""What made up for a task, in words. Pure."""

from __future__ import annotations

from countermand.v1.task_pb2 import Task

# The verb of a decision that a task needs no compensation any more.
MARKED_DONE = "mark-compensated"
SKIPPED = "skip"  # the verb of a decision
_DECIDED = {
    MARKED_DONE: "mark done",
    "retry-compensation": "retry",
    "replace-compensation": "replace",
}


def decided_words(verb: str) -> str:
    """Returns what somebody asked for, in the words of the commands."""
    return _DECIDED.get(verb, verb)


def how_made_up(task: Task) -> str:
    """Returns what makes up for a task: its opposite, or somebody who said that it is done."""
    if not is_by_hand(task):
        return task.opposite
    why = f": {task.decided.reason}" if task.decided.reason else ""
    return f"marked done by {task.decided.principal or 'somebody'}{why}"


def is_by_hand(task: Task) -> bool:
    """Returns whether somebody said that a task is made up for."""
    return task.state == Task.STATE_COMPENSATED and task.decided.verb == MARKED_DONE


def given_by(task: Task) -> str:
    """Returns who gave what a skipped task is taken to have left; empty for what it left itself."""
    if task.state != Task.STATE_SKIPPED or task.decided.verb != SKIPPED:
        return ""
    return f"given by {task.decided.principal or 'somebody'}"
