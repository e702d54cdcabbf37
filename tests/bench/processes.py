"""Real processes, and what the kernel says of them: time to ready, CPU, memory.

Each is a plain `python -m …` in a session of its own; only what was started here is ever ended.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

READY_S_MAX = 30.0  # an import on a busy machine takes a second or two; this is a hang
STOP_S_MAX = 10.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a process holds, in MiB."""

    pss: float  # its own, and its share of what it shares
    rss: float
    rss_peak: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A service that answers."""

    pid: int
    address: str
    ready_ms: float  # from its start until it said so
    web: str = ""  # where its page is, of a coordinator that has one

    def cpu_s(self) -> float:
        """Returns the CPU time that it has used, of all its threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def memory(self) -> Memory:
        """Returns what it holds now, and the most it has held."""
        rollup = _kib(Path(f"/proc/{self.pid}/smaps_rollup"))
        status = _kib(Path(f"/proc/{self.pid}/status"))
        return Memory(
            pss=rollup["Pss"] / 1024, rss=status["VmRSS"] / 1024, rss_peak=status["VmHWM"] / 1024
        )


def machine_cpu_s() -> float:
    """Returns the CPU time that the whole machine has spent, on whatever."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, *_ = fields
    return (user + nice + system + irq + softirq) / TICKS_PER_S


@contextmanager
def start(
    arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """Yields a process once it has said on standard output that it is ready."""
    with log.open("ab") as errors:
        began = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:
        line = _first_line(child)
        ready_ms = (time.perf_counter() - began) * 1000
        if not line:
            raise RuntimeError(f"{arguments[0]} did not get ready:\n{log.read_text()[-2000:]}")
        ready = json.loads(line)
        yield Process(
            pid=child.pid, address=ready["address"], ready_ms=ready_ms, web=ready.get("web", "")
        )
    finally:
        child.terminate()
        try:
            child.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        assert child.stdout is not None
        child.stdout.close()


@contextmanager
def start_both(folder: Path, *agent_arguments: str) -> Iterator[tuple[Process, Process]]:
    """Yields a coordinator and an agent, which do not know each other yet."""
    with ExitStack() as stack:
        agent = stack.enter_context(start_agent(folder, *agent_arguments))
        yield stack.enter_context(start_coordinator(folder)), agent


def start_coordinator(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> AbstractContextManager[Process]:
    """Starts a coordinator whose data are in a folder."""
    data = str(folder / "coordinator")
    # No page, unless it is measured; what comes later counts.
    fixed = ["--data", data, "--listen", "127.0.0.1:0", "--web", "off"]
    return start(
        ["coordinator", "serve", *fixed, *arguments],
        folder / "coordinator.log",
        environment,
    )


def start_agent(folder: Path, *arguments: str) -> AbstractContextManager[Process]:
    """Starts an agent whose data are in a folder."""
    data = str(folder / "agent")
    return start(
        ["agent", "serve", "--data", data, "--listen", "127.0.0.1:0", *arguments],
        folder / "agent.log",
    )


def _first_line(child: subprocess.Popen[bytes]) -> bytes:
    assert child.stdout is not None
    readable, _, _ = select.select([child.stdout], [], [], READY_S_MAX)
    return child.stdout.readline() if readable else b""


def _kib(path: Path) -> dict[str, int]:
    """Returns the lines of a file of /proc that end in kB."""
    lines = (line.split() for line in path.read_text().splitlines() if line.endswith(" kB"))
    return {words[0].rstrip(":"): int(words[1]) for words in lines}
