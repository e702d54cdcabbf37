"""Workflows and tasks as tables and descriptions."""

from __future__ import annotations

from collections.abc import Sequence

import click

from countermand.cli.drawing import phrases
from countermand.cli.output import (
    Row,
    age,
    amount,
    date,
    indented,
    one_line,
    paint,
    progress_words,
    said,
    show_all,
)
from countermand.cli.settings import Settings
from countermand.cli.words import WORKFLOW, task_look, workflow_look
from countermand.rpc import names
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import ImageLock, Workflow
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


def workflow_states(words: Sequence[str]) -> list[WorkflowState.ValueType]:
    """Returns states by their words; an unknown one is answered with those that exist."""
    by_word = {look.word: state for state, look in WORKFLOW.items()}
    unknown = [word for word in words if word.lower() not in by_word]
    if unknown:
        raise click.UsageError(
            f"there is no workflow state {unknown[0]!r}; there are: {', '.join(by_word)}"
        )
    return [WorkflowState.ValueType(by_word[word.lower()]) for word in words]


def show_workflows(settings: Settings, found: Sequence[Workflow], filters: str = "") -> None:
    """Prints a list of workflows; an empty one names the filters, which may be why."""
    submit = "No workflows. Submit one: countermand workflow submit FILE.json --id ID"
    show_all(
        settings,
        found,
        heads=("WORKFLOW", "KIND", "STATE", "TASKS", "AGE", "WHY"),
        row=_workflow_row,
        name=lambda one: one.name,
        nothing=f"No workflow {filters}." if filters else submit,
    )


def show_tasks(settings: Settings, found: Sequence[Task]) -> None:
    """Prints tasks in the order of their tree, members indented below their group."""
    depths = depths_of(found)
    show_all(
        settings,
        found,
        heads=("TASK", "STATE", "HOST", "VERB", "PROGRESS", "WHY"),
        row=lambda task: (
            "  " * depths[task.name] + task_id(task.name),
            task_look(task.state),
            task.host_id or "-",
            verb_of(task),
            _how_far(task),
            one_line(f"{_marks(task)}{why(task) or last_said(task)}"),
        ),
        name=lambda task: task.name,
        nothing="No tasks.",
    )


def describe(one: Workflow, tasks: Sequence[Task]) -> None:
    """Prints one workflow whole: state, cause, needs, leftovers, tasks."""
    click.echo(f"{one.name}  {paint(workflow_look(one.state))}  {one.kind}")
    by = f" by {one.principal}" if one.principal else ""
    ran = ""
    if one.HasField("end_time"):
        seconds = one.end_time.ToNanoseconds() - one.create_time.ToNanoseconds()
        ran = f", settled after {phrases.duration(seconds / 1e9)}"
    click.echo(f"  submitted {age(one.create_time)} ago{by}{ran}")
    if one.owner_id:
        click.echo(f"  {_own(one)}")
    if one.trace_id:
        click.echo(f"  trace {one.trace_id}")
    if one.HasField("cause"):
        click.echo(f"  cause: {said(one.cause)} ({one.cause.reason})")
    if one.forked_from:
        click.echo(f"  forked from {one.forked_from}")
    if one.waits_for:
        click.echo(f"  waits for {one.waits_for}")
    for need in one.needs:
        about = (
            f"{task_id(need.task)}: "
            if need.task and task_id(need.task) not in need.message
            else ""
        )
        click.echo(f"  needs somebody: {about}{indented(need.message)} ({need.reason})")
    for leftover in one.leftovers:
        because = f" ({leftover.reason})" if leftover.reason else ""
        where = phrases.on(leftover.host_id)
        click.echo(f"  left behind{where}: {leftover.description}{because}")
    for lock in one.locks:
        click.echo(f"  {_lock(lock)}")
    click.echo()
    show_tasks(Settings(), tasks)


def _own(one: Workflow) -> str:
    """Returns whose own a workflow is, and what its owner can do about it now."""
    workflow_id = one.name.removeprefix("workflows/")
    if not one.HasField("end_time"):
        end = f"`countermand external finish {workflow_id}`"
        return f"{one.owner_id}'s own: {end} ends it"
    clear = f"`countermand external clear {workflow_id} --token …`"
    if one.HasField("expire_time"):
        return f"{one.owner_id}'s own: removed at {date(one.expire_time)}, or by {clear}"
    return f"{one.owner_id}'s own: kept until {clear}"


def _lock(lock: ImageLock) -> str:
    image = f"{lock.image.pool_id}/{lock.image.image_id}"
    how = "alone" if lock.exclusive else "shared"
    if lock.held:
        return f"holds {image}, {how}"
    by = f", held by {', '.join(lock.holders)}" if lock.holders else ""
    return f"waits for {image}, {how}: {lock.position} before it{by}"


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


def _marks(task: Task) -> str:
    """Returns what is unusual about a task, before why it is as it is."""
    marks = []
    if task.round > 1:
        marks.append(f"round {task.round}")
    if task.optional_by_policy and task.state == Task.STATE_FAILED:
        marks.append("optional")
    if task.needs_decision:
        marks.append("needs a decision")
    return f"{', '.join(marks)}; " if marks else ""


def _how_far(task: Task) -> str:
    """Returns how far a task is; of one that failed only the amount: it never was at 100%."""
    if task.kind == Task.KIND_EXTERNAL and task.state in NEVER_BEGUN:
        return ""  # of what is not begun nothing is done
    if task.state in {Task.STATE_FAILED, Task.STATE_CANCELLED}:
        return amount(task.progress.done, task.progress.unit) if task.progress.done else ""
    return progress_words(task.progress)


def depths_of(tasks: Sequence[Task]) -> dict[str, int]:
    """Returns how deep each task is in the tree; a group stands before its members."""
    depths: dict[str, int] = {}
    for task in tasks:
        depths[task.name] = depths[task.parent] + 1 if task.parent in depths else 0
    return depths


def _workflow_row(one: Workflow) -> Row:
    counts = {count.state: count.count for count in one.task_counts}
    total = sum(counts.values())
    done = counts.get(Task.STATE_SUCCEEDED, 0) + counts.get(Task.STATE_SKIPPED, 0)
    return (
        one.name.removeprefix("workflows/"),
        one.kind,
        workflow_look(one.state),
        f"{done}/{total}" if total else "-",
        age(one.create_time),
        one_line(_workflow_why(one)),
    )


def _workflow_why(one: Workflow) -> str:
    """Returns what a workflow needs, why it failed, or what it waits for; the first that is."""
    if one.needs:
        return one.needs[0].message
    if one.cause.reason:
        return f"{one.cause.reason}: {said(one.cause)}"
    return f"waits for {one.waits_for}" if one.waits_for else ""
