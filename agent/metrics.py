"""What an agent shows to Prometheus, and the small server that answers: only where it is asked for.

The server has a thread of its own and takes the numbers on the event loop, as GetHost does: storage
that hangs costs whoever scrapes some seconds, and nobody else anything.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from agent import wire
from agent.attempts import OPEN, AttemptRecord, Kind, State
from agent.drivers.driver import Driver
from agent.drivers.files import FLUSH_BUCKETS, RealFiles
from agent.runner import Runner
from agent.service import AgentService
from countermand.rpc import metrics
from countermand.rpc.metrics import Histogram, Reading, Row
from countermand.rpc.metrics import Kind as Of
from countermand.rpc.server import ListenRefused, loopback_host
from countermand.v1.agent_pb2 import GetHostRequest
from countermand.v1.verb_pb2 import Action

if TYPE_CHECKING:
    from prometheus_client.core import Metric

READ_S_MAX = 10.0  # what is scraped later nobody waits for
CUSTOM = "custom"
VERBS = tuple(field.name for field in Action.DESCRIPTOR.oneofs_by_name["verb"].fields)
COMMIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)

OPEN_ATTEMPTS = "countermand_agent_open_attempts"
RUNNING = "countermand_agent_running_attempts"
QUEUED = "countermand_agent_queued_attempts"
ATTEMPTS_MAX = "countermand_agent_attempts_max"
ATTEMPTS = "countermand_agent_attempts_total"
DONE = "countermand_agent_done_bytes_total"
COMMITS = "countermand_agent_journal_commit_duration_seconds"
POOL_CAPACITY = "countermand_agent_pool_capacity_bytes"
POOL_USED = "countermand_agent_pool_used_bytes"
POOL_FREE = "countermand_agent_pool_free_bytes"
POOL_RESERVED = "countermand_agent_pool_reserved_bytes"
POOL_UP = "countermand_agent_pool_up"
POOL_FLUSHES = "countermand_agent_pool_flush_seconds"

TABLE = (
    Row(name=OPEN_ATTEMPTS, kind=Of.GAUGE, help="Attempts whose outcome is still to come."),
    Row(
        name=RUNNING,
        kind=Of.GAUGE,
        help="Attempts that run and read or write a pool; one between two pools counts in both.",
        labels=("pool",),
    ),
    Row(
        name=QUEUED,
        kind=Of.GAUGE,
        help="Attempts that wait for a turn in a pool, likewise.",
        labels=("pool",),
    ),
    Row(name=ATTEMPTS_MAX, kind=Of.GAUGE, help="Actions on storage that may run at once."),
    Row(
        name=ATTEMPTS,
        kind=Of.COUNTER,
        help="Attempts whose outcome was written down; a compensation by its action's verb, if that"
        " is known here.",
        labels=("verb", "kind", "outcome"),
    ),
    Row(name=DONE, kind=Of.COUNTER, help="Bytes that attempts have worked on, as they do."),
    Row(
        name=COMMITS,
        kind=Of.HISTOGRAM,
        help="How long the journal's transactions took, to the disk.",
        buckets=COMMIT_BUCKETS,
    ),
    Row(
        name=POOL_CAPACITY,
        kind=Of.GAUGE,
        help="What a pool may hold: its quota, or its storage's size.",
        labels=("pool",),
    ),
    Row(name=POOL_USED, kind=Of.GAUGE, help="What our images take of that.", labels=("pool",)),
    Row(name=POOL_FREE, kind=Of.GAUGE, help="What may still be taken.", labels=("pool",)),
    Row(
        name=POOL_RESERVED,
        kind=Of.GAUGE,
        help="What attempts under way have reserved and not written.",
        labels=("pool",),
    ),
    Row(
        name=POOL_UP,
        kind=Of.GAUGE,
        help="1 while a pool serves as it should, else 0.",
        labels=("pool",),
    ),
    Row(
        name=POOL_FLUSHES,
        kind=Of.HISTOGRAM,
        help="How long flushes of images took, in pools that are folders.",
        labels=("pool",),
        buckets=FLUSH_BUCKETS,
    ),
    *metrics.EVERYWHERE,
)


class Counting:
    """What is counted as it happens."""

    def __init__(self) -> None:
        """Begins with zeros, of all that there may be: else nobody would see the first."""
        outcomes = sorted(set(State) - OPEN)
        self.attempts: Counter[tuple[str, str, str]] = Counter(
            dict.fromkeys(product(VERBS, sorted(Kind), outcomes), 0)
        )
        self.commits = Histogram(COMMIT_BUCKETS)

    def committed(self, changed: Sequence[AttemptRecord]) -> None:
        """Counts those that have ended."""
        for record in changed:
            if not record.is_open:
                verb = wire.action_of(record).WhichOneof("verb") or CUSTOM
                self.attempts[verb, record.kind, record.state] += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What the numbers are of."""

    runner: Runner
    service: AgentService
    counting: Counting
    loop: asyncio.AbstractEventLoop


