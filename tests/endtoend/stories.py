"""Workflows that need somebody, told from their start to their end through the public client.

A story knows nothing of crashes: its client is as patient as an engine's, and `kept_alive` starts
whoever dies again. So each can be told under services that die anywhere.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from types import MappingProxyType
from typing import TypeVar

from countermand.client import Client, Run
from countermand.client.spec import policy, retry
from countermand.rpc.errors import CoordinatorUnavailable
from countermand.v1.workflow_pb2 import Workflow
from countermand.v1.workflow_spec_pb2 import Node, Policy
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.endtoend.cluster import HANG_S, POLL_S, Cluster, Service, copy

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


async def ends(run: Run, state: str) -> None:
    """Checks how a workflow ends."""
    workflow = await run.wait(timedelta(seconds=HANG_S))
    assert word(workflow) == state, workflow


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


@asynccontextmanager
async def kept_alive(
    cluster: Cluster, crash_points: Mapping[str, str] = MappingProxyType({})
) -> AsyncIterator[Counter[str]]:
    """Starts every service again whenever it dies; to die at a crash point, if it is given one.

    Yields how often each of them has died so far.
    """
    deaths: Counter[str] = Counter()

    async def watch(service: Service) -> None:
        while True:
            if not service.alive:
                await service.died()
                deaths[service.name] += 1
                await service.try_start(crash_points.get(service.name, ""))
            await asyncio.sleep(POLL_S)

    services = (cluster.coordinator, *cluster.agents.values())
    watchers = [asyncio.create_task(watch(service)) for service in services]
    try:
        async with asyncio.timeout(HANG_S):
            yield deaths
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)


@asynccontextmanager
async def patient(cluster: Cluster) -> AsyncIterator[Client]:
    """Yields a client that bears with a coordinator that is started again."""
    async with Client(cluster.coordinator.address) as client:
        yield client
