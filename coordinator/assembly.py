"""What a coordinator is made of, put together: what waits for owners, the services, the others.

Used by `__main__`, and by whoever runs a coordinator without a process of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import timedelta

from coordinator.agents.fleet import Fleet
from coordinator.api.coordinator_service import CoordinatorService
from coordinator.api.deciding import Deciding
from coordinator.api.doctor.doctor import Doctor
from coordinator.api.doctor_service import DoctorService
from coordinator.api.elsewhere import Elsewhere
from coordinator.api.external_task_service import ExternalTaskService
from coordinator.api.host_service import HostService
from coordinator.api.letters import together
from coordinator.api.reporting import Reporting, progress_to_proto
from coordinator.api.rights import Rights
from coordinator.api.routing import Routing
from coordinator.api.shown import Showing
from coordinator.api.starting import Starting
from coordinator.api.tokens import Tokens
from coordinator.api.webhook_service import WebhookService
from coordinator.api.workflow_service import WorkflowService
from coordinator.owners.elsewhere import ReportedElsewhere
from coordinator.owners.owners import Owners, Show
from coordinator.owners.reported import Reported
from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import Clock, Store, StoreError
from coordinator.runtime.session import Keeper
from coordinator.runtime.tail import Tail
from coordinator.runtime.watch import Watches
from coordinator.traces.sampling import ALL, Sampler
from coordinator.webhooks.receivers import Receivers
from countermand.rpc.server import Service
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.coordinator_pb2_grpc import add_CoordinatorServiceServicer_to_server
from countermand.v1.doctor_pb2_grpc import add_DoctorServiceServicer_to_server
from countermand.v1.external_task_pb2_grpc import add_ExternalTaskServiceServicer_to_server
from countermand.v1.host_pb2_grpc import add_HostServiceServicer_to_server
from countermand.v1.webhook_pb2_grpc import add_WebhookServiceServicer_to_server
from countermand.v1.workflow_pb2_grpc import add_WorkflowServiceServicer_to_server

log = logging.getLogger(__name__)

AGAIN_S = 1.0  # after the store has failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """What everything else asks."""

    loop: Loop
    store: Store
    hosts: Fleet
    watches: Watches[Progress]
    clock: Clock
    retention: timedelta  # zero: for ever
    sampler: Sampler = ALL


async def open_owners(assembly: Assembly) -> tuple[Owners, Reported]:
    """Takes up what waits for owners, and the progress that they reported; both are to be run."""
    loop, watches = assembly.loop, assembly.watches
    reported = Reported(assembly.store)
    await reported.open()
    owners = Owners(
        say=loop.hear,
        show=_shows(watches),
        reported=reported,
    )
    owners.open(loop.open_workflows())
    return owners, reported


def _shows(watches: Watches[Progress]) -> Show:
    """Returns what tells those who watch of progress that was reported."""
    return lambda workflow_id, attempt, record: watches.heard_progress(
        workflow_id, attempt, progress_to_proto(record)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What a coordinator has because there are others: it is to be run."""

    routing: Routing
    tail: Tail
    reported: ReportedElsewhere

    async def run(self) -> None:
        """Goes on until cancelled.

        Raises:
            StoreFencedError: The own session has ended.
        """
        await together(self.routing.run(), self.tail.run(), self.reported.run())


def beside(assembly: Assembly, new_id: Callable[[], str]) -> Beside | None:
    """Returns what a coordinator needs because there may be others; None if there are none.

    What it answers with, `services`, is to be put through `routing.around`.
    """
    loop, store, watches = assembly.loop, assembly.store, assembly.watches
    if not store.shared:
        return None
    owned = lambda workflow_id: loop.workflow(workflow_id) is not None  # noqa: E731
    return Beside(
        routing=Routing(loop=loop, store=store, new_id=new_id),
        tail=Tail(store=store, hints=watches, owned=owned),
        reported=ReportedElsewhere(
            store=store, watched=watches.watched, owned=owned, show=_shows(watches)
        ),
    )


async def keep_house(
    keeper: Keeper, receivers: Receivers, house: Mapping[str, Coroutine[None, None, None]]
) -> None:
    """Does what only one does for all that share a store, once it is this one."""
    try:
        await keeper.keeps_house.wait()
        while not receivers.opened:
            try:
                await receivers.open()
            except StoreError as error:
                log.warning("webhooks.not_read", extra={"error": str(error)})
                await asyncio.sleep(AGAIN_S)
    except BaseException:
        for work in house.values():
            work.close()
        raise
    await together(*house.values())


def external_tasks(
    assembly: Assembly, owners: Owners, tokens: Tokens, others: Beside | None = None
) -> ExternalTaskService:
    """Returns the service for the owners of external tasks."""
    loop, store, hosts, clock = assembly.loop, assembly.store, assembly.hosts, assembly.clock
    showing = Showing(
        loop=loop, store=store, hosts=hosts, watches=assembly.watches, retention=assembly.retention
    )
    deciding = Deciding(loop=loop, store=store, showing=showing, clock=clock)
    rights = Rights(tokens=tokens, showing=showing)
    elsewhere = None
    if others is not None:
        elsewhere = Elsewhere(loop=loop, store=store, owners=owners, ask=others.routing.asked)
        others.tail.listen(elsewhere.moved)
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
            watches=assembly.watches,
            deciding=deciding,
            showing=showing,
        ),
        starting=Starting(
            store=store,
            hosts=hosts,
            clock=clock,
            showing=showing,
            deciding=deciding,
            sampler=assembly.sampler,
        ),
        deciding=deciding,
        showing=showing,
        elsewhere=elsewhere,
    )


def services(
    assembly: Assembly, external: ExternalTaskService, webhooks: WebhookService, doctor: Doctor
) -> list[Service]:
    """Returns everything that answers."""
    loop, store, hosts, clock = assembly.loop, assembly.store, assembly.hosts, assembly.clock
    workflows = WorkflowService(
        loop=loop,
        store=store,
        hosts=hosts,
        watches=assembly.watches,
        clock=clock,
        retention=assembly.retention,
        sampler=assembly.sampler,
    )
    of_hosts = HostService(loop=loop, store=store, hosts=hosts, clock=clock)
    looking = DoctorService(doctor=doctor, hosts=hosts, clock=clock)
    package = "countermand.v1"
    return [
        Service(f"{package}.WorkflowService", add_WorkflowServiceServicer_to_server, workflows),
        Service(f"{package}.HostService", add_HostServiceServicer_to_server, of_hosts),
        Service(
            f"{package}.ExternalTaskService", add_ExternalTaskServiceServicer_to_server, external
        ),
        Service(f"{package}.DoctorService", add_DoctorServiceServicer_to_server, looking),
        Service(f"{package}.WebhookService", add_WebhookServiceServicer_to_server, webhooks),
        Service(
            f"{package}.CoordinatorService",
            add_CoordinatorServiceServicer_to_server,
            CoordinatorService(store=store, hosts=hosts),
        ),
    ]
