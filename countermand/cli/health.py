"""How everything is that commands depend on: coordinator, database, hosts, clocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import click
from grpc import StatusCode

from countermand.cli.output import age, as_json
from countermand.cli.table import paint
from countermand.cli.version import in_words
from countermand.client import Client
from countermand.drawing import phrases
from countermand.drawing.values import one_line
from countermand.drawing.words import host_look
from countermand.rpc.errors import CountermandError
from countermand.v1.coordinator_pb2 import Recovery
from countermand.v1.doctor_pb2 import Diagnosis
from countermand.v1.host_pb2 import Host

# Beyond this times of two machines cannot be compared any more; an answer takes less.
APART_MAX: Final = timedelta(seconds=1)
HOSTS_SHOWN_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What was seen of it."""

    address: str
    workflows: bool  # whether the store has any
    hosts: Sequence[Host]
    recovery: Recovery | None = None


async def look(client: Client) -> Health:
    """Returns how it is: the store is asked for a workflow, which fails if it cannot be read."""
    workflows = False
    async for _ in client.list(page_size=1):
        workflows = True
        break
    hosts = [host async for host in client.hosts.list()]
    try:
        recovery = await client.coordinators.recovery()
    except CountermandError as error:
        if error.code is not StatusCode.UNIMPLEMENTED:
            raise
        recovery = None  # an older coordinator does not say
    return Health(address=client.address, workflows=workflows, hosts=hosts, recovery=recovery)


def show(health: Health) -> None:
    """Prints how it is, before anything is compared."""
    several = "," in health.address
    click.echo(
        f"{'one of the coordinators' if several else 'coordinator'} {health.address} answers"
    )
    stored = "it has workflows" if health.workflows else "it has no workflow"
    click.echo(f"database answers: {stored}")
    states = Counter(paint(host_look(host.state)) for host in health.hosts)
    told = ", ".join(f"{count} {word}" for word, count in states.items())
    click.echo(f"{phrases.count(len(health.hosts), 'host')}{': ' if told else ''}{told}")
    for host in health.hosts[:HOSTS_SHOWN_MAX]:
        click.echo(f"  {_about(host)}")


def _about(host: Host) -> str:
    heard = f"last heard of {age(host.seen_time)} ago" if host.seen_time.seconds else "never heard"
    agent = host.version or "(not known yet)"
    look = paint(host_look(host.state))
    return f"{host.name.removeprefix('hosts/')}  {look}  agent {agent}, {heard}"


def differences(
    ours: Mapping[str, str], health: Health, diagnosis: Diagnosis, now: datetime
) -> Iterator[str]:
    """Yields what does not fit together of versions and clocks, in sentences."""
    if health.recovery is not None:
        yield (
            f"the database went back in time ({one_line(health.recovery.why)}), and nothing"
            " is decided: repair nothing, look at what differs, then `countermand coordinator"
            " recover`"
        )
    version = ours["countermand"]
    if diagnosis.version and diagnosis.version != version:
        yield f"the coordinator is {diagnosis.version}, and this command {version}"
    other = sorted({host.version for host in health.hosts if host.version} - {diagnosis.version})
    if diagnosis.version and other:
        yield f"the coordinator is {diagnosis.version}, and agents are {', '.join(other)}"
    apart = offset(diagnosis, now)
    if apart is not None and abs(apart) > APART_MAX:
        way = "ahead of" if apart > timedelta(0) else "behind"
        seconds = phrases.duration(abs(apart.total_seconds()))
        yield f"the coordinator's clock is {seconds} {way} this machine's: set them by NTP"


def offset(diagnosis: Diagnosis, now: datetime) -> timedelta | None:
    """Returns how far the coordinator's clock is ahead; none if it does not say."""
    if not diagnosis.HasField("time"):
        return None
    return diagnosis.time.ToDatetime(UTC) - now


def show_versions(ours: dict[str, str]) -> None:
    """Prints what this is: even if nothing answers."""
    click.echo(in_words(ours))


def in_json(
    ours: Mapping[str, str], health: Health, diagnosis: Diagnosis, now: datetime
) -> dict[str, object]:
    """Returns the same for programs."""
    apart = offset(diagnosis, now)
    return {
        "versions": dict(ours),
        "coordinator": {
            "address": health.address,
            "clock_offset_s": None if apart is None else round(apart.total_seconds(), 3),
        },
        "hosts": [as_json(host) for host in health.hosts],
        "diagnosis": as_json(diagnosis),
        **({"recovery": as_json(health.recovery)} if health.recovery is not None else {}),
    }
