"""The small data centre of the story with a vendor: a coordinator, one agent, a storage array.

Pools: `templates`, which hosts read; `array`, space on the array that the host writes; `clones`,
where the array shows what it cloned, and hosts only read.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from countermand.cli.demo import images
from countermand.cli.demo.array import EXTENT_BYTES, KIND, OWNER
from countermand.cli.demo.images import Disk
from countermand.cli.demo.processes import Child, Processes, ProcessFailed
from countermand.cli.demo.site import LOOPBACK
from countermand.cli.demo.tempo import TEMPLATES
from countermand.client import Client
from countermand.client.spec import external_task, image, sequence, task, workflow_spec
from countermand.rpc.crash import VARIABLE
from countermand.v1.annotation_pb2 import Effect
from countermand.v1.verb_pb2 import CopyImage, VerifyImage
from countermand.v1.workflow_spec_pb2 import WorkflowSpec

HOST: Final = "host-a"
ARRAY: Final = "array"
CLONES: Final = "clones"
IMAGE: Final = "debian"
CLONE_WEIGHT: Final = 4  # of 6: it takes longest


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorTempo:
    """How large the template is, how fast the array, and how long it may be silent."""

    disk: Disk
    extents_per_s: int
    # Half a minute in earnest; here nobody wants to wait that long for an UNKNOWN.
    heartbeat_timeout: timedelta

    @property
    def extents(self) -> int:
        """Returns how many extents of the array a clone has."""
        return self.disk.virtual_mib * images.MIB // EXTENT_BYTES


VENDOR_NORMAL: Final = VendorTempo(
    disk=Disk(IMAGE, 96, 64), extents_per_s=32, heartbeat_timeout=timedelta(seconds=1.5)
)
VENDOR_FAST: Final = VendorTempo(
    disk=Disk(IMAGE, 32, 24), extents_per_s=64, heartbeat_timeout=timedelta(seconds=1)
)


@dataclass(slots=True)
class VendorSite:
    """Everything that runs, and where it keeps its files."""

    folder: Path
    tempo: VendorTempo
    processes: Processes
    agent: Child | None = None
    coordinator: Child | None = None
    vendor: Child | None = None

    @property
    def pools(self) -> dict[str, Path]:
        """Returns every pool's folder by its id."""
        return {each: self.folder / "pools" / each for each in (TEMPLATES, ARRAY, CLONES)}

    @property
    def own(self) -> Path:
        """Returns the array's own disk."""
        return self.folder / OWNER

    @property
    def coordinator_data(self) -> Path:
        """Returns where the coordinator keeps its store."""
        return self.folder / "coordinator"

    @property
    def places(self) -> dict[str, Path]:
        """Returns where a workflow may leave something: the pools, and the array's own disk."""
        return {**self.pools, OWNER: self.own}

    def data_of(self, pool_id: str, image_id: str) -> Path:
        """Returns the file that holds an image's bytes."""
        return self.pools[pool_id] / "images" / image_id / "data.raw"

    def cloned(self, vm: str) -> int:
        """Returns how many extents of a virtual machine's disk the array has noted as cloned."""
        volume = self.own / "volumes" / disk_of(vm)
        return sum(int(path.read_text()) for path in volume.glob("[ew]?st"))

    def said_by_vendor(self, event: str, vm: str) -> list[dict[str, object]]:
        """Returns what the array's processes have said of a kind about a virtual machine's disk."""
        assert self.vendor is not None
        lines = self.vendor.log.read_text(encoding="utf-8").splitlines()
        said = [json.loads(line) for line in lines if line.startswith("{")]
        return [s for s in said if s.get("event") == event and s.get("volume") == disk_of(vm)]

    # -- lives ----------------------------------------------------------------------------------

    async def make_template(self) -> None:
        """Makes the template's image and brings it into the pool that hosts read."""
        for path in (*self.pools.values(), self.own):
            path.mkdir(parents=True)
        made = await asyncio.to_thread(images.make, self.tempo.disk, self.folder, "raw")
        pool = f"{TEMPLATES}={self.pools[TEMPLATES]}"
        arguments = ["--pool", pool, "--image", IMAGE, "--format", "raw", str(made)]
        await self.processes.run("import", [sys.executable, "-m", "agent", "import", *arguments])
        made.unlink()

    async def start(self) -> None:
        """Starts the coordinator and the agent, then the array, which looks for the coordinator."""
        environment = {VARIABLE: ""}  # a crash point of the caller's own is none of the demo's
        pools = self.pools
        data = ["--data", str(self.coordinator_data), "--listen", LOOPBACK, "--web", LOOPBACK]
        serve = ["serve", "--data", str(self.folder / HOST), "--listen", LOOPBACK]
        serve += ["--pool", f"{TEMPLATES}={pools[TEMPLATES]},read_only"]
        serve += ["--pool", f"{ARRAY}={pools[ARRAY]}"]
        serve += ["--pool", f"{CLONES}={pools[CLONES]},read_only"]
        self.coordinator, self.agent = await asyncio.gather(
            self.processes.start(
                "coordinator", [sys.executable, "-m", "coordinator", "serve", *data], environment
            ),
            self.processes.start(
                f"agent-{HOST}", [sys.executable, "-m", "agent", *serve], environment
            ),
        )

    async def start_vendor(self, *misbehaviour: str) -> Child:
        """Starts the array's plug-in; the next times with the same disk."""
        assert self.coordinator is not None
        module = [sys.executable, "-m", "countermand.cli.demo.array"]
        arguments = ["--coordinator", self.coordinator.address, "--own", str(self.own)]
        arguments += ["--reads", f"{ARRAY}={self.pools[ARRAY]}"]
        arguments += ["--presents", f"{CLONES}={self.pools[CLONES]}"]
        arguments += ["--extents-per-s", str(self.tempo.extents_per_s), *misbehaviour]
        self.vendor = await self.processes.start(OWNER, [*module, *arguments])
        return self.vendor

    def check_alive(self) -> None:
        """Complains about a process that has ended and should not have.

        Raises:
            ProcessFailed: One has.
        """
        for child in (self.agent, self.coordinator, self.vendor):
            if child is not None and not child.is_alive:
                raise ProcessFailed(f"{child.name} ended by itself: see {child.log}")

    async def add_host(self, client: Client) -> None:
        """Tells the coordinator about the host."""
        assert self.agent is not None
        await client.hosts.add(HOST, self.agent.address)


