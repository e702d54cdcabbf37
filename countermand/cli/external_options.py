"""What the commands about external tasks have in common: options, and how they run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from countermand.cli.completion import complete_external, complete_owners
from countermand.cli.exits import PATIENCE, run_with
from countermand.cli.settings import (
    NAMES_OF_TASKS,
    Settings,
    Span,
    examples,
    names,
    shared_options,
)

if TYPE_CHECKING:
    from countermand.cli.external_calls import Vendor
    from countermand.v1.failure_pb2 import Failure

_Command = TypeVar("_Command", bound=Callable[..., Any])

TASK = "WORKFLOW/TASK[/ATTEMPT]"
POLICIES = ("compensate", "compensate-group", "pause", "ignore", "stop")
FAILED_WORDS = "REASON in upper case, such as ARRAY_FULL"


def doing(
    settings: Settings,
    work: Callable[[Vendor], Awaitable[int | None]],
    *,
    patience: timedelta = PATIENCE,
) -> NoReturn:
    """Runs what is done for an owner."""

    def door() -> Callable[..., AbstractAsyncContextManager[Vendor]]:
        from countermand.cli.external_calls import vendor_at

        return vendor_at

    run_with(settings, door, work, patience=patience)


def on_task(*lines: str) -> Callable[[Callable[..., None]], click.Command]:
    """Returns a decorator that makes a command about one task, with examples."""
    argument = click.argument("task", metavar=TASK, shell_complete=complete_external)
    command = click.command(epilog=names(*NAMES_OF_TASKS) + examples(*lines))
    return lambda function: command(argument(function))


def with_token(
    *, form: tuple[str, ...] = ("-o", "--output")
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Returns a decorator that adds what every command of an owner takes, and its settings."""
    shared = shared_options(form=form)
    return lambda function: token_option(shared(click.pass_obj(function)))


owner_option = click.option(
    "--owner",
    required=True,
    metavar="ID",
    shell_complete=complete_owners,
    envvar="COUNTERMAND_OWNER",
    show_envvar=True,
    help="Whose: the vendor's id, as specs name it.",
)
# What proves the right to report.
token_option = click.option(
    "--token",
    default="",
    envvar="COUNTERMAND_TOKEN",
    show_envvar=True,
    help="Its capability token. [default: it is looked up]",
)
# How long an owner may be silent.
heartbeat_option = click.option(
    "--heartbeat",
    type=Span(),
    help="Without a sign of life for this long, as 30s, it is shown as unknown.",
)


def failure_options(command: _Command) -> _Command:
    """Adds why something has failed."""
    message = click.option("--message", default="", help="With --failed: what happened, in words.")
    failed = click.option("--failed", metavar="REASON", help=f"It has failed; {FAILED_WORDS}.")
    return failed(message(command))


def failure_of(reason: str, message: str, *, retriable: bool = False) -> Failure:
    """Returns a failure as it was given."""
    from countermand.v1.failure_pb2 import Failure

    return Failure(reason=reason, message=message or reason, retriable=retriable)
