"""Starts the coordinator: the one place where ports meet what implements them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import re
import signal
import socket
import sys
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import click
from click.core import ParameterSource

from coordinator.agents.connection import GrpcConnection
from coordinator.agents.ears import ears_of
from coordinator.agents.fleet import Fleet
from coordinator.agents.forgetting import FORGET_S
from coordinator.agents.slots import WINDOW
from coordinator.api import recovering
from coordinator.api.doctor.doctor import Doctor
from coordinator.api.fences import target_pools
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
from coordinator.db import db
from coordinator.metrics.counting import Counting
from coordinator.metrics.delays import watch_for_ever
from coordinator.metrics.leftovers import Leftovers
from coordinator.metrics.page import Page as Metrics
from coordinator.metrics.reading import Subject
from coordinator.metrics.table import DELAY_BUCKETS
from coordinator.owners.owners import Owners
from coordinator.owners.reported import Reported
from coordinator.owners.routing import Routing
from coordinator.runtime.guard import Guard
from coordinator.runtime.log_lines import LogLines
from coordinator.runtime.loop import Loop
from coordinator.runtime.overdue import fence_for_ever
from coordinator.runtime.ports import (
    SESSION_LASTS,
    Opening,
    Store,
    StoreError,
    StoreFencedError,
    StoreRewoundError,
)
from coordinator.runtime.retention import RETENTION, RETENTION_MAX, sweep_for_ever
from coordinator.runtime.session import Keeper
from coordinator.runtime.watch import Watches
from coordinator.store import letters, sessions
from coordinator.store.database import FILE, Database, DatabaseInvalid, postgres, sqlite
from coordinator.store.dialects import CONNECTED
from coordinator.store.run import Threads
from coordinator.store.sql import SqlStore
from coordinator.traces.exporter import Exporter, export_nothing
from coordinator.traces.sampling import Sampler, sampler_of
from coordinator.traces.sending import sender
from coordinator.web import address as web
from coordinator.webhooks.post import HttpPost
from coordinator.webhooks.receivers import Receivers
from coordinator.webhooks.signing import new_secret
from countermand.rpc import crash, logs, telemetry
from countermand.rpc.collector import Collector, CollectorInvalid, collector_of
from countermand.rpc.credentials import Credentials, CredentialsInvalid, read_credentials
from countermand.rpc.metrics import Histogram
from countermand.rpc.server import BoundServer, ListenRefused, RunningServer, Service
from countermand.v1.attempt_pb2 import Progress

log = logging.getLogger(__name__)


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


SESSION_LASTS_S_MIN = 3.0  # a store that is slow for a moment must not end all sessions
SESSION_LASTS_S_MAX = 600.0

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


class SessionLasts(click.ParamType):  # type: ignore[type-arg]  # as above
    """How long others take a coordinator for alive that says nothing: "15s", "1m"."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Returns the length of time, or fails with an example."""
        if isinstance(value, timedelta):
            return value
        match = _SPAN.fullmatch(str(value))
        seconds = float(match[1]) * _UNITS_S[match[2]] if match else 0.0
        if not SESSION_LASTS_S_MIN <= seconds <= SESSION_LASTS_S_MAX:
            self.fail(f"{value!r} is none of 3s to 10m: write 15s, 1m", param, ctx)
        return timedelta(seconds=seconds)


_PEM = click.Path(path_type=Path, exists=True, dir_okay=False)
EXAMPLE = "\b\nExample:\n  countermand-coordinator serve --data ./data --listen 127.0.0.1:7700"


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXAMPLE)
def main() -> None:
    """Run the Countermand coordinator.

    It holds workflows, and sees to it that each happens or leaves nothing behind.
    """


main.add_command(db)


