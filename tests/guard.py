"""Ends what a test run has started, however the run ends; and ends a run that takes too long.

Every process that a run starts inherits a mark in its environment, whatever session or parent it
gets. Beside each pytest process, xdist's workers too, stands a guard, a process of its own: once
that pytest has gone, killed or not, the guard kills all that bear its mark. What has to outlive a
run, as who unmounts does, is started without it (`unmarked`) and ends by itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

# A path of marks: a worker's begins with that of the run, a tour's with that of the worker.
VARIABLE = "COUNTERMAND_TESTS"

# When a run is to end, by the system's monotonic clock: its workers begin later, and end with it.
END = "COUNTERMAND_TESTS_END"

# A process that was killed is gone in this time, unless its disk hangs.
GONE_S_MAX = 10.0

# How a process of pytest is stopped, and how long it has for each: first it tells its stacks. Then
# a worker is killed, and its run tells in which test it was; a run has time for its summary.
STOPPED_BY: Mapping[str, Sequence[tuple[signal.Signals, float]]] = {
    "worker": [(signal.SIGUSR1, 1.0), (signal.SIGKILL, GONE_S_MAX)],
    "run": [(signal.SIGUSR1, 3.0), (signal.SIGINT, 30.0), (signal.SIGKILL, GONE_S_MAX)],
}

# -- the tests' side ----------------------------------------------------------------------------


def begin(minutes_max: float | None, *, is_worker: bool) -> str:
    """Marks this process and starts its guard; returns the mark."""
    mark = new_mark()
    os.environ[VARIABLE] = mark
    if not is_worker:
        os.environ[END] = str(time.monotonic() + minutes_max * 60) if minutes_max else ""
    told = [mark, str(os.getpid()), "worker" if is_worker else "run"]
    told += [f"{minutes_max:g}" if minutes_max else "", os.environ[END]]
    faulthandler.register(signal.SIGUSR1, file=os.dup(2))  # before pytest captures it
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, *told],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # an interrupt at the keyboard is not for it
    )
    guard.returncode = 0  # nobody waits for it: it outlives this process
    return mark


def new_mark() -> str:
    """Returns a mark below this process's own."""
    return f"{os.environ.get(VARIABLE, '')}/{secrets.token_hex(8)}"


def unmarked() -> dict[str, str]:
    """Returns this process's environment without its mark."""
    return {name: value for name, value in os.environ.items() if name != VARIABLE}


def living(mark: str) -> dict[int, str]:
    """Returns the command lines of others that bear a mark, by their ids; not of its guard."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if _bears(folder, mark) and int(folder.name) != os.getpid() and __file__ not in line:
                found[int(folder.name)] = line.strip()
    return found


def end(mark: str) -> None:
    """Kills all others that bear a mark, and returns once they are gone."""
    give_up = time.monotonic() + GONE_S_MAX
    while (pids := living(mark)) and time.monotonic() < give_up:
        for pid in pids:
            _kill(pid, mark)


# -- the guard's side ---------------------------------------------------------------------------


def _bears(folder: Path, mark: str) -> bool:
    marked = f"\0{VARIABLE}={mark}".encode()
    environment = b"\0" + (folder / "environ").read_bytes() + b"\0"
    return marked + b"\0" in environment or marked + b"/" in environment


def _kill(pid: int, mark: str) -> None:
    """Kills a process, if the id is still that of one with the mark; returns once it is gone."""
    with _handle(pid) as handle, contextlib.suppress(OSError):
        if handle is not None and _bears(Path(f"/proc/{pid}"), mark):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], GONE_S_MAX)


@contextlib.contextmanager
def _handle(pid: int) -> Iterator[int | None]:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _guard(mark: str, pid: int, kind: str, minutes_max: str, end_s: str) -> None:
    with _handle(pid) as pytest:
        if pytest is not None:
            left_s = max(0, float(end_s) - time.monotonic()) if end_s else None
            ended, _, _ = select.select([pytest], [], [], left_s)
            if not ended:
                _stop(pytest, kind, minutes_max)
    end(mark)


def _stop(pytest: int, kind: str, minutes_max: str) -> None:
    """Has a run tell where it is and what it knows, and end."""
    if kind == "run":
        told = f"The tests have not ended within {minutes_max} minutes: they are ended now."
        print(f"\n{told} This is where they are:", file=sys.stderr, flush=True)
    for number, patience_s in STOPPED_BY[kind]:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pytest, number)
        select.select([pytest], [], [], patience_s)


if __name__ == "__main__":
    _guard(sys.argv[1], int(sys.argv[2]), *sys.argv[3:6])
