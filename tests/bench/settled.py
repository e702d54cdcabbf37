"""What a step costs beside few settled workflows and beside very many.

Two stores take turns, step by step: one with a thousand settled workflows, one with as many as are
asked for. Each settled one is a whole copy, row by row, of one that really ran: three tasks, their
attempts, every event. They are copied by SQL; what that takes is told, and is no figure of ours.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import time
from pathlib import Path
from statistics import median

from tests.bench.figures import Figure, at_most, ratio
from tests.bench.inside import Inside, leaves, plan
from tests.bench.scale import spec_of
from tests.bench.workloads import w1

FEW = 1_000
SMALL, LARGE = "few", "many"
TASKS = 90  # of an open workflow, in each round
WHOLE = 30  # workflows from start to end, in each round
WARM_UP = 5
GOAL = at_most(1.2)
TABLES = ("workflows", "submissions", "labels", "tasks", "attempts", "events")


def measure(folder: Path, rounds: int, settled: int) -> list[Figure]:
    """Returns figures of steps and of whole workflows, in both stores."""
    return asyncio.run(_measure(folder, rounds, settled))


async def _measure(folder: Path, rounds: int, settled: int) -> list[Figure]:
    first = Inside(folder / "first.sqlite")
    async with first.life():
        await first.run("first", w1(), plan(w1()))
    paths = {SMALL: folder / "few.sqlite", LARGE: folder / "many.sqlite"}
    began = time.perf_counter()
    for name, count in ((SMALL, FEW), (LARGE, settled)):
        shutil.copy(folder / "first.sqlite", paths[name])
        fill(paths[name], count)
    filled_s = time.perf_counter() - began
    size_mib = paths[LARGE].stat().st_size / 2**20
    stores = {name: Inside(path) for name, path in paths.items()}
    async with stores[SMALL].life():
        began = time.perf_counter()
        async with stores[LARGE].life():
            opened_ms = (time.perf_counter() - began) * 1000
            found = [await _round(stores, number) for number in range(rounds)]
    figures = [
        Figure(name=f"copying {settled} settled workflows", unit="s", runs=(filled_s,)),
        Figure(name=f"store with {settled} settled: size", unit="MiB", runs=(size_mib,)),
        Figure(name=f"store with {settled} settled: opening", unit="ms", runs=(opened_ms,)),
    ]
    for what in found[0]:
        pair = []
        for name, count in ((SMALL, FEW), (LARGE, settled)):
            runs = tuple(each[what][name] * 1000 for each in found)
            pair.append(Figure(name=f"{what}, {count} settled", unit="ms", runs=runs))
        few, many = pair
        figures += [few, many, ratio(f"{what}: {settled} ÷ {FEW}", many, few, goals=(GOAL,))]
    return figures


async def _round(stores: dict[str, Inside], number: int) -> dict[str, dict[str, float]]:
    """Returns the median seconds of each thing in each store."""
    spec, whole = spec_of("sequence", WARM_UP + TASKS + 1), w1()
    plans = plan(spec), plan(whole)
    steps: dict[str, list[float]] = {name: [] for name in stores}
    runs: dict[str, list[float]] = {name: [] for name in stores}
    for inside in stores.values():
        await inside.start(f"open-{number}", spec, plans[0])
    for index in leaves(plans[0])[:-1]:  # it stays open, as it would beside all the others
        for name, inside in stores.items():
            steps[name].append(await inside.advance(f"open-{number}", index))
    for place in range(WARM_UP + WHOLE):
        for name, inside in stores.items():
            runs[name].append(await inside.run(f"whole-{number}-{place}", whole, plans[1]))
    return {
        "one task": {name: median(took[WARM_UP:]) for name, took in steps.items()},
        "a workflow of three tasks": {name: median(took[WARM_UP:]) for name, took in runs.items()},
    }


# -- settled workflows ----------------------------------------------------------------------------


def fill(path: Path, count: int) -> None:
    """Copies the one workflow of a store until there are so many; nothing else has it open."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -262144"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        for table in TABLES:
            _copy_rows(connection, table, count - 1)
        last = "(SELECT max(position) FROM events)"
        connection.execute(f"UPDATE counters SET last_position = {last} WHERE name = 'events'")
        connection.execute("COMMIT")
        # As the store keeps it, and on the disk: neither is part of what is measured.
        connection.execute("PRAGMA journal_mode = WAL")
        found = connection.execute("SELECT count(*) FROM workflows").fetchone()
        assert found == (count,), found
    finally:
        connection.close()
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _copy_rows(connection: sqlite3.Connection, table: str, count: int) -> None:
    """Copies what one table holds of the first workflow, one workflow after the other."""
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    taken = {
        "key": "first.key + n",
        "workflow_key": "first.workflow_key + n",
        "id": "'settled-' || lower(hex(randomblob(8)))",  # clients choose them: in no order
        "position": "NULL",  # the next one
        "create_time_us": "create_time_us + n",
    }
    values = ", ".join(taken.get(column, f'first."{column}"') for column in columns)
    names = ", ".join(f'"{column}"' for column in columns)
    connection.execute(
        "WITH RECURSIVE copies(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copies WHERE n < ?) "
        f"INSERT INTO {table} ({names}) SELECT {values} FROM copies CROSS JOIN "
        f"(SELECT * FROM {table} LIMIT 1000) AS first",
        (count,),
    )
