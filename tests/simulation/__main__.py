"""Runs simulated clusters: `make simulate SEED=1 RUNS=1000`.

A violation prints what was broken and the command that replays it; with one run the whole trace is
printed.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter

import click

from tests.simulation.stores import STORES
from tests.simulation.world import Violation, World


@click.command()
@click.option("--seed", default=1, show_default=True, help="The first seed.")
@click.option("--runs", default=200, show_default=True, help="How many seeds.")
@click.option("--store", type=click.Choice(sorted(STORES)), default="model", show_default=True)
@click.option("--several", is_flag=True, help="Several coordinators on one store, a model.")
@click.option("--rewound", is_flag=True, help="The store goes back in time.")
def main(seed: int, runs: int, store: str, *, several: bool, rewound: bool) -> None:
    """Play clusters under one seed each, and check every invariant."""
    if runs > 1:
        logging.disable(logging.CRITICAL)
    begin = time.monotonic()
    settled: Counter[str] = Counter()
    deaths = 0
    broken: list[int] = []
    for number in range(seed, seed + runs):
        try:
            world = World(
                number, store=STORES[store], several=several, rewound=rewound, verbose=runs == 1
            )
            report = world.run()
        except Violation as violation:
            broken.append(number)
            click.echo(f"{violation}")
            arguments = "--several" if several else f"--store {store}"
            arguments += " --rewound" if rewound else ""
            click.echo(f"  replay: make simulate SEED={number} RUNS=1 ARGS='{arguments}'")
            continue
        settled.update(report.settled.values())
        deaths += report.deaths
    spent_s = time.monotonic() - begin
    click.echo(
        f"{runs} clusters in {spent_s:.1f} s ({runs / spent_s * 60:.0f} a minute): "
        f"{deaths} deaths, {', '.join(f'{n} {state}' for state, n in sorted(settled.items()))}, "
        f"{len(broken)} broken"
    )
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
