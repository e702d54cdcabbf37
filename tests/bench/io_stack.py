"""Our whole stack, put to copy: a coordinator and agents as processes, workflows submitted to them.

What is timed is what an engine would see: from the submission until the workflow has settled, with
the journals, the progress and the flushes that there always are.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from countermand.client import Client
from countermand.client.run import Run
from countermand.client.spec import Verb, image, sequence, task, workflow_spec
from countermand.v1.verb_pb2 import CloneImage, DeleteImage, Noop
from countermand.v1.workflow_state_pb2 import WorkflowState
from tests.bench import io_images
from tests.bench.processes import start_agent, start_coordinator
from tests.tls import Authority, Certificate

POOL = "fast"
HOST, QUIET = "host", "quiet"  # the second agent has no storage, and nothing to do
FAR_POOL, FAR = "far", "elsewhere"  # a third one shares no storage with the first

SUCCEEDED = WorkflowState.WORKFLOW_STATE_SUCCEEDED
GIB = 2**30

# Virtual sizes of two empty images that are cloned.
SMALL_BYTES, LARGE_BYTES = GIB, 100 * GIB


@dataclass(slots=True, kw_only=True)
class Stack:
    """A coordinator, its agents, and a pool with images."""

    client: Client
    pool: Path
    scratch: Path  # where the others write
    certificates: Path  # as NBD servers and clients look for them
    _numbers: Callable[[], int] = field(default_factory=lambda: itertools.count(1).__next__)

    def data(self, image_id: str) -> Path:
        """Returns an image's data file."""
        [path] = (self.pool / "images" / image_id).glob("data.*")
        return path

    def images(self) -> list[str]:
        """Returns the names of all images."""
        return sorted(path.name for path in (self.pool / "images").iterdir())

    async def run(self, action: Verb, *, host: str = HOST) -> Run:
        """Submits a workflow of one task."""
        number = self._numbers()
        spec = workflow_spec("bench", sequence("all", task("work", host=host, action=action)))
        return await self.client.submit(spec, workflow_id=f"bench-{number}")

    async def make(self, action: Verb, *, host: str = HOST) -> None:
        """Runs a workflow of one task, which must succeed."""
        workflow = await (await self.run(action, host=host)).wait()
        assert workflow.state == SUCCEEDED, workflow

    async def remove(self, image_id: str, *, pool: str = POOL, host: str = HOST) -> None:
        """Removes an image."""
        await self.make(DeleteImage(target=image(f"{pool}/{image_id}")), host=host)

    async def latencies_ms(self, count: int) -> list[float]:
        """Returns how long workflows take that do nothing, on a host that has nothing to do."""
        took: list[float] = []
        for _ in range(count):
            began = time.perf_counter()
            await self.make(Noop(), host=QUIET)
            took.append((time.perf_counter() - began) * 1000)
        return took


@asynccontextmanager
async def started(folder: Path, size_bytes: int) -> AsyncIterator[Stack]:
    """Yields a stack with all images, on the disk of a folder."""
    pool, scratch = folder / "pool", folder / "scratch"
    far = folder / "far"
    for each in (pool, scratch, folder / "quiet", far, far / "pool"):
        each.mkdir()
    certificate = _certify(folder / "tls")
    makers = {
        "full": ("raw", partial(io_images.make_full, size_bytes=size_bytes)),
        "sparse": ("raw", partial(io_images.make_sparse, size_bytes=size_bytes)),
        "base": ("qcow2", partial(io_images.make_base, size_bytes=size_bytes)),
        "small": ("qcow2", partial(io_images.make_empty, size_bytes=SMALL_BYTES)),
        "large": ("qcow2", partial(io_images.make_empty, size_bytes=LARGE_BYTES)),
    }
    for name, (image_format, make) in makers.items():
        _import(pool, scratch / name, image_format, make)
    with ExitStack() as stack:
        tls = certificate.options
        coordinator = stack.enter_context(start_coordinator(folder, *tls))
        agent = stack.enter_context(start_agent(folder, "--pool", f"{POOL}={pool}", *tls))
        quiet = stack.enter_context(start_agent(folder / "quiet", *tls))
        other = stack.enter_context(start_agent(far, "--pool", f"{FAR_POOL}={far / 'pool'}", *tls))
        async with Client(coordinator.address) as client:
            await client.hosts.add(HOST, agent.address)
            await client.hosts.add(QUIET, quiet.address)
            await client.hosts.add(FAR, other.address)
            ours = Stack(
                client=client, pool=pool, scratch=scratch, certificates=certificate.cert.parent
            )
            overlay = CloneImage(source=image(f"{POOL}/base"), target=image(f"{POOL}/top"))
            await ours.make(overlay)
            io_images.write_overlay(ours.data("top"), size_bytes)
            yield ours


def _certify(folder: Path) -> Certificate:
    """Returns one certificate for everybody, also under the names that NBD has for it."""
    certificate = Authority(folder).certificate("server")
    for end in ("cert", "key"):
        (folder / f"client-{end}.pem").symlink_to(folder / f"server-{end}.pem")
    return certificate


def _import(pool: Path, path: Path, image_format: str, make: Callable[[Path], None]) -> None:
    """Makes a file and brings it into the pool, as an administrator would."""
    make(path)
    arguments = ["--pool", f"{POOL}={pool}", "--image", path.name, "--format", image_format]
    command = [sys.executable, "-m", "agent", "import", *arguments, str(path)]
    subprocess.run(command, check=True, capture_output=True)
    path.unlink()