def disk_of(vm: str) -> str:
    """Returns the name of a virtual machine's disk: of the volume, and of its image."""
    return f"{vm}-disk"


def spec_of(vm: str, tempo: VendorTempo) -> WorkflowSpec:
    """Returns the plan for one virtual machine: ours, the vendor's, ours again."""
    seed = CopyImage(
        source=image(f"{TEMPLATES}/{IMAGE}"), target=image(f"{ARRAY}/{vm}-seed"), take_digest=True
    )
    return workflow_spec(
        "add-vm-from-clone",
        sequence(
            "add-vm",
            task("seed", host=HOST, action=seed),
            external_task(
                "clone",
                owner=OWNER,
                kind=KIND,
                effect=Effect.EFFECT_REVERSIBLE,
                arguments={"volume": disk_of(vm)},
                bindings={
                    "arguments.pool": "tasks.seed.output.image.pool_id",
                    "arguments.image": "tasks.seed.output.image.image_id",
                },
                outputs={"pool": "string", "image": "string"},
                weight=CLONE_WEIGHT,
                heartbeat_timeout=tempo.heartbeat_timeout,
            ),
            task(
                "check",
                host=HOST,
                action=VerifyImage(),
                bindings={
                    "target.pool_id": "tasks.clone.output.pool",
                    "target.image_id": "tasks.clone.output.image",
                    "digest": "tasks.seed.output.digest",
                },
            ),
        ),
    )
