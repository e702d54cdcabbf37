"""The demo's small data centre: pools in a folder, three agents and a coordinator as processes."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from countermand.cli.demo import images
from countermand.cli.demo.processes import Child, Processes, ProcessFailed
from countermand.cli.demo.tempo import COPIES_MAX, DATA_DISK_MIB, HOSTS, TEMPLATES, Tempo, pool_of
from countermand.client import Client
from countermand.client.spec import image, task
from countermand.client.templates import add_vm_from_template
from countermand.rpc.crash import VARIABLE
from countermand.v1.verb_pb2 import CreateImage
from countermand.v1.workflow_spec_pb2 import WorkflowSpec

LOOPBACK: Final = "127.0.0.1:0"
# Dies by its own SIGKILL right after the second intent of a compensation was committed, and before
# it is sent: the first effect is made up for, the second is not. From outside one would come early
# on one machine and late on another: deleting takes a few milliseconds.
IN_THE_MIDDLE: Final = "coordinator.after_compensation_commit:2"


@dataclass(slots=True)
class Site:
    """Everything that runs, and where it keeps its files."""

    folder: Path
    tempo: Tempo
    image_format: images.Format
    processes: Processes
    agents: list[Child] = field(default_factory=list)
    coordinator: Child | None = None

    @property
    def pools(self) -> dict[str, Path]:
        """Returns every pool's folder by its id."""
        pool_ids = (TEMPLATES, *map(pool_of, HOSTS))
        return {pool_id: self.folder / "pools" / pool_id for pool_id in pool_ids}

    @property
    def coordinator_data(self) -> Path:
        """Returns where the coordinator keeps its store."""
        return self.folder / "coordinator"

    def data_of(self, pool_id: str, image_id: str) -> Path:
        """Returns the file that holds an image's bytes.

        Raises:
            FileNotFoundError: There is none.
        """
        folder = self.pools[pool_id] / "images" / image_id
        for path in sorted(folder.glob("data.*")):
            return path
        raise FileNotFoundError(folder)

    async def make_template(self) -> None:
        """Makes the template's images and brings them into the pool that all hosts reach."""
        for path in self.pools.values():
            path.mkdir(parents=True)
        made = self.folder / "made"
        made.mkdir()
        disks = self.tempo.disks
        files = await asyncio.gather(
            *(asyncio.to_thread(images.make, disk, made, self.image_format) for disk in disks)
        )
        for disk, file in zip(disks, files, strict=True):
            pool = f"{TEMPLATES}={self.pools[TEMPLATES]}"
            arguments = ["--image", disk.image_id, "--format", self.image_format, str(file)]
            await self.processes.run("import", [*_agent(), "import", "--pool", pool, *arguments])
            file.unlink(missing_ok=True)
        made.rmdir()

    async def start_agents(self, *, copies_before: int) -> None:
        """Starts an agent per host; the last host's pool has too little room for one more copy."""
        quota = f",quota={self.tempo.quota_mib(copies_before=copies_before)}MiB"
        self.agents = await asyncio.gather(
            *(self._start_agent(host, quota if host == HOSTS[-1] else "") for host in HOSTS)
        )

    async def _start_agent(self, host_id: str, quota: str) -> Child:
        own = pool_of(host_id)
        limits = f"bandwidth={self.tempo.bandwidth_mib_per_s}MiB{quota}"
        arguments = ["serve", "--data", str(self.folder / host_id), "--listen", LOOPBACK]
        arguments += ["--pool", f"{TEMPLATES}={self.pools[TEMPLATES]},read_only"]
        arguments += ["--pool", f"{own}={self.pools[own]},{limits}"]
        return await self.processes.start(f"agent-{host_id}", [*_agent(), *arguments])

    async def start_coordinator(self, *, crash_point: str = "") -> Child:
        """Starts the coordinator, the next times with the same data at the same address."""
        listen = self.coordinator.address if self.coordinator else LOOPBACK
        serve = [sys.executable, "-m", "coordinator", "serve"]
        arguments = [*serve, "--data", str(self.coordinator_data), "--listen", listen]
        arguments += ["--web", self.coordinator.page if self.coordinator else LOOPBACK]
        # Set either way: a crash point of the caller's own environment is none of the demo's.
        environment = {VARIABLE: crash_point}
        self.coordinator = await self.processes.start("coordinator", arguments, environment)
        return self.coordinator

    async def add_hosts(self, client: Client) -> None:
        """Tells the coordinator about the hosts."""
        for host_id, agent in zip(HOSTS, self.agents, strict=True):
            await client.hosts.add(host_id, agent.address)

    def spec(self, vm: str) -> WorkflowSpec:
        """Returns the plan for one virtual machine: an empty data disk, then a copy per disk."""
        copies = [
            (f"{TEMPLATES}/{disk.image_id}", f"{pool_of(host)}/{vm}-{disk.image_id}", host)
            for disk, host in zip(self.tempo.disks, HOSTS, strict=True)
        ]
        spec = add_vm_from_template(copies, copies_max=COPIES_MAX)
        target = image(f"{pool_of(HOSTS[0])}/{vm}-data")
        empty = CreateImage(target=target, virtual_size_bytes=DATA_DISK_MIB * images.MIB)
        spec.root.members.insert(0, task("data-disk", host=HOSTS[0], action=empty))
        return spec

    def copies(self, vm: str) -> list[tuple[Path, Path]]:
        """Returns each source with its copy."""
        return [
            (
                self.data_of(TEMPLATES, disk.image_id),
                self.data_of(pool_of(host), f"{vm}-{disk.image_id}"),
            )
            for disk, host in zip(self.tempo.disks, HOSTS, strict=True)
        ]

    def check_alive(self) -> None:
        """Complains about an agent that has ended; only the coordinator is ever killed.

        Raises:
            ProcessFailed: One has.
        """
        for agent in self.agents:
            if not agent.is_alive:
                raise ProcessFailed(f"{agent.name} ended by itself: see {agent.log}")


def _agent() -> list[str]:
    return [sys.executable, "-m", "agent"]
