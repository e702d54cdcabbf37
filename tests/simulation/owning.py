"""What a coordinator has for the owners of external tasks, put together as it does itself."""

from __future__ import annotations

import asyncio

from coordinator import assembly as made
from coordinator.assembly import Assembly, external_tasks
from coordinator.owners.owners import Owners
from coordinator.runtime.retention import sweep_for_ever

__all__ = ["OWNER_RPCS", "Assembly", "external_tasks", "open_owners"]

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


async def open_owners(assembly: Assembly) -> Owners:
    """Takes up what waits for owners, and sees to them from now on."""
    owners, reported = await made.open_owners(assembly)
    sweeping = sweep_for_ever(
        store=assembly.store, loop=assembly.loop, clock=assembly.clock, retention=assembly.retention
    )
    for work in (owners.run(), reported.run(), sweeping):
        asyncio.get_running_loop().create_task(work)
    return owners
