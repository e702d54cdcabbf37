"""An agent inside the test: real journal, real files, and work that waits for the test's word."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.drivers.driver import Format, PoolConfig, Step, Work
from agent.drivers.file import FileDriver
from agent.drivers.files import Files, RealFiles
from agent.drivers.plugins import Drivers, installed
from agent.executors import Calls, InlineExecutor
from agent.journal import InlineJournal, Journal, open_connection
from agent.pools import Pools
from agent.runner import Limits, Runner
from agent.verbs.plugins import NO_PLUGINS, Plugins
from agent.work import Outside
from countermand.rpc import crash
from countermand.rpc.errors import CountermandError
from countermand.v1.attempt_pb2 import Attempt
from countermand.v1.verb_pb2 import Action
from tests.agent.requests import Requests

NOW = datetime(2030, 1, 1, tzinfo=UTC)


Between = Callable[[Step], Awaitable[None]]


class Gate:
    """Holds the work after each of its steps until the test lets it go on."""

    def __init__(self) -> None:
        """Begins closed."""
        self._arrivals = asyncio.Semaphore(0)
        self._permits = asyncio.Semaphore(0)
        self._open = False

    async def __call__(self, _step: Step) -> None:
        """Is awaited by the executor after each step."""
        if self._open:
            await asyncio.sleep(0)  # others have their turn too
            return
        self._arrivals.release()
        await self._permits.acquire()

    async def arrival(self, count: int = 1) -> None:
        """Returns when the work has come so many steps further, and holds it there."""
        for index in range(count):
            await self._arrivals.acquire()
            if index < count - 1:
                self._permits.release()

    def permit(self) -> None:
        """Lets one step pass."""
        self._permits.release()

    def open(self) -> None:
        """Lets everything pass from here on."""
        self._open = True
        for _ in range(100):
            self._permits.release()


class Rig:
    """One agent on a folder; started and stopped at will."""

    def __init__(
        self,
        folder: Path,
        *,
        options: dict[str, dict[str, Any]] | None = None,
        limits: Limits | None = None,
        crash_at: crash.Crash = crash.never,
        locate: Callable[[Path], Path] | None = None,
    ) -> None:
        """Describes it; nothing runs before `start`. Locate finds the data of an image's folder."""
        self.folder = folder
        self.options = options or {"fast": {}}
        self.limits = limits or Limits()
        self.files: Files = RealFiles()
        self.crash = crash_at
        self.locate = locate
        self.now = NOW
        self.monotonic: Callable[[], float] = lambda: 0.0
        self.plugins: Plugins = NO_PLUGINS
        self.pools: dict[str, Any] = {}  # of whatever driver a test has chosen
        self.resumed: list[str] = []  # attempts that a start has taken up again
        self.opening: Pools
        self.calls: Calls = InlineExecutor()  # that may never come back
        self.runner: Runner
        self.requests: Requests

    async def start(self, *, gate: Between | None = None) -> Runner:
        """Starts it, on what an earlier life left."""
        connection = open_connection(self.folder / "journal.sqlite")
        journal = InlineJournal(Journal(connection, new_id=lambda: str(uuid.uuid4())))
        pools = [
            PoolConfig(**{"pool_id": pool_id, "path": self.folder / pool_id, **options})
            for pool_id, options in self.options.items()
        ]
        for pool in pools:
            (self.folder / pool.pool_id).mkdir(exist_ok=True)
            if not pool.path.exists():
                pool.path.mkdir()
        drivers = installed()
        self.opening = Pools(
            journal,
            pools,
            drivers=drivers,
            new_id=lambda: str(uuid.uuid4()),
            calls=self.calls,
            opening=lambda pool, identity: self._open(pool, identity, drivers),
            data=self.folder,
        )
        await self.opening.open()
        self.pools = self.opening.drivers
        self.runner = Runner(
            journal=journal,
            pools=self.pools,
            executor=InlineExecutor(gate) if gate else InlineExecutor(),
            outside=Outside(now=lambda: self.now, monotonic=self.monotonic, crash=self.crash),
            limits=self.limits,
            host_id="host-a",
            plugins=self.plugins,
            checks=self.calls,
        )
        self.requests = Requests(journal.incarnation)
        self.runner.when_resumed = lambda record: self.resumed.append(record.name)
        await self.runner.start()
        return self.runner

    def _open(self, pool: PoolConfig, identity: str, drivers: Drivers) -> Any:
        """Opens a pool; of the `file` driver one whose calls a test may have replaced."""
        if pool.driver == "file":
            return FileDriver(pool, self.files, identity)
        return drivers.open(pool, identity)

    async def restart(self, *, gate: Between | None = None) -> Runner:
        """Stops it and starts it again."""
        await self.runner.stop()
        return await self.start(gate=gate)

    async def accept(self, name: str, action: Action, **fields) -> Attempt:
        """Sends an action."""
        return await self.runner.accept(self.requests.for_action(name, action, **fields), action)

    async def compensate(self, name: str, compensates: str, action: Action, **fields) -> Attempt:
        """Sends a compensation."""
        request = self.requests.compensate(name, compensates, action, **fields)
        return await self.runner.compensate(request)

    async def cancel(self, name: str) -> Attempt:
        """Asks an attempt to stop."""
        return await self.runner.cancel(self.requests.header(name))

    async def settled(self, name: str) -> Attempt:
        """Returns an attempt once its work has ended."""
        if running := self.runner.running.get(name):
            await asyncio.shield(running.ended)
        return await self.get(name)

    async def get(self, name: str) -> Attempt:
        """Returns an attempt as the journal has it."""
        record = await self.runner.journal.transact(lambda tx: tx.get(name))
        assert record is not None, name
        return self.runner.tell(record, with_action=True)

    async def run(self, name: str, action: Action, **fields) -> Attempt:
        """Sends an action and returns its outcome."""
        await self.accept(name, action, **fields)
        return await self.settled(name)

    async def make_up(self, name: str, compensates: str, action: Action, **fields) -> Attempt:
        """Sends a compensation and returns its outcome."""
        await self.compensate(name, compensates, action, **fields)
        return await self.settled(name)

    def images(self, pool_id: str = "fast") -> list[str]:
        """Returns the images and snapshots that can be seen in a pool."""
        names = {path.name for path in (self.folder / pool_id / "images").iterdir()}
        layout = self.pools[pool_id].layout
        for name in sorted(names):
            with contextlib.suppress(CountermandError):
                names.update(layout.layers_named(name, layout.label(name)))
        return sorted(names)

    def staged(self, pool_id: str = "fast") -> list[str]:
        """Returns what is half-made in a pool."""
        return sorted(path.name for path in (self.folder / pool_id / "staging").iterdir())

    def data(self, image_id: str, pool_id: str = "fast") -> Path:
        """Returns an image's data."""
        if self.locate is not None:
            return self.locate(self.folder / pool_id / "images" / image_id)
        layout = self.pools[pool_id].layout
        with contextlib.suppress(CountermandError):
            label = layout.label(image_id)
            if label.layers:
                path: Path = layout.data(image_id, label)[0]
                return path
        [path] = (self.folder / pool_id / "images" / image_id).glob("data.*")
        return path

    def put(self, image_id: str, content: bytes, *, pool_id: str = "fast", **fields) -> Path:
        """Brings an image into a pool, as an administrator would."""
        path = self.folder / "content"
        path.write_bytes(content)
        work = Work(
            attempt=f"import/{image_id}",
            cluster_id="",
            note="",
            now=lambda: NOW,
            crash=crash.never,
        )
        image_format = fields.get("image_format", Format.RAW)
        steps = self.pools[pool_id].import_file(work, path, image_id, image_format=image_format)
        for _step in steps:
            pass
        return self.data(image_id, pool_id)
