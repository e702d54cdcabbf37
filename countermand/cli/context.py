"""One task with its context: what came in and from where, what it left, every attempt."""

from __future__ import annotations

from collections.abc import Iterator

import click
from google.protobuf import json_format

from countermand.cli.output import when
from countermand.cli.table import paint, table
from countermand.drawing.made_up import decided_words, given_by
from countermand.drawing.tasks import GROUPS, flat, last_said, task_id, verb_of, why
from countermand.drawing.values import indented, progress_words, said, value_words
from countermand.drawing.words import attempt_look, task_look
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.task_pb2 import InboundValue, Task

_VERBS = {Attempt.KIND_ACTION: "action", Attempt.KIND_COMPENSATION: "compensation"}


def describe_task(task: Task) -> None:
    """Prints one task whole."""
    click.echo(f"{task.name}  {paint(task_look(task.state))}  {verb_of(task)}")
    for line in _about(task):
        click.echo(f"  {line}")
    if task.inbound:
        click.echo()
        table(("INBOUND", "VALUE", "FROM"), [_inbound(each) for each in task.inbound])
    output = json_format.MessageToDict(task.output, preserving_proto_field_name=True)
    for left in output.values():
        rows = [(path, value) for path, value in flat(left, "")]
        if rows:
            click.echo()
            if given := given_by(task):
                table(("OUTPUT", "VALUE", "FROM"), [(*row, given) for row in rows])
            else:
                table(("OUTPUT", "VALUE"), rows)
    if task.attempts:
        click.echo()
        where = "OWNER" if task.owner_id else "HOST"
        heads = ("ATTEMPT", "KIND", "STATE", where, "BEGAN", "WHY")
        table(heads, [_attempt(each) for each in task.attempts])


def _about(task: Task) -> Iterator[str]:
    if words := why(task):
        yield indented(words)
    if message := last_said(task):
        yield f"last said: {message}"
    if task.needs_decision:
        yield "needs a decision: countermand workflow requirements says which are possible"
    if task.weight > 1:
        yield f"weight {task.weight}: its share of its group's progress"
    if task.open and task.kind in GROUPS:
        yield "open: vendors may add tasks to it"
    if task.round > 1:
        yield f"round {task.round}"
    if task.HasField("decided"):
        decided = task.decided
        asked = decided_words(decided.verb)
        yield f"{asked} by {decided.principal} at {when(decided.time)}: {decided.reason}"
    if task.opposite:
        yield f"made up for by: {task.opposite}"
    if task.after:
        yield f"after {', '.join(task_id(name) for name in task.after)}"


def _inbound(each: InboundValue) -> tuple[str, str, str]:
    origin = each.origin
    if each.principal:
        origin += f" by {each.principal} at {when(each.time)}"
    if each.previous.WhichOneof("kind") not in (None, "null_value"):
        origin += f", was {value_words(each.previous)}"
    return each.field, value_words(each.value), origin


def _attempt(attempt: Attempt) -> tuple[str, ...]:
    number = attempt.name.rpartition("/")[2]
    done = progress_words(attempt.progress) if attempt.progress.done else ""
    failure = f"{attempt.failure.reason}: {said(attempt.failure)}" if attempt.failure.reason else ""
    return (
        number,
        _VERBS.get(attempt.kind, "?"),
        str(attempt_look(attempt.state)),
        attempt.host_id or attempt.owner_id or "-",
        when(attempt.create_time),
        failure or done,
    )
