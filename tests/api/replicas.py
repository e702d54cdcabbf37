"""Several coordinators in one process that answer over gRPC, on one shared store and its agents."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast
from uuid import uuid4

from grpc.aio import Channel

from coordinator.agents.ears import ears_of
from coordinator.agents.fleet import Fleet
from coordinator.api.doctor.doctor import Doctor
from coordinator.api.tokens import Tokens
from coordinator.api.webhook_service import WebhookService
from coordinator.assembly import Assembly, Beside, beside, external_tasks, open_owners, services
from coordinator.owners.routing import Routing
from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import HostRecord, Store, StoreFencedError
from coordinator.runtime.session import Keeper
from coordinator.runtime.watch import Watches
from countermand.rpc.channel import open_channel
from countermand.rpc.crash import never
from countermand.rpc.server import serve
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.doctor_pb2_grpc import DoctorServiceStub
from countermand.v1.external_task_pb2_grpc import ExternalTaskServiceStub
from countermand.v1.host_pb2_grpc import HostServiceStub
from countermand.v1.workflow_pb2_grpc import WorkflowServiceStub
from tests.runtime.replicas import Shared
from tests.runtime.rig import NOW, World


@dataclass
class Replica:
    """One of several coordinators, and what calls it."""

    loop: Loop
    store: Any
    beside: Beside
    watches: Watches[Progress]
    channel: Channel
    running: asyncio.Future[Any]  # ends when it has lost its session

    def __post_init__(self) -> None:
        self.workflows = WorkflowServiceStub(self.channel)
        self.external = ExternalTaskServiceStub(self.channel)
        self.hosts = HostServiceStub(self.channel)
        self.doctor = DoctorServiceStub(self.channel)

    async def freeze(self) -> None:
        """Decides, renews and answers letters no more, as a stopped process."""
        self.running.cancel()
        with contextlib.suppress(asyncio.CancelledError, StoreFencedError):
            await self.running

    async def die(self) -> None:
        """Ends, so that others may take over at once."""
        await self.freeze()
        await self.store.end_session()


@contextlib.asynccontextmanager
async def replica(shared: Shared, store: Store | None = None) -> AsyncIterator[Replica]:
    """Lives and answers as one of several coordinators."""
    world, watches = World(), Watches[Progress]()
    store = store or shared.store()
    loop = Loop(store=store, clock=world, chance=world, crash=never, hints=watches)
    opening = await loop.open()
    keeper = Keeper(store=store, loop=loop, chance=world, session=opening.owner_epoch)
    for host, agent in shared.agents.items():
        agent.incarnation = f"of-{host}"
    for host in shared.agents.keys() - {record.id for record in await store.hosts()}:
        await store.put_host(HostRecord(id=host, address=host, create_time=NOW))
    fleet = Fleet(
        store=store,
        connect=shared.agents.__getitem__,
        cluster_id=opening.cluster_id,
        clock=world,
        chance=world,
        crash=never,
        ears=ears_of(loop, store, watches.heard_progress),
        trusted=keeper.trusted,
    )
    assembly = Assembly(
        loop=loop,
        store=store,
        hosts=fleet,
        watches=watches,
        clock=world,
        retention=timedelta(0),
    )
    owners, reported = await open_owners(assembly)
    loop.attach(Routing(hosts=fleet, owners=owners))
    await fleet.open()
    others = beside(assembly, lambda: str(uuid4()))
    assert others is not None
    connect = cast("Any", shared.agents.__getitem__)
    nobody = cast("Any", None)
    answering = services(
        assembly,
        external_tasks(assembly, owners, Tokens(opening.token_key), others),
        WebhookService(webhooks=nobody, store=nobody, clock=world, new_secret=str),
        Doctor(loop=loop, store=store, connect=connect, cluster_id=opening.cluster_id, clock=world),
    )
    works = asyncio.gather(
        loop.run(),
        keeper.run(),
        owners.run(),
        reported.run(),
        others.run(),
        fleet.follow(loop.redeliver, keeper.live),
    )
    server = await serve(listen="127.0.0.1:0", services=others.routing.around(answering))
    try:
        async with open_channel(server.address) as channel:
            one = Replica(
                loop=loop,
                store=store,
                beside=others,
                watches=watches,
                channel=channel,
                running=works,
            )
            try:
                yield one
            finally:
                await one.freeze()
    finally:
        await server.stop(grace_s=0)
        await fleet.close()
        await store.close()
