"""Questions to a person at a terminal.

While one is open Ctrl-C must end the command, and not only be noted by the event loop that waits
for the answer.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

import click


def at_terminal() -> bool:
    """Returns whether there is somebody to ask, who also sees what is asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def agrees(question: str) -> bool:
    """Asks, and returns whether it was a yes.

    Raises:
        click.Abort: Ctrl-C, or the end of the input.
    """
    with _interruptible():
        return click.confirm(question, err=True)


def confirm(question: str) -> None:
    """Asks, and goes on only after a yes.

    Raises:
        click.Abort: It was no, Ctrl-C, or the end of the input.
    """
    with _interruptible():
        click.confirm(question, abort=True, err=True)


def prompt(question: str, **options: Any) -> Any:  # noqa: ANN401 - click's own
    """Asks for a value, again until it is one.

    Raises:
        click.Abort: Ctrl-C, or the end of the input.
    """
    with _interruptible():
        return click.prompt(question, **options)
