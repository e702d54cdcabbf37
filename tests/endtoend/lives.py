"""Starts services as real processes, quickly: one nursery has done the imports, all are forked.

Importing takes most of a start, and these tests start services hundreds of times. The nursery keeps
no thread and opens nothing, so what it forks is as fresh as `python -m coordinator`. It reaps its
children itself and signals only those it has not reaped; when its standard input closes, for
whatever reason, it kills what is left and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, Self

# What the services import when they start, some of it late.
IMPORTED = (
    "agent.__main__",
    "coordinator.__main__",
    "alembic.command",
    "sqlalchemy.dialects.sqlite",
)
# And of what speaks to PostgreSQL, where there is that.
EXTRA = ("coordinator.store.server", "sqlalchemy.dialects.postgresql.psycopg")


# -- the tests' side ----------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Life:
    """One process, from its start to its end."""

    name: str
    output: Path  # what it writes to standard output
    log: Path  # what it writes to standard error
    pid: int = 0  # 0 until it is known
    code: int | None = None  # as subprocess tells it: -9 after SIGKILL


class Lives:
    """The processes of a test run; leaving the block ends them all."""

    def __init__(self) -> None:
        self._count = 0
        self._lives: list[Life] = []
        self._unread = b""

    def __enter__(self) -> Self:
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.endtoend.lives"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._nursery.stdout is not None
        os.set_blocking(self._nursery.stdout.fileno(), False)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.close()
        self._nursery.wait()
        self._nursery.stdout.close()

    def start(
        self, name: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> Life:
        """Starts `python -m <arguments>`; returns before it is ready."""
        folder.mkdir(parents=True, exist_ok=True)
        life = Life(
            name, folder / f"{name}-{self._count}.out", folder / f"{name}-{self._count}.log"
        )
        self._lives.append(life)
        self._order(
            start=self._count,
            arguments=list(arguments),
            environment=dict(environment),
            output=str(life.output),
            log=str(life.log),
        )
        self._count += 1
        return life

    def signal(self, life: Life, number: signal.Signals) -> None:
        """Sends a signal, unless it has ended."""
        assert self._nursery.stdout is not None
        while not life.pid:  # it may be ready before the nursery comes to saying who it is
            select.select([self._nursery.stdout], [], [])
            self.look()
        self._order(pid=life.pid, signal=number)

    def look(self) -> None:
        """Takes up what the nursery has said so far."""
        assert self._nursery.stdout is not None
        with contextlib.suppress(BlockingIOError):
            self._unread += os.read(self._nursery.stdout.fileno(), 65536)
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "started" in said:
                self._lives[said["started"]].pid = said["pid"]
            else:
                # The newest of that id: the system may use one again.
                ended = [life for life in self._lives if life.pid == said["pid"]]
                ended[-1].code = said["code"]

    def _order(self, **order: Any) -> None:
        assert self._nursery.stdin is not None
        self._nursery.stdin.write(json.dumps(order).encode() + b"\n")
        self._nursery.stdin.flush()


# -- the nursery's side -------------------------------------------------------------------------


def _serve() -> None:
    for module in IMPORTED:
        import_module(module)
    with contextlib.suppress(ImportError):
        for module in EXTRA:
            import_module(module)
    children: set[int] = set()
    held = False  # an order is being carried out: no child is reaped meanwhile

    def reap(*_: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while children and not held:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                children.discard(pid)
                _say(pid=pid, code=os.waitstatus_to_exitcode(status))

    signal.signal(signal.SIGCHLD, reap)
    # A signal that comes just before the read begins is handled after it: the alarm ends the wait.
    signal.signal(signal.SIGALRM, reap)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    for line in sys.stdin:
        held = True
        order = json.loads(line)
        if "signal" in order:
            if order["pid"] in children:
                os.kill(order["pid"], order["signal"])
        else:
            children.add(_fork(order))
        held = False
        reap()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _fork(order: dict[str, Any]) -> int:
    pid = os.fork()
    if not pid:
        _live(order)
    _say(started=order["start"], pid=pid)
    return pid


def _live(order: dict[str, Any]) -> NoReturn:
    code: object = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        for number, path in enumerate(("/dev/null", order["output"], order["log"])):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644), number)
        os.environ.update(order["environment"])
        module, *arguments = order["arguments"]
        import_module(f"{module}.__main__").main(arguments, prog_name=module)
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # noqa: BLE001 - told, then it ends
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)


def _say(**said: int) -> None:
    os.write(1, json.dumps(said).encode() + b"\n")


if __name__ == "__main__":
    _serve()
