"""The agent's command line: serves one host, or brings images into its pools."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import sys
import time
import uuid
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click

from agent import frames
from agent.check_driver import check_driver
from agent.config import parse_pool, read_pools, tell_size
from agent.drivers import plugins
from agent.drivers.driver import Format, Imports, PoolConfig, Work
from agent.drivers.plugins import ConfigInvalid
from agent.executors import DetachedCalls, ThreadExecutor
from agent.importing import forget_imports, name_of_import
from agent.journal import Journal, ThreadJournal, open_connection
from agent.locking import PoolLocks
from agent.log_lines import LogLines
from agent.lookers import THREADS_PER_POOL
from agent.metrics import Counting, Subject
from agent.metrics import Server as MetricsServer
from agent.pools import Pools, check_folders, check_to_import
from agent.runner import Limits, Runner
from agent.service import AgentService
from agent.serving import STREAMS_MAX
from agent.verbs import plugins as verb_plugins
from agent.work import Outside
from countermand.rpc import crash, names, telemetry
from countermand.rpc.collector import Collector, CollectorInvalid, collector_of
from countermand.rpc.credentials import Credentials, CredentialsInvalid, read_credentials
from countermand.rpc.errors import CountermandError, ImageUnsafe
from countermand.rpc.logs import configure
from countermand.rpc.server import DATA_PING_TIMEOUT_S, ListenRefused, Service, serve
from countermand.v1 import agent_pb2

log = logging.getLogger("agent")

JOURNAL = "journal.sqlite"
SERVICE = agent_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name


_PEM = click.Path(path_type=Path, exists=True, dir_okay=False)


def _example(*lines: str) -> str:
    """Returns what a command's help ends in."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_example("countermand-agent serve --data ./agent --pool fast=/srv/fast"),
)
@click.version_option(version("countermand"), message="%(version)s")
def main() -> None:
    """Runs storage verbs on this host, for a Countermand coordinator."""


