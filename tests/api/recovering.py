"""Coordinators in one process, of which one finds that its database went back in time."""

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
from coordinator.api import recovering
from coordinator.api.doctor.doctor import Doctor
from coordinator.api.tokens import Tokens
from coordinator.api.webhook_service import WebhookService
from coordinator.assembly import Assembly, external_tasks, open_owners, services
from coordinator.owners.routing import Routing
from coordinator.runtime.loop import Loop
from coordinator.runtime.ports import HostRecord, Store
from coordinator.runtime.watch import Watches
from coordinator.webhooks.post import HttpPost
from coordinator.webhooks.receivers import Receivers
from coordinator.webhooks.signing import new_secret
from countermand.rpc.channel import open_channel
from countermand.rpc.crash import never
from countermand.rpc.server import RunningServer, serve
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.coordinator_pb2_grpc import CoordinatorServiceStub
from countermand.v1.doctor_pb2_grpc import DoctorServiceStub
from countermand.v1.external_task_pb2_grpc import ExternalTaskServiceStub
from countermand.v1.host_pb2_grpc import HostServiceStub
from countermand.v1.webhook_pb2_grpc import WebhookServiceStub
from countermand.v1.workflow_pb2 import StartWorkflowRequest
from countermand.v1.workflow_pb2_grpc import WorkflowServiceStub
from countermand.v1.workflow_spec_pb2 import Node
from tests.runtime.rig import NOW, Agent, World, series

WHY = "host-a has heard of epoch 9, and 4 was given"


@dataclass
class Life:
    """One life of a coordinator, and what calls it."""

    loop: Loop
    store: Any
    server: RunningServer
    channel: Channel
    doctor: Doctor

    def __post_init__(self) -> None:
        self.workflows = WorkflowServiceStub(self.channel)
        self.external = ExternalTaskServiceStub(self.channel)
        self.hosts = HostServiceStub(self.channel)
        self.diagnoses = DoctorServiceStub(self.channel)
        self.webhooks = WebhookServiceStub(self.channel)
        self.coordinators = CoordinatorServiceStub(self.channel)

    async def start(self, workflow_id: str, *members: Node) -> None:
        request = StartWorkflowRequest(workflow_id=workflow_id, spec=series(*members))
        await self.workflows.StartWorkflow(request)


@contextlib.asynccontextmanager
async def life(
    store: Store, agents: dict[str, Agent], *, listen: str = "127.0.0.1:0"
) -> AsyncIterator[Life]:
    """Lives once, behind the gate if somebody has to look at the store first."""
    world, watches = World(), Watches[Progress]()
    loop = Loop(store=store, clock=world, chance=world, crash=never, hints=watches)
    opening = await loop.open()
    for host, agent in agents.items():
        agent.incarnation = f"of-{host}"
    for host in agents.keys() - {record.id for record in await store.hosts()}:
        await store.put_host(HostRecord(id=host, address=host, create_time=NOW))
    fleet = Fleet(
        store=store,
        connect=agents.__getitem__,
        cluster_id=opening.cluster_id,
        clock=world,
        chance=world,
        crash=never,
        ears=ears_of(loop, store, watches.heard_progress),
    )
    post = HttpPost(world)
    kept = cast("Any", store)
    receivers = Receivers(
        kept,
        cluster_id=opening.cluster_id,
        hints=watches.everything,
        post=post,
        clock=world,
        chance=world,
    )
    assembly = Assembly(
        loop=loop, store=store, hosts=fleet, watches=watches, clock=world, retention=timedelta(0)
    )
    owners, reported = await open_owners(assembly)
    loop.attach(Routing(hosts=fleet, owners=owners))
    await fleet.open()
    doctor = Doctor(
        loop=loop,
        store=store,
        connect=cast("Any", agents.__getitem__),
        cluster_id=opening.cluster_id,
        clock=world,
    )
    answering = services(
        assembly,
        external_tasks(assembly, owners, Tokens(opening.token_key)),
        WebhookService(webhooks=receivers, store=kept, clock=world, new_secret=new_secret),
        doctor,
    )
    works = [owners.run(), reported.run()]
    if opening.recovery is None:
        await receivers.open()
        works += [loop.run(), receivers.run()]
    else:
        answering = recovering.around(answering, opening.recovery)
    working = [asyncio.create_task(work) for work in works]
    server = await serve(listen=listen, services=answering)
    try:
        async with open_channel(server.address) as channel:
            yield Life(loop=loop, store=store, server=server, channel=channel, doctor=doctor)
    finally:
        await server.stop(grace_s=0)
        for each in working:
            each.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        await fleet.close()
        await receivers.close()
        await post.close()
        await store.close()


def new_id() -> str:
    return str(uuid4())
