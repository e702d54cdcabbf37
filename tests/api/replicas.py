"""Several coordinators in one process that answer over gRPC, on one shared store and its agents."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast
from uuid import uuid4

import pytest
from grpc.aio import Channel

from coordinator.agents.ears import ears_of
from coordinator.agents.fleet import Fleet
from coordinator.api import letters
from coordinator.api.doctor.doctor import Doctor
from coordinator.api.tokens import Tokens
from coordinator.api.webhook_service import WebhookService
from coordinator.assembly import (
    Assembly,
    Beside,
    beside,
    external_tasks,
    keep_house,
    open_owners,
    services,
)
from coordinator.owners.routing import Routing
from coordinator.runtime import session, tail
from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import HostRecord, Store, StoreFencedError
from coordinator.runtime.session import Keeper
from coordinator.runtime.watch import Watches
from coordinator.store.database import postgres
from coordinator.store.run import Threads
from coordinator.store.sql import SqlStore
from coordinator.webhooks.post import HttpPost
from coordinator.webhooks.receivers import Receivers
from coordinator.webhooks.signing import new_secret
from countermand.rpc.channel import open_channel
from countermand.rpc.crash import never
from countermand.rpc.server import serve
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.coordinator_pb2_grpc import CoordinatorServiceStub
from countermand.v1.doctor_pb2_grpc import DoctorServiceStub
from countermand.v1.external_task_pb2_grpc import ExternalTaskServiceStub
from countermand.v1.host_pb2_grpc import HostServiceStub
from countermand.v1.webhook_pb2_grpc import WebhookServiceStub
from countermand.v1.workflow_pb2_grpc import WorkflowServiceStub
from tests.runtime.replicas import Shared
from tests.runtime.rig import NOW, Agent, World


class Database(Shared):
    """What replicas share, on a real PostgreSQL."""

    url = ""

    def store(self, name: str = "") -> Store:
        new_id = lambda: str(uuid4())  # noqa: E731
        name = name or new_id()
        return SqlStore(postgres(self.url), Threads(), new_id=new_id, crash=never, name=name)


def shared_on(request: pytest.FixtureRequest, agents: dict[str, Agent]) -> Shared:
    """Returns what replicas share: in memory or on a real PostgreSQL, as a fixture's parameter."""
    if request.param == "memory":
        return Shared(agents)
    database = Database(agents)
    database.url = request.getfixturevalue("postgres_url")
    return database


def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has replicas look more often: what is waited for is the same."""
    for module, names in (
        (session, ("RENEW_S", "CLAIM_S", "OTHERS_S")),
        (letters, ("LOOK_S", "LOOK_IDLE_S", "OWNERS_S")),
        (tail, ("LOOK_S",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, 0.01)


@dataclass
class Replica:
    """One of several coordinators, and what calls it."""

    loop: Loop
    store: Any
    keeper: Keeper
    receivers: Receivers
    beside: Beside
    watches: Watches[Progress]
    channel: Channel
    running: asyncio.Future[Any]  # ends when it has lost its session

    def __post_init__(self) -> None:
        self.workflows = WorkflowServiceStub(self.channel)
        self.external = ExternalTaskServiceStub(self.channel)
        self.hosts = HostServiceStub(self.channel)
        self.doctor = DoctorServiceStub(self.channel)
        self.webhooks = WebhookServiceStub(self.channel)
        self.coordinators = CoordinatorServiceStub(self.channel)

    async def freeze(self) -> None:
        """Decides, renews and answers letters no more, as a stopped process."""
        self.running.cancel()
        with contextlib.suppress(asyncio.CancelledError, StoreFencedError):
            await self.running

    async def die(self) -> None:
        """Ends as if killed, so that others may take over at once."""
        await self.freeze()
        for courier in self.receivers._couriers.values():
            await courier.stop()
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
    post = HttpPost(world)
    receivers = Receivers(
        cast("Any", store),
        cluster_id=opening.cluster_id,
        hints=watches.everything,
        post=post,
        clock=world,
        chance=world,
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
    answering = services(
        assembly,
        external_tasks(assembly, owners, Tokens(opening.token_key), others),
        WebhookService(
            webhooks=receivers, store=cast("Any", store), clock=world, new_secret=new_secret
        ),
        Doctor(loop=loop, store=store, connect=connect, cluster_id=opening.cluster_id, clock=world),
    )
    works = asyncio.gather(
        loop.run(),
        keeper.run(),
        owners.run(),
        reported.run(),
        others.run(),
        fleet.follow(loop.redeliver, keeper.live),
        keep_house(keeper, receivers, {"webhooks": receivers.run()}),
    )
    server = await serve(listen="127.0.0.1:0", services=others.routing.around(answering))
    try:
        async with open_channel(server.address) as channel:
            one = Replica(
                loop=loop,
                store=store,
                keeper=keeper,
                receivers=receivers,
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
        await receivers.close()
        await post.close()
        await store.close()
