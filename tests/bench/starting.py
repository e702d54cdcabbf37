"""How long a person or a script waits for a command, and systemd for a service."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import click

from countermand.cli.main import main
from tests.bench.figures import Figure, at_most
from tests.bench.processes import start_agent, start_coordinator

CLI = Path(sys.executable).with_name("countermand")
CLI_GOAL = at_most(250)
CALLS = ("workflow list", "host list -o json")  # a whole answer, from the other side


def measure(folder: Path, runs: int) -> list[Figure]:
    """Returns start-up times; each service starts on the data of the run before."""
    commands: dict[str, list[float]] = {}
    for words in _locally():
        _command_ms(words)  # fills the page cache and the byte code, as any second use finds them
        commands[f"countermand {words}"] = [_command_ms(words) for _ in range(runs)]
    services: dict[str, list[float]] = {"coordinator to ready": [], "agent to ready": []}
    for _ in range(runs):
        with start_coordinator(folder) as coordinator:
            services["coordinator to ready"].append(coordinator.ready_ms)
            for words in CALLS:
                asked = f"--coordinator {coordinator.address} {words}"
                commands.setdefault(f"countermand {words}", []).append(_command_ms(asked))
        with start_agent(folder) as agent:
            services["agent to ready"].append(agent.ready_ms)
    return [
        *(
            Figure(name=name, unit="ms", runs=tuple(found), goals=(CLI_GOAL,))
            for name, found in commands.items()
        ),
        *(Figure(name=name, unit="ms", runs=tuple(found)) for name, found in services.items()),
    ]


def _locally() -> list[str]:
    """Returns commands that ask nobody: the help of every noun, and what is told without one."""
    nouns = main.list_commands(click.Context(main))
    return ["--help", *(f"{noun} --help" for noun in nouns), "version", "completion bash"]


def _command_ms(words: str) -> float:
    began = time.perf_counter()
    subprocess.run(
        [CLI, *words.split()],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    return (time.perf_counter() - began) * 1000
