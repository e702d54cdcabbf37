"""What a coordinator has for the owners of external tasks, put together as it does itself."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from coordinator.agents.fleet import Fleet
from coordinator.api.deciding import Deciding
from coordinator.api.external_task_service import ExternalTaskService
from coordinator.api.reporting import Reporting, progress_to_proto
from coordinator.api.rights import Rights
from coordinator.api.shown import Showing
from coordinator.api.starting import Starting
from coordinator.api.tokens import Tokens
from coordinator.owners.owners import Owners
from coordinator.owners.reported import Reported
from coordinator.runtime.loop import Loop
from coordinator.runtime.retention import RETENTION, sweep_for_ever
from coordinator.runtime.watch import Watches
from countermand.v1.attempt_pb2 import Progress
from tests.simulation.clock import VirtualClock

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a coordinator has made already."""

    loop: Loop
    store: Any
    hosts: Fleet
    watches: Watches[Progress]
    clock: VirtualClock


async def open_owners(parts: Parts) -> Owners:
    """Takes up what waits for owners, and sees to them from now on."""
    loop, store, watches = parts.loop, parts.store, parts.watches
    reported = Reported(store)
    await reported.open()
    owners = Owners(
        say=loop.hear,
        show=lambda workflow_id, attempt, record: watches.heard_progress(
            workflow_id, attempt, progress_to_proto(record)
        ),
        reported=reported,
    )
    owners.open(loop.open_workflows())
    sweeping = sweep_for_ever(store=store, loop=loop, clock=parts.clock, retention=RETENTION)
    for work in (owners.run(), reported.run(), sweeping):
        asyncio.get_running_loop().create_task(work)
    return owners


def external_tasks(parts: Parts, owners: Owners, tokens: Tokens) -> ExternalTaskService:
    """Returns the service for owners."""
    loop, store, watches, clock = parts.loop, parts.store, parts.watches, parts.clock
    hosts = parts.hosts
    showing = Showing(loop=loop, store=store, hosts=hosts, watches=watches, retention=RETENTION)
    deciding = Deciding(loop=loop, store=store, showing=showing, clock=clock)
    rights = Rights(tokens=tokens, showing=showing)
    return ExternalTaskService(
        loop=loop,
        store=store,
        owners=owners,
        rights=rights,
        reporting=Reporting(
            loop=loop,
            store=store,
            owners=owners,
            rights=rights,
            watches=watches,
            deciding=deciding,
            showing=showing,
        ),
        starting=Starting(
            store=store, hosts=hosts, clock=clock, showing=showing, deciding=deciding
        ),
        deciding=deciding,
        showing=showing,
    )