@main.command("serve", epilog=EXAMPLE)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="COUNTERMAND_DATA",
    help="The folder of a database on SQLite; made if it is missing.",
)
@click.option(
    "--database",
    metavar="URL",
    envvar="COUNTERMAND_DATABASE",
    help="A database on PostgreSQL instead, as postgresql://user@host/name. Leave its password to"
    " PGPASSWORD, ~/.pgpass or a service.",
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
    "--session-lasts",
    type=SessionLasts(),
    default=f"{SESSION_LASTS.seconds}s",
    show_default=True,
    envvar="COUNTERMAND_SESSION_LASTS",
    help="Of several on one database: how long this one may say nothing until others take over what"
    " it has, as 15s or 1m. It says something three times as often.",
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
    "--web",
    "web_listen",
    default=web.LISTEN,
    show_default=True,
    envvar="COUNTERMAND_WEB",
    help="Where the web page is; port 0 takes a free one, off: none. Loopback only.",
)
@click.option(
    "--trace-url",
    default="",
    envvar="COUNTERMAND_TRACE_URL",
    help="Where the page links to a trace, as http://127.0.0.1:16686/trace/{trace_id}.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    envvar="COUNTERMAND_LOG_LEVEL",
    help="What is written to standard error, as one JSON line per event.",
)
@click.pass_context
def serve_command(
    context: click.Context,
    *,
    data: Path | None,
    database: str | None,
    listen: str,
    retention: timedelta,
    window: int,
    forget_every: timedelta,
    session_lasts: timedelta,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    web_listen: str,
    trace_url: str,
    log_level: str,
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    One JSON line on standard output says when and where it is ready.
    """
    logs.configure(sys.stderr, log_level)
    asked_for = context.get_parameter_source("web_listen") is not ParameterSource.DEFAULT
    page = web.WebSettings(listen=web_listen, asked_for=asked_for, trace_url=trace_url)
    try:
        settings = Settings(
            collector=collector_of(os.environ),
            sampler=sampler_of(os.environ),
            retention=retention,
            window=window,
            forget_every=forget_every,
            session_lasts=session_lasts,
            credentials=read_credentials(tls_cert, tls_key, tls_ca),
        )
        kept = _kept(data, database, session_lasts)
        place: Place | None = Place(listen=listen, page=page)
        while place is not None:
            place = asyncio.run(_serve(kept, settings, place))
    except (CollectorInvalid, CredentialsInvalid, DatabaseInvalid, ListenRefused) as error:
        raise click.UsageError(str(error)) from error
    except StoreError as error:
        raise click.ClickException(str(error)) from error


Works = dict[str, Coroutine[None, None, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Where the store is kept."""

    database: Database
    files: tuple[Path, ...] = ()  # of which we can say how large they are


def _kept(data: Path | None, url: str | None, session_lasts: timedelta) -> Kept:
    """Returns where the store is kept: in a folder, or at a URL."""
    if url is not None and data is None:
        return Kept(database=postgres(url, session_lasts))
    if data is None or url is not None:
        raise click.UsageError(
            "say once where to keep what must not be lost: --data FOLDER or --database URL"
        )
    data.mkdir(parents=True, exist_ok=True)
    files = tuple(data / f"{FILE}{end}" for end in ("", "-wal"))
    return Kept(database=sqlite(data / FILE), files=files)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to answer."""

    listen: str
    page: web.WebSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an administrator may say, besides where."""

    collector: Collector | None
    sampler: Sampler
    retention: timedelta
    window: int
    forget_every: timedelta
    session_lasts: timedelta
    credentials: Credentials | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A place that is taken, and where nobody is answered yet."""

    server: BoundServer
    page: web.WebSettings
    page_socket: socket.socket | None

    @property
    def place(self) -> Place:
        """Returns it to be taken once more, by number where any would have done."""
        page = self.page
        if self.page_socket is not None:
            page = replace(page, listen=web.url_of(self.page_socket).partition("://")[2])
        return Place(listen=self.server.address, page=page)


async def _serve(kept: Kept, settings: Settings, place: Place) -> Place | None:
    """Lives once: opens the store, and answers until told to stop.

    Returns where to go on in another life, since the store went back in time or was recovered; None
    at the end.
    """
    chance, dies = SystemChance(), crash.from_environment(os.environ)
    spans = telemetry.start("countermand-coordinator", settings.collector)
    # The address first: who cannot answer must not take over what another is seeing to.
    taken = Taken(
        server=BoundServer(listen=place.listen, telemetry=spans),
        page=place.page,
        page_socket=web.take_address(place.page),
    )
    store = SqlStore(
        kept.database,
        Threads(),
        new_id=chance.new_id,
        crash=dies,
        # Only one process has the address: whoever had the same name before is gone.
        name=f"{socket.gethostname()}:{taken.server.address}",
        session_lasts=settings.session_lasts,
    )
    again = taken.place
    try:
        await _live(store, taken, settings, kept.files, dies)
    except StoreRewoundError as error:
        log.warning("coordinator.begins_anew", extra={"why": str(error)})
        return again
    finally:
        await store.close()
        spans.stop()
        log.info("coordinator.stopped")
    return None


async def _live(
    store: SqlStore, taken: Taken, settings: Settings, files: tuple[Path, ...], dies: crash.Crash
) -> None:
    """Takes over what is open, and answers until told to stop."""
    clock, chance = SystemClock(), SystemChance()
    watches: Watches[Progress] = Watches()
    counting = Counting()
    loop = Loop(
        store=store,
        clock=clock,
        chance=chance,
        crash=dies,
        hints=watches,
        observers=(counting, LogLines()),
    )
    opening = await loop.open()
    guard = Guard(store, opening)
    keeper = _keeper(store, loop, chance, opening, settings.session_lasts)
    connect = partial(GrpcConnection, credentials=settings.credentials)
    fleet = Fleet(
        store=store,
        connect=connect,
        cluster_id=opening.cluster_id,
        clock=clock,
        chance=chance,
        crash=dies,
        ears=ears_of(loop, store, watches.heard_progress, guard),
        window=settings.window,
        forget_s=0 if opening.recovery else settings.forget_every.total_seconds(),
        trusted=keeper.trusted if keeper else lambda: True,
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
        trusted=keeper.trusted if keeper else lambda: True,
    )
    assembly = Assembly(
        loop=loop,
        store=store,
        hosts=fleet,
        watches=watches,
        clock=clock,
        retention=settings.retention,
        sampler=settings.sampler,
    )
    owners, reported = await open_owners(assembly)
    loop.attach(Routing(hosts=fleet, owners=owners))
    await fleet.open()
    others = beside(assembly, chance.new_id)
    works = _works(assembly, owners, reported, guard)
    traces = _traces(assembly, settings.collector, opening.cluster_id, dies)
    # What went back in time is neither removed, nor told to anybody.
    house = {} if opening.recovery else _house(assembly, receivers, traces)
    works |= await _works_beside(
        keeper, others, assembly, guard=guard, receivers=receivers, house=house
    )
    leftovers = Leftovers(store, counting.left_by)
    if taken.page_socket is not None:
        works["leftovers"] = leftovers.run()
    delays = Histogram(DELAY_BUCKETS)
    works["delays"] = watch_for_ever(delays)
    metrics = Metrics(
        Subject(
            counting=counting,
            leftovers=leftovers,
            loop=loop,
            delays=delays,
            store=store,
            session=keeper,
            files=files,
            hosts=fleet,
            waiting_for_owners=owners.counts,
            webhooks=receivers,
            now=clock.now,
            traces=lambda: traces.position if traces else None,
        )
    )
    working = [asyncio.create_task(work, name=name) for name, work in works.items()]
    answering = services(
        assembly,
        external_tasks(assembly, owners, Tokens(opening.token_key), others),
        WebhookService(webhooks=receivers, store=store, clock=clock, new_secret=new_secret),
        Doctor(loop=loop, store=store, connect=connect, cluster_id=opening.cluster_id, clock=clock),
    )
    stop = _stop_when_told()
    answering = _routed(answering, others)
    if opening.recovery:
        answering = recovering.around(answering, opening.recovery)
    server = await taken.server.start(answering)
    _say_ready(server.address, web.url_of(taken.page_socket) if taken.page_socket else "", loop)
    # A page that fails is no reason to stop: workflows go on, and the log says why.
    pages = asyncio.create_task(
        _pages(taken.page_socket, server.address, taken.page, stop, metrics), name="web"
    )
    try:
        await _until_stopped(stop, working, server)
    except StoreFencedError as error:
        await _cancel(working)  # several may have heard of it
        raise await guard.why_ended(error) from error
    await _hand_over(store, server, fleet, receivers, working)
    await pages
    await server.stop()
    await fleet.close()
    await receivers.close()
    await post.close()
    await _cancel(working)


def _traces(
    assembly: Assembly, collector: Collector | None, cluster_id: str, dies: crash.Crash
) -> Exporter | None:
    """Returns what sends traces, if there is a collector."""
    if collector is None:
        return None
    hints, send = assembly.watches.everything, sender(collector)
    return Exporter(assembly.store, cluster_id=cluster_id, hints=hints, send=send, crash=dies)


def _works(assembly: Assembly, owners: Owners, reported: Reported, guard: Guard) -> Works:
    """Returns what works for ever, by its name."""
    return {
        "loop": assembly.loop.run(),
        "owners": owners.run(),
        "reported": reported.run(),
        "guard": guard.run(),
        "overdue": fence_for_ever(loop=assembly.loop, hosts=assembly.hosts, pools=target_pools),
    }


def _house(assembly: Assembly, receivers: Receivers, traces: Exporter | None) -> Works:
    """Returns what works for ever, of all that share a store in only one."""
    # Where everything is kept for ever, what was ended by force is removed all the same.
    kept = assembly.retention or RETENTION_MAX
    loop, store, clock = assembly.loop, assembly.store, assembly.clock
    return {
        "retention": sweep_for_ever(store=store, loop=loop, clock=clock, retention=kept),
        "webhooks": receivers.run(),
        "traces": traces.run() if traces else export_nothing(store),
    }


# -- one of several -------------------------------------------------------------------------------


def _keeper(
    store: Store, loop: Loop, chance: SystemChance, opening: Opening, lasts: timedelta
) -> Keeper | None:
    """Returns what keeps the session, where there are such."""
    if not store.shared:
        return None
    session = opening.owner_epoch
    return Keeper(store=store, loop=loop, chance=chance, session=session, lasts=lasts)


async def _works_beside(
    keeper: Keeper | None,
    others: Beside | None,
    assembly: Assembly,
    *,
    guard: Guard,
    receivers: Receivers,
    house: Works,
) -> Works:
    """Returns what works for ever because there are others, with the house in its turn."""
    if keeper is None or others is None:
        await receivers.open()
        return house
    return {
        "session": keeper.run(),
        "hints": assembly.store.listen(_Ears(keeper, others, guard, assembly.hosts).hear),
        "others": others.run(),
        "hosts": assembly.hosts.follow(assembly.loop.redeliver, keeper.live),
        **({"house": keep_house(keeper, receivers, house)} if house else {}),
    }


def _routed(answering: list[Service], others: Beside | None) -> list[Service]:
    """Returns what answers, of which some is answered by others."""
    return others.routing.around(answering) if others else answering


@dataclass(slots=True)
class _Ears:
    """Looks at once at what others say that there is."""

    keeper: Keeper
    others: Beside
    guard: Guard
    fleet: Fleet
    connected: bool = False

    def hear(self, said: str) -> None:
        """Hears a word."""
        if said == letters.LETTER:
            self.others.routing.hint()
        elif said == sessions.ENDED:
            self.keeper.look()
        elif said == CONNECTED:
            if self.connected:  # once more: by a standby, which may have been behind
                self.guard.anew()
                self.fleet.greet_anew()
            self.connected = True


async def _hand_over(
    store: SqlStore,
    server: RunningServer,
    fleet: Fleet,
    receivers: Receivers,
    working: list[asyncio.Task[None]],
) -> None:
    """Lets others go on with what is open, before those who still wait here are seen off."""
    if not store.shared:
        return
    await server.set_serving(serving=False)
    await _cancel(working)
    await fleet.close()
    await receivers.close()  # while how far they were told may still be noted
    try:
        await store.end_session()
    except StoreError as error:  # it lapses by itself
        log.warning("session.not_ended", extra={"error": str(error)})


async def _pages(
    listening: socket.socket | None,
    coordinator: str,
    page: web.WebSettings,
    stop: asyncio.Event,
    metrics: Metrics,
) -> None:
    """Serves the web page until told to stop, if there is to be one."""
    if listening is None:
        return
    try:
        await web.serve(listening, coordinator, page, stop, beside=[("/metrics", metrics)])
    except Exception:
        log.exception("web.failed")
    finally:
        listening.close()


def _say_ready(address: str, page: str, loop: Loop) -> None:
    ready = {"address": address}
    if page:
        ready["web"] = page
    found = {"owner_epoch": loop.owner_epoch, "open": len(loop.open_workflows())}
    log.info("coordinator.ready", extra={**ready, **found})
    ready = {"event": "coordinator.ready", **ready}
    print(json.dumps(ready), flush=True)  # noqa: T201  # the line that starters wait for


def _stop_when_told() -> asyncio.Event:
    """Returns what SIGTERM and SIGINT set: whoever sees that we are ready may stop us at once."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _cancel(working: list[asyncio.Task[None]]) -> None:
    for task in working:
        task.cancel()
    await asyncio.gather(*working, return_exceptions=True)


async def _until_stopped(
    stop: asyncio.Event, working: list[asyncio.Task[None]], server: RunningServer
) -> None:
    """Returns when told to; raises if something has ended that works for ever."""
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({stopped, *working}, return_when=asyncio.FIRST_COMPLETED)
        for task in working:
            if task.done():
                await task
    except BaseException:
        # Nothing is decided here any more: whoever waits is told at once to ask another one.
        await server.stop(0)
        raise
    stop.set()  # also where a work has ended that never should


if __name__ == "__main__":
    main()
