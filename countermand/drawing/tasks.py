"""What is said about tasks and workflows: what they are, why they are so, how far. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from countermand.drawing.phrases import PERCENT, on
from countermand.drawing.values import amount, progress_words, said
from countermand.rpc import names
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState

# What a verb does to the world, in the words of the manual.
EFFECTS = {
    Effect.EFFECT_READ_ONLY: "read-only",
    Effect.EFFECT_REVERSIBLE: "reversible",
    Effect.EFFECT_PIVOT: "pivot",
    Effect.EFFECT_FORWARD_ONLY: "forward only",
}


KINDS = {
    Task.KIND_SEQUENCE: "sequence",
    Task.KIND_PARALLEL: "parallel",
    Task.KIND_WORKFLOW: "workflow",
    Task.KIND_EXTERNAL: "external",
}


# They are where their members are.
GROUPS = frozenset({Task.KIND_SEQUENCE, Task.KIND_PARALLEL, Task.KIND_WORKFLOW})


# Of workflows: nothing of them goes on by itself, and nobody can order any more.
SETTLED = frozenset(
    {
        WorkflowState.WORKFLOW_STATE_SUCCEEDED,
        WorkflowState.WORKFLOW_STATE_COMPENSATED,
        WorkflowState.WORKFLOW_STATE_FAILED,
    }
)


# An attempt is out, and what it waits for is a sentence: "host-a has not answered for 12 s".
IN_FLIGHT = frozenset(
    {
        Task.STATE_STARTING,
        Task.STATE_RUNNING,
        Task.STATE_UNKNOWN,
        Task.STATE_CANCELLING,
        Task.STATE_COMPENSATING,
    }
)


NEVER_BEGUN = frozenset({Task.STATE_PENDING, Task.STATE_READY, Task.STATE_STARTING})


# What went wrong before it came to this matters no more; its attempts still tell.
NO_NEWS = frozenset({Task.STATE_SUCCEEDED, Task.STATE_SKIPPED, Task.STATE_COMPENSATED})


def with_tasks(workflow: Workflow, tasks: Iterable[Task]) -> Workflow:
    """Returns a copy of a workflow that holds some tasks, whichever it held before."""
    shown = Workflow()
    shown.CopyFrom(workflow)
    del shown.tasks[:]
    shown.tasks.extend(tasks)
    return shown


def task_id(name: str) -> str:
    """Returns the short name of a task."""
    parsed = names.parse_task(name)
    return parsed[1] if parsed else name


def verb_of(task: Task) -> str:
    """Returns what a task is, in a word or two: "copy image", "acme: clone-volume"."""
    if task.kind == Task.KIND_EXTERNAL:
        return task.verb.replace("/", ": ", 1)
    words = task.verb.replace("_", " ") or KINDS.get(task.kind, "-")
    return f"{words}, open" if task.open and task.kind in GROUPS else words


CHOSEN_ANEW = "chosen anew"


def next_place(task: Task) -> str:
    """Returns where the next attempt of a task will be, as the end of some words."""
    if task.owner_id or task.kind in GROUPS:
        return on(task.owner_id, is_owner=True)
    return on(task.bound_host_id) or f" on a host that is {CHOSEN_ANEW}"


def last_said(task: Task) -> str:
    """Returns what an owner last said about a task that it works on."""
    return task.progress.message if task.state in IN_FLIGHT else ""


def why(task: Task) -> str:
    """Returns what is wrong with a task, or what it waits for.

    Of one in flight what keeps it now, of one that came to a good end nothing: an earlier attempt's
    failure is no news any more.
    """
    # "attempt 3, due …" is a wait by itself, and the failure before it is the news.
    if task.state in IN_FLIGHT and task.waits_for and not task.waits_for.startswith("attempt "):
        return waits(task)
    over = task.state in NO_NEWS
    if task.HasField("compensation_failure") and not over:
        return f"{task.compensation_failure.reason}: {said(task.compensation_failure)}"
    if task.HasField("failure") and not over:
        return f"{task.failure.reason}: {said(task.failure)}"
    return f"waits for {task.waits_for}" if task.waits_for else ""


def waits(task: Task) -> str:
    """Returns what keeps an attempt that is out; of an owner it is waited for, as a phrase."""
    return f"waits for {task.waits_for}" if task.kind == Task.KIND_EXTERNAL else task.waits_for


def marks(task: Task) -> str:
    """Returns what is unusual about a task, before why it is as it is."""
    marks = []
    if task.round > 1:
        marks.append(f"round {task.round}")
    if task.optional_by_policy and task.state == Task.STATE_FAILED:
        marks.append("optional")
    if task.needs_decision:
        marks.append("needs a decision")
    return f"{', '.join(marks)}; " if marks else ""


def how_far(task: Task) -> str:
    """Returns how far a task is; of one that failed only the amount: it never was at 100%."""
    if task.kind == Task.KIND_EXTERNAL and task.state in NEVER_BEGUN:
        return ""  # of what is not begun nothing is done
    if task.state in {Task.STATE_FAILED, Task.STATE_CANCELLED}:
        if task.progress.unit == PERCENT and task.progress.done == task.progress.total:
            return ""  # closed with what it is a part of, and counted as passed
        return amount(task.progress.done, task.progress.unit) if task.progress.done else ""
    return progress_words(task.progress)


def depths_of(tasks: Sequence[Task]) -> dict[str, int]:
    """Returns how deep each task is in the tree; a group stands before its members."""
    depths: dict[str, int] = {}
    for task in tasks:
        depths[task.name] = depths[task.parent] + 1 if task.parent in depths else 0
    return depths


def workflow_why(one: Workflow) -> str:
    """Returns what a workflow needs, why it failed, or what it waits for; the first that is."""
    if one.needs:
        return one.needs[0].message
    if one.cause.reason:
        return f"{one.cause.reason}: {said(one.cause)}"
    return f"waits for {one.waits_for}" if one.waits_for else ""


def flat(left: object, prefix: str) -> Iterator[tuple[str, str]]:
    """Yields the values of what a task left, each with its path."""
    if not isinstance(left, dict):
        if isinstance(left, float) and left.is_integer():
            left = int(left)  # an owner's outputs are carried as JSON has numbers
        yield prefix, left if isinstance(left, str) else json.dumps(left)
        return
    for key, value in left.items():
        yield from flat(value, f"{prefix}.{key}" if prefix else str(key))
