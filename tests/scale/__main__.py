"""Plays sites of many sizes in virtual time, and prints where something becomes the limit.

`make scale`: the table of `docs/explanation/cells.md`. `make scale ARGS=--measure`: what it takes
its costs from, measured anew; `ARGS=--compare`: a real restart beside the same one as it is played.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from tests.scale.calibrate import measure_database
from tests.scale.compare import compare
from tests.scale.costs import MEASURED
from tests.scale.lines import measure_lines
from tests.scale.site import Size, all_killed, one_killed, p99, steady

SIZES = (
    Size(replicas=3, hosts=100, open=10_000),
    Size(replicas=3, hosts=1_000, open=10_000),
    Size(replicas=5, hosts=1_000, open=100_000),
    Size(replicas=10, hosts=2_000, open=100_000),
    Size(replicas=10, hosts=3_000, open=300_000),
    Size(replicas=30, hosts=3_000, open=300_000),
    Size(replicas=30, hosts=10_000, open=1_000_000),
    Size(replicas=100, hosts=1_000, open=1_000_000),
    Size(replicas=100, hosts=10_000, open=1_000_000),
)
HEAD = (
    *(
        "replicas",
        "hosts",
        "open",
        "database",
        "positions",
        "coordinator",
        "commit p99",
        "renewal p99",
    ),
    *("lost", "floors", "one: owned", "decided", "all: owned", "decided", "dialled"),
)


@click.command()
@click.option("--measure", is_flag=True, help="Measure what the model takes its costs from.")
@click.option("--compare", "is_compared", is_flag=True, help="Play a restart that is also made.")
@click.option("--size", "said", multiple=True, help="REPLICAS,HOSTS,OPEN instead of the usual.")
def main(said: Sequence[str], *, measure: bool, is_compared: bool) -> None:
    """Say where the database, or something else, becomes the limit."""
    if measure:
        found = asyncio.run(measure_database())
        with tempfile.TemporaryDirectory() as folder:
            found |= measure_lines(Path(folder))
        for name, value in found.items():
            click.echo(f"    {name}={value!r},")
    elif is_compared:
        compare()
    else:
        _print(HEAD)
        for size in map(_size, said) if said else SIZES:
            began = time.monotonic()
            _print(_row(size))
            click.echo(f"  ({time.monotonic() - began:.0f} s)", err=True)


def _size(said: str) -> Size:
    replicas, hosts, opened = map(int, said.split(","))
    return Size(replicas=replicas, hosts=hosts, open=opened)


def _row(size: Size) -> tuple[object, ...]:
    calm, one, every = (play(size, MEASURED) for play in (steady, one_killed, all_killed))
    lost = calm.lost + one.lost + every.lost
    return (
        *(f"{number:,}" for number in (size.replicas, size.hosts, size.open)),
        f"{calm.database:.2f} cores",
        f"{calm.positions:.0%}",
        f"{calm.coordinator:.0%}",
        f"{1000 * p99(calm.commits_s):.0f} ms",
        f"{1000 * p99(calm.renewals_s):.0f} ms",
        lost,
        f"{max(calm.floors_s, default=float('nan')):.2f} s",
        *(f"{s:.1f} s" for s in (one.owned_s, one.decided_s)),
        *(f"{s:.1f} s" for s in (every.owned_s, every.decided_s, every.dialled_s)),
    )


def _print(row: Sequence[object]) -> None:
    click.echo("| " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main()
