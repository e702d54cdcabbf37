"""Runs a command's work, and turns how it ended into words and an exit code.

No traceback ever reaches a user for something the world can break; a bug of ours still shows one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click

from countermand.cli.forms import show_error, show_failure
from countermand.cli.settings import Settings
from countermand.rpc.visible import visible

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from countermand.client import Client
    from countermand.rpc.errors import CountermandError
    from countermand.v1.workflow_pb2 import Workflow

FAILED = 1
COMPENSATED = 3
ATTENTION = 4
TIMED_OUT = 124
Door = TypeVar("Door")

INTERRUPTED = 130  # as shells say: 128 + SIGINT

# A person who mistyped the address should hear of it before they wonder.
PATIENCE = timedelta(seconds=3)
# Somebody who follows a workflow wants to see the coordinator come back.
PATIENCE_WHEN_FOLLOWING = timedelta(minutes=1)
# More mistakes at once push the first off the screen, and are often one.
VIOLATIONS_TOLD = 10


def run(
    settings: Settings,
    work: Callable[[Client], Awaitable[int | None]],
    *,
    patience: timedelta = PATIENCE,
    keeps: bool = False,
    late: Callable[[Client], Awaitable[str]] | None = None,
) -> NoReturn:
    """Runs the work with an open client, and exits with the code it returns.

    Work that keeps what it is told, rather than to show it, has each text as it is. Once time is
    over, `late` says what is told of it; nothing for the usual words.
    """

    def client() -> type[Client]:
        from countermand.client import Client

        return Client

    run_with(settings, client, work, patience=patience, keeps=keeps, late=late)


def run_with(
    settings: Settings,
    door: Callable[[], Callable[..., AbstractAsyncContextManager[Door]]],
    work: Callable[[Door], Awaitable[int | None]],
    *,
    patience: timedelta = PATIENCE,
    keeps: bool = False,
    late: Callable[[Door], Awaitable[str]] | None = None,
) -> NoReturn:
    """Runs the work with another door to the coordinator than a client; `door` imports it."""
    import asyncio
    import os

    # Before gRPC is loaded: its notes about lost connections would tear the live tree.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    opened = door()
    from countermand.rpc.errors import CountermandError

    async def connected() -> int | None:
        people = not (settings.for_programs or keeps)
        door = opened(settings.coordinator, patience=patience, for_people=people)
        async with door as client:
            seconds = settings.timeout.total_seconds() if settings.timeout is not None else None
            try:
                async with asyncio.timeout(seconds):
                    return await work(client)
            except TimeoutError as error:
                if late is None or str(error):
                    raise
                raise TimeoutError(await late(client)) from None

    try:
        code = asyncio.run(connected()) or 0
    except CountermandError as error:
        code = fail(settings, error)
    except TimeoutError as error:
        code = timed_out(settings, str(error))
    except click.Abort:
        say(settings, "Nothing has changed.", "ABORTED", "NOT_AGREED")
        code = FAILED
    except KeyboardInterrupt:
        words = "Stopped looking; whatever was submitted goes on."
        say(settings, words, "CANCELLED", "INTERRUPTED", lead="\n")
        code = INTERRUPTED
    raise click.exceptions.Exit(code)


def fail(settings: Settings, error: CountermandError) -> int:
    """Tells an error, and returns the exit code for it."""
    from grpc import StatusCode

    violations = getattr(error, "violations", ())
    if settings.for_programs:
        show_error(settings, as_json(error))
    elif violations:
        name = error.metadata.get("name")
        head = f"{name} cannot go on yet" if name else "the request is not right"
        click.echo(f"{_error_word()} {head} ({error.reason}):", err=True)
        for violation in violations[:VIOLATIONS_TOLD]:
            told = visible(f"{violation.field}: {violation.description}")
            click.echo(f"  {told}", err=True)
        if more := len(violations[VIOLATIONS_TOLD:]):
            click.echo(f"  and {more} more; `-o json` has all of them", err=True)
    else:
        click.echo(f"{_error_word()} {visible(error.message)} ({error.reason})", err=True)
    return TIMED_OUT if error.code is StatusCode.DEADLINE_EXCEEDED else FAILED


def timed_out(settings: Settings, message: str) -> int:
    """Tells that time is over, and returns the exit code for it."""
    message = message or f"{not_done(settings)}; whatever was submitted goes on"
    lead = f"{click.style('Timed out:', fg='yellow')} "
    say(settings, message, "DEADLINE_EXCEEDED", "TIMEOUT", lead=lead)
    return TIMED_OUT


def not_done(settings: Settings) -> str:
    """Returns after how long something was not done."""
    seconds = settings.timeout.total_seconds() if settings.timeout else 0
    return f"not done after {seconds:g} s"


def say(settings: Settings, message: str, code: str, reason: str, *, lead: str = "") -> None:
    """Tells why a command ends as it does, where no coordinator has told it."""
    if settings.for_programs:
        show_failure(settings, code, reason, message)
    else:
        click.echo(f"{lead}{message}", err=True)


def at_rest(workflow: Workflow) -> bool:
    """Returns whether a workflow is settled, or waits for somebody: it means an exit code."""
    return workflow.state not in _moving() or _known_code(workflow) is not None


def code_of(settings: Settings, workflow: Workflow) -> int:
    """Returns the exit code that a workflow's state means.

    A state it has no code for is told, and is no success: a newer coordinator may have others.
    """
    from countermand.drawing.words import UNHEARD_OF, workflow_look

    code = _known_code(workflow)
    if code is not None:
        return code
    look = workflow_look(workflow.state)
    if look is UNHEARD_OF:
        message = (
            f"{workflow.name} is in state {workflow.state}, for which this version of the command "
            "has no exit code: look with `countermand workflow get`, or a newer version."
        )
    else:
        wait = f"countermand workflow wait {workflow.name.removeprefix('workflows/')}"
        message = f"{workflow.name} is still {look.word}: wait for its end with `{wait}`."
    say(settings, message, "UNKNOWN", "STATE_WITHOUT_CODE", lead=f"{_error_word()} ")
    return FAILED


def _known_code(workflow: Workflow) -> int | None:
    """Returns the exit code of a workflow at rest; of one that moves on by itself none."""
    from countermand.v1.workflow_state_pb2 import WorkflowState

    if workflow.state in _moving():
        # What is still made up for may be stuck in one that runs its end actions. A pause that has
        # only begun is told once it holds: until then, more may fail.
        pausing = workflow.state == WorkflowState.WORKFLOW_STATE_PAUSING
        return ATTENTION if workflow.needs and not pausing else None
    if workflow.leftovers:
        return ATTENTION
    codes: dict[int, int] = {
        WorkflowState.WORKFLOW_STATE_SUCCEEDED: 0,
        WorkflowState.WORKFLOW_STATE_COMPENSATED: COMPENSATED,
        WorkflowState.WORKFLOW_STATE_FAILED: FAILED,
        WorkflowState.WORKFLOW_STATE_PAUSED: ATTENTION,
        WorkflowState.WORKFLOW_STATE_BLOCKED: ATTENTION,
        WorkflowState.WORKFLOW_STATE_QUARANTINED: ATTENTION,
    }
    return codes.get(workflow.state)


def _moving() -> frozenset[int]:
    """Returns the states that a workflow leaves by itself."""
    from countermand.v1.workflow_state_pb2 import WorkflowState

    return frozenset(
        {
            WorkflowState.WORKFLOW_STATE_RUNNING,
            WorkflowState.WORKFLOW_STATE_PAUSING,
            WorkflowState.WORKFLOW_STATE_COMPENSATING,
            WorkflowState.WORKFLOW_STATE_ENDING,
        }
    )


def _error_word() -> str:
    return click.style("Error:", fg="red")


def as_json(error: CountermandError) -> dict[str, object]:
    """Returns an error in the form for programs."""
    shown: dict[str, object] = {
        "code": error.code.name,
        "reason": error.reason,
        "message": error.message,
        "metadata": error.metadata,
    }
    violations = getattr(error, "violations", ())
    if violations:
        shown["violations"] = [
            {"field": v.field, "description": v.description, "type": v.kind} for v in violations
        ]
    return shown
