"""What a resume is about to change, as people see it before it is sent. Loaded by what asks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from countermand.cli.table import table
from countermand.drawing import phrases
from countermand.drawing.phrases import on
from countermand.drawing.tasks import next_place, task_id
from countermand.drawing.values import value_words
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import ChangedValue, ResumeDecision

MADE_UP_SHOWN_MAX = 4
# What took effect, or may have.
_EFFECTS: Final = frozenset({Task.STATE_SUCCEEDED, Task.STATE_UNKNOWN})


def made_up_for(tasks: Collection[Task], *, limit: int = MADE_UP_SHOWN_MAX) -> str:
    """Returns what giving up would make up for."""
    done = [task for task in tasks if task.opposite and task.state in _EFFECTS]
    if not done:
        return "there is nothing to make up for"
    told = [f"{task_id(task.name)}{on(task.host_id)} ({task.opposite})" for task in done[:limit]]
    more = len(done) - len(told)
    return "makes up for " + ", ".join(told) + (f" and {more} more" if more > 0 else "")


def decided(decisions: Sequence[ResumeDecision], tasks: Collection[Task]) -> Iterator[str]:
    """Yields what becomes of each task, as lines."""
    for each in decisions:
        yield f"{task_id(each.task)}: {_decided(each, tasks)}"


def _decided(decision: ResumeDecision, tasks: Collection[Task]) -> str:
    match decision.WhichOneof("decision"):
        case "rerun":
            items = decision.rerun.indices
            only = f" of {phrases.count(len(items), 'item')}" if items else ""
            first = ", after what it did is made up for" if decision.rerun.reset else ""
            name = task_id(decision.task)
            task = next((each for each in tasks if task_id(each.name) == name), None)
            where = on(decision.rerun.host_id) or (next_place(task) if task else "")
            return f"runs again{only}{where}{first}"
        case "skip":
            return "is skipped, and what comes after it goes on"
        case _:
            return f"the workflow is given up; {made_up_for(tasks, limit=len(tasks))}"


def show_changes(changes: Sequence[ChangedValue], lead: str = "") -> None:
    """Prints which values become others."""
    rows = [
        (
            f"{lead}{task_id(c.task) if c.task else 'input'}",
            c.key,
            value_words(c.before),
            value_words(c.after),
        )
        for c in changes
    ]
    if rows:
        table((f"{lead}TASK", "KEY", "BEFORE", "AFTER"), rows)
