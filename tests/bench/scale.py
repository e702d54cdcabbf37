"""What one task costs in a small workflow and in the largest that there may be.

Core  the pure function alone: `advance` from an intent to the task's success, two reports
Step  the same through the loop and SQLite with synchronous=FULL: each report until it is durable

Both sizes take turns, task by task, so that a slow moment of the machine slows both; what counts is
their ratio.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from statistics import median

from coordinator.saga.advance import Decision, advance, start
from coordinator.saga.events import Now
from coordinator.saga.plan import Plan
from coordinator.saga.workflow import About
from countermand.client.spec import parallel, sequence, task, workflow_spec
from countermand.v1.verb_pb2 import Noop
from countermand.v1.workflow_spec_pb2 import WorkflowSpec
from tests.bench.figures import Figure, at_most, ratio
from tests.bench.inside import Inside, leaves, plan, reports

SMALL, LARGE = 100, 9_999  # with the root: as many nodes as a workflow may have
WARM_UP = 5
TASKS = 90  # measured of each, fewer than the small one has
GOAL = at_most(2)
KINDS = {"sequence": sequence, "parallel": parallel}


def measure(folder: Path, rounds: int) -> list[Figure]:
    """Returns figures of both kinds of groups, of the core and of whole steps."""
    figures: list[Figure] = []
    for kind in KINDS:
        specs = {size: spec_of(kind, size) for size in (SMALL, LARGE)}
        plans = {size: plan(spec) for size, spec in specs.items()}
        core = [_core(plans) for _ in range(rounds)]
        figures.extend(_figures(f"core, {kind}", "µs", 1e6, core))
        steps = asyncio.run(_steps(folder / f"{kind}.sqlite", specs, plans, rounds))
        figures.extend(_figures(f"step, {kind}", "ms", 1e3, steps))
    return figures


def spec_of(kind: str, size: int) -> WorkflowSpec:
    """Returns a workflow of no-ops in one group."""
    members = (task(f"task-{number}", host="host", action=Noop()) for number in range(size))
    return workflow_spec("scale", KINDS[kind]("all", *members))


def _figures(
    name: str, unit: str, factor: float, rounds: Iterable[tuple[float, float]]
) -> list[Figure]:
    small, large = (
        Figure(name=f"{name} of {size}: one task", unit=unit, runs=tuple(factor * s for s in runs))
        for size, runs in zip((SMALL, LARGE), zip(*rounds, strict=True), strict=True)
    )
    return [small, large, ratio(f"{name}: {LARGE} ÷ {SMALL}", large, small, goals=(GOAL,))]


# -- the core -------------------------------------------------------------------------------------


class _Core:
    """A workflow that only the core knows."""

    def __init__(self, plan_: Plan) -> None:
        self._now = Now(time=datetime.now(UTC), jitter=0.0, intent=1)
        about = About(kind="scale")
        self.decision: Decision = start(
            workflow_id="w", about=about, plan=plan_, owner_epoch=1, now=self._now
        )
        self.took: list[float] = []

    def advance(self, index: int) -> None:
        """Leads one task from its intent to its success."""
        took = 0.0
        for event in reports(index):
            began = time.perf_counter()
            # What was before is let go of here as well: the loop keeps no earlier decision either.
            self.decision = advance(self.decision.workflow, event, self._now)
            took += time.perf_counter() - began
        self.took.append(took)


def _core(plans: dict[int, Plan]) -> tuple[float, float]:
    """Returns what one task costs in the small and in the large workflow."""
    small, large = _Core(plans[SMALL]), _Core(plans[LARGE])
    turns = zip(leaves(plans[SMALL]), leaves(plans[LARGE]), strict=False)
    for of_small, of_large in islice(turns, WARM_UP + TASKS):
        small.advance(of_small)
        large.advance(of_large)
    return median(small.took[WARM_UP:]), median(large.took[WARM_UP:])


# -- whole steps ----------------------------------------------------------------------------------


async def _steps(
    path: Path, specs: dict[int, WorkflowSpec], plans: dict[int, Plan], rounds: int
) -> list[tuple[float, float]]:
    inside = Inside(path)
    found = []
    async with inside.life():
        for number in range(rounds):
            names = {size: f"{number}-{size}" for size in specs}
            for size, name in names.items():
                await inside.start(name, specs[size], plans[size])
            took: dict[int, list[float]] = {size: [] for size in specs}
            turns = zip(*(leaves(plan_) for plan_ in plans.values()), strict=False)
            for indices in islice(turns, WARM_UP + TASKS):
                for (size, name), index in zip(names.items(), indices, strict=True):
                    took[size].append(await inside.advance(name, index))
            found.append((median(took[SMALL][WARM_UP:]), median(took[LARGE][WARM_UP:])))
    return found
