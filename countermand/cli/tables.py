"""Workflows and tasks as tables and descriptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import click

from countermand.cli.output import Row, age, show_all
from countermand.cli.settings import Settings
from countermand.cli.table import paint
from countermand.drawing import phrases
from countermand.drawing.tasks import (
    EFFECTS,
    depths_of,
    how_far,
    last_said,
    marks,
    task_id,
    verb_of,
    why,
    workflow_why,
)
from countermand.drawing.values import date, indented, one_line
from countermand.drawing.words import TASK, WORKFLOW, Look, task_look, workflow_look
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import ImageLock, Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState


def workflow_states(words: Sequence[str]) -> list[WorkflowState.ValueType]:
    """Returns states by their words; an unknown one is answered with those that exist."""
    return [WorkflowState.ValueType(state) for state in _states(words, WORKFLOW, "workflow")]


def task_states(words: Sequence[str]) -> list[Task.State.ValueType]:
    """Returns states of tasks by their words, likewise."""
    return [Task.State.ValueType(state) for state in _states(words, TASK, "task")]


def _states(words: Sequence[str], looks: Mapping[int, Look], kind: str) -> list[int]:
    by_word = {look.word: state for state, look in looks.items()}
    asked = [word.lower().replace("-", " ").replace("_", " ") for word in words]
    unknown = [word for word in asked if word not in by_word]
    if unknown:
        raise click.UsageError(
            f"there is no {kind} state {unknown[0]!r}; there are: {', '.join(by_word)}"
        )
    return [by_word[word] for word in asked]


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
        wide=(
            ("SUBMITTED", lambda one: date(one.create_time)),
            ("BY", lambda one: one.principal or "-"),
            (
                "LABELS",
                lambda one: ",".join(f"{k}={v}" for k, v in sorted(one.labels.items())) or "-",
            ),
        ),
    )


def show_tasks(settings: Settings, found: Sequence[Task], states: str = "") -> None:
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
            how_far(task),
            one_line(f"{marks(task)}{why(task) or last_said(task)}"),
        ),
        name=lambda task: task.name,
        nothing=f"No task is {states}." if states else "No tasks.",
        wide=(
            ("OWNER", lambda task: task.owner_id or "-"),
            ("EFFECT", lambda task: EFFECTS.get(task.effect, "-")),
            ("MADE UP FOR BY", lambda task: task.opposite or "-"),
        ),
    )


def describe(settings: Settings, one: Workflow, tasks: Sequence[Task]) -> None:
    """Prints one workflow whole: state, cause, needs, leftovers, tasks."""
    from countermand.drawing import answers  # a list can do without

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
    for line in answers.lines(one, tasks):
        click.echo(f"  {indented(line)}")
    if one.forked_from:
        click.echo(f"  forked from {one.forked_from}")
    if one.waits_for:
        click.echo(f"  waits for {one.waits_for}")
    for leftover in one.leftovers:
        because = f" ({phrases.kept(leftover.reason)})" if leftover.reason else ""
        where = phrases.on(leftover.host_id)
        click.echo(f"  left behind{where}: {indented(leftover.description)}{because}")
    for line in _next(one, tasks):
        click.echo(f"  {line}")
    for lock in one.locks:
        click.echo(f"  {_lock(lock)}")
    click.echo()
    show_tasks(settings, tasks)


def _next(one: Workflow, tasks: Sequence[Task]) -> Iterator[str]:
    """Yields what somebody is to do, as the page has it; of one that is held the command."""
    from countermand.drawing import next_steps  # as above

    went_well = one.state == WorkflowState.WORKFLOW_STATE_SUCCEEDED and not one.leftovers
    for step in () if went_well else next_steps.of(one, tasks):
        about = f"{task_id(step.task)}: " if step.task else ""
        words = f"{about}{indented(step.words)}"
        reason = f" ({step.reason})" if step.reason else ""
        yield f"needs somebody: {words}{reason}" if one.needs else f"next: {words}"
    if command := next_steps.resume_command(one):
        yield f"next: {command}"


def _own(one: Workflow) -> str:
    """Returns whose own a workflow is, and what its owner can do about it now."""
    workflow_id = one.name.removeprefix("workflows/")
    if not one.HasField("end_time"):
        end = f"`countermand external finish {workflow_id}`"
        return f"belongs to {one.owner_id}: {end} ends it"
    clear = f"`countermand external clear {workflow_id} --token …`"
    if one.HasField("expire_time") and one.expire_time == one.end_time:
        return f"belongs to {one.owner_id}: removed soon, as it was ended by force"
    if one.HasField("expire_time"):
        return f"belongs to {one.owner_id}: removed at {date(one.expire_time)}, or by {clear}"
    return f"belongs to {one.owner_id}: kept until {clear}"


def _lock(lock: ImageLock) -> str:
    image = f"{lock.image.pool_id}/{lock.image.image_id}"
    how = "alone" if lock.exclusive else "shared"
    if lock.held:
        return f"holds {image}, {how}"
    by = f", held by {', '.join(lock.holders)}" if lock.holders else ""
    return f"waits for {image}, {how}: {lock.position} before it{by}"


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
        one_line(workflow_why(one)),
    )
