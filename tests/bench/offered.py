"""Load that is offered whether or not it is kept up with, and those who ask beside it.

A call is timed from when it was due: one that could not even be sent is late as well.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from countermand.client import Client
from tests.bench.figures import Goal
from tests.bench.workloads import w1

Call = Callable[[], Awaitable[object]]
Note = Callable[..., None]

GETS_PER_S = 10
W1_PER_S = 5


@asynccontextmanager
async def offering(
    call: Call, gap_s: Callable[[], float], took_ms: list[float] | None = None
) -> AsyncIterator[None]:
    """Makes a call after each gap meanwhile; what is under way at the end is awaited."""
    stop = asyncio.Event()
    offered = asyncio.create_task(_offer(call, gap_s, took_ms, stop))
    try:
        yield
    finally:
        stop.set()
        await offered


async def _offer(
    call: Call, gap_s: Callable[[], float], took_ms: list[float] | None, stop: asyncio.Event
) -> None:
    async def timed(due_s: float) -> None:
        await call()
        if took_ms is not None:
            took_ms.append((time.perf_counter() - due_s) * 1000)

    due_s = time.perf_counter()
    async with asyncio.TaskGroup() as calls:
        while not stop.is_set():
            calls.create_task(timed(due_s))
            due_s += gap_s()
            with suppress(TimeoutError):
                async with asyncio.timeout(due_s - time.perf_counter()):
                    await stop.wait()


def percentile(took: Sequence[float], percent: int) -> float:
    """Returns what so many percent do not exceed."""
    return sorted(took)[min(len(took) - 1, len(took) * percent // 100)]


class Others:
    """An engine that has nothing to do with the load: it asks for a workflow, and runs W1."""

    def __init__(self, client: Client) -> None:
        """Keeps the door; names go on over all runs."""
        self._client = client
        self._numbers = itertools.count()
        self._last = ""
        self._gets_ms: list[float] = []
        self._runs_ms: list[float] = []

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Asks at a fixed rate meanwhile."""
        await self._run()
        self._gets_ms, self._runs_ms = [], []
        async with (
            offering(self._get, lambda: 1 / GETS_PER_S, self._gets_ms),
            offering(self._run, lambda: 1 / W1_PER_S, self._runs_ms),
        ):
            yield

    def note(self, note: Note, when: str, *goals: Goal) -> None:
        """Tells what they saw since they were last asked to."""
        for what, took_ms in (("GetWorkflow", self._gets_ms), ("W1", self._runs_ms)):
            note(f"{when}: another's {what}, p50", "ms", percentile(took_ms, 50))
            note(f"{when}: another's {what}, p99", "ms", percentile(took_ms, 99), *goals)

    async def _run(self) -> None:
        name = f"w1-{next(self._numbers)}"
        run = await self._client.submit(w1(), workflow_id=name)
        await run.wait()
        self._last = name

    async def _get(self) -> None:
        await self._client.run(self._last).get()
