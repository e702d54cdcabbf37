"""Starts the coordinator: the one place where ports meet what implements them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sys
import uuid
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import click

from coordinator.agents.connection import GrpcConnection
from coordinator.agents.ears import ears_of
from coordinator.agents.fleet import Fleet
from coordinator.agents.forgetting import FORGET_S
from coordinator.agents.slots import WINDOW
from coordinator.api.deciding import Deciding
from coordinator.api.doctor.doctor import Doctor
from coordinator.api.doctor_service import DoctorService
from coordinator.api.external_task_service import ExternalTaskService
from coordinator.api.fences import target_pools
from coordinator.api.host_service import HostService
from coordinator.api.reporting import Reporting, progress_to_proto
from coordinator.api.rights import Rights
from coordinator.api.shown import Showing
from coordinator.api.starting import Starting
from coordinator.api.tokens import Tokens
from coordinator.api.webhook_service import WebhookService
from coordinator.api.workflow_service import WorkflowService
from coordinator.owners.owners import Owners
from coordinator.owners.reported import Reported
from coordinator.owners.routing import Routing
from coordinator.runtime.loop import Loop
from coordinator.runtime.overdue import fence_for_ever
from coordinator.runtime.ports import StoreError
from coordinator.runtime.retention import RETENTION, RETENTION_MAX, sweep_for_ever
from coordinator.runtime.watch import Watches
from coordinator.store.database import sqlite
from coordinator.store.run import Threads
from coordinator.store.sql import SqlStore
from coordinator.traces.exporter import Exporter
from coordinator.traces.sending import sender
from coordinator.webhooks.post import HttpPost
from coordinator.webhooks.receivers import Receivers
from coordinator.webhooks.signing import new_secret
from countermand.rpc import crash, logs, telemetry
from countermand.rpc.collector import Collector, CollectorInvalid, collector_of
from countermand.rpc.credentials import Credentials, CredentialsInvalid, read_credentials
from countermand.rpc.server import BoundServer, ListenRefused, Service
from countermand.v1.attempt_pb2 import Progress
from countermand.v1.doctor_pb2_grpc import add_DoctorServiceServicer_to_server
from countermand.v1.external_task_pb2_grpc import add_ExternalTaskServiceServicer_to_server
from countermand.v1.host_pb2_grpc import add_HostServiceServicer_to_server
from countermand.v1.webhook_pb2_grpc import add_WebhookServiceServicer_to_server
from countermand.v1.workflow_pb2_grpc import add_WorkflowServiceServicer_to_server

DATABASE = "coordinator.sqlite"


class SystemClock:
    """Tells this machine's time of day."""

    def now(self) -> datetime:
        """Returns the time."""
        return datetime.now(UTC)


class SystemChance:
    """Draws from this machine's randomness."""

    def __init__(self) -> None:
        """Seeds from the system."""
        self._random = random.SystemRandom()

    def jitter(self) -> float:
        """Returns a number in [0, 1)."""
        return self._random.random()

    def new_id(self) -> str:
        """Returns a fresh unique id."""
        return str(uuid.uuid4())


_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


class Retention(click.ParamType):  # type: ignore[type-arg]  # generic for type checkers only
    """How long a settled workflow is kept: "30d", "12h"; "0" is for ever."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Returns the length of time, or fails with an example."""
        if isinstance(value, timedelta):
            return value
        text = str(value)
        match = _SPAN.fullmatch(text)
        seconds = float(match[1]) * _UNITS_S[match[2]] if match else 0.0
        if (match is None and text != "0") or seconds > RETENTION_MAX.total_seconds():
            self.fail(f"{text!r} is not a retention: write 30d, 12h, or 0 for ever", param, ctx)
        return timedelta(seconds=seconds)


_PEM = click.Path(path_type=Path, exists=True, dir_okay=False)
EXAMPLE = "\b\nExample:\n  countermand-coordinator serve --data ./data --listen 127.0.0.1:7700"


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXAMPLE)
def main() -> None:
    """Run the Countermand coordinator.

    It holds workflows, and sees to it that each happens or leaves nothing behind.
    """


