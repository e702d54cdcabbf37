"""`countermand external accept|progress|heartbeat|end`: reports about one attempt."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from countermand.cli.arguments import pair, plain, unquoted
from countermand.cli.external_options import (
    doing,
    failure_of,
    failure_options,
    on_task,
    with_token,
)
from countermand.cli.settings import INT64_MAX, Settings
from countermand.drawing.phrases import PARTS

if TYPE_CHECKING:
    from countermand.cli.external_calls import Vendor
    from countermand.v1.external_task_pb2 import EndExternalTaskRequest

_AMOUNT = re.compile("([0-9]{1,19})(B|[KMGTP]iB)?(?:/([0-9]{1,19})(B|[KMGTP]iB)?)?|([0-9]{1,3})%")
_POWERS = {unit: 1024**power for power, unit in enumerate(("B", "KiB", "MiB", "GiB", "TiB", "PiB"))}


@on_task(
    "countermand external accept vm-42/clone",
    "countermand external accept vm-42/clone --wait --timeout 1h",
    "countermand external accept vm-42/clone --token $TOKEN",
)
@click.option("--wait", "waits", is_flag=True, help="Wait until its owner is asked for it.")
@with_token()
def accept(settings: Settings, task: str, *, waits: bool, token: str) -> None:
    """Accept a task: its work may begin once this has answered.

    Says what is asked, whole. What was not accepted has no effect, and is cancelled without asking;
    of what was, only its owner can say how it ended. Repeating it is harmless.
    """

    async def work(vendor: Vendor) -> None:
        from countermand.cli.external_words import describe_request
        from countermand.cli.output import show_message
        from countermand.v1.external_task_pb2 import AcceptExternalTaskRequest

        find = vendor.place_in_time if waits else vendor.place
        place = await find(task, token)
        request = AcceptExternalTaskRequest(attempt=place.attempt, capability_token=place.token)
        answer = await vendor.calls.change(vendor.calls.external_tasks.AcceptExternalTask, request)
        if settings.for_programs:
            show_message(settings, answer)
        elif settings.output == "name":
            click.echo(answer.attempt.name)
        else:
            describe_request(answer.request)

    doing(settings, work)


@on_task(
    "countermand external progress vm-42/clone 12/40 --unit volumes",
    "countermand external progress vm-42/clone 60% --message 'second half of the mirror'",
    "countermand external progress vm-42/clone 3GiB/10GiB",
)
@click.argument("done", metavar="DONE[/TOTAL]|PERCENT%")
@click.option(
    "--unit",
    help=f"What is counted. [default: what was before; at first bytes for sizes, else {PARTS}]",
)
@click.option("--message", default="", help="What is being done, for people.")
@with_token()
def progress(
    settings: Settings, task: str, *, done: str, unit: str | None, message: str, token: str
) -> None:
    """Report how far a task is; it counts as a sign of life.

    Progress only grows: a lower one changes nothing but the message; of another unit it begins
    anew. The exit code is 1 once the task is to be stopped.
    """
    # What cannot be meant is refused before anything is asked.
    number, total, counted = _amounts(done, unit)

    async def work(vendor: Vendor) -> int:
        from countermand.cli.external_words import show_attempt
        from countermand.v1.attempt_pb2 import Progress
        from countermand.v1.external_task_pb2 import ReportExternalTaskRequest

        place = await vendor.place(task, token)
        of = counted or await vendor.unit(place.attempt) or PARTS
        request = ReportExternalTaskRequest(
            attempt=place.attempt,
            capability_token=place.token,
            progress=Progress(done=number, total=total, unit=of, message=message),
        )
        answer = await vendor.calls.change(vendor.calls.external_tasks.ReportExternalTask, request)
        return show_attempt(settings, answer.attempt)

    doing(settings, work)


@on_task(
    "countermand external heartbeat vm-42/clone",
    "while countermand external heartbeat vm-42/clone -o name; do sleep 10; done",
)
@with_token()
def heartbeat(settings: Settings, task: str, token: str) -> None:
    """Say that the work on a task is alive.

    The exit code is 1 once it is to be stopped, or is over.
    """

    async def work(vendor: Vendor) -> int:
        from countermand.cli.external_words import show_attempt
        from countermand.drawing.words import attempt_look
        from countermand.rpc.errors import AttemptClosed, NotOwner, VerbForbidden
        from countermand.v1.attempt_pb2 import Attempt
        from countermand.v1.external_task_pb2 import HeartbeatExternalTasksRequest

        place = await vendor.place(task, token)
        request = HeartbeatExternalTasksRequest()
        request.heartbeats.add(attempt=place.attempt, capability_token=place.token)
        method = vendor.calls.external_tasks.HeartbeatExternalTasks
        answers = (await vendor.calls.change(method, request)).answers
        state = answers[0].state if answers else Attempt.STATE_RUNNING
        if not state:
            if answers[0].refused:
                raise NotOwner(name=place.attempt, why="its capability token is another")
            raise AttemptClosed(attempt=place.attempt, why="nobody waits for it")
        if state == Attempt.STATE_STARTING:
            raise VerbForbidden(
                name=place.attempt,
                state=attempt_look(state).word,
                verb="a heartbeat",
                because="accept it first",
            )
        return show_attempt(settings, Attempt(name=place.attempt, state=state))

    doing(settings, work)


@on_task(
    "countermand external end vm-42/clone --output volume=lun-7 --output size_gib=40",
    "countermand external end vm-42/clone --failed ARRAY_FULL --message 'array 3 is full'",
    "countermand external end vm-42/clone --cancelled",
)
@click.option(
    "--output", "outputs", multiple=True, metavar="KEY=VALUE", help="What it left; repeatable."
)
@failure_options
@click.option("--retriable", is_flag=True, help="With --failed: another attempt may end better.")
@click.option("--cancelled", is_flag=True, help="It was stopped, as asked; nothing is left behind.")
@click.option("--force", is_flag=True, help="Close what was added under it and is open.")
@click.option(
    "--nothing-is-left",
    is_flag=True,
    help="With --failed or --cancelled, in the place of a silent owner: do not ask whether.",
)
@click.option("--report-id", help="With --token: a UUID that makes a repeat harmless.")
@with_token(form=("-o",))
def end(
    settings: Settings,
    task: str,
    *,
    outputs: tuple[str, ...],
    failed: str | None,
    message: str,
    retriable: bool,
    cancelled: bool,
    force: bool,
    nothing_is_left: bool,
    report_id: str | None,
    token: str,
) -> None:
    """End a task: with what it left, with a failure, or as stopped.

    Without more it has succeeded; what its spec promises must be given. A value is a number, true
    or false where it looks like one and its spec promises no text. A compensation ends with
    nothing, or with a failure: it is then asked for again.

    An action that has failed or was stopped has left nothing behind: nobody looks for it. Who does
    not know cancels the workflow instead; what is left is then made up for.
    """
    if sum((bool(outputs), failed is not None, cancelled)) > 1:
        raise click.UsageError("--output, --failed and --cancelled exclude each other")
    if failed is None and (retriable or message):
        raise click.UsageError("--message and --retriable say more about --failed REASON: add it")
    given = dict(pair(text, "--output") for text in outputs)

    async def work(vendor: Vendor) -> None:
        from countermand.cli.external_words import show_attempt
        from countermand.client.run import new_request_id
        from countermand.v1.external_task_pb2 import EndExternalTaskRequest

        place = await vendor.place(task, token)
        if place.silent_owner and (failed is not None or cancelled) and not nothing_is_left:
            _ask_what_is_left(task, place.silent_owner)
        request = EndExternalTaskRequest(
            attempt=place.attempt,
            capability_token=place.token,
            report_id=report_id or new_request_id(),
            force=force,
        )
        if failed is not None:
            request.failure.CopyFrom(failure_of(failed, message, retriable=retriable))
        elif cancelled:
            request.cancelled = True
        else:
            await _fill_output(vendor, request, given)
        answer = await vendor.calls.change(vendor.calls.external_tasks.EndExternalTask, request)
        show_attempt(settings, answer.attempt)

    doing(settings, work)


def _ask_what_is_left(task: str, owner: str) -> None:
    """Asks a person who ends a task in the place of its owner; an owner's script goes on."""
    from countermand.cli.asking import at_terminal, confirm

    if at_terminal():
        confirm(
            f"{owner} is silent, and this says that it has left nothing of {task}: nobody will "
            "look for it, or make up for it. Do you know that?"
        )


