"""Coordinators and their agents as real processes on loopback: started, killed, started again.

One coordinator on SQLite, or several side by side on one database. Each process keeps its folder
and its port over all its lives. Nothing here sleeps to let something happen: `until` asks again and
again, up to a deadline that only a hang reaches.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from inspect import isawaitable
from pathlib import Path
from types import MappingProxyType
from typing import Any

from countermand.client import Client
from countermand.client.spec import Verb, image, task
from countermand.rpc.crash import VARIABLE
from countermand.v1.verb_pb2 import CopyImage
from countermand.v1.workflow_pb2 import Workflow
from countermand.v1.workflow_spec_pb2 import Node
from tests.endtoend.lives import Life, Lives

HANG_S = 30.0  # nothing here takes longer, on the slowest machine
POLL_S = 0.005
MIB = 2**20

# Below the ports that the system gives away by itself: nobody takes one between two lives. Each of
# pytest's workers has its own, and gives none away twice.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
PORTS = [*range(15_000 + _WORKER, 30_000, _WORKERS)]
random.Random(os.getpid()).shuffle(PORTS)  # beside another run of the tests

TEMPLATES = "templates"


class HangError(Exception):
    """A condition was not met in time."""


async def until(condition: Callable[[], object], what: str) -> None:
    """Returns once a condition holds; the condition may have to be awaited."""
    give_up = time.monotonic() + HANG_S
    while True:
        found = condition()
        if await found if isawaitable(found) else found:
            return
        if time.monotonic() > give_up:
            raise HangError(what)
        await asyncio.sleep(POLL_S)


def free_address() -> str:
    """Returns a loopback address that nobody listens on."""
    while True:
        port = PORTS.pop()
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return f"127.0.0.1:{port}"


def make_raw(
    path: Path, *, size_mib: int = 8, extents: int = 6, extent_kib: int = 256, seed: int = 1
) -> None:
    """Writes an image whose data lies scattered, about 1 MiB of it."""
    chance = random.Random(seed)
    with path.open("wb") as file:
        for _ in range(extents):
            file.seek(chance.randrange(0, size_mib * MIB - 256 * 1024, 4096))
            file.write(
                chance.randbytes(chance.randrange(extent_kib * 512, extent_kib * 1024, 4096))
            )
        file.truncate(size_mib * MIB)


@dataclass(slots=True, eq=False)
class Service:
    """A process that may die and be started again: same folder, same address."""

    lives: Lives
    name: str
    module: str
    folder: Path
    arguments: tuple[str, ...]
    address: str = field(default_factory=free_address)
    database: str = ""  # the URL of the one on PostgreSQL; none: what it keeps is in its folder
    life: Life | None = None
    logs: list[Path] = field(default_factory=list)

    @property
    def data(self) -> Path:
        """Returns its own folder."""
        return self.folder / self.name

    @property
    def alive(self) -> bool:
        """Returns whether it runs."""
        self.lives.look()
        return self.life is not None and self.life.code is None

    async def start(self, crash_point: str = "") -> None:
        """Starts it, to die at a crash point if one is given, and returns once it answers."""
        if not await self.try_start(crash_point):
            raise AssertionError(self._story("ended before it was ready"))

    async def try_start(self, crash_point: str) -> bool:
        """Starts it; returns whether it answers, rather than having died before."""
        assert not self.alive, self.name
        place = ["--database", self.database] if self.database else ["--data", str(self.data)]
        arguments = [self.module, "serve", *place, "--listen", self.address]
        life = self.lives.start(
            self.name, [*arguments, *self.arguments], self.folder / "logs", {VARIABLE: crash_point}
        )
        self.life = life
        self.logs.append(life.log)

        def ready() -> bool:
            return life.output.exists() and b".ready" in life.output.read_bytes()

        await until(lambda: ready() or not self.alive, f"start of {self.name}")
        return ready() and self.alive

    async def kill(self) -> None:
        """Kills it, as a power cut would, and returns once it is dead."""
        self.kill_soon()
        await self.died()

    def kill_soon(self) -> None:
        """Kills it; returns at once."""
        assert self.life is not None
        self.lives.signal(self.life, signal.SIGKILL)

    def freeze(self) -> None:
        """Stops it as it is: it holds its connections and answers nothing."""
        assert self.life is not None
        self.lives.signal(self.life, signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        assert self.life is not None
        self.lives.signal(self.life, signal.SIGCONT)

    async def ended(self) -> int:
        """Returns its code once it has ended by itself."""
        await until(lambda: not self.alive, f"end of {self.name}")
        assert self.life is not None
        assert self.life.code is not None
        return self.life.code

    async def died(self) -> None:
        """Returns once it was killed, by us or by its crash point."""
        await until(lambda: not self.alive, f"death of {self.name}")
        assert self.life is not None
        assert self.life.code == -signal.SIGKILL, self._story(f"ended with code {self.life.code}")

    async def stop(self) -> None:
        """Stops it as an administrator would."""
        assert self.life is not None
        self.lives.signal(self.life, signal.SIGTERM)
        await until(lambda: not self.alive, f"end of {self.name}")
        assert self.life.code == 0, self._story(f"ended with code {self.life.code}")

    def events(self) -> list[dict[str, object]]:
        """Returns the lines of its logs, of all its lives; the last may still be half written."""
        return [
            json.loads(line)
            for log in self.logs
            for line in log.read_text().rpartition("\n")[0].splitlines()
            if line.startswith("{")
        ]

    def log(self) -> str:
        """Returns what it has written to standard error in this life."""
        assert self.life is not None
        return self.life.log.read_text()

    def _story(self, what: str) -> str:
        return f"{self.name} {what}:\n{self.log()[-4000:]}"


FORGET_EVERY = "0.5s"  # more often than anybody would, so that it falls between everything


@dataclass(slots=True, eq=False)
class Cluster:
    """Everything that runs in one folder."""

    lives: Lives
    folder: Path
    # host id → pool id → the pool's options; each host reaches the templates besides.
    hosts: dict[str, dict[str, str]]
    agents: dict[str, Service] = field(default_factory=dict)
    # Where the coordinator finds an agent, when something stands between them.
    addresses: dict[str, str] = field(default_factory=dict)
    # What each agent is told besides, and the coordinator under its own name.
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Agents are told to forget what has settled, as they are in earnest; but where a test reads in
    # their journals what has become of it.
    evidence_kept: bool = False
    # Of several coordinators: their one database, to which each may have a way of its own, and
    # where tests look into it.
    databases: Sequence[str] = ()
    database: str = ""
    coordinators: tuple[Service, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Lays everything out; nothing runs."""
        self.coordinators = tuple(
            self._coordinator(number, url) for number, url in enumerate(self.databases or [""], 1)
        )
        for host, pools in self.hosts.items():
            options = {TEMPLATES: "read_only", **pools}
            arguments = ["--host-id", host, *self.options.get(host, ())]
            for pool, option in options.items():
                described = f"{pool}={self.pool(pool)}" + (f",{option}" if option else "")
                arguments += ["--pool", described]
                self.pool(pool).mkdir(parents=True, exist_ok=True)
            self.agents[host] = Service(self.lives, host, "agent", self.folder, tuple(arguments))
            self.addresses[host] = self.agents[host].address

    def _coordinator(self, number: int, database: str) -> Service:
        forget = "0" if self.evidence_kept else FORGET_EVERY
        options = ("--forget-every", forget, *self.options.get("coordinator", ()))
        name = f"coordinator-{number}" if database else "coordinator"
        return Service(self.lives, name, "coordinator", self.folder, options, database=database)

    @property
    def coordinator(self) -> Service:
        """Returns the coordinator, or the first of several."""
        return self.coordinators[0]

    @property
    def coordinator_addresses(self) -> list[str]:
        """Returns where clients find any of the coordinators."""
        return [each.address for each in self.coordinators]

    @property
    def pools(self) -> list[Path]:
        """Returns the folders of all pools."""
        return sorted((self.folder / "pools").iterdir())

    def pool(self, pool_id: str) -> Path:
        """Returns a pool's folder."""
        return self.folder / "pools" / pool_id

    def data_of(self, address: str) -> Path:
        """Returns the file with the data of "pool/image"."""
        pool_id, _, image_id = address.partition("/")
        return self.pool(pool_id) / "images" / image_id / "data.raw"

    def half_made_bytes(self, pool_id: str, workflow_id: str) -> int:
        """Returns how much there is in a pool of what a workflow has not finished."""
        found = 0
        for path in (self.pool(pool_id) / "staging").glob(f"*@{workflow_id}@*/**/data.raw"):
            with suppress(FileNotFoundError):  # it is finished by now
                found += path.stat().st_blocks * 512
        return found

    async def add_template(self, name: str, **shape: int) -> None:
        """Makes an image and imports it, as an administrator would."""
        file = self.folder / f"{name}.raw"
        make_raw(file, **shape)
        pool = f"{TEMPLATES}={self.pool(TEMPLATES)}"
        arguments = [
            "agent",
            "import",
            "--pool",
            pool,
            "--image",
            name,
            "--format",
            "raw",
            str(file),
        ]
        life = self.lives.start(f"import-{name}", arguments, self.folder / "logs", {})

        def ended() -> bool:
            self.lives.look()
            return life.code is not None

        await until(ended, f"import of {name}")
        assert life.code == 0, life.log.read_text()
        file.unlink()

    async def start(self) -> None:
        """Starts everything, and adds the hosts."""
        services = (*self.agents.values(), *self.coordinators)
        await asyncio.gather(*(service.start() for service in services))
        await self.add_hosts()

    async def end(self) -> None:
        """Kills whatever still runs: what a test needed of its end, it has asserted."""
        for service in (*self.coordinators, *self.agents.values()):
            if service.alive:
                await service.kill()

    async def add_hosts(self) -> None:
        """Tells the coordinator of every host."""
        async with self.client() as client:
            for host, address in self.addresses.items():
                await client.hosts.add(host, address)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Yields a client that reports an error rather than asking again."""
        async with Client(self.coordinator_addresses, patience=timedelta(0)) as client:
            yield client

    async def settled(self, workflow_id: str) -> Workflow:
        """Returns a workflow once it is settled."""
        async with Client(self.coordinator_addresses) as client:
            return await client.run(workflow_id).wait(timedelta(seconds=HANG_S))


# A template that is copied in no time.
SMALL: Mapping[str, int] = {"size_mib": 1, "extents": 2}


@asynccontextmanager
async def running(
    lives: Lives,
    folder: Path,
    hosts: dict[str, dict[str, str]],
    *,
    base: Mapping[str, int] = MappingProxyType({}),
    **fields: Any,
) -> AsyncIterator[Cluster]:
    """Yields a cluster that has begun, with a template of a shape where there are hosts for it."""
    cluster = Cluster(lives, folder, hosts, **fields)
    try:
        if hosts:
            await cluster.add_template("base", **base)
        await cluster.start()
        yield cluster
    finally:
        await cluster.end()


def copy(name: str, host: str, source: str, target: str, **node: object) -> Node:
    """Returns a task that copies "pool/image" to "pool/image"."""
    action: Verb = CopyImage(source=image(source), target=image(target))
    return task(name, host=host, action=action, **node)  # type: ignore[arg-type]