@main.command("serve", epilog=EXAMPLE)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    envvar="COUNTERMAND_DATA",
    help="The folder of the database; made if it is missing.",
)
@click.option(
    "--listen",
    default="127.0.0.1:7700",
    show_default=True,
    envvar="COUNTERMAND_LISTEN",
    help="Where to answer; port 0 takes a free one. Loopback only.",
)
@click.option(
    "--retention",
    type=Retention(),
    default=f"{RETENTION.days}d",
    show_default=True,
    envvar="COUNTERMAND_RETENTION",
    help="How long settled workflows and their history are kept, as 30d or 12h; 0: for ever.",
)
@click.option(
    "--window",
    type=click.IntRange(min=1),
    default=WINDOW,
    show_default=True,
    envvar="COUNTERMAND_WINDOW",
    help="How many actions one host is asked for at once; the rest waits here, by priority.",
)
@click.option(
    "--forget-every",
    type=Retention(),
    default=f"{FORGET_S:.0f}s",
    show_default=True,
    envvar="COUNTERMAND_FORGET_EVERY",
    help="How often agents are told which settled workflows they may forget, as 5s or 1h; 0: never."
    " Until then their journals can be looked into.",
)
@click.option(
    "--tls-cert",
    type=_PEM,
    envvar="COUNTERMAND_TLS_CERT",
    help="What we show to agents, in PEM: with it, they are called over TLS.",
)
@click.option("--tls-key", type=_PEM, envvar="COUNTERMAND_TLS_KEY", help="Its key.")
@click.option(
    "--tls-ca",
    type=_PEM,
    envvar="COUNTERMAND_TLS_CA",
    help="Who has to have signed what agents show.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    envvar="COUNTERMAND_LOG_LEVEL",
    help="What is written to standard error, as one JSON line per event.",
)
def serve_command(
    *,
    data: Path,
    listen: str,
    retention: timedelta,
    window: int,
    forget_every: timedelta,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    log_level: str,
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    One JSON line on standard output says when and where it is ready.
    """
    logs.configure(sys.stderr, log_level)
    data.mkdir(parents=True, exist_ok=True)
    try:
        credentials = read_credentials(tls_cert, tls_key, tls_ca)
        collector = collector_of(os.environ)
        asyncio.run(
            _serve(
                data,
                listen,
                collector=collector,
                retention=retention,
                window=window,
                forget_every=forget_every,
                credentials=credentials,
            )
        )
    except (CollectorInvalid, CredentialsInvalid, ListenRefused) as error:
        raise click.UsageError(str(error)) from error
    except StoreError as error:
        raise click.ClickException(str(error)) from error


async def _serve(
    data: Path,
    listen: str,
    *,
    collector: Collector | None,
    retention: timedelta,
    window: int,
    forget_every: timedelta,
    credentials: Credentials | None,
) -> None:
    """Opens the store, takes over what is open, and answers until told to stop."""
    clock, chance = SystemClock(), SystemChance()
    dies = crash.from_environment(os.environ)
    spans = telemetry.start("countermand-coordinator", collector)
    # The address first: who cannot answer must not take over what another is seeing to.
    bound = BoundServer(listen=listen, telemetry=spans)
    watches: Watches[Progress] = Watches()
    store = SqlStore(sqlite(data / DATABASE), Threads(), new_id=chance.new_id, crash=dies)
    loop = Loop(store=store, clock=clock, chance=chance, crash=dies, hints=watches)
    try:
        opening = await loop.open()
        connect = partial(GrpcConnection, credentials=credentials)
        fleet = Fleet(
            store=store,
            connect=connect,
            cluster_id=opening.cluster_id,
            clock=clock,
            chance=chance,
            crash=dies,
            ears=ears_of(loop, store, watches.heard_progress),
            window=window,
            forget_s=forget_every.total_seconds(),
        )
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
        loop.attach(Routing(hosts=fleet, owners=owners))
        await fleet.open()
        working = [
            asyncio.create_task(loop.run(), name="loop"),
            asyncio.create_task(owners.run(), name="owners"),
            asyncio.create_task(reported.run(), name="reported"),
        ]
        # Where everything is kept for ever, what was ended by force is removed all the same.
        kept = retention or RETENTION_MAX
        sweeping = sweep_for_ever(store=store, loop=loop, clock=clock, retention=kept)
        working.append(asyncio.create_task(sweeping, name="retention"))
        overdue = fence_for_ever(loop=loop, hosts=fleet, pools=target_pools)
        working.append(asyncio.create_task(overdue, name="overdue"))
        services = _services(loop, store, fleet, watches, clock, retention=retention)
        services.append(
            _external_tasks(
                loop,
                store,
                watches,
                clock,
                hosts=fleet,
                owners=owners,
                tokens=Tokens(opening.token_key),
                retention=retention,
            )
        )
        doctor = Doctor(
            loop=loop, store=store, connect=connect, cluster_id=opening.cluster_id, clock=clock
        )
        services.append(
            Service(
                "countermand.v1.DoctorService",
                add_DoctorServiceServicer_to_server,
                DoctorService(doctor=doctor, hosts=fleet),
            )
        )
        post = HttpPost(clock)
        receivers = Receivers(
            store,
            cluster_id=opening.cluster_id,
            hints=watches.everything,
            post=post,
            clock=clock,
            chance=chance,
            crash=dies,
        )
        await receivers.open()
        working.append(asyncio.create_task(receivers.run(), name="webhooks"))
        if collector is not None:
            traces = Exporter(
                store,
                cluster_id=opening.cluster_id,
                hints=watches.everything,
                send=sender(collector),
                crash=dies,
            )
            working.append(asyncio.create_task(traces.run(), name="traces"))
        services.append(
            Service(
                "countermand.v1.WebhookService",
                add_WebhookServiceServicer_to_server,
                WebhookService(webhooks=receivers, store=store, clock=clock, new_secret=new_secret),
            )
        )
        stop = _stop_when_told()
        server = await bound.start(services)
        _say_ready(server.address)
        await _until_stopped(stop, working)
        await server.stop()
        await fleet.close()
        await receivers.close()
        await post.close()
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
    finally:
        await store.close()
        spans.stop()


def _say_ready(address: str) -> None:
    ready = {"event": "coordinator.ready", "address": address}
    print(json.dumps(ready), flush=True)  # noqa: T201  # the line that starters wait for


def _external_tasks(
    loop: Loop,
    store: SqlStore,
    watches: Watches[Progress],
    clock: SystemClock,
    *,
    hosts: Fleet,
    owners: Owners,
    tokens: Tokens,
    retention: timedelta,
) -> Service:
    """Returns the service for the owners of external tasks."""
    showing = Showing(loop=loop, store=store, hosts=hosts, watches=watches, retention=retention)
    deciding = Deciding(loop=loop, store=store, showing=showing, clock=clock)
    rights = Rights(tokens=tokens, showing=showing)
    reporting = Reporting(
        loop=loop,
        store=store,
        owners=owners,
        rights=rights,
        watches=watches,
        deciding=deciding,
        showing=showing,
    )
    return Service(
        "countermand.v1.ExternalTaskService",
        add_ExternalTaskServiceServicer_to_server,
        ExternalTaskService(
            loop=loop,
            store=store,
            owners=owners,
            rights=rights,
            reporting=reporting,
            starting=Starting(
                store=store, hosts=hosts, clock=clock, showing=showing, deciding=deciding
            ),
            deciding=deciding,
            showing=showing,
        ),
    )


def _services(
    loop: Loop,
    store: SqlStore,
    fleet: Fleet,
    watches: Watches[Progress],
    clock: SystemClock,
    *,
    retention: timedelta,
) -> list[Service]:
    return [
        Service(
            "countermand.v1.WorkflowService",
            add_WorkflowServiceServicer_to_server,
            WorkflowService(
                loop=loop,
                store=store,
                hosts=fleet,
                watches=watches,
                clock=clock,
                retention=retention,
            ),
        ),
        Service(
            "countermand.v1.HostService",
            add_HostServiceServicer_to_server,
            HostService(loop=loop, store=store, hosts=fleet, clock=clock),
        ),
    ]


def _stop_when_told() -> asyncio.Event:
    """Returns what SIGTERM and SIGINT set: whoever sees that we are ready may stop us at once."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _until_stopped(stop: asyncio.Event, working: list[asyncio.Task[None]]) -> None:
    """Returns when told to; raises if something has ended that works for ever."""
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({stopped, *working}, return_when=asyncio.FIRST_COMPLETED)
    for task in working:
        if task.done():
            await task


if __name__ == "__main__":
    main()