async def _fill_output(
    vendor: Vendor, request: EndExternalTaskRequest, given: dict[str, str]
) -> None:
    """Adds what was left: texts stay texts where the spec promises them."""
    types = await vendor.promised(request.attempt) if given else {}
    request.output.SetInParent()
    for key, text in given.items():
        is_text = types.get(key) == "string"
        request.output[key] = unquoted(text) if is_text else plain(text)


def _amounts(done: str, unit: str | None) -> tuple[int, int, str]:
    """Returns how much is done, of how much, and of what, or "": "12/40", "60%", "3GiB/10GiB"."""
    match = _AMOUNT.fullmatch(done)
    if match is None:
        raise click.UsageError(f"{done!r} is no progress: write 12/40, 60%, 12 or 3GiB/10GiB")
    if match[5]:
        if unit not in (None, "percent") or int(match[5]) > 100:  # noqa: PLR2004 - hundredths
            raise click.UsageError(f"{done!r} is in percent: from 0% to 100%, without --unit")
        return int(match[5]), 100, "percent"
    sizes = match[2] or match[4]
    if sizes and unit not in (None, "bytes"):
        raise click.UsageError(f"{done!r} is a size, and no number of {unit}")
    number = int(match[1]) * _POWERS[match[2] or "B"]
    total = int(match[3] or 0) * _POWERS[match[4] or "B"]
    if max(number, total) > INT64_MAX:
        raise click.UsageError(f"{done!r} is more than can be counted: use a larger --unit")
    if match[3] and number > total:
        raise click.UsageError(f"{done!r} is more than there is to do")
    return number, total, unit or ("bytes" if sizes else "")