async def read(subject: Subject) -> Reading:
    """Returns every number as it is now."""
    runner, counting = subject.runner, subject.counting
    reading = Reading()
    reading.one(OPEN_ATTEMPTS, len(runner.running))
    reading.by(RUNNING, {pool: runner.running_in(pool) for pool in runner.pools})
    reading.by(QUEUED, {pool: runner.waiting_in(pool) for pool in runner.pools})
    reading.one(ATTEMPTS_MAX, runner.limits.attempts_max)
    reading.many(
        ATTEMPTS,
        (
            ((verb, kind.lower(), outcome.lower()), count)
            for (verb, kind, outcome), count in sorted(counting.attempts.items())
        ),
    )
    reading.one(DONE, runner.work.count)
    reading.one(COMMITS, counting.commits.copy())
    reading.many(
        POOL_FLUSHES,
        (((pool,), files.flushes.copy()) for pool, files in _folders(runner.pools)),
    )
    pools = (await subject.service.GetHost(GetHostRequest(), None)).host.pools
    for name, numbers in (
        (POOL_CAPACITY, {pool.pool_id: pool.capacity_bytes for pool in pools}),
        (POOL_USED, {pool.pool_id: pool.used_bytes for pool in pools}),
        (POOL_FREE, {pool.pool_id: pool.free_bytes for pool in pools}),
        (POOL_RESERVED, {pool.pool_id: pool.reserved_bytes for pool in pools}),
        (POOL_UP, {pool.pool_id: int(not pool.HasField("problem")) for pool in pools}),
    ):
        reading.by(name, numbers)
    metrics.note_everywhere(reading)
    return reading


def _folders(pools: Mapping[str, Driver]) -> Iterator[tuple[str, RealFiles]]:
    """Yields the pools whose files the driver that comes with us writes itself."""
    for pool_id, driver in pools.items():
        files = getattr(driver, "files", None)
        if isinstance(files, RealFiles):
            yield pool_id, files


class _Asked:
    """What the library's server asks: everything, each time."""

    def __init__(self) -> None:
        self.subject: Subject | None = None  # not before the agent is ready

    def collect(self) -> Iterator[Metric]:
        """Yields every metric. Called in the server's threads."""
        if self.subject is None:
            return
        taken = asyncio.run_coroutine_threadsafe(read(self.subject), self.subject.loop)
        yield from metrics.Shown(TABLE, taken.result(READ_S_MAX)).collect()

    def restricted_registry(self, names: Sequence[str]) -> _Asked:  # noqa: ARG002 - all the same
        """Returns itself: whoever names some gets all."""
        return self


class Server:
    """The server, until it is closed."""

    def __init__(self, listen: str) -> None:
        """Takes the address; it shows nothing before `show`.

        Raises:
            ListenRefused: It is none, is not loopback, or is taken.
        """
        from prometheus_client import start_http_server  # noqa: PLC0415 - only where it is asked for

        host, port = loopback_host(listen), int(listen.rpartition(":")[2])
        self._asked = _Asked()
        try:
            self._server, self._thread = start_http_server(
                port,
                addr=host.strip("[]"),
                registry=self._asked,
            )
        except OSError as error:
            raise ListenRefused(
                f"cannot serve metrics on {listen}: {error.strerror}. Choose another address."
            ) from error
        self.url = f"http://{host}:{self._server.server_port}/metrics"

    def show(self, subject: Subject) -> None:
        """Answers with numbers from now on."""
        self._asked.subject = subject

    def close(self) -> None:
        """Answers nobody any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
