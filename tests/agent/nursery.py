"""A process from which agents are forked: each is a real one, and starts in a tenth of the time.

The nursery imports what an agent imports, once, and opens nothing. Every order it gets is forked
off: a process of its own, with its own journal, locks, port and files, that dies of SIGKILL alone.
When whoever ordered goes away, so do all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

MESSAGE_BYTES_MAX = 64 * 1024


# -- whoever orders -----------------------------------------------------------------------------


@dataclass(slots=True)
class Child:
    """A forked process, as far as `asyncio.subprocess.Process` is asked of it."""

    nursery: Nursery
    pid: int
    returncode: int | None = None

    async def wait(self) -> int:
        """Returns its exit code once it has ended; minus the signal that ended it."""
        if self.returncode is None:
            self.returncode = await asyncio.to_thread(self.nursery.ended, self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills it."""
        self.send_signal(signal.SIGKILL)


@dataclass(slots=True)
class Nursery:
    """The one who orders; used by one test after the other."""

    _socket: socket.socket
    _codes: dict[int, int] = field(default_factory=dict)

    def fork(
        self, arguments: list[str], *, environment: dict[str, str], stderr: int
    ) -> tuple[Child, int]:
        """Starts a process of `countermand-agent`; returns it and the pipe of what it says."""
        said, stdout = os.pipe()
        order = {"arguments": arguments, "environment": environment}
        try:
            socket.send_fds(self._socket, [json.dumps(order).encode()], [stdout, stderr])
        finally:
            os.close(stdout)
        return Child(self, self._hear("pid")["pid"]), said

    def ended(self, pid: int) -> int:
        """Returns the exit code of a process, as soon as it has one."""
        while pid not in self._codes:
            self._hear("code")
        return self._codes.pop(pid)

    def _hear(self, wanted: str) -> dict[str, int]:
        while True:
            message: dict[str, int] = json.loads(self._socket.recv(MESSAGE_BYTES_MAX))
            if "code" in message:
                self._codes[message["pid"]] = message["code"]
            if (wanted == "code") == ("code" in message):
                return message


@contextlib.contextmanager
def opened() -> Iterator[Nursery]:
    """Yields a nursery; whatever still runs in it is killed at the end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.agent.nursery", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    try:
        yield Nursery(ours)
    finally:
        ours.close()  # at which it kills whatever still runs, and ends
        process.wait()


# -- the process itself -------------------------------------------------------------------------


def main() -> None:
    """Forks whatever is ordered, and tells how each ended."""
    import agent.__main__ as program
    from agent.drivers.plugins import installed

    for name in ("btrfs", "file"):
        installed().load(name)  # what they import is imported once
    orders = socket.socket(fileno=int(sys.argv[1]))
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    children: set[int] = set()
    try:
        _serve(program.main, orders, woken, children)
    except ConnectionError:
        pass  # whoever ordered has gone, just as he was to be told something
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _serve(program: Any, orders: socket.socket, woken: int, children: set[int]) -> None:
    """Forks and tells until whoever orders has gone."""
    while True:
        readable, _, _ = select.select([orders.fileno(), woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
        if orders.fileno() in readable:
            data, handles, _, _ = socket.recv_fds(orders, MESSAGE_BYTES_MAX, 2)
            if not data:
                return
            if (pid := os.fork()) == 0:
                orders.close()
                _live(program, json.loads(data), handles)
            for handle in handles:
                os.close(handle)
            children.add(pid)
            orders.send(json.dumps({"pid": pid}).encode())
        for pid, code in _reaped():
            children.discard(pid)
            orders.send(json.dumps({"pid": pid, "code": code}).encode())


def _reaped() -> Iterator[tuple[int, int]]:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, os.waitstatus_to_exitcode(status)


def _live(program: Any, order: dict[str, Any], handles: list[int]) -> NoReturn:
    """Becomes an agent."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, handle in enumerate(handles, 1):
            os.dup2(handle, number)
            os.close(handle)
        os.environ.update(order["environment"])
        program(order["arguments"], standalone_mode=True)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
