"""The demo's own processes: started, waited for until ready, killed, and always ended.

Each child leads a session of its own: Ctrl-C reaches only the demo, which then ends its children in
order. Nothing else is ever signalled: only process ids that were started here and not yet waited
for, which the system cannot have given to somebody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

# Importing gRPC on a busy machine takes a second or two; ten times that is a hang.
READY_TIMEOUT_S: Final = 30.0
# Long enough to flush a journal; afterwards SIGKILL, which the services are made for.
STOP_TIMEOUT_S: Final = 5.0
LOG_LINES_SHOWN: Final = 20


class ProcessFailed(Exception):
    """A child did not get ready, or ended when nobody asked it to."""


@dataclass(slots=True)
class Child:
    """One process, and the line in which it said that it is ready."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    ready: Mapping[str, object] = field(default_factory=dict)
    _drain: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Returns its process id."""
        return self.process.pid

    @property
    def address(self) -> str:
        """Returns where it listens, as it said itself."""
        return str(self.ready["address"])

    @property
    def page(self) -> str:
        """Returns where the web page of a coordinator listens."""
        return str(self.ready["web"]).removeprefix("http://")

    @property
    def is_alive(self) -> bool:
        """Returns whether it has not been waited for."""
        return self.process.returncode is None

    def kill(self) -> None:
        """Kills it with SIGKILL, as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def wait_killed(self) -> bool:
        """Waits for its end; returns whether SIGKILL was the cause."""
        return await self.process.wait() == -signal.SIGKILL

    async def wait_ready(self) -> None:
        """Waits for the ready line.

        Raises:
            ProcessFailed: It ended or stayed silent; the end of its log is in the message.
        """
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while line := await self.process.stdout.readline():
                    if ready := _ready(line):
                        self.ready = ready
                        self._drain = asyncio.create_task(self._read_on())
                        return
                code = await self.process.wait()
        except TimeoutError:
            raise ProcessFailed(self._said(f"was not ready in {READY_TIMEOUT_S:g} s")) from None
        raise ProcessFailed(self._said(f"ended with code {code} before it was ready"))

    async def stop(self) -> None:
        """Asks it to end, and insists."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await self.process.wait()
            except TimeoutError:
                self.kill()
                await self.process.wait()
        if self._drain is not None:
            await self._drain

    async def _read_on(self) -> None:
        """Keeps its output from filling the pipe, which would stop it."""
        assert self.process.stdout is not None
        with self.log.open("ab", buffering=0) as log:  # read while it is written
            while line := await self.process.stdout.readline():
                log.write(line)

    def _said(self, what: str) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        last = "\n".join(f"  {line}" for line in lines[-LOG_LINES_SHOWN:]) or "  nothing"
        return f"{self.name} {what}. The end of its log, {self.log}:\n{last}"


class Processes:
    """All children of one demo; leaving the block ends them, newest first."""

    def __init__(self, logs: Path) -> None:
        """Keeps the folder for logs."""
        self._logs = logs
        self._children: list[Child] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Shielded: a second Ctrl-C must not leave children behind.
        await asyncio.shield(asyncio.ensure_future(self._stop_all()))

    async def start(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> Child:
        """Starts a child and returns it once it is ready."""
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{name}.log"
        with log.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        child = Child(name, process, log)
        self._children.append(child)
        await child.wait_ready()
        return child

    async def run(self, name: str, arguments: Sequence[str]) -> None:
        """Runs a child to its end.

        Raises:
            ProcessFailed: It ended with another code than 0; its log is in the message.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        path = self._logs / f"{name}.log"
        with path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        child = Child(name, process, path)
        self._children.append(child)
        if code := await process.wait():
            raise ProcessFailed(child._said(f"ended with code {code}"))  # noqa: SLF001 - its own file

    async def _stop_all(self) -> None:
        for child in reversed(self._children):
            await child.stop()


def _ready(line: bytes) -> Mapping[str, object] | None:
    """Returns the ready line's fields; other lines are none of ours."""
    try:
        said = json.loads(line)
    except ValueError:
        return None
    is_ready = isinstance(said, dict) and str(said.get("event", "")).endswith(".ready")
    return said if is_ready else None
