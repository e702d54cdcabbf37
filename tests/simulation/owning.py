"""What a coordinator has for the owners of external tasks, put together as it does itself."""

from __future__ import annotations

import asyncio

from coordinator import parts as made
from coordinator.owners.owners import Owners
from coordinator.parts import Parts, external_tasks
from coordinator.runtime.retention import sweep_for_ever

__all__ = ["OWNER_RPCS", "Parts", "external_tasks", "open_owners"]

OWNER_RPCS = (
    "StartExternalWorkflow",
    "AddExternalTask",
    "ListExternalTasks",
    "WatchExternalTasks",
    "AcceptExternalTask",
    "ReportExternalTask",
    "HeartbeatExternalTasks",
    "EndExternalTask",
    "EndExternalWorkflow",
    "ClearExternalWorkflow",
)


async def open_owners(parts: Parts) -> Owners:
    """Takes up what waits for owners, and sees to them from now on."""
    owners, reported = await made.open_owners(parts)
    sweeping = sweep_for_ever(
        store=parts.store, loop=parts.loop, clock=parts.clock, retention=parts.retention
    )
    for work in (owners.run(), reported.run(), sweeping):
        asyncio.get_running_loop().create_task(work)
    return owners
