"""Measures the data path: `make bench-io`, or `python -m tests.bench.io --help`.

Every figure is taken several times, the contenders by turns, each on a cold cache and durable at
its end. It prints tables with the goals beside the figures, and writes the same as JSON. It never
fails for being slow: figures are for people to compare, on a machine that is doing nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from agent.config import parse_size, tell_size
from agent.drivers.modes import probe
from tests.bench.figures import Figure, judge, show, write
from tests.bench.io_rows import ROWS, Row
from tests.bench.io_stack import started

BUILD = Path("build/bench")
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
NEEDED = 8  # times the size: the images, a copy by each at most, and four beside


def main() -> None:
    """Measures what is asked for."""
    asked = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the services would be left
    console = Console(width=None if sys.stdout.isatty() else 140)
    asked.folder.mkdir(parents=True, exist_ok=True)
    size = parse_size(asked.size)
    _refuse_missing(asked.folder, size)
    machine: dict[str, object] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "size": tell_size(size),
        "mode": probe(asked.folder),
        "cold": os.access(DROP_CACHES, os.W_OK),
    }
    console.print("  ".join(f"{key} {value}" for key, value in machine.items()))
    if not machine["cold"]:
        console.print("Only root can drop the page cache: reads may come from memory.")
    began = time.monotonic()
    rows = [row for row in ROWS if not asked.only or row.name in asked.only]
    with TemporaryDirectory(dir=asked.folder) as folder:
        figures = asyncio.run(_measure(Path(folder).absolute(), size, rows, asked.runs, console))
    for name, each in figures.items():
        show(name, each, console)
    judge((figure for each in figures.values() for figure in each), console)
    write(asked.json, machine, dict(figures))
    console.print(f"{time.monotonic() - began:.0f} s; written to {asked.json}")


async def _measure(
    folder: Path, size_bytes: int, rows: list[Row], count: int, console: Console
) -> dict[str, list[Figure]]:
    """Takes everything once in each round."""
    taken: dict[str, dict[str, list[float]]] = {
        row.name: {name: [] for name in row.takes} for row in rows
    }
    async with started(folder, size_bytes) as stack:
        for number in range(count):
            for row in rows:
                for name in _in_turn(list(row.takes), number):
                    _go_cold()
                    taken[row.name][name].append(await row.takes[name](stack))
            console.print(f"round {number + 1} of {count}", highlight=False)
    return {
        row.name: list(row.figures({name: tuple(runs) for name, runs in taken[row.name].items()}))
        for row in rows
    }


def _in_turn(names: list[str], number: int) -> list[str]:
    """Returns them in another order each time: whoever comes first has the quieter disk."""
    first = number % len(names)
    return names[first:] + names[:first]


def _go_cold() -> None:
    """Flushes and drops the page cache, whoever's it is."""
    os.sync()
    if os.access(DROP_CACHES, os.W_OK):
        DROP_CACHES.write_text("3")


def _refuse_missing(folder: Path, size_bytes: int) -> None:
    """Ends where it cannot be measured."""
    if shutil.which("qemu-img") is None or shutil.which("qemu-io") is None:
        sys.exit("qemu-img and qemu-io are needed to compare with: apt install qemu-utils")
    if missing := [tool for tool in ("nbdkit", "nbdcopy", "openssl") if not shutil.which(tool)]:
        sys.exit(f"{missing[0]} is needed to compare with: apt install nbdkit libnbd-bin openssl")
    free = shutil.disk_usage(folder).free
    if free < NEEDED * size_bytes:
        largest = tell_size(free // NEEDED // 2**20 * 2**20)
        sys.exit(f"{folder} has no room for images of that size: try --size {largest}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.io", description="Measures the data path against its peers."
    )
    names = [row.name for row in ROWS]
    parser.add_argument("--only", action="append", choices=names, help="measure this row only")
    parser.add_argument("--size", default="2GiB", help="of the images (default 2GiB)")
    parser.add_argument("--runs", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--folder", type=Path, default=BUILD, help="on the disk to be measured")
    parser.add_argument("--json", type=Path, default=BUILD / "io.json", help="where to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
