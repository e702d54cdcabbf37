"""Owners of external tasks as our client makes them, and the loop that they serve in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from countermand.client.external import Handler, Owner
from countermand.client.run import Run
from countermand.v1.external_task_pb2 import ExternalRequest
from countermand.v1.task_pb2 import Task
from countermand.v1.workflow_pb2 import Workflow
from tests.endtoend.cluster import HANG_S


@asynccontextmanager
async def serving(owner: Owner, **handlers: Handler) -> AsyncIterator[None]:
    """Serves while the block runs."""
    task = asyncio.create_task(owner.serve(handlers))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def asked(owner: Owner, kind: str) -> ExternalRequest:
    """Returns the first request of a kind."""
    async with asyncio.timeout(HANG_S):
        async for each in owner.requests():
            if each.task_kind == kind:
                return each
    raise AssertionError(kind)


async def states(run: Run) -> dict[str, str]:
    """Returns the word for the state of each task."""
    return {
        task.name.rpartition("/")[2]: Task.State.Name(task.state).removeprefix("STATE_")
        for task in await run.tasks()
    }


async def wait(run: Run) -> Workflow:
    """Returns a workflow once it has settled."""
    return await run.wait(timedelta(seconds=HANG_S))


def cancelling() -> int:
    """Returns how often the asyncio task that asks was cancelled, and has not taken notice."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()
