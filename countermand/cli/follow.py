"""Follows a workflow to its end: a live tree on a terminal, lines in a pipe, then its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import click

from countermand.cli.exits import FAILED, at_rest, code_of, not_done
from countermand.cli.lines import Pace, show_event
from countermand.cli.output import show_one
from countermand.cli.settings import Settings
from countermand.cli.table import paint
from countermand.client import Run
from countermand.drawing.next_steps import resume_command
from countermand.drawing.phrases import on
from countermand.drawing.tasks import SETTLED
from countermand.drawing.values import indented
from countermand.drawing.words import workflow_look
from countermand.rpc.errors import CountermandError
from countermand.v1.workflow_pb2 import Workflow
from countermand.v1.workflow_state_pb2 import WorkflowState

# An open failure ends a wait while its siblings are still in flight, and asking again at once would
# be answered at once.
ASK_AGAIN_S = 0.5
# No event tells what a workflow that has not begun waits for, nor how its line moves.
LOOK_AGAIN_S = 3.0
LAST_LOOK_S = 1.0  # once time is over: whoever set it does not want to wait much longer
NEEDS_TOLD_MAX = 3  # among other lines; `get` tells all

_HELD = frozenset({WorkflowState.WORKFLOW_STATE_PAUSED, WorkflowState.WORKFLOW_STATE_BLOCKED})


async def follow(settings: Settings, run: Run, after: int = 0) -> int:
    """Shows a workflow until it is settled, and returns the exit code it means.

    As lines, its history after a sequence; the tree begins with what is.
    """
    # Asked before anything is shown: a wrong name or address is an error and not an empty screen.
    await run.get()
    can_draw = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    if settings.for_people and can_draw:
        from countermand.cli.live import follow_live  # loads rich

        await follow_live(run)
    else:
        async with _waits_told(settings, run, needed):
            await _follow_lines(settings, run, after)
    workflow = await run.patiently(run.get)
    if settings.for_people:
        click.echo(await verdict(run, workflow))
    elif settings.output == "name":
        click.echo(workflow.name)
    return code_of(settings, workflow)


async def followed(settings: Settings, run: Run, *, watches: bool, after: int = 0) -> int:
    """Follows what was set going in full view, or quietly; returns the exit code it means."""
    if watches:
        return await follow(settings, run, after)
    return await wait_quietly(settings, run, settled=False)


async def _follow_lines(settings: Settings, run: Run, after: int) -> None:
    """Prints a line per event, and now and then how far each attempt is."""
    pace = Pace(lambda: datetime.now(UTC))
    async for update in run.watch(after, events_only=not settings.for_people):
        match update.WhichOneof("update"):
            case "event":
                pace.apply(update.event)
                show_event(settings, update.event)
            case "progress" if words := pace.line(update.progress):
                click.echo(words)
            case _:
                pass


@contextlib.asynccontextmanager
async def _waits_told(
    settings: Settings, run: Run, words: Callable[[Workflow], str], *, err: bool = False
) -> AsyncIterator[None]:
    """Tells meanwhile what keeps the workflow from going on, each time it is something else."""
    telling = asyncio.create_task(_tell_waits(run, words, err=err)) if settings.for_people else None
    try:
        yield
    finally:
        if telling is not None:
            telling.cancel()
            # An output that is closed is told by whoever prints next.
            await asyncio.gather(telling, return_exceptions=True)


async def _tell_waits(run: Run, words: Callable[[Workflow], str], *, err: bool) -> None:
    told = ""
    while True:
        # A coordinator that is away is told by whoever follows, once it is away for too long.
        with contextlib.suppress(CountermandError):
            waits = words(await run.get())
            if waits and waits != told:
                now = datetime.now(UTC)
                when = f"{now:%H:%M:%S}.{now.microsecond // 1000:03d}Z"
                for line in waits.splitlines():
                    click.echo(f"{when}        {run.id:<16}  {line}", err=err)
            told = waits
        await asyncio.sleep(LOOK_AGAIN_S)


def waiting(workflow: Workflow) -> str:
    """Returns what keeps a workflow that nobody paused; what a pause waits for is told with it."""
    if workflow.state != WorkflowState.WORKFLOW_STATE_RUNNING:
        return ""
    if workflow.needs:  # it goes on, but an owner is silent, and may be for ever
        return f"needs somebody: {workflow.needs[0].message}"
    return f"waits for {workflow.waits_for}" if workflow.waits_for else ""


def needed(workflow: Workflow) -> str:
    """Returns the same for whoever stays until it is settled: also what it needs, and what next."""
    if workflow.state not in _HELD:
        return waiting(workflow)
    needs = [
        f"needs somebody: {indented(need.message)}" for need in workflow.needs[:NEEDS_TOLD_MAX]
    ]
    if more := len(workflow.needs) - len(needs):
        needs.append(
            f"and {more} more: countermand workflow get {workflow.name.removeprefix('workflows/')}"
        )
    return "\n".join([*needs, *next_step(workflow).splitlines()[1:]])


async def wait_quietly(settings: Settings, run: Run, *, settled: bool) -> int:
    """Waits until a workflow is settled or needs somebody, and returns its exit code."""
    async with _waits_told(settings, run, needed if settled else waiting, err=True):
        workflow = await run.wait(until_attention=not settled)
        while not at_rest(workflow):
            await asyncio.sleep(ASK_AGAIN_S)
            workflow = await run.wait(until_attention=not settled)
    await _say_ended(settings, run, workflow)
    return code_of(settings, workflow)


async def wait_for(settings: Settings, run: Run, *states: WorkflowState.ValueType) -> int:
    """Waits until a workflow is in one of these states, or else needs somebody: 0 once that is so.

    One that settles without has the exit code of its end; a success has missed it, which is 1.
    """
    workflow = await run.get()
    if states:
        reached = workflow.state in states or await _reaches(run, workflow, states)
        workflow = await run.patiently(run.get)
    else:
        async with _waits_told(settings, run, waiting, err=True):
            while not at_rest(workflow):
                workflow = await run.wait(until_attention=True)
                if not at_rest(workflow):
                    await asyncio.sleep(ASK_AGAIN_S)
        reached = workflow.state not in SETTLED
    await _say_ended(settings, run, workflow)
    if reached:
        return 0
    if settings.for_people:
        words = " or ".join(workflow_look(state).word for state in states)
        missed = f"was not {words} meanwhile" if states else "needed nobody"
        click.echo(f"It is settled, and {missed}.", err=True)
    return code_of(settings, workflow) or FAILED


async def late_words(settings: Settings, run: Run) -> str:
    """Returns what to say of a wait that took too long: of what is held, that it is."""
    with contextlib.suppress(CountermandError, TimeoutError):
        async with asyncio.timeout(LAST_LOOK_S):
            workflow = await run.get()
        if workflow.state in _HELD:
            word, name = workflow_look(workflow.state).word, workflow.name
            verb = "resume" if workflow.state == WorkflowState.WORKFLOW_STATE_PAUSED else "get"
            told = f"`countermand workflow {verb} {run.id}`"
            return f"{not_done(settings)}; {name} is {word}, and needs somebody: {told}"
    return ""


async def _reaches(run: Run, seen: Workflow, states: tuple[WorkflowState.ValueType, ...]) -> bool:
    """Returns whether a workflow comes through one of these states before it is settled."""
    async for update in run.watch(seen.last_sequence, events_only=True):
        if update.event.workflow_state_changed.after in states:
            return True
    return False


async def _say_ended(settings: Settings, run: Run, workflow: Workflow) -> None:
    if settings.for_people:
        click.echo(await verdict(run, workflow))
    else:
        show_one(settings, workflow)


async def verdict(run: Run, workflow: Workflow) -> str:
    """Returns how it ended: what failed and why, what was made up for, what is left."""
    look = paint(workflow_look(workflow.state))
    match workflow.state:
        case WorkflowState.WORKFLOW_STATE_COMPENSATED | WorkflowState.WORKFLOW_STATE_FAILED:
            return f"{look}  {await run.failed(workflow)}"
        case WorkflowState.WORKFLOW_STATE_SUCCEEDED if workflow.leftovers:
            left = ", ".join(f"{one.description}{on(one.host_id)}" for one in workflow.leftovers)
            return f"{look}  {workflow.name}. Left behind: {left}."
        case _:
            told = (indented(need.message) for need in workflow.needs)
            needs = "".join(f"\n  needs somebody: {said}" for said in told)
            return f"{look}  {workflow.name}{needs}{next_step(workflow)}"


def next_step(workflow: Workflow) -> str:
    """Returns what somebody does about a workflow that is held, as a further line."""
    command = resume_command(workflow)
    return f"\n  next: {command}" if command else ""