@main.command(
    "serve",
    epilog=_example(
        "countermand-agent serve --data ./agent --listen 127.0.0.1:7710 \\",
        "    --pool fast=/srv/fast,quota=64GiB \\",
        "    --pool templates=/srv/templates,read_only",
    ),
)
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Journal's folder.")
@click.option("--listen", default="127.0.0.1:7710", show_default=True, help="Port 0: a free one.")
@click.option("--pool", "pools", multiple=True, metavar="ID=PATH[,OPTION…]", help="A pool.")
@click.option(
    "--accept-pool",
    "accepted",
    multiple=True,
    metavar="ID",
    help="Serve this pool though its folder is not the one served before. For one start, and only"
    " after the pool was replaced on purpose: whatever attempts left in the old one is forgotten,"
    " and a compensation will find nothing to do.",
)
@click.option("--config", type=click.Path(path_type=Path, exists=True), help="Pools, in TOML.")
@click.option("--host-id", default="", help="The id that the coordinator knows this host by.")
@click.option("--attempts-max", default=4, show_default=True, type=click.IntRange(1, 256))
@click.option("--queue-max", default=1024, show_default=True, type=click.IntRange(0, 1_000_000))
@click.option(
    "--metrics",
    default="",
    metavar="ADDRESS",
    envvar="COUNTERMAND_METRICS",
    help="Where Prometheus may ask, as 127.0.0.1:7720; port 0: a free one. Loopback only; off by"
    " default.",
)
@click.option("--tls-cert", type=_PEM, help="Our certificate, in PEM; it names our address.")
@click.option("--tls-key", type=_PEM, help="Its key.")
@click.option("--tls-ca", type=_PEM, help="Who has to have signed what callers and sources show.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
def serve_command(
    *,
    data: Path,
    listen: str,
    pools: tuple[str, ...],
    accepted: tuple[str, ...],
    config: Path | None,
    host_id: str,
    attempts_max: int,
    queue_max: int,
    metrics: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    log_level: str,
) -> None:
    """Serves this host until SIGTERM or SIGINT; what is running goes on at the next start.

    A pool's options: driver=NAME (file, if none is named), read_only, shared (several
    hosts reach it), quota=SIZE, bandwidth=SIZE (per second), flush=SIZE (how much a crash
    may cost), attempts_max=N, journals_beside (copies leave gaps for flushes; found out, if
    left out), and those of its driver: countermand-agent drivers lists them.
    A folder must exist; the first agent that serves it marks it with a pool.json.
    Without TLS it answers on this machine's own addresses only.
    """
    configure(sys.stderr, log_level)
    limits = Limits(attempts_max=attempts_max, queue_max=queue_max)
    try:
        _lock(data)
        drivers = plugins.installed()
        described = read_pools(config, drivers) if config else []
        described += [parse_pool(pool, drivers) for pool in pools]
        check_folders(described, drivers, data=data)
        asyncio.run(
            _serve(
                data=data,
                listen=listen,
                pools=described,
                drivers=drivers,
                accepted=accepted,
                host_id=host_id,
                limits=limits,
                metrics=metrics,
                credentials=read_credentials(tls_cert, tls_key, tls_ca),
                collector=collector_of(os.environ),
            )
        )
    except (CollectorInvalid, ConfigInvalid, CredentialsInvalid, ListenRefused) as error:
        raise click.UsageError(str(error)) from error


async def _serve(
    *,
    data: Path,
    listen: str,
    pools: list[PoolConfig],
    drivers: plugins.Drivers,
    accepted: tuple[str, ...],
    host_id: str,
    limits: Limits,
    metrics: str,
    credentials: Credentials | None,
    collector: Collector | None,
) -> None:
    spans = telemetry.start("countermand-agent", collector)
    outside = Outside(
        now=_now,
        monotonic=time.monotonic,
        crash=crash.from_environment(os.environ),
        telemetry=spans,
    )
    asked = MetricsServer(metrics) if metrics else None  # first: its address may be taken
    journal = ThreadJournal(
        lambda: Journal(open_connection(data / JOURNAL), new_id=_new_id),
        fatal=lambda: os._exit(os.EX_SOFTWARE),  # whoever supervises us starts us again
    )
    looks = _threads(pools, THREADS_PER_POOL, "look")
    serves = _threads(pools, STREAMS_MAX, "serve")
    opened = Pools(
        journal,
        pools,
        drivers=drivers,
        new_id=_new_id,
        calls=DetachedCalls("open"),
        data=data,
        locks=PoolLocks(),
    )
    await opened.open(accepted)
    runner = Runner(
        journal=journal,
        pools=opened.drivers,
        executor=ThreadExecutor(2 * limits.attempts_max, name="work"),
        outside=outside,
        limits=limits,
        host_id=host_id,
        credentials=credentials,
        plugins=verb_plugins.installed().served(),
        checks=DetachedCalls("check"),
    )
    lines = LogLines(host_id, _now)
    runner.observers.append(lines.committed)
    runner.when_resumed = lines.resumed
    counting = Counting()
    if asked is not None:
        runner.observers.append(counting.committed)
        journal.on_flush = counting.commits.observe
    await runner.start()
    opening = asyncio.ensure_future(opened.open_later())
    service = AgentService(
        runner,
        now=_now,
        version=version("countermand"),
        lookers=looks,
        servers=serves,
        identities=opened.identities,
    )
    server = await serve(
        listen=listen,
        services=[Service(SERVICE, frames.add_to_server, service)],
        telemetry=spans,
        credentials=credentials,
        ping_timeout_s=DATA_PING_TIMEOUT_S,
    )
    ready = {"address": server.address, "incarnation": journal.incarnation}
    if asked is not None:
        loop = asyncio.get_running_loop()
        asked.show(Subject(runner=runner, service=service, counting=counting, loop=loop))
        ready["metrics"] = asked.url
    await _until_told(ready)
    if asked is not None:
        await asyncio.to_thread(asked.close)
    opening.cancel()
    opened.stop()
    runner.watchers.close()  # what is committed from now on they read at the next start
    await server.stop()
    await service.stop()
    # Beside the loop, and before the journal closes: what ends may still have something to note.
    for executor in (looks, serves):
        await asyncio.to_thread(executor.close)
    await runner.stop()
    spans.stop()
    log.info("agent.stopped")


def _threads(pools: list[PoolConfig], per_pool: int, name: str) -> ThreadExecutor:
    return ThreadExecutor(max(1, len(pools)) * per_pool, name=name)


async def _until_told(ready: dict[str, str]) -> None:
    """Says that everything is ready, and returns once somebody asks this process to stop."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    click.echo(json.dumps({"event": "agent.ready", **ready}))
    log.info("agent.ready", extra=ready)
    await stop.wait()


def _lock(data: Path) -> None:
    """Keeps a second agent off the same journal, until this process ends."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o750)
        handle = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise ConfigInvalid(f"the journal's folder, {data}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigInvalid(f"another agent is using {data}") from None


@main.command(
    "import",
    epilog=_example(
        "countermand-agent import --pool templates=/srv/templates \\",
        "    --image debian --format qcow2 ./debian.qcow2",
    ),
)
@click.option("--pool", required=True, metavar="ID=PATH", help="The pool.")
@click.option("--image", required=True, help="The image's id.")
@click.option("--format", "format_name", required=True, type=click.Choice(["raw", "qcow2"]))
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def import_command(*, pool: str, image: str, format_name: str, file: Path) -> None:
    """Copies FILE into a pool as an image that belongs to no attempt.

    The pool's folder must exist. A qcow2 file must not read through another file.
    """
    if not names.is_id(image):
        raise click.UsageError(f"image id {image!r} {names.ID_RULE}")
    work = Work(
        attempt=name_of_import(image, unique=uuid.uuid4().hex),
        cluster_id="",
        note="",
        now=_now,
        crash=crash.never,
    )
    try:
        drivers = plugins.installed()
        described = parse_pool(pool, drivers)
        driver = _open_to_import(described, drivers)
        for _step in driver.import_file(
            work, file.absolute(), image, image_format=Format(format_name)
        ):
            pass
        forget_imports(driver, image)
        found = driver.find(image)
        size = tell_size(found.virtual_size_bytes)
        what = f"{described.pool_id}/{image} ({format_name}, {size})"
        click.echo(f"Imported {file} as {what}")
    except ImageUnsafe as error:
        why = error.metadata["why"]
        raise click.ClickException(f"{file} was not imported: {why}") from error
    except ConfigInvalid as error:
        raise click.UsageError(str(error)) from error
    except CountermandError as error:
        raise click.ClickException(str(error)) from error


def _open_to_import(pool: PoolConfig, drivers: plugins.Drivers) -> Imports:
    driver = drivers.open(pool, check_to_import(pool, drivers))
    if not isinstance(driver, Imports):
        raise ConfigInvalid(f"driver {pool.driver} of pool {pool.pool_id} brings in no files")
    return driver


@main.command(
    "drivers", epilog=_example("countermand-agent drivers", "countermand-agent drivers -o json")
)
@click.option("-o", "--output", default="table", type=click.Choice(["table", "json"]))
def drivers_command(*, output: str) -> None:
    """Lists the drivers that are installed here, with their verbs and options."""
    listed = [plugins.describe(found) for found in plugins.installed().all()]
    if output == "json":
        click.echo(json.dumps({"drivers": listed}, indent=2))
        return
    for driver in listed:
        click.echo(plugins.tell(driver))


@main.command(
    "verbs", epilog=_example("countermand-agent verbs", "countermand-agent verbs -o json")
)
@click.option("-o", "--output", default="table", type=click.Choice(["table", "json"]))
def verbs_command(*, output: str) -> None:
    """Lists the verbs of others that are installed here, with what they need."""
    listed = list(verb_plugins.installed().describe())
    if output == "json":
        click.echo(json.dumps({"verbs": listed}, indent=2))
        return
    for verb in listed:
        click.echo(verb_plugins.tell(verb))
    if not listed:
        click.echo("none but those that come with it")


@main.command(
    "check-driver",
    epilog=_example("countermand-agent check-driver --pool try=/srv/scratch,driver=flat"),
)
@click.option("--pool", required=True, metavar="ID=PATH[,OPTION…]", help="Where to try it.")
def check_driver_command(*, pool: str) -> None:
    """Puts a driver through every story that its verbs can tell, in folders of its own.

    Each is told once undisturbed, once for each step at which it may be stopped, and once for
    each place where it may die.
    """
    drivers = plugins.installed()
    broken = 0
    try:
        for told in check_driver(parse_pool(pool, drivers), drivers):
            click.echo(f"{'BROKEN' if told.problem else 'kept':8}{told.story}")
            if told.problem:
                click.echo(f"        {told.problem}")
                broken += 1
    except ConfigInvalid as error:
        raise click.UsageError(str(error)) from error
    if broken:
        raise click.ClickException(f"{broken} stories are broken")


def _new_id() -> str:
    return str(uuid.uuid4())


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    main()
