"""External tasks in words: what is asked of an owner, and what became of its reports."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

import click
from google.protobuf import json_format

from countermand.cli.forms import show_object
from countermand.cli.output import Row, age, as_json, show_message
from countermand.cli.settings import Settings
from countermand.cli.table import paint, table
from countermand.drawing import phrases
from countermand.drawing.values import one_line, progress_words, said
from countermand.drawing.words import Look, attempt_look
from countermand.rpc import names
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.external_task_pb2 import (
    ExternalOwner,
    ExternalRequest,
    WatchExternalTasksResponse,
)
from countermand.v1.workflow_spec_pb2 import Group, WorkflowSpec

ASKED: Final[Mapping[int, Look]] = {
    ExternalRequest.KIND_START: Look("start", "▸", "busy"),
    ExternalRequest.KIND_CANCEL: Look("cancel", "◐", "warn"),
    ExternalRequest.KIND_COMPENSATE: Look("compensate", "↶", "made_up"),
}
_UNHEARD_OF: Final = Look("other", "?", "warn")


def asked(request: ExternalRequest) -> Look:
    """Returns how what is asked looks."""
    return ASKED.get(request.kind, _UNHEARD_OF)


def short(attempt: str) -> str:
    """Returns the short name of an attempt's task, "vm-42/clone"."""
    parsed = names.parse_attempt(attempt)
    return f"{parsed.workflow_id}/{parsed.task_id}" if parsed else attempt


def request_row(request: ExternalRequest) -> Row:
    """Returns what is asked as a row of a table."""
    return (
        short(request.attempt),
        asked(request),
        request.task_kind,
        "yes" if request.accepted else "no",
        age(request.create_time),
        progress_words(request.progress),
        one_line(request.progress.message or _causes(request)),
    )


def owner_row(owner: ExternalOwner) -> Row:
    """Returns how an owner stands, for a table."""
    return (
        owner.owner_id,
        str(owner.waiting),
        str(owner.unaccepted),
        str(owner.silent),
        age(owner.oldest_time) or "-",
        "yes" if owner.watching else "no",
    )


def show_update(settings: Settings, update: WatchExternalTasksResponse) -> None:
    """Prints one change of what waits for an owner."""
    if settings.for_programs:
        show_object(settings, as_json(update))
    elif settings.output == "name":
        click.echo(update.closed or update.request.attempt)
    else:
        click.echo(update_line(update, datetime.now(UTC)))


def update_line(update: WatchExternalTasksResponse, now: datetime) -> str:
    """Returns one change as a line: when, which task, what."""
    when = f"{now:%H:%M:%S}.{now.microsecond // 1000:03d}Z"
    name = short(update.closed or update.request.attempt)
    return f"{when}  {name:<24}  {_change(update)}"


def _change(update: WatchExternalTasksResponse) -> str:
    if update.closed:
        return paint(Look("waits for nobody any more", "·", "quiet"))
    request = update.request
    words = [f"{paint(asked(request))} {request.task_kind}"]
    words += ["accepted" if request.accepted else "not accepted yet"]
    words += [progress_words(request.progress), request.progress.message, _causes(request)]
    return ", ".join(one_line(word) for word in words if word)


def _causes(request: ExternalRequest) -> str:
    """Returns why something is to be made up for."""
    causes = [f"{cause.reason}: {said(cause)}" for cause in request.causes[:1]]
    return f"because {causes[0]}" if causes else ""


def describe_request(request: ExternalRequest) -> None:
    """Prints what is asked, whole, and what comes next."""
    click.echo(f"{short(request.attempt)}  {paint(asked(request))}  {request.task_kind}")
    for line in _about(request):
        click.echo(f"  {line}")
    if request.arguments:
        rows = [(f"  {key}", text) for key, text in sorted(request.arguments.items())]
        table(("  ARGUMENT", "VALUE"), rows)
    left = json_format.MessageToDict(request.output)
    if left:
        table(("  IT LEFT", "VALUE"), [(f"  {key}", _plain(left[key])) for key in sorted(left)])
    click.echo("Accepted: the work may begin. Then:")
    for command in _next(request):
        click.echo(f"  countermand external {command}")


def _about(request: ExternalRequest) -> Iterator[str]:
    if request.compensates:
        yield f"makes up for attempt {request.compensates.rpartition('/')[2]}"
    for cause in request.causes:
        yield f"because {cause.reason}: {said(cause)}"
    if request.HasField("heartbeat_timeout"):
        span = phrases.duration(request.heartbeat_timeout.ToTimedelta().total_seconds())
        yield f"a sign of life at least every {span}, or it is shown as unknown"
    if request.HasField("run_timeout"):
        span = phrases.duration(request.run_timeout.ToTimedelta().total_seconds())
        yield f"to be ended within {span}"
    for key, value in sorted(request.labels.items()):
        yield f"label {key}={value}"


def _next(request: ExternalRequest) -> Iterator[str]:
    name = short(request.attempt)
    yield f"progress {name} 1/2"
    promised = (f" --output {key}={kind.upper()}" for key, kind in sorted(request.outputs.items()))
    yield f"end {name}{''.join(promised)}"
    yield f"end {name} --failed REASON --message …"


def _plain(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def show_attempt(settings: Settings, attempt: Attempt) -> int:
    """Prints an attempt after a report; returns 1 if its owner is to work on it no more."""
    stopped = attempt.state not in {Attempt.STATE_STARTING, Attempt.STATE_RUNNING}
    if settings.for_programs:
        show_message(settings, attempt)
    elif settings.output == "name":
        click.echo(attempt.name)
    else:
        words = [f"{short(attempt.name)}  {paint(attempt_look(attempt.state))}"]
        words += [progress_words(attempt.progress), one_line(attempt.progress.message)]
        click.echo("  ".join(word for word in words if word))
        if attempt.state == Attempt.STATE_CANCELLING:
            end = f"countermand external end {short(attempt.name)} --cancelled"
            click.echo(f"It is to be stopped: leave nothing behind, then {end}", err=True)
    return int(stopped)


def promised_in(spec: WorkflowSpec, task_id: str) -> dict[str, str]:
    """Returns the outputs that a task promises in a spec, with their types; none if it is added."""
    found = {name: dict(types) for name, types in _promises(spec.root, "")}
    stem, _, last = task_id.rpartition(".")
    return found.get(task_id) or (found.get(stem, {}) if last.isdecimal() else {})


def _promises(group: Group, lead: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    for node in (*group.members, *group.recovery):
        name = f"{lead}{node.name}"
        if node.HasField("external_task"):
            yield name, node.external_task.outputs
        elif node.HasField("group"):
            yield from _promises(node.group, lead)
        elif node.HasField("workflow"):
            yield from _promises(node.workflow.root, f"{name}.")
