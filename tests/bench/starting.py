"""How long a person or a script waits for a command, and systemd for a service."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.bench.figures import Figure, at_most
from tests.bench.processes import start_agent, start_coordinator

CLI = Path(sys.executable).with_name("countermand")
CLI_GOAL = at_most(250)


def measure(folder: Path, runs: int) -> list[Figure]:
    """Returns start-up times; each service starts on the data of the run before."""
    _command_ms("--help")  # fills the page cache and the byte code, as any second use finds them
    commands = {
        f"countermand {word}": [_command_ms(word) for _ in range(runs)]
        for word in ("--help", "version")
    }
    services: dict[str, list[float]] = {"coordinator to ready": [], "agent to ready": []}
    for _ in range(runs):
        with start_coordinator(folder) as coordinator:
            services["coordinator to ready"].append(coordinator.ready_ms)
        with start_agent(folder) as agent:
            services["agent to ready"].append(agent.ready_ms)
    return [
        *(
            Figure(name=name, unit="ms", runs=tuple(found), goals=(CLI_GOAL,))
            for name, found in commands.items()
        ),
        *(Figure(name=name, unit="ms", runs=tuple(found)) for name, found in services.items()),
    ]


def _command_ms(word: str) -> float:
    began = time.perf_counter()
    subprocess.run([CLI, word], check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    return (time.perf_counter() - began) * 1000
