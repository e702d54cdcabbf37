"""What the commands about external tasks have in common: options, and how they run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from countermand.cli.exits import PATIENCE, run_with
from countermand.cli.settings import Settings, Span

if TYPE_CHECKING:
    from countermand.cli.external_calls import Vendor
    from countermand.v1.failure_pb2 import Failure

_Command = TypeVar("_Command", bound=Callable[..., Any])

POLICIES = ("compensate", "compensate-group", "pause", "ignore", "stop")
FAILED_WORDS = "REASON in upper case, such as ARRAY_FULL"


def doing(
    settings: Settings,
    work: Callable[[Vendor], Awaitable[int | None]],
    *,
    patience: timedelta = PATIENCE,
) -> NoReturn:
    """Runs what is done for an owner."""

    def door() -> type[Vendor]:
        from countermand.cli.external_calls import Vendor

        return Vendor

    run_with(settings, door, work, patience=patience)


def owner_option(command: _Command) -> _Command:
    """Adds whose tasks it is about."""
    return click.option(
        "--owner",
        required=True,
        metavar="ID",
        envvar="COUNTERMAND_OWNER",
        show_envvar=True,
        help="Whose: the vendor's id, as specs name it.",
    )(command)


def token_option(command: _Command) -> _Command:
    """Adds what proves the right to report."""
    return click.option(
        "--token",
        default="",
        envvar="COUNTERMAND_TOKEN",
        show_envvar=True,
        help="Its capability token. [default: it is looked up]",
    )(command)


def heartbeat_option(command: _Command) -> _Command:
    """Adds how long an owner may be silent."""
    return click.option(
        "--heartbeat",
        type=Span(),
        help="Without a sign of life for this long, as 30s, it is shown as unknown.",
    )(command)


def failure_options(command: _Command) -> _Command:
    """Adds why something has failed."""
    message = click.option("--message", default="", help="With --failed: what happened, in words.")
    failed = click.option("--failed", metavar="REASON", help=f"It has failed; {FAILED_WORDS}.")
    return failed(message(command))


def failure_of(reason: str, message: str, *, retriable: bool = False) -> Failure:
    """Returns a failure as it was given."""
    from countermand.v1.failure_pb2 import Failure

    return Failure(reason=reason, message=message or reason, retriable=retriable)
