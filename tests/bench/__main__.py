"""Measures what the architecture promises: `make bench`, or `python -m tests.bench --help`.

It prints tables with the goals beside the figures, and writes the same as JSON. It never fails for
being slow: figures are for people to compare, on a machine that is doing nothing else.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from tests.bench import external, memory, replicas, scale, seeing, settled, starting, web, workloads
from tests.bench.figures import Figure, judge, show, write

BUILD = Path("build/bench")
PARTS = (
    "starting",
    "memory",
    "workloads",
    "seeing",
    "external",
    "scale",
    "settled",
    "web",
    "replicas",
)
SETTLED = 1_000_000  # about a minute and 2.5 GiB


def main() -> None:
    """Measures what is asked for."""
    asked = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 140)
    machine: dict[str, object] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    console.print("  ".join(f"{key} {value}" for key, value in machine.items()))
    if os.getloadavg()[0] > 1:
        console.print("This machine is busy with something else: the figures will be low.")
    began = time.monotonic()
    parts: dict[str, list[Figure]] = {}
    # Beside the data of a service, not in a /tmp that may be memory: the disk is what is measured.
    BUILD.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=BUILD) as folder:
        for part in asked.only or PARTS:
            place = Path(folder, part).absolute()
            place.mkdir()
            parts[part] = _measure(part, asked)(place)
            show(part, parts[part], console)
    judge((figure for figures in parts.values() for figure in figures), console)
    write(asked.json, machine, dict(parts))
    console.print(f"{time.monotonic() - began:.0f} s; written to {asked.json}")


def _measure(part: str, asked: argparse.Namespace) -> Callable[[Path], list[Figure]]:
    return {
        "starting": lambda folder: starting.measure(folder, asked.starts),
        "memory": lambda folder: memory.measure(folder, asked.rounds),
        "workloads": lambda folder: workloads.measure(folder, asked.rounds, asked.seconds),
        "seeing": lambda folder: seeing.measure(folder, asked.rounds, asked.seconds),
        "external": lambda folder: external.measure(
            folder,
            external.Extent(
                tasks=asked.external_tasks, seconds=asked.external_seconds, rounds=asked.rounds
            ),
        ),
        "scale": lambda folder: scale.measure(folder, asked.rounds),
        "settled": lambda folder: settled.measure(folder, asked.rounds, asked.settled),
        "web": lambda folder: web.measure(folder, asked.rounds, asked.web_settled, asked.web_tasks),
        "replicas": lambda folder: replicas.measure(
            folder, asked.rounds, asked.seconds, asked.replica_open
        ),
    }[part]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measures start-up, memory, throughput, and what grows with size.",
    )
    parser.add_argument("--only", action="append", choices=PARTS, help="measure this part only")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each workload (default 3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run (default 3)")
    parser.add_argument("--starts", type=int, default=7, help="starts of each command (default 7)")
    parser.add_argument(
        "--external-tasks",
        type=int,
        default=external.TASKS,
        help=f"external tasks that are open at once (default {external.TASKS})",
    )
    parser.add_argument(
        "--external-seconds",
        type=float,
        default=external.SECONDS,
        help=f"of their heartbeats, each way (default {external.SECONDS:.0f}: nine minutes in all)",
    )
    parser.add_argument(
        "--settled",
        type=int,
        default=SETTLED,
        help=f"settled workflows in the larger store (default {SETTLED}: a minute, and 2.5 GiB)",
    )
    parser.add_argument(
        "--web-settled",
        type=int,
        default=web.SETTLED,
        help=f"settled workflows beside which pages answer (default {web.SETTLED})",
    )
    parser.add_argument(
        "--web-tasks",
        type=int,
        default=web.TASKS,
        help=f"tasks of the largest workflow that is shown (default {web.TASKS})",
    )
    parser.add_argument(
        "--replica-open",
        type=int,
        default=replicas.OPEN,
        help=f"open workflows when all coordinators are killed (default {replicas.OPEN})",
    )
    parser.add_argument("--json", type=Path, default=BUILD / "figures.json", help="where to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
