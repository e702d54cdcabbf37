"""Workflows that need somebody, told from their start to their end through the public client.

A story knows nothing of crashes: its client is as patient as an engine's, and `kept_alive` starts
the coordinator again whenever it dies. So each can be told under a coordinator that dies anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from countermand.client import Client, Run
from countermand.client.spec import policy, retry
from countermand.rpc.errors import CoordinatorUnavailable
from countermand.v1.workflow_pb2 import Workflow
from countermand.v1.workflow_spec_pb2 import Node, Policy
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.endtoend.cluster import HANG_S, POLL_S, Cluster, copy

Value = TypeVar("Value")

ON_FAILURE = {
    word: policy(on_failure=Policy.OnFailure.Value(f"ON_FAILURE_{word}"))
    for word in ("COMPENSATE", "COMPENSATE_GROUP", "PAUSE", "IGNORE", "STOP", "RECOVER")
}
QUICK = timedelta(milliseconds=20)


def stubborn(attempts_max: int, delay: timedelta = QUICK) -> Policy:
    """Returns a policy under which a compensation that fails is soon over its budget."""
    return policy(compensation_retry=retry(attempts_max, delay=delay, delay_max=delay))


def bound(name: str, host: str, source: str, target: str, **node: object) -> Node:
    """Returns a copy of what another task left."""
    made = copy(name, host, "bound/bound", target, **node)
    made.task.action.copy_image.ClearField("source")
    for part in ("pool_id", "image_id"):
        made.task.bindings.add(field=f"source.{part}", source=f"tasks.{source}.output.image.{part}")
    return made


def word(workflow: Workflow) -> str:
    """Returns the word for a workflow's state."""
    return WorkflowState.Name(workflow.state).removeprefix("WORKFLOW_STATE_")


async def answered(ask: Callable[[], Awaitable[Value]]) -> Value:
    """Returns the answer to a question, asked again while the coordinator is away."""
    while True:
        try:
            return await ask()
        except CoordinatorUnavailable:
            await asyncio.sleep(POLL_S)


async def needs(run: Run, state: str) -> Workflow:
    """Returns a workflow that needs somebody, once it is at rest in the state that is expected."""
    workflow = await run.wait(timedelta(seconds=HANG_S), until_attention=True)
    while word(workflow) == "PAUSING":  # a failure is open before its siblings have ended
        await asyncio.sleep(POLL_S)
        workflow = await answered(run.get)
    assert word(workflow) == state, workflow
    return workflow


@dataclass(slots=True)
class Deaths:
    """How often a coordinator has died."""

    count: int = 0


@asynccontextmanager
async def kept_alive(cluster: Cluster, crash_point: str = "") -> AsyncIterator[Deaths]:
    """Starts the coordinator again whenever it dies; to die at a crash point, if one is given."""
    deaths = Deaths()

    async def watch() -> None:
        while True:
            if not cluster.coordinator.alive:
                await cluster.coordinator.died()
                deaths.count += 1
                await cluster.coordinator.try_start(crash_point)
            await asyncio.sleep(POLL_S)

    watcher = asyncio.create_task(watch())
    try:
        async with asyncio.timeout(HANG_S):
            yield deaths
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


@asynccontextmanager
async def patient(cluster: Cluster) -> AsyncIterator[Client]:
    """Yields a client that bears with a coordinator that is started again."""
    async with Client(cluster.coordinator.address) as client:
        yield client
