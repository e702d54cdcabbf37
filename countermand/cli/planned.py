"""What a spec would do, as a coordinator worked it out: its tasks, its images, and what to mind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from countermand.cli.output import show_message
from countermand.cli.settings import Settings
from countermand.cli.table import table
from countermand.drawing.tasks import EFFECTS, depths_of, task_id, verb_of
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import ImageLock, PlanWorkflowResponse

IRREVERSIBLE = frozenset({Effect.EFFECT_PIVOT, Effect.EFFECT_FORWARD_ONLY})
# Beyond this the names are in the table above.
NAMED_MAX = 8

_OF_EFFECT = {
    Effect.EFFECT_READ_ONLY: "nothing to make up for",
    Effect.EFFECT_PIVOT: "nothing: from here it only goes forward",
    Effect.EFFECT_FORWARD_ONLY: "nothing: from here it only goes forward",
}


def show_plan(settings: Settings, planned: PlanWorkflowResponse) -> None:
    """Prints what would run, what would make up for it, and what it would hold."""
    if settings.for_programs:
        show_message(settings, planned)
        return
    if settings.output == "name":
        for task in planned.tasks:
            click.echo(task.name)
        return
    if not planned.tasks:
        click.echo("Nothing would run.", err=True)
        return
    depths = depths_of(planned.tasks)
    heads = ("TASK", "VERB", "HOST", "EFFECT", "MADE UP FOR BY")
    table(heads, [_row(task, depths[task.name]) for task in planned.tasks])
    _show_locks(planned.locks)
    for line in warnings(planned.tasks):
        click.echo(f"\n{click.style('Mind:', fg='yellow')} {line}")


def _row(task: Task, depth: int) -> tuple[str, ...]:
    return (
        "  " * depth + task_id(task.name),
        verb_of(task),
        task.host_id or ("chosen" if task.kind == Task.KIND_VERB else "-"),
        EFFECTS.get(task.effect, "-"),
        _OF_EFFECT.get(task.effect, task.opposite) or "-",
    )


def _show_locks(locks: Sequence[ImageLock]) -> None:
    if not locks:
        return
    click.echo("\nImages held from its start to its end:")
    for lock in sorted(locks, key=lambda one: not one.exclusive):
        how = "exclusive" if lock.exclusive else "shared   "
        click.echo(f"  {how}  {lock.image.pool_id}/{lock.image.image_id}")


def warnings(tasks: Sequence[Task]) -> Iterator[str]:
    """Yields what one should have meant, in sentences."""
    final = [task for task in tasks if task.effect in IRREVERSIBLE and not task.end_action]
    if final:
        yield (
            f"nothing makes up for {_listing(final)}. Before the first of them takes effect a "
            "failure is made up for whole; after it nothing is taken back any more."
        )
    allowed = [task for task in tasks if task.optional_by_policy and task.verb]
    if allowed:
        lists = any(task.effect in IRREVERSIBLE for task in allowed)
        left = " What should have been removed is then listed as left behind." if lists else ""
        yield f"the failure of {_listing(allowed)} is allowed: the workflow goes on.{left}"


def _listing(tasks: Sequence[Task]) -> str:
    more = len(tasks) - NAMED_MAX
    names = ", ".join(task_id(task.name) for task in tasks[:NAMED_MAX])
    return names + (f" and {more} more" if more > 0 else "")
