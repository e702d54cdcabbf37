"""Crash points: the named places where tests kill the process.

A component takes a `Crash` and calls it with the name of each place it passes. In production it
does nothing. With COUNTERMAND_CRASH_POINT=name, or name:n for the n-th time, the process kills
itself there with SIGKILL, as a power cut would; the simulator passes its own.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping

Crash = Callable[[str], None]

VARIABLE = "COUNTERMAND_CRASH_POINT"


def never(_name: str) -> None:
    """Passes every crash point."""


def from_environment(environment: Mapping[str, str]) -> Crash:
    """Returns what the environment asks for: to die at one named place, or nowhere."""
    wanted, _, count = environment.get(VARIABLE, "").partition(":")
    if not wanted:
        return never
    left = int(count or 1)

    def die_at(name: str) -> None:
        nonlocal left
        if name == wanted:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return die_at
