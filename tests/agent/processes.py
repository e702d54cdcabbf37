"""Real agent processes for tests: started, asked over gRPC, killed, started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from countermand.rpc import crash
from countermand.rpc.channel import open_channel
from countermand.rpc.credentials import Credentials
from countermand.v1.agent_pb2_grpc import AgentServiceStub
from tests.agent.requests import Requests, settled
from tests.endtoend.cluster import free_address
from tests.tls import Certificate

if TYPE_CHECKING:  # only the stubs have it
    from countermand.v1.agent_pb2_grpc import AgentServiceAsyncStub


@dataclass(slots=True)
class Host:
    """A host's folders; its agent may be started on them any number of times."""

    folder: Path
    options: dict[str, str] = field(default_factory=dict)  # pool id → ",option…"
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)
    host_id: str = "host-a"
    certificate: Certificate | None = None
    # Where it listens, also in its next life: nobody takes that meanwhile.
    address: str = field(default_factory=free_address)
    paths: dict[str, Path] = field(default_factory=dict)  # of pools whose path is not their folder

    def make_pools(self) -> None:
        """Makes the pools' folders, as an administrator would."""
        for pool_id in self.options:
            self.pool(pool_id).mkdir(exist_ok=True)

    def pool(self, pool_id: str) -> Path:
        """Returns a pool's folder."""
        return self.folder / pool_id

    def images(self, pool_id: str) -> list[str]:
        """Returns the images that can be seen in a pool."""
        folder = self.pool(pool_id) / "images"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def staged(self) -> list[str]:
        """Returns what is half-made in any pool."""
        return sorted(path.name for path in self.folder.glob("*/staging/*"))

    def data(self, pool_id: str, image_id: str) -> Path:
        """Returns an image's data."""
        [path] = self.pool(pool_id).glob(f"images/{image_id}/data.*")
        return path

    async def start(self, *, crash_point: str = "") -> Agent:
        """Starts the agent and returns once it answers."""
        self.make_pools()
        pools = [
            f"--pool={pool_id}={self.paths.get(pool_id, self.pool(pool_id))}{options}"
            for pool_id, options in self.options.items()
        ]
        with (self.folder / "agent.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "agent",
                "serve",
                f"--data={self.folder / 'agent'}",
                f"--listen={self.address}",
                f"--host-id={self.host_id}",
                *pools,
                *(self.certificate.options if self.certificate else ()),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, crash.VARIABLE: crash_point},
            )
        self.processes.append(process)
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:  # it was told to die while it recovered
            await process.wait()
            raise DiedEarlyError((self.folder / "agent.log").read_text())
        ready = json.loads(line)
        assert ready["event"] == "agent.ready", ready
        self.address = ready["address"]
        credentials = self.certificate.read() if self.certificate else None
        return Agent(process, self.address, Requests(ready["incarnation"]), credentials)

    async def clean_up(self) -> None:
        """Kills what a failed test left running."""
        for process in self.processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


class DiedEarlyError(Exception):
    """The agent died before it could answer."""


@dataclass(slots=True)
class Agent:
    """A running agent process."""

    process: asyncio.subprocess.Process
    address: str
    requests: Requests
    credentials: Credentials | None = None

    @asynccontextmanager
    async def stub(self) -> AsyncIterator[AgentServiceAsyncStub]:
        """Yields a client for it."""
        async with open_channel(self.address, credentials=self.credentials) as channel:
            yield AgentServiceStub(channel)

    async def settle(self, name: str):
        """Returns an attempt once it has an outcome."""
        async with self.stub() as stub:
            return await settled(stub, name)

    async def stop(self) -> None:
        """Stops it as an administrator would."""
        self.process.send_signal(signal.SIGTERM)
        assert await self.process.wait() == 0

    async def died(self) -> None:
        """Returns once it has killed itself at its crash point."""
        assert await self.process.wait() == -signal.SIGKILL
